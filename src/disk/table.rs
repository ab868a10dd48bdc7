//! Reading partition tables, also damaged ones of strangers.
//!
//! Written apart from the crate `gpt`, which writes ours: it stops the program at odd entry sizes, and a check by
//! other code than the writer's finds what the writer got wrong. Source: UEFI specification 2.10, chapter 5.

use std::os::unix::fs::FileExt;
use std::{fs, io};

use serde::Serialize;
use thiserror::Error;
use uuid::Uuid;

/// Entries in every GPT that we write.
pub const GPT_ENTRIES: u32 = 128;
const GPT_ENTRY_BYTES: u32 = 128;
const HEADER_BYTES: usize = 92;

/// Sectors of the entry array.
pub fn gpt_array_sectors(sector_bytes: u32) -> u64 {
    u64::from((GPT_ENTRIES * GPT_ENTRY_BYTES).div_ceil(sector_bytes.max(1)))
}

/// What lies at the head of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// Neither a GPT nor the mark of an MBR.
    None,
    /// An MBR that is not a GPT's protective one, or a boot sector.
    Mbr,
    Gpt(GptTable),
    /// A GPT that can't be trusted, and why.
    DamagedGpt(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GptTable {
    pub disk_guid: Uuid,
    pub first_usable_lba: u64,
    pub last_usable_lba: u64,
    /// By number.
    pub partitions: Vec<GptPartition>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GptPartition {
    pub number: u32,
    pub type_guid: Uuid,
    pub guid: Uuid,
    pub first_lba: u64,
    pub last_lba: u64,
    pub name: String,
}

/// Which of the two copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    Primary,
    Backup,
}

#[derive(Debug, Error)]
pub enum TableError {
    #[error("there is no GPT header at sector {lba}")]
    NoHeader { lba: u64 },
    #[error("the GPT header at sector {lba} has checksum {found:#010x} instead of {expected:#010x}")]
    HeaderChecksum { lba: u64, expected: u32, found: u32 },
    #[error("the GPT entries at sector {lba} have checksum {found:#010x} instead of {expected:#010x}")]
    EntriesChecksum { lba: u64, expected: u32, found: u32 },
    #[error("the GPT header at sector {lba} says {what}")]
    Odd { lba: u64, what: String },
    #[error("can't read {length} bytes at offset {offset}")]
    Read { offset: u64, length: usize, source: io::Error },
}

/// The table of a disk or image.
pub fn read_table(file: &fs::File, size_bytes: u64, sector_bytes: u32) -> Result<Table, TableError> {
    match read_gpt(file, size_bytes, sector_bytes, Copy::Primary) {
        Ok(table) => return Ok(Table::Gpt(table)),
        Err(TableError::NoHeader { .. }) => {}
        Err(error @ TableError::Read { .. }) => return Err(error),
        Err(
            error @ (TableError::HeaderChecksum { .. } | TableError::EntriesChecksum { .. } | TableError::Odd { .. }),
        ) => {
            return Ok(Table::DamagedGpt(error.to_string()));
        }
    }
    let head = read_span(file, 0, 512)?;
    Ok(if head.get(510..512) == Some(&[0x55, 0xaa]) { Table::Mbr } else { Table::None })
}

/// One copy of the GPT, with its checksums verified.
pub fn read_gpt(file: &fs::File, size_bytes: u64, sector_bytes: u32, copy: Copy) -> Result<GptTable, TableError> {
    let sector = u64::from(sector_bytes);
    let lba = match copy {
        Copy::Primary => 1,
        Copy::Backup => (size_bytes / sector.max(1)).saturating_sub(1),
    };
    if size_bytes < 3 * sector {
        return Err(TableError::NoHeader { lba });
    }
    let header = parse_header(&read_span(file, lba * sector, HEADER_BYTES)?, lba)?;
    let length = header.entry_count as usize * header.entry_bytes as usize;
    let offset = header.entries_lba.saturating_mul(sector);
    let entries = read_span(file, offset, length)?;
    let found = crc32(&entries);
    if found != header.entries_checksum {
        let (lba, expected) = (header.entries_lba, header.entries_checksum);
        return Err(TableError::EntriesChecksum { lba, expected, found });
    }
    let partitions = parse_entries(&entries, header.entry_bytes as usize);
    Ok(GptTable {
        disk_guid: header.disk_guid,
        first_usable_lba: header.first_usable_lba,
        last_usable_lba: header.last_usable_lba,
        partitions,
    })
}

struct Header {
    disk_guid: Uuid,
    first_usable_lba: u64,
    last_usable_lba: u64,
    entries_lba: u64,
    entry_count: u32,
    entry_bytes: u32,
    entries_checksum: u32,
}

fn parse_header(bytes: &[u8], lba: u64) -> Result<Header, TableError> {
    if bytes.get(..8) != Some(b"EFI PART") || bytes.len() < HEADER_BYTES {
        return Err(TableError::NoHeader { lba });
    }
    let header_bytes = le32(bytes, 12);
    if header_bytes as usize != HEADER_BYTES {
        return Err(TableError::Odd { lba, what: format!("it is {header_bytes} bytes long") });
    }
    let mut blank = bytes[..HEADER_BYTES].to_vec();
    blank[16..20].fill(0);
    let (expected, found) = (le32(bytes, 16), crc32(&blank));
    if expected != found {
        return Err(TableError::HeaderChecksum { lba, expected, found });
    }
    let (entry_count, entry_bytes) = (le32(bytes, 80), le32(bytes, 84));
    // The specification allows more; nobody writes it, and the product is memory that we would have to take.
    if entry_count == 0 || entry_count > 1024 || !(128..=1024).contains(&entry_bytes) {
        let what = format!("it has {entry_count} entries of {entry_bytes} bytes");
        return Err(TableError::Odd { lba, what });
    }
    Ok(Header {
        disk_guid: guid(&bytes[56..72]),
        first_usable_lba: le64(bytes, 40),
        last_usable_lba: le64(bytes, 48),
        entries_lba: le64(bytes, 72),
        entry_count,
        entry_bytes,
        entries_checksum: le32(bytes, 88),
    })
}

fn parse_entries(entries: &[u8], entry_bytes: usize) -> Vec<GptPartition> {
    let numbered = (1..).zip(entries.chunks_exact(entry_bytes));
    let used = numbered.filter(|(_, entry)| entry[..16] != [0; 16]);
    used.map(|(number, entry)| GptPartition {
        number,
        type_guid: guid(&entry[..16]),
        guid: guid(&entry[16..32]),
        first_lba: le64(entry, 32),
        last_lba: le64(entry, 40),
        name: name(&entry[56..128]),
    })
    .collect()
}

fn name(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&units)
}

