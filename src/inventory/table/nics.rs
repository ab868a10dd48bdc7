//! One line a link.

use super::super::nic::Nic;
use super::columns::{joined, text};

pub(super) const HEADINGS: &[&str] = &["NIC", "MAC", "LINK", "DRIVER", "PCI", "REMARKS"];

/// Characters of an address of six bytes. InfiniBand's has twenty bytes, of which the GUID tells ports apart.
const ETHERNET_MAC: usize = 17;

pub(super) fn row(nic: &Nic) -> Vec<String> {
    let link = match (nic.carrier, nic.speed_mbps) {
        (Some(true), Some(speed)) if speed >= 1000 && speed % 100 == 0 => format!("up, {} Gbit/s", gigabits(speed)),
        (Some(true), Some(speed)) => format!("up, {speed} Mbit/s"),
        (Some(true), None) => "up".to_owned(),
        (Some(false), _) => "no carrier".to_owned(),
        (None, _) => "down".to_owned(),
    };
    let driver = nic.driver.as_deref().or((!nic.physical).then_some("(virtual)"));
    let mac =
        if nic.mac.len() > ETHERNET_MAC { nic.port_guid.clone().unwrap_or(nic.mac.clone()) } else { nic.mac.clone() };
    let virtual_functions =
        nic.sriov.map(|sriov| format!("{} of {} VFs", sriov.functions.unwrap_or(0), sriov.most_functions));
    let marks = [
        nic.physical_function.as_ref().map(|_| "VF".to_owned()),
        nic.to_bmc.then(|| "to the BMC".to_owned()),
        virtual_functions,
        nic.firmware_version.as_ref().map(|version| format!("firmware {version}")),
        neighbours(nic),
    ];
    vec![nic.name.clone(), mac, link, text(driver), text(nic.pci_address.as_deref()), joined(marks, "; ")]
}

/// 2500 → `2.5`, 100000 → `100`.
fn gigabits(speed_mbps: u64) -> String {
    let (whole, tenth) = (speed_mbps / 1000, speed_mbps % 1000 / 100);
    if tenth == 0 { whole.to_string() } else { format!("{whole}.{tenth}") }
}

/// `leaf01 Ethernet3`: the other ends of the cable, heard by LLDP.
fn neighbours(nic: &Nic) -> Option<String> {
    let names = nic.neighbors.iter().map(|neighbor| {
        let port = neighbor.name.clone().unwrap_or_else(|| neighbor.identifier.clone());
        neighbor.hostname.as_ref().map_or_else(|| port.clone(), |host| format!("{host} {port}"))
    });
    let names: Vec<String> = names.collect();
    (!names.is_empty()).then(|| names.join(", "))
}
