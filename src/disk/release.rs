//! Gives arrays and volumes back when nothing uses them any more, so that a kexec or a reboot finds clean ones.

use anyhow::{Result, bail};

use super::lvm::deactivate_group;
use super::nodes::member_nodes;
use super::plan::{Plan, StackAction};
use super::raid::{check_whole, stop_array};
use crate::sys::roots::Roots;

/// Takes the plan's logical volumes and arrays from the kernel, the last made first. All are tried; every fault is told.
/// Everything must be unmounted. What was never started, or is not the plan's, is left alone.
///
/// A new array that is not whole by now is a fault as well, and is stopped all the same.
pub fn release(plan: &Plan) -> Result<()> {
    told(degraded(&Roots::system(), plan).into_iter().chain(stop_all(plan)).collect())
}

/// As [`release`], whatever state the arrays are in.
pub fn stop(plan: &Plan) -> Result<()> {
    told(stop_all(plan))
}

/// New arrays that are not whole any more, each with what it lacks. One that was kept may have been so before.
pub fn degraded(roots: &Roots, plan: &Plan) -> Vec<String> {
    let made = plan.arrays.iter().filter(|array| array.action == StackAction::Make);
    made.filter_map(|array| check_whole(roots, array).err()).map(|error| format!("{error:#}")).collect()
}

fn told(faults: Vec<String>) -> Result<()> {
    if faults.is_empty() { Ok(()) } else { bail!("{}", faults.join("; ")) }
}

fn stop_all(plan: &Plan) -> Vec<String> {
    let roots = Roots::system();
    let mut faults = Vec::new();
    for group in plan.groups.iter().rev() {
        // Without nodes of its devices the group was never made.
        let Ok(devices) = member_nodes(&roots, plan, &group.devices) else { continue };
        if let Err(error) = deactivate_group(group, &devices) {
            faults.push(format!("stopping volume group {}: {error:#}", group.name));
        }
    }
    for array in plan.arrays.iter().rev() {
        let Ok(members) = member_nodes(&roots, plan, &array.members) else { continue };
        if let Err(error) = stop_array(&roots, array, &members) {
            faults.push(format!("stopping {}: {error:#}", array.device));
        }
    }
    faults
}
