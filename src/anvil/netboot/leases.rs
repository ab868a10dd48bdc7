//! Who has which address: a pool, and a file in which the leases survive a restart.
//!
//! A client is its MAC address, not its client identifier (RFC 2131 would have the latter): firmware, iPXE, agent and
//! installed system of one machine each send another identifier, and all of them should get the same address.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::api::mac::Mac;

/// How long an offered address waits for its client, in seconds.
const OFFER_SECONDS: u64 = 60;
/// How long an address rests that a client found in use by somebody else, in seconds.
const DECLINED_SECONDS: u64 = 600;
/// Largest range taken: a pool is searched address by address.
const MAX_RANGE: u32 = 1 << 16;

/// Seconds since 1970, the unit of all times here: leases outlive the process.
pub fn unix_seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// One lease, kept after its end so that the client gets the same address again while nobody else needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub mac: String,
    /// Option 61 of the last request, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Seconds since 1970.
    pub ends: u64,
}

/// An inclusive range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    first: u32,
    last: u32,
}

impl AddressRange {
    pub fn new(first: Ipv4Addr, last: Ipv4Addr) -> Result<Self> {
        let (low, high) = (u32::from(first), u32::from(last));
        if low > high {
            bail!("the range {first} to {last} is the wrong way round");
        }
        if high - low >= MAX_RANGE {
            bail!("the range {first} to {last} has {} addresses, more than {MAX_RANGE}", u64::from(high - low) + 1);
        }
        Ok(Self { first: low, last: high })
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&u32::from(address))
    }

    fn iter(self) -> impl Iterator<Item = Ipv4Addr> {
        (self.first..=self.last).map(Ipv4Addr::from)
    }
}

/// The pool's state. All times are given, so that it is the same at every call with the same past.
#[derive(Debug)]
pub struct LeasePool {
    range: AddressRange,
    /// Never given: the server's own and the router's.
    reserved: Vec<Ipv4Addr>,
    leases: BTreeMap<Ipv4Addr, Lease>,
    offers: BTreeMap<Ipv4Addr, (Mac, u64)>,
    declined: BTreeMap<Ipv4Addr, u64>,
    unsaved: bool,
}

impl LeasePool {
    pub fn new(range: AddressRange, reserved: Vec<Ipv4Addr>, leases: BTreeMap<Ipv4Addr, Lease>) -> Self {
        Self { range, reserved, leases, offers: BTreeMap::new(), declined: BTreeMap::new(), unsaved: false }
    }

    /// Leases by address, ended ones among them.
    pub fn leases(&self) -> &BTreeMap<Ipv4Addr, Lease> {
        &self.leases
    }

    /// The leases changed since [`Self::mark_saved`].
    pub fn is_unsaved(&self) -> bool {
        self.unsaved
    }

    pub fn mark_saved(&mut self) {
        self.unsaved = false;
    }

    /// Picks an address for a client and keeps it aside for a minute: the one it had, else the one it asks for, else
    /// one never used, else the one whose lease ended longest ago. `None` when the pool is exhausted.
    pub fn offer(&mut self, mac: Mac, wanted: Option<Ipv4Addr>, now: u64) -> Option<Ipv4Addr> {
        self.offers.retain(|_, (_, until)| *until > now);
        self.declined.retain(|_, until| *until > now);
        let address = self
            .address_of(mac)
            .filter(|address| self.may_have(mac, *address, now))
            .or_else(|| self.offers.iter().find(|(_, (owner, _))| *owner == mac).map(|(address, _)| *address))
            .or_else(|| wanted.filter(|address| self.is_unused(mac, *address, now)))
            .or_else(|| self.range.iter().find(|address| self.is_unused(mac, *address, now)))
            .or_else(|| self.longest_ended(mac, now))?;
        self.offers.insert(address, (mac, now.saturating_add(OFFER_SECONDS)));
        Some(address)
    }

    /// Gives an address to a client until `ends`. False when it may not have it.
    pub fn take(&mut self, mac: Mac, client_id: Option<&[u8]>, address: Ipv4Addr, now: u64, ends: u64) -> bool {
        if !self.may_have(mac, address, now) {
            return false;
        }
        // One address a client: an older lease of another address ends here.
        let owner = mac.to_string();
        self.leases.retain(|other, lease| *other == address || lease.mac != owner);
        self.offers.retain(|_, (other, _)| *other != mac);
        self.unsaved = true;
        self.leases.insert(address, Lease { mac: owner, client_id: client_id.map(hex::encode), ends });
        true
    }

