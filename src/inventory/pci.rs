//! PCI devices and their names.
//!
//! Sources: `/sys/bus/pci/devices/<address>/{vendor,device,class}`; names from the PCI ID Repository as the crate
//! `pci-ids` has it, and a few newer ones.

use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use super::Reading;
use super::attribute::{read_hex, read_names};
use crate::sys::roots::Roots;

/// One PCI function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PciDevice {
    /// `0000:3b:00.0`.
    pub address: String,
    pub vendor_id: u16,
    pub device_id: u16,
    /// Base class, subclass and programming interface: 0x030200 is a 3D controller.
    pub class: u32,
}

impl PciDevice {
    /// The upper eight bits of the class: 0x03 is a display controller.
    pub fn base_class(&self) -> u32 {
        self.class >> 16
    }
}

/// All functions, in order of their addresses.
pub fn read(roots: &Roots) -> Reading<Vec<PciDevice>> {
    let dir = roots.sys.join("bus/pci/devices");
    let Some(names) = read_names(&dir) else {
        return Reading { found: Vec::new(), warnings: vec!["PCI: no /sys/bus/pci/devices".to_owned()] };
    };
    let found = names.into_iter().filter_map(|address| read_device(&dir.join(&address), address)).collect();
    Reading { found, warnings: Vec::new() }
}

fn read_device(dir: &Path, address: String) -> Option<PciDevice> {
    let id = |name| read_hex(&dir.join(name)).and_then(|id| u16::try_from(id).ok());
    let class = read_hex(&dir.join("class")).and_then(|class| u32::try_from(class).ok())?;
    Some(PciDevice { address, vendor_id: id("vendor")?, device_id: id("device")?, class })
}

/// Names of devices that are newer than the crate's data (July 2025): vendor, device, name.
///
/// Source: the PCI ID Repository (pci.ids), where the same text stands.
const NEWER_NAMES: &[(u16, u16, &str)] = &[(0x10de, 0x3182, "GB110 [B300 SXM6 AC]")];

/// The database's name of a device, e.g. `GH100 [H100 SXM5 80GB]`.
pub fn device_name(vendor_id: u16, device_id: u16) -> Option<&'static str> {
    let newer = || NEWER_NAMES.iter().find(|(vendor, device, _)| (*vendor, *device) == (vendor_id, device_id));
    pci_ids::Device::from_vid_pid(vendor_id, device_id)
        .map(pci_ids::Device::name)
        .or_else(|| newer().map(|(_, _, name)| *name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_name_that_the_crate_has_learnt_can_go() {
        for (vendor, device, name) in NEWER_NAMES {
            assert!(pci_ids::Device::from_vid_pid(*vendor, *device).is_none(), "{name} is in the crate now");
            assert_eq!(device_name(*vendor, *device), Some(*name));
        }
    }
}
