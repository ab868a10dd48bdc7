//! Memory modules and their slots.
//!
//! Source: SMBIOS types 16 (arrays: what can be plugged) and 17 (devices: one a slot), DSP0134 sections 7.17 and 7.18.
//! Arrays that are no main memory (the flash of the firmware, video memory) do not count.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::Reading;
use super::smbios::{self, Smbios, Structure, kind};
use crate::sys::roots::Roots;
use crate::sys::units::Bytes;

/// All slots of main memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Dimms {
    pub slots: u32,
    pub empty_slots: u32,
    /// The weakest of all arrays. Absent when the firmware does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_correction: Option<ErrorCorrection>,
    /// The most that can be plugged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Bytes>,
    /// The slots that are not empty, in the firmware's order.
    pub modules: Vec<Dimm>,
}

/// One module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Dimm {
    /// Device locator: the slot's name as it is printed on the board, e.g. `P1-DIMMA1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// Bank locator, e.g. `P0_Node0_Channel0_Dimm0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bank: Option<String>,
    /// Absent when the firmware knows of a module but not its size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Bytes>,
    /// `DDR5`, `DDR4`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub technology: Option<Technology>,
    /// `DIMM`, `SODIMM`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub form_factor: Option<&'static str>,
    /// What the module is made for, in million transfers a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rated_mts: Option<u32>,
    /// What it runs at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configured_mts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranks: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part_number: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asset_tag: Option<String>,
}

/// DSP0134 table 73, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCorrection {
    None,
    Parity,
    Crc,
    SingleBit,
    MultiBit,
}

/// DSP0134 table 80: what is not DRAM keeps its content, and is not main memory unless it is set up to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Technology {
    Dram,
    /// DRAM with a copy in flash.
    NvdimmN,
    NvdimmF,
    NvdimmP,
    Optane,
}

impl Technology {
    fn is_main_memory(self) -> bool {
        match self {
            Self::Dram | Self::NvdimmN => true,
            Self::NvdimmF | Self::NvdimmP | Self::Optane => false,
        }
    }
}

/// `None` without SMBIOS tables (which [`super::dmi`] says), and where these have no slots.
pub fn read(roots: &Roots) -> Reading<Option<Dimms>> {
    let found = smbios::read(roots).found.and_then(|smbios| parse_dimms(&smbios));
    Reading { found, warnings: Vec::new() }
}

/// Main memory that is plugged in; `None` when the size of a module is not known.
pub fn installed(dimms: &Dimms) -> Option<Bytes> {
    let is_main_memory = |dimm: &&Dimm| dimm.technology.is_none_or(Technology::is_main_memory);
    let sizes = dimms.modules.iter().filter(is_main_memory).map(|dimm| Some(dimm.size?.0));
    let sum = sizes.reduce(|sum, size| sum?.checked_add(size?))??;
    (sum > 0).then_some(Bytes(sum))
}

pub fn parse_dimms(smbios: &Smbios) -> Option<Dimms> {
    let arrays: BTreeMap<u16, Structure<'_>> =
        smbios.all(kind::MEMORY_ARRAY).map(|array| (array.handle, array)).collect();
    let main_memory = || arrays.values().filter(|array| is_main_memory(array));
    // A slot of an array that is not described is taken for one of main memory.
    let slot_counts =
        |slot: &Structure<'_>| slot.word(0x04).and_then(|handle| arrays.get(&handle)).is_none_or(is_main_memory);
    let capacities = main_memory().map(array_capacity).reduce(|sum, array| sum?.checked_add(array?));
    let mut dimms = Dimms {
        error_correction: main_memory().filter_map(error_correction).min(),
        capacity: capacities.flatten().map(Bytes),
        ..Dimms::default()
    };
    for slot in smbios.all(kind::MEMORY_DEVICE).filter(slot_counts) {
        dimms.slots += 1;
        match parse_size(&slot) {
            Size::Empty => dimms.empty_slots += 1,
            Size::Unknown => dimms.modules.push(Dimm { size: None, ..parse_module(&slot) }),
            Size::Known(size) => dimms.modules.push(Dimm { size: Some(size), ..parse_module(&slot) }),
        }
    }
    (dimms != Dimms::default()).then_some(dimms)
}

