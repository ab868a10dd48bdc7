//! Network links.
//!
//! Sources: `/sys/class/net/<name>/`, and of the running machine what the drivers tell by ethtool.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use super::Reading;
use super::attribute::{pci_address, read_device_path, read_flag, read_link_name, read_names, read_number, read_text};
use super::disk::media::usb_device;
use super::pci::{Sriov, read_sriov};
use crate::sys::ethtool;
use crate::sys::roots::Roots;

/// One link with a hardware address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Nic {
    pub name: String,
    /// `address`: 6, 8 or 20 bytes (Ethernet, EUI-64, InfiniBand), lower case with colons.
    pub mac: String,
    /// What the card was made with: what its driver tells by ethtool, else `bonding_slave/perm_hwaddr`, else `address`
    /// when `addr_assign_type` says that it is permanent. Absent when nobody tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permanent_mac: Option<String>,
    /// `ifindex`: the kernel's order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// Whether there is a device behind it (not so: `lo`, bridges, VLANs).
    pub physical: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// ethtool; absent in a captured tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware_version: Option<String>,
    /// Where the driver says that the device is, by ethtool: a PCI address, `usb-0000:00:14.0-1`, `virtio0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci_address: Option<String>,
    /// `device/numa_node`; absent on machines without NUMA.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<u64>,
    /// `carrier`; absent while the link is administratively down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carrier: Option<bool>,
    /// `operstate`: `up`, `down`, `unknown` (the kernel's word for links without a carrier), …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operstate: Option<String>,
    /// `speed`, Mbit/s; absent without a carrier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed_mbps: Option<u64>,
    /// Of a card that can be split into virtual functions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sriov: Option<Sriov>,
    /// Of a virtual function: the PCI address of the card that it is a part of (`device/physfn`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub physical_function: Option<String>,
    /// InfiniBand: the port's GUID, the last eight bytes of its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_guid: Option<String>,
    /// Cards with RDMA: `device/infiniband/<card>/node_guid`, with colons between its bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_guid: Option<String>,
    /// A cable-less USB link to this machine's own BMC, which leads nowhere else.
    pub to_bmc: bool,
    /// What LLDP heard on this link; empty here, since it takes listening.
    pub neighbors: Vec<Neighbor>,
}

/// The other end of a cable, in the words of the REST machine's `neighbors`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Neighbor {
    /// The port's id, also where it is no MAC.
    pub mac: String,
    /// The port's description.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The port's id again: switches are told apart by it.
    pub identifier: String,
    /// The switch's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

/// USB devices that are links to a BMC, by vendor and product; without a product all of the vendor's.
///
/// Sources: usb.ids, udev's names for `idrac` and `ibmimm`, IBM's own set-up script for its module, and the gadget
/// drivers of Linux, which BMCs present. A wrong one costs a wrong mark, and the agent asks for no address there.
const BMC_LINKS: [(&str, Option<&str>); 8] = [
    ("046b", None),         // American Megatrends: virtual devices only
    ("0b1f", None),         // Insyde: RNDIS/Ethernet gadget of its BMC firmware
    ("413c", Some("a102")), // Dell: iDRAC virtual NIC
    ("04b3", Some("0325")), // IBM: integrated management module
    ("04b3", Some("4010")), // IBM and Lenovo: the same, newer
    ("0525", Some("a4a1")), // Linux' Ethernet gadget
    ("0525", Some("a4a2")), // Linux' Ethernet/RNDIS gadget
    ("1d6b", None),         // Linux' newer gadgets
];

pub fn read(roots: &Roots) -> Reading<Vec<Nic>> {
    let dir = roots.sys.join("class/net");
    let Some(names) = read_names(&dir) else {
        return Reading { found: Vec::new(), warnings: vec!["NICs: /sys/class/net cannot be read".to_owned()] };
    };
    let mut found: Vec<Nic> = names.iter().filter_map(|name| read_nic(&dir.join(name), name)).collect();
    // Netlink lists links by index; links of a capture without indices come last, by name.
    found.sort_by_key(|nic| nic.index.unwrap_or(u64::MAX));
    let mut warnings = Vec::new();
    if roots.is_live() {
        match ethtool::open() {
            Ok(socket) => found.iter_mut().filter(|nic| nic.physical).for_each(|nic| ask_driver(&socket, nic)),
            Err(error) => warnings.push(format!("NICs: no socket for asking the drivers: {error}")),
        }
    }
    Reading { found, warnings }
}

