//! Times and default ACLs of directories, set last: every file put into one changes the time, and inherits the ACL.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode, fchmod, fstat};

use super::metadata::{DEFAULT_ACL, set_default_acl, set_time};
use super::tree::Tree;
use crate::image::tar::{Entry, Timestamp};

/// Memory for what waits. A Debian root needs less than 1 MiB.
const WAITING_MAX_BYTES: usize = 8 << 20;
/// Of a record beside its path, about.
const RECORD_BYTES: usize = 80;

/// What is to be set when a directory is complete.
struct Waiting {
    path: Vec<u8>,
    /// `st_dev` and `st_ino`: another directory may come to that path.
    identity: (u64, u64),
    /// Only without root: a directory that may not be written would keep its own files out.
    mode: Option<u32>,
    default_acl: Option<Vec<u8>>,
    modified: Timestamp,
}

impl Waiting {
    fn bytes(&self) -> usize {
        self.path.len() + self.default_acl.as_ref().map_or(0, Vec::len) + RECORD_BYTES
    }
}

#[derive(Default)]
pub(super) struct Directories {
    waiting: Vec<Waiting>,
    bytes: usize,
    /// Times were set before the end, as too many waited.
    pub(super) overflowed: bool,
}

impl Directories {
    /// `path` is that of `entry`, `stat` what is there, `mode` what it gets at the end, if not now.
    pub(super) fn push(
        &mut self,
        tree: &Tree,
        path: Vec<u8>,
        stat: &FileStat,
        mode: Option<u32>,
        entry: &Entry,
    ) -> Result<(), (Vec<u8>, Errno)> {
        let default_acl = entry.xattrs.iter().find(|(name, _)| name == DEFAULT_ACL).map(|(_, value)| value.clone());
        let identity = (stat.st_dev, stat.st_ino);
        let waiting = Waiting { path, identity, mode, default_acl, modified: entry.modified };
        self.bytes += waiting.bytes();
        self.waiting.push(waiting);
        if self.bytes <= WAITING_MAX_BYTES {
            return Ok(());
        }
        self.overflowed = true;
        self.apply(tree)
    }

    /// Sets all, the deepest first. Of a directory that came twice the last word counts.
    pub(super) fn apply(&mut self, tree: &Tree) -> Result<(), (Vec<u8>, Errno)> {
        let mut waiting = std::mem::take(&mut self.waiting);
        self.bytes = 0;
        waiting.sort_by_key(|dir| std::cmp::Reverse(dir.path.iter().filter(|byte| **byte == b'/').count()));
        for dir in waiting {
            match tree.lookup(&dir.path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW) {
                Ok(fd) => apply_one(&fd, &dir).map_err(|err| (dir.path, err))?,
                // something else took its place later in the archive
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                Err(err) => return Err((dir.path, err)),
            }
        }
        Ok(())
    }
}

fn apply_one(fd: &OwnedFd, dir: &Waiting) -> Result<(), Errno> {
    let stat = fstat(fd)?;
    if (stat.st_dev, stat.st_ino) != dir.identity {
        return Ok(());
    }
    if let Some(acl) = &dir.default_acl {
        set_default_acl(fd, acl)?;
    }
    set_time(fd, dir.modified)?;
    match dir.mode {
        Some(mode) => fchmod(fd, Mode::from_bits_truncate(mode)),
        None => Ok(()),
    }
}
