//! PCI devices.
//!
//! Sources: the files of `/sys/bus/pci/devices/<address>/` that are told at the fields; names see [`super::pci_names`].

use std::collections::BTreeSet;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::Reading;
use super::attribute::{parse_hex, read_hex, read_link_name, read_names, read_number, read_text};
use super::pci_names::{Names, class_name};
use crate::sys::roots::Roots;
use crate::sys::units::Bytes;

/// One PCI function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PciDevice {
    /// `0000:3b:00.0`.
    pub address: String,
    /// `vendor`; four lower-case hex digits in JSON, as all ids.
    #[serde(serialize_with = "hex4")]
    #[schemars(with = "String")]
    pub vendor_id: u16,
    /// `device`.
    #[serde(serialize_with = "hex4")]
    #[schemars(with = "String")]
    pub device_id: u16,
    /// Base class, subclass and programming interface: 030200 is a 3D controller. Six hex digits in JSON.
    #[serde(serialize_with = "hex6")]
    #[schemars(with = "String")]
    pub class: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_name: Option<String>,
    /// `subsystem_vendor` and `subsystem_device`: the card; absent on bridges, which have zeros there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subsystem: Option<Subsystem>,
    /// `revision`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// `driver`: what is bound to it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// `numa_node`; absent on machines without NUMA.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<PcieLink>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sriov: Option<Sriov>,
    /// Of a virtual function: the address of the physical one (`physfn`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub physical_function: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Subsystem {
    #[serde(serialize_with = "hex4")]
    #[schemars(with = "String")]
    pub vendor_id: u16,
    #[serde(serialize_with = "hex4")]
    #[schemars(with = "String")]
    pub device_id: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// How a device is connected. An idle device may have a slower link than it can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PcieLink {
    /// `current_link_speed`, mega-transfers a second: 2500 is PCIe 1, 32000 PCIe 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed_mtps: Option<u32>,
    /// `current_link_width`, lanes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lanes: Option<u32>,
    /// `max_link_speed`, what the device can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_speed_mtps: Option<u32>,
    /// `max_link_width`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_lanes: Option<u32>,
}

/// What a physical function can be split into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Sriov {
    /// `sriov_totalvfs`.
    pub most_functions: u64,
    /// `sriov_numvfs`: now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub functions: Option<u64>,
}

/// A window of a device's memory, as the firmware or the kernel placed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct MemoryBar {
    /// Number of the base address register.
    pub bar: usize,
    pub size: Bytes,
}

fn hex4<S: Serializer>(id: &u16, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{id:04x}"))
}

fn hex6<S: Serializer>(class: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{class:06x}"))
}

impl PciDevice {
    /// The upper eight bits of the class: 0x03 is a display controller.
    pub fn base_class(&self) -> u32 {
        self.class >> 16
    }
}

/// All functions, in order of their addresses.
pub fn read(roots: &Roots) -> Reading<Vec<PciDevice>> {
    let dir = devices_folder(roots);
    let Some(names) = read_names(&dir) else {
        return Reading { found: Vec::new(), warnings: vec!["PCI: no /sys/bus/pci/devices".to_owned()] };
    };
    let mut found: Vec<PciDevice> =
        names.into_iter().filter_map(|address| read_device(&dir.join(&address), address)).collect();
    add_names(&mut found, roots);
    Reading { found, warnings: Vec::new() }
}

/// Where the folders of the devices are, by address.
fn devices_folder(roots: &Roots) -> std::path::PathBuf {
    roots.sys.join("bus/pci/devices")
}

fn read_device(dir: &Path, address: String) -> Option<PciDevice> {
    let id = |name: &str| read_hex(&dir.join(name)).and_then(|id| u16::try_from(id).ok());
    let class = read_hex(&dir.join("class")).and_then(|class| u32::try_from(class).ok())?;
    let subsystem = id("subsystem_vendor").filter(|vendor| *vendor != 0).zip(id("subsystem_device"));
    Some(PciDevice {
        address,
        vendor_id: id("vendor")?,
        device_id: id("device")?,
        class,
        subsystem: subsystem.map(|(vendor_id, device_id)| Subsystem { vendor_id, device_id, ..Subsystem::default() }),
        revision: read_hex(&dir.join("revision")),
        driver: read_link_name(&dir.join("driver")),
        numa_node: read_number(&dir.join("numa_node")),
        link: read_link(dir),
        sriov: read_sriov(dir),
        physical_function: read_link_name(&dir.join("physfn")),
        ..PciDevice::default()
    })
}

