//! Owners, modes, attributes and times, in the order that keeps them: a change of owner clears set-id bits and file
//! capabilities, and every change but the last touches the times.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, UtimensatFlags, fchmod, fchmodat, futimens, utimensat};
use nix::sys::statfs::fstatfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat};
use xattr::FileExt;

use super::tree::{Dir, file_system_name};
use crate::image::report::Counters;
use crate::image::tar::{Entry, Timestamp};

const SET_ID_BITS: u32 = 0o6000;

/// File systems that keep no owners, modes or attributes: FAT, exFAT, NTFS (two drivers), proc, sysfs, efivarfs.
///
/// Source: `include/uapi/linux/magic.h` and the drivers' own headers.
const FOREIGN: [i64; 7] = [0x4d44, 0x2011_bab0, 0x7366_746e, 0x5346_544e, 0x9fa0, 0x6265_6572, 0xde5e_81e4];

/// What failed, and how.
pub(super) type Failed = (&'static str, io::Error);

/// Sets what an archive says of a file, from any thread.
pub(super) struct Metadata {
    /// Not root: own files only, so no owners, no set-id bits, no attributes but the user's own.
    user_mode: bool,
    root_device: u64,
    counters: Arc<Counters>,
    /// File systems about which a warning was given.
    warned: Mutex<HashSet<u64>>,
    warned_xattr: AtomicBool,
}

impl Metadata {
    pub(super) fn new(user_mode: bool, root_device: u64, counters: Arc<Counters>) -> Self {
        Self { user_mode, root_device, counters, warned: Mutex::default(), warned_xattr: AtomicBool::new(false) }
    }

    /// The mode that a file is created with: its own, if nobody can get at it by that who can't once its owner is set.
    /// Until then its group is another, so that only what both the group and the others may is given.
    pub(super) fn first_mode(&self, entry: &Entry) -> Mode {
        let mode = entry.mode & 0o777;
        let all = (mode >> 3) & mode & 0o007;
        let is_final = self.user_mode || (entry.uid, entry.gid) == (0, 0);
        Mode::from_bits_truncate(if is_final { mode } else { mode & 0o700 | all << 3 | all })
    }

    /// Of a file that was just made and is as `stat` says. What is right already is not set again: each of these
    /// calls goes through the file system's journal.
    pub(super) fn apply_file(&self, file: OwnedFd, stat: &FileStat, entry: &Entry) -> Result<(), Failed> {
        let file = self.apply_open(file, stat, entry)?;
        let time = futimens(&file, &TimeSpec::UTIME_OMIT, &time_spec(entry.modified));
        self.judge("setting time of", time, &file, stat.st_dev)
    }

    /// Of a directory. Its time comes later, when nothing is put into it any more.
    pub(super) fn apply_directory(&self, dir: OwnedFd, stat: &FileStat, entry: &Entry) -> Result<(), Failed> {
        self.apply_open(dir, stat, entry).map(drop)
    }

    fn apply_open(&self, file: OwnedFd, stat: &FileStat, entry: &Entry) -> Result<File, Failed> {
        let chowned = !self.user_mode && (stat.st_uid, stat.st_gid) != (entry.uid, entry.gid);
        if chowned {
            let owner = fchown(&file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
            self.judge("setting owner of", owner, &file, stat.st_dev)?;
        }
        let wanted = self.mode(entry);
        // a change of owner clears these
        let cleared = chowned && wanted.intersects(Mode::S_ISUID | Mode::S_ISGID);
        if cleared || Mode::from_bits_truncate(stat.st_mode) != wanted {
            self.judge("setting mode of", fchmod(&file, wanted), &file, stat.st_dev)?;
        }
        let file = File::from(file);
        for (name, value) in self.wanted_xattrs(entry) {
            let set = file.set_xattr(OsStr::from_bytes(name), value).map_err(errno);
            self.judge_xattr(set, &file, stat.st_dev)?;
        }
        Ok(file)
    }

    /// Of a link, device or FIFO that was just made as `name` in `dir`. `has_mode` is false for links.
    pub(super) fn apply_named(&self, dir: &Dir, name: &OsStr, entry: &Entry, has_mode: bool) -> Result<(), Failed> {
        if !self.user_mode {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            let owner = fchownat(dir, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW);
            self.judge("setting owner of", owner, dir, dir.device)?;
        }
        if has_mode {
            let mode = fchmodat(dir, name, self.mode(entry), FchmodatFlags::FollowSymlink);
            self.judge("setting mode of", mode, dir, dir.device)?;
        }
        let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd())).join(name);
        for (attribute, value) in self.wanted_xattrs(entry) {
            let set = xattr::set(&path, OsStr::from_bytes(attribute), value).map_err(errno);
            self.judge_xattr(set, dir, dir.device)?;
        }
        let modified = time_spec(entry.modified);
        let time = utimensat(dir, name, &TimeSpec::UTIME_OMIT, &modified, UtimensatFlags::NoFollowSymlink);
        self.judge("setting time of", time, dir, dir.device)
    }

    fn mode(&self, entry: &Entry) -> Mode {
        let dropped = if self.user_mode { SET_ID_BITS } else { 0 };
        Mode::from_bits_truncate(entry.mode & !dropped)
    }

    fn wanted_xattrs<'e>(&self, entry: &'e Entry) -> Vec<&'e (Vec<u8>, Vec<u8>)> {
        let (wanted, left): (Vec<_>, Vec<_>) =
            entry.xattrs.iter().partition(|(name, _)| !self.user_mode || name.starts_with(b"user."));
        if !left.is_empty() && !self.warned_xattr.swap(true, Ordering::Relaxed) {
            self.counters.warn("not root: only extended attributes of the kind user.* are kept".to_owned());
        }
        wanted
    }

    /// A file system that knows no owners is no reason to fail; any other is.
    fn judge(&self, action: &'static str, done: Result<(), Errno>, on: impl AsFd, device: u64) -> Result<(), Failed> {
        match done {
            Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS) if is_foreign(&on) => {
                self.warn_once(device, "owners, modes and times");
                Ok(())
            }
            Err(err) => Err((action, err.into())),
            Ok(()) => Ok(()),
        }
    }

    /// Attributes may also be missing on a file system that others mounted into the tree, such as a tmpfs.
    fn judge_xattr(&self, done: Result<(), Errno>, on: impl AsFd, device: u64) -> Result<(), Failed> {
        match done {
            Err(Errno::EPERM | Errno::EOPNOTSUPP) if device != self.root_device || is_foreign(&on) => {
                self.warn_once(device, "extended attributes");
                Ok(())
            }
            Err(err) => Err(("setting attributes of", err.into())),
            Ok(()) => Ok(()),
        }
    }

    fn warn_once(&self, device: u64, what: &str) {
        if self.warned.lock().is_ok_and(|mut warned| warned.insert(device)) {
            self.counters.warn(format!("{} does not keep {what}: left out there", file_system_name(device)));
        }
    }
}

/// Sets the time of a directory.
pub(super) fn set_time(dir: impl AsFd, time: Timestamp) -> Result<(), Errno> {
    match futimens(&dir, &TimeSpec::UTIME_OMIT, &time_spec(time)) {
        Err(Errno::EPERM | Errno::EINVAL | Errno::ENOSYS) if is_foreign(&dir) => Ok(()),
        done => done,
    }
}

fn is_foreign(on: impl AsFd) -> bool {
    #[allow(clippy::unnecessary_cast, reason = "the type differs between C libraries")]
    fstatfs(on).is_ok_and(|found| FOREIGN.contains(&(found.filesystem_type().0 as i64)))
}

fn time_spec(time: Timestamp) -> TimeSpec {
    TimeSpec::new(time.seconds, i64::from(time.nanos))
}

fn errno(err: io::Error) -> Errno {
    err.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
