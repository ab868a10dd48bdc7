//! How the machine was booted.

use schemars::JsonSchema;
use serde::Serialize;

use super::roots::Roots;

/// What started the kernel, and so what starts the installed system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    Uefi,
    Bios,
}

impl Firmware {
    /// The kernel makes `/sys/firmware/efi` exactly when it was started by UEFI.
    pub fn read(roots: &Roots) -> Self {
        if roots.sys.join("firmware/efi").is_dir() { Self::Uefi } else { Self::Bios }
    }
}
