//! The firmware's own description of the machine: the SMBIOS tables (DMTF DSP0134).
//!
//! Source: `/sys/firmware/dmi/tables/{smbios_entry_point,DMI}`, readable by root only; where the kernel lacks them, the
//! same structures one by one in `/sys/firmware/dmi/entries/*/raw` (module dmi-sysfs).
//!
//! The tables are written by board makers and not checked by anybody, so any byte may be wrong: a field that lies
//! outside of its structure is absent, and a structure that breaks off ends the table.

use std::path::Path;

use uuid::Uuid;

use super::Reading;
use super::attribute::{parse_text, read_bytes, read_names};
use super::placeholder::meaningful;
use crate::sys::roots::Roots;

/// Types of structures that we read (DSP0134 section 7).
pub mod kind {
    pub const BIOS: u8 = 0;
    pub const SYSTEM: u8 = 1;
    pub const BOARD: u8 = 2;
    pub const CHASSIS: u8 = 3;
    pub const PROCESSOR: u8 = 4;
    pub const MEMORY_ARRAY: u8 = 16;
    pub const MEMORY_DEVICE: u8 = 17;
    pub const HOST_INTERFACE: u8 = 42;
    pub const END_OF_TABLE: u8 = 127;
}

/// Type, length and handle.
const HEADER_BYTES: usize = 4;
/// Handles have 16 bits and are unique.
const MOST_STRUCTURES: usize = 1 << 16;

/// The tables as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Smbios {
    /// Major and minor version of the specification; absent when the entry point is not there or not known.
    pub version: Option<(u8, u8)>,
    table: Vec<u8>,
}

/// One structure: its fixed part, and the strings that belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Structure<'a> {
    pub kind: u8,
    pub handle: u16,
    fields: &'a [u8],
    strings: &'a [u8],
}

/// The tables of this machine; `None` with a sentence when it has none that can be read.
pub fn read(roots: &Roots) -> Reading<Option<Smbios>> {
    let dir = roots.sys.join("firmware/dmi/tables");
    let path = dir.join("DMI");
    if let Some(table) = read_bytes(&path) {
        let smbios = Smbios::parse(&read_bytes(&dir.join("smbios_entry_point")).unwrap_or_default(), table);
        let warnings = smbios.damage().map(|damage| format!("SMBIOS: {damage}")).into_iter().collect();
        return Reading { found: Some(smbios), warnings };
    }
    if let Some(table) = read_entries(&roots.sys.join("firmware/dmi/entries")) {
        return Reading { found: Some(Smbios::parse(&[], table)), warnings: Vec::new() };
    }
    let reason = if path.exists() { "cannot be read (root may)" } else { "is missing" };
    let warning = format!("SMBIOS: /sys/firmware/dmi/tables/DMI {reason}, memory modules and slots are not known");
    Reading { found: None, warnings: vec![warning] }
}

/// All structures of `entries/<type>-<instance>/raw`, in this order.
fn read_entries(dir: &Path) -> Option<Vec<u8>> {
    let number = |name: &str| {
        let (kind, instance) = name.split_once('-')?;
        Some((kind.parse::<u8>().ok()?, instance.parse::<u16>().ok()?))
    };
    let mut names: Vec<_> = read_names(dir)?.into_iter().filter_map(|name| Some((number(&name)?, name))).collect();
    names.sort();
    let mut table = Vec::new();
    for ((kind, _), name) in names {
        let Some(raw) = read_bytes(&dir.join(name).join("raw")).filter(|_| kind != kind::END_OF_TABLE) else {
            continue;
        };
        table.extend_from_slice(&raw);
        // Not to let a structure that lacks its end eat the next.
        if !raw.ends_with(&[0, 0]) {
            table.extend_from_slice(&[0, 0]);
        }
    }
    (!table.is_empty()).then_some(table)
}

impl Smbios {
    /// `entry_point` may be empty: it only tells the version.
    pub fn parse(entry_point: &[u8], table: Vec<u8>) -> Self {
        Self { version: parse_version(entry_point), table }
    }

    /// All structures in the order of the table, up to its end or to the first that is broken.
    pub fn structures(&self) -> Structures<'_> {
        Structures { table: &self.table, offset: 0, left: MOST_STRUCTURES, damage: None }
    }

    /// All structures of a type.
    pub fn all(&self, kind: u8) -> impl Iterator<Item = Structure<'_>> {
        self.structures().filter(move |structure| structure.kind == kind)
    }

    /// The first structure of a type, which is the one that the kernel shows in `/sys/class/dmi/id`.
    pub fn first(&self, kind: u8) -> Option<Structure<'_>> {
        self.all(kind).next()
    }

    /// Why the table could be read in part only.
    pub fn damage(&self) -> Option<String> {
        let mut structures = self.structures();
        structures.by_ref().for_each(drop);
        structures.damage
    }

    /// The UUID of the system structure; `None` also for "not present" (all ones) and "not set" (all zeros).
    pub fn system_uuid(&self) -> Option<Uuid> {
        let system = self.first(kind::SYSTEM)?;
        let bytes: [u8; 16] = system.bytes(0x08)?;
        // The first three groups are little-endian since 2.6; what says no version is newer.
        let is_little_endian = self.version.is_none_or(|version| version >= (2, 6));
        let uuid = if is_little_endian { Uuid::from_bytes_le(bytes) } else { Uuid::from_bytes(bytes) };
        (!uuid.is_nil() && !uuid.is_max()).then_some(uuid)
    }
}

