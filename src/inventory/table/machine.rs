//! The lines at the top: the machine as a whole.

use std::fmt;

use super::super::Inventory;
use super::super::bmc::Bmc;
use super::super::dimm::{Dimms, ErrorCorrection};
use super::super::dmi::MachineKind;
use super::super::firmware::SecureBoot;
use super::super::memory::MemorySource;
use super::super::tpm::{Tpm, TpmVersion};
use super::columns::{WIDTH, cut};
use crate::sys::firmware::Firmware;
use crate::sys::units::Bytes;

pub(super) fn write(f: &mut fmt::Formatter<'_>, inventory: &Inventory) -> fmt::Result {
    let join = |parts: &[Option<&str>]| parts.iter().flatten().copied().collect::<Vec<_>>().join(" ");
    let mut line = |title: &str, value: String| {
        if value.is_empty() { Ok(()) } else { writeln!(f, "{}", cut(&format!("{title:<9} {value}"), WIDTH)) }
    };
    let product = inventory.product.clone().unwrap_or_default();
    let kind = match inventory.kind {
        MachineKind::Server => None,
        MachineKind::Virtual => Some("(taken for a virtual machine)"),
    };
    line("Machine", join(&[product.vendor.as_deref(), product.name.as_deref(), kind]))?;
    line("Serial", product.serial.unwrap_or_default())?;
    line("UUID", inventory.uuid.map(|uuid| uuid.to_string()).unwrap_or_default())?;
    let chassis = inventory.chassis.clone().unwrap_or_default();
    let tag = chassis.asset_tag.map(|tag| format!("asset tag {tag}"));
    line("Chassis", join(&[chassis.vendor.as_deref(), chassis.kind, chassis.serial.as_deref(), tag.as_deref()]))?;
    let board = inventory.board.clone().unwrap_or_default();
    let board_serial = board.serial.as_deref();
    line("Board", join(&[board.vendor.as_deref(), board.name.as_deref(), board.version.as_deref(), board_serial]))?;
    let bios = inventory.bios.clone().unwrap_or_default();
    let mode = inventory.firmware.map(|mode| match mode {
        Firmware::Uefi => "UEFI",
        Firmware::Bios => "BIOS",
    });
    let secure_boot = inventory.secure_boot.map(|state| match state {
        SecureBoot::Enabled => "(Secure Boot)",
        SecureBoot::Disabled => "(Secure Boot off)",
        SecureBoot::SetupMode => "(Secure Boot in setup mode)",
    });
    let (vendor, version, date) = (bios.vendor.as_deref(), bios.version.as_deref(), bios.date.as_deref());
    line("Firmware", join(&[mode, vendor, version, date, secure_boot]))?;
    line("TPM", inventory.tpm.as_ref().map(tpm).unwrap_or_default())?;
    line("Memory", memory(inventory))?;
    line("BMC", inventory.bmc.as_ref().map(bmc).unwrap_or_default())
}

fn tpm(tpm: &Tpm) -> String {
    let version = tpm.version.map(|version| match version {
        TpmVersion::V1_2 => "1.2".to_owned(),
        TpmVersion::V2_0 => "2.0".to_owned(),
    });
    let firmware = tpm.firmware_version.as_ref().map(|version| format!("firmware {version}"));
    [version, tpm.manufacturer.clone(), firmware].into_iter().flatten().collect::<Vec<String>>().join(", ")
}

fn bmc(bmc: &Bmc) -> String {
    let lan = bmc.lan.clone().unwrap_or_default();
    let parts = [
        lan.address.map(|address| address.to_string()),
        lan.mac,
        bmc.manufacturer.clone(),
        bmc.firmware.as_ref().map(|version| format!("firmware {version}")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "there, but it does not answer".to_owned() } else { parts.join(", ") }
}

/// The amount, what it was taken from, and what the modules say.
fn memory(inventory: &Inventory) -> String {
    let Some(amount) = inventory.memory else { return String::new() };
    let source = match inventory.memory_source {
        Some(MemorySource::Blocks | MemorySource::Smbios) => " installed",
        Some(MemorySource::KernelLog | MemorySource::MemTotal) => " seen by the kernel",
        None => "",
    };
    let modules = inventory.dimms.as_ref().map(modules).unwrap_or_default();
    format!("{}{source}{modules}", memory_size(amount))
}

fn modules(dimms: &Dimms) -> String {
    let correction = dimms.error_correction.map(|correction| match correction {
        ErrorCorrection::None => "no ECC",
        ErrorCorrection::Parity => "parity",
        ErrorCorrection::Crc => "CRC",
        ErrorCorrection::SingleBit => "ECC",
        ErrorCorrection::MultiBit => "multi-bit ECC",
    });
    let correction = correction.map(|text| format!(", {text}")).unwrap_or_default();
    format!(" in {} of {} slots{correction}", dimms.modules.len(), dimms.slots)
}

/// Memory is sold in powers of two, unlike disks.
pub(super) fn memory_size(amount: Bytes) -> String {
    let mib = amount.0 >> 20;
    if mib < 8 << 10 { format!("{mib} MiB") } else { format!("{} GiB", mib >> 10) }
}

#[cfg(test)]
mod tests {
    use super::super::Table;
    use super::*;
    use crate::inventory::bmc::Lan;

    #[test]
    fn a_bmc_is_one_line_of_what_it_told() {
        let lan = Lan { channel: 1, address: Some([10, 1, 2, 3].into()), ..Lan::default() };
        let told = Bmc { firmware: Some("1.74".to_owned()), lan: Some(lan), ..Bmc::default() };
        let line =
            |bmc| Table(&Inventory { bmc, ..Inventory::default() }).to_string().lines().last().map(str::to_owned);
        assert_eq!(line(Some(told)).as_deref(), Some("BMC       10.1.2.3, firmware 1.74"));
        assert_eq!(line(Some(Bmc::default())).as_deref(), Some("BMC       there, but it does not answer"));
        assert!(!Table(&Inventory::default()).to_string().contains("BMC"));
    }
}
