//! The inventory as a person reads it at a console: at most 100 columns, one line a device.

use std::fmt::{self, Write};

use super::Inventory;
use super::bmc::Bmc;
use super::disk::{Disk, DiskKind, Transport};
use super::dmi::MachineKind;
use super::memory::MemorySource;
use super::nic::Nic;
use crate::sys::firmware::Firmware;

/// A serial console's usual width and a bit; longer cells are cut with `…`.
const WIDTH: usize = 100;
/// No column is made narrower than this.
const NARROWEST: usize = 6;
const ABSENT: &str = "-";

/// For `{}`.
pub struct Table<'a>(pub &'a Inventory);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(inventory) = self;
        write_machine(f, inventory)?;
        let cpus = inventory.cpus.iter().map(|cpu| {
            let socket = cpu.socket.map_or_else(|| ABSENT.to_owned(), |socket| socket.to_string());
            vec![socket, text(cpu.model.as_deref()), cpu.cores.to_string(), cpu.threads.to_string()]
        });
        write_columns(f, &["CPU", "MODEL", "CORES", "THREADS"], cpus.collect())?;
        let gpus = inventory.gpus.iter().map(|gpu| vec![gpu.pci_address.clone(), gpu.model.clone()]);
        write_columns(f, &["GPU", "MODEL"], gpus.collect())?;
        let disks = inventory.disks.iter().chain(&inventory.other_media).map(disk_row);
        write_columns(f, &["DISK", "SIZE", "KIND", "BLOCK", "MODEL", "SERIAL", "MARKS"], disks.collect())?;
        let nics = inventory.nics.iter().filter(|nic| nic.name != "lo").map(nic_row);
        write_columns(f, &["NIC", "MAC", "LINK", "DRIVER", "PCI"], nics.collect())?;
        if !inventory.warnings.is_empty() {
            writeln!(f)?;
        }
        for warning in &inventory.warnings {
            write_wrapped(f, &format!("note: {warning}"))?;
        }
        Ok(())
    }
}

fn write_machine(f: &mut fmt::Formatter<'_>, inventory: &Inventory) -> fmt::Result {
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
    let board = inventory.board.clone().unwrap_or_default();
    line("Board", join(&[board.vendor.as_deref(), board.name.as_deref(), board.version.as_deref()]))?;
    let bios = inventory.bios.clone().unwrap_or_default();
    let mode = inventory.firmware.map(|mode| match mode {
        Firmware::Uefi => "UEFI",
        Firmware::Bios => "BIOS",
    });
    line("Firmware", join(&[mode, bios.vendor.as_deref(), bios.version.as_deref(), bios.date.as_deref()]))?;
    line("Memory", memory(inventory))?;
    line("BMC", inventory.bmc.as_ref().map(bmc).unwrap_or_default())
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

/// Memory is sold in powers of two, unlike disks.
fn memory(inventory: &Inventory) -> String {
    let Some(amount) = inventory.memory else { return String::new() };
    let mib = amount.0 >> 20;
    let source = match inventory.memory_source {
        Some(MemorySource::Blocks | MemorySource::Smbios) => " installed",
        Some(MemorySource::KernelLog | MemorySource::MemTotal) => " seen by the kernel",
        None => "",
    };
    if mib < 8 << 10 { format!("{mib} MiB{source}") } else { format!("{} GiB{source}", mib >> 10) }
}

fn disk_row(disk: &Disk) -> Vec<String> {
    let kind = match (disk.kind, disk.transport) {
        (DiskKind::Disk, Some(transport)) => transport_name(transport),
        (DiskKind::Disk, None) => "disk",
        (DiskKind::Md, _) => "RAID",
        (DiskKind::Dm, _) => "mapped",
        (DiskKind::Cdrom, _) => "CD",
        (DiskKind::Floppy, _) => "floppy",
        (DiskKind::Loop, _) => "loop",
        (DiskKind::Ram, _) => "RAM",
        (DiskKind::Zram, _) => "zram",
        (DiskKind::Virtual, _) => "virtual",
        (DiskKind::BmcMedium, _) => "BMC",
        (DiskKind::SpecialArea, _) => "special",
    };
    let rotates = match (disk.transport, disk.rotational) {
        (Some(Transport::Sata | Transport::Sas), Some(true)) => " HDD",
        (Some(Transport::Sata | Transport::Sas), Some(false)) if disk.kind == DiskKind::Disk => " SSD",
        _ => "",
    };
    let marks = [("removable", disk.removable), ("read-only", disk.read_only)];
    let marks: Vec<&str> = marks.iter().filter(|(_, is_set)| *is_set == Some(true)).map(|(mark, _)| *mark).collect();
    vec![
        disk.name.clone(),
        disk.size.to_string(),
        format!("{kind}{rotates}"),
        disk.logical_block_bytes.map_or_else(|| ABSENT.to_owned(), |bytes| bytes.to_string()),
        text(disk.model.as_deref()),
        text(disk.serial.as_deref()),
        marks.join(","),
    ]
}

fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Nvme => "NVMe",
        Transport::Sata => "SATA",
        Transport::Sas => "SAS",
        Transport::Scsi => "SCSI",
        Transport::FibreChannel => "FC",
        Transport::Iscsi => "iSCSI",
        Transport::Virtio => "virtio",
        Transport::Usb => "USB",
        Transport::Mmc => "MMC",
    }
}

