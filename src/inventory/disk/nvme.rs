//! NVMe controllers and their namespaces.
//!
//! Sources: `/sys/class/nvme/<controller>/`, and of the running machine the controllers' answers to Identify. A
//! namespace that is attached to no controller has no disk, and a controller may have no namespace at all: then the
//! machine lacks a disk that is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use super::super::attribute::{pci_address, read_device_path, read_names, read_number, read_text};
use super::health::Health;
use crate::sys::roots::Roots;
use crate::sys::units::Bytes;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct NvmeController {
    /// `nvme0`.
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// `firmware_rev`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// `state`: `live`, `connecting`, `dead`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// `transport`: `pcie`, `tcp`, `rdma`, `fc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<u64>,
    /// Of the medium, all namespaces together (TNVMCAP); absent without namespace management.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Bytes>,
    /// What no namespace has been given of it (UNVMCAP).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unallocated: Option<Bytes>,
    /// By id.
    pub namespaces: Vec<NvmeNamespace>,
    /// The SMART log; of the controller, so of all its namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct NvmeNamespace {
    pub id: u32,
    /// Whether this controller serves it.
    pub attached: bool,
    /// `/dev/nvme0n1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
}

/// What Identify tells of the namespace behind a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct NvmeFacts {
    /// 32 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nguid: Option<String>,
    /// 16 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eui64: Option<String>,
    /// All that the namespace can be formatted with.
    pub lba_formats: Vec<LbaFormat>,
}

/// NVM command set specification 1.0, figure 98.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LbaFormat {
    pub index: u8,
    pub data_bytes: u64,
    /// Of metadata beside each block.
    pub metadata_bytes: u16,
    /// 0 is the fastest, 3 the slowest.
    pub relative_performance: u8,
    pub in_use: bool,
}

/// What Identify tells of a controller beyond `/sys`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ControllerFacts {
    pub capacity: Option<Bytes>,
    pub unallocated: Option<Bytes>,
    pub manages_namespaces: bool,
}

/// By their numbers.
pub(super) fn read_controllers(roots: &Roots) -> Vec<NvmeController> {
    let dir = roots.sys.join("class/nvme");
    // Without the folder there are none, which is no reason to warn.
    let names = read_names(&dir).unwrap_or_default();
    let number = |name: &str| name.strip_prefix("nvme").and_then(|number| number.parse::<u32>().ok());
    let mut numbered: Vec<(u32, String)> =
        names.into_iter().filter_map(|name| number(&name).map(|number| (number, name))).collect();
    numbered.sort();
    numbered.into_iter().map(|(_, name)| read_controller(&dir.join(&name), name)).collect()
}

fn read_controller(dir: &Path, name: String) -> NvmeController {
    let text = |file: &str| read_text(&dir.join(file));
    let mut namespaces: Vec<NvmeNamespace> = read_names(dir)
        .unwrap_or_default()
        .iter()
        .filter_map(|entry| {
            let disk = disk_of(entry)?;
            let id = read_number(&dir.join(entry).join("nsid")).and_then(|id| u32::try_from(id).ok())?;
            Some(NvmeNamespace { id, attached: true, disk: Some(format!("/dev/{disk}")) })
        })
        .collect();
    namespaces.sort_by_key(|namespace| namespace.id);
    NvmeController {
        model: text("model"),
        serial: text("serial"),
        firmware: text("firmware_rev"),
        state: text("state"),
        transport: text("transport"),
        pci_address: read_device_path(dir).and_then(|path| pci_address(&path)),
        numa_node: read_number(&dir.join("numa_node")).or_else(|| read_number(&dir.join("device/numa_node"))),
        name,
        namespaces,
        ..NvmeController::default()
    }
}

/// The disk of an entry of the controller's folder: `nvme0n1` is one itself, `nvme0c1n1` is controller 1's path to the
/// disk `nvme0n1` of subsystem 0.
fn disk_of(entry: &str) -> Option<String> {
    let rest = entry.strip_prefix("nvme")?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (before, namespace) = rest.split_once('n')?;
    let subsystem = before.split_once('c').map_or(before, |(subsystem, _)| subsystem);
    (is_number(subsystem) && is_number(namespace)).then(|| format!("nvme{subsystem}n{namespace}"))
}

/// Adds the namespaces that have no disk.
pub(super) fn add_namespaces(controller: &mut NvmeController, attached: &[u32], allocated: &[u32]) {
    let known: BTreeSet<u32> = controller.namespaces.iter().map(|namespace| namespace.id).collect();
    let attached: BTreeSet<u32> = attached.iter().copied().collect();
    let all: BTreeSet<u32> = allocated.iter().chain(&attached).copied().collect();
    let without_disk =
        all.difference(&known).map(|id| NvmeNamespace { id: *id, attached: attached.contains(id), disk: None });
    controller.namespaces.extend(without_disk);
    controller.namespaces.sort_by_key(|namespace| namespace.id);
}

/// The controllers' places, by their disks' names. Of a disk with several paths the first controller's.
pub(super) fn controllers_by_disk(controllers: &[NvmeController]) -> BTreeMap<String, &NvmeController> {
    let mut by_disk = BTreeMap::new();
    for controller in controllers {
        for disk in controller.namespaces.iter().filter_map(|namespace| namespace.disk.clone()) {
            by_disk.entry(disk).or_insert(controller);
        }
    }
    by_disk
}

