//! Decides what becomes of which disk. Pure: looks at nothing and changes nothing.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::device::{DiskFacts, DiskKind};
use super::fault::{Fault, Faults};
use super::plan::{
    DiskAction, DiskPlan, ESP_PATHS, FilesystemAction, FilesystemPlan, FilesystemUuid, Firmware, Mode, PartitionPlan,
    Place, Plan,
};
use super::probe::Signature;
use super::table::{GPT_ENTRIES, GptPartition, Table, gpt_array_sectors};
use crate::api::layout::validate::validate_devices;
use crate::api::layout::values::{Format, GptType};
use crate::api::layout::{Disk, Filesystem, FilesystemLayout, Partition, partition_device};
use crate::sys::units::Bytes;

/// Partitions begin and end on multiples of this, as sgdisk's do: a multiple of every page and stripe in use.
const ALIGNMENT: u64 = 1 << 20;
const MIB: u64 = 1 << 20;
/// UTF-16 units of a name in a GPT entry.
const NAME_UNITS: usize = 36;
const BIOS_BOOT_REASON: &str = "BIOS boots GRUB from it; the layout has none";

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
    let mut planner = Planner { layout, facts: disks, firmware, mode, new_id, faults: Vec::new() };
    planner.faults.extend(validate_devices(layout).into_iter().map(Fault::Layout));
    planner.check_raid_and_lvm();
    let disk_plans = planner.plan_disks();
    let filesystems = planner.plan_filesystems(&disk_plans);
    let boot_disk = planner.check_boot(&filesystems, &disk_plans);
    let mut plan = Plan {
        layout: layout.id.clone(),
        firmware,
        mode,
        boot_disk: boot_disk.unwrap_or_default(),
        mount_order: mount_order(&filesystems),
        untouched: planner.untouched(),
        disks: disk_plans,
        filesystems,
    };
    planner.add_bios_boot(&mut plan);
    if planner.faults.is_empty() { Ok(plan) } else { Err(Faults(planner.faults)) }
}

struct Planner<'a, I> {
    layout: &'a FilesystemLayout,
    facts: &'a [DiskFacts],
    firmware: Firmware,
    mode: Mode,
    new_id: I,
    faults: Vec<Fault>,
}

