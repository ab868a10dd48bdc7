//! A device that never answers: it is named, and the rest of the machine is known.
//!
//! The kernel's fanotify holds every `open` of one file until the test ends, as a dying disk does. That takes root.

mod machine_tree;

use std::path::Path;
use std::time::Duration;

use drophammer::inventory::readers::Limits;
use drophammer::inventory::{self, Inventory};
use drophammer::sys::roots::Roots;
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};

/// Long enough that it is never reached, so the test shows that nothing waited for it.
const NEVER: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(300);

/// Every `open` of the file hangs as long as this lives; `None` where the test may not do that.
fn hang(file: &Path) -> Option<Fanotify> {
    let group = match Fanotify::init(InitFlags::FAN_CLASS_CONTENT | InitFlags::FAN_CLOEXEC, EventFFlags::empty()) {
        Err(error @ (Errno::EPERM | Errno::ENOSYS | Errno::EINVAL)) => {
            eprintln!("skipped: fanotify cannot hold an open here: {error}");
            return None;
        }
        group => group.expect("a fanotify group"),
    };
    group.mark(MarkFlags::FAN_MARK_ADD, MaskFlags::FAN_OPEN_PERM, AT_FDCWD, Some(file)).expect("marking the file");
    Some(group)
}

fn read_while_hanging(file: &str, limits: Limits) -> Option<Inventory> {
    let tree = machine_tree::build("server-8-h100");
    let _hanging = hang(&tree.path().join(file))?;
    Some(inventory::read_within(&Roots::under(tree.path()), &limits))
}

#[test]
fn disks_that_hang_are_named_and_the_rest_is_known() {
    let limits = Limits { files: NEVER, disks: SHORT, bmc: NEVER };
    let Some(inventory) = read_while_hanging("sys/block/sda/device/model", limits) else { return };
    assert_eq!(inventory.disks, []);
    assert!(
        inventory.warnings.contains(&"disks: no answer within 0.3 s, given up".to_owned()),
        "{:?}",
        inventory.warnings
    );
    assert_eq!((inventory.cpus.len(), inventory.gpus.len()), (2, 8));
    assert!(!inventory.nics.is_empty());
}

#[test]
fn a_hanging_source_of_facts_does_not_hide_the_disks() {
    let limits = Limits { files: SHORT, disks: NEVER, bmc: NEVER };
    let Some(inventory) = read_while_hanging("proc/cpuinfo", limits) else { return };
    assert_eq!(inventory.cpus, []);
    assert!(inventory.warnings.contains(&"CPU: no answer within 0.3 s, given up".to_owned()));
    assert!(inventory.disks.iter().any(|disk| disk.name == "/dev/sda"));
}
