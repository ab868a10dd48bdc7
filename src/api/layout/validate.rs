//! What makes a layout valid, by itself and without looking at any machine.
//!
//! [`validate`] holds the rules of `/v1/filesystemlayout`; [`validate_devices`] those that the agent checks again before
//! it plans. Both name every fault with its place, not only the first.

use std::collections::BTreeSet;

use thiserror::Error;

use super::values::{Format, GptType, RaidLevel, VolumeKind};
use super::{Disk, FilesystemLayout, LogicalVolume, partition_device};

/// One fault and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{place}: {rule}")]
pub struct LayoutFault {
    /// `disks[0].partitions[2].size`, with positions from 0.
    pub place: String,
    pub rule: Rule,
}

/// The rule that was broken, with the value that broke it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Rule {
    #[error("the id is empty")]
    IdEmpty,
    #[error("unsupported format {0:?}; supported are vfat, ext3, ext4, xfs, btrfs, swap, tmpfs, none")]
    UnknownFormat(String),
    #[error("unsupported GPT type {0:?}; supported are ef00, 8300, fd00, 8e00, ef02")]
    UnknownGptType(String),
    #[error("unsupported RAID level {0:?}; supported are 0, 1")]
    UnknownRaidLevel(String),
    #[error("unsupported LVM type {0:?}; supported are linear, striped, raid1")]
    UnknownLvmType(String),
    #[error("partition number {number} is not between 1 and 255")]
    NumberOutOfRange { number: u32 },
    #[error("partition number {number} is used twice on {device}")]
    NumberTwice { device: String, number: u32 },
    #[error("partition number {number} is higher than the count of partitions, {count}")]
    NumberAboveCount { number: u32, count: usize },
    #[error("{device} has several partitions of size 0; only one can take the rest of the disk")]
    SeveralRests { device: String },
    #[error("partition {number} of {device} takes the rest of the disk, but partition {last} has the highest number")]
    RestNotLast { device: String, number: u32, last: u32 },
    #[error("{device} is not a device of this layout")]
    UnknownDevice { device: String },
    #[error("volume group {name:?} is not in this layout")]
    UnknownVolumeGroup { name: String },
    #[error("only the last logical volume may have size 0")]
    VolumeRestNotLast,
    #[error("a {lvmtype} volume needs at least 2 devices, volume group {volumegroup} has {devices}")]
    TooFewDevices { lvmtype: String, volumegroup: String, devices: usize },
    #[error("white space inside one option: {0:?}; give each word as an option of its own")]
    SpaceInOption(String),
    #[error("an operating system can't be \"*\"")]
    AnyOs,
    #[error("{0:?} is not a version constraint")]
    BadConstraint(String),
    #[error("a size can't contain \"*\": {0:?}")]
    AnySize(String),
    #[error("size {0:?} is given twice")]
    SizeTwice(String),
}

impl Rule {
    /// True for a word that the model does not have: the REST API answers these with 422 and all others with 400.
    pub fn is_unsupported_value(&self) -> bool {
        matches!(
            self,
            Self::UnknownFormat(_) | Self::UnknownGptType(_) | Self::UnknownRaidLevel(_) | Self::UnknownLvmType(_)
        )
    }
}

/// All rules for creating or changing a layout, except those that compare it with other layouts.
pub fn validate(layout: &FilesystemLayout) -> Vec<LayoutFault> {
    let mut faults = Faults::default();
    if layout.id.is_empty() {
        faults.add("id", Rule::IdEmpty);
    }
    faults.list.extend(validate_devices(layout));
    for (d, disk) in layout.disks.iter().enumerate() {
        let count = disk.partitions.len();
        for (p, partition) in disk.partitions.iter().enumerate() {
            let number = partition.number;
            if usize::try_from(number).is_ok_and(|n| n > count) {
                faults.add(format!("disks[{d}].partitions[{p}].number"), Rule::NumberAboveCount { number, count });
            }
        }
    }
    check_constraints(layout, &mut faults);
    faults.list
}

/// The rules about disks, arrays, volumes and file systems. Numbers with gaps are no fault here: they can be written.
pub fn validate_devices(layout: &FilesystemLayout) -> Vec<LayoutFault> {
    let mut faults = Faults::default();
    let mut known = BTreeSet::new();
    for (d, disk) in layout.disks.iter().enumerate() {
        known.insert(disk.device.clone());
        known.extend(disk.partitions.iter().map(|p| partition_device(&disk.device, p.number)));
        check_partitions(&format!("disks[{d}]"), disk, &mut faults);
    }
    check_raid(layout, &known, &mut faults);
    known.extend(layout.raid.iter().map(|raid| raid.arrayname.clone()));
    check_volume_groups(layout, &known, &mut faults);
    check_logical_volumes(layout, &mut faults);
    known.extend(layout.logicalvolumes.iter().map(|lv| format!("/dev/{}/{}", lv.volumegroup, lv.name)));
    check_filesystems(layout, &known, &mut faults);
    faults.list
}

#[derive(Default)]
struct Faults {
    list: Vec<LayoutFault>,
}