/// Use 3 is system memory.
fn is_main_memory(array: &Structure<'_>) -> bool {
    array.byte(0x05) == Some(3)
}

fn error_correction(array: &Structure<'_>) -> Option<ErrorCorrection> {
    match array.byte(0x06)? {
        3 => Some(ErrorCorrection::None),
        4 => Some(ErrorCorrection::Parity),
        5 => Some(ErrorCorrection::SingleBit),
        6 => Some(ErrorCorrection::MultiBit),
        7 => Some(ErrorCorrection::Crc),
        // 1 is "other", 2 "unknown".
        _ => None,
    }
}

/// In bytes. KiB at 0x07; from 2 TiB on the bytes are at 0x0f.
fn array_capacity(array: &Structure<'_>) -> Option<u64> {
    let capacity = match array.dword(0x07)? {
        0x8000_0000 => array.qword(0x0f)?,
        kib => u64::from(kib) << 10,
    };
    (capacity > 0).then_some(capacity)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Empty,
    Unknown,
    Known(Bytes),
}

/// MiB, or KiB with the top bit; from 32 GiB - 1 MiB on the MiB are at 0x1c.
fn parse_size(slot: &Structure<'_>) -> Size {
    match slot.word(0x0c) {
        Some(0 | 0x8000) => Size::Empty,
        None | Some(0xffff) => Size::Unknown,
        Some(0x7fff) => match slot.dword(0x1c).map(|mib| mib & 0x7fff_ffff) {
            None | Some(0) => Size::Unknown,
            Some(mib) => Size::Known(Bytes(u64::from(mib) << 20)),
        },
        Some(kib) if kib & 0x8000 != 0 => Size::Known(Bytes(u64::from(kib & 0x7fff) << 10)),
        Some(mib) => Size::Known(Bytes(u64::from(mib) << 20)),
    }
}

fn parse_module(slot: &Structure<'_>) -> Dimm {
    Dimm {
        slot: slot.text(0x10),
        bank: slot.text(0x11),
        size: None,
        kind: slot.byte(0x12).and_then(memory_kind),
        technology: slot.byte(0x28).and_then(technology),
        form_factor: slot.byte(0x0e).and_then(form_factor),
        rated_mts: parse_speed(slot, 0x15, 0x54),
        configured_mts: parse_speed(slot, 0x20, 0x58),
        ranks: slot.byte(0x1b).map(|attributes| attributes & 0x0f).filter(|ranks| *ranks > 0),
        vendor: slot.text(0x17),
        serial: slot.text(0x18),
        asset_tag: slot.text(0x19),
        part_number: slot.text(0x1a),
    }
}

/// MT/s; 0 is not known, all ones say that it does not fit and is at `extended`.
fn parse_speed(slot: &Structure<'_>, offset: usize, extended: usize) -> Option<u32> {
    let speed = match slot.word(offset)? {
        0xffff => slot.dword(extended)? & 0x7fff_ffff,
        speed => u32::from(speed),
    };
    (speed > 0).then_some(speed)
}

fn technology(number: u8) -> Option<Technology> {
    match number {
        3 => Some(Technology::Dram),
        4 => Some(Technology::NvdimmN),
        5 => Some(Technology::NvdimmF),
        6 => Some(Technology::NvdimmP),
        7 => Some(Technology::Optane),
        _ => None,
    }
}

