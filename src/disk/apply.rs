//! Carries out a plan: looks at the disks once more, then partitions, arrays, volumes,
//! file systems. And undoes what was made.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use thiserror::Error;

use super::device::{DiskFacts, read_disk_at, read_signature};
use super::filesystem::{make_filesystem, missing_tools};
use super::kernel::prepare_kernel;
use super::lvm::{LVM, activate_group, create_group, volume_node};
use super::nodes::{member_nodes, node};
use super::partition::{blank_disk, clear_ends, erase_signatures, forget_partitions, partition_disk};
use super::plan::{DiskAction, DiskPlan, FilesystemAction, FilesystemPlan, FilesystemUuid, Place, Plan, StackAction};
use super::probe::{parse_raid_at_end, raid_super_at_end};
use super::raid::{MDADM, assemble_array, create_array, is_running};
use super::release::{degraded, stop};
use super::table::{Copy, read_gpt};
use super::tool::has_tool;
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
    let mut steps = Steps::new(progress);
    make_disks(&roots, plan, &mut |line| steps.begin(line))
        .and_then(|()| make_arrays(&roots, plan, &mut |line| steps.begin(line)))
        .and_then(|()| make_groups(&roots, plan, &mut |line| steps.begin(line)))
        .and_then(|()| make_filesystems(&roots, plan, &mut |line| steps.begin(line)))
        .and_then(|()| {
            let degraded = degraded(&roots, plan);
            ensure!(degraded.is_empty(), "{}", degraded.join("; "));
            Ok(())
        })
        .map_err(ApplyError::HalfMade)?;
    tracing::info!("{steps}");
    Ok(())
}

/// Tells each step before it, and at last how long each took. One ends where the next begins.
struct Steps<'a> {
    progress: &'a mut dyn FnMut(&str),
    begun: Vec<(String, Instant)>,
}

impl<'a> Steps<'a> {
    fn new(progress: &'a mut dyn FnMut(&str)) -> Self {
        Self { progress, begun: Vec::new() }
    }

    fn begin(&mut self, line: &str) {
        (self.progress)(line);
        self.begun.push((line.to_owned(), Instant::now()));
    }
}

impl std::fmt::Display for Steps<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let now = Instant::now();
        let seconds = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64();
        write!(f, "disks made in {:.2} s", self.begun.first().map_or(0.0, |(_, begun)| seconds(*begun, now)))?;
        let ends = self.begun.iter().skip(1).map(|(_, begun)| *begun).chain([now]);
        self.begun
            .iter()
            .zip(ends)
            .try_for_each(|((line, begun), end)| write!(f, "; {line}: {:.2} s", seconds(*begun, end)))
    }
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

fn make_arrays(roots: &Roots, plan: &Plan, progress: &mut dyn FnMut(&str)) -> Result<()> {
    for array in &plan.arrays {
        let device = &array.device;
        if array.action == StackAction::Keep {
            progress(&format!("keeping {device}"));
            continue;
        }
        let members = member_nodes(roots, plan, &array.members)?;
        progress(&format!("making {} {device} of {}", array.level.as_str(), listed(&members)));
        create_array(roots, array, &members)
            .and_then(|()| clear_ends(Path::new(device)))
            .with_context(|| format!("making {device}"))?;
    }
    Ok(())
}

fn make_groups(roots: &Roots, plan: &Plan, progress: &mut dyn FnMut(&str)) -> Result<()> {
    for group in &plan.groups {
        let name = &group.name;
        if group.action == StackAction::Keep {
            progress(&format!("keeping volume group {name}"));
            continue;
        }
        let devices = member_nodes(roots, plan, &group.devices)?;
        progress(&format!("making volume group {name} of {}", listed(&devices)));
        create_group(group, &devices).with_context(|| format!("making volume group {name}"))?;
        for volume in &group.volumes {
            let node = volume_node(name, &volume.name);
            clear_ends(&node).with_context(|| format!("clearing {}", node.display()))?;
        }
    }
    Ok(())
}

