//! Takes from the disks what the last owner's system left running on them: mounts, swap, mappings (LVM, LUKS,
//! multipath), RAID arrays, also degraded ones and those that never started. Without lvm and mdadm: the kernel knows
//! what lies on what, and that is enough to take it down.
//!
//! Only for a machine that is being provisioned. On a desk, a disk in use is refused.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};

use crate::disk::device::{DiskFacts, DiskUse, read_disk_at};
use crate::inventory::disk::kernel_name;
use crate::sys::roots::Roots;
use crate::sys::{device_mapper, swap};

/// Something is often closed a moment late: 25 times 200 ms.
const ATTEMPTS: u32 = 25;
const DELAY: Duration = Duration::from_millis(200);

/// One thing to take down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    Mount {
        device: String,
        target: String,
    },
    Swap {
        device: String,
    },
    /// By its name in the device mapper, e.g. `vg0-root`.
    Mapping {
        device: String,
        name: String,
    },
    Array {
        device: String,
    },
    /// What this module does not know, bcache and its like.
    Unknown {
        device: String,
    },
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mount { device, target } => write!(f, "mount of {device} at {target}"),
            Self::Swap { device } => write!(f, "swap on {device}"),
            Self::Mapping { device, name } => write!(f, "mapping {name} ({device})"),
            Self::Array { device } => write!(f, "RAID array {device}"),
            Self::Unknown { device } => write!(f, "{device}"),
        }
    }
}

/// Takes down all that lies on these disks. What could not be is told, and the disk below it stays in use.
pub fn release(roots: &Roots, disks: &[DiskFacts]) -> Vec<String> {
    let mut waiting = plan_release(roots, disks);
    let mut problems = Vec::new();
    for attempt in 1..=ATTEMPTS {
        problems.clear();
        // In order; one that fails may depend on a later one where a container holds its arrays, so the rest goes on.
        waiting.retain(|holder| match take_down(roots, holder) {
            Ok(()) => {
                tracing::info!("{holder} was taken down before erasing");
                false
            }
            Err(error) => {
                problems.push(format!("{holder}: {error:#}"));
                true
            }
        });
        if waiting.is_empty() || attempt == ATTEMPTS {
            break;
        }
        sleep(DELAY);
    }
    problems
}

/// What lies on these disks, in the order in which it can be taken down: what is mounted deepest first, then what is on
/// top of what.
pub fn plan_release(roots: &Roots, disks: &[DiskFacts]) -> Vec<Holder> {
    let mut found = Found::default();
    for disk in disks {
        found.add_uses(roots, &disk.uses);
    }
    let depth = |holder: &Holder| match holder {
        Holder::Mount { target, .. } => target.len(),
        Holder::Swap { .. } | Holder::Mapping { .. } | Holder::Array { .. } | Holder::Unknown { .. } => 0,
    };
    let mut mounts: Vec<Holder> = found.users.into_iter().collect();
    mounts.sort_by_key(|holder| std::cmp::Reverse(depth(holder)));
    mounts.into_iter().chain(found.holders).collect()
}

#[derive(Default)]
struct Found {
    /// Mounts and swap.
    users: BTreeSet<Holder>,
    /// Each after all that lies on it.
    holders: Vec<Holder>,
    seen: BTreeSet<String>,
}

impl Found {
    fn add_uses(&mut self, roots: &Roots, uses: &[DiskUse]) {
        for one in uses {
            match one {
                DiskUse::Mounted { device, target } => {
                    self.users.insert(Holder::Mount { device: device.clone(), target: target.clone() });
                }
                DiskUse::Swap { device } => {
                    self.users.insert(Holder::Swap { device: device.clone() });
                }
                DiskUse::Held { by, .. } => self.add_holder(roots, by),
            }
        }
    }

    fn add_holder(&mut self, roots: &Roots, device: &str) {
        if !self.seen.insert(device.to_owned()) {
            return;
        }
        match read_disk_at(roots, device) {
            Ok(facts) => self.add_uses(roots, &facts.uses),
            Err(error) => tracing::warn!(%device, error = format!("{error:#}"), "holder can't be read"),
        }
        self.holders.push(holder_of(roots, device));
    }
}

fn holder_of(roots: &Roots, device: &str) -> Holder {
    let folder = folder_of(roots, device);
    let device = device.to_owned();
    if folder.join("md/array_state").exists() {
        return Holder::Array { device };
    }
    match fs::read_to_string(folder.join("dm/name")) {
        Ok(name) => Holder::Mapping { device, name: name.trim_end_matches('\n').to_owned() },
        Err(_) => Holder::Unknown { device },
    }
}

fn folder_of(roots: &Roots, device: &str) -> PathBuf {
    roots.sys.join("block").join(kernel_name(device))
}

