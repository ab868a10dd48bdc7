//! Media that a BMC plugs into the machine over USB: images of an operator's workstation, the vendor's own drivers.
//!
//! They come and go with the BMC's mood, so they are no storage of the machine: they are neither erased nor installed
//! to, and do not change its size.

use std::path::Path;

use super::super::attribute::{read_device_path, read_flag, read_text};

/// Words of SCSI vendor and model (lower case) that only BMCs use. No USB disk or stick is sold under them; a word is
/// matched as a whole or as its beginning (`idrac9`).
const WORDS: [&str; 8] = [
    "virtual", // AMI "Virtual HDisk0", "Virtual Floppy0"; ATEN, Dell, Lenovo and others "Virtual CDROM", "Virtual Disk"
    "idrac",   // Dell: also "iDRAC LCDRIVE", "iDRAC OEMDRV", "iDRAC SECUPD"
    "megarac", // AMI's firmware under its own name
    "openbmc", "ilo",  // HPE
    "imm",  // IBM and Lenovo before XCC
    "xcc",  // Lenovo
    "drac", // Dell before iDRAC
];

/// The mass storage gadget of Linux, under which OpenBMC and other BMCs with Linux in them present images.
const GADGET: &str = "file-stor gadget";

/// USB makers that make BMCs' virtual devices and no storage: American Megatrends, ATEN, Linux Foundation (gadgets).
const USB_VENDORS: [&str; 3] = ["046b", "0557", "1d6b"];

/// Whether a disk's medium may be taken out, so that it is neither erased nor installed to: a stick, a card, an image of
/// the BMC. The bus does not count: a disk in a USB box that says it is fixed is one of the machine's.
///
/// A flag that could not be read counts against the disk: better not to erase than to erase what is not ours.
pub fn may_be_taken_out(removable: Option<bool>, is_bmc_medium: bool) -> bool {
    removable != Some(false) || is_bmc_medium
}

/// As [`may_be_taken_out`], by what stands in sysfs; `block` is `/sys/block/<name>`.
pub fn may_be_taken_out_at(block: &Path) -> bool {
    may_be_taken_out(read_flag(&block.join("removable")), is_bmc_medium_at(block))
}

/// By what stands in sysfs; `block` is `/sys/block/<name>`. Anything that is not on USB is none: hypervisors too call
/// their disks virtual.
pub fn is_bmc_medium_at(block: &Path) -> bool {
    let Some(usb) = read_device_path(block).and_then(|path| usb_device(&path).map(Path::to_owned)) else {
        return false;
    };
    let text = |file: &str| read_text(&block.join("device").join(file)).unwrap_or_default();
    let vendor = read_text(&usb.join("idVendor")).unwrap_or_default();
    USB_VENDORS.contains(&vendor.as_str()) || is_bmc_name(&format!("{} {}", text("vendor"), text("model")))
}

/// Whether a SCSI vendor and model are those of a BMC's medium.
fn is_bmc_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
    let fits = |word: &str| {
        WORDS.iter().any(|known| word.strip_prefix(known).is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit())))
    };
    name.contains(GADGET) || words.any(fits)
}

/// The innermost USB device (`1-14.1`, not its interface `1-14.1:1.0`) on the way to a device.
pub fn usb_device(device_path: &Path) -> Option<&Path> {
    let is_under_usb = device_path
        .iter()
        .filter_map(|part| part.to_str())
        .any(|part| part.strip_prefix("usb").is_some_and(|number| number.starts_with(|c: char| c.is_ascii_digit())));
    let is_device = |path: &&Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.split_once('-').is_some_and(|(bus, port)| {
            let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            is_number(bus) && is_number(port)
        })
    };
    if is_under_usb { device_path.ancestors().find(is_device) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_of_bmcs_are_told_from_sticks_and_disks() {
        for name in [
            "AMI      Virtual HDisk0",
            "AMI Virtual Floppy0",
            "iDRAC    LCDRIVE",
            "iDRAC9 Virtual CD",
            "Lenovo Virtual Disk2",
            "OpenBMC Virtual Media Device",
            "Linux    File-Stor Gadget",
            "HPE iLO Virtual USB Key",
            "MEGARAC VHD",
        ] {
            assert!(is_bmc_name(name), "{name}");
        }
        for name in
            ["SanDisk Ultra", "DELL IDSDM", "Silo Maker", "Virtually Everywhere", "Samsung PSSD T7", "Xccelerator", ""]
        {
            assert!(!is_bmc_name(name), "{name}");
        }
    }

    #[test]
    fn the_usb_device_is_found_behind_hubs() {
        let found = |path: &str| usb_device(Path::new(path)).map(|path| path.to_string_lossy().into_owned());
        let path =
            "/sys/devices/pci0000:00/0000:00:14.0/usb1/1-14/1-14.3/1-14.3:1.0/host9/target9:0:0/9:0:0:0/block/sdc";
        let device = "/sys/devices/pci0000:00/0000:00:14.0/usb1/1-14/1-14.3";
        assert_eq!(found(path).as_deref(), Some(device));
        assert_eq!(found("/sys/devices/pci0000:00/0000:00:17.0/ata1/host0/port-0:0/0:0:0:0/block/sda"), None);
    }
}
