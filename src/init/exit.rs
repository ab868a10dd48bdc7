//! The one door through which every life of PID 1 ends: done, crash, planned reboot, signal.
//!
//! In this order: say why, stop what still runs, unmount, sync with a time limit, see to the watchdog, and go.

use std::fs;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{console, watchdog};

/// How the machine goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Through the firmware.
    Reboot,
    /// Into the kernel that was loaded before; through the firmware when that fails.
    Kexec,
    /// Stand still with the reason on the console.
    Halt,
    PowerOff,
}

/// A sync that takes longer hangs on a dying disk; what was to be safe was synced when it was written.
const SYNC_LIMIT: Duration = Duration::from_secs(30);

/// Ends this PID 1. Never returns, and never panics: nobody would be left to catch it.
pub fn leave(ending: Ending, reason: &str) -> ! {
    console::say(&format!("{}: {reason}", describe(ending)));
    // From PID 1 this reaches every process but itself (kill(2)): nothing may write to a disk any more.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    unmount_all();
    sync_bounded();
    match ending {
        // A reboot that hangs is what a watchdog is for: it stays armed.
        Ending::Reboot => {}
        Ending::Kexec | Ending::Halt | Ending::PowerOff => watchdog::disarm(),
    }
    let Err(errno) = reboot(mode(ending));
    console::say(&format!("{} failed ({errno}); rebooting through the firmware", describe(ending)));
    if ending != Ending::Reboot {
        let _ = reboot(RebootMode::RB_AUTOBOOT);
    }
    loop {
        thread::sleep(Duration::from_secs(60));
    }
}

fn describe(ending: Ending) -> &'static str {
    match ending {
        Ending::Reboot => "rebooting",
        Ending::Kexec => "starting the new kernel",
        Ending::Halt => "halting",
        Ending::PowerOff => "powering off",
    }
}

fn mode(ending: Ending) -> RebootMode {
    match ending {
        Ending::Reboot => RebootMode::RB_AUTOBOOT,
        Ending::Kexec => RebootMode::RB_KEXEC,
        Ending::Halt => RebootMode::RB_HALT_SYSTEM,
        Ending::PowerOff => RebootMode::RB_POWER_OFF,
    }
}

/// Everything that lies on a block device, newest first; what is busy is detached.
fn unmount_all() {
    let Ok(mounts) = fs::read_to_string("/proc/self/mounts") else { return };
    for target in block_mounts(&mounts).into_iter().rev() {
        if let Err(errno) = umount2(target.as_str(), MntFlags::empty()) {
            console::say(&format!("{target} is still in use ({errno}); detaching it"));
            let _ = umount2(target.as_str(), MntFlags::MNT_DETACH);
        }
    }
}

/// Mount points whose source is a device node, in mount order (proc(5), `/proc/self/mounts`).
fn block_mounts(mounts: &str) -> Vec<String> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (source, target) = (words.next()?, words.next()?);
            source.starts_with("/dev/").then(|| unescape(target))
        })
        .collect()
}

/// The kernel writes blank, tab, newline and backslash as octal (`mangle`, fs/seq_file.c).
fn unescape(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

fn sync_bounded() {
    let (done, wait) = mpsc::channel();
    thread::spawn(move || {
        nix::unistd::sync();
        let _ = done.send(());
    });
    if wait.recv_timeout(SYNC_LIMIT).is_err() {
        console::say("sync did not end in time; a disk hangs");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_on_a_device_is_unmounted() {
        let mounts = "proc /proc proc rw 0 0\n/dev/vda2 /rootfs ext4 rw 0 0\n/dev/vda1 /rootfs/a\\040b vfat rw 0 0\n";
        assert_eq!(block_mounts(mounts), ["/rootfs", "/rootfs/a b"]);
    }
}
