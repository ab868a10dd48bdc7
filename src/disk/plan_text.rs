//! A plan for a person: disk by disk, with serial numbers, and what is lost first.

use std::fmt;

use super::plan::{DiskAction, DiskPlan, FilesystemAction, FilesystemPlan, Firmware, Mode, PartitionPlan, Place, Plan};
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

impl Plan {
    fn write_disk(&self, f: &mut fmt::Formatter<'_>, plan: &DiskPlan) -> fmt::Result {
        let disk = &plan.disk;
        let serial = disk.serial.as_deref().unwrap_or("none");
        let model = disk.model.as_deref().unwrap_or("no model name");
        let fate = match plan.action {
            DiskAction::Partition => "NEW PARTITION TABLE, all data is lost",
            DiskAction::Blank => "BLANKED, all data is lost",
            DiskAction::Keep => "kept, not written to",
        };
        writeln!(f, "{}  {}  {model}  serial {serial}: {fate}", disk.device, disk.size)?;
        if !plan.loses.is_empty() {
            writeln!(f, "  on it now: {}", plan.loses.join(", "))?;
        }
        for partition in &plan.partitions {
            self.write_partition(f, plan, partition)?;
        }
        let whole = Place::WholeDisk { disk: disk.device.clone() };
        for filesystem in self.filesystems.iter().filter(|fs| fs.place == whole) {
            writeln!(f, "  whole disk: {}", described(filesystem))?;
        }
        Ok(())
    }

    fn write_partition(&self, f: &mut fmt::Formatter<'_>, disk: &DiskPlan, partition: &PartitionPlan) -> fmt::Result {
        let place = Place::Partition { disk: disk.disk.device.clone(), number: partition.number };
        let filesystem = self.filesystems.iter().find(|fs| fs.place == place).map(described);
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
        if let Some(text) = filesystem {
            write!(f, "  {text}")?;
        }
        if let Some(reason) = partition.added {
            write!(f, "  (added: {reason})")?;
        }
        writeln!(f)
    }
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