    /// The client gives its address back; false when it was not its own.
    pub fn release(&mut self, mac: Mac, address: Ipv4Addr, now: u64) -> bool {
        match self.leases.get_mut(&address) {
            Some(lease) if lease.mac == mac.to_string() => {
                lease.ends = lease.ends.min(now);
                self.unsaved = true;
                true
            }
            Some(_) | None => false,
        }
    }

    /// The client found somebody else on the address: nobody gets it for a while. Only the address's owner may say so,
    /// or one packet could empty the pool.
    pub fn decline(&mut self, mac: Mac, address: Ipv4Addr, now: u64) -> bool {
        let offered = self.offers.get(&address).is_some_and(|(owner, _)| *owner == mac);
        let leased = self.leases.get(&address).is_some_and(|lease| lease.mac == mac.to_string());
        if !offered && !leased {
            return false;
        }
        self.offers.remove(&address);
        self.unsaved |= self.leases.remove(&address).is_some();
        self.declined.insert(address, now.saturating_add(DECLINED_SECONDS));
        true
    }

    /// Forgets what was offered: the client chose another server.
    pub fn withdraw_offer(&mut self, mac: Mac) {
        self.offers.retain(|_, (owner, _)| *owner != mac);
    }

    /// The address leased to a client, also after its lease ended.
    pub fn address_of(&self, mac: Mac) -> Option<Ipv4Addr> {
        let owner = mac.to_string();
        self.leases.iter().find(|(_, lease)| lease.mac == owner).map(|(address, _)| *address)
    }

    /// In the range, not reserved, resting, offered or leased to somebody else now.
    fn may_have(&self, mac: Mac, address: Ipv4Addr, now: u64) -> bool {
        self.range.contains(address)
            && !self.reserved.contains(&address)
            && self.declined.get(&address).is_none_or(|until| *until <= now)
            && self.offers.get(&address).is_none_or(|(owner, until)| *owner == mac || *until <= now)
            && self.leases.get(&address).is_none_or(|lease| lease.ends <= now || lease.mac == mac.to_string())
    }

    fn is_unused(&self, mac: Mac, address: Ipv4Addr, now: u64) -> bool {
        !self.leases.contains_key(&address) && self.may_have(mac, address, now)
    }

    fn longest_ended(&self, mac: Mac, now: u64) -> Option<Ipv4Addr> {
        let ended = self.leases.iter().filter(|(address, _)| self.may_have(mac, **address, now));
        ended.min_by_key(|(_, lease)| lease.ends).map(|(address, _)| *address)
    }
}

/// The file the leases are kept in: a JSON object from address to [`Lease`].
#[derive(Clone, Debug)]
pub struct LeaseFile(PathBuf);

impl LeaseFile {
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Its place in anvil's data directory.
    pub fn in_data(data: &Path) -> Self {
        Self::new(data.join("dhcp-leases.json"))
    }

    /// No leases when there is no file yet.
    pub fn load(&self) -> Result<BTreeMap<Ipv4Addr, Lease>> {
        let text = match fs::read(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(error).with_context(|| format!("reading DHCP leases from {}", self.0.display())),
        };
        serde_json::from_slice(&text).with_context(|| {
            format!("reading DHCP leases from {} (delete the file to start without any)", self.0.display())
        })
    }

    /// Replaces the file at once: after a power cut it holds either the old leases or the new.
    pub fn save(&self, leases: &BTreeMap<Ipv4Addr, Lease>) -> Result<()> {
        let text = serde_json::to_vec_pretty(leases).context("encoding DHCP leases")?;
        write_atomically(&self.0, &text, 0o644).with_context(|| format!("writing DHCP leases to {}", self.0.display()))
    }
}

