//! Removing what lower layers brought. Links are never followed, and mount points stay.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::fault::{Fault, failed};
use super::file::kind;
use super::tree::{Dir, Tree, dir, reopen};
use super::workers::{Place, Workers};

/// Each level takes a descriptor and a buffer.
const DEPTH_MAX: usize = 200;

pub(super) struct Removal<'a> {
    pub(super) tree: &'a Tree,
    pub(super) workers: &'a Workers,
    /// What stays; of directories also what leads to it.
    pub(super) keep: Option<&'a HashSet<Place>>,
}

impl Removal<'_> {
    /// Removes `name`, with all that is in it. It need not be there.
    pub(super) fn remove(&self, parent: &Dir, name: &OsStr) -> Result<(), Fault> {
        self.remove_at(parent, name, 0)
    }

    /// Removes all that is in a directory.
    pub(super) fn clear(&self, parent: &Dir) -> Result<(), Fault> {
        self.clear_at(parent, 0)
    }

    fn remove_at(&self, parent: &Dir, name: &OsStr, depth: usize) -> Result<(), Fault> {
        let stat = match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok(()),
            Err(err) => return Err(failed("looking at")(err)),
        };
        let stays = self.keep.is_some_and(|keep| keep.contains(&self.workers.place(parent, name.as_bytes())));
        if kind(&stat) != SFlag::S_IFDIR {
            return match stays {
                true => Ok(()),
                false => self.workers.making().remove(parent, name).map_err(failed("removing")),
            };
        }
        // what others mounted here is none of the image's
        if self.tree.is_written(stat.st_dev) {
            if depth >= DEPTH_MAX {
                return Err(Fault::Refused("it removes directories more than 200 deep"));
            }
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let child = openat(parent, name, flags, Mode::empty()).and_then(dir).map_err(failed("opening"))?;
            self.clear_at(&child, depth + 1)?;
        }
        if stays {
            return Ok(());
        }
        self.workers.making().directories_changed.store(true, Ordering::SeqCst);
        match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
            // something in it stays, or it is a mount point
            Ok(()) | Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::EBUSY) => Ok(()),
            Err(err) => Err(failed("removing")(err)),
        }
    }

    fn clear_at(&self, parent: &Dir, depth: usize) -> Result<(), Fault> {
        let listed = reopen(parent.as_fd()).and_then(nix::dir::Dir::from_fd);
        for entry in listed.map_err(failed("opening"))?.iter() {
            let entry = entry.map_err(failed("listing"))?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                self.remove_at(parent, OsStr::from_bytes(name), depth)?;
            }
        }
        Ok(())
    }
}