impl<I: FnMut() -> Uuid> Planner<'_, I> {
    fn check_raid_and_lvm(&mut self) {
        let arrays = self.layout.raid.iter().map(|raid| raid.arrayname.clone());
        let groups = self.layout.volumegroups.iter().map(|group| format!("volume group {}", group.name));
        let what: Vec<String> = arrays.chain(groups).collect();
        if !what.is_empty() || !self.layout.logicalvolumes.is_empty() {
            self.faults.push(Fault::RaidOrLvm { what: what.join(", ") });
        }
    }

    fn plan_disks(&mut self) -> Vec<DiskPlan> {
        let mut plans: Vec<DiskPlan> = Vec::new();
        for disk in &self.layout.disks {
            let Some(facts) = self.facts.iter().find(|facts| facts.device == disk.device) else {
                let present = self.facts.iter().filter(|d| d.kind == DiskKind::Fixed).map(|d| d.device.clone());
                self.faults.push(Fault::DiskMissing { device: disk.device.clone(), present: present.collect() });
                continue;
            };
            if plans.iter().any(|plan| plan.disk.device == disk.device) {
                self.faults.push(Fault::DiskTwice { device: disk.device.clone() });
                continue;
            }
            plans.push(self.plan_disk(disk, facts));
        }
        plans
    }

    fn plan_disk(&mut self, disk: &Disk, facts: &DiskFacts) -> DiskPlan {
        self.check_disk(facts);
        let keep = self.mode == Mode::Reinstall && !disk.wipeonreinstall;
        let mut plan = DiskPlan {
            disk: facts.clone(),
            action: DiskAction::Keep,
            guid: None,
            loses: Vec::new(),
            partitions: Vec::new(),
        };
        if keep {
            match kept_partitions(disk, facts) {
                Ok((guid, partitions)) => (plan.guid, plan.partitions) = (guid, partitions),
                Err(why) => self.faults.push(Fault::KeptDiskDiffers { device: facts.device.clone(), why }),
            }
        } else {
            plan.loses = losses(facts);
            if disk.partitions.is_empty() {
                plan.action = DiskAction::Blank;
            } else {
                plan.action = DiskAction::Partition;
                plan.guid = Some((self.new_id)());
                plan.partitions = self.plan_partitions(disk, facts);
            }
        }
        plan
    }

    fn check_disk(&mut self, facts: &DiskFacts) {
        let device = || facts.device.clone();
        if facts.read_only {
            self.faults.push(Fault::DiskReadOnly { device: device() });
        }
        if !matches!(facts.sector_bytes, 512 | 4096) {
            self.faults.push(Fault::SectorSize { device: device(), found: facts.sector_bytes });
        }
        for use_ in &facts.uses {
            self.faults.push(Fault::DiskInUse { device: device(), use_: use_.clone() });
        }
    }

    fn plan_partitions(&mut self, disk: &Disk, facts: &DiskFacts) -> Vec<PartitionPlan> {
        for partition in &disk.partitions {
            self.check_partition(&facts.device, partition);
        }
        // Faults that validate_devices has told already, and sectors that nothing fits: no arithmetic with those.
        if disk.partitions.iter().filter(|p| p.size == 0).count() > 1 || !matches!(facts.sector_bytes, 512 | 4096) {
            return Vec::new();
        }
        let area = Area::of(facts);
        let fixed = disk.partitions.iter().map(|p| u128::from(p.size) * u128::from(MIB)).sum::<u128>();
        let has_rest = disk.partitions.iter().any(|p| p.size == 0);
        let needed_bytes = fixed + if has_rest { u128::from(ALIGNMENT) } else { 0 };
        let usable_bytes = area.bytes();
        if needed_bytes > u128::from(usable_bytes) {
            let (device, size) = (facts.device.clone(), facts.size);
            self.faults.push(Fault::DiskTooSmall { device, needed_bytes, usable_bytes, size });
            return Vec::new();
        }
        // Lossless: not larger than usable_bytes.
        let rest = usable_bytes - fixed as u64;
        let mut next = area.first_lba;
        let place = |partition: &Partition| {
            let size = if partition.size == 0 { rest } else { partition.size * MIB };
            let first_lba = next;
            next += size / area.sector;
            PartitionPlan {
                number: partition.number,
                name: partition.label.clone().unwrap_or_default(),
                gpt_type: partition.gpttype.as_deref().and_then(GptType::parse).unwrap_or(GptType::Linux),
                guid: (self.new_id)(),
                first_lba,
                last_lba: next - 1,
                size: Bytes(size),
                added: None,
            }
        };
        disk.partitions.iter().map(place).collect()
    }

    fn check_partition(&mut self, device: &str, partition: &Partition) {
        let (device, number) = (device.to_owned(), partition.number);
        if number > GPT_ENTRIES && number <= 255 {
            self.faults.push(Fault::NumberAboveTable { device: device.clone(), number });
        }
        let name = partition.label.clone().unwrap_or_default();
        let units = name.encode_utf16().count();
        if units > NAME_UNITS {
            self.faults.push(Fault::PartitionNameTooLong { device, number, name, units });
        } else if name.contains(char::is_control) {
            self.faults.push(Fault::LabelUnprintable { device, label: name });
        }
    }

    fn plan_filesystems(&mut self, disks: &[DiskPlan]) -> Vec<FilesystemPlan> {
        let mut by_device: BTreeMap<String, usize> = BTreeMap::new();
        let mut by_path: BTreeMap<String, String> = BTreeMap::new();
        let mut plans = Vec::new();
        for (i, filesystem) in (1..).zip(&self.layout.filesystems) {
            let Some(format) = Format::parse(&filesystem.format) else { continue };
            let device = filesystem.device.clone();
            if format != Format::Tmpfs
                && let Some(first) = by_device.insert(device.clone(), i)
            {
                self.faults.push(Fault::FilesystemTwice { device: device.clone(), first, second: i });
            }
            let path = self.check_path(filesystem, format);
            if let Some(path) = &path
                && let Some(first) = by_path.insert(path.clone(), device.clone())
            {
                self.faults.push(Fault::PathTwice { path: path.clone(), first, second: device.clone() });
            }
            self.check_label(filesystem, format);
            self.check_mount_options(filesystem);
            if let Some(place) = self.place_of(filesystem, format) {
                plans.extend(self.plan_filesystem(filesystem, format, path, place, disks));
            }
        }
        plans
    }

    /// `None`: the fault is already known, by [`validate_devices`] or [`Fault::RaidOrLvm`].
    fn place_of(&mut self, filesystem: &Filesystem, format: Format) -> Option<Place> {
        if format == Format::Tmpfs {
            return Some(Place::Memory);
        }
        let device = &filesystem.device;
        for disk in &self.layout.disks {
            if &disk.device == device {
                if !disk.partitions.is_empty() {
                    self.faults.push(Fault::FilesystemOverPartitions { device: device.clone() });
                }
                return Some(Place::WholeDisk { disk: disk.device.clone() });
            }
            if let Some(partition) =
                disk.partitions.iter().find(|p| &partition_device(&disk.device, p.number) == device)
            {
                return Some(Place::Partition { disk: disk.device.clone(), number: partition.number });
            }
        }
        None
    }

    fn plan_filesystem(
        &mut self,
        filesystem: &Filesystem,
        format: Format,
        path: Option<String>,
        place: Place,
        disks: &[DiskPlan],
    ) -> Option<FilesystemPlan> {
        let kept = place
            .disk()
            .and_then(|device| disks.iter().find(|disk| disk.disk.device == device && disk.action == DiskAction::Keep));
        let (action, uuid) = match (format, kept) {
            (Format::Tmpfs | Format::None, _) => (FilesystemAction::Nothing, None),
            (_, None) => (FilesystemAction::Make, Some(self.new_uuid(format))),
            (_, Some(disk)) => {
                let found = self.kept_uuid(filesystem, format, &place, disk)?;
                (FilesystemAction::Keep, Some(FilesystemUuid::Found(found)))
            }
        };
        Some(FilesystemPlan {
            device: filesystem.device.clone(),
            place,
            format,
            action,
            path,
            label: filesystem.label.clone().filter(|label| !label.is_empty()),
            uuid,
            mount_options: filesystem.mountoptions.clone(),
            create_options: filesystem.createoptions.clone(),
        })
    }

    fn new_uuid(&mut self, format: Format) -> FilesystemUuid {
        let uuid = (self.new_id)();
        match format {
            // 0 would mean "has none" to blkid.
            Format::Vfat => FilesystemUuid::Fat(uuid.as_fields().0.max(1)),
            Format::Ext3 | Format::Ext4 | Format::Swap | Format::Tmpfs | Format::None => FilesystemUuid::Full(uuid),
        }
    }

    /// A kept disk must already hold what the layout says; only then mounting it without making it is right.
    fn kept_uuid(&mut self, filesystem: &Filesystem, format: Format, place: &Place, disk: &DiskPlan) -> Option<String> {
        let signature = signature_at(place, &disk.disk);
        match signature {
            Some(Signature { kind, uuid: Some(uuid), .. }) if *kind == format.as_str() => return Some(uuid.clone()),
            _ => {}
        }
        // Where the disk itself is a fault already, this would only repeat it.
        if disk.disk.content.is_some() && (!disk.partitions.is_empty() || matches!(place, Place::WholeDisk { .. })) {
            let found = signature.map_or("nothing known".to_owned(), ToString::to_string);
            let why = format!("{} holds {found} instead of {format}", filesystem.device);
            self.faults.push(Fault::KeptDiskDiffers { device: disk.disk.device.clone(), why });
        }
        None
    }

    fn check_path(&mut self, filesystem: &Filesystem, format: Format) -> Option<String> {
        // Swap has no mount point whatever stands there; by habit it is "none" or "swap".
        let text = filesystem.path.as_deref().filter(|path| !path.is_empty() && format != Format::Swap)?;
        let device = filesystem.device.clone();
        let Some(path) = clean_path(text) else {
            self.faults.push(Fault::BadPath { device, path: text.to_owned() });
            return None;
        };
        let below = |top: &str| path == top || path.strip_prefix(top).is_some_and(|rest| rest.starts_with('/'));
        if ["/proc", "/sys", "/dev"].into_iter().any(below) && format != Format::Tmpfs {
            self.faults.push(Fault::ReservedPath { device, path });
            return None;
        }
        if format == Format::None {
            self.faults.push(Fault::NothingToMount { device, path });
            return None;
        }
        Some(path)
    }

    fn check_label(&mut self, filesystem: &Filesystem, format: Format) {
        let Some(label) = filesystem.label.clone() else { return };
        let device = filesystem.device.clone();
        if label.contains(char::is_control) {
            self.faults.push(Fault::LabelUnprintable { device, label });
        } else if let Some(limit) = format.label_limit()
            && label.len() > limit
        {
            let (format, bytes) = (format.to_string(), label.len());
            self.faults.push(Fault::LabelTooLong { device, label, format, bytes, limit });
        }
    }

    /// One line of fstab is six words, so a blank in an option would shift the others.
    fn check_mount_options(&mut self, filesystem: &Filesystem) {
        for option in &filesystem.mountoptions {
            if option.is_empty() || option.contains(|c: char| c.is_whitespace() || c == '\0') {
                let (device, option) = (filesystem.device.clone(), option.clone());
                self.faults.push(Fault::BadMountOption { device, option });
            }
        }
    }

    /// Device of the disk of `/`.
    fn check_boot(&mut self, filesystems: &[FilesystemPlan], disks: &[DiskPlan]) -> Option<String> {
        let at = |path: &str| filesystems.iter().find(|fs| fs.path.as_deref() == Some(path));
        let cleaned = |fs: &Filesystem| fs.path.as_deref().and_then(clean_path);
        let is_esp = |fs: &Filesystem, format: Option<Format>| {
            matches!(format, Some(Format::Vfat) | None) && cleaned(fs).is_some_and(|p| ESP_PATHS.contains(&p.as_str()))
        };
        if self.firmware == Firmware::Uefi && !self.declares(is_esp) {
            self.faults.push(Fault::NoEsp);
        }
        let Some(root) = at("/") else {
            if !self.declares(|fs, _| cleaned(fs).is_some_and(|path| path == "/")) {
                self.faults.push(Fault::NoRoot);
            }
            return None;
        };
        match root.format {
            Format::Ext3 | Format::Ext4 => {}
            Format::Vfat | Format::Swap | Format::Tmpfs | Format::None => {
                self.faults.push(Fault::RootFormat { format: root.format.to_string() });
            }
        }
        let device = root.place.disk()?.to_owned();
        if disks.iter().any(|disk| disk.disk.device == device && disk.action == DiskAction::Keep) {
            self.faults.push(Fault::RootKept { device: device.clone() });
        }
        Some(device)
    }

    /// Whether the layout names such a file system, even where another fault kept it from being planned. An unknown
    /// format is `None`.
    fn declares(&self, fits: impl Fn(&Filesystem, Option<Format>) -> bool) -> bool {
        self.layout.filesystems.iter().any(|fs| fits(fs, Format::parse(&fs.format)))
    }

    fn add_bios_boot(&mut self, plan: &mut Plan) {
        if self.firmware != Firmware::Bios {
            return;
        }
        let boot = plan.boot_disk.clone();
        let Some(disk) = plan.disks.iter_mut().find(|d| d.disk.device == boot && d.action == DiskAction::Partition)
        else {
            return;
        };
        if disk.partitions.is_empty() || disk.partitions.iter().any(|p| p.gpt_type == GptType::BiosBoot) {
            return;
        }
        let taken = |number: &u32| disk.partitions.iter().any(|p| p.number == *number);
        let Some(number) = (1..=GPT_ENTRIES).rev().find(|number| !taken(number)) else {
            return self.faults.push(Fault::NoNumberForBiosBoot { device: boot });
        };
        let sector = u64::from(disk.disk.sector_bytes);
        let first_lba = 2 + gpt_array_sectors(disk.disk.sector_bytes);
        let last_lba = ALIGNMENT / sector - 1;
        disk.partitions.push(PartitionPlan {
            number,
            name: "bios".to_owned(),
            gpt_type: GptType::BiosBoot,
            guid: (self.new_id)(),
            first_lba,
            last_lba,
            size: Bytes((last_lba + 1 - first_lba) * sector),
            added: Some(BIOS_BOOT_REASON),
        });
    }

    fn untouched(&self) -> Vec<String> {
        let fixed = self.facts.iter().filter(|disk| disk.kind == DiskKind::Fixed);
        let outside = fixed.filter(|facts| self.layout.disks.iter().all(|disk| disk.device != facts.device));
        outside.map(|facts| facts.device.clone()).collect()
    }
}