/// Writes beside the file, syncs, renames over it, and syncs the directory.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => fs::File::open(parent)?.sync_all(),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(last: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, last])
    }

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    fn pool(first: u8, last: u8) -> LeasePool {
        LeasePool::new(AddressRange::new(ip(first), ip(last)).unwrap(), vec![ip(1)], BTreeMap::new())
    }

    #[test]
    fn machines_that_ask_at_once_get_different_addresses() {
        let mut pool = pool(10, 12);
        let offered: Vec<_> = (1..=4).map(|n| pool.offer(mac(n), None, 100)).collect();
        assert_eq!(offered, [Some(ip(10)), Some(ip(11)), Some(ip(12)), None]);
        // An offer nobody takes is free again after a minute.
        assert_eq!(pool.offer(mac(4), None, 160), Some(ip(10)));
    }

    #[test]
    fn a_client_keeps_its_address_after_the_lease_ended() {
        let mut pool = pool(10, 12);
        for n in 1..=2 {
            assert_eq!(pool.offer(mac(n), None, 0), Some(ip(9 + n)));
            assert!(pool.take(mac(n), Some(&[1, n]), ip(9 + n), 0, 600));
        }
        assert_eq!(pool.offer(mac(2), None, 10_000), Some(ip(11)));
        assert_eq!(pool.offer(mac(3), None, 10_000), Some(ip(12)), "unused addresses go first");
    }

    #[test]
    fn the_longest_ended_lease_goes_first_and_a_live_one_never() {
        let mut pool = pool(10, 11);
        assert!(pool.take(mac(1), None, ip(10), 0, 900));
        assert!(pool.take(mac(2), None, ip(11), 0, 600));
        assert_eq!(pool.offer(mac(3), Some(ip(10)), 500), None);
        assert_eq!(pool.offer(mac(3), None, 700), Some(ip(11)));
        assert!(!pool.take(mac(3), None, ip(10), 700, 1300));
        assert!(pool.take(mac(3), None, ip(11), 700, 1300));
        assert!(!pool.take(mac(2), None, ip(11), 710, 1300), "its former owner must not come back");
    }

    #[test]
    fn reserved_and_declined_addresses_are_not_given() {
        let mut pool = pool(1, 3);
        assert_eq!(pool.offer(mac(1), Some(ip(1)), 0), Some(ip(2)));
        assert!(!pool.decline(mac(9), ip(2), 0), "a stranger may not decline");
        assert!(pool.decline(mac(1), ip(2), 0));
        assert_eq!(pool.offer(mac(1), None, 0), Some(ip(3)));
        assert_eq!(pool.offer(mac(2), None, 0), None);
        assert_eq!(pool.offer(mac(2), None, DECLINED_SECONDS), Some(ip(2)));
    }

    #[test]
    fn a_released_address_is_free_but_remembered() {
        let mut pool = pool(10, 10);
        assert!(pool.take(mac(1), None, ip(10), 0, 600));
        assert!(!pool.release(mac(2), ip(10), 5));
        assert!(pool.release(mac(1), ip(10), 5));
        assert_eq!(pool.address_of(mac(1)), Some(ip(10)));
        assert_eq!(pool.offer(mac(2), None, 6), Some(ip(10)));
    }

    #[test]
    fn leases_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let file = LeaseFile::new(dir.path().join("dhcp-leases.json"));
        assert_eq!(file.load().unwrap(), BTreeMap::new());
        let mut pool = pool(10, 12);
        assert!(pool.take(mac(7), Some(&[0xff, 1]), ip(12), 0, 600));
        file.save(pool.leases()).unwrap();
        let leases = file.load().unwrap();
        let mut pool = LeasePool::new(AddressRange::new(ip(10), ip(12)).unwrap(), vec![], leases);
        assert_eq!(pool.offer(mac(7), None, 9000), Some(ip(12)));
    }

    #[test]
    fn a_damaged_lease_file_is_reported_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dhcp-leases.json");
        fs::write(&path, "{").unwrap();
        let error = LeaseFile::new(path.clone()).load().unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains("delete the file"), "{error}");
    }

    #[test]
    fn refuses_absurd_ranges() {
        assert!(AddressRange::new(ip(5), ip(4)).unwrap_err().to_string().contains("wrong way round"));
        assert!(
            AddressRange::new([10, 0, 0, 0].into(), [10, 1, 0, 0].into()).unwrap_err().to_string().contains("65537")
        );
    }
}