/// The entry point's anchor and version: DSP0134 sections 5.2.1 and 5.2.2, and the older `_DMI_` with a BCD version.
fn parse_version(entry_point: &[u8]) -> Option<(u8, u8)> {
    let at = |offset: usize| entry_point.get(offset).copied();
    if entry_point.starts_with(b"_SM3_") {
        Some((at(7)?, at(8)?))
    } else if entry_point.starts_with(b"_SM_") {
        Some((at(6)?, at(7)?))
    } else if entry_point.starts_with(b"_DMI_") {
        Some((at(14)? >> 4, at(14)? & 0x0f))
    } else {
        None
    }
}

/// Walks through a table.
#[derive(Clone, Debug)]
pub struct Structures<'a> {
    table: &'a [u8],
    offset: usize,
    left: usize,
    damage: Option<String>,
}

impl<'a> Iterator for Structures<'a> {
    type Item = Structure<'a>;

    fn next(&mut self) -> Option<Structure<'a>> {
        let rest = self.table.get(self.offset..)?;
        let [kind, length, handle_low, handle_high, ..] = *rest else { return None };
        if kind == kind::END_OF_TABLE {
            return None;
        }
        self.left = match self.left.checked_sub(1) {
            Some(left) => left,
            None => return self.stop("has more structures than handles"),
        };
        let length = usize::from(length);
        if length < HEADER_BYTES {
            return self.stop("has a structure that is shorter than its header");
        }
        let Some((fields, behind)) = rest.split_at_checked(length) else {
            return self.stop("breaks off in the middle of a structure");
        };
        let strings = match behind.windows(2).position(|pair| pair == [0, 0]) {
            Some(end) => {
                self.offset += length + end + 2;
                behind.get(..end).unwrap_or_default()
            }
            None => {
                // What there is of it counts.
                self.stop::<()>("breaks off in the strings of a structure");
                behind
            }
        };
        Some(Structure { kind, handle: u16::from_le_bytes([handle_low, handle_high]), fields, strings })
    }
}

impl Structures<'_> {
    fn stop<T>(&mut self, what: &str) -> Option<T> {
        self.damage =
            Some(format!("the table {what} (byte {} of {}), what follows is not known", self.offset, self.table.len()));
        self.offset = self.table.len();
        None
    }
}