impl Faults {
    fn add(&mut self, place: impl Into<String>, rule: Rule) {
        self.list.push(LayoutFault { place: place.into(), rule });
    }
}

fn check_partitions(place: &str, disk: &Disk, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for (p, partition) in disk.partitions.iter().enumerate() {
        let place = format!("{place}.partitions[{p}]");
        let number = partition.number;
        if !(1..=255).contains(&number) {
            faults.add(format!("{place}.number"), Rule::NumberOutOfRange { number });
        } else if !seen.insert(number) {
            faults.add(format!("{place}.number"), Rule::NumberTwice { device: disk.device.clone(), number });
        }
        if let Some(code) = &partition.gpttype
            && GptType::parse(code).is_none()
        {
            faults.add(format!("{place}.gpttype"), Rule::UnknownGptType(code.clone()));
        }
    }
    check_rest(place, disk, faults);
}

fn check_rest(place: &str, disk: &Disk, faults: &mut Faults) {
    let rests: Vec<u32> = disk.partitions.iter().filter(|p| p.size == 0).map(|p| p.number).collect();
    let last = disk.partitions.iter().map(|p| p.number).max();
    let place = format!("{place}.partitions");
    match (rests.as_slice(), last) {
        ([], _) | (_, None) => {}
        ([number], Some(last)) if *number == last => {}
        ([number], Some(last)) => {
            faults.add(place, Rule::RestNotLast { device: disk.device.clone(), number: *number, last });
        }
        (_, Some(_)) => faults.add(place, Rule::SeveralRests { device: disk.device.clone() }),
    }
}

fn check_raid(layout: &FilesystemLayout, known: &BTreeSet<String>, faults: &mut Faults) {
    for (r, raid) in layout.raid.iter().enumerate() {
        if RaidLevel::parse(&raid.level).is_none() {
            faults.add(format!("raid[{r}].level"), Rule::UnknownRaidLevel(raid.level.clone()));
        }
        check_devices(&format!("raid[{r}].devices"), &raid.devices, known, faults);
    }
}

fn check_volume_groups(layout: &FilesystemLayout, known: &BTreeSet<String>, faults: &mut Faults) {
    for (g, group) in layout.volumegroups.iter().enumerate() {
        check_devices(&format!("volumegroups[{g}].devices"), &group.devices, known, faults);
    }
}

fn check_devices(place: &str, devices: &[String], known: &BTreeSet<String>, faults: &mut Faults) {
    for (i, device) in devices.iter().enumerate() {
        if !known.contains(device) {
            faults.add(format!("{place}[{i}]"), Rule::UnknownDevice { device: device.clone() });
        }
    }
}

fn check_logical_volumes(layout: &FilesystemLayout, faults: &mut Faults) {
    let count = layout.logicalvolumes.len();
    for (v, volume) in layout.logicalvolumes.iter().enumerate() {
        let place = format!("logicalvolumes[{v}]");
        if volume.size == 0 && v + 1 != count {
            faults.add(format!("{place}.size"), Rule::VolumeRestNotLast);
        }
        if VolumeKind::parse(&volume.lvmtype).is_none() {
            faults.add(format!("{place}.lvmtype"), Rule::UnknownLvmType(volume.lvmtype.clone()));
        }
        check_volume_in_group(&place, volume, layout, faults);
    }
}

fn check_volume_in_group(place: &str, volume: &LogicalVolume, layout: &FilesystemLayout, faults: &mut Faults) {
    let Some(group) = layout.volumegroups.iter().find(|group| group.name == volume.volumegroup) else {
        return faults
            .add(format!("{place}.volumegroup"), Rule::UnknownVolumeGroup { name: volume.volumegroup.clone() });
    };
    let devices = group.devices.len();
    if matches!(volume.lvmtype.as_str(), "striped" | "raid1") && devices < 2 {
        let (lvmtype, volumegroup) = (volume.lvmtype.clone(), group.name.clone());
        faults.add(format!("{place}.lvmtype"), Rule::TooFewDevices { lvmtype, volumegroup, devices });
    }
}

fn check_filesystems(layout: &FilesystemLayout, known: &BTreeSet<String>, faults: &mut Faults) {
    for (i, filesystem) in layout.filesystems.iter().enumerate() {
        let place = format!("filesystems[{i}]");
        match Format::parse(&filesystem.format) {
            Some(Format::Tmpfs) => continue,
            Some(
                Format::Vfat | Format::Ext3 | Format::Ext4 | Format::Xfs | Format::Btrfs | Format::Swap | Format::None,
            ) => {}
            None => faults.add(format!("{place}.format"), Rule::UnknownFormat(filesystem.format.clone())),
        }
        if !known.contains(&filesystem.device) {
            faults.add(format!("{place}.device"), Rule::UnknownDevice { device: filesystem.device.clone() });
        }
        for (o, option) in filesystem.createoptions.iter().enumerate() {
            if option.contains(char::is_whitespace) {
                faults.add(format!("{place}.createoptions[{o}]"), Rule::SpaceInOption(option.clone()));
            }
        }
    }
}

