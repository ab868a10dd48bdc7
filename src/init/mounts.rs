//! The kernel's own file systems, which nobody mounts for PID 1 of an initramfs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use tracing::warn;

struct KernelMount {
    fstype: &'static str,
    target: &'static str,
    flags: MsFlags,
    data: Option<&'static str>,
    /// The agent cannot work without it.
    required: bool,
}

const NO_EXEC: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

const MOUNTS: [KernelMount; 6] = [
    KernelMount { fstype: "proc", target: "/proc", flags: NO_EXEC, data: None, required: true },
    KernelMount { fstype: "sysfs", target: "/sys", flags: NO_EXEC, data: None, required: true },
    KernelMount {
        fstype: "devtmpfs",
        target: "/dev",
        flags: MsFlags::MS_NOSUID,
        data: Some("mode=0755"),
        required: true,
    },
    KernelMount {
        fstype: "devpts",
        target: "/dev/pts",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        data: Some("mode=0620,gid=5"),
        required: false,
    },
    KernelMount { fstype: "tmpfs", target: "/run", flags: NO_EXEC, data: Some("mode=0755"), required: false },
    KernelMount { fstype: "tmpfs", target: "/tmp", flags: NO_EXEC, data: Some("mode=1777"), required: false },
];

/// Mounts `/proc`, `/sys`, `/dev` and what hangs on them. A file system that is mounted already is left as it is.
pub fn mount_kernel_filesystems() -> Result<()> {
    for entry in &MOUNTS {
        match mount_one(entry) {
            Err(error) if !entry.required => warn!(error = format!("{error:#}"), "going on without {}", entry.target),
            outcome => outcome?,
        }
    }
    Ok(())
}

/// UEFI's variables, on machines that were booted by UEFI. Called after the drivers are loaded, as efivarfs is one.
pub fn mount_efivars() {
    let target = "/sys/firmware/efi/efivars";
    if !Path::new(target).is_dir() {
        return;
    }
    let entry = KernelMount { fstype: "efivarfs", target, flags: NO_EXEC, data: None, required: false };
    if let Err(error) = mount_one(&entry) {
        warn!(error = format!("{error:#}"), "going on without UEFI variables");
    }
}

fn mount_one(entry: &KernelMount) -> Result<()> {
    fs::create_dir_all(entry.target).with_context(|| format!("creating {}", entry.target))?;
    match mount(Some(entry.fstype), entry.target, Some(entry.fstype), entry.flags, entry.data) {
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(errno) => Err(errno).with_context(|| format!("mounting {} on {}", entry.fstype, entry.target)),
    }
}
