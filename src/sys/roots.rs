//! Where `/proc`, `/sys`, `/dev` and `/usr/share` are: the real ones, or those of a captured machine.

use std::path::{Path, PathBuf};

/// Every reader of the machine takes these, so that it can be tried on a captured tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    pub proc: PathBuf,
    pub sys: PathBuf,
    pub dev: PathBuf,
    /// `/usr/share`: data files, of which a capture or an initramfs may have some or none.
    pub share: PathBuf,
}

impl Roots {
    /// This machine's own.
    pub fn system() -> Self {
        Self::under(Path::new("/"))
    }

    /// `DIR/proc`, `DIR/sys`, `DIR/dev`, `DIR/usr/share` of a captured machine.
    pub fn under(dir: &Path) -> Self {
        Self { proc: dir.join("proc"), sys: dir.join("sys"), dev: dir.join("dev"), share: dir.join("usr/share") }
    }

    /// Whether this is the machine that we run on. Only then may the kernel be asked by ioctl or netlink, and devices
    /// be opened: the answers would be this machine's, not the captured one's.
    pub fn is_live(&self) -> bool {
        *self == Self::system()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_real_root_is_live() {
        assert!(Roots::system().is_live());
        assert!(Roots::under(Path::new("//")).is_live());
        assert!(!Roots::under(Path::new("/captured")).is_live());
    }
}
