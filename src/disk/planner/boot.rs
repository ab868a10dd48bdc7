//! What firmware and boot loader need.

use uuid::Uuid;

use super::Planner;
use super::filesystems::clean_path;
use super::partitions::ALIGNMENT;
use super::stack::is_kept;
use crate::api::layout::Filesystem;
use crate::api::layout::values::{Format, GptType, RaidLevel};
use crate::disk::fault::Fault;
use crate::disk::plan::{
    DiskAction, DiskPlan, ESP_PATHS, FilesystemPlan, Firmware, PartitionPlan, Place, Plan, StackAction,
};
use crate::disk::table::{GPT_ENTRIES, gpt_array_sectors};
use crate::sys::units::Bytes;

const BIOS_BOOT_REASON: &str = "BIOS boots GRUB from it; the layout has none";

impl<I: FnMut() -> Uuid> Planner<'_, I> {
    /// Device of the first disk of `/`.
    pub(super) fn check_boot(&mut self, plan: &Plan) -> Option<String> {
        let cleaned = |fs: &Filesystem| fs.path.as_deref().and_then(clean_path);
        let is_esp = |fs: &Filesystem, format: Option<Format>| {
            matches!(format, Some(Format::Vfat) | None) && cleaned(fs).is_some_and(|p| ESP_PATHS.contains(&p.as_str()))
        };
        if self.firmware == Firmware::Uefi {
            match plan.esp() {
                Some(esp) => self.check_esp(esp, plan),
                None if !self.declares(is_esp) => self.faults.push(Fault::NoEsp),
                None => {}
            }
        }
        let Some(root) = plan.filesystems.iter().find(|fs| fs.path.as_deref() == Some("/")) else {
            if !self.declares(|fs, _| cleaned(fs).is_some_and(|path| path == "/")) {
                self.faults.push(Fault::NoRoot);
            }
            return None;
        };
        match root.format {
            Format::Ext3 | Format::Ext4 | Format::Xfs | Format::Btrfs => {}
            Format::Vfat | Format::Swap | Format::Tmpfs | Format::None => {
                self.faults.push(Fault::RootFormat { format: root.format.to_string() });
            }
        }
        if is_kept(&root.place, plan) {
            let device = root.place.disk().unwrap_or(&root.device).to_owned();
            self.faults.push(Fault::RootKept { device });
        }
        plan.disks_below(&root.place).into_iter().next()
    }

    /// Firmware knows partitions and FAT only. A mirror whose super block is at the end looks like that.
    fn check_esp(&mut self, esp: &FilesystemPlan, plan: &Plan) {
        let device = esp.device.clone();
        match &esp.place {
            Place::Partition { .. } | Place::WholeDisk { .. } | Place::Memory => {}
            Place::Volume { .. } => self.faults.push(Fault::EspUnreadable { device, why: "a logical volume" }),
            Place::Array { device: array } => {
                let Some(array) = plan.array(array) else { return };
                if array.level != RaidLevel::Raid1 {
                    self.faults.push(Fault::EspUnreadable { device, why: "an array that is no mirror" });
                } else if array.action == StackAction::Make && !matches!(array.metadata(), Some("1.0" | "0.90" | "0")) {
                    let why = "a mirror without the option --metadata 1.0";
                    self.faults.push(Fault::EspUnreadable { device, why });
                }
            }
        }
    }

    /// Whether the layout names such a file system, even where another fault kept it from being planned. An unknown
    /// format is `None`.
    fn declares(&self, fits: impl Fn(&Filesystem, Option<Format>) -> bool) -> bool {
        self.layout.filesystems.iter().any(|fs| fits(fs, Format::parse(&fs.format)))
    }

    /// On every disk of `/`, so that each half of a mirror boots.
    pub(super) fn add_bios_boot(&mut self, plan: &mut Plan) {
        if self.firmware != Firmware::Bios {
            return;
        }
        let boot_disks = plan.boot_disks();
        for disk in plan.disks.iter_mut().filter(|disk| boot_disks.contains(&disk.disk.device)) {
            self.add_bios_boot_to(disk);
        }
    }

    fn add_bios_boot_to(&mut self, disk: &mut DiskPlan) {
        if disk.action != DiskAction::Partition
            || disk.partitions.is_empty()
            || disk.partitions.iter().any(|p| p.gpt_type == GptType::BiosBoot)
        {
            return;
        }
        let taken = |number: &u32| disk.partitions.iter().any(|p| p.number == *number);
        let Some(number) = (1..=GPT_ENTRIES).rev().find(|number| !taken(number)) else {
            return self.faults.push(Fault::NoNumberForBiosBoot { device: disk.disk.device.clone() });
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
}