fn nic_row(nic: &Nic) -> Vec<String> {
    let link = match (nic.carrier, nic.speed_mbps) {
        (Some(true), Some(speed)) if speed >= 1000 && speed % 100 == 0 => format!("up, {} Gbit/s", gigabits(speed)),
        (Some(true), Some(speed)) => format!("up, {speed} Mbit/s"),
        (Some(true), None) => "up".to_owned(),
        (Some(false), _) => "no carrier".to_owned(),
        (None, _) => "down".to_owned(),
    };
    let driver = nic.driver.as_deref().or((!nic.physical).then_some("(virtual)"));
    vec![nic.name.clone(), nic.mac.clone(), link, text(driver), text(nic.pci_address.as_deref())]
}

/// 2500 → `2.5`, 100000 → `100`.
fn gigabits(speed_mbps: u64) -> String {
    let (whole, tenth) = (speed_mbps / 1000, speed_mbps % 1000 / 100);
    if tenth == 0 { whole.to_string() } else { format!("{whole}.{tenth}") }
}

fn text(value: Option<&str>) -> String {
    value.unwrap_or(ABSENT).to_owned()
}

/// A heading and its rows with an empty line before; nothing at all without rows.
fn write_columns(f: &mut fmt::Formatter<'_>, headings: &[&str], rows: Vec<Vec<String>>) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    let headings: Vec<String> = headings.iter().map(|&heading| heading.to_owned()).collect();
    let widths = column_widths(&headings, &rows);
    writeln!(f)?;
    for row in std::iter::once(&headings).chain(&rows) {
        let mut line = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            write!(line, "{:<width$}  ", cut(cell, width))?;
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

/// As wide as the longest cell; when that is too much for the page, the widest columns give way.
fn column_widths(headings: &[String], rows: &[Vec<String>]) -> Vec<usize> {
    let longest = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).chain(headings.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..headings.len()).map(longest).collect();
    let gaps = 2 * widths.len().saturating_sub(1);
    let mut excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(WIDTH);
    while excess > 0 {
        let Some(widest) = widths.iter_mut().max().filter(|width| **width > NARROWEST) else { break };
        *widest -= 1;
        excess -= 1;
    }
    widths
}

/// Sentences are wrapped between words, not cut; a word longer than a line is.
fn write_wrapped(f: &mut fmt::Formatter<'_>, sentence: &str) -> fmt::Result {
    let mut line = String::new();
    for word in sentence.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
            writeln!(f, "{}", cut(&line, WIDTH))?;
            line = "     ".to_owned();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    writeln!(f, "{}", cut(&line, WIDTH))
}

/// At most `width` characters; control characters of a vendor's string must not reach a terminal.
fn cut(text: &str, width: usize) -> String {
    let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    if text.chars().count() <= width {
        return text.chars().map(visible).collect();
    }
    text.chars().take(width.saturating_sub(1)).map(visible).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::bmc::Lan;

    #[test]
    fn long_cells_are_cut_so_that_the_page_holds() {
        let rows = vec![vec!["a".repeat(90), "b".repeat(90), "c".to_owned()]];
        let widths = column_widths(&["A".to_owned(), "B".to_owned(), "C".to_owned()], &rows);
        assert_eq!(widths.iter().sum::<usize>() + 4, WIDTH);
        assert_eq!(widths[2], 1);
        assert_eq!(cut("Micron_7450", 6), "Micro…");
        assert_eq!(cut("\x1b[2J", 9), "\u{fffd}[2J");
    }

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
