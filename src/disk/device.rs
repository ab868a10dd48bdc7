//! What the plan and the eraser need to know of each disk.
//!
//! Sources: `/sys/block`, `/proc/self/mountinfo`, `/proc/swaps`, and the first bytes of the disks themselves.

use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::links;
use super::probe::{HEAD_BYTES, Signature, parse_signature};
use super::table::{Table, read_table};
use crate::inventory::disk::media::is_bmc_medium_at;
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
    Nbd,
    /// The boot areas of an eMMC, which belong to the board's firmware.
    EmmcBoot,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskUse {
    Mounted {
        device: String,
        target: String,
    },
    Swap {
        device: String,
    },
    /// md, dm or bcache above it.
    Held {
        device: String,
        by: String,
    },
}

impl std::fmt::Display for DiskUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mounted { device, target } => write!(f, "{device} is mounted at {target}"),
            Self::Swap { device } => write!(f, "{device} is active swap"),
            Self::Held { device, by } => write!(f, "{device} is held by {by}"),
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

/// The disk behind a device path such as `/dev/sda`.
pub fn read_disk_at(roots: &Roots, device: &str) -> Result<DiskFacts> {
    let Some(name) = device.strip_prefix("/dev/").filter(|name| !name.is_empty()) else {
        bail!("{device:?} is not a path below /dev");
    };
    let mounts = read_mounts(roots)?;
    read_disk(roots, &kernel_name(name), &mounts)?.with_context(|| format!("{device} is no disk of its own"))
}

/// Device node of a partition. The kernel's own name is looked up by number, since its rule (`p` after a digit) and the
/// layout's (`p` after nvme) differ.
pub fn partition_node(roots: &Roots, disk_name: &str, number: u32) -> Result<PathBuf> {
    let folder = roots.sys.join("block").join(disk_name);
    for name in partition_names(&folder)? {
        if read_number(&folder.join(&name).join("partition")) == Some(u64::from(number)) {
            return Ok(roots.dev.join(node_name(&name)));
        }
    }
    bail!("the kernel has no partition {number} on {disk_name}")
}

/// `cciss/c0d0` is `cciss!c0d0` in sysfs.
fn kernel_name(node: &str) -> String {
    node.replace('/', "!")
}

fn node_name(kernel: &str) -> String {
    kernel.replace('!', "/")
}

fn read_disk(roots: &Roots, name: &str, mounts: &[Mount]) -> Result<Option<DiskFacts>> {
    let folder = roots.sys.join("block").join(name);
    // A path of a multipath NVMe is hidden, and has no node.
    if read_number(&folder.join("hidden")) == Some(1) {
        return Ok(None);
    }
    let units =
        read_number(&folder.join("size")).with_context(|| format!("reading {}", folder.join("size").display()))?;
    let size = Bytes(units.saturating_mul(512));
    let sector_bytes = read_number(&folder.join("queue/logical_block_size")).and_then(|n| u32::try_from(n).ok());
    let sector_bytes = sector_bytes.unwrap_or(512);
    let kind = read_kind(roots, name);
    let node = roots.dev.join(node_name(name));
    let probed = matches!(kind, DiskKind::Fixed | DiskKind::Loop) && size.0 > 0;
    Ok(Some(DiskFacts {
        device: format!("/dev/{}", node_name(name)),
        name: name.to_owned(),
        size,
        sector_bytes,
        serial: read_serial(&folder),
        wwn: first_text(&folder, &["wwid", "device/wwid"]),
        model: first_text(&folder, &["device/model", "device/name"]),
        links: links::read_links(roots, &folder),
        kind,
        read_only: read_number(&folder.join("ro")) == Some(1),
        rotational: read_number(&folder.join("queue/rotational")).map(|n| n == 1),
        uses: read_uses(&folder, name, mounts)?,
        partitions: read_partitions(&folder, roots)?,
        content: if probed { read_content(&node, size, sector_bytes) } else { None },
    }))
}

/// From sysfs alone, which answers also when the disk does not.
pub(super) fn read_kind(roots: &Roots, name: &str) -> DiskKind {
    let folder = roots.sys.join("block").join(name);
    // An image that the BMC plugs in comes and goes, also one that says it is fixed.
    let removable = read_number(&folder.join("removable")) == Some(1) || is_bmc_medium_at(&folder);
    kind_of(name, removable)
}

fn kind_of(name: &str, removable: bool) -> DiskKind {
    const BY_NAME: [(&str, DiskKind); 8] = [
        ("sr", DiskKind::Optical),
        ("fd", DiskKind::Floppy),
        ("loop", DiskKind::Loop),
        ("ram", DiskKind::Ram),
        ("zram", DiskKind::Zram),
        ("dm-", DiskKind::DeviceMapper),
        ("md", DiskKind::Md),
        ("nbd", DiskKind::Nbd),
    ];
    let begins = |prefix: &str| {
        let rest = name.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit() || c == '_'))
    };
    if name.starts_with("mmcblk") && name.contains("boot") {
        return DiskKind::EmmcBoot;
    }
    match BY_NAME.iter().find(|(prefix, _)| begins(prefix)) {
        Some((_, kind)) => *kind,
        None if removable => DiskKind::Removable,
        None => DiskKind::Fixed,
    }
}

/// virtio and NVMe have a file `serial`; SCSI and SATA the vital product data page 0x80 after four bytes of header.
fn read_serial(folder: &Path) -> Option<String> {
    first_text(folder, &["serial", "device/serial"]).or_else(|| {
        let page = fs::read(folder.join("device/vpd_pg80")).ok()?;
        printable(&String::from_utf8_lossy(page.get(4..)?))
    })
}

