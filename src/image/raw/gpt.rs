//! The GPT in an image's head, and what becomes of it on a larger disk.
//!
//! Kept as bytes, so that all that is not about the disk's size stays as the image's maker wrote it: attributes of
//! partitions, boot code, headers longer than usual. Source: UEFI specification 2.10, chapter 5.

use crate::disk::table::crc32;
use crate::sys::units::Bytes;

/// Sector sizes that disks have.
const SECTOR_SIZES: [u32; 2] = [512, 4096];
const SIGNATURE: &[u8] = b"EFI PART";
/// Grown partitions end on a multiple of it, as all tools align them.
const ALIGNMENT_BYTES: u64 = 1 << 20;
const HEADER_BYTES: usize = 92;
/// More is not written by anybody.
const ENTRIES_MAX: u32 = 1024;
const MBR_BYTES: usize = 512;
const MBR_RECORDS: usize = 446;
const MBR_RECORD_BYTES: usize = 16;
const MBR_PROTECTIVE: u8 = 0xee;

/// Where the fields of a header are.
mod field {
    pub(super) const HEADER_BYTES: usize = 12;
    pub(super) const HEADER_CRC: usize = 16;
    pub(super) const OWN_LBA: usize = 24;
    pub(super) const OTHER_LBA: usize = 32;
    pub(super) const LAST_USABLE_LBA: usize = 48;
    pub(super) const ENTRIES_LBA: usize = 72;
    pub(super) const ENTRY_COUNT: usize = 80;
    pub(super) const ENTRY_BYTES: usize = 84;
    pub(super) const ENTRIES_CRC: usize = 88;
}

/// Why an image has no table to work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TableFault {
    #[error("it has no partition table")]
    None,
    #[error("it has an MBR, and only a GPT can be grown")]
    Mbr,
    #[error("its GPT is for sectors of {image} bytes, and the device has sectors of {device}")]
    OtherSectors { image: u32, device: u32 },
    #[error("its GPT {0}")]
    Damaged(String),
    #[error("its GPT has no partitions")]
    NoPartition,
    #[error("partition {number} ends at sector {last_lba}, and the last that the disk has for it is {last_usable_lba}")]
    NoRoom { number: u32, last_lba: u64, last_usable_lba: u64 },
}

/// The GPT at the head of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ImageTable {
    sector_bytes: u32,
    /// As long as it says.
    header: Vec<u8>,
    entries: Vec<u8>,
    entry_bytes: usize,
}

/// One partition, in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) number: u32,
    pub(super) first_lba: u64,
    pub(super) last_lba: u64,
}

/// What is to be written for a table that spans the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Growth {
    pub(super) sector_bytes: u32,
    /// Of the disk.
    pub(super) sectors: u64,
    /// All partitions, the grown one as it will be.
    pub(super) partitions: Vec<Extent>,
    /// The one that grows, as it is in the image.
    pub(super) before: Extent,
    /// The same, grown; it may have been as large as it can be.
    pub(super) after: Extent,
    /// The MBR with the size of the disk; `None` if it is a hybrid one, whose other partitions know better.
    pub(super) mbr: Option<Vec<u8>>,
    pub(super) entries: Vec<u8>,
    pub(super) header: Vec<u8>,
    pub(super) backup_header: Vec<u8>,
    pub(super) entries_lba: u64,
    pub(super) backup_entries_lba: u64,
}

/// The table for a device with sectors of this size.
pub(super) fn parse_head(head: &[u8], sector_bytes: u32) -> Result<ImageTable, TableFault> {
    let begins = |size: u32| head.get(size as usize..).is_some_and(|rest| rest.starts_with(SIGNATURE));
    if begins(sector_bytes) {
        return parse_gpt(head, sector_bytes);
    }
    if let Some(other) = SECTOR_SIZES.into_iter().find(|size| begins(*size)) {
        return Err(TableFault::OtherSectors { image: other, device: sector_bytes });
    }
    let marked = head.get(510..512) == Some(&[0x55, 0xaa]);
    Err(if marked && mbr_types(head).any(|kind| kind != 0) { TableFault::Mbr } else { TableFault::None })
}

