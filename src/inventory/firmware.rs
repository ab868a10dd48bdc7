//! How the machine's firmware started it.

use serde::Serialize;

use super::Reading;
use crate::sys::roots::Roots;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FirmwareMode {
    Uefi,
    Bios,
}

/// UEFI when the kernel has `/sys/firmware/efi`. `/sys/firmware` itself is in every kernel; without it nothing is known.
pub fn read(roots: &Roots) -> Reading<Option<FirmwareMode>> {
    let firmware = roots.sys.join("firmware");
    if firmware.join("efi").is_dir() {
        Reading { found: Some(FirmwareMode::Uefi), warnings: Vec::new() }
    } else if firmware.is_dir() {
        Reading { found: Some(FirmwareMode::Bios), warnings: Vec::new() }
    } else {
        Reading { found: None, warnings: vec!["firmware: no /sys/firmware, so UEFI or BIOS is not known".to_owned()] }
    }
}