/// The part of a disk that aligned partitions can have.
struct Area {
    sector: u64,
    first_lba: u64,
    /// Exclusive.
    end_lba: u64,
}

impl Area {
    fn of(facts: &DiskFacts) -> Self {
        let sector = u64::from(facts.sector_bytes);
        let sectors = facts.size.0 / sector;
        // At the end lie the backup of the entries and of the header.
        let end_lba = sectors.saturating_sub(gpt_array_sectors(facts.sector_bytes) + 1);
        let step = ALIGNMENT / sector;
        Self { sector, first_lba: step, end_lba: end_lba / step * step }
    }

    fn bytes(&self) -> u64 {
        self.end_lba.saturating_sub(self.first_lba) * self.sector
    }
}

/// What a kept disk has, if that is what the layout wants.
fn kept_partitions(disk: &Disk, facts: &DiskFacts) -> Result<(Option<Uuid>, Vec<PartitionPlan>), String> {
    let Some(content) = &facts.content else { return Err("it could not be read".to_owned()) };
    if disk.partitions.is_empty() {
        // Only its user knows what is on it: a volume group, or a file system, which is checked on its own.
        return Ok((None, Vec::new()));
    }
    let table = match &content.table {
        Table::Gpt(table) => table,
        Table::DamagedGpt(why) => return Err(format!("its partition table is damaged: {why}")),
        Table::Mbr => return Err("it has an MBR instead of a GPT".to_owned()),
        Table::None => return Err("it has no partition table".to_owned()),
    };
    let in_layout = |found: &&GptPartition| disk.partitions.iter().any(|p| p.number == found.number);
    if let Some(extra) = table.partitions.iter().find(|p| !in_layout(p) && p.type_guid != GptType::BiosBoot.guid()) {
        return Err(format!("it has a partition {} ({:?}) that the layout does not have", extra.number, extra.name));
    }
    let sector = u64::from(facts.sector_bytes);
    let keep = |wanted: &Partition| {
        let found = table.partitions.iter().find(|p| p.number == wanted.number);
        let found = found.ok_or_else(|| format!("it has no partition {}", wanted.number))?;
        kept_partition(wanted, found, sector)
    };
    let partitions = disk.partitions.iter().map(keep).collect::<Result<Vec<_>, String>>()?;
    Ok((Some(table.disk_guid), partitions))
}

