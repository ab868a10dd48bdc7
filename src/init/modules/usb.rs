//! USB: disks that come when everything else has long been there.
//!
//! Hubs are walked by a thread of the kernel, and each device is waited for (`hub_activate`, `hub_port_debounce_be_stable`
//! in `drivers/usb/core/hub.c`). A disk is asked for its units a second after it was found, or after what
//! `usb-storage.delay_use` says (`drivers/usb/storage/usb.c`), by another thread, and is a block device when a third one
//! has read its size. Nothing in the kernel tells when all that is over, so the way of each device is looked at.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::inventory::attribute::{read_link_name, read_names, read_number};
use crate::sys::roots::Roots;

const POLL: Duration = Duration::from_millis(50);
/// How long no device may appear. A port is switched on (100 ms), has to be still (100 ms), is reset (60 ms) and asked
/// who it is, and behind it may be another hub.
const QUIET: Duration = Duration::from_secs(1);
/// `TYPE_DISK` and `TYPE_ZBC` in `include/scsi/scsi_proto.h`.
const DISK_TYPES: [u64; 2] = [0, 0x14];

/// Waits until no USB device has come or gone for a second and all USB disks are block devices; at most `limit`.
/// `changed` is called for every change, to load the drivers of what has come. A machine without USB does not wait.
///
/// # Errors
/// The disks that are still missing at the end, and what they wait for; none where only new devices kept coming.
pub fn wait_for_disks(roots: &Roots, limit: Duration, mut changed: impl FnMut()) -> Result<(), Vec<String>> {
    let start = Instant::now();
    let mut seen = read_devices(roots);
    let mut since = start;
    loop {
        let unready = read_unready(roots, &seen);
        if seen.is_empty() || (unready.is_empty() && since.elapsed() >= QUIET) {
            return Ok(());
        }
        if start.elapsed() >= limit {
            return Err(unready);
        }
        thread::sleep(POLL);
        let now = read_devices(roots);
        if now != seen {
            changed();
            seen = now;
            since = Instant::now();
        }
    }
}

/// Devices and their interfaces: `usb1`, `1-2`, `1-2:1.0`.
fn read_devices(roots: &Roots) -> Vec<String> {
    read_names(&roots.sys.join("bus/usb/devices")).unwrap_or_default()
}

/// The interfaces that have a storage driver and are not yet what they will be.
fn read_unready(roots: &Roots, devices: &[String]) -> Vec<String> {
    let dir = roots.sys.join("bus/usb/devices");
    let unready = devices.iter().filter_map(|name| {
        let interface = dir.join(name);
        let driver = read_link_name(&interface.join("driver"))?;
        Some(format!("USB device {name} ({driver}): {}", is_storage(&driver).then(|| read_wait(&interface))??))
    });
    unready.collect()
}

/// `usb-storage`, `uas`, and the drivers of single makers (`ums-realtek`, …).
fn is_storage(driver: &str) -> bool {
    matches!(driver, "usb-storage" | "uas") || driver.starts_with("ums-")
}

/// What a disk waits for: `…/1-2:1.0/host6/target6:0:0/6:0:0:0/block/sdb`.
fn read_wait(interface: &Path) -> Option<&'static str> {
    let hosts = subfolders(interface, "host");
    let targets: Vec<_> = hosts.iter().flat_map(|host| subfolders(host, "target")).collect();
    if targets.is_empty() {
        return Some("it was not asked for its units yet");
    }
    let waits = targets.iter().flat_map(|target| subfolders(target, "")).any(|unit| {
        let is_disk = read_number(&unit.join("type")).is_some_and(|kind| DISK_TYPES.contains(&kind));
        is_disk && read_names(&unit.join("block")).unwrap_or_default().is_empty()
    });
    waits.then_some("its size is not known yet")
}

fn subfolders(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let names = read_names(dir).unwrap_or_default();
    names.into_iter().filter(|name| name.starts_with(prefix)).map(|name| dir.join(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    const INTERFACE: &str = "bus/usb/devices/1-2:1.0";

    fn machine(driver: &str, folders: &[&str]) -> (tempfile::TempDir, Roots) {
        let tree = tempfile::tempdir().expect("temporary folder");
        let roots = Roots::under(tree.path());
        let interface = roots.sys.join(INTERFACE);
        fs::create_dir_all(&interface).expect("making a folder");
        symlink(format!("../../drivers/{driver}"), interface.join("driver")).expect("making a link");
        for folder in folders {
            fs::create_dir_all(interface.join(folder)).expect("making a folder");
        }
        (tree, roots)
    }

    fn unready(roots: &Roots) -> Vec<String> {
        read_unready(roots, &read_devices(roots))
    }

    #[test]
    fn a_disk_is_waited_for_until_it_is_a_block_device() {
        let (_tree, roots) = machine("usb-storage", &[]);
        assert!(unready(&roots)[0].ends_with("1-2:1.0 (usb-storage): it was not asked for its units yet"));
        let unit = roots.sys.join(INTERFACE).join("host6/target6:0:0/6:0:0:0");
        fs::create_dir_all(&unit).expect("making a folder");
        fs::write(unit.join("type"), "0\n").expect("writing a file");
        assert!(unready(&roots)[0].ends_with("its size is not known yet"));
        fs::create_dir_all(unit.join("block/sdb")).expect("making a folder");
        assert_eq!(unready(&roots), Vec::<String>::new());
    }

    #[test]
    fn a_drive_for_discs_is_ready_when_it_is_known() {
        let (_tree, roots) = machine("uas", &["host6/target6:0:0/6:0:0:0"]);
        fs::write(roots.sys.join(INTERFACE).join("host6/target6:0:0/6:0:0:0/type"), "5\n").expect("writing a file");
        assert_eq!(unready(&roots), Vec::<String>::new());
    }

    #[test]
    fn what_is_missing_at_the_end_is_told_and_no_keyboard_is_waited_for() {
        let (_tree, roots) = machine("ums-realtek", &["host6"]);
        let missing = wait_for_disks(&roots, Duration::ZERO, || {}).expect_err("its units are not known");
        assert_eq!(missing.len(), 1, "{missing:?}");
        let (_tree, roots) = machine("usbhid", &[]);
        assert_eq!(wait_for_disks(&roots, Duration::ZERO, || {}), Err(Vec::new()), "others may still come");
        assert_eq!(wait_for_disks(&roots, Duration::from_secs(30), || {}), Ok(()));
    }

    #[test]
    fn a_machine_without_usb_does_not_wait() {
        let tree = tempfile::tempdir().expect("temporary folder");
        assert_eq!(wait_for_disks(&Roots::under(tree.path()), Duration::ZERO, || {}), Ok(()));
    }
}
