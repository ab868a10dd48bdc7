//! Block devices.
//!
//! Source: `/sys/block/<name>/`; what is behind each file is told at the fields. Nothing is read from the media.

use std::cmp::Ordering;
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use super::Reading;
use super::attribute::{pci_address, read_bytes, read_device_path, read_flag, read_names, read_number, read_text};
use crate::sys::roots::Roots;
use crate::sys::units::Bytes;

/// One block device (never a partition).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Disk {
    /// `/dev/nvme0n1`: always under `/dev`, whatever the roots, since this is what the control plane is told.
    pub name: String,
    pub kind: DiskKind,
    /// `size`, which counts 512-byte units whatever the sector size. 0 for a drive without a medium.
    pub size: Bytes,
    /// `queue/logical_block_size`, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logical_block_bytes: Option<u64>,
    /// `queue/physical_block_size`, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub physical_block_bytes: Option<u64>,
    /// `queue/rotational`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotational: Option<bool>,
    /// `removable`: the medium can be taken out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removable: Option<bool>,
    /// `ro`: the kernel refuses to write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    /// NVMe and SCSI: `device/model`, with `device/vendor` before it unless that is `ATA`; MMC: `device/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// NVMe, MMC: `device/serial`; SCSI: page 0x80 of the vital product data (`device/vpd_pg80`); virtio: `serial`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// `wwid` or `device/wwid` where it is a world-wide name (`naa.…`, `eui.…`, `uuid.…`), not one made of the serial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// NVMe: `device/firmware_rev`; SCSI: `device/rev`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// The controller's PCI address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci_address: Option<String>,
}

impl Disk {
    /// Whether this may be erased and installed to: a writable disk that stays in the machine. Not so are media that
    /// can be taken out (USB sticks, the virtual drives of a BMC), and devices made of other devices.
    ///
    /// A flag that could not be read counts against the disk: better not to erase than to erase what is not ours.
    pub fn is_fixed_medium(&self) -> bool {
        self.kind == DiskKind::Disk
            && self.transport != Some(Transport::Usb)
            && self.removable == Some(false)
            && self.read_only == Some(false)
            && self.size > Bytes(0)
    }
}

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
    /// Boot and replay-protected areas of an eMMC, flash without a translation layer: too small or not writable freely.
    SpecialArea,
}

impl DiskKind {
    /// Whether it counts as storage of the machine, which decides its size.
    pub fn is_storage(self) -> bool {
        match self {
            Self::Disk | Self::Md | Self::Dm => true,
            Self::Cdrom | Self::Floppy | Self::Loop | Self::Ram | Self::Zram | Self::Virtual | Self::SpecialArea => {
                false
            }
        }
    }
}

/// How the disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    Nvme,
    /// A disk that speaks ATA, also one behind a SAS controller.
    Sata,
    Sas,
    /// SCSI of which no more is known: RAID controllers, virtio-scsi.
    Scsi,
    FibreChannel,
    Iscsi,
    Virtio,
    Usb,
    Mmc,
}

pub fn read(roots: &Roots) -> Reading<Vec<Disk>> {
    let dir = roots.sys.join("block");
    let Some(names) = read_names(&dir) else {
        return Reading { found: Vec::new(), warnings: vec!["disks: /sys/block cannot be read".to_owned()] };
    };
    let mut warnings = Vec::new();
    let mut found = Vec::new();
    for name in names {
        match read_disk(&dir, &name) {
            Some(disk) if is_idle(&disk) => {}
            Some(disk) => found.push(disk),
            // One path of a multipath namespace: it has no device node.
            None if read_flag(&dir.join(&name).join("hidden")) == Some(true) => {}
            None => warnings.push(format!("disks: /sys/block/{name}/size cannot be read, the disk is left out")),
        }
    }
    found.sort_by(|a, b| compare_names(&a.name, &b.name));
    Reading { found, warnings }
}

/// A loop or network device that nothing is bound to: the kernel keeps a stock of them.
fn is_idle(disk: &Disk) -> bool {
    disk.size == Bytes(0) && matches!(disk.kind, DiskKind::Loop | DiskKind::Virtual | DiskKind::Zram)
}