fn parse_gpt(head: &[u8], sector_bytes: u32) -> Result<ImageTable, TableFault> {
    let damaged = |what: &str| TableFault::Damaged(what.to_owned());
    let sector = sector_bytes as usize;
    let start = head.get(sector..).unwrap_or_default();
    let length = le32(start, field::HEADER_BYTES).ok_or_else(|| damaged("is cut off"))? as usize;
    if !(HEADER_BYTES..=sector).contains(&length) {
        return Err(TableFault::Damaged(format!("has a header of {length} bytes")));
    }
    let header = start.get(..length).ok_or_else(|| damaged("is cut off"))?.to_vec();
    if le32(&header, field::HEADER_CRC) != Some(header_crc(&header)) {
        return Err(damaged("has a header with a wrong checksum"));
    }
    let (count, size) = (le32(&header, field::ENTRY_COUNT), le32(&header, field::ENTRY_BYTES));
    let (Some(count @ 1..=ENTRIES_MAX), Some(size @ 128..=1024)) = (count, size) else {
        return Err(damaged("has entries of an odd number or size"));
    };
    let length = count as usize * size as usize;
    let offset = le64(&header, field::ENTRIES_LBA).and_then(|lba| usize::try_from(lba).ok()?.checked_mul(sector));
    let entries = offset.and_then(|offset| head.get(offset..offset.checked_add(length)?));
    let entries = entries.ok_or_else(|| damaged("has entries that are not in the first MiB"))?.to_vec();
    if le32(&header, field::ENTRIES_CRC) != Some(crc32(&entries)) {
        return Err(damaged("has entries with a wrong checksum"));
    }
    Ok(ImageTable { sector_bytes, header, entries, entry_bytes: size as usize })
}

impl ImageTable {
    /// The least that a disk must have for this table, up to the header at the end.
    pub(super) fn disk_bytes(&self) -> u64 {
        let last = le64(&self.header, field::OTHER_LBA).unwrap_or(0);
        last.saturating_add(1).saturating_mul(self.sector_bytes.into())
    }

    fn partitions(&self) -> Vec<Extent> {
        let used = (1..).zip(self.entries.chunks_exact(self.entry_bytes));
        let used = used.filter(|(_, entry)| entry.iter().take(16).any(|byte| *byte != 0));
        let extent = |(number, entry): (u32, &[u8])| {
            Some(Extent { number, first_lba: le64(entry, 32)?, last_lba: le64(entry, 40)? })
        };
        used.filter_map(extent).collect()
    }

    /// The same table for a disk of so many sectors, its last partition as large as can be.
    pub(super) fn plan_growth(&self, head: &[u8], sectors: u64) -> Result<Growth, TableFault> {
        let sector = u64::from(self.sector_bytes);
        let array = (self.entries.len() as u64).div_ceil(sector.max(1));
        let backup_entries_lba = sectors.saturating_sub(1 + array);
        let last_usable_lba = backup_entries_lba.saturating_sub(1);
        let mut partitions = self.partitions();
        let before = *partitions.iter().max_by_key(|extent| extent.last_lba).ok_or(TableFault::NoPartition)?;
        if before.last_lba > last_usable_lba {
            let Extent { number, last_lba, .. } = before;
            return Err(TableFault::NoRoom { number, last_lba, last_usable_lba });
        }
        let alignment = (ALIGNMENT_BYTES / sector.max(1)).max(1);
        let end = (last_usable_lba + 1) / alignment * alignment;
        let after = Extent { last_lba: before.last_lba.max(end.saturating_sub(1)), ..before };
        partitions.iter_mut().filter(|extent| extent.number == after.number).for_each(|extent| *extent = after);

        let mut entries = self.entries.clone();
        let place = (after.number as usize - 1) * self.entry_bytes;
        put(&mut entries, place + 40, &after.last_lba.to_le_bytes());
        let mut header = self.header.clone();
        put(&mut header, field::LAST_USABLE_LBA, &last_usable_lba.to_le_bytes());
        put(&mut header, field::ENTRIES_CRC, &crc32(&entries).to_le_bytes());
        let mut backup_header = header.clone();
        put(&mut header, field::OTHER_LBA, &(sectors - 1).to_le_bytes());
        put(&mut backup_header, field::OWN_LBA, &(sectors - 1).to_le_bytes());
        put(&mut backup_header, field::OTHER_LBA, &1_u64.to_le_bytes());
        put(&mut backup_header, field::ENTRIES_LBA, &backup_entries_lba.to_le_bytes());
        for header in [&mut header, &mut backup_header] {
            let crc = header_crc(header);
            put(header, field::HEADER_CRC, &crc.to_le_bytes());
        }
        Ok(Growth {
            sector_bytes: self.sector_bytes,
            sectors,
            partitions,
            before,
            after,
            mbr: grown_mbr(head, sectors),
            entries,
            entries_lba: le64(&header, field::ENTRIES_LBA).unwrap_or(2),
            header,
            backup_header,
            backup_entries_lba,
        })
    }
}