impl Structure<'_> {
    pub fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.fields.get(offset..)?.first_chunk().copied()
    }

    pub fn byte(&self, offset: usize) -> Option<u8> {
        self.fields.get(offset).copied()
    }

    pub fn word(&self, offset: usize) -> Option<u16> {
        self.bytes(offset).map(u16::from_le_bytes)
    }

    pub fn dword(&self, offset: usize) -> Option<u32> {
        self.bytes(offset).map(u32::from_le_bytes)
    }

    pub fn qword(&self, offset: usize) -> Option<u64> {
        self.bytes(offset).map(u64::from_le_bytes)
    }

    /// The string whose number is at `offset`; `None` for a placeholder too.
    pub fn text(&self, offset: usize) -> Option<String> {
        let number = usize::from(self.byte(offset)?);
        let string = self.strings.split(|&byte| byte == 0).nth(number.checked_sub(1)?)?;
        parse_text(string).and_then(meaningful)
    }
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngAlgorithm, RngSeed};

    use super::super::dimm;
    use super::*;

    /// A structure of `fields` behind the header, with its strings.
    pub fn structure(kind: u8, handle: u16, fields: &[u8], strings: &[&str]) -> Vec<u8> {
        let mut bytes = vec![kind, u8::try_from(HEADER_BYTES + fields.len()).expect("a short structure")];
        bytes.extend(handle.to_le_bytes());
        bytes.extend(fields);
        for string in strings {
            bytes.extend(string.as_bytes());
            bytes.push(0);
        }
        bytes.extend(if strings.is_empty() { [0, 0].as_slice() } else { [0].as_slice() });
        bytes
    }

    fn handles(table: &[u8]) -> (Vec<u16>, Option<String>) {
        let smbios = Smbios::parse(&[], table.to_vec());
        (smbios.structures().map(|structure| structure.handle).collect(), smbios.damage())
    }

    #[test]
    fn fields_and_strings_are_found_and_what_lies_outside_is_absent() {
        let table = [
            structure(kind::BIOS, 1, &[1, 2, 0, 0, 3, 9], &["Acme", "1.0", "Default string"]),
            structure(kind::PROCESSOR, 2, &[0x34, 0x12], &[]),
            structure(kind::END_OF_TABLE, 3, &[], &[]),
            structure(kind::BIOS, 4, &[], &[]),
        ];
        let smbios = Smbios::parse(&[], table.concat());
        let bios = smbios.first(kind::BIOS).expect("BIOS");
        assert_eq!((bios.text(4).as_deref(), bios.text(5).as_deref()), (Some("Acme"), Some("1.0")));
        assert_eq!((bios.text(6), bios.text(8), bios.text(9), bios.text(10)), (None, None, None, None));
        let processor = smbios.first(kind::PROCESSOR).expect("processor");
        assert_eq!((processor.word(4), processor.word(5), processor.dword(4)), (Some(0x1234), None, None));
        assert_eq!(handles(&table.concat()), (vec![1, 2], None), "nothing behind the end");
    }

    #[test]
    fn a_broken_table_is_read_up_to_where_it_breaks() {
        let whole = [structure(0, 1, &[1], &["a"]), structure(1, 2, &[1, 2, 3], &["b"])].concat();
        assert_eq!(handles(&whole), (vec![1, 2], None));
        let (found, damage) = handles(whole.get(..whole.len() - 6).expect("a part"));
        assert_eq!(found, [1]);
        assert!(damage.expect("damage").contains("in the middle of a structure (byte 8 of 12)"));
        let (found, damage) = handles(whole.get(..whole.len() - 1).expect("a part"));
        assert_eq!(found, [1, 2]);
        assert!(damage.expect("damage").contains("in the strings"));
        let (found, damage) = handles(&[whole.as_slice(), &[4, 3, 0, 0, 0, 0]].concat());
        assert_eq!(found, [1, 2]);
        assert!(damage.expect("damage").contains("shorter than its header"));
        let (found, damage) = handles(&structure(0, 1, &[], &[]).repeat(MOST_STRUCTURES + 1));
        assert_eq!(found.len(), MOST_STRUCTURES);
        assert!(damage.expect("damage").contains("more structures than handles"));
    }

    #[test]
    fn the_entry_point_tells_the_version_and_with_it_the_order_of_the_uuids_bytes() {
        let uuid: [u8; 16] = std::array::from_fn(|i| u8::try_from(i).expect("small") + 0x10);
        let table = structure(kind::SYSTEM, 1, &[[0; 4].as_slice(), &uuid].concat(), &[]);
        let id = |entry_point: &[u8]| {
            let smbios = Smbios::parse(entry_point, table.clone());
            (smbios.version, smbios.system_uuid().map(|uuid| uuid.to_string()))
        };
        let new = Some("13121110-1514-1716-1819-1a1b1c1d1e1f".to_owned());
        assert_eq!(id(b"_SM3_\x00\x18\x03\x07\x00"), (Some((3, 7)), new.clone()));
        assert_eq!(id(b"_SM_\x00\x1f\x02\x08"), (Some((2, 8)), new.clone()));
        assert_eq!(id(b""), (None, new.clone()));
        assert_eq!(id(b"_SM_\x00\x1f"), (None, new));
        let old = Some("10111213-1415-1617-1819-1a1b1c1d1e1f".to_owned());
        assert_eq!(id(b"_SM_\x00\x1f\x02\x05"), (Some((2, 5)), old.clone()));
        assert_eq!(id(b"_DMI_\0\0\0\0\0\0\0\0\0\x24"), (Some((2, 4)), old));
    }

    proptest! {
        #![proptest_config(Config {
            rng_algorithm: RngAlgorithm::ChaCha,
            rng_seed: RngSeed::Fixed(134),
            failure_persistence: None,
            ..Config::with_cases(500)
        })]

        #[test]
        fn any_bytes_are_read_to_their_end(
            entry_point in proptest::collection::vec(any::<u8>(), 0..40),
            // Small lengths and many zeros, so that structures are found in it.
            table in proptest::collection::vec(prop_oneof![Just(0_u8), 0_u8..40, any::<u8>()], 0..600),
        ) {
            let length = table.len();
            let smbios = Smbios::parse(&entry_point, table);
            let _ = smbios.system_uuid();
            let _ = smbios.damage();
            let _ = dimm::parse_dimms(&smbios);
            prop_assert!(smbios.structures().count() <= length / HEADER_BYTES);
            for structure in smbios.structures() {
                for offset in [0, 1, 5, 0x54, 255, usize::MAX] {
                    let _ = (structure.word(offset), structure.qword(offset), structure.text(offset));
                }
            }
        }
    }
}
