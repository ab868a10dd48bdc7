//! A machine that is installed already, and came to the agent all the same: its boot order is wrong, or its BMC did
//! not do what it was told. Its disks belong to whoever has the machine now. Nothing is erased; its own system is
//! started. (Upstream erases them.)

use std::path::Path;

use anyhow::{Context, Result};
use tracing::{info, warn};

use super::Agent;
use super::hand_over::planned_reboot;
use crate::api::layout::FilesystemLayout;
use crate::api::rest::Allocation;
use crate::disk::root::InstalledRoot;
use crate::init::exit::Ending;
use crate::os::{BootInfo, kexec};
use crate::sys::roots::Roots;

const ROOT: &str = "/rootfs";

/// The system on the disks, as its installation reported it.
#[derive(Debug)]
pub(crate) struct InstalledSystem {
    /// What it was installed by.
    layout: FilesystemLayout,
    boot: BootInfo,
}

impl InstalledSystem {
    /// `None` when the installation was never reported, so that there is nothing to be kept, or when the machine is
    /// to be installed anew.
    pub(crate) fn of(allocation: &Allocation) -> Option<Self> {
        let reported = allocation.boot_info.as_ref().filter(|boot| !boot.kernel.is_empty() && !allocation.reinstall)?;
        Some(Self {
            layout: allocation.filesystemlayout.clone().unwrap_or_default(),
            boot: BootInfo {
                kernel: path_in_image(&reported.kernel),
                initrd: path_in_image(&reported.initrd),
                cmdline: reported.cmdline.clone(),
                bootloader_id: reported.bootloaderid.clone(),
            },
        })
    }
}

/// Upstream's agent reports where it had copied the files to, `/tmp/<name>`. They came from `/boot`.
fn path_in_image(reported: &str) -> String {
    match reported.strip_prefix("/tmp/") {
        Some(name) => format!("/boot/{name}"),
        None => reported.to_owned(),
    }
}

/// Loads the installed system's kernel and leaves for it. Where that cannot be done the firmware is tried again; an
/// installed machine is never anything else.
pub(crate) async fn start(agent: &Agent, system: InstalledSystem) -> (Ending, String) {
    warn!("this machine is installed: nothing is erased, its own system is started");
    let roots = agent.roots.clone();
    let loaded =
        tokio::task::spawn_blocking(move || load(&roots, &system)).await.context("starting the installed system");
    match loaded.and_then(|outcome| outcome) {
        Ok(()) => {
            let (_, reason) = planned_reboot(agent, "the machine is installed; starting its system".to_owned()).await;
            (Ending::Kexec, reason)
        }
        Err(error) => {
            let reason = format!("the machine is installed, but its system cannot be started from here: {error:#}");
            super::crash::end(agent, &anyhow::anyhow!(reason)).await
        }
    }
}

/// Whatever becomes of the kernel, nothing of the disks stays in use: what comes next must find clean arrays.
fn load(roots: &Roots, system: &InstalledSystem) -> Result<()> {
    let InstalledSystem { layout, boot } = system;
    let root = InstalledRoot::mount(roots, layout, &boot.cmdline, Path::new(ROOT))?;
    let loaded = kexec::load(Path::new(ROOT), boot);
    if let Err(error) = root.stop() {
        warn!(error = format!("{error:#}"), "what the installed system lies on can't be given back");
    }
    loaded?;
    info!(kernel = boot.kernel, "the installed kernel is loaded");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocation(text: &str) -> Allocation {
        serde_json::from_str(text).unwrap()
    }

    const LAYOUT: &str = r#""filesystemlayout": {"filesystems": [
        {"path": "/boot/efi", "device": "/dev/vda1", "format": "vfat"},
        {"path": "/", "device": "/dev/vda2", "format": "ext4"}]}"#;

    #[test]
    fn a_reported_installation_is_kept() {
        let system = InstalledSystem::of(&allocation(&format!(
            r#"{{"boot_info": {{"kernel": "/boot/vmlinuz-6.1", "initrd": "/tmp/initrd.img-6.1"}}, {LAYOUT}}}"#
        )))
        .unwrap();
        assert_eq!(system.layout.filesystems.len(), 2);
        assert_eq!(system.boot.kernel, "/boot/vmlinuz-6.1");
        assert_eq!(system.boot.initrd, "/boot/initrd.img-6.1", "upstream's report names a copy");
    }

    #[test]
    fn what_was_never_reported_or_is_to_be_reinstalled_is_not() {
        for text in [
            r#"{}"#,
            r#"{"boot_info": null}"#,
            r#"{"boot_info": {"kernel": ""}}"#,
            r#"{"boot_info": {"kernel": "/boot/k"}, "reinstall": true}"#,
        ] {
            assert!(InstalledSystem::of(&allocation(text)).is_none(), "{text}");
        }
    }
}