/// The first three fields are stored little-endian.
fn guid(bytes: &[u8]) -> Uuid {
    let mut sixteen = [0; 16];
    sixteen.copy_from_slice(bytes);
    Uuid::from_bytes_le(sixteen)
}

fn le32(bytes: &[u8], offset: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(four)
}

fn le64(bytes: &[u8], offset: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(eight)
}

/// CRC-32 as of Ethernet and zlib; bit by bit, as a table has only 16 KiB.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

fn read_span(file: &fs::File, offset: u64, length: usize) -> Result<Vec<u8>, TableError> {
    let mut bytes = vec![0; length];
    match file.read_exact_at(&mut bytes, offset) {
        Ok(()) => Ok(bytes),
        Err(source) => Err(TableError::Read { offset, length, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_the_one_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn array_takes_32_sectors_of_512_and_4_of_4096() {
        assert_eq!((gpt_array_sectors(512), gpt_array_sectors(4096)), (32, 4));
    }

    #[test]
    fn a_header_with_absurd_entries_is_refused_before_memory_is_taken() {
        let mut bytes = [0_u8; HEADER_BYTES];
        bytes[..8].copy_from_slice(b"EFI PART");
        bytes[12..16].copy_from_slice(&92_u32.to_le_bytes());
        bytes[80..84].copy_from_slice(&u32::MAX.to_le_bytes());
        bytes[84..88].copy_from_slice(&128_u32.to_le_bytes());
        let checksum = crc32(&bytes);
        bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
        let error = parse_header(&bytes, 1).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("the GPT header at sector 1 says it has 4294967295 entries of 128 bytes"));
    }
}
