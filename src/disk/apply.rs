//! Carries out a plan: looks at the disks once more, then partitions, then file systems. And undoes what was made.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::device::{partition_node, read_disk_at};
use super::filesystem::{make_filesystem, missing_tools};
use super::partition::{blank_disk, erase_signatures, partition_disk};
use super::plan::{DiskAction, DiskPlan, FilesystemAction, FilesystemPlan, Place, Plan};
use crate::sys::roots::Roots;

/// Makes the disks as planned. `progress` gets one line per step, before it.
///
/// Blocks for as long as the disks take. After an error, disks may be half-made: see [`wipe_filesystems`].
pub fn apply(plan: &Plan, progress: &mut dyn FnMut(&str)) -> Result<()> {
    let roots = Roots::system();
    check_again(&roots, plan)?;
    for disk in &plan.disks {
        let device = &disk.disk.device;
        match disk.action {
            DiskAction::Partition => {
                progress(&format!("writing {} partitions to {device}", disk.partitions.len()));
                partition_disk(&roots, disk).with_context(|| format!("partitioning {device}"))?;
            }
            DiskAction::Blank => {
                progress(&format!("blanking {device}"));
                blank_disk(disk).with_context(|| format!("blanking {device}"))?;
            }
            DiskAction::Keep => progress(&format!("keeping {device}")),
        }
    }
    for filesystem in plan.filesystems.iter().filter(|fs| fs.action == FilesystemAction::Make) {
        let node = node(&roots, plan, filesystem)?;
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
fn check_again(roots: &Roots, plan: &Plan) -> Result<()> {
    let mut faults = Vec::new();
    for disk in &plan.disks {
        match differences(roots, disk) {
            Ok(found) => faults.extend(found),
            Err(error) => faults.push(format!("{error:#}")),
        }
    }
    let missing = missing_tools(plan.filesystems.iter().filter(|fs| fs.action == FilesystemAction::Make));
    faults.extend(missing.iter().map(|tool| format!("{tool} is needed for this layout and is not there")));
    if !faults.is_empty() {
        bail!("nothing was written, since the machine is not as planned: {}", faults.join("; "));
    }
    Ok(())
}

fn differences(roots: &Roots, plan: &DiskPlan) -> Result<Vec<String>> {
    let (planned, now) = (&plan.disk, read_disk_at(roots, &plan.disk.device)?);
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
    faults.extend(now.uses.iter().map(|use_| format!("{device} is in use: {use_}")));
    Ok(faults)
}

/// Makes sure that nothing half-done boots: removes the tables and signatures of all disks that the plan made.
/// Kept disks are left alone. Everything must be unmounted. All disks are tried; the first error is returned.
pub fn wipe_filesystems(plan: &Plan) -> Result<()> {
    let mut result = Ok(());
    for disk in plan.disks.iter().filter(|disk| disk.action.is_made()) {
        let wiped = wipe_disk(disk).with_context(|| format!("wiping {}", disk.disk.device));
        if let Err(error) = &wiped {
            tracing::warn!(disk = %disk.disk.device, error = format!("{error:#}"), "disk still has what was half-made");
        }
        result = result.and(wiped);
    }
    result
}

fn wipe_disk(disk: &DiskPlan) -> Result<()> {
    // Without O_EXCL: even if somebody holds the disk, removing the boot sector is right.
    let file = File::options().read(true).write(true).custom_flags(nix::libc::O_SYNC).open(&disk.disk.device);
    let file = file.context("opening it")?;
    erase_signatures(disk, &file)?;
    file.sync_all().context("flushing it")?;
    // So that the kernel has no partitions of a table that is gone; refused while one is mounted, which is no harm.
    if let Err(error) = crate::sys::block::reread_partitions(std::os::fd::AsFd::as_fd(&file)) {
        tracing::warn!(disk = %disk.disk.device, %error, "the kernel still has the partitions");
    }
    Ok(())
}