fn take_down(roots: &Roots, holder: &Holder) -> Result<()> {
    match holder {
        Holder::Mount { target, .. } => {
            // Spaces and their like are written as octal numbers in mountinfo.
            let target = PathBuf::from(unescape(target));
            umount2(&target, MntFlags::empty()).with_context(|| format!("unmounting {}", target.display()))
        }
        Holder::Swap { device } => {
            let node = roots.dev.join(device.trim_start_matches("/dev/"));
            swap::swap_off(&node).with_context(|| format!("taking {device} out of use"))
        }
        Holder::Mapping { name, .. } => remove_mapping(&roots.dev.join("mapper/control"), name),
        Holder::Array { device } => {
            let file = folder_of(roots, device).join("md/array_state");
            // Documentation/admin-guide/md.rst: all is given back, from any state.
            fs::write(&file, "clear").with_context(|| format!("writing clear to {}", file.display()))
        }
        Holder::Unknown { device } => bail!("{device} is of a kind that can't be taken down"),
    }
}

fn remove_mapping(control: &Path, name: &str) -> Result<()> {
    let file = File::options().read(true).write(true).open(control);
    let file = file.with_context(|| format!("opening {}", control.display()))?;
    device_mapper::remove(file.as_fd(), name).with_context(|| format!("removing the mapping {name}"))
}

/// proc(5): `\040` and the like.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, char)| text.replace(code, char))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::device::read_disks;

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Roots) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let roots = Roots::under(dir.path());
        (dir, roots)
    }

    fn planned(roots: &Roots) -> Vec<String> {
        let disks: Vec<DiskFacts> =
            read_disks(roots).unwrap().into_iter().filter(|disk| disk.name.starts_with("sd")).collect();
        plan_release(roots, &disks).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_file_system_on_lvm_on_raid_on_two_disks_is_taken_down_from_the_top() {
        let (_dir, roots) = machine(&[
            ("sys/block/sda/size", "2048\n"),
            ("sys/block/sda/holders/md127/dev", ""),
            ("sys/block/sdb/size", "2048\n"),
            ("sys/block/sdb/sdb1/partition", "1\n"),
            ("sys/block/sdb/sdb1/dev", "8:17\n"),
            ("sys/block/sdb/sdb1/holders/md127/dev", ""),
            ("sys/block/md127/size", "2048\n"),
            ("sys/block/md127/md/array_state", "active\n"),
            ("sys/block/md127/holders/dm-0/dev", ""),
            ("sys/block/md127/holders/dm-1/dev", ""),
            ("sys/block/dm-0/size", "1024\n"),
            ("sys/block/dm-0/dev", "253:0\n"),
            ("sys/block/dm-0/dm/name", "vg0-root\n"),
            ("sys/block/dm-0/holders/dm-2/dev", ""),
            ("sys/block/dm-1/size", "1024\n"),
            ("sys/block/dm-1/dev", "253:1\n"),
            ("sys/block/dm-1/dm/name", "vg0-swap\n"),
            ("sys/block/dm-2/size", "1024\n"),
            ("sys/block/dm-2/dev", "253:2\n"),
            ("sys/block/dm-2/dm/name", "luks-secret\n"),
            (
                "proc/self/mountinfo",
                "30 1 253:2 / /mnt rw - ext4 /dev/mapper/x rw\n31 30 253:2 / /mnt/a rw - ext4 /dev/mapper/x rw\n",
            ),
            ("proc/swaps", "Filename Type Size Used Priority\n/dev/dm-1 partition 1 0 -2\n"),
        ]);
        let expected = [
            "mount of /dev/dm-2 at /mnt/a",
            "mount of /dev/dm-2 at /mnt",
            "swap on /dev/dm-1",
            "mapping luks-secret (/dev/dm-2)",
            "mapping vg0-root (/dev/dm-0)",
            "mapping vg0-swap (/dev/dm-1)",
            "RAID array /dev/md127",
        ];
        assert_eq!(planned(&roots), expected);
    }

    #[test]
    fn an_array_that_never_started_is_cleared_too_and_what_is_not_known_is_told() {
        let (_dir, roots) = machine(&[
            ("sys/block/sda/size", "2048\n"),
            ("sys/block/sda/holders/md0/dev", ""),
            ("sys/block/sda/holders/bcache0/dev", ""),
            ("sys/block/md0/size", "0\n"),
            ("sys/block/md0/md/array_state", "inactive\n"),
            ("sys/block/bcache0/size", "2048\n"),
        ]);
        let mut holders = planned(&roots);
        holders.sort();
        assert_eq!(holders, ["/dev/bcache0", "RAID array /dev/md0"]);
        take_down(&roots, &Holder::Array { device: "/dev/md0".into() }).unwrap();
        let state = fs::read_to_string(roots.sys.join("block/md0/md/array_state")).unwrap();
        assert_eq!(state, "clear");
        let error = take_down(&roots, &Holder::Unknown { device: "/dev/bcache0".into() }).unwrap_err().to_string();
        assert_eq!(error, "/dev/bcache0 is of a kind that can't be taken down");
    }

    #[test]
    fn octal_codes_of_mount_points_are_read() {
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
    }
}
