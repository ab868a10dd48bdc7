//! Block devices.
//!
//! Source: `/sys/block/<name>/`; what is behind each file is told at the fields. On the running machine the disks are
//! asked too: see [`probe`].

pub mod contents;
pub mod health;
mod identity;
pub mod kind;
pub mod layers;
pub mod media;
mod name;
pub mod nvme;
mod probe;
pub mod transport;

use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use super::Reading;
use super::attribute::{pci_address, read_device_path, read_flag, read_names, read_number, read_text};
use super::placeholder::meaningful;
use crate::sys::roots::Roots;
use crate::sys::units::Bytes;

pub use contents::{Content, PartitionTable};
pub use health::{CriticalWarning, Health};
pub use kind::DiskKind;
pub use layers::{Holder, Partition};
pub use nvme::{LbaFormat, NvmeController, NvmeFacts, NvmeNamespace};
pub use transport::Transport;

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
    /// NVMe and SCSI: `device/model`, with `device/vendor` before it unless that is `ATA`; MMC: `device/name`. Of an ATA
    /// disk in full where the kernel has its IDENTIFY DEVICE (`device/vpd_pg89`) or its name (`device/vpd_pg83`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// NVMe, MMC: `device/serial`; SCSI: page 0x80 of the vital product data (`device/vpd_pg80`); virtio: `serial`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// `wwid` or `device/wwid` where it is a world-wide name (`naa.…`, `eui.…`, `uuid.…`), not one made of the serial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// NVMe: `device/firmware_rev`; ATA: IDENTIFY DEVICE; SCSI: `device/rev`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// The controller's PCI address; of an NVMe disk with several paths the first controller's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci_address: Option<String>,
    /// Paths that udev of an installed system links to this disk, whatever its name is that day.
    pub stable_paths: Vec<String>,
    /// `dm/name` of a mapping: `vg0-root`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapping_name: Option<String>,
    /// `md/level` of an array: `raid1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raid_level: Option<String>,
    /// `slaves`: what an array or a mapping is made of.
    pub members: Vec<String>,
    /// What uses the disk or a partition of it.
    pub holders: Vec<Holder>,
    /// As the kernel has them.
    pub partitions: Vec<Partition>,
    /// Absent also where the disk was not read, as in a captured tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition_table: Option<PartitionTable>,
    /// What is on the disk as a whole; absent also where the disk was not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvme: Option<NvmeFacts>,
    /// Absent where the disk was not asked or does not tell. Of NVMe see also [`NvmeController::health`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

impl Disk {
    /// Of its entry in `/sys/block`.
    pub fn kernel_name(&self) -> String {
        kernel_name(&self.name)
    }
}

/// All block devices, and the NVMe controllers behind some of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Storage {
    /// In order of the names (`sdb` before `sdaa`).
    pub disks: Vec<Disk>,
    /// In order of their numbers.
    pub nvme_controllers: Vec<NvmeController>,
}

/// What `/sys` tells, and of the running machine what the disks say themselves. The latter takes up to five seconds
/// when a disk hangs, whatever their number.
pub fn read(roots: &Roots) -> Reading<Storage> {
    let mut reading = read_block_devices(roots);
    if roots.is_live() {
        reading.warnings.extend(probe::ask(roots, &mut reading.found));
        add_health(&mut reading.found);
    }
    reading
}

/// What `/sys` tells.
fn read_block_devices(roots: &Roots) -> Reading<Storage> {
    let dir = roots.sys.join("block");
    let Some(names) = read_names(&dir) else {
        let warnings = vec!["disks: /sys/block cannot be read".to_owned()];
        return Reading { found: Storage::default(), warnings };
    };
    let nvme_controllers = nvme::read_controllers(roots);
    let by_disk = nvme::controllers_by_disk(&nvme_controllers);
    let mut warnings = Vec::new();
    let mut disks = Vec::new();
    for name in names {
        match read_disk(&dir, &name) {
            Some(disk) if is_idle(&disk) => {}
            Some(mut disk) => {
                let controller = by_disk.get(&disk.name);
                disk.pci_address = disk.pci_address.or_else(|| controller?.pci_address.clone());
                disks.push(disk);
            }
            None if is_hidden(roots, &name) => {}
            None => warnings.push(format!("disks: /sys/block/{name}/size cannot be read, the disk is left out")),
        }
    }
    disks.sort_by(|a, b| name::compare_names(&a.name, &b.name));
    Reading { found: Storage { disks, nvme_controllers }, warnings }
}

