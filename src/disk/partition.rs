//! Writes partition tables, reads them back, and waits until the kernel has the partitions.
//!
//! Uses the entries and headers of the crate `gpt`, but not its `write()`: that numbers partitions anew, leaves out the
//! size in the protective MBR, and takes ranges past the end.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use gpt::disk::LogicalBlockSize;
use gpt::header::{Header, HeaderBuilder};
use gpt::mbr::ProtectiveMBR;
use gpt::partition_types::{OperatingSystem, Type};

use super::device::{partition_node, read_disk_at};
use super::plan::{DiskPlan, PartitionPlan};
use super::table::{Copy, GPT_ENTRIES, GptPartition, GptTable, gpt_array_sectors, read_gpt};
use crate::sys::block;
use crate::sys::roots::Roots;

/// At both ends of everything that is made anew: the farthest super block from an end is ZFS' within 512 KiB.
const SIGNATURE_BYTES: u64 = 1 << 20;
/// The kernel makes the nodes while it reads the table; only a loaded udev makes one wait.
const NODE_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// Removes old signatures, writes the new table, verifies it, and returns when the kernel has all partitions.
pub fn partition_disk(roots: &Roots, plan: &DiskPlan) -> Result<()> {
    let device = Path::new(&plan.disk.device);
    {
        let mut file = claim(device)?;
        erase_signatures(plan, &file)?;
        write_table(plan, &mut file)?;
        sync(&file).with_context(|| format!("flushing {}", device.display()))?;
        verify_table(plan, &file).with_context(|| format!("reading the new table of {} back", device.display()))?;
        tell_kernel(roots, plan, &file)
            .with_context(|| format!("telling the kernel of the new table of {}", device.display()))?;
    }
    wait_for_nodes(roots, plan)
}

/// Removes signatures of a disk that gets no table.
pub fn blank_disk(roots: &Roots, plan: &DiskPlan) -> Result<()> {
    let device = Path::new(&plan.disk.device);
    let file = claim(device)?;
    erase_signatures(plan, &file)?;
    sync(&file).with_context(|| format!("flushing {}", device.display()))?;
    forget_partitions(roots, &plan.disk.device, &file)
}

/// Exclusive: fails with EBUSY while anything on the disk is mounted or held.
fn claim(device: &Path) -> Result<File> {
    let options = || File::options().read(true).write(true).custom_flags(nix::libc::O_EXCL).open(device);
    retry_busy(options).with_context(|| format!("opening {} for itself alone", device.display()))
}

/// udev and blkid open disks for moments.
fn retry_busy<T>(mut act: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    let began = Instant::now();
    loop {
        match act() {
            Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) && began.elapsed() < NODE_LIMIT => sleep(POLL),
            other => return other,
        }
    }
}

/// One by one and not by BLKRRPART, since not every kernel can read a GPT, nor every device be read anew (a loop device
/// without the flag for it).
fn tell_kernel(roots: &Roots, plan: &DiskPlan, file: &File) -> Result<()> {
    forget_partitions(roots, &plan.disk.device, file)?;
    let sector = u64::from(plan.disk.sector_bytes);
    for partition in &plan.partitions {
        let (number, start, length) = (partition.number, partition.first_lba * sector, partition.size.0);
        block::add_partition(file.as_fd(), number, start, length)
            .with_context(|| format!("adding partition {number}"))?;
    }
    Ok(())
}

/// Takes all partitions of a disk from the kernel, with what it has cached of them.
pub fn forget_partitions(roots: &Roots, device: &str, file: &impl AsFd) -> Result<()> {
    for partition in read_disk_at(roots, device)?.partitions {
        match retry_busy(|| block::delete_partition(file.as_fd(), partition.number)) {
            Ok(()) => {}
            // Gone meanwhile.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENXIO) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("taking {} from the kernel", partition.name));
            }
        }
    }
    Ok(())
}

fn sync(file: &File) -> Result<()> {
    file.sync_all()?;
    if file.metadata()?.file_type().is_block_device() {
        block::flush_buffers(file.as_fd())?;
    }
    Ok(())
}

