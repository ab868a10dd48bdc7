//! What the plan and the eraser need to know of each disk.
//!
//! Which disks there are and what they are is the inventory's word; added here is who uses them now, and what the plan
//! must know of the bytes on them: tables and signatures.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::links;
use super::probe::{HEAD_BYTES, Signature, parse_signature};
use super::table::{Table, read_table};
pub use super::uses::DiskUse;
use super::uses::{Mount, read_mounts, read_uses};
use crate::inventory::disk::{self, Disk, is_hidden, read_block_device, read_kind_and_removable};
use crate::sys::roots::Roots;
use crate::sys::units::Bytes;

/// One entry of `/sys/block`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiskFacts {
    /// `/dev/nvme0n1`.
    pub device: String,
    /// The kernel's name, `nvme0n1`.
    pub name: String,
    pub size: Bytes,
    /// Logical sector size.
    pub sector_bytes: u32,
    pub serial: Option<String>,
    pub wwn: Option<String>,
    pub model: Option<String>,
    /// Links that udev of an installed system makes to it, below `/dev/disk/by-id` and `/dev/disk/by-path`.
    pub links: Vec<String>,
    pub kind: DiskKind,
    pub read_only: bool,
    pub rotational: Option<bool>,
    /// Who holds the disk or a part of it now.
    pub uses: Vec<DiskUse>,
    /// As the kernel has them.
    pub partitions: Vec<PartitionFacts>,
    /// What was read from the disk itself; absent where that could not be done, as in a captured tree.
    pub content: Option<Content>,
}

impl DiskFacts {
    /// Byte ranges of all partitions that the kernel has or the disk's own table names: where old super blocks lie.
    pub fn old_ranges(&self) -> Vec<Range<u64>> {
        let sector = u64::from(self.sector_bytes);
        let known = self.partitions.iter().map(|p| p.start.0..p.start.0.saturating_add(p.size.0));
        let listed = match self.content.as_ref().map(|content| &content.table) {
            Some(Table::Gpt(table)) => table.partitions.as_slice(),
            Some(Table::None | Table::Mbr | Table::DamagedGpt(_)) | None => &[],
        };
        // The table may be a stranger's, with any numbers.
        let listed = listed
            .iter()
            .map(|p| p.first_lba.saturating_mul(sector)..p.last_lba.saturating_add(1).saturating_mul(sector));
        known.chain(listed).filter(|range| range.start < range.end && range.end <= self.size.0).collect()
    }
}

/// What sort of device, as far as erasing and installing care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskKind {
    /// A disk that stays in the machine.
    Fixed,
    /// A medium that somebody may take out: USB stick, card.
    Removable,
    Optical,
    Floppy,
    Loop,
    Ram,
    Zram,
    DeviceMapper,
    /// Software RAID.
    Md,
    /// In software only: a disk of the network, bcache.
    Virtual,
    /// Boot areas of an eMMC and the like, which belong to the board's firmware.
    SpecialArea,
}

