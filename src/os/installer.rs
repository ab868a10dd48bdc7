//! The installer an image brings.

use anyhow::{Context, Result};
use tracing::{info, warn};

use super::BootInfo;
use super::chroot::{Chroot, Output};
use super::tree::Tree;

/// In the order in which they are preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installer {
    /// Images before August 2026.
    InstallGo,
    /// The oldest, and those that somebody made for themselves.
    InstallSh,
}

impl Installer {
    pub fn find(tree: &Tree) -> Option<Self> {
        [Self::InstallGo, Self::InstallSh].into_iter().find(|installer| tree.exists(installer.path()))
    }

    pub fn path(self) -> &'static str {
        match self {
            Self::InstallGo => "/install-go",
            Self::InstallSh => "/install.sh",
        }
    }
}

/// Runs it, takes it out of the image, and reads what it says of booting.
pub fn run(tree: &Tree, chroot: &Chroot, installer: Installer) -> Result<BootInfo> {
    info!(installer = installer.path(), "running the image's installer");
    chroot.run_with(installer.path(), &[], Output::Told).context("installing by the image's own installer")?;
    if let Err(error) = tree.remove(installer.path()) {
        warn!(error = format!("{error:#}"), "the installer stays in the installed system");
    }
    BootInfo::read(tree)
}