/// Zeros at both ends of the disk, of its old partitions and of its new ones, so that nothing old is found again.
pub fn erase_signatures(plan: &DiskPlan, file: &File) -> Result<()> {
    let (size, sector) = (plan.disk.size.0, u64::from(plan.disk.sector_bytes));
    let old = plan.disk.old_ranges().into_iter().map(|old| (old.start, old.end));
    let new = plan.partitions.iter().map(|p| (p.first_lba * sector, (p.last_lba + 1) * sector));
    let zeros = vec![0; SIGNATURE_BYTES as usize];
    for (start, end) in std::iter::once((0, size)).chain(old).chain(new) {
        let end = end.min(size);
        for offset in [start, end.saturating_sub(SIGNATURE_BYTES).max(start)] {
            // At most the length of `zeros`, so it fits usize.
            let length = end.saturating_sub(offset).min(SIGNATURE_BYTES);
            file.write_all_at(&zeros[..length as usize], offset)
                .with_context(|| format!("clearing {length} bytes at offset {offset} of {}", plan.disk.device))?;
        }
    }
    Ok(())
}

/// Zeros at both ends of a new array or logical volume: what lay on its members before may lie at its beginning now.
pub fn clear_ends(node: &Path) -> Result<()> {
    let mut file = claim(node)?;
    let size = file.seek(SeekFrom::End(0)).with_context(|| format!("asking {} for its size", node.display()))?;
    let zeros = vec![0; SIGNATURE_BYTES as usize];
    for offset in [0, size.saturating_sub(SIGNATURE_BYTES)] {
        // At most the length of `zeros`, so it fits usize.
        let length = (size - offset).min(SIGNATURE_BYTES) as usize;
        file.write_all_at(&zeros[..length], offset)
            .with_context(|| format!("clearing {length} bytes at offset {offset} of {}", node.display()))?;
    }
    sync(&file).with_context(|| format!("flushing {}", node.display()))
}

/// Writes both copies of the GPT and the protective MBR. The first copy goes last: without it the disk has no table,
/// so a power cut leaves nothing that looks finished.
pub fn write_table(plan: &DiskPlan, file: &mut File) -> Result<()> {
    let block = LogicalBlockSize::try_from(u64::from(plan.disk.sector_bytes)).context("choosing a sector size")?;
    let sectors = plan.disk.size.0 / u64::from(plan.disk.sector_bytes);
    check_ranges(plan, sectors)?;
    let mut backup = header(plan, sectors, block, Copy::Backup)?;
    write_entries(plan, &backup, block, file)?;
    backup.write_backup(file, block).context("writing the backup GPT header")?;
    file.sync_all().context("flushing the backup GPT")?;
    let mut primary = header(plan, sectors, block, Copy::Primary)?;
    write_entries(plan, &primary, block, file)?;
    primary.write_primary(file, block).context("writing the GPT header")?;
    // LBA 0 is the MBR's; a disk above 2^32 sectors says "all that I can count".
    let mbr = ProtectiveMBR::with_lb_size(u32::try_from(sectors - 1).unwrap_or(u32::MAX));
    file.seek(SeekFrom::Start(0)).context("seeking to the MBR")?;
    file.write_all(&mbr.to_bytes()).context("writing the protective MBR")?;
    Ok(())
}

/// The last guard before writing, whatever made the plan.
fn check_ranges(plan: &DiskPlan, sectors: u64) -> Result<()> {
    let array = gpt_array_sectors(plan.disk.sector_bytes);
    let (first, end) = (2 + array, sectors.saturating_sub(array + 1));
    let mut sorted: Vec<&PartitionPlan> = plan.partitions.iter().collect();
    sorted.sort_by_key(|p| p.first_lba);
    let mut free = first;
    for p in sorted {
        let number = p.number;
        ensure!((1..=GPT_ENTRIES).contains(&number), "partition number {number} has no entry in the table");
        ensure!(
            p.first_lba >= free && p.first_lba <= p.last_lba && p.last_lba < end,
            "partition {number} ({}-{}) is outside the free sectors {free}-{}",
            p.first_lba,
            p.last_lba,
            end.saturating_sub(1)
        );
        free = p.last_lba + 1;
    }
    Ok(())
}