/// DSP0134 table 76.
fn form_factor(number: u8) -> Option<&'static str> {
    Some(match number {
        0x03 => "SIMM",
        0x04 => "SIP",
        0x05 => "chip",
        0x06 => "DIP",
        0x07 => "ZIP",
        0x08 => "card",
        0x09 => "DIMM",
        0x0a => "TSOP",
        0x0b => "row of chips",
        0x0c => "RIMM",
        0x0d => "SODIMM",
        0x0e => "SRIMM",
        0x0f => "FB-DIMM",
        0x10 => "die",
        _ => return None,
    })
}

/// DSP0134 table 77, of what main memory is made of.
fn memory_kind(number: u8) -> Option<&'static str> {
    Some(match number {
        0x03 => "DRAM",
        0x04 => "EDRAM",
        0x06 => "SRAM",
        0x07 => "RAM",
        0x0f => "SDRAM",
        0x11 => "RDRAM",
        0x12 => "DDR",
        0x13 => "DDR2",
        0x14 => "DDR2 FB-DIMM",
        0x18 => "DDR3",
        0x19 => "FBD2",
        0x1a => "DDR4",
        0x1b => "LPDDR",
        0x1c => "LPDDR2",
        0x1d => "LPDDR3",
        0x1e => "LPDDR4",
        0x1f => "non-volatile",
        0x20 => "HBM",
        0x21 => "HBM2",
        0x22 => "DDR5",
        0x23 => "LPDDR5",
        0x24 => "HBM3",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::smbios::tests::structure;
    use super::*;

    /// Fields of a type 17 structure from offset 4 on; `(offset, bytes)` as in the specification.
    fn fields(length: usize, values: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; length - 4];
        for (offset, value) in values {
            bytes.splice(offset - 4..offset - 4 + value.len(), value.iter().copied());
        }
        bytes
    }

    fn array(handle: u16, used_as: u8, correction: u8) -> Vec<u8> {
        let fields = fields(0x17, &[(0x05, &[used_as]), (0x06, &[correction]), (0x07, &[0, 0, 0, 2]), (0x0d, &[4, 0])]);
        structure(kind::MEMORY_ARRAY, handle, &fields, &[])
    }

    fn slot(array: u8, values: &[(usize, &[u8])], strings: &[&str]) -> Vec<u8> {
        let handle = [array, 0];
        let values = [[(0x04, handle.as_slice())].as_slice(), values].concat();
        structure(kind::MEMORY_DEVICE, 0x1100, &fields(0x5c, &values), strings)
    }

    fn parse(table: &[Vec<u8>]) -> Dimms {
        parse_dimms(&Smbios::parse(&[], table.concat())).expect("slots")
    }

    #[test]
    fn a_module_is_read_and_empty_slots_and_flash_are_no_modules() {
        let strings =
            ["P1-DIMMA1", "P0_Node0_Channel0_Dimm0", "Acme Memory", "0A1B2C3D", "A1_AssetTagNum0", "AM5-4800 "];
        let module: [(usize, &[u8]); 13] = [
            (0x0c, &[0xff, 0x7f]),
            (0x0e, &[9]),
            (0x10, &[1]),
            (0x11, &[2]),
            (0x12, &[0x22]),
            (0x15, &[0xc0, 0x12]),
            (0x17, &[3]),
            (0x18, &[4]),
            (0x19, &[5]),
            (0x1a, &[6]),
            (0x1b, &[2]),
            (0x1c, &[0, 0, 1, 0]),
            (0x20, &[0x30, 0x11]),
        ];
        let empty: [(usize, &[u8]); 3] = [(0x0e, &[9]), (0x10, &[1]), (0x17, &[2])];
        let flash: [(usize, &[u8]); 2] = [(0x0c, &[16, 0]), (0x12, &[9])];
        let dimms = parse(&[
            array(1, 3, 6),
            array(2, 5, 3),
            slot(1, &module, &strings),
            slot(1, &empty, &["P1-DIMMA2", "NO DIMM"]),
            slot(2, &flash, &[]),
        ]);
        let expected = Dimm {
            slot: Some("P1-DIMMA1".to_owned()),
            bank: Some("P0_Node0_Channel0_Dimm0".to_owned()),
            size: Some(Bytes(64 << 30)),
            kind: Some("DDR5"),
            form_factor: Some("DIMM"),
            rated_mts: Some(4800),
            configured_mts: Some(4400),
            ranks: Some(2),
            vendor: Some("Acme Memory".to_owned()),
            serial: Some("0A1B2C3D".to_owned()),
            part_number: Some("AM5-4800".to_owned()),
            ..Dimm::default()
        };
        assert_eq!((dimms.slots, dimms.empty_slots, &dimms.modules), (2, 1, &vec![expected]));
        assert_eq!(dimms.error_correction, Some(ErrorCorrection::MultiBit));
        assert_eq!((dimms.capacity, installed(&dimms)), (Some(Bytes(32 << 30)), Some(Bytes(64 << 30))));
    }

    #[test]
    fn the_sizes_of_all_forms_are_read() {
        let size = |bytes: &[u8], extended: &[u8]| {
            let table = slot(1, &[(0x0c, bytes), (0x1c, extended)], &[]);
            parse_size(&Smbios::parse(&[], table).first(kind::MEMORY_DEVICE).expect("a slot"))
        };
        assert_eq!(size(&[0, 0], &[9; 4]), Size::Empty);
        assert_eq!(size(&[0, 0x80], &[9; 4]), Size::Empty);
        assert_eq!(size(&[0xff, 0xff], &[9; 4]), Size::Unknown);
        assert_eq!(size(&[0xff, 0x7f], &[0; 4]), Size::Unknown);
        assert_eq!(size(&[0x00, 0x40], &[0; 4]), Size::Known(Bytes(16 << 30)));
        assert_eq!(size(&[0x00, 0x82], &[0; 4]), Size::Known(Bytes(512 << 10)));
        // The top bit of the extended size is reserved.
        assert_eq!(size(&[0xff, 0x7f], &[0, 0, 2, 0x80]), Size::Known(Bytes(128 << 30)));
    }

    #[test]
    fn what_keeps_its_content_is_no_installed_memory_and_an_unknown_size_makes_the_sum_unknown() {
        let module = |technology: u8, size: [u8; 2]| slot(1, &[(0x0c, &size), (0x28, &[technology])], &[]);
        let dimms = parse(&[array(1, 3, 5), module(3, [0, 0x40]), module(7, [0, 0x40]), module(0, [0, 0x40])]);
        assert_eq!((dimms.modules.len(), installed(&dimms)), (3, Some(Bytes(32 << 30))));
        assert_eq!(installed(&parse(&[module(3, [0, 0x40]), module(3, [0xff, 0xff])])), None);
        assert_eq!(installed(&parse(&[module(3, [0, 0])])), None);
    }

    #[test]
    fn the_weakest_correction_of_the_arrays_counts_and_fast_modules_have_their_speed_elsewhere() {
        let fast: [(usize, &[u8]); 3] = [(0x0c, &[1, 0]), (0x15, &[0xff, 0xff]), (0x54, &[0x00, 0x19, 1, 0])];
        let dimms = parse(&[array(1, 3, 6), array(2, 3, 5), array(3, 3, 2), slot(1, &fast, &[])]);
        assert_eq!(dimms.error_correction, Some(ErrorCorrection::SingleBit));
        assert_eq!((dimms.modules[0].rated_mts, dimms.modules[0].configured_mts), (Some(71936), None));
    }

    #[test]
    fn structures_of_the_first_versions_lack_fields_and_are_read() {
        let old = structure(kind::MEMORY_DEVICE, 1, &fields(0x15, &[(0x0c, &[0, 4]), (0x12, &[0x0f])]), &[]);
        let dimms = parse(&[old]);
        assert_eq!((dimms.modules[0].size, dimms.modules[0].kind), (Some(Bytes(1 << 30)), Some("SDRAM")));
        assert_eq!((dimms.modules[0].rated_mts, dimms.error_correction), (None, None));
    }
}
