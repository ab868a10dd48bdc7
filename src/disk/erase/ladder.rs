//! Which methods a disk has, and in which order they are tried.

use super::ata::{AtaAbilities, read_ata_abilities};
use super::level::Level;
use super::method::Method;
use super::nvme::{NvmeAbilities, read_nvme_abilities};
use super::scsi::{ScsiAbilities, is_ata, read_scsi_abilities};
use crate::disk::block::BlockDevice;

/// The commands that a disk has for erasing itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    pub nvme: Option<NvmeAbilities>,
    pub ata: Option<AtaAbilities>,
    pub scsi: Option<ScsiAbilities>,
    pub secure_discard: bool,
}

/// Asks the disk. What it does not answer it can't do, with a warning.
pub fn read_abilities(device: &dyn BlockDevice, name: &str) -> Abilities {
    let told = |what: &str, error: &anyhow::Error| {
        tracing::warn!(disk = %name, error = format!("{error:#}"), "{what} can't be asked what it can do");
    };
    let mut abilities = Abilities { secure_discard: device.has_secure_discard(), ..Abilities::default() };
    if let Some(port) = device.nvme() {
        let read = read_nvme_abilities(port).inspect_err(|error| told("the NVMe controller", error));
        abilities.nvme = read.ok();
    }
    if let Some(port) = device.scsi() {
        match is_ata(port) {
            Ok(true) => {
                let read = read_ata_abilities(port).inspect_err(|error| told("the ATA disk", error));
                abilities.ata = read.ok();
            }
            Ok(false) => abilities.scsi = Some(read_scsi_abilities(port)),
            Err(error) => told("the SCSI disk", &error),
        }
    }
    abilities
}

/// Strongest first. `format_unit`: also FORMAT UNIT, which some disks need a day for. Empty when the level asks for
/// more than the disk has.
pub fn ladder(abilities: &Abilities, level: Level, format_unit: bool) -> Vec<Method> {
    match level {
        Level::Quick => vec![Method::Signatures],
        Level::Purge => device_methods(abilities, level, format_unit),
        Level::Clear => {
            let mut methods = device_methods(abilities, level, format_unit);
            methods.extend([Method::ZeroOut, Method::Overwrite]);
            methods
        }
    }
}

fn device_methods(abilities: &Abilities, level: Level, format_unit: bool) -> Vec<Method> {
    let mut methods = Vec::new();
    let mut add = |able: bool, method: Method| {
        if able {
            methods.push(method);
        }
    };
    if let Some(nvme) = &abilities.nvme {
        // It takes minutes to hours longer than a format, and clears no more than what can be read.
        let sanitize = level == Level::Purge;
        add(sanitize && nvme.sanitize_crypto, Method::NvmeSanitizeCrypto);
        add(sanitize && nvme.sanitize_block, Method::NvmeSanitizeBlock);
        add(nvme.crypto_format, Method::NvmeFormatCrypto);
        add(nvme.format, Method::NvmeFormat);
    }
    if let Some(ata) = &abilities.ata {
        add(ata.sanitize_crypto, Method::AtaSanitizeCrypto);
        add(ata.sanitize_block, Method::AtaSanitizeBlock);
        add(ata.sanitize_overwrite, Method::AtaSanitizeOverwrite);
        if let Some(security) = ata.security {
            add(security.enhanced, Method::AtaSecureEraseEnhanced);
            add(true, Method::AtaSecureErase);
        }
    }
    if let Some(scsi) = abilities.scsi {
        add(scsi.sanitize_crypto, Method::ScsiSanitizeCrypto);
        add(scsi.sanitize_block, Method::ScsiSanitizeBlock);
        add(scsi.sanitize_overwrite, Method::ScsiSanitizeOverwrite);
        add(format_unit && scsi.format, Method::ScsiFormat);
    }
    add(abilities.secure_discard, Method::SecureDiscard);
    methods
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::erase::ata::Security;

    #[test]
    fn a_plain_disk_can_be_cleared_but_not_purged() {
        let plain = Abilities::default();
        assert_eq!(ladder(&plain, Level::Quick, true), [Method::Signatures]);
        assert_eq!(ladder(&plain, Level::Clear, true), [Method::ZeroOut, Method::Overwrite]);
        assert_eq!(ladder(&plain, Level::Purge, true), []);
    }

    #[test]
    fn nvme_is_sanitized_only_when_purged() {
        let nvme = NvmeAbilities {
            format: true,
            crypto_format: true,
            sanitize_crypto: true,
            sanitize_block: true,
            ..NvmeAbilities::default()
        };
        let abilities = Abilities { nvme: Some(nvme), ..Abilities::default() };
        let formats = [Method::NvmeFormatCrypto, Method::NvmeFormat];
        assert_eq!(ladder(&abilities, Level::Clear, false), [formats, [Method::ZeroOut, Method::Overwrite]].concat());
        let sanitizes = [Method::NvmeSanitizeCrypto, Method::NvmeSanitizeBlock];
        assert_eq!(ladder(&abilities, Level::Purge, false), [sanitizes, formats].concat());
    }

    #[test]
    fn disks_on_sata_and_sas_go_from_sanitize_down_to_zeros() {
        let security = Some(Security { enhanced: true, ..Security::default() });
        let ata = AtaAbilities { sanitize_crypto: true, sanitize_block: true, sanitize_overwrite: true, security };
        let abilities = Abilities { ata: Some(ata), ..Abilities::default() };
        let expected = [
            Method::AtaSanitizeCrypto,
            Method::AtaSanitizeBlock,
            Method::AtaSanitizeOverwrite,
            Method::AtaSecureEraseEnhanced,
            Method::AtaSecureErase,
            Method::ZeroOut,
            Method::Overwrite,
        ];
        assert_eq!(ladder(&abilities, Level::Clear, false), expected);
        let scsi = ScsiAbilities { format: true, sanitize_block: true, ..ScsiAbilities::default() };
        let abilities = Abilities { scsi: Some(scsi), ..Abilities::default() };
        assert_eq!(ladder(&abilities, Level::Purge, false), [Method::ScsiSanitizeBlock]);
        assert_eq!(ladder(&abilities, Level::Purge, true), [Method::ScsiSanitizeBlock, Method::ScsiFormat]);
    }
}