/// A rest partition may have any size: sgdisk ends it elsewhere than we do.
fn kept_partition(wanted: &Partition, found: &GptPartition, sector: u64) -> Result<PartitionPlan, String> {
    let number = wanted.number;
    let size = found.last_lba.saturating_sub(found.first_lba).saturating_add(1).saturating_mul(sector);
    let gpt_type = wanted.gpttype.as_deref().and_then(GptType::parse).unwrap_or(GptType::Linux);
    let name = wanted.label.clone().unwrap_or_default();
    if wanted.size != 0 && Some(size) != wanted.size.checked_mul(MIB) {
        return Err(format!("its partition {number} has {size} bytes instead of {} MiB", wanted.size));
    }
    if found.type_guid != gpt_type.guid() {
        return Err(format!("its partition {number} has type {} instead of {}", found.type_guid, gpt_type.code()));
    }
    if found.name != name {
        return Err(format!("its partition {number} is named {:?} instead of {name:?}", found.name));
    }
    let (guid, first_lba, last_lba) = (found.guid, found.first_lba, found.last_lba);
    Ok(PartitionPlan { number, name, gpt_type, guid, first_lba, last_lba, size: Bytes(size), added: None })
}

fn signature_at<'a>(place: &Place, facts: &'a DiskFacts) -> Option<&'a Signature> {
    match place {
        Place::Partition { number, .. } => {
            facts.partitions.iter().find(|p| p.number == *number).and_then(|p| p.signature.as_ref())
        }
        Place::WholeDisk { .. } => facts.content.as_ref().and_then(|content| content.signature.as_ref()),
        Place::Memory => None,
    }
}