fn check_constraints(layout: &FilesystemLayout, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for (i, size) in layout.constraints.sizes.iter().enumerate() {
        let place = format!("constraints.sizes[{i}]");
        if size.contains('*') {
            faults.add(&place, Rule::AnySize(size.clone()));
        }
        if !seen.insert(size) {
            faults.add(&place, Rule::SizeTwice(size.clone()));
        }
    }
    for (os, constraint) in &layout.constraints.images {
        let place = format!("constraints.images[{os:?}]");
        if os == "*" {
            faults.add(&place, Rule::AnyOs);
        }
        if !is_constraint(constraint) {
            faults.add(&place, Rule::BadConstraint(constraint.clone()));
        }
    }
}

/// `*`, a version, or an operator, one blank and a version.
fn is_constraint(text: &str) -> bool {
    const OPERATORS: [&str; 11] = ["=", "!=", ">", "<", ">=", "=>", "<=", "=<", "~", "~>", "^"];
    match text.split_once(' ') {
        None => text == "*" || is_version(text),
        Some((operator, version)) => OPERATORS.contains(&operator) && is_version(version),
    }
}

/// One to three numbers with points between, perhaps a pre-release or build behind; leading zeros are allowed.
fn is_version(text: &str) -> bool {
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<&str> = core.split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    parts.len() <= 3
        && parts.iter().all(is_number)
        && !text.ends_with(['-', '+'])
        && !text.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn layout(value: serde_json::Value) -> FilesystemLayout {
        serde_json::from_value(value).expect("the test's layout is well-formed")
    }

    fn told(layout: &FilesystemLayout) -> Vec<String> {
        validate(layout).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_every_fault_with_its_place() {
        let layout = layout(json!({
            "disks": [{"device": "/dev/sda", "partitions": [
                {"number": 1, "size": 0},
                {"number": 1, "size": 5, "gpttype": "EF00"},
                {"number": 4, "size": 5}]}],
            "raid": [{"arrayname": "/dev/md0", "devices": ["/dev/sdb1"], "level": "5"}],
            "volumegroups": [{"name": "vg", "devices": ["/dev/sda1"]}],
            "logicalvolumes": [
                {"name": "a", "volumegroup": "vg", "size": 0, "lvmtype": "striped"},
                {"name": "b", "volumegroup": "no", "size": 1, "lvmtype": "linear"}],
            "filesystems": [
                {"device": "/dev/sdc", "format": "zfs", "createoptions": ["-F 32"]},
                {"device": "tmpfs", "format": "tmpfs", "createoptions": ["a b"]}],
            "constraints": {"sizes": ["s", "s", "a*"], "images": {"*": "1", "debian": ">=1"}}
        }));
        assert_eq!(
            told(&layout),
            [
                "id: the id is empty",
                "disks[0].partitions[1].number: partition number 1 is used twice on /dev/sda",
                "disks[0].partitions[1].gpttype: unsupported GPT type \"EF00\"; supported are ef00, 8300, fd00, 8e00, ef02",
                "disks[0].partitions: partition 1 of /dev/sda takes the rest of the disk, but partition 4 has the highest number",
                "raid[0].level: unsupported RAID level \"5\"; supported are 0, 1",
                "raid[0].devices[0]: /dev/sdb1 is not a device of this layout",
                "logicalvolumes[0].size: only the last logical volume may have size 0",
                "logicalvolumes[0].lvmtype: a striped volume needs at least 2 devices, volume group vg has 1",
                "logicalvolumes[1].volumegroup: volume group \"no\" is not in this layout",
                "filesystems[0].format: unsupported format \"zfs\"; supported are vfat, ext3, ext4, xfs, btrfs, swap, tmpfs, none",
                "filesystems[0].device: /dev/sdc is not a device of this layout",
                "filesystems[0].createoptions[0]: white space inside one option: \"-F 32\"; give each word as an option of its own",
                "disks[0].partitions[2].number: partition number 4 is higher than the count of partitions, 3",
                "constraints.sizes[1]: size \"s\" is given twice",
                "constraints.sizes[2]: a size can't contain \"*\": \"a*\"",
                "constraints.images[\"*\"]: an operating system can't be \"*\"",
                "constraints.images[\"debian\"]: \">=1\" is not a version constraint",
            ]
        );
    }

    #[test]
    fn two_partitions_can_not_both_take_the_rest() {
        let layout = layout(json!({"id": "x", "disks": [{"device": "/dev/sda", "partitions": [
            {"number": 1, "size": 0}, {"number": 2, "size": 0}]}]}));
        assert_eq!(
            told(&layout),
            ["disks[0].partitions: /dev/sda has several partitions of size 0; only one can take the rest of the disk"]
        );
    }

    #[test]
    fn knows_constraints() {
        for good in ["*", "1", "24.4.20260701", ">= 24.04", "~ 13.0", "^ 1.2.3", "!= 3", "1.0.0-rc1"] {
            assert!(is_constraint(good), "{good}");
        }
        for bad in ["", " ", ">= ", ">=1", ">=  1", "== 1", "a", "1.2.3.4", "1.", "* 1", "> *"] {
            assert!(!is_constraint(bad), "{bad}");
        }
    }
}
