//! Disks that are to survive a reinstallation must be what the layout says.

use uuid::Uuid;

use super::MIB;
use crate::api::layout::values::GptType;
use crate::api::layout::{Disk, Partition};
use crate::disk::device::DiskFacts;
use crate::disk::plan::{PartitionPlan, Place};
use crate::disk::probe::Signature;
use crate::disk::table::{GptPartition, Table};
use crate::sys::units::Bytes;

/// What a kept disk has, if that is what the layout wants.
pub(super) fn kept_partitions(disk: &Disk, facts: &DiskFacts) -> Result<(Option<Uuid>, Vec<PartitionPlan>), String> {
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

pub(super) fn signature_at<'a>(place: &Place, facts: &'a DiskFacts) -> Option<&'a Signature> {
    match place {
        Place::Partition { number, .. } => {
            facts.partitions.iter().find(|p| p.number == *number).and_then(|p| p.signature.as_ref())
        }
        Place::WholeDisk { .. } => facts.content.as_ref().and_then(|content| content.signature.as_ref()),
        Place::Array { .. } | Place::Volume { .. } | Place::Memory => None,
    }
}