/// What a person would want to know before agreeing.
fn losses(facts: &DiskFacts) -> Vec<String> {
    let mut losses: Vec<String> = Vec::new();
    if let Some(content) = &facts.content {
        match &content.table {
            Table::None | Table::Gpt(_) => {}
            Table::Mbr => losses.push("an MBR or boot sector".to_owned()),
            Table::DamagedGpt(why) => losses.push(format!("a damaged GPT ({why})")),
        }
        losses.extend(content.signature.as_ref().map(ToString::to_string));
    }
    losses.extend(facts.partitions.iter().map(|partition| match &partition.signature {
        Some(signature) => format!("partition {} ({}, {signature})", partition.number, partition.size),
        None => format!("partition {} ({})", partition.number, partition.size),
    }));
    losses
}

/// Absolute, without empty, `.` or `..` components, and writable in one word of fstab.
fn clean_path(text: &str) -> Option<String> {
    if !text.starts_with('/') || text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\') {
        return None;
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") { None } else { Some(format!("/{}", parts.join("/"))) }
}

/// `/` has depth 0.
fn depth(path: &str) -> usize {
    path.split('/').filter(|part| !part.is_empty()).count()
}

fn mount_order(filesystems: &[FilesystemPlan]) -> Vec<String> {
    let mounted = filesystems.iter().filter(|fs| fs.is_mounted());
    let mut paths: Vec<String> = mounted.filter_map(|fs| fs.path.clone()).collect();
    paths.sort_by_key(|path| depth(path));
    paths
}

#[cfg(test)]
mod tests;