fn read_disk(dir: &Path, name: &str) -> Option<Disk> {
    let block = dir.join(name);
    if read_flag(&block.join("hidden")) == Some(true) {
        return None;
    }
    let size = parse_size(&read_text(&block.join("size"))?)?;
    let device_path = read_device_path(&block).unwrap_or_else(|| block.clone());
    let device = block.join("device");
    let vendor = read_text(&device.join("vendor"));
    let transport = transport(name, &device_path, vendor.as_deref());
    Some(Disk {
        // The kernel writes `!` where the name under /dev has a `/` (cciss!c0d0).
        name: format!("/dev/{}", name.replace('!', "/")),
        kind: kind(name, &device_path, read_number(&device.join("type"))),
        size,
        logical_block_bytes: read_number(&block.join("queue/logical_block_size")),
        physical_block_bytes: read_number(&block.join("queue/physical_block_size")),
        rotational: read_flag(&block.join("queue/rotational")),
        removable: read_flag(&block.join("removable")),
        read_only: read_flag(&block.join("ro")),
        transport,
        model: read_model(&device, transport, vendor),
        serial: read_serial(&block),
        wwn: read_wwn(&block),
        firmware: read_text(&device.join("firmware_rev")).or_else(|| read_text(&device.join("rev"))),
        pci_address: pci_address(&device_path),
    })
}

fn parse_size(sectors: &str) -> Option<Bytes> {
    sectors.parse::<u64>().ok()?.checked_mul(512).map(Bytes)
}