fn header(plan: &DiskPlan, sectors: u64, block: LogicalBlockSize, copy: Copy) -> Result<Header> {
    let guid = plan.guid.context("the plan has no GUID for the table")?;
    let mut builder = HeaderBuilder::new();
    builder.disk_guid(guid).backup_lba(sectors - 1).num_parts(GPT_ENTRIES).primary(copy == Copy::Primary);
    builder.build(block).context("composing the GPT header")
}

/// The whole array, unused entries as well, since its checksum is over all of it.
fn write_entries(plan: &DiskPlan, header: &Header, block: LogicalBlockSize, file: &mut File) -> Result<()> {
    for number in 1..=GPT_ENTRIES {
        let entry =
            plan.partitions.iter().find(|p| p.number == number).map_or_else(gpt::partition::Partition::zero, entry);
        entry
            .write_to_device(file, u64::from(number - 1), header.part_start, block, header.part_size)
            .with_context(|| format!("writing GPT entry {number}"))?;
    }
    Ok(())
}

fn entry(partition: &PartitionPlan) -> gpt::partition::Partition {
    gpt::partition::Partition {
        part_type_guid: Type { guid: partition.gpt_type.guid(), os: OperatingSystem::None },
        part_guid: partition.guid,
        first_lba: partition.first_lba,
        last_lba: partition.last_lba,
        flags: 0,
        name: partition.name.clone(),
    }
}

/// Compares both copies on the disk with the plan.
pub fn verify_table(plan: &DiskPlan, file: &File) -> Result<()> {
    let mut wanted: Vec<GptPartition> = plan.partitions.iter().map(expected).collect();
    wanted.sort_by_key(|p| p.number);
    for copy in [Copy::Primary, Copy::Backup] {
        let found: GptTable = read_gpt(file, plan.disk.size.0, plan.disk.sector_bytes, copy)?;
        ensure!(
            Some(found.disk_guid) == plan.guid && found.partitions == wanted,
            "the {copy:?} GPT differs: expected {wanted:?}, found {:?}",
            found.partitions
        );
    }
    Ok(())
}

fn expected(plan: &PartitionPlan) -> GptPartition {
    GptPartition {
        number: plan.number,
        type_guid: plan.gpt_type.guid(),
        guid: plan.guid,
        first_lba: plan.first_lba,
        last_lba: plan.last_lba,
        name: plan.name.clone(),
    }
}

fn wait_for_nodes(roots: &Roots, plan: &DiskPlan) -> Result<()> {
    let began = Instant::now();
    loop {
        let missing = match missing_nodes(roots, plan) {
            Ok(missing) if missing.is_empty() => return Ok(()),
            Ok(missing) => missing.join(", "),
            Err(error) => format!("{error:#}"),
        };
        if began.elapsed() > NODE_LIMIT {
            bail!("after {} s the kernel has not: {missing}", NODE_LIMIT.as_secs());
        }
        sleep(POLL);
    }
}

fn missing_nodes(roots: &Roots, plan: &DiskPlan) -> Result<Vec<String>> {
    let now = read_disk_at(roots, &plan.disk.device)?;
    let sector = u64::from(plan.disk.sector_bytes);
    let mut missing = Vec::new();
    for wanted in &plan.partitions {
        let (number, start, size) = (wanted.number, wanted.first_lba * sector, wanted.size);
        let known = now.partitions.iter().any(|p| p.number == number && p.start.0 == start && p.size == size);
        let node = if known { partition_node(roots, &plan.disk.name, number).ok() } else { None };
        if !node.as_deref().is_some_and(is_block_device) {
            let node = node.unwrap_or_else(|| PathBuf::from("no node"));
            missing.push(format!("partition {number} of {} ({})", plan.disk.device, node.display()));
        }
    }
    Ok(missing)
}

fn is_block_device(node: &Path) -> bool {
    std::fs::metadata(node).is_ok_and(|metadata| metadata.file_type().is_block_device())
}