impl Growth {
    /// Of the partition that grows, before and after.
    pub(super) fn sizes(&self) -> (Bytes, Bytes) {
        let size = |extent: Extent| {
            let sectors = (extent.last_lba + 1).saturating_sub(extent.first_lba);
            Bytes(sectors.saturating_mul(self.sector_bytes.into()))
        };
        (size(self.before), size(self.after))
    }
}

/// The protective MBR names the size of the disk, or all that its field can hold.
fn grown_mbr(head: &[u8], sectors: u64) -> Option<Vec<u8>> {
    let used: Vec<(usize, u8)> = mbr_types(head).enumerate().filter(|(_, kind)| *kind != 0).collect();
    let [(place, MBR_PROTECTIVE)] = used.as_slice() else { return None };
    let mut mbr = head.get(..MBR_BYTES)?.to_vec();
    let size = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    put(&mut mbr, MBR_RECORDS + place * MBR_RECORD_BYTES + 12, &size.to_le_bytes());
    Some(mbr)
}

/// Types of the four records, 0 for an unused one.
fn mbr_types(head: &[u8]) -> impl Iterator<Item = u8> {
    let records = head.get(MBR_RECORDS..MBR_RECORDS + 4 * MBR_RECORD_BYTES).unwrap_or_default();
    records.chunks_exact(MBR_RECORD_BYTES).map(|record| record.get(4).copied().unwrap_or(0))
}

fn header_crc(header: &[u8]) -> u32 {
    let mut blank = header.to_vec();
    put(&mut blank, field::HEADER_CRC, &[0; 4]);
    crc32(&blank)
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(offset..offset + value.len()) {
        place.copy_from_slice(value);
    }
}

fn le32(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().copied().map(u32::from_le_bytes)
}

