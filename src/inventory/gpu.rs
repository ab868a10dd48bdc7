//! GPUs: every NVIDIA display device, whatever its model; and apart from them, those of others.
//!
//! Sizes match on the model's text, so it is the PCI database's, unchanged. Only NVIDIA's GPUs are registered, as
//! upstream does, unless the operator asks for all: see [`super::wire`].

use schemars::JsonSchema;
use serde::Serialize;

use super::pci::{MemoryBar, PciDevice, PcieLink, read_memory_bars};
use super::pci_names::NVIDIA;
use crate::sys::roots::Roots;

/// VGA, XGA, 3D and other display controllers. NVSwitches (0x0680) and audio functions (0x0403) are none.
const DISPLAY_CONTROLLER: u32 = 0x03;
/// Processing accelerators: compute cards without any display, as AMD's Instinct and Intel's Gaudi are.
const PROCESSING_ACCELERATOR: u32 = 0x12;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Gpu {
    /// As the PCI database has it, which is what the control plane expects; four lower-case hex digits of an unknown
    /// vendor.
    pub vendor: String,
    /// The PCI database's text, e.g. `GH100 [H100 SXM5 80GB]`; of an unknown device its id, four lower-case hex digits.
    pub model: String,
    /// Of the text what stands before the brackets, `GH100`, or all of it when it is a single word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chip: Option<String>,
    /// What stands in the brackets: the name that it is sold under, `H100 SXM5 80GB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub marketing_name: Option<String>,
    pub pci_address: String,
    /// Four lower-case hex digits.
    pub device_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<PcieLink>,
    /// Windows onto the device's memory: the 64-bit prefetchable ones, of which the largest shows the VRAM or a part of
    /// it.
    pub memory_bars: Vec<MemoryBar>,
    /// Of a virtual function: the PCI address of the GPU that it is a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub physical_function: Option<String>,
}

/// GPUs of one machine, each list in order of the PCI addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpus {
    pub nvidia: Vec<Gpu>,
    pub others: Vec<Gpu>,
}

/// Picks the GPUs out of all devices.
pub fn pick(roots: &Roots, devices: &[PciDevice]) -> Gpus {
    let gpu = |device: &&PciDevice| matches!(device.base_class(), DISPLAY_CONTROLLER | PROCESSING_ACCELERATOR);
    let is_nvidia = |device: &&PciDevice| device.vendor_id == NVIDIA && device.base_class() == DISPLAY_CONTROLLER;
    let (nvidia, others): (Vec<&PciDevice>, Vec<&PciDevice>) = devices.iter().filter(gpu).partition(is_nvidia);
    let read = |devices: Vec<&PciDevice>| devices.into_iter().map(|device| read_gpu(roots, device)).collect();
    Gpus { nvidia: read(nvidia), others: read(others) }
}

fn read_gpu(roots: &Roots, device: &PciDevice) -> Gpu {
    let device_id = format!("{:04x}", device.device_id);
    let name = device.name.as_deref();
    let (chip, marketing_name) = name.map(split_name).unwrap_or_default();
    Gpu {
        vendor: device.vendor.clone().unwrap_or_else(|| format!("{:04x}", device.vendor_id)),
        model: device.name.clone().unwrap_or_else(|| device_id.clone()),
        chip,
        marketing_name,
        pci_address: device.address.clone(),
        device_id,
        class_name: device.class_name.clone(),
        numa_node: device.numa_node,
        link: device.link,
        memory_bars: read_memory_bars(roots, &device.address),
        physical_function: device.physical_function.clone(),
    }
}

/// `GH100 [H100 SXM5 80GB]` → the chip, and the name that it is sold under. Some names end after the bracket
/// (`GP104 [GeForce GTX 1080] (rev a1)`), some have none.
fn split_name(name: &str) -> (Option<String>, Option<String>) {
    let text = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    let in_brackets = name.split_once('[').and_then(|(chip, rest)| Some((chip, rest.rsplit_once(']')?.0)));
    match in_brackets {
        Some((chip, marketing)) => (text(chip), text(marketing)),
        None if name.contains(char::is_whitespace) => (None, None),
        None => (text(name), None),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::pci_names::Names;
    use super::*;

    fn device(vendor_id: u16, device_id: u16, class: u32) -> PciDevice {
        let names = Names::default();
        PciDevice {
            vendor_id,
            device_id,
            class,
            vendor: names.vendor(vendor_id).map(str::to_owned),
            name: names.device(vendor_id, device_id).map(str::to_owned),
            ..PciDevice::default()
        }
    }

    fn pick(devices: &[PciDevice]) -> Gpus {
        super::pick(&Roots::under(Path::new("/nonexistent")), devices)
    }

    /// The table that sizes in the field are written against: a change of the database must not go unnoticed.
    #[test]
    fn models_are_the_text_that_sizes_match_on() {
        let table = [
            (0x2330, "GH100 [H100 SXM5 80GB]"),
            (0x2331, "GH100 [H100 PCIe]"),
            (0x2335, "GH100 [H200 SXM 141GB]"),
            (0x233b, "GH100 [H200 NVL]"),
            (0x2342, "GH100 [GH200 120GB / 480GB]"),
            (0x20b0, "GA100 [A100 SXM4 40GB]"),
            (0x20b2, "GA100 [A100 SXM4 80GB]"),
            (0x26b9, "AD102GL [L40S]"),
            (0x2901, "GB100 [B200]"),
            (0x3182, "GB110 [B300 SXM6 AC]"),
            (0x0002, "0002"),
            (0xfffe, "fffe"),
        ];
        for (id, text) in table {
            let gpus = pick(&[device(NVIDIA, id, 0x03_02_00)]);
            let found: Vec<(&str, &str)> =
                gpus.nvidia.iter().map(|gpu| (gpu.vendor.as_str(), gpu.model.as_str())).collect();
            assert_eq!(found, [("NVIDIA Corporation", text)]);
        }
    }

    #[test]
    fn others_gpus_and_accelerators_are_apart_and_switches_are_none() {
        let gpus = pick(&[
            device(NVIDIA, 0x22a3, 0x06_80_00),
            device(NVIDIA, 0x2330, 0x03_02_00),
            device(0x1002, 0x74a1, 0x12_00_00),
            device(0x8086, 0x56c0, 0x03_80_00),
            device(0xfff0, 0x0001, 0x12_00_00),
            device(NVIDIA, 0x22be, 0x04_03_00),
        ]);
        assert_eq!(gpus.nvidia.len(), 1);
        let others: Vec<(&str, &str)> =
            gpus.others.iter().map(|gpu| (gpu.vendor.as_str(), gpu.device_id.as_str())).collect();
        let expected =
            [("Advanced Micro Devices, Inc. [AMD/ATI]", "74a1"), ("Intel Corporation", "56c0"), ("fff0", "0001")];
        assert_eq!(others, expected);
    }

    #[test]
    fn chip_and_marketing_name_are_told_apart() {
        for (name, chip, marketing) in [
            ("GH100 [H100 SXM5 80GB]", Some("GH100"), Some("H100 SXM5 80GB")),
            ("GH100", Some("GH100"), None),
            ("Raptor Lake-P [Iris Xe Graphics]", Some("Raptor Lake-P"), Some("Iris Xe Graphics")),
            ("ASPEED Graphics Family", None, None),
            ("[GeForce] x", None, Some("GeForce")),
            ("Odd [name", None, None),
            ("]x[", Some("]x["), None),
        ] {
            let expected = (chip.map(str::to_owned), marketing.map(str::to_owned));
            assert_eq!(split_name(name), expected, "{name}");
        }
    }
}
