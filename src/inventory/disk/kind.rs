//! What sort of thing a block device is.

use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

/// What a block device is, by its name and its place in the tree of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiskKind {
    /// A disk with hardware (or a hypervisor) behind it.
    Disk,
    /// Software RAID, made of disks.
    Md,
    /// LVM, multipath, encryption: made of disks.
    Dm,
    Cdrom,
    Floppy,
    Loop,
    Ram,
    Zram,
    /// A network block device, or anything else that exists in software only.
    Virtual,
    /// An image that the BMC plugs in over USB, see [`super::media`]; its CDs are [`Self::Cdrom`].
    BmcMedium,
    /// Boot and replay-protected areas of an eMMC, flash without a translation layer: too small or not writable freely.
    SpecialArea,
}

impl DiskKind {
    /// Whether it counts as storage of the machine, which decides its size.
    pub fn is_storage(self) -> bool {
        match self {
            Self::Disk | Self::Md | Self::Dm => true,
            Self::Cdrom
            | Self::Floppy
            | Self::Loop
            | Self::Ram
            | Self::Zram
            | Self::Virtual
            | Self::BmcMedium
            | Self::SpecialArea => false,
        }
    }
}

/// `scsi_type`: the peripheral device type of a SCSI device, 5 for CD and DVD drives.
pub(super) fn kind(name: &str, device_path: &Path, scsi_type: Option<u64>) -> DiskKind {
    const BY_NAME: &[(&str, DiskKind)] = &[
        ("zram", DiskKind::Zram),
        ("ram", DiskKind::Ram),
        ("loop", DiskKind::Loop),
        ("md", DiskKind::Md),
        ("dm-", DiskKind::Dm),
        ("sr", DiskKind::Cdrom),
        ("fd", DiskKind::Floppy),
        ("nbd", DiskKind::Virtual),
        ("rbd", DiskKind::Virtual),
        ("mtdblock", DiskKind::SpecialArea),
    ];
    let is_numbered = |prefix: &str| {
        // Any md array may have a name: md_d0, md127, md/home.
        name.strip_prefix(prefix).is_some_and(|rest| prefix == "md" || rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    if let Some((_, kind)) = BY_NAME.iter().find(|(prefix, _)| is_numbered(prefix)) {
        return *kind;
    }
    if scsi_type == Some(5) {
        return DiskKind::Cdrom;
    }
    if name.starts_with("mmcblk") && (name.contains("boot") || name.contains("rpmb") || name.contains("gp")) {
        return DiskKind::SpecialArea;
    }
    // NVMe multipath disks are virtual too, but under /sys/devices/virtual/nvme-subsystem.
    let is_virtual = device_path.to_str().is_some_and(|path| path.contains("/devices/virtual/block/"));
    if is_virtual { DiskKind::Virtual } else { DiskKind::Disk }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_name_type_and_place() {
        let hardware = "/sys/devices/pci0000:00/0000:00:17.0/x";
        let cases = [
            ("sr0", hardware, Some(5), DiskKind::Cdrom),
            ("sda", hardware, Some(0), DiskKind::Disk),
            ("sda", hardware, Some(5), DiskKind::Cdrom),
            ("fd0", hardware, None, DiskKind::Floppy),
            ("ram15", "/sys/devices/virtual/block/ram15", None, DiskKind::Ram),
            ("zram0", "/sys/devices/virtual/block/zram0", None, DiskKind::Zram),
            ("loop7", "/sys/devices/virtual/block/loop7", None, DiskKind::Loop),
            ("md127", "/sys/devices/virtual/block/md127", None, DiskKind::Md),
            ("md_d0", "/sys/devices/virtual/block/md_d0", None, DiskKind::Md),
            ("dm-12", "/sys/devices/virtual/block/dm-12", None, DiskKind::Dm),
            ("bcache0", "/sys/devices/virtual/block/bcache0", None, DiskKind::Virtual),
            ("nvme0n1", "/sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1", None, DiskKind::Disk),
            ("mmcblk0", hardware, None, DiskKind::Disk),
            ("mmcblk0boot1", hardware, None, DiskKind::SpecialArea),
            ("pmem0", hardware, None, DiskKind::Disk),
        ];
        for (name, path, scsi_type, expected) in cases {
            assert_eq!(kind(name, Path::new(path), scsi_type), expected, "{name}");
        }
    }
}