/// One path of a multipath NVMe namespace: it has no device node, and the namespace is a disk beside it.
pub fn is_hidden(roots: &Roots, kernel_name: &str) -> bool {
    read_flag(&roots.sys.join("block").join(kernel_name).join("hidden")) == Some(true)
}

/// What `/sys` tells of one, by its entry in `/sys/block`; `None` where there is none.
pub fn read_block_device(roots: &Roots, kernel_name: &str) -> Option<Disk> {
    read_disk(&roots.sys.join("block"), kernel_name)
}

/// The controllers' health is their disks'.
fn add_health(storage: &mut Storage) {
    let by_disk = nvme::controllers_by_disk(&storage.nvme_controllers);
    for disk in storage.disks.iter_mut().filter(|disk| disk.health.is_none()) {
        disk.health = by_disk.get(&disk.name).and_then(|controller| controller.health.clone());
    }
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
    let transport = transport::transport(name, &device_path, read_text(&device.join("vendor")).as_deref());
    let identity = identity::read_identity(&block, &device_path, transport);
    let partitions = layers::read_partitions(&block, &read_names(&block).unwrap_or_default());
    Some(Disk {
        name: device_name(name),
        kind: read_kind(&block, &device_path, name),
        size,
        logical_block_bytes: read_number(&block.join("queue/logical_block_size")),
        physical_block_bytes: read_number(&block.join("queue/physical_block_size")),
        rotational: read_flag(&block.join("queue/rotational")),
        removable: read_removable(&block),
        read_only: read_flag(&block.join("ro")),
        transport,
        model: identity.model,
        serial: identity.serial.and_then(meaningful),
        wwn: identity.wwn,
        firmware: identity.firmware,
        pci_address: pci_address(&device_path),
        stable_paths: identity.stable_paths,
        mapping_name: read_text(&block.join("dm/name")),
        raid_level: read_text(&block.join("md/level")),
        members: layers::read_members(&block),
        holders: layers::read_holders(&block, name, &partitions),
        partitions,
        partition_table: None,
        content: None,
        nvme: None,
        health: None,
    })
}

/// The entry in `/sys/block` of a disk, and below it of a partition.
pub fn kernel_name(device: &str) -> String {
    device.trim_start_matches("/dev/").replace('/', "!")
}

/// The kernel writes `!` where the name under `/dev` has a `/` (cciss!c0d0).
pub fn device_name(kernel_name: &str) -> String {
    format!("/dev/{}", kernel_name.replace('!', "/"))
}

/// Kind and mark `removable`, which sysfs tells also of a disk that answers nothing.
pub fn read_kind_and_removable(roots: &Roots, kernel_name: &str) -> (DiskKind, Option<bool>) {
    let block = roots.sys.join("block").join(kernel_name);
    let device_path = read_device_path(&block).unwrap_or_else(|| block.clone());
    (read_kind(&block, &device_path, kernel_name), read_removable(&block))
}

fn read_kind(block: &Path, device_path: &Path, name: &str) -> DiskKind {
    let kind = kind::kind(name, device_path, read_number(&block.join("device/type")));
    if kind == DiskKind::Disk && media::is_bmc_medium_at(block) { DiskKind::BmcMedium } else { kind }
}

fn read_removable(block: &Path) -> Option<bool> {
    read_flag(&block.join("removable"))
}

fn parse_size(sectors: &str) -> Option<Bytes> {
    sectors.parse::<u64>().ok()?.checked_mul(512).map(Bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_units_of_512_bytes_and_too_large_ones_are_no_size() {
        assert_eq!(parse_size("1875385008"), Some(Bytes(960_197_124_096)));
        assert_eq!(parse_size("18446744073709551615"), None);
    }

    #[test]
    fn this_machines_own_disks_are_asked_without_harm() {
        let storage = read(&Roots::system());
        // Whatever there is: nothing was asked that is no storage.
        let media: Vec<&Disk> = storage.found.disks.iter().filter(|disk| !disk.kind.is_storage()).collect();
        assert!(media.iter().all(|disk| disk.health.is_none() && disk.content.is_none()), "{media:?}");
    }
}
