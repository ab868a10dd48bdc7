//! Network links.
//!
//! Source: `/sys/class/net/<name>/`.

use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use super::Reading;
use super::attribute::{pci_address, read_device_path, read_flag, read_link_name, read_names, read_number, read_text};
use crate::sys::roots::Roots;

/// One link with a hardware address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Nic {
    pub name: String,
    /// `address`: 6, 8 or 20 bytes (Ethernet, EUI-64, InfiniBand), lower case with colons.
    pub mac: String,
    /// What the card was made with: `address` when `addr_assign_type` says that it is permanent, else
    /// `bonding_slave/perm_hwaddr`. Absent when `/sys` does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permanent_mac: Option<String>,
    /// `ifindex`: the kernel's order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// Whether there is a device behind it (not so: `lo`, bridges, VLANs).
    pub physical: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci_address: Option<String>,
    /// `carrier`; absent while the link is administratively down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carrier: Option<bool>,
    /// `operstate`: `up`, `down`, `unknown` (the kernel's word for links without a carrier), …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operstate: Option<String>,
    /// `speed`, Mbit/s; absent without a carrier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed_mbps: Option<u64>,
    /// What LLDP heard on this link; empty here, since it takes listening.
    pub neighbors: Vec<Neighbor>,
}

/// The other end of a cable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Neighbor {
    pub mac: String,
    pub name: String,
}

pub fn read(roots: &Roots) -> Reading<Vec<Nic>> {
    let dir = roots.sys.join("class/net");
    let Some(names) = read_names(&dir) else {
        return Reading { found: Vec::new(), warnings: vec!["NICs: /sys/class/net cannot be read".to_owned()] };
    };
    let mut found: Vec<Nic> = names.iter().filter_map(|name| read_nic(&dir.join(name), name)).collect();
    // Netlink lists links by index; links of a capture without indices come last, by name.
    found.sort_by_key(|nic| nic.index.unwrap_or(u64::MAX));
    Reading { found, warnings: Vec::new() }
}

/// `None` for what has no hardware address (tunnels), and for files among the links (`bonding_masters`).
fn read_nic(link: &Path, name: &str) -> Option<Nic> {
    let mac = parse_mac(&read_text(&link.join("address"))?)?;
    let is_permanent = read_number(&link.join("addr_assign_type")) == Some(0);
    let physical = link.join("device").exists();
    Some(Nic {
        name: name.to_owned(),
        permanent_mac: read_text(&link.join("bonding_slave/perm_hwaddr"))
            .and_then(|mac| parse_mac(&mac))
            .or_else(|| (physical && is_permanent).then(|| mac.clone())),
        mac,
        index: read_number(&link.join("ifindex")),
        physical,
        driver: read_link_name(&link.join("device/driver")),
        pci_address: read_device_path(link).and_then(|path| pci_address(&path)),
        carrier: read_flag(&link.join("carrier")),
        operstate: read_text(&link.join("operstate")),
        speed_mbps: read_number(&link.join("speed")).filter(|speed| *speed > 0 && *speed < u64::from(u32::MAX)),
        neighbors: Vec::new(),
    })
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
}
