//! Carries out a plan: looks at the disks once more, then partitions, then file systems. And undoes what was made.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use thiserror::Error;

use super::device::{DiskFacts, partition_node, read_disk_at, read_signature};
use super::filesystem::{make_filesystem, missing_tools};
use super::partition::{blank_disk, erase_signatures, forget_partitions, partition_disk};
use super::plan::{DiskAction, DiskPlan, FilesystemAction, FilesystemPlan, FilesystemUuid, Place, Plan};
use super::table::{Copy, read_gpt};
use crate::sys::roots::Roots;

/// Why a plan was not carried out, and whether disks have changed.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// Nothing was written.
    #[error("nothing was written, since the machine is not as planned: {}", .0.join("; "))]
    NotAsPlanned(Vec<String>),
    /// Disks were written to; [`wipe_filesystems`] makes sure that they do not boot.
    #[error("the disks are half-made")]
    HalfMade(#[source] anyhow::Error),
}

/// Makes the disks as planned. `progress` gets one line per step, before it. Blocks for as long as the disks take.
pub fn apply(plan: &Plan, progress: &mut dyn FnMut(&str)) -> Result<(), ApplyError> {
    let roots = Roots::system();
    let faults = check_again(&roots, plan);
    if !faults.is_empty() {
        return Err(ApplyError::NotAsPlanned(faults));
    }
    make_disks(&roots, plan, progress)
        .and_then(|()| make_filesystems(&roots, plan, progress))
        .map_err(ApplyError::HalfMade)
}

fn make_disks(roots: &Roots, plan: &Plan, progress: &mut dyn FnMut(&str)) -> Result<()> {
    for disk in &plan.disks {
        let device = &disk.disk.device;
        match disk.action {
            DiskAction::Partition => {
                progress(&format!("writing {} partitions to {device}", disk.partitions.len()));
                partition_disk(roots, disk).with_context(|| format!("partitioning {device}"))?;
            }
            DiskAction::Blank => {
                progress(&format!("blanking {device}"));
                blank_disk(roots, disk).with_context(|| format!("blanking {device}"))?;
            }
            DiskAction::Keep => progress(&format!("keeping {device}")),
        }
    }
    Ok(())
}

fn make_filesystems(roots: &Roots, plan: &Plan, progress: &mut dyn FnMut(&str)) -> Result<()> {
    for filesystem in plan.filesystems.iter().filter(|fs| fs.action == FilesystemAction::Make) {
        let node = node(roots, plan, filesystem)?;
        progress(&format!("making {} on {}", filesystem.format, node.display()));
        make_filesystem(filesystem, &node, plan.mode)
            .with_context(|| format!("making {} on {}", filesystem.format, node.display()))?;
    }
    Ok(())
}

/// The kernel's node for a file system's device.
pub fn node(roots: &Roots, plan: &Plan, filesystem: &FilesystemPlan) -> Result<PathBuf> {
    match &filesystem.place {
        Place::Partition { disk, number } => {
            let disk = plan.disk(disk).with_context(|| format!("{disk} is not in the plan"))?;
            partition_node(roots, &disk.disk.name, *number)
        }
        Place::WholeDisk { disk } => Ok(PathBuf::from(disk)),
        Place::Memory => bail!("{} has no device", filesystem.format),
    }
}

/// Names of disks change between boots and when one is plugged; what is erased must be the disk of the plan.
fn check_again(roots: &Roots, plan: &Plan) -> Vec<String> {
    let mut faults = Vec::new();
    for disk in &plan.disks {
        match read_disk_at(roots, &disk.disk.device) {
            Ok(now) => {
                faults.extend(differences(&disk.disk, &now));
                faults.extend(now.uses.iter().map(|use_| format!("{} is in use: {use_}", now.device)));
            }
            Err(error) => faults.push(format!("{error:#}")),
        }
    }
    let missing = missing_tools(plan.filesystems.iter().filter(|fs| fs.action == FilesystemAction::Make));
    faults.extend(missing.iter().map(|tool| format!("{tool} is needed for this layout and is not there")));
    faults
}

fn differences(planned: &DiskFacts, now: &DiskFacts) -> Vec<String> {
    let device = &planned.device;
    let mut faults = Vec::new();
    if now.serial != planned.serial || now.wwn != planned.wwn {
        let shown = |serial: &Option<String>| serial.clone().unwrap_or_else(|| "none".to_owned());
        let (expected, found) = (shown(&planned.serial), shown(&now.serial));
        faults.push(format!("{device} is another disk: serial expected {expected}, found {found}"));
    }
    if (now.size, now.sector_bytes) != (planned.size, planned.sector_bytes) {
        let (expected, found) = (planned.size.0, now.size.0);
        faults.push(format!("{device} has another size: expected {expected} bytes, found {found}"));
    }
    faults
}

/// Makes sure that nothing half-done boots: removes the tables and signatures of all disks that the plan made. A disk
/// that does not carry what the plan would have written is left alone, and so are kept disks. Everything must be
/// unmounted. All disks are tried; the first error is returned.
pub fn wipe_filesystems(plan: &Plan) -> Result<()> {
    let mut result = Ok(());
    for disk in plan.disks.iter().filter(|disk| disk.action.is_made()) {
        let wiped = wipe_disk(plan, disk).with_context(|| format!("wiping {}", disk.disk.device));
        if let Err(error) = &wiped {
            tracing::warn!(disk = %disk.disk.device, error = format!("{error:#}"), "disk still has what was half-made");
        }
        result = result.and(wiped);
    }
    result
}

fn wipe_disk(plan: &Plan, disk: &DiskPlan) -> Result<()> {
    let (roots, device) = (Roots::system(), &disk.disk.device);
    let differences = differences(&disk.disk, &read_disk_at(&roots, device)?);
    ensure!(differences.is_empty(), "{}", differences.join("; "));
    // Without O_EXCL: even if somebody holds the disk, removing the boot sector is right.
    let file = File::options().read(true).write(true).open(device).context("opening it")?;
    if !is_made(plan, disk, &file) {
        tracing::info!(disk = %device, "nothing to wipe: the disk was not made");
        return Ok(());
    }
    erase_signatures(disk, &file)?;
    file.sync_all().context("flushing it")?;
    forget_partitions(&roots, device, &file)
}

/// The ids of a plan are its own, so they tell its work from everybody else's.
fn is_made(plan: &Plan, disk: &DiskPlan, file: &File) -> bool {
    let (size, sector) = (disk.disk.size.0, disk.disk.sector_bytes);
    let has_table = |copy| read_gpt(file, size, sector, copy).is_ok_and(|table| Some(table.disk_guid) == disk.guid);
    let whole = Place::WholeDisk { disk: disk.disk.device.clone() };
    let wanted = plan.filesystems.iter().find(|fs| fs.place == whole).and_then(|fs| fs.uuid.as_ref());
    let has_filesystem = |uuid: &FilesystemUuid| {
        read_signature(Path::new(&disk.disk.device)).and_then(|found| found.uuid) == Some(uuid.to_string())
    };
    has_table(Copy::Primary) || has_table(Copy::Backup) || wanted.is_some_and(has_filesystem)
}