impl DiskKind {
    fn of(kind: disk::DiskKind, removable: Option<bool>) -> Self {
        match kind {
            // The bus does not count: a disk in a USB box that says it is fixed is one of the machine's.
            disk::DiskKind::Disk if removable == Some(false) => Self::Fixed,
            // One whose flag can't be read counts as one that can be taken out: better not to erase than to erase what is not ours.
            disk::DiskKind::Disk => Self::Removable,
            // Comes and goes, also one that says it is fixed.
            disk::DiskKind::BmcMedium => Self::Removable,
            disk::DiskKind::Cdrom => Self::Optical,
            disk::DiskKind::Floppy => Self::Floppy,
            disk::DiskKind::Loop => Self::Loop,
            disk::DiskKind::Ram => Self::Ram,
            disk::DiskKind::Zram => Self::Zram,
            disk::DiskKind::Dm => Self::DeviceMapper,
            disk::DiskKind::Md => Self::Md,
            disk::DiskKind::Virtual => Self::Virtual,
            disk::DiskKind::SpecialArea => Self::SpecialArea,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionFacts {
    pub number: u32,
    /// The kernel's name, `nvme0n1p1`.
    pub name: String,
    pub start: Bytes,
    pub size: Bytes,
    pub signature: Option<Signature>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Content {
    pub table: Table,
    /// Of the disk as a whole.
    pub signature: Option<Signature>,
}

/// All disks, by name. One that can't be read is left out with a warning.
pub fn read_disks(roots: &Roots) -> Result<Vec<DiskFacts>> {
    let mounts = read_mounts(roots)?;
    let mut disks = Vec::new();
    for name in disk_names(roots)? {
        match read_disk(roots, &name, &mounts) {
            Ok(disk) => disks.extend(disk),
            Err(error) => tracing::warn!(disk = %name, error = format!("{error:#}"), "disk can't be read"),
        }
    }
    Ok(disks)
}

/// The kernel's names of all disks, sorted.
pub(super) fn disk_names(roots: &Roots) -> Result<Vec<String>> {
    let block = roots.sys.join("block");
    let mut names = Vec::new();
    for entry in fs::read_dir(&block).with_context(|| format!("listing {}", block.display()))? {
        let entry = entry.with_context(|| format!("listing {}", block.display()))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// One of [`disk_names`]; `None` for what is no disk of its own.
pub(super) fn read_disk_named(roots: &Roots, name: &str) -> Result<Option<DiskFacts>> {
    read_disk(roots, name, &read_mounts(roots)?)
}

fn read_disk(roots: &Roots, name: &str, mounts: &[Mount]) -> Result<Option<DiskFacts>> {
    match read_block_device(roots, name) {
        Some(disk) => Ok(Some(facts_of(roots, &disk, mounts))),
        None if is_hidden(roots, name) => Ok(None),
        None => bail!("/sys/block/{name}/size can't be read"),
    }
}

/// From sysfs alone, which answers also when the disk does not.
pub(super) fn read_kind(roots: &Roots, name: &str) -> DiskKind {
    let (kind, removable) = read_kind_and_removable(roots, name);
    DiskKind::of(kind, removable)
}

/// The disk behind a device path such as `/dev/sda`.
pub fn read_disk_at(roots: &Roots, device: &str) -> Result<DiskFacts> {
    if device.strip_prefix("/dev/").unwrap_or_default().is_empty() {
        bail!("{device:?} is not a path below /dev");
    }
    let mounts = read_mounts(roots)?;
    let disk = read_block_device(roots, &disk::kernel_name(device))
        .with_context(|| format!("{device} is no disk of its own"))?;
    Ok(facts_of(roots, &disk, &mounts))
}

/// Device node of a partition. The kernel's own name is looked up by number, since its rule (`p` after a digit) and the
/// layout's (`p` after nvme) differ.
pub fn partition_node(roots: &Roots, disk_name: &str, number: u32) -> Result<PathBuf> {
    let disk = read_block_device(roots, disk_name);
    let partitions = disk.iter().flat_map(|disk| &disk.partitions);
    let found = partitions.into_iter().find(|partition| partition.number == u64::from(number));
    let found = found.with_context(|| format!("the kernel has no partition {number} on {disk_name}"))?;
    Ok(node_at(roots, &found.name))
}

/// Of the device `/dev/...`; elsewhere in a captured tree.
pub(super) fn node_at(roots: &Roots, device: &str) -> PathBuf {
    roots.dev.join(device.trim_start_matches("/dev/"))
}

fn facts_of(roots: &Roots, disk: &Disk, mounts: &[Mount]) -> DiskFacts {
    let kernel_name = disk.kernel_name();
    let kind = DiskKind::of(disk.kind, disk.removable);
    let sector_bytes = disk.logical_block_bytes.and_then(|bytes| u32::try_from(bytes).ok()).unwrap_or(512);
    let probed = matches!(kind, DiskKind::Fixed | DiskKind::Loop) && disk.size.0 > 0;
    DiskFacts {
        device: disk.name.clone(),
        size: disk.size,
        sector_bytes,
        serial: disk.serial.clone(),
        wwn: disk.wwn.clone(),
        model: disk.model.clone(),
        links: links::read_links(roots, disk),
        kind,
        read_only: disk.read_only == Some(true),
        rotational: disk.rotational,
        uses: read_uses(roots, disk, mounts),
        partitions: disk.partitions.iter().filter_map(|partition| partition_facts(roots, partition)).collect(),
        content: if probed { read_content(&node_at(roots, &disk.name), disk.size, sector_bytes) } else { None },
        name: kernel_name,
    }
}

/// `None` when the partition went away meanwhile.
fn partition_facts(roots: &Roots, partition: &disk::Partition) -> Option<PartitionFacts> {
    Some(PartitionFacts {
        number: u32::try_from(partition.number).ok()?,
        name: disk::kernel_name(&partition.name),
        start: partition.start?,
        size: partition.size?,
        signature: read_signature(&node_at(roots, &partition.name)),
    })
}

fn read_content(node: &Path, size: Bytes, sector_bytes: u32) -> Option<Content> {
    let file = open_quietly(node)?;
    let table = match read_table(&file, size.0, sector_bytes) {
        Ok(table) => table,
        Err(error) => {
            tracing::warn!(disk = %node.display(), error = %error, "partition table can't be read");
            return None;
        }
    };
    Some(Content { table, signature: parse_signature(&read_head(&file)) })
}

/// What lies on a partition or disk; `None` when nothing known does or it can't be read.
pub fn read_signature(node: &Path) -> Option<Signature> {
    parse_signature(&read_head(&open_quietly(node)?))
}

/// Opens a disk or an image for reading. Anything else is left alone: opening a tape rewinds it.
fn open_quietly(node: &Path) -> Option<fs::File> {
    let kind = fs::metadata(node).ok()?.file_type();
    if !kind.is_block_device() && !kind.is_file() {
        return None;
    }
    let opened = fs::File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(node);
    opened.inspect_err(|error| tracing::warn!(disk = %node.display(), %error, "disk can't be opened")).ok()
}

fn read_head(file: &fs::File) -> Vec<u8> {
    let mut head = vec![0; HEAD_BYTES];
    let mut filled = 0;
    while filled < head.len() {
        match file.read_at(&mut head[filled..], filled as u64) {
            Ok(0) | Err(_) => break,
            Ok(count) => filled += count,
        }
    }
    head.truncate(filled);
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_small_captured_machine() {
        let dir = tempfile::tempdir().unwrap();
        let write_bytes = |path: &str, bytes: &[u8]| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        let write = |path: &str, text: &str| write_bytes(path, text.as_bytes());
        write("sys/block/sda/size", "2048000\n");
        write("sys/block/sda/dev", "8:0\n");
        write("sys/block/sda/removable", "0\n");
        write("sys/block/sda/queue/logical_block_size", "4096\n");
        write("sys/block/sda/queue/rotational", "1\n");
        write_bytes("sys/block/sda/device/vpd_pg80", b"\0\x80\0\x09 S3R1AL  ");
        write("sys/block/sda/device/model", "Made Up  \n");
        write("sys/block/sda/sda3/partition", "3\n");
        write("sys/block/sda/sda3/start", "2048\n");
        write("sys/block/sda/sda3/size", "4096\n");
        write("sys/block/sda/sda3/dev", "8:3\n");
        write("sys/block/sda/sda3/holders/dm-0/dev", "253:0\n");
        write("sys/block/nvme0c0n1/hidden", "1\n");
        write("proc/self/mountinfo", "30 1 8:3 / /data rw - ext4 /dev/root rw\n");
        let disks = read_disks(&Roots::under(dir.path())).unwrap();
        assert_eq!(disks.len(), 1);
        let disk = &disks[0];
        assert_eq!((disk.device.as_str(), disk.size, disk.sector_bytes), ("/dev/sda", Bytes(1_048_576_000), 4096));
        assert_eq!((disk.serial.as_deref(), disk.model.as_deref()), (Some("S3R1AL"), Some("Made Up")));
        assert_eq!((disk.rotational, disk.read_only, &disk.content), (Some(true), false, &None));
        let part = PartitionFacts {
            number: 3,
            name: "sda3".into(),
            start: Bytes(1 << 20),
            size: Bytes(2 << 20),
            signature: None,
        };
        assert_eq!(disk.partitions, [part]);
        let uses: Vec<String> = disk.uses.iter().map(ToString::to_string).collect();
        assert_eq!(uses, ["/dev/sda3 is mounted at /data", "/dev/sda3 is held by /dev/dm-0"]);
    }
}