/// Identify Controller (NVM Express base specification 2.0, figure 275): OACS at 256, TNVMCAP at 280, UNVMCAP at 296.
pub(super) fn parse_controller(identify: &[u8]) -> Option<ControllerFacts> {
    const NAMESPACE_MANAGEMENT: u16 = 1 << 3;
    let commands = u16::from_le_bytes(identify.get(256..258)?.try_into().ok()?);
    let capacity = |offset: usize| {
        let bytes = u128::from_le_bytes(identify.get(offset..offset + 16)?.try_into().ok()?);
        u64::try_from(bytes).ok().map(Bytes)
    };
    let total = capacity(280).filter(|total| *total > Bytes(0));
    Some(ControllerFacts {
        capacity: total,
        // Zero is a fact only where the total is one.
        unallocated: total.and_then(|_| capacity(296)),
        manages_namespaces: commands & NAMESPACE_MANAGEMENT != 0,
    })
}

/// A list of namespace ids: little-endian u32, ended by zero.
pub(super) fn parse_namespace_list(list: &[u8]) -> Vec<u32> {
    let ids = list.chunks_exact(4).filter_map(|id| id.try_into().ok()).map(u32::from_le_bytes);
    ids.take_while(|id| *id != 0).collect()
}

/// Identify Namespace (NVM command set specification 1.0, figure 97): NLBAF at 25, FLBAS at 26, NGUID at 104, EUI64 at
/// 120, formats from 128 (metadata size, logarithm of the data size, relative performance).
pub(super) fn parse_namespace(identify: &[u8]) -> Option<NvmeFacts> {
    let (count, chosen) = (*identify.get(25)?, *identify.get(26)?);
    // Bits 5 and 6 are the upper ones of the index, for controllers with more than 16 formats.
    let in_use = chosen & 0xf | (chosen >> 5 & 0x3) << 4;
    let format = |index: u8| {
        let at = 128 + usize::from(index) * 4;
        let [low, high, data, performance] = identify.get(at..at + 4)?.try_into().ok()?;
        // A data size of zero: no format in this place.
        let data_bytes = 1_u64.checked_shl(u32::from(data)).filter(|_| data > 0)?;
        Some(LbaFormat {
            index,
            data_bytes,
            metadata_bytes: u16::from_le_bytes([low, high]),
            relative_performance: performance & 0x3,
            in_use: index == in_use,
        })
    };
    Some(NvmeFacts {
        nguid: hex_unless_zero(identify.get(104..120)?),
        eui64: hex_unless_zero(identify.get(120..128)?),
        lba_formats: (0..=count.min(63)).filter_map(format).collect(),
    })
}

fn hex_unless_zero(bytes: &[u8]) -> Option<String> {
    bytes.iter().any(|byte| *byte != 0).then(|| hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formats_of_a_namespace_with_the_one_in_use() {
        let mut identify = vec![0_u8; 4096];
        identify[25] = 3;
        identify[26] = 0x12; // format 2, metadata at the end of the data
        identify[104..120].copy_from_slice(&[0x35, 0x34, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
        identify[128..132].copy_from_slice(&[0, 0, 9, 2]);
        identify[132..136].copy_from_slice(&[8, 0, 9, 3]);
        identify[136..140].copy_from_slice(&[0, 0, 12, 0]);
        let facts = parse_namespace(&identify).expect("facts");
        let shown: Vec<(u8, u64, u16, u8, bool)> = facts
            .lba_formats
            .iter()
            .map(|f| (f.index, f.data_bytes, f.metadata_bytes, f.relative_performance, f.in_use))
            .collect();
        assert_eq!(shown, [(0, 512, 0, 2, false), (1, 512, 8, 3, false), (2, 4096, 0, 0, true)]);
        assert_eq!(facts.nguid.as_deref(), Some("35340102030405060708090a0b0c0d0e"));
        assert_eq!(facts.eui64, None);
        assert_eq!(parse_namespace(&identify[..100]), None);
    }

    #[test]
    fn nonsense_in_a_namespaces_answer_is_left_out() {
        let facts = parse_namespace(&[0xff; 4096]).expect("facts");
        assert!(facts.lba_formats.is_empty(), "a block of 2^255 bytes: {:?}", facts.lba_formats);
    }

    #[test]
    fn a_controllers_capacity_is_known_only_where_it_manages_namespaces() {
        let mut identify = vec![0_u8; 4096];
        assert_eq!(parse_controller(&identify), Some(ControllerFacts::default()));
        identify[256] = 0x08;
        identify[280..288].copy_from_slice(&3_840_755_982_336_u64.to_le_bytes());
        let facts = parse_controller(&identify).expect("facts");
        assert_eq!((facts.capacity, facts.unallocated), (Some(Bytes(3_840_755_982_336)), Some(Bytes(0))));
        assert!(facts.manages_namespaces);
        assert_eq!(parse_controller(&[]), None);
    }

    #[test]
    fn namespaces_without_a_disk_are_added_once() {
        let disk = NvmeNamespace { id: 1, attached: true, disk: Some("/dev/nvme0n1".to_owned()) };
        let mut controller = NvmeController { namespaces: vec![disk.clone()], ..NvmeController::default() };
        let mut list = vec![0_u8; 16];
        list[0] = 1;
        list[4] = 3;
        let attached = parse_namespace_list(&list);
        add_namespaces(&mut controller, &attached, &[1, 2, 3]);
        let without = |id, attached| NvmeNamespace { id, attached, disk: None };
        assert_eq!(controller.namespaces, [disk, without(2, false), without(3, true)]);
    }

    #[test]
    fn entries_of_a_controllers_folder_tell_the_disk() {
        for (entry, disk) in [
            ("nvme0n1", Some("nvme0n1")),
            ("nvme2c5n12", Some("nvme2n12")),
            ("nvme0n1p1", None),
            ("nvme0", None),
            ("ng0n1", None),
            ("nvmen1", None),
        ] {
            assert_eq!(disk_of(entry).as_deref(), disk, "{entry}");
        }
    }
}
