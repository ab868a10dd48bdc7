//! Arrays of the layout.

use uuid::Uuid;

use super::Planner;
use super::stack::bytes_at_most;
use crate::api::layout::Raid;
use crate::api::layout::values::RaidLevel;
use crate::disk::fault::Fault;
use crate::disk::plan::{ArrayPlan, Plan, StackAction};

impl<I: FnMut() -> Uuid> Planner<'_, I> {
    pub(super) fn plan_arrays(&mut self, plan: &Plan) -> Vec<ArrayPlan> {
        let mut arrays: Vec<ArrayPlan> = Vec::new();
        for raid in &self.layout.raid {
            if arrays.iter().any(|array| array.device == raid.arrayname) {
                self.faults.push(Fault::ArrayTwice { device: raid.arrayname.clone() });
                continue;
            }
            arrays.extend(self.plan_array(raid, plan));
        }
        arrays
    }

    fn plan_array(&mut self, raid: &Raid, plan: &Plan) -> Option<ArrayPlan> {
        let device = raid.arrayname.clone();
        if !is_array_name(&device) {
            self.faults.push(Fault::ArrayName { device: device.clone() });
        }
        for option in raid.createoptions.iter().filter(|option| option.contains(char::is_whitespace)) {
            self.faults.push(Fault::ArrayOption { device: device.clone(), option: option.clone() });
        }
        let members = self.take_members(&device, &raid.devices);
        let action = self.action_of(&device, &members, plan);
        // Told by validate_devices.
        let level = RaidLevel::parse(&raid.level)?;
        self.check_count(raid, level);
        let uuid = match action {
            StackAction::Make => Some((self.new_id)()),
            StackAction::Keep => None,
        };
        let array = ArrayPlan {
            device,
            action,
            level,
            uuid,
            members,
            spares: raid.spares,
            create_options: raid.createoptions.clone(),
        };
        // It has no room for the layout, without which the kernel does not start one with members of different sizes.
        if level == RaidLevel::Raid0 && array.metadata() == Some("0.90") {
            self.faults.push(Fault::Raid0Metadata { device: array.device.clone() });
        }
        self.check_member_sizes(&array, plan);
        Some(array)
    }

    fn check_count(&mut self, raid: &Raid, level: RaidLevel) {
        let (device, devices, spares) = (raid.arrayname.clone(), raid.devices.len(), raid.spares);
        let active = devices.saturating_sub(usize::try_from(spares).unwrap_or(usize::MAX));
        if active < 2 {
            self.faults.push(Fault::MembersTooFew { device, level: level.as_str(), devices, spares });
        } else if level == RaidLevel::Raid0 && spares > 0 {
            self.faults.push(Fault::SparesUseless { device, spares });
        }
    }

    fn check_member_sizes(&mut self, array: &ArrayPlan, plan: &Plan) {
        for member in &array.members {
            // 1 MiB is what mdadm leaves free before the data at least, and an array needs some data.
            if bytes_at_most(&member.place, plan).is_some_and(|bytes| bytes < 4 << 20) {
                let (array, member) = (array.device.clone(), member.device.clone());
                self.faults.push(Fault::MemberTooSmall { array, member });
            }
        }
    }
}

/// The names that mdadm makes nodes for.
fn is_array_name(device: &str) -> bool {
    let Some(rest) = device.strip_prefix("/dev/md") else { return false };
    match rest.strip_prefix('/') {
        Some(name) => {
            let word = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !name.is_empty() && name.len() <= 31 && name.chars().all(word) && !name.starts_with(['.', '-'])
        }
        None => rest.len() <= 3 && rest.parse::<u32>().is_ok_and(|number| number.to_string() == rest && number < 512),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn array_names_are_those_of_mdadm() {
        for name in ["/dev/md0", "/dev/md127", "/dev/md/root", "/dev/md/data-1"] {
            assert!(is_array_name(name), "{name}");
        }
        for name in ["/dev/md", "/dev/md/", "/dev/md00", "/dev/md512", "/dev/md+1", "md0", "/dev/md/a/b", "/dev/sda"] {
            assert!(!is_array_name(name), "{name}");
        }
    }
}
