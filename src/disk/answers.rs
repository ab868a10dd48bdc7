//! Reading all disks of a machine of which one may hang: each has its time, and who has not answered is named.

use std::collections::BTreeSet;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::device::{DiskFacts, DiskKind, disk_names, read_disk_named, read_kind};
use crate::inventory::disk::device_name;
use crate::inventory::readers::each_within;
use crate::sys::roots::Roots;

/// For one disk. Error recovery of the kernel and of a disk takes up to a minute, and some disks need two tries.
pub const READ_LIMIT: Duration = Duration::from_secs(180);
/// Between two words about those that have not answered yet.
const TELL_EVERY: Duration = Duration::from_secs(15);

/// What the disks said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// By name.
    pub disks: Vec<DiskFacts>,
    /// Of the machine's own disks those that are there and can't be read: which, and why.
    pub unread: Vec<String>,
}

/// Reads all disks at the same time, each for at most `limit`. Says every few seconds whom it is waiting for.
pub fn read_disks_within(roots: &Roots, limit: Duration) -> Result<Answers> {
    ask_within(roots, limit, TELL_EVERY, read_disk_named)
}

type Busy = Arc<Mutex<BTreeSet<String>>>;

fn ask_within(
    roots: &Roots,
    limit: Duration,
    tell_every: Duration,
    read: impl Fn(&Roots, &str) -> Result<Option<DiskFacts>> + Clone + Send + 'static,
) -> Result<Answers> {
    let busy = Busy::default();
    let names = disk_names(roots)?;
    let items = names.clone().into_iter().map(|name| {
        let what = format!("reading table and signatures of {}", device_name(&name));
        (what, (roots.clone(), name, Arc::clone(&busy)))
    });
    let (all_answered, answered) = mpsc::channel::<()>();
    let waited_for = Arc::clone(&busy);
    let teller = thread::spawn(move || {
        while answered.recv_timeout(tell_every) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("no answer yet from {}", listed(&waited_for));
        }
    });
    let answers = each_within(limit, items.collect(), move |(roots, name, busy)| {
        locked(&busy).insert(name.clone());
        let answer = read(&roots, &name);
        locked(&busy).remove(&name);
        match answer {
            Ok(disk) => Ok(disk),
            // It was taken out meanwhile.
            Err(_) if !roots.sys.join("block").join(&name).exists() => Ok(None),
            Err(error) => Err(format!("{}: {error:#}", device_name(&name))),
        }
    });
    drop(all_answered);
    // Ends at once; it only waits for the word above.
    let _ = teller.join();
    let mut found = Answers::default();
    for (name, answer) in names.iter().zip(answers) {
        let why = match answer {
            Ok(Ok(disk)) => {
                found.disks.extend(disk);
                continue;
            }
            Ok(Err(why)) => why,
            Err(given_up) => given_up.to_string(),
        };
        // A stick, a drive without a good medium, an image of the BMC: nothing that is erased or installed on.
        if read_kind(roots, name) == DiskKind::Fixed {
            found.unread.push(why);
        } else {
            tracing::warn!("left out, as it is no disk of the machine: {why}");
        }
    }
    Ok(found)
}

fn locked(busy: &Busy) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
    // A set is consistent after every statement.
    busy.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listed(busy: &Busy) -> String {
    let names: Vec<String> = locked(busy).iter().map(|name| device_name(name)).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_hangs_is_named_and_the_others_are_read() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["sda", "sdb", "sdc", "sr0"] {
            let folder = dir.path().join("sys/block").join(name);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("size"), "2048\n").unwrap();
            std::fs::write(folder.join("removable"), "0\n").unwrap();
        }
        for name in ["sdc", "sr0"] {
            std::fs::remove_file(dir.path().join("sys/block").join(name).join("size")).unwrap();
        }
        // Held until the end of the test: who hangs waits for it.
        let (_hold, never) = mpsc::channel::<()>();
        let never = Arc::new(Mutex::new(never));
        let roots = Roots::under(dir.path());
        let limit = Duration::from_millis(300);
        let answers = ask_within(&roots, limit, Duration::from_millis(50), move |roots, name| {
            if name == "sdb" {
                let _ = never.lock().unwrap().recv();
            }
            read_disk_named(roots, name)
        })
        .unwrap();
        let devices: Vec<&str> = answers.disks.iter().map(|disk| disk.device.as_str()).collect();
        assert_eq!(devices, ["/dev/sda"]);
        assert_eq!(answers.unread.len(), 2, "{:?}", answers.unread);
        assert_eq!(answers.unread[0], "reading table and signatures of /dev/sdb: no answer within 0.3 s, given up");
        assert!(answers.unread[1].starts_with("/dev/sdc: /sys/block/sdc/size"), "{:?}", answers.unread);
    }
}
