//! Where the kernel has what a plan speaks of.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::device::partition_node;
use super::lvm::volume_node;
use super::plan::{Member, Place, Plan};
use crate::sys::roots::Roots;

/// The kernel's node of a place.
pub fn node(roots: &Roots, plan: &Plan, place: &Place) -> Result<PathBuf> {
    match place {
        Place::Partition { disk, number } => {
            let disk = plan.disk(disk).with_context(|| format!("{disk} is not in the plan"))?;
            partition_node(roots, &disk.disk.name, *number)
        }
        Place::WholeDisk { disk } => Ok(PathBuf::from(disk)),
        Place::Array { device } => Ok(PathBuf::from(device)),
        Place::Volume { group, name } => Ok(volume_node(group, name)),
        Place::Memory => bail!("what is in memory has no device"),
    }
}

/// In the members' order.
pub fn member_nodes(roots: &Roots, plan: &Plan, members: &[Member]) -> Result<Vec<PathBuf>> {
    let node = |member: &Member| {
        node(roots, plan, &member.place).with_context(|| format!("looking for the node of {}", member.device))
    };
    members.iter().map(node).collect()
}
