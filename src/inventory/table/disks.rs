//! One line a disk.

use super::super::disk::{Content, Disk, DiskKind, Health, Transport};
use super::columns::{ABSENT, joined, text};

pub(super) const HEADINGS: &[&str] = &["DISK", "SIZE", "KIND", "BLOCK", "MODEL", "SERIAL", "STATE"];

pub(super) fn row(disk: &Disk) -> Vec<String> {
    let kind = match (disk.kind, disk.transport) {
        (DiskKind::Disk, Some(transport)) => transport_name(transport),
        (DiskKind::Disk, None) => "disk",
        (DiskKind::Md, _) => disk.raid_level.as_deref().unwrap_or("RAID"),
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
    vec![
        disk.name.clone(),
        disk.size.to_string(),
        format!("{kind}{rotates}"),
        disk.logical_block_bytes.map_or_else(|| ABSENT.to_owned(), |bytes| bytes.to_string()),
        text(disk.model.as_deref().or(disk.mapping_name.as_deref())),
        text(disk.serial.as_deref()),
        joined([marks(disk), disk.health.as_ref().map(health), contents(disk), users(disk)], "; "),
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

fn marks(disk: &Disk) -> Option<String> {
    let marks = [("removable", disk.removable), ("read-only", disk.read_only)];
    let set: Vec<&str> = marks.iter().filter(|(_, is_set)| *is_set == Some(true)).map(|(mark, _)| *mark).collect();
    (!set.is_empty()).then(|| set.join(", "))
}

/// `FAILING`, or how worn it is.
fn health(health: &Health) -> String {
    match (health.failing, health.percentage_used) {
        (true, _) => "FAILING".to_owned(),
        (false, Some(used)) => format!("{used} % worn"),
        (false, None) => "healthy".to_owned(),
    }
}

/// `gpt: vfat, ext4`.
fn contents(disk: &Disk) -> Option<String> {
    let of_partitions = disk.partitions.iter().filter_map(|partition| partition.content.as_ref());
    let kinds: Vec<String> =
        disk.content.iter().chain(of_partitions).map(|content: &Content| content.kind.clone()).collect();
    match (&disk.partition_table, kinds.is_empty()) {
        (Some(table), true) => Some(table.kind.clone()),
        (Some(table), false) => Some(format!("{}: {}", table.kind, kinds.join(", "))),
        (None, true) => None,
        (None, false) => Some(kinds.join(", ")),
    }
}

fn users(disk: &Disk) -> Option<String> {
    let mut users: Vec<&str> = disk.holders.iter().map(|holder| holder.by.as_str()).collect();
    users.dedup();
    let names: Vec<&str> = users.into_iter().map(|user| user.strip_prefix("/dev/").unwrap_or(user)).collect();
    (!names.is_empty()).then(|| format!("in use by {}", names.join(", ")))
}
