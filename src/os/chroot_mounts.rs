//! The kernel's file systems inside the installed system, for as long as its programs run.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tracing::{debug, warn};

use super::Firmware;
use super::tree::Tree;

const EFIVARS: &str = "/sys/firmware/efi/efivars";
/// A killed process lets go of its files within milliseconds, one that waits for a disk within seconds.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(50);

/// What is mounted; removed in reverse order by [`Self::unmount`], or else when dropped.
#[derive(Debug)]
pub struct ChrootMounts {
    root: PathBuf,
    mounted: Vec<PathBuf>,
}

impl ChrootMounts {
    /// Mounts them, making missing mount points.
    ///
    /// Only after the image is unpacked: what it has under `/dev` must not land in the agent's own.
    pub fn mount(tree: &Tree, firmware: Firmware) -> Result<Self> {
        let mut mounts = Self { root: tree.path().to_owned(), mounted: Vec::new() };
        mounts.add(tree, "proc", "/proc", "proc")?;
        mounts.add(tree, "sys", "/sys", "sysfs")?;
        match firmware {
            Firmware::Bios => {}
            Firmware::Uefi => {
                // Only the boot entry is lost without it: the disk boots by the removable path all the same.
                if let Err(error) = mounts.add(tree, "efivarfs", EFIVARS, "efivarfs") {
                    warn!(error = format!("{error:#}"), "installing without access to the firmware's variables");
                }
            }
        }
        mounts.add(tree, "tmpfs", "/tmp", "tmpfs")?;
        mounts.bind_dev(tree)?;
        Ok(mounts)
    }

    fn add(&mut self, tree: &Tree, source: &str, target: &str, kind: &str) -> Result<()> {
        let point = tree.make_dir(target)?;
        // Through the open directory: the path could hold links that lead out of the image.
        mount(Some(source), &through(&point), Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mounting {kind} at {target} of the image"))?;
        self.remember(&point)
    }

    fn bind_dev(&mut self, tree: &Tree) -> Result<()> {
        let point = tree.make_dir("/dev")?;
        mount(Some("/dev"), &through(&point), None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .context("binding /dev into the image")?;
        self.remember(&point)
    }

    fn remember(&mut self, point: &OwnedFd) -> Result<()> {
        let path = fs::read_link(through(point)).context("looking up a mount point")?;
        self.mounted.push(path);
        Ok(())
    }

    /// Ends what still runs in the image, and removes the mounts. The first failure is returned, after trying all.
    pub fn unmount(mut self) -> Result<()> {
        self.remove_all()
    }

    fn remove_all(&mut self) -> Result<()> {
        if self.mounted.is_empty() {
            return Ok(());
        }
        end_processes_in(&self.root);
        let mut result = Ok(());
        while let Some(path) = self.mounted.pop() {
            let removed = self.remove(&path).with_context(|| format!("unmounting {}", path.display()));
            if let Err(error) = removed {
                warn!(error = format!("{error:#}"), "a mount stays in the image");
                result = result.and(Err(error));
            }
        }
        result
    }

    fn remove(&self, path: &Path) -> Result<(), Errno> {
        for _ in 1..ATTEMPTS {
            match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
                Err(Errno::EBUSY) => std::thread::sleep(PAUSE),
                other => return other,
            }
        }
        // Goes away with its last user; the disk below can be unmounted only then, which the next step will tell.
        warn!(path = %path.display(), "still busy: detaching it");
        umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
    }
}

impl Drop for ChrootMounts {
    fn drop(&mut self) {
        // Already logged, and whoever drops it has an error of their own to report.
        let _ = self.remove_all();
    }
}

fn through(directory: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

/// A daemon that a package script started would keep the disk below busy for ever.
fn end_processes_in(root: &Path) {
    if root.parent().is_none() {
        return;
    }
    for _ in 0..ATTEMPTS {
        let left = read_processes_in(root);
        if left.is_empty() {
            return;
        }
        for pid in left {
            debug!(%pid, "killing what still runs in the image");
            // It may have ended by itself.
            let _ = kill(pid, Signal::SIGKILL);
        }
        std::thread::sleep(PAUSE);
    }
    warn!("something in the image does not end: its disk may stay busy");
}

/// Processes whose root directory is `root`. Source: `/proc/<pid>/root`.
fn read_processes_in(root: &Path) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| fs::read_link(format!("/proc/{pid}/root")).is_ok_and(|found| found == root))
        .map(Pid::from_raw)
        .collect()
}
