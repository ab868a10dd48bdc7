//! How the machine's firmware started it.

use schemars::JsonSchema;
use serde::Serialize;

use super::Reading;
use super::attribute::{read_bytes, read_names};
use crate::sys::firmware::Firmware;
use crate::sys::roots::Roots;

/// Vendor GUID of UEFI's own variables (EFI_GLOBAL_VARIABLE).
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// What the firmware checks before it starts something (UEFI 2.10 section 32.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SecureBoot {
    /// Only what is signed with an enrolled key is started.
    Enabled,
    Disabled,
    /// Disabled, and without a platform key: whoever comes first may enroll theirs.
    SetupMode,
}

/// UEFI when the kernel has `/sys/firmware/efi`. `/sys/firmware` itself is in every kernel; without it nothing is known.
pub fn read(roots: &Roots) -> Reading<Option<Firmware>> {
    let firmware = roots.sys.join("firmware");
    if firmware.join("efi").is_dir() {
        Reading { found: Some(Firmware::Uefi), warnings: Vec::new() }
    } else if firmware.is_dir() {
        Reading { found: Some(Firmware::Bios), warnings: Vec::new() }
    } else {
        Reading { found: None, warnings: vec!["firmware: no /sys/firmware, so UEFI or BIOS is not known".to_owned()] }
    }
}

/// From the variables `SecureBoot` and `SetupMode` in `/sys/firmware/efi/efivars`; firmware without Secure Boot has
/// neither. A sentence where the variables cannot be read (efivarfs is not mounted).
pub fn read_secure_boot(roots: &Roots) -> Reading<Option<SecureBoot>> {
    let efi = roots.sys.join("firmware/efi");
    let variables = efi.join("efivars");
    if !efi.is_dir() {
        return Reading::default();
    }
    if read_names(&variables).is_none_or(|names| names.is_empty()) {
        let warning = "firmware: no EFI variables in /sys/firmware/efi/efivars, Secure Boot is not known";
        return Reading { found: None, warnings: vec![warning.to_owned()] };
    }
    let flag = |name: &str| parse_flag(&read_bytes(&variables.join(format!("{name}-{GLOBAL}")))?);
    Reading { found: parse_secure_boot(flag("SecureBoot"), flag("SetupMode")), warnings: Vec::new() }
}

fn parse_secure_boot(secure_boot: Option<bool>, setup_mode: Option<bool>) -> Option<SecureBoot> {
    match (secure_boot?, setup_mode) {
        (true, _) => Some(SecureBoot::Enabled),
        (false, Some(true)) => Some(SecureBoot::SetupMode),
        (false, Some(false) | None) => Some(SecureBoot::Disabled),
    }
}

/// A variable as efivarfs shows it: four bytes of attributes, then the value, here one byte.
fn parse_flag(bytes: &[u8]) -> Option<bool> {
    match bytes {
        [_, _, _, _, 0] => Some(false),
        [_, _, _, _, 1] => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_four_bytes_of_attributes_and_its_value() {
        assert_eq!((parse_flag(&[6, 0, 0, 0, 1]), parse_flag(&[6, 0, 0, 0, 0])), (Some(true), Some(false)));
        for bytes in [[].as_slice(), &[1], &[6, 0, 0, 0], &[6, 0, 0, 0, 2], &[6, 0, 0, 0, 1, 0]] {
            assert_eq!(parse_flag(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn without_a_platform_key_it_is_setup_mode() {
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(parse_secure_boot(yes, no), Some(SecureBoot::Enabled));
        assert_eq!(parse_secure_boot(no, no), Some(SecureBoot::Disabled));
        assert_eq!(parse_secure_boot(no, None), Some(SecureBoot::Disabled));
        assert_eq!(parse_secure_boot(no, yes), Some(SecureBoot::SetupMode));
        assert_eq!(parse_secure_boot(None, yes), None);
    }
}
