//! How the machine's firmware started it.

use super::Reading;
use crate::sys::firmware::Firmware;
use crate::sys::roots::Roots;

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
