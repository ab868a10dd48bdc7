//! Network cards that a BMC shows to its host over USB: they lead to this machine's own service processor and nowhere
//! else. They are neither set up nor asked on.
//!
//! Known by their driver together with what they are: a USB device that firmware names as its host interface (SMBIOS
//! type 42, DMTF DSP0270), or one of [`is_bmc_link`]'s vendors. A real USB card with one of these drivers is of another
//! vendor, and is used.

use std::path::Path;

use crate::inventory::attribute::{read_link_name, read_text};
use crate::inventory::nic::is_bmc_link;
use crate::inventory::smbios::{self, Smbios, Structure, kind};
use crate::sys::roots::Roots;

/// Drivers for network cards that are another computer at the other end of a USB cable.
const DRIVERS: [&str; 5] = ["cdc_ether", "cdc_ncm", "cdc_eem", "cdc_subset", "rndis_host"];

/// Interface type of DSP0270: a network card to the BMC.
const NETWORK_HOST_INTERFACE: u8 = 0x40;
/// Device types of DSP0270: USB, and its second form with a length before the ids.
const USB: u8 = 2;
const USB_V2: u8 = 4;

/// Whether the USB interface (`1-2:1.0`) is a network card of the BMC.
pub(super) fn leads_to_bmc(roots: &Roots, usb_interface: &str) -> bool {
    let devices = roots.sys.join("bus/usb/devices");
    let driver = read_link_name(&devices.join(usb_interface).join("driver"));
    let is_gadget = driver.is_some_and(|driver| DRIVERS.contains(&driver.as_str()));
    let Some((device, _)) = usb_interface.split_once(':').filter(|_| is_gadget) else { return false };
    let device = devices.join(device);
    is_bmc_link(&device) || is_host_interface(roots, &device)
}

fn is_host_interface(roots: &Roots, device: &Path) -> bool {
    let id = |file: &str| u16::from_str_radix(&read_text(&device.join(file))?, 16).ok();
    let (Some(vendor), Some(product)) = (id("idVendor"), id("idProduct")) else { return false };
    smbios::read(roots).found.is_some_and(|smbios| host_interfaces(&smbios).contains(&(vendor, product)))
}

/// Vendor and product of the USB devices that firmware names as its host interfaces.
fn host_interfaces(smbios: &Smbios) -> Vec<(u16, u16)> {
    smbios.all(kind::HOST_INTERFACE).filter_map(|structure| host_interface(&structure)).collect()
}

/// Interface type at 4, length of its data at 5, the data from 6 on: device type, then (in the second form after a
/// length) vendor and product.
fn host_interface(structure: &Structure) -> Option<(u16, u16)> {
    let ids_at = match (structure.byte(4)?, structure.byte(6)?) {
        (NETWORK_HOST_INTERFACE, USB) => 7,
        (NETWORK_HOST_INTERFACE, USB_V2) => 8,
        _ => return None,
    };
    Some((structure.word(ids_at)?, structure.word(ids_at + 2)?))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::inventory::smbios::tests::structure;

    /// A machine with one USB device of these ids, whose first interface has this driver.
    fn machine(driver: &str, vendor: &str, product: &str) -> (tempfile::TempDir, Roots) {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::under(dir.path());
        let devices = roots.sys.join("bus/usb/devices");
        fs::create_dir_all(devices.join("1-2:1.0")).unwrap();
        fs::create_dir_all(devices.join("1-2")).unwrap();
        symlink(format!("../../../../bus/usb/drivers/{driver}"), devices.join("1-2:1.0/driver")).unwrap();
        fs::write(devices.join("1-2/idVendor"), format!("{vendor}\n")).unwrap();
        fs::write(devices.join("1-2/idProduct"), format!("{product}\n")).unwrap();
        (dir, roots)
    }

    #[test]
    fn known_vendors_are_told_from_real_usb_cards() {
        for (driver, vendor, product, expected) in [
            ("cdc_ether", "046b", "ffb0", true),
            ("rndis_host", "046b", "ff20", true),
            ("cdc_ether", "413c", "a102", true),
            ("cdc_ncm", "0b1f", "03ee", true),
            // A card at a USB port: with its own driver, and with the driver of its class.
            ("r8152", "0bda", "8153", false),
            ("cdc_ncm", "0bda", "8156", false),
            // Another kind of device of such a vendor.
            ("usbhid", "046b", "ff10", false),
        ] {
            let (_dir, roots) = machine(driver, vendor, product);
            assert_eq!(leads_to_bmc(&roots, "1-2:1.0"), expected, "{driver} {vendor}:{product}");
        }
        let (_dir, roots) = machine("cdc_ether", "046b", "ffb0");
        assert!(!leads_to_bmc(&roots, "1-3:1.0"), "another device");
    }

    #[test]
    fn firmware_names_the_card_of_its_bmc_in_both_forms() {
        let network = [0x40, 9, 4, 11, 0xf0, 0x03, 0x27, 0x29, 0, 0, 0, 0, 0, 0, 0];
        for (fields, expected) in [
            (vec![0x40, 5, 2, 0xf0, 0x03, 0x27, 0x29], vec![(0x03f0, 0x2927)]),
            (network.to_vec(), vec![(0x03f0, 0x2927)]),
            // On PCI; not a network; cut short.
            (vec![0x40, 9, 3, 0xf0, 0x03, 0x27, 0x29, 0, 0], vec![]),
            (vec![0x04, 5, 2, 0xf0, 0x03, 0x27, 0x29], vec![]),
            (vec![0x40, 2, 2, 0xf0], vec![]),
        ] {
            let smbios = Smbios::parse(&[], structure(kind::HOST_INTERFACE, 1, &fields, &[]));
            assert_eq!(host_interfaces(&smbios), expected, "{fields:02x?}");
        }
    }

    #[test]
    fn a_vendor_nobody_knows_is_known_by_its_firmware() {
        let (_dir, roots) = machine("cdc_ncm", "03f0", "2927");
        assert!(!leads_to_bmc(&roots, "1-2:1.0"));
        let tables = roots.sys.join("firmware/dmi/tables");
        fs::create_dir_all(&tables).unwrap();
        let table = structure(kind::HOST_INTERFACE, 1, &[0x40, 5, 2, 0xf0, 0x03, 0x27, 0x29], &[]);
        fs::write(tables.join("DMI"), table).unwrap();
        assert!(leads_to_bmc(&roots, "1-2:1.0"));
    }
}
