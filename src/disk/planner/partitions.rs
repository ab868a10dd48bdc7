//! Where partitions begin and end.

use uuid::Uuid;

use super::{MIB, Planner};
use crate::api::layout::values::GptType;
use crate::api::layout::{Disk, Partition};
use crate::disk::device::DiskFacts;
use crate::disk::fault::Fault;
use crate::disk::plan::PartitionPlan;
use crate::disk::table::{GPT_ENTRIES, gpt_array_sectors};
use crate::sys::units::Bytes;

/// Partitions begin and end on multiples of this, as sgdisk's do: a multiple of every page and stripe in use.
pub(super) const ALIGNMENT: u64 = 1 << 20;
/// UTF-16 units of a name in a GPT entry.
const NAME_UNITS: usize = 36;

impl<I: FnMut() -> Uuid> Planner<'_, I> {
    pub(super) fn plan_partitions(&mut self, disk: &Disk, facts: &DiskFacts) -> Vec<PartitionPlan> {
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
