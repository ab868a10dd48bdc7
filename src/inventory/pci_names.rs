//! Names of PCI vendors, devices, subsystems and classes.
//!
//! From the PCI ID Repository, as the crate `pci-ids` has it (July 2025). What that lacks is looked up in a newer
//! `/usr/share/misc/pci.ids`, when there is one, and in a small table of our own. A text that is known here never
//! changes because of a file: machines' sizes match on it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pci_ids::FromId;

use super::attribute::read_bytes;
use crate::sys::roots::Roots;

/// A vendor and a device (or subsystem vendor and subsystem).
pub type Ids = (u16, u16);

pub const NVIDIA: u16 = 0x10de;

/// The texts that sizes in the field match on, whatever any database says: they are upstream's.
const FIXED_NAMES: &[(Ids, &str)] = &[
    ((NVIDIA, 0x2330), "GH100 [H100 SXM5 80GB]"),
    ((NVIDIA, 0x2331), "GH100 [H100 PCIe]"),
    ((NVIDIA, 0x2335), "GH100 [H200 SXM 141GB]"),
    ((NVIDIA, 0x233b), "GH100 [H200 NVL]"),
    ((NVIDIA, 0x2342), "GH100 [GH200 120GB / 480GB]"),
    ((NVIDIA, 0x20b0), "GA100 [A100 SXM4 40GB]"),
    ((NVIDIA, 0x20b2), "GA100 [A100 SXM4 80GB]"),
    ((NVIDIA, 0x26b9), "AD102GL [L40S]"),
    ((NVIDIA, 0x2901), "GB100 [B200]"),
];

/// Names of devices that are newer than the crate's data.
///
/// Source: the PCI ID Repository (pci.ids), where the same text stands.
const NEWER_NAMES: &[(Ids, &str)] = &[((NVIDIA, 0x3182), "GB110 [B300 SXM6 AC]")];

/// Names for the devices of one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// From the file: only what was asked for.
    vendors: BTreeMap<u16, String>,
    devices: BTreeMap<Ids, String>,
    subsystems: BTreeMap<(Ids, Ids), String>,
}

impl Names {
    /// Reads the file only when a device is there that is not known otherwise: it has 1.5 MB.
    pub fn read(roots: &Roots, present: &BTreeSet<Ids>) -> Self {
        let known = Self::default();
        let unknown = |(vendor, device): &Ids| known.device(*vendor, *device).is_none();
        let wanted: BTreeSet<Ids> = present.iter().copied().filter(unknown).collect();
        if wanted.is_empty() {
            return known;
        }
        read_file(&roots.share.join("misc/pci.ids"), &wanted).unwrap_or_default()
    }

    pub fn vendor(&self, id: u16) -> Option<&str> {
        let built_in = pci_ids::Vendor::from_id(id).map(pci_ids::Vendor::name);
        built_in.or_else(|| self.vendors.get(&id).map(String::as_str))
    }

    /// E.g. `GH100 [H100 SXM5 80GB]`.
    pub fn device(&self, vendor: u16, device: u16) -> Option<&str> {
        let ids = (vendor, device);
        let of = |table: &'static [(Ids, &'static str)]| table.iter().find(|(known, _)| *known == ids);
        let fixed = of(FIXED_NAMES).map(|(_, name)| *name);
        fixed
            .or_else(|| pci_ids::Device::from_vid_pid(vendor, device).map(pci_ids::Device::name))
            .or_else(|| self.devices.get(&ids).map(String::as_str))
            .or_else(|| of(NEWER_NAMES).map(|(_, name)| *name))
    }

    /// The card that a device sits on, where the database tells it.
    pub fn subsystem(&self, device: Ids, subsystem: Ids) -> Option<&str> {
        let fits = |known: &&pci_ids::SubSystem| (known.subvendor(), known.subdevice()) == subsystem;
        let built_in = pci_ids::Device::from_vid_pid(device.0, device.1)
            .and_then(|device| device.subsystems().find(fits))
            .map(pci_ids::SubSystem::name);
        built_in.or_else(|| self.subsystems.get(&(device, subsystem)).map(String::as_str))
    }
}

/// The name of a class (base class and subclass), e.g. `3D controller`; of an unknown subclass its base class's.
pub fn class_name(class: u32) -> Option<&'static str> {
    let byte = |shift: u32| u8::try_from(class >> shift & 0xff).ok();
    let (base, sub) = (byte(16)?, byte(8)?);
    pci_ids::Subclass::from_cid_sid(base, sub)
        .map(pci_ids::Subclass::name)
        .or_else(|| pci_ids::Class::from_id(base).map(pci_ids::Class::name))
}

fn read_file(path: &Path, wanted: &BTreeSet<Ids>) -> Option<Names> {
    Some(parse_names(&String::from_utf8_lossy(&read_bytes(path)?), wanted))
}

