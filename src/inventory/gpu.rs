//! GPUs: every NVIDIA display device, whatever its model.
//!
//! Sizes match on the model's text, so it is the PCI database's, unchanged.

use schemars::JsonSchema;
use serde::Serialize;

use super::Reading;
use super::pci::{self, PciDevice};
use crate::sys::roots::Roots;

const NVIDIA: u16 = 0x10de;
/// VGA, XGA, 3D and other display controllers. NVSwitches (0x0680) and audio functions (0x0403) are none.
const DISPLAY_CONTROLLER: u32 = 0x03;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Gpu {
    /// As the PCI database has it, which is what the control plane expects.
    pub vendor: String,
    /// The PCI database's text, e.g. `GH100 [H100 SXM5 80GB]`; of an unknown device its id, four lower-case hex digits.
    pub model: String,
    pub pci_address: String,
    /// Four lower-case hex digits.
    pub device_id: String,
}

pub fn read(roots: &Roots) -> Reading<Vec<Gpu>> {
    let Reading { found, warnings } = pci::read(roots);
    let is_gpu = |device: &PciDevice| device.vendor_id == NVIDIA && device.base_class() == DISPLAY_CONTROLLER;
    Reading { found: found.into_iter().filter(is_gpu).map(gpu).collect(), warnings }
}

fn gpu(device: PciDevice) -> Gpu {
    let device_id = format!("{:04x}", device.device_id);
    Gpu {
        vendor: "NVIDIA Corporation".to_owned(),
        model: pci::device_name(NVIDIA, device.device_id).map_or_else(|| device_id.clone(), str::to_owned),
        pci_address: device.address,
        device_id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(device_id: u16) -> String {
        gpu(PciDevice { address: String::new(), vendor_id: NVIDIA, device_id, class: 0x03_02_00 }).model
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
            assert_eq!(model(id), text);
        }
    }
}
