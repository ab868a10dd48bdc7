//! Where `/proc`, `/sys` and `/dev` are: the real ones, or those of a captured machine.

use std::path::{Path, PathBuf};

/// Every reader of the machine takes these, so that it can be tried on a captured tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    pub proc: PathBuf,
    pub sys: PathBuf,
    pub dev: PathBuf,
}

impl Roots {
    /// This machine's own.
    pub fn system() -> Self {
        Self::under(Path::new("/"))
    }

    /// `DIR/proc`, `DIR/sys`, `DIR/dev` of a captured machine.
    pub fn under(dir: &Path) -> Self {
        Self { proc: dir.join("proc"), sys: dir.join("sys"), dev: dir.join("dev") }
    }
}