/// Vendors at the beginning of a line, their devices after one tab, subsystems after two; ids in four hexadecimal
/// digits, then two blanks and the name. What does not look so is passed over, and ends what it stands in.
fn parse_names(text: &str, wanted: &BTreeSet<Ids>) -> Names {
    let vendors: BTreeSet<u16> = wanted.iter().map(|(vendor, _)| *vendor).collect();
    let mut names = Names::default();
    let mut vendor = None;
    let mut device = None;
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(rest) = line.strip_prefix("\t\t") {
            let Some(device) = device else { continue };
            let Some((subsystem, name)) = parse_subsystem(rest) else { continue };
            names.subsystems.insert((device, subsystem), name.to_owned());
        } else if let Some(rest) = line.strip_prefix('\t') {
            let found = parse_entry(rest).and_then(|(id, name)| Some(((vendor?, id), name)));
            device = found.map(|(ids, _)| ids).filter(|ids| wanted.contains(ids));
            if let (Some(ids), Some((_, name))) = (device, found) {
                names.devices.insert(ids, name.to_owned());
            }
        } else {
            // Classes (`C 03  Display controller`) end the last vendor, since they are none.
            let found = parse_entry(line).filter(|(id, _)| vendors.contains(id));
            (vendor, device) = (found.map(|(id, _)| id), None);
            if let Some((id, name)) = found {
                names.vendors.insert(id, name.to_owned());
            }
        }
    }
    names
}

fn parse_id(text: &str) -> Option<u16> {
    let is_id = text.len() == 4 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if is_id { u16::from_str_radix(text, 16).ok() } else { None }
}

fn parse_entry(line: &str) -> Option<(u16, &str)> {
    let (id, name) = line.split_once(' ')?;
    let name = name.trim();
    (!name.is_empty()).then_some((parse_id(id)?, name))
}

fn parse_subsystem(line: &str) -> Option<(Ids, &str)> {
    let (vendor, rest) = line.split_once(' ')?;
    let (device, name) = parse_entry(rest)?;
    Some(((parse_id(vendor)?, device), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_name_that_the_crate_has_learnt_can_go() {
        for ((vendor, device), name) in NEWER_NAMES {
            assert!(pci_ids::Device::from_vid_pid(*vendor, *device).is_none(), "{name} is in the crate now");
            assert_eq!(Names::default().device(*vendor, *device), Some(*name));
        }
    }

    #[test]
    fn the_accelerators_of_the_day_are_built_in() {
        let names = Names::default();
        for (device, name) in [
            (0x2941, "GB100 [HGX GB200]"),
            (0x2bb1, "GB202GL [RTX PRO 6000 Blackwell Workstation Edition]"),
            (0x2bb4, "GB202GL [RTX PRO 6000 Blackwell Max-Q Workstation Edition]"),
            (0x2bb5, "GB202GL [RTX PRO 6000 Blackwell Server Edition]"),
        ] {
            assert_eq!(names.device(NVIDIA, device), Some(name));
        }
        assert_eq!(class_name(0x03_02_00), Some("3D controller"));
        assert_eq!(class_name(0x12_00_00), Some("Processing accelerators"));
        assert_eq!(class_name(0xfe_00_00), None);
    }

    const FILE: &str = "# a comment\n\
        10de  NVIDIA Corporation\n\
        \t2330  SOMETHING [ELSE]\n\
        \tfffe  GX100 [Newest]\n\
        \t\t10de 0001  The Newest's Card\n\
        \t\tbroken\n\
        \tzzzz  no id\n\
        \t\t10de 0002  belongs to nothing\n\
        fff0  Maker of Tomorrow\n\
        \t0001  Thing\n\
        C 03  Display controller\n\
        \t0001  no device\n";

    #[test]
    fn a_file_adds_what_is_not_known_and_changes_nothing() {
        let wanted = BTreeSet::from([(NVIDIA, 0x2330), (NVIDIA, 0xfffe), (0xfff0, 1), (0xfff0, 2)]);
        let names = parse_names(FILE, &wanted);
        assert_eq!(names.device(NVIDIA, 0x2330), Some("GH100 [H100 SXM5 80GB]"));
        assert_eq!(names.device(NVIDIA, 0xfffe), Some("GX100 [Newest]"));
        assert_eq!(names.subsystem((NVIDIA, 0xfffe), (NVIDIA, 1)), Some("The Newest's Card"));
        assert_eq!(names.subsystems.len(), 1);
        assert_eq!((names.vendor(0xfff0), names.device(0xfff0, 1)), (Some("Maker of Tomorrow"), Some("Thing")));
        assert_eq!(names.device(0xfff0, 2), None);
    }

    #[test]
    fn nothing_but_what_is_wanted_is_kept_of_a_file() {
        let names = parse_names(FILE, &BTreeSet::from([(0xfff0, 1)]));
        assert_eq!((names.vendors.len(), names.devices.len(), names.subsystems.len()), (1, 1, 0));
        assert_eq!(parse_names("\t\t\n\t\n\u{fffd}\n10de\n\t1 2", &BTreeSet::from([(NVIDIA, 1)])), Names::default());
    }
}
