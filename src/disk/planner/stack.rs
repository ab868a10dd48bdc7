//! What devices of the layout are: where they lie, who uses them, how large they are, whether they are kept.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::Planner;
use crate::api::layout::partition_device;
use crate::disk::fault::Fault;
use crate::disk::plan::{DiskAction, Member, Place, Plan, StackAction};

/// Who uses which device: an array, a volume group; file systems have a fault of their own.
#[derive(Default)]
pub(super) struct Users {
    by_device: BTreeMap<String, String>,
}

impl<I: FnMut() -> Uuid> Planner<'_, I> {
    /// `None`: not of this layout, which [`crate::api::layout::validate::validate_devices`] has told.
    pub(super) fn locate(&self, device: &str) -> Option<Place> {
        for disk in &self.layout.disks {
            if disk.device == device {
                return Some(Place::WholeDisk { disk: disk.device.clone() });
            }
            if let Some(partition) = disk.partitions.iter().find(|p| partition_device(&disk.device, p.number) == device)
            {
                return Some(Place::Partition { disk: disk.device.clone(), number: partition.number });
            }
        }
        if self.layout.raid.iter().any(|raid| raid.arrayname == device) {
            return Some(Place::Array { device: device.to_owned() });
        }
        let volume =
            self.layout.logicalvolumes.iter().find(|lv| format!("/dev/{}/{}", lv.volumegroup, lv.name) == device);
        volume.map(|lv| Place::Volume { group: lv.volumegroup.clone(), name: lv.name.clone() })
    }

    /// The members of `user`, each of which nobody else may use.
    pub(super) fn take_members(&mut self, user: &str, devices: &[String]) -> Vec<Member> {
        let mut members = Vec::new();
        for device in devices {
            let Some(place) = self.locate(device) else { continue };
            self.take(device, user);
            self.check_bare(device, &place);
            members.push(Member { device: device.clone(), place });
        }
        members
    }

    pub(super) fn take(&mut self, device: &str, user: &str) {
        if let Some(first) = self.users.by_device.insert(device.to_owned(), user.to_owned()) {
            self.faults.push(Fault::DeviceTwice { device: device.to_owned(), first, second: user.to_owned() });
        }
    }

    /// Array or volume group on a device, if there is one.
    pub(super) fn user_of(&self, device: &str) -> Option<String> {
        self.users.by_device.get(device).cloned()
    }

    /// A whole disk with partitions is no device to be used.
    pub(super) fn check_bare(&mut self, device: &str, place: &Place) {
        if let Place::WholeDisk { disk } = place
            && self.layout.disks.iter().any(|d| &d.device == disk && !d.partitions.is_empty())
        {
            self.faults.push(Fault::UsedOverPartitions { device: device.to_owned() });
        }
    }

    /// Kept when all disks below are. What is half on kept disks can be neither kept nor made.
    pub(super) fn action_of(&mut self, user: &str, members: &[Member], plan: &Plan) -> StackAction {
        let kept = members.iter().filter(|member| is_kept(&member.place, plan)).count();
        if kept == 0 {
            return StackAction::Make;
        }
        if kept != members.len() {
            self.faults.push(Fault::PartlyKept { user: user.to_owned() });
        }
        StackAction::Keep
    }
}

/// Whether nothing is to be written there.
pub(super) fn is_kept(place: &Place, plan: &Plan) -> bool {
    match place {
        Place::Partition { disk, .. } | Place::WholeDisk { disk } => {
            plan.disk(disk).is_some_and(|disk| disk.action == DiskAction::Keep)
        }
        Place::Array { device } => plan.array(device).is_some_and(|array| array.action == StackAction::Keep),
        Place::Volume { group, .. } => plan.group(group).is_some_and(|group| group.action == StackAction::Keep),
        Place::Memory => false,
    }
}

/// At most so many bytes can be used of a place: super blocks of arrays, whose sizes are mdadm's choice, are not taken
/// off. `None`: not known, because of another fault.
pub(super) fn bytes_at_most(place: &Place, plan: &Plan) -> Option<u64> {
    use crate::api::layout::values::RaidLevel::{Raid0, Raid1};
    match place {
        Place::Partition { disk, number } => {
            let partition = plan.disk(disk)?.partitions.iter().find(|p| p.number == *number)?;
            Some(partition.size.0)
        }
        Place::WholeDisk { disk } => Some(plan.disk(disk)?.disk.size.0),
        Place::Array { device } => {
            let array = plan.array(device)?;
            let sizes: Option<Vec<u64>> = array.members.iter().map(|m| bytes_at_most(&m.place, plan)).collect();
            let sizes = sizes?;
            match array.level {
                // With members of different sizes every one counts in full.
                Raid0 => Some(sizes.iter().sum()),
                Raid1 => sizes.into_iter().min(),
            }
        }
        Place::Volume { group, name } => {
            let volume = plan.group(group)?.volumes.iter().find(|volume| &volume.name == name)?;
            volume.size.map(|size| size.0)
        }
        Place::Memory => None,
    }
}