fn read_link(dir: &Path) -> Option<PcieLink> {
    let speed = |name: &str| parse_speed(&read_text(&dir.join(name))?);
    // 255 lanes stand for "not known", 0 for "no link".
    let lanes = |name: &str| read_number(&dir.join(name)).filter(|lanes| (1..=32).contains(lanes));
    let lanes = |name: &str| lanes(name).and_then(|lanes| u32::try_from(lanes).ok());
    let link = PcieLink {
        speed_mtps: speed("current_link_speed"),
        lanes: lanes("current_link_width"),
        max_speed_mtps: speed("max_link_speed"),
        max_lanes: lanes("max_link_width"),
    };
    (link != PcieLink::default()).then_some(link)
}

/// `2.5 GT/s PCIe`, `16.0 GT/s PCIe` (older kernels: `16 GT/s`); `Unknown` is absent.
fn parse_speed(text: &str) -> Option<u32> {
    let number = text.split_once(" GT/s")?.0;
    let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
    let tenth: u32 = tenths.parse().ok().filter(|_| tenths.len() == 1)?;
    whole.parse::<u32>().ok()?.checked_mul(1000)?.checked_add(tenth * 100)
}

/// Of a PCI device's folder; also a network link's `device`.
pub fn read_sriov(dir: &Path) -> Option<Sriov> {
    let most_functions = read_number(&dir.join("sriov_totalvfs")).filter(|most| *most > 0)?;
    Some(Sriov { most_functions, functions: read_number(&dir.join("sriov_numvfs")) })
}

/// The 64-bit prefetchable memory windows of a device (`resource`).
pub fn read_memory_bars(roots: &Roots, address: &str) -> Vec<MemoryBar> {
    let text = read_text(&devices_folder(roots).join(address).join("resource"));
    text.map(|text| parse_memory_bars(&text)).unwrap_or_default()
}

/// A line for each resource: first and last address and flags (`include/linux/ioport.h`). The first six are the base
/// address registers; the expansion ROM and a bridge's windows follow.
fn parse_memory_bars(text: &str) -> Vec<MemoryBar> {
    const MEMORY: u64 = 0x200;
    const PREFETCHABLE: u64 = 0x2000;
    const WIDE: u64 = 0x10_0000;
    const WANTED: u64 = MEMORY | PREFETCHABLE | WIDE;
    let bar = |(bar, line): (usize, &str)| {
        let mut words = line.split_whitespace().map(parse_hex);
        let (first, last, flags) = (words.next()??, words.next()??, words.next()??);
        let size = last.checked_sub(first)?.checked_add(1)?;
        (flags & WANTED == WANTED && first > 0).then_some(MemoryBar { bar, size: Bytes(size) })
    };
    text.lines().take(6).enumerate().filter_map(bar).collect()
}

fn add_names(devices: &mut [PciDevice], roots: &Roots) {
    let present: BTreeSet<(u16, u16)> = devices.iter().map(|device| (device.vendor_id, device.device_id)).collect();
    let names = Names::read(roots, &present);
    for device in devices {
        let ids = (device.vendor_id, device.device_id);
        device.vendor = names.vendor(ids.0).map(str::to_owned);
        device.name = names.device(ids.0, ids.1).map(str::to_owned);
        device.class_name = class_name(device.class).map(str::to_owned);
        if let Some(subsystem) = &mut device.subsystem {
            let card = (subsystem.vendor_id, subsystem.device_id);
            subsystem.vendor = names.vendor(card.0).map(str::to_owned);
            subsystem.name = names.subsystem(ids, card).map(str::to_owned);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_speeds_of_all_generations() {
        for (text, speed) in [
            ("2.5 GT/s PCIe", Some(2500)),
            ("5.0 GT/s PCIe", Some(5000)),
            ("32.0 GT/s PCIe", Some(32000)),
            ("8 GT/s", Some(8000)),
            ("Unknown", None),
            ("Unknown speed", None),
            ("99999999 GT/s", None),
            (" GT/s", None),
        ] {
            assert_eq!(parse_speed(text), speed, "{text}");
        }
    }

    #[test]
    fn of_the_bars_the_wide_prefetchable_ones_count() {
        let text = "0x00000000f6000000 0x00000000f6ffffff 0x0000000000040200\n\
            0x0000003000000000 0x0000003fffffffff 0x000000000014220c\n\
            0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
            0x0000004000000000 0x0000004001ffffff 0x000000000014220c\n\
            nonsense\n\
            0x0000000000000fff 0x0000000000000000 0x000000000014220c\n\
            0x0000005000000000 0x0000005fffffffff 0x000000000014220c\n";
        let bars = parse_memory_bars(text);
        let shown: Vec<(usize, u64)> = bars.iter().map(|bar| (bar.bar, bar.size.0 >> 20)).collect();
        assert_eq!(shown, [(1, 64 << 10), (3, 32)]);
    }
}