fn le64(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().copied().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 MiB with two partitions, the last one first in the table.
    fn head(sector: usize) -> Vec<u8> {
        let mut head = vec![0; 1 << 20];
        put(&mut head, 510, &[0x55, 0xaa]);
        head[MBR_RECORDS + 4] = MBR_PROTECTIVE;
        put(&mut head, MBR_RECORDS + 12, &1_u32.to_le_bytes());
        let mut entries = vec![0; 128 * 128];
        for (place, first, last) in [(0, 2048_u64, 4095_u64), (13, 256, 511)] {
            entries[place * 128] = 1;
            put(&mut entries, place * 128 + 32, &first.to_le_bytes());
            put(&mut entries, place * 128 + 40, &last.to_le_bytes());
            put(&mut entries, place * 128 + 48, &4_u64.to_le_bytes());
        }
        let mut header = vec![0; HEADER_BYTES];
        put(&mut header, 0, SIGNATURE);
        put(&mut header, 8, &[0, 0, 1, 0]);
        put(&mut header, field::HEADER_BYTES, &92_u32.to_le_bytes());
        put(&mut header, field::OWN_LBA, &1_u64.to_le_bytes());
        put(&mut header, field::OTHER_LBA, &9999_u64.to_le_bytes());
        put(&mut header, field::ENTRIES_LBA, &2_u64.to_le_bytes());
        put(&mut header, field::ENTRY_COUNT, &128_u32.to_le_bytes());
        put(&mut header, field::ENTRY_BYTES, &128_u32.to_le_bytes());
        put(&mut header, field::ENTRIES_CRC, &crc32(&entries).to_le_bytes());
        let crc = header_crc(&header);
        put(&mut header, field::HEADER_CRC, &crc.to_le_bytes());
        put(&mut head, sector, &header);
        put(&mut head, 2 * sector, &entries);
        head
    }

    #[test]
    fn the_last_partition_grows_to_the_last_whole_mebibyte() {
        for (sector, sectors, last) in [(512, 1 << 20, (1 << 20) - 2048 - 1), (4096, 1 << 20, (1 << 20) - 256 - 1)] {
            let head = head(sector);
            let table = parse_head(&head, sector as u32).unwrap();
            assert_eq!(table.disk_bytes(), 10_000 * sector as u64);
            let growth = table.plan_growth(&head, sectors).unwrap();
            assert_eq!((growth.after.number, growth.after.first_lba, growth.after.last_lba), (1, 2048, last));
            assert_eq!(growth.partitions[1], Extent { number: 14, first_lba: 256, last_lba: 511 });
            let other = Extent { last_lba: 4095, ..growth.after };
            assert_eq!((growth.before, growth.partitions.len()), (other, 2));
            let size = &growth.mbr.unwrap()[MBR_RECORDS + 12..MBR_RECORDS + 16];
            assert_eq!(size, u32::try_from(sectors - 1).unwrap().to_le_bytes());
            assert_eq!(growth.entries[48..56], [4, 0, 0, 0, 0, 0, 0, 0], "attributes stay");
        }
    }

    #[test]
    fn a_partition_that_is_as_large_as_can_be_stays() {
        let head = head(512);
        let table = parse_head(&head, 512).unwrap();
        let growth = table.plan_growth(&head, 4096 + 33).unwrap();
        assert_eq!(growth.before, growth.after);
        let fault = TableFault::NoRoom { number: 1, last_lba: 4095, last_usable_lba: 4094 };
        assert_eq!(table.plan_growth(&head, 4096 + 32), Err(fault));
    }

    #[test]
    fn a_disk_above_two_tebibytes_does_not_fit_the_mbr() {
        let head = head(512);
        let growth = parse_head(&head, 512).unwrap().plan_growth(&head, 1 << 34).unwrap();
        assert_eq!(growth.mbr.unwrap()[MBR_RECORDS + 12..MBR_RECORDS + 16], [0xff; 4]);
    }

    #[test]
    fn a_hybrid_mbr_is_left() {
        let mut head = head(512);
        head[MBR_RECORDS + MBR_RECORD_BYTES + 4] = 0x83;
        assert_eq!(parse_head(&head, 512).unwrap().plan_growth(&head, 1 << 20).unwrap().mbr, None);
    }

    #[test]
    fn what_is_no_table_is_named() {
        assert_eq!(parse_head(&[], 512), Err(TableFault::None));
        assert_eq!(parse_head(&head(4096), 512), Err(TableFault::OtherSectors { image: 4096, device: 512 }));
        let mut mbr = vec![0; 4096];
        put(&mut mbr, 510, &[0x55, 0xaa]);
        assert_eq!(parse_head(&mbr, 512), Err(TableFault::None));
        mbr[MBR_RECORDS + 4] = 0x83;
        assert_eq!(parse_head(&mbr, 512), Err(TableFault::Mbr));
        for (place, what) in [(512 + 60, "header"), (1024, "entries")] {
            let mut head = head(512);
            head[place] ^= 1;
            let Err(TableFault::Damaged(text)) = parse_head(&head, 512) else { panic!("{place}") };
            assert!(text.contains(what), "{text}");
        }
        let cut = head(512)[..1500].to_vec();
        assert!(matches!(parse_head(&cut, 512), Err(TableFault::Damaged(_))));
    }
}
