//! Names of machines: the host name of the allocation, and the names that each has by itself.
//!
//! Nothing is kept here. Every question looks at the database and the leases, so that a name is there as soon as the
//! allocation was answered, and gone as soon as the machine is free.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

use uuid::Uuid;

use crate::anvil::machines::MachineRecord;
use crate::anvil::netboot::leases::{LeaseFile, unix_seconds};
use crate::anvil::refusal::Refusal;
use crate::anvil::store::{Store, Tx};
use crate::api::mac::Mac;

/// Digits of a UUID that are a name of their own, as long as no other machine's begins so.
const SHORT_UUID_DIGITS: usize = 8;

/// Where names of machines come from.
#[derive(Clone)]
pub struct MachineNames {
    store: Store,
    leases: LeaseFile,
}

/// A name that a machine has without an allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
enum OwnName {
    /// `02-00-00-00-00-01`, also of a machine that never registered.
    Mac(Mac),
    /// `8c1e0d2a-…`, lower case.
    Uuid(String),
    /// Its first eight digits.
    ShortUuid(String),
}

impl OwnName {
    fn parse(label: &str) -> Option<Self> {
        let label = label.to_ascii_lowercase();
        if label.contains('-')
            && let Ok(mac) = label.parse()
        {
            return Some(Self::Mac(mac));
        }
        if label.len() == SHORT_UUID_DIGITS && label.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Some(Self::ShortUuid(label));
        }
        // `Uuid` reads other forms as well, which are nobody's name.
        let uuid = Uuid::try_parse(&label).ok().filter(|uuid| uuid.to_string() == label);
        uuid.map(|_| Self::Uuid(label))
    }
}

/// The name of whoever has this NIC.
fn mac_label(mac: Mac) -> String {
    mac.to_string().replace(':', "-")
}

impl MachineNames {
    /// Names of the machines in `store`, with the addresses that they have by `leases`.
    pub fn new(store: Store, leases: LeaseFile) -> Self {
        Self { store, leases }
    }

    /// Addresses of what is called so; none when it has no lease. `None`: nobody is called so.
    pub(super) async fn addresses(&self, label: &str) -> Result<Option<BTreeSet<IpAddr>>, Refusal> {
        let label = label.to_ascii_lowercase();
        let leases = self.leases.clone();
        self.store.run(move |tx| addresses(tx, &Leased::read(&leases)?, &label)).await
    }

    /// What has this address is called: by its allocation, else by its MAC.
    pub(super) async fn label_of(&self, address: IpAddr) -> Result<Option<String>, Refusal> {
        let IpAddr::V4(address) = address else { return Ok(None) };
        let leases = self.leases.clone();
        self.store.run(move |tx| label_of(tx, &Leased::read(&leases)?, address)).await
    }
}

/// The leases that have not ended.
struct Leased(Vec<(Ipv4Addr, Mac)>);

impl Leased {
    fn read(file: &LeaseFile) -> Result<Self, Refusal> {
        let now = unix_seconds(SystemTime::now());
        let live = file.load()?.into_iter().filter(|(_, lease)| lease.ends > now);
        Ok(Self(live.filter_map(|(address, lease)| Some((address, lease.mac.parse().ok()?))).collect()))
    }

    fn of(&self, mac: Mac) -> BTreeSet<IpAddr> {
        self.0.iter().filter(|(_, owner)| *owner == mac).map(|(address, _)| IpAddr::V4(*address)).collect()
    }
}

/// A host name that somebody gave wins over one that only looks like a number.
fn addresses(tx: &Tx<'_>, leased: &Leased, label: &str) -> Result<Option<BTreeSet<IpAddr>>, Refusal> {
    let called = tx.machines_called(label)?;
    if !called.is_empty() {
        return addresses_of(tx, leased, &called).map(Some);
    }
    match OwnName::parse(label) {
        Some(OwnName::Mac(mac)) => {
            let addresses = leased.of(mac);
            let known = !addresses.is_empty() || tx.machine_by_mac(&mac.to_string())?.is_some();
            Ok(known.then_some(addresses))
        }
        Some(OwnName::Uuid(uuid)) => tx.machine(&uuid)?.map(|m| addresses_of(tx, leased, &[m])).transpose(),
        Some(OwnName::ShortUuid(digits)) => match tx.machines_beginning(&digits)?.as_slice() {
            [machine] => addresses_of(tx, leased, std::slice::from_ref(machine)).map(Some),
            // Two machines begin so, and somebody would reach the wrong one.
            _ => Ok(None),
        },
        None => Ok(None),
    }
}

fn addresses_of(tx: &Tx<'_>, leased: &Leased, machines: &[MachineRecord]) -> Result<BTreeSet<IpAddr>, Refusal> {
    let mut found = BTreeSet::new();
    for machine in machines {
        for mac in machine.hardware.nics.iter().filter_map(|nic| nic.mac.parse::<Mac>().ok()) {
            // A card that was moved belongs to the machine that registered it last.
            if tx.machine_by_mac(&mac.to_string())?.is_some_and(|owner| owner.id == machine.id) {
                found.extend(leased.of(mac));
            }
        }
    }
    Ok(found)
}

fn label_of(tx: &Tx<'_>, leased: &Leased, address: Ipv4Addr) -> Result<Option<String>, Refusal> {
    let Some((_, mac)) = leased.0.iter().find(|(leased, _)| *leased == address) else { return Ok(None) };
    let machine = tx.machine_by_mac(&mac.to_string())?;
    let hostname = machine.and_then(|machine| machine.allocation).map(|allocation| allocation.hostname);
    Ok(Some(hostname.filter(|name| !name.is_empty()).unwrap_or_else(|| mac_label(*mac)).to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn own_names_are_told_apart() {
        assert_eq!(OwnName::parse("02-00-00-00-00-0A"), Some(OwnName::Mac(Mac([2, 0, 0, 0, 0, 10]))));
        assert_eq!(OwnName::parse("8C1E0D2A"), Some(OwnName::ShortUuid("8c1e0d2a".into())));
        let uuid = "8c1e0d2a-0000-4000-8000-000000000001";
        assert_eq!(OwnName::parse(&uuid.to_uppercase()), Some(OwnName::Uuid(uuid.into())));
        for other in ["", "web-1", "8c1e0d2", "02:00:00:00:00:01", "8c1e0d2a000040008000000000000001", "{}", "é"] {
            assert_eq!(OwnName::parse(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_label_is_some_name_or_none(label in "\\PC{0,70}") {
            if let Some(OwnName::Mac(mac)) = OwnName::parse(&label) {
                prop_assert_eq!(mac_label(mac), label.to_ascii_lowercase());
            }
        }

        #[test]
        fn every_mac_is_found_by_its_own_label(bytes in any::<[u8; 6]>()) {
            prop_assert_eq!(OwnName::parse(&mac_label(Mac(bytes))), Some(OwnName::Mac(Mac(bytes))));
        }

        #[test]
        fn every_uuid_is_a_name_whole_and_by_its_beginning(bytes in any::<[u8; 16]>()) {
            let uuid = Uuid::from_bytes(bytes).to_string();
            prop_assert_eq!(OwnName::parse(&uuid), Some(OwnName::Uuid(uuid.clone())));
            let short = uuid[..SHORT_UUID_DIGITS].to_owned();
            prop_assert_eq!(OwnName::parse(&short), Some(OwnName::ShortUuid(short)));
        }
    }
}
