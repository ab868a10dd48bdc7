//! Waiting until disks and links have appeared.
//!
//! A disk that shows up after the inventory would neither be registered nor erased. Most are there when their driver's
//! loading ends: the kernel then waits for all that was begun asynchronously (`async_synchronize_full` in
//! `do_init_module`), which is how SCSI, ATA and NVMe scan. Links come a little later, and USB disks later still: see
//! [`super::usb`].

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use crate::inventory::attribute::read_names;
use crate::sys::roots::Roots;

const POLL: Duration = Duration::from_millis(50);
/// How long nothing new may appear. Controllers that take longer between two disks are rare.
const QUIET: Duration = Duration::from_millis(300);

/// Waits until no block device and no network link has come or gone for 300 ms, or `timeout` is over. Returns whether
/// it became quiet.
pub fn settle(roots: &Roots, timeout: Duration) -> bool {
    let start = Instant::now();
    let mut seen = read_devices(roots);
    let mut since = start;
    loop {
        if since.elapsed() >= QUIET {
            return true;
        }
        if start.elapsed() >= timeout {
            return false;
        }
        thread::sleep(POLL);
        let now = read_devices(roots);
        if now != seen {
            seen = now;
            since = Instant::now();
        }
    }
}

fn read_devices(roots: &Roots) -> BTreeSet<String> {
    let disks = read_names(&roots.sys.join("block")).unwrap_or_default();
    let links = read_names(&roots.sys.join("class/net")).unwrap_or_default();
    disks
        .into_iter()
        .map(|disk| format!("block/{disk}"))
        .chain(links.into_iter().map(|link| format!("net/{link}")))
        .collect()
}