/// `scsi_type`: the peripheral device type of a SCSI device, 5 for CD and DVD drives.
fn kind(name: &str, device_path: &Path, scsi_type: Option<u64>) -> DiskKind {
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

/// By the device's ancestors, the innermost bus first: a disk in a USB box is a USB disk.
fn transport(name: &str, device_path: &Path, scsi_vendor: Option<&str>) -> Option<Transport> {
    if name.starts_with("nvme") {
        return Some(Transport::Nvme);
    }
    if name.starts_with("mmcblk") {
        return Some(Transport::Mmc);
    }
    let parts: Vec<&str> = device_path.iter().filter_map(|part| part.to_str()).collect();
    let has = |prefix: &str| parts.iter().any(|part| is_numbered_part(part, prefix));
    if has("usb") {
        Some(Transport::Usb)
    } else if has("session") {
        Some(Transport::Iscsi)
    } else if has("rport-") {
        Some(Transport::FibreChannel)
    } else if has("ata") || scsi_vendor == Some("ATA") {
        Some(Transport::Sata)
    } else if has("end_device-") {
        Some(Transport::Sas)
    } else if has("host") {
        Some(Transport::Scsi)
    } else if has("virtio") {
        Some(Transport::Virtio)
    } else {
        None
    }
}

/// `usb1`, `ata5`, `host0`, `end_device-0:0:1`: the name of a bus and a number.
fn is_numbered_part(part: &str, prefix: &str) -> bool {
    part.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn read_model(device: &Path, transport: Option<Transport>, vendor: Option<String>) -> Option<String> {
    let model = read_text(&device.join("model"));
    match transport {
        Some(Transport::Mmc) => read_text(&device.join("name")),
        // A PCI vendor id stands in `vendor` there.
        Some(Transport::Nvme | Transport::Virtio) => model,
        _ => match (vendor.filter(|vendor| vendor != "ATA"), model) {
            (Some(vendor), Some(model)) => Some(format!("{vendor} {model}")),
            (_, model) => model,
        },
    }
}

fn read_serial(block: &Path) -> Option<String> {
    read_text(&block.join("device/serial"))
        .or_else(|| parse_vpd_serial(&read_bytes(&block.join("device/vpd_pg80"))?))
        .or_else(|| read_text(&block.join("serial")))
}

/// Unit serial number page: peripheral byte, page code 0x80, length (16 bits, big-endian), text.
///
/// Source: SPC-4, 7.8.15.
fn parse_vpd_serial(page: &[u8]) -> Option<String> {
    let [_, 0x80, high, low, serial @ ..] = page else { return None };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    super::attribute::parse_text(serial.get(..length).unwrap_or(serial))
}

fn read_wwn(block: &Path) -> Option<String> {
    let wwid = read_text(&block.join("wwid")).or_else(|| read_text(&block.join("device/wwid")))?;
    ["naa.", "eui.", "uuid."].iter().any(|kind| wwid.starts_with(kind)).then_some(wwid)
}

/// As a person sorts disks: `sdb` before `sdaa`, `nvme2n1` before `nvme10n1`.
fn compare_names(a: &str, b: &str) -> Ordering {
    sort_key(a).cmp(&sort_key(b)).then_with(|| a.cmp(b))
}

/// Family, the letters that count drives (`sdaa`) by length first, then all numbers in the name.
fn sort_key(name: &str) -> (&str, usize, &str, Vec<u64>) {
    let name = name.strip_prefix("/dev/").unwrap_or(name);
    let letters = name.split(|c: char| c.is_ascii_digit()).next().unwrap_or(name);
    let lettered_family = ["sd", "vd", "xvd", "hd"].into_iter().find(|family| letters.starts_with(family));
    let family = lettered_family.unwrap_or(letters);
    let drive = letters.strip_prefix(family).unwrap_or("");
    let numbers = name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect();
    (family, drive.len(), drive, numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_in_the_device_tree_tells_the_transport() {
        let cases = [
            (
                "sda",
                "/sys/devices/pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda",
                "ATA",
                Some(Transport::Sata),
            ),
            (
                "sdb",
                "/sys/devices/pci0000:00/0000:00:01.0/host0/port-0:0/end_device-0:0/target0:0:0/0:0:0:0/block/sdb",
                "SEAGATE",
                Some(Transport::Sas),
            ),
            (
                "sdc",
                "/sys/devices/pci0000:00/0000:00:01.0/host0/port-0:1/end_device-0:1/target0:0:1/0:0:1:0/block/sdc",
                "ATA",
                Some(Transport::Sata),
            ),
            (
                "sdd",
                "/sys/devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/host9/target9:0:0/9:0:0:0/block/sdd",
                "AMI",
                Some(Transport::Usb),
            ),
            (
                "sde",
                "/sys/devices/pci0000:00/0000:00:05.0/virtio1/host2/target2:0:0/2:0:0:0/block/sde",
                "QEMU",
                Some(Transport::Scsi),
            ),
            (
                "sdf",
                "/sys/devices/pci0000:00/0000:00:07.0/host3/rport-3:0-0/target3:0:0/3:0:0:0/block/sdf",
                "NETAPP",
                Some(Transport::FibreChannel),
            ),
            (
                "sdg",
                "/sys/devices/platform/host5/session1/target5:0:0/5:0:0:0/block/sdg",
                "LIO-ORG",
                Some(Transport::Iscsi),
            ),
            ("vda", "/sys/devices/pci0000:00/0000:00:04.0/virtio0/block/vda", "0x1af4", Some(Transport::Virtio)),
            ("nvme0n1", "/sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1", "", Some(Transport::Nvme)),
            ("dm-0", "/sys/devices/virtual/block/dm-0", "", None),
        ];
        for (name, path, vendor, expected) in cases {
            assert_eq!(transport(name, Path::new(path), Some(vendor)), expected, "{name}");
        }
    }

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

    #[test]
    fn names_sort_as_a_person_sorts_them() {
        let mut names = ["sdaa", "nvme10n1", "sdb", "md127", "nvme2n1", "sda", "nvme2n10", "nvme2n2", "vda", "dm-1"];
        names.sort_by(|a, b| compare_names(a, b));
        assert_eq!(names, ["dm-1", "md127", "nvme2n1", "nvme2n2", "nvme2n10", "nvme10n1", "sda", "sdb", "sdaa", "vda"]);
    }

    #[test]
    fn the_serial_of_the_product_data_ends_where_its_length_says() {
        assert_eq!(parse_vpd_serial(b"\x00\x80\x00\x08  ABC123junk").as_deref(), Some("ABC123"));
        assert_eq!(parse_vpd_serial(b"\x00\x80\x00\xff ABC").as_deref(), Some("ABC"));
        assert_eq!(parse_vpd_serial(b"\x00\x83\x00\x03ABC"), None);
        assert_eq!(parse_vpd_serial(b"\x00\x80\x00"), None);
        assert_eq!(parse_vpd_serial(b"\x00\x80\x00\x02  "), None);
    }

    #[test]
    fn sizes_are_units_of_512_bytes_and_too_large_ones_are_no_size() {
        assert_eq!(parse_size("1875385008"), Some(Bytes(960_197_124_096)));
        assert_eq!(parse_size("18446744073709551615"), None);
    }
}
