//! Grows an image that is on a disk to the whole of it: the table, its last partition, and the file system in there.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Target;
use super::filesystem::{Content, grow_filesystem};
use super::gpt::Growth;
use crate::disk::device::{partition_node, read_disk_at};
use crate::disk::partition::forget_partitions;
use crate::disk::table::{Copy, read_gpt};
use crate::image::error::ImageError;
use crate::image::report::{Counters, Grown};
use crate::sys::block;
use crate::sys::roots::Roots;

/// The kernel makes the node at once; only a loaded udev makes one wait.
const NODE_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// The image is on the disk and holds.
pub(super) fn apply(target: Target, growth: &Growth, counters: &Counters) -> Result<(), ImageError> {
    let device = target.path().to_owned();
    write_table(&target, growth)?;
    let failed = |err: anyhow::Error| ImageError::Grow { device: device.clone(), source: err.into() };
    verify_table(&device, growth).map_err(failed)?;
    let node = tell_kernel(&target, growth).map_err(failed)?;
    // while we hold the disk nobody can mount a part of it
    drop(target);
    let (from, to) = growth.sizes();
    let content = grow_filesystem(&node).map_err(failed)?;
    if growth.mbr.is_none() {
        counters.warn(format!("{} has a hybrid MBR, whose sizes were left", device.display()));
    }
    let filesystem = match content {
        Content::Grown(kind) => Some(kind.to_owned()),
        Content::Left(kind) => {
            counters.warn(format!("{} is larger now; what is in it ({kind}) was left", node.display()));
            None
        }
    };
    tracing::info!(partition = %node.display(), %from, %to, filesystem, "image grown to the disk");
    counters.set_grown(Grown { partition: growth.after.number, from, to, filesystem });
    Ok(())
}

/// The backup goes first, and the first copy after it: at no time is there no table that holds.
fn write_table(target: &Target, growth: &Growth) -> Result<(), ImageError> {
    let sector = u64::from(growth.sector_bytes);
    let behind = (growth.after.last_lba + 1) * sector;
    // what an earlier system left there, such as its own backup
    target.zero(behind, growth.sectors * sector - behind)?;
    target.write(&growth.entries, growth.backup_entries_lba * sector)?;
    target.write(&growth.backup_header, (growth.sectors - 1) * sector)?;
    target.sync()?;
    target.write(&growth.entries, growth.entries_lba * sector)?;
    target.write(&growth.header, sector)?;
    if let Some(mbr) = &growth.mbr {
        target.write(mbr, 0)?;
    }
    target.sync()
}

/// By other code than wrote it.
fn verify_table(device: &Path, growth: &Growth) -> Result<()> {
    let file = File::open(device).with_context(|| format!("opening {}", device.display()))?;
    let size = growth.sectors * u64::from(growth.sector_bytes);
    for copy in [Copy::Primary, Copy::Backup] {
        let found = read_gpt(&file, size, growth.sector_bytes, copy)
            .with_context(|| format!("reading the {copy:?} GPT back"))?;
        let found: Vec<_> = found.partitions.iter().map(|p| (p.number, p.first_lba, p.last_lba)).collect();
        let wanted: Vec<_> = growth.partitions.iter().map(|p| (p.number, p.first_lba, p.last_lba)).collect();
        ensure!(found == wanted, "the {copy:?} GPT differs: expected {wanted:?}, found {found:?}");
    }
    Ok(())
}

/// Gives the kernel all partitions as they are now, and returns the grown one's node.
fn tell_kernel(target: &Target, growth: &Growth) -> Result<PathBuf> {
    let roots = Roots::system();
    let device = target.path().display().to_string();
    let file = target.as_file();
    forget_partitions(&roots, &device, file)?;
    let sector = u64::from(growth.sector_bytes);
    for extent in &growth.partitions {
        let length = (extent.last_lba + 1).saturating_sub(extent.first_lba);
        block::add_partition(file.as_fd(), extent.number, extent.first_lba * sector, length * sector)
            .with_context(|| format!("telling the kernel of partition {} of {device}", extent.number))?;
    }
    wait_for_node(&roots, &device, growth.after.number)
}

fn wait_for_node(roots: &Roots, device: &str, number: u32) -> Result<PathBuf> {
    let name = read_disk_at(roots, device)?.name;
    let began = Instant::now();
    loop {
        match partition_node(roots, &name, number) {
            Ok(node) if node.exists() => return Ok(node),
            Ok(_) | Err(_) if began.elapsed() < NODE_LIMIT => sleep(POLL),
            Ok(node) => bail!("after {} s there is no {}", NODE_LIMIT.as_secs(), node.display()),
            Err(error) => return Err(error),
        }
    }
}
