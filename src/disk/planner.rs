//! Decides what becomes of which disk. Pure: looks at nothing and changes nothing.
//!
//! In its order: disks are found by their names ([`super::selector`]), get their tables ([`disks`], [`partitions`]; of
//! those to be kept [`kept`]), arrays ([`raid`]), volume groups ([`lvm`]), file systems ([`filesystems`]), and what the
//! firmware needs ([`boot`]).

mod boot;
mod disks;
mod filesystems;
mod kept;
mod lvm;
mod partitions;
mod raid;
mod stack;

use uuid::Uuid;

use self::filesystems::mount_order;
use self::stack::Users;
use super::device::DiskFacts;
use super::fault::{Fault, Faults};
use super::plan::{Firmware, Mode, Plan};
use super::selector::{Resolved, resolve};
use crate::api::layout::FilesystemLayout;
use crate::api::layout::validate::validate_devices;

const MIB: u64 = 1 << 20;

/// The plan, or every fault.
pub fn plan(layout: &FilesystemLayout, disks: &[DiskFacts], firmware: Firmware, mode: Mode) -> Result<Plan, Faults> {
    plan_with(layout, disks, firmware, mode, Uuid::new_v4)
}

/// As [`plan`], with ids from `new_id`, so that the same input gives the same plan.
pub fn plan_with(
    layout: &FilesystemLayout,
    disks: &[DiskFacts],
    firmware: Firmware,
    mode: Mode,
    new_id: impl FnMut() -> Uuid,
) -> Result<Plan, Faults> {
    let mut faults: Vec<Fault> = validate_devices(layout).into_iter().map(Fault::Layout).collect();
    // From here on every disk has the name that it has on this machine.
    let Resolved { layout, selectors, faults: unresolved } = resolve(layout, disks);
    faults.extend(unresolved);
    let mut planner =
        Planner { layout: &layout, selectors, facts: disks, firmware, mode, new_id, faults, users: Users::default() };
    let disks = planner.plan_disks();
    let mut plan = Plan {
        layout: layout.id.clone(),
        firmware,
        mode,
        boot_disk: String::new(),
        disks,
        arrays: Vec::new(),
        groups: Vec::new(),
        filesystems: Vec::new(),
        mount_order: Vec::new(),
        untouched: planner.untouched(),
    };
    plan.arrays = planner.plan_arrays(&plan);
    plan.groups = planner.plan_groups(&plan);
    plan.filesystems = planner.plan_filesystems(&plan);
    plan.mount_order = mount_order(&plan.filesystems);
    plan.boot_disk = planner.check_boot(&plan).unwrap_or_default();
    planner.add_bios_boot(&mut plan);
    if planner.faults.is_empty() { Ok(plan) } else { Err(Faults(planner.faults)) }
}

struct Planner<'a, I> {
    layout: &'a FilesystemLayout,
    /// Disk's device and how the layout names it, where that is something else.
    selectors: Vec<(String, String)>,
    facts: &'a [DiskFacts],
    firmware: Firmware,
    mode: Mode,
    new_id: I,
    faults: Vec<Fault>,
    users: Users,
}

#[cfg(test)]
mod tests;
