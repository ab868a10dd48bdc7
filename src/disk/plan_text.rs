//! A plan for a person: disk by disk, with serial numbers, and what is lost first.

use std::fmt;

use super::plan::{
    ArrayPlan, DiskAction, DiskPlan, FilesystemAction, FilesystemPlan, Firmware, GroupPlan, Member, Mode,
    PartitionPlan, Place, Plan, StackAction,
};
use crate::api::layout::values::Format;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let firmware = match self.firmware {
            Firmware::Uefi => "UEFI",
            Firmware::Bios => "BIOS",
        };
        let mode = match self.mode {
            Mode::Install => "installation",
            Mode::Reinstall => "reinstallation",
        };
        writeln!(f, "{mode} of layout {:?}, booted by {firmware}", self.layout)?;
        for disk in &self.disks {
            self.write_disk(f, disk)?;
        }
        for array in &self.arrays {
            self.write_array(f, array)?;
        }
        for group in &self.groups {
            self.write_group(f, group)?;
        }
        for filesystem in &self.filesystems {
            if filesystem.format == Format::Tmpfs {
                writeln!(f, "tmpfs{}", at(filesystem))?;
            }
        }
        if !self.untouched.is_empty() {
            writeln!(f, "not in the layout, left alone: {}", self.untouched.join(", "))?;
        }
        writeln!(f, "boot disk: {}; mounted in this order: {}", self.boot_disk, self.mount_order.join(", "))
    }
}

/// For the list of events, which must not drown in it: bytes.
const SENTENCE_LIMIT: usize = 4096;

impl Plan {
    /// What is about to be done to which disk, in one line.
    pub fn sentence(&self) -> String {
        let mut text = format!("layout {:?}", self.layout);
        for (index, plan) in self.disks.iter().enumerate() {
            let DiskPlan { disk, action, loses, .. } = plan;
            let serial = disk.serial.as_deref().unwrap_or("none");
            let fate = match action {
                DiskAction::Partition => "new partition table",
                DiskAction::Blank => "blanked",
                DiskAction::Keep => "kept",
            };
            let lost = if action.is_made() && !loses.is_empty() {
                format!(", losing {}", loses.join(" and "))
            } else {
                String::new()
            };
            let disk = format!("; {} ({}, serial {serial}): {fate}{lost}", disk.device, disk.size);
            if text.len() + disk.len() > SENTENCE_LIMIT {
                return text + &format!("; and {} more disks", self.disks.len() - index);
            }
            text.push_str(&disk);
        }
        text
    }

    fn write_disk(&self, f: &mut fmt::Formatter<'_>, plan: &DiskPlan) -> fmt::Result {
        let disk = &plan.disk;
        let serial = disk.serial.as_deref().unwrap_or("none");
        let model = disk.model.as_deref().unwrap_or("no model name");
        let fate = match plan.action {
            DiskAction::Partition => "NEW PARTITION TABLE, all data is lost",
            DiskAction::Blank => "BLANKED, all data is lost",
            DiskAction::Keep => "kept, not written to",
        };
        let selector = plan.selector.as_ref().map(|text| format!("  (selected by {text:?})")).unwrap_or_default();
        writeln!(f, "{}  {}  {model}  serial {serial}{selector}: {fate}", disk.device, disk.size)?;
        if !plan.loses.is_empty() {
            writeln!(f, "  on it now: {}", plan.loses.join(", "))?;
        }
        for partition in &plan.partitions {
            self.write_partition(f, plan, partition)?;
        }
        let whole = Place::WholeDisk { disk: disk.device.clone() };
        if let Some(text) = self.content_of(&whole) {
            writeln!(f, "  whole disk: {text}")?;
        }
        Ok(())
    }

    /// What the plan puts on a place: a file system, or an array or volume group that it is part of.
    fn content_of(&self, place: &Place) -> Option<String> {
        let has = |members: &[Member]| members.iter().any(|member| member.place == *place);
        let array =
            self.arrays.iter().find(|array| has(&array.members)).map(|array| format!("part of {}", array.device));
        let group = self.groups.iter().find(|group| has(&group.devices));
        let group = group.map(|group| format!("part of volume group {}", group.name));
        let filesystem = || self.filesystems.iter().find(|fs| fs.place == *place).map(described);
        array.or(group).or_else(filesystem)
    }

    fn write_array(&self, f: &mut fmt::Formatter<'_>, array: &ArrayPlan) -> fmt::Result {
        let spares = if array.spares > 0 { format!(", the last {} spare", array.spares) } else { String::new() };
        let (fate, level) = (fate(array.action), array.level.as_str());
        write!(f, "{}  {level}: {fate}, of {}{spares}", array.device, listed(&array.members))?;
        match self.content_of(&Place::Array { device: array.device.clone() }) {
            Some(text) => writeln!(f, ": {text}"),
            None => writeln!(f),
        }
    }

    fn write_group(&self, f: &mut fmt::Formatter<'_>, group: &GroupPlan) -> fmt::Result {
        let tags = if group.tags.is_empty() { String::new() } else { format!(", tags {}", group.tags.join(" ")) };
        writeln!(f, "volume group {}: {}, of {}{tags}", group.name, fate(group.action), listed(&group.devices))?;
        for volume in &group.volumes {
            let size = volume.size.map_or("the rest".to_owned(), |size| size.to_string());
            let place = Place::Volume { group: group.name.clone(), name: volume.name.clone() };
            let content = self.content_of(&place).unwrap_or_default();
            writeln!(f, "  {:<12}  {size:>8}  {}  {content}", volume.name, volume.kind.as_str())?;
        }
        Ok(())
    }

    fn write_partition(&self, f: &mut fmt::Formatter<'_>, disk: &DiskPlan, partition: &PartitionPlan) -> fmt::Result {
        let place = Place::Partition { disk: disk.disk.device.clone(), number: partition.number };
        let content = self.content_of(&place);
        write!(
            f,
            "  {:>3}  {:>8}  {}  {:<12} sectors {}-{}",
            partition.number,
            partition.size,
            partition.gpt_type.code(),
            partition.name,
            partition.first_lba,
            partition.last_lba,
        )?;
        if let Some(text) = content {
            write!(f, "  {text}")?;
        }
        if let Some(reason) = partition.added {
            write!(f, "  (added: {reason})")?;
        }
        writeln!(f)
    }
}

fn fate(action: StackAction) -> &'static str {
    match action {
        StackAction::Make => "new",
        StackAction::Keep => "kept",
    }
}

fn listed(members: &[Member]) -> String {
    members.iter().map(|member| member.device.as_str()).collect::<Vec<_>>().join(", ")
}

fn described(filesystem: &FilesystemPlan) -> String {
    let mut text = match filesystem.action {
        FilesystemAction::Make => format!("new {}", filesystem.format),
        FilesystemAction::Keep => format!("kept {}", filesystem.format),
        FilesystemAction::Nothing => "left unformatted".to_owned(),
    };
    if let Some(label) = &filesystem.label {
        text.push_str(&format!(" {label:?}"));
    }
    text + &at(filesystem)
}

fn at(filesystem: &FilesystemPlan) -> String {
    filesystem.path.as_ref().map(|path| format!(" at {path}")).unwrap_or_default()
}