/// `None` for what has no hardware address (tunnels), and for files among the links (`bonding_masters`).
fn read_nic(link: &Path, name: &str) -> Option<Nic> {
    let mac = parse_mac(&read_text(&link.join("address"))?)?;
    let is_permanent = read_number(&link.join("addr_assign_type")) == Some(0);
    let device = link.join("device");
    let physical = device.exists();
    let device_path = read_device_path(link);
    Some(Nic {
        name: name.to_owned(),
        permanent_mac: read_text(&link.join("bonding_slave/perm_hwaddr"))
            .and_then(|mac| parse_mac(&mac))
            .or_else(|| (physical && is_permanent).then(|| mac.clone())),
        index: read_number(&link.join("ifindex")),
        physical,
        driver: read_link_name(&device.join("driver")),
        pci_address: device_path.as_deref().and_then(pci_address),
        numa_node: read_number(&device.join("numa_node")),
        carrier: read_flag(&link.join("carrier")),
        operstate: read_text(&link.join("operstate")),
        speed_mbps: read_number(&link.join("speed")).filter(|speed| *speed > 0 && *speed < u64::from(u32::MAX)),
        sriov: read_sriov(&device),
        physical_function: read_link_name(&device.join("physfn")),
        port_guid: port_guid(&mac),
        node_guid: read_node_guid(&device),
        to_bmc: device_path.as_deref().and_then(usb_device).is_some_and(is_bmc_link),
        mac,
        ..Nic::default()
    })
}

/// What a driver does not tell stays as `/sys` has it: most virtual ones tell nothing, which is no reason to warn.
fn ask_driver(socket: &OwnedFd, nic: &mut Nic) {
    if let Ok(info) = ethtool::driver_info(socket.as_fd(), &nic.name) {
        nic.firmware_version = known(info.firmware);
        nic.bus = known(info.bus);
        nic.driver = nic.driver.take().or_else(|| known(info.driver));
    }
    if let Ok(address) = ethtool::permanent_address(socket.as_fd(), &nic.name) {
        nic.permanent_mac = render_mac(&address).or(nic.permanent_mac.take());
    }
}

/// Drivers say `N/A` for "nothing".
fn known(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty() && text != "N/A")
}

/// `None` for an address that is no address: all zeros, or of another length than [`parse_mac`] takes.
fn render_mac(bytes: &[u8]) -> Option<String> {
    let text = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    parse_mac(&text).filter(|_| bytes.iter().any(|byte| *byte != 0))
}

/// Of an address of 20 bytes: flags and queue pair (4), prefix of the subnet (8), GUID (8). Source: RFC 4391, 9.1.1.
fn port_guid(mac: &str) -> Option<String> {
    let bytes: Vec<&str> = mac.split(':').collect();
    (bytes.len() == 20).then(|| bytes.get(12..).map(|guid| guid.join(":")))?
}

/// The kernel writes `0200:00ff:fe00:0300`.
fn read_node_guid(device: &Path) -> Option<String> {
    let dir = device.join("infiniband");
    let card = read_names(&dir)?.into_iter().next()?;
    parse_node_guid(&read_text(&dir.join(card).join("node_guid"))?)
}

fn parse_node_guid(text: &str) -> Option<String> {
    let digits: String = text.split(':').collect();
    let bytes = hex::decode(digits).ok().filter(|bytes| bytes.len() == 8 && bytes.iter().any(|byte| *byte != 0))?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"))
}

/// Whether the USB device in this folder of `/sys` is a link to a BMC, by its vendor and product.
pub fn is_bmc_link(usb: &Path) -> bool {
    let id = |file: &str| read_text(&usb.join(file)).unwrap_or_default();
    let (vendor, product) = (id("idVendor"), id("idProduct"));
    BMC_LINKS.iter().any(|(known, only)| *known == vendor && only.is_none_or(|only| only == product))
}

/// Lower case, 6, 8 or 20 bytes: what Go's `net.ParseMAC` takes, and with it the control plane.
pub fn parse_mac(text: &str) -> Option<String> {
    let is_byte = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    let count = text.split(':').count();
    let is_mac = matches!(count, 6 | 8 | 20) && text.split(':').all(is_byte);
    is_mac.then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_the_server_can_parse_count() {
        assert_eq!(parse_mac("52:54:00:AB:cd:01").as_deref(), Some("52:54:00:ab:cd:01"));
        assert!(parse_mac(&["80"; 20].join(":")).is_some());
        for bad in ["", "00:00:00:00", "52:54:00:ab:cd", "52:54:00:ab:cd:0g", "52-54-00-ab-cd-01", "5254:00:ab:cd:01"] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }

    #[test]
    fn guids_of_infiniband_are_eight_bytes() {
        let mac = "00:00:10:48:fe:80:00:00:00:00:00:00:02:00:00:ff:fe:00:03:00";
        assert_eq!(port_guid(mac).as_deref(), Some("02:00:00:ff:fe:00:03:00"));
        assert_eq!(port_guid("02:00:00:00:00:01"), None);
        assert_eq!(parse_node_guid("0200:00FF:fe00:0300").as_deref(), Some("02:00:00:ff:fe:00:03:00"));
        for bad in ["0000:0000:0000:0000", "0200:00ff", "", "zz"] {
            assert_eq!(parse_node_guid(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_driver_that_tells_zeros_or_nothing_is_not_believed() {
        assert_eq!(render_mac(&[0; 6]), None);
        assert_eq!(render_mac(&[]), None);
        assert_eq!(render_mac(&[2, 0, 0, 0, 0, 0x1f]).as_deref(), Some("02:00:00:00:00:1f"));
        assert_eq!(known("N/A".to_owned()), None);
    }
}
