//! Volume groups and logical volumes of the layout.

use uuid::Uuid;

use super::stack::bytes_at_most;
use super::{MIB, Planner};
use crate::api::layout::values::VolumeKind;
use crate::api::layout::{LogicalVolume, VolumeGroup};
use crate::disk::fault::Fault;
use crate::disk::plan::{GroupPlan, Plan, StackAction, VolumePlan};
use crate::sys::units::Bytes;

/// lvm's default, which no option of a layout changes.
const EXTENT: u64 = 4 * MIB;
/// Before the first extent of a physical volume: label and metadata.
const HEAD: u64 = MIB;
/// Characters of a name, and of group and volume together with what device mapper adds.
const NAME_LIMIT: usize = 127;

impl<I: FnMut() -> Uuid> Planner<'_, I> {
    pub(super) fn plan_groups(&mut self, plan: &Plan) -> Vec<GroupPlan> {
        let mut groups: Vec<GroupPlan> = Vec::new();
        for group in &self.layout.volumegroups {
            if groups.iter().any(|planned| planned.name == group.name) {
                self.faults.push(Fault::GroupTwice { name: group.name.clone() });
                continue;
            }
            groups.push(self.plan_group(group, plan));
        }
        groups
    }

    fn plan_group(&mut self, group: &VolumeGroup, plan: &Plan) -> GroupPlan {
        let user = format!("volume group {}", group.name);
        if !is_lvm_name(&group.name) {
            self.faults.push(Fault::VolumeName { name: group.name.clone() });
        }
        for tag in group.tags.iter().filter(|tag| !is_tag(tag)) {
            self.faults.push(Fault::GroupTag { group: group.name.clone(), tag: tag.clone() });
        }
        if group.devices.is_empty() {
            self.faults.push(Fault::GroupEmpty { name: group.name.clone() });
        }
        let devices = self.take_members(&user, &group.devices);
        let action = self.action_of(&user, &devices, plan);
        let device_uuids = match action {
            StackAction::Make => devices.iter().map(|_| (self.new_id)()).collect(),
            StackAction::Keep => Vec::new(),
        };
        let volumes = self.plan_volumes(&group.name);
        let name = group.name.clone();
        let planned = GroupPlan { name, action, devices, device_uuids, tags: group.tags.clone(), volumes };
        match action {
            StackAction::Make => self.check_volume_sizes(&planned, plan),
            StackAction::Keep => {}
        }
        planned
    }

    fn plan_volumes(&mut self, group: &str) -> Vec<VolumePlan> {
        let mut volumes: Vec<VolumePlan> = Vec::new();
        for volume in self.layout.logicalvolumes.iter().filter(|volume| volume.volumegroup == group) {
            if !is_lvm_name(&volume.name) {
                self.faults.push(Fault::VolumeName { name: volume.name.clone() });
            }
            if volumes.iter().any(|planned| planned.name == volume.name) {
                self.faults.push(Fault::VolumeTwice { group: group.to_owned(), name: volume.name.clone() });
                continue;
            }
            volumes.extend(plan_volume(volume));
        }
        volumes
    }

    /// Finds what cannot be, whatever way lvm lays volumes out.
    fn check_volume_sizes(&mut self, group: &GroupPlan, plan: &Plan) {
        let sizes: Option<Vec<u64>> = group.devices.iter().map(|d| bytes_at_most(&d.place, plan)).collect();
        let Some(sizes) = sizes.filter(|sizes| !sizes.is_empty()) else { return };
        let free: Vec<u64> = sizes.iter().map(|size| size.saturating_sub(HEAD) / EXTENT).collect();
        let (total, count) = (free.iter().sum::<u64>(), free.len() as u64);
        let needed: u64 = group.volumes.iter().map(|volume| extents_needed(volume, count)).fold(0, u64::saturating_add);
        if needed > total {
            let (needed_bytes, usable_bytes) = (needed.saturating_mul(EXTENT), total * EXTENT);
            return self.faults.push(Fault::VolumesTooLarge { group: group.name.clone(), needed_bytes, usable_bytes });
        }
        let smallest = free.iter().min().copied().unwrap_or(0);
        let pairs = (total / 2).min(total - free.iter().max().copied().unwrap_or(0));
        for volume in &group.volumes {
            let fits = match volume.kind {
                VolumeKind::Linear => true,
                VolumeKind::Striped => extents_needed(volume, count) / count <= smallest,
                VolumeKind::Raid1 => extents_needed(volume, count) / 2 <= pairs,
            };
            if !fits {
                let (group, name, kind) = (group.name.clone(), volume.name.clone(), volume.kind.as_str());
                self.faults.push(Fault::VolumeTooLarge { group, name, kind });
            }
        }
    }
}

/// `None`: its type is a fault already.
fn plan_volume(volume: &LogicalVolume) -> Option<VolumePlan> {
    let kind = VolumeKind::parse(&volume.lvmtype)?;
    let size = (volume.size != 0).then(|| Bytes(volume.size.saturating_mul(MIB)));
    Some(VolumePlan { name: volume.name.clone(), kind, size })
}

/// On all devices together. A mirror has an extent for its metadata beside each copy; what takes the rest needs at
/// least one extent.
fn extents_needed(volume: &VolumePlan, devices: u64) -> u64 {
    let extents = volume.size.map_or(1, |size| size.0.div_ceil(EXTENT));
    match volume.kind {
        VolumeKind::Linear => extents,
        VolumeKind::Striped => extents.div_ceil(devices).saturating_mul(devices),
        VolumeKind::Raid1 => extents.saturating_add(1).saturating_mul(2),
    }
}

/// lvm(8), "Valid names".
fn is_lvm_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || "+_.-".contains(c);
    let reserved = ["snapshot", "pvmove"].iter().any(|prefix| name.starts_with(prefix))
        || ["_cdata", "_cmeta", "_mimage", "_mlog", "_rimage", "_rmeta", "_tdata", "_tmeta", "_vorigin"]
            .iter()
            .any(|part| name.contains(part));
    (1..=NAME_LIMIT).contains(&name.len())
        && name.chars().all(word)
        && !name.starts_with('-')
        && !matches!(name, "." | "..")
        && !reserved
}

/// lvm(8): letters, digits and `_+.-/=!:&#`, not beginning with a dash.
fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || "_+.-/=!:&#".contains(c);
    !tag.is_empty() && tag.len() <= 1024 && tag.chars().all(word) && !tag.starts_with('-')
}