fn listed(nodes: &[PathBuf]) -> String {
    nodes.iter().map(|node| node.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn make_filesystems(roots: &Roots, plan: &Plan, progress: &mut dyn FnMut(&str)) -> Result<()> {
    for filesystem in plan.filesystems.iter().filter(|fs| fs.action == FilesystemAction::Make) {
        let node = node(roots, plan, &filesystem.place)?;
        progress(&format!("making {} on {}", filesystem.format, node.display()));
        make_filesystem(filesystem, &node, plan.mode)
            .with_context(|| format!("making {} on {}", filesystem.format, node.display()))?;
    }
    Ok(())
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
    let stack = [(MDADM, plan.arrays.is_empty()), (LVM, plan.groups.is_empty())];
    let stack = stack.into_iter().filter(|(tool, unused)| !unused && !has_tool(tool)).map(|(tool, _)| tool);
    let missing = missing_tools(plan.filesystems.iter().filter(|fs| fs.action == FilesystemAction::Make));
    faults.extend(
        missing.into_iter().chain(stack).map(|tool| format!("{tool} is needed for this layout and is not there")),
    );
    faults.extend(prepare_kernel(roots, plan));
    for array in plan.arrays.iter().filter(|array| is_running(roots, &array.device)) {
        faults.push(format!("{} is running already", array.device));
    }
    for group in &plan.groups {
        let nodes = group.volumes.iter().map(|volume| volume_node(&group.name, &volume.name));
        faults.extend(nodes.filter(|node| node.exists()).map(|node| format!("{} is active already", node.display())));
    }
    if faults.is_empty()
        && let Err(error) = start_kept(roots, plan)
    {
        faults.push(format!("{error:#}"));
        if let Err(error) = stop(plan) {
            tracing::warn!(error = format!("{error:#}"), "what was started can't be stopped again");
        }
    }
    faults
}

/// Starts arrays and groups that are to be kept, and looks whether they hold what the layout says.
fn start_kept(roots: &Roots, plan: &Plan) -> Result<()> {
    for array in plan.arrays.iter().filter(|array| array.action == StackAction::Keep) {
        let members = member_nodes(roots, plan, &array.members)?;
        assemble_array(array, &members).with_context(|| format!("starting {}, which is to be kept", array.device))?;
    }
    for group in plan.groups.iter().filter(|group| group.action == StackAction::Keep) {
        let devices = member_nodes(roots, plan, &group.devices)?;
        activate_group(group, &devices).with_context(|| format!("starting {}, which is to be kept", group.name))?;
    }
    let unseen = |fs: &&FilesystemPlan| fs.action == FilesystemAction::Keep && fs.uuid.is_none();
    for filesystem in plan.filesystems.iter().filter(unseen) {
        let found = read_signature(&node(roots, plan, &filesystem.place)?);
        let kind = found.as_ref().map_or("nothing known", |signature| signature.kind);
        ensure!(
            kind == filesystem.format.as_str(),
            "{} is to be kept, but holds {kind} instead of {}",
            filesystem.device,
            filesystem.format
        );
    }
    Ok(())
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
    let mut result = stop(plan);
    if let Err(error) = &result {
        tracing::warn!(error = format!("{error:#}"), "what was half-made can't be stopped");
    }
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
    has_table(Copy::Primary)
        || has_table(Copy::Backup)
        || wanted.is_some_and(has_filesystem)
        || is_member(plan, &whole, size, file)
}

/// Whether a whole disk carries the id of one of the plan's arrays, or that of a physical volume.
fn is_member(plan: &Plan, whole: &Place, size: u64, file: &File) -> bool {
    let arrays = plan.arrays.iter().filter(|array| array.members.iter().any(|member| member.place == *whole));
    let array_ids = arrays.filter_map(|array| array.uuid).map(|uuid| ("raid", uuid.to_string()));
    let devices = plan.groups.iter().flat_map(|group| group.devices.iter().zip(&group.device_uuids));
    let volume_ids =
        devices.filter(|(member, _)| member.place == *whole).map(|(_, uuid)| ("lvm", uuid.simple().to_string()));
    let mut super_block = [0; 256];
    let at_end = raid_super_at_end(size).and_then(|offset| file.read_exact_at(&mut super_block, offset).ok());
    let found = [
        whole.disk().and_then(|disk| read_signature(Path::new(disk))),
        at_end.and_then(|()| parse_raid_at_end(&super_block)),
    ];
    let found: Vec<_> = found.into_iter().flatten().collect();
    array_ids.chain(volume_ids).any(|(kind, id)| found.iter().any(|f| f.kind == kind && f.uuid.as_deref() == Some(&id)))
}
