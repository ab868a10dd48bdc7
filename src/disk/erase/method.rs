//! What can be done to a disk.

use std::time::Duration;

use serde::Serialize;

use crate::disk::verify::Blank;

/// One rung of a ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// NVMe Sanitize: the keys of all namespaces are changed.
    NvmeSanitizeCrypto,
    /// NVMe Sanitize: all flash blocks are erased.
    NvmeSanitizeBlock,
    /// NVMe Format NVM: the key of the namespace is changed.
    NvmeFormatCrypto,
    /// NVMe Format NVM with user data erase.
    NvmeFormat,
    AtaSanitizeCrypto,
    AtaSanitizeBlock,
    AtaSanitizeOverwrite,
    /// ATA SECURITY ERASE UNIT, enhanced: also sectors that were replaced.
    AtaSecureEraseEnhanced,
    AtaSecureErase,
    ScsiSanitizeCrypto,
    ScsiSanitizeBlock,
    ScsiSanitizeOverwrite,
    ScsiFormat,
    /// A discard whose device promises that no copy is left: eMMC, some virtual disks.
    SecureDiscard,
    /// The device's own command for zeros, else zeros written by the kernel. There is no rung for discard: it is no
    /// faster where a disk has this command, and only reading all of it would prove that nothing is left.
    ZeroOut,
    /// Zeros written by us.
    Overwrite,
    /// Zeros where tables and super blocks lie, and nowhere else.
    Signatures,
}

impl Method {
    /// What the disk must read as afterwards.
    pub fn promises(self) -> Blank {
        match self {
            Self::NvmeSanitizeCrypto | Self::NvmeFormatCrypto | Self::AtaSanitizeCrypto | Self::ScsiSanitizeCrypto => {
                Blank::Changed
            }
            // An enhanced erase writes a pattern that its maker chose.
            Self::AtaSecureEraseEnhanced => Blank::Changed,
            Self::NvmeSanitizeBlock
            | Self::NvmeFormat
            | Self::AtaSanitizeBlock
            | Self::ScsiSanitizeBlock
            | Self::ScsiFormat
            | Self::SecureDiscard => Blank::ZerosOrOnes,
            Self::AtaSanitizeOverwrite
            | Self::AtaSecureErase
            | Self::ScsiSanitizeOverwrite
            | Self::ZeroOut
            | Self::Overwrite
            | Self::Signatures => Blank::Zeros,
        }
    }

    /// How long one command of it may take before the kernel gives it up; `None` for those that go on in steps of
    /// seconds.
    pub fn limit(self) -> Option<Duration> {
        match self {
            Self::NvmeFormatCrypto | Self::NvmeFormat => Some(NVME_FORMAT_LIMIT),
            Self::AtaSecureEraseEnhanced | Self::AtaSecureErase => Some(ATA_ERASE_LIMIT),
            Self::NvmeSanitizeCrypto
            | Self::NvmeSanitizeBlock
            | Self::AtaSanitizeCrypto
            | Self::AtaSanitizeBlock
            | Self::AtaSanitizeOverwrite
            | Self::ScsiSanitizeCrypto
            | Self::ScsiSanitizeBlock
            | Self::ScsiSanitizeOverwrite
            | Self::ScsiFormat
            | Self::SecureDiscard
            | Self::ZeroOut
            | Self::Overwrite
            | Self::Signatures => None,
        }
    }
}

/// Large drives without crypto erase need up to an hour.
const NVME_FORMAT_LIMIT: Duration = Duration::from_secs(2 * 3600);
/// A hard disk of 24 TB writes itself over in a day and a half; most disks say how long they need.
pub const ATA_ERASE_LIMIT: Duration = Duration::from_secs(48 * 3600);

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::NvmeSanitizeCrypto => "NVMe sanitize (crypto erase)",
            Self::NvmeSanitizeBlock => "NVMe sanitize (block erase)",
            Self::NvmeFormatCrypto => "NVMe format (crypto erase)",
            Self::NvmeFormat => "NVMe format",
            Self::AtaSanitizeCrypto => "ATA sanitize (crypto scramble)",
            Self::AtaSanitizeBlock => "ATA sanitize (block erase)",
            Self::AtaSanitizeOverwrite => "ATA sanitize (overwrite)",
            Self::AtaSecureEraseEnhanced => "ATA enhanced security erase",
            Self::AtaSecureErase => "ATA security erase",
            Self::ScsiSanitizeCrypto => "SCSI sanitize (crypto erase)",
            Self::ScsiSanitizeBlock => "SCSI sanitize (block erase)",
            Self::ScsiSanitizeOverwrite => "SCSI sanitize (overwrite)",
            Self::ScsiFormat => "SCSI format unit",
            Self::SecureDiscard => "secure discard",
            Self::ZeroOut => "zero-out",
            Self::Overwrite => "overwriting with zeros",
            Self::Signatures => "wiping signatures",
        })
    }
}
