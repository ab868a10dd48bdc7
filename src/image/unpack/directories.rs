//! Times of directories, set last: every file put into one changes it.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode, fchmod, fstat};

use super::metadata::set_time;
use super::tree::Tree;
use crate::image::tar::Timestamp;

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
    modified: Timestamp,
}

#[derive(Default)]
pub(super) struct Directories {
    waiting: Vec<Waiting>,
    bytes: usize,
    /// Times were set before the end, as too many waited.
    pub(super) overflowed: bool,
}

impl Directories {
    /// `stat` is what is at `path`, `mode` what it gets at the end, if not now.
    pub(super) fn push(
        &mut self,
        tree: &Tree,
        path: Vec<u8>,
        stat: &FileStat,
        mode: Option<u32>,
        modified: Timestamp,
    ) -> Result<(), (Vec<u8>, Errno)> {
        let identity = (stat.st_dev, stat.st_ino);
        self.bytes += path.len() + RECORD_BYTES;
        self.waiting.push(Waiting { path, identity, mode, modified });
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
    set_time(fd, dir.modified)?;
    match dir.mode {
        Some(mode) => fchmod(fd, Mode::from_bits_truncate(mode)),
        None => Ok(()),
    }
}