fn first_text(folder: &Path, files: &[&str]) -> Option<String> {
    files.iter().find_map(|file| printable(&fs::read_to_string(folder.join(file)).ok()?))
}

fn printable(text: &str) -> Option<String> {
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn partition_names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let entry = entry.with_context(|| format!("listing {}", folder.display()))?;
        if entry.path().join("partition").exists() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

fn read_partitions(folder: &Path, roots: &Roots) -> Result<Vec<PartitionFacts>> {
    let mut partitions: Vec<PartitionFacts> =
        partition_names(folder)?.into_iter().filter_map(|name| read_partition(folder, name, roots)).collect();
    partitions.sort_by_key(|partition| partition.number);
    Ok(partitions)
}

/// `None` when the partition went away meanwhile.
fn read_partition(folder: &Path, name: String, roots: &Roots) -> Option<PartitionFacts> {
    let file = |file: &str| read_number(&folder.join(&name).join(file));
    let signature = read_signature(&roots.dev.join(node_name(&name)));
    Some(PartitionFacts {
        number: u32::try_from(file("partition")?).ok()?,
        start: Bytes(file("start")?.saturating_mul(512)),
        size: Bytes(file("size")?.saturating_mul(512)),
        signature,
        name,
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

/// A line of mountinfo or swaps.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// `8:1`; empty for swap.
    number: String,
    source: String,
    /// `None`: swap.
    target: Option<String>,
}

fn read_mounts(roots: &Roots) -> Result<Vec<Mount>> {
    let mut mounts = parse_mountinfo(&read_if_there(&roots.proc.join("self/mountinfo"))?);
    mounts.extend(parse_swaps(&read_if_there(&roots.proc.join("swaps"))?));
    Ok(mounts)
}

/// A captured tree need not have it.
fn read_if_there(path: &Path) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// proc(5): `36 35 98:0 /root /mnt rw - ext3 /dev/root rw`, with any number of optional fields before the dash.
fn parse_mountinfo(text: &str) -> Vec<Mount> {
    let parse = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let before: Vec<&str> = before.split(' ').collect();
        Some(Mount {
            number: (*before.get(2)?).to_owned(),
            source: after.split(' ').nth(1)?.to_owned(),
            target: Some((*before.get(4)?).to_owned()),
        })
    };
    text.lines().filter_map(parse).collect()
}

/// proc(5): a heading, then `/dev/sda2 partition 524284 0 -2`.
fn parse_swaps(text: &str) -> Vec<Mount> {
    let sources = text.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    sources.map(|source| Mount { number: String::new(), source: source.to_owned(), target: None }).collect()
}

fn read_uses(folder: &Path, name: &str, mounts: &[Mount]) -> Result<Vec<DiskUse>> {
    let mut uses = Vec::new();
    let own = std::iter::once((folder.to_owned(), name.to_owned()));
    let parts = partition_names(folder)?.into_iter().map(|part| (folder.join(&part), part));
    for (folder, name) in own.chain(parts) {
        let device = format!("/dev/{}", node_name(&name));
        let number = fs::read_to_string(folder.join("dev")).unwrap_or_default();
        // The number finds /dev/root; the source finds btrfs, which invents a number of its own.
        let fits =
            |mount: &&Mount| mount.source == device || (!mount.number.is_empty() && mount.number == number.trim());
        uses.extend(mounts.iter().filter(fits).map(|mount| match &mount.target {
            Some(target) => DiskUse::Mounted { device: device.clone(), target: target.clone() },
            None => DiskUse::Swap { device: device.clone() },
        }));
        if let Ok(holders) = fs::read_dir(folder.join("holders")) {
            uses.extend(holders.flatten().map(|holder| {
                let by = format!("/dev/{}", node_name(&holder.file_name().to_string_lossy()));
                DiskUse::Held { device: device.clone(), by }
            }));
        }
    }
    Ok(uses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_kind() {
        let kinds = [
            ("sda", DiskKind::Fixed),
            ("nvme0n1", DiskKind::Fixed),
            ("mmcblk0", DiskKind::Fixed),
            ("mmcblk0boot1", DiskKind::EmmcBoot),
            ("sr0", DiskKind::Optical),
            ("fd0", DiskKind::Floppy),
            ("loop7", DiskKind::Loop),
            ("ram15", DiskKind::Ram),
            ("zram0", DiskKind::Zram),
            ("dm-3", DiskKind::DeviceMapper),
            ("md127", DiskKind::Md),
            ("md_d0", DiskKind::Md),
        ];
        for (name, kind) in kinds {
            assert_eq!(kind_of(name, false), kind, "{name}");
        }
        assert_eq!(kind_of("sdb", true), DiskKind::Removable);
    }

    #[test]
    fn mountinfo_with_and_without_optional_fields() {
        let text =
            "29 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n30 29 0:26 / /sub rw - btrfs /dev/sdb1 rw\nodd\n";
        let mounts = parse_mountinfo(text);
        let shown: Vec<_> =
            mounts.iter().map(|m| (m.number.as_str(), m.source.as_str(), m.target.as_deref())).collect();
        assert_eq!(shown, [("254:0", "/dev/vda", Some("/")), ("0:26", "/dev/sdb1", Some("/sub"))]);
    }

    #[test]
    fn reads_a_small_captured_machine() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("sys/block/sda/size", "2048000\n");
        write("sys/block/sda/dev", "8:0\n");
        write("sys/block/sda/queue/logical_block_size", "4096\n");
        write("sys/block/sda/queue/rotational", "1\n");
        write("sys/block/sda/device/vpd_pg80", "\0\u{1}\0\u{4} S3R1AL  ");
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
