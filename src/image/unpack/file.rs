//! Making one file, on whichever thread has time.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::fault::{Fault, failed};
use super::metadata::Metadata;
use super::read_back::{ReadBack, Watch};
use super::syncing::{Syncing, Waiting};
use super::tree::Dir;
use super::workers::Room;
use crate::image::error::ImageError;
use crate::image::report::Counters;
use crate::image::tar::Entry;

/// A regular file that is to be made.
pub(super) struct FileJob {
    pub(super) dir: Arc<Dir>,
    pub(super) name: Vec<u8>,
    pub(super) entry: Entry,
    /// It will be read back.
    pub(super) watch: Option<Watch>,
    pub(super) content: Content,
}

/// Where a file's content is.
pub(super) enum Content {
    /// All of it.
    Whole(Piece),
    /// It comes in pieces while it is being written; their lengths add up to this.
    Stream(Receiver<Piece>, u64),
}

/// Some content, and the room that it takes.
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
    pub(super) room: Option<Room>,
}

/// A file that is being written.
struct Output {
    file: File,
    watch: Option<Watch>,
    waiting: Waiting,
}

/// What is needed to make files and other things, from any thread.
pub(super) struct Making {
    pub(super) metadata: Metadata,
    pub(super) read_back: Mutex<ReadBack>,
    pub(super) syncing: Syncing,
    pub(super) counters: Arc<Counters>,
    /// A directory, or a link that may lead to one, was removed: what was opened through it may be another now.
    pub(super) directories_changed: AtomicBool,
}

impl FileJob {
    /// Of its entry in the archive.
    pub(super) fn offset(&self) -> u64 {
        self.entry.offset
    }
}

impl Making {
    /// Makes a file. One whose content breaks off is left as it is: whoever read the archive knows why.
    pub(super) fn make(&self, job: FileJob) -> Result<(), ImageError> {
        let FileJob { dir, name, entry, watch, content } = job;
        match self.write(&dir, OsStr::from_bytes(&name), &entry, watch, content) {
            Ok(complete) => {
                Counters::add(&self.counters.files, u64::from(complete));
                Ok(())
            }
            Err(fault) => Err(fault.into_error(&entry.path, entry.offset, &self.counters)),
        }
    }

    /// False if the content broke off.
    fn write(
        &self,
        dir: &Arc<Dir>,
        name: &OsStr,
        entry: &Entry,
        watch: Option<Watch>,
        content: Content,
    ) -> Result<bool, Fault> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let create = || openat(dir, name, flags, self.metadata.first_mode(entry));
        let file = File::from(self.create(dir, name, create).map_err(failed("creating"))?);
        let mut output = Output { file, watch, waiting: Waiting::default() };
        match content {
            Content::Whole(piece) => self.write_piece(&mut output, piece)?,
            Content::Stream(pieces, mut left) => {
                while left > 0 {
                    let Ok(piece) = pieces.recv() else { return Ok(false) };
                    left = left.saturating_sub(piece.bytes.len() as u64);
                    self.write_piece(&mut output, piece)?;
                }
            }
        }
        let Output { file, watch, waiting } = output;
        if entry.segments.is_some() {
            file.set_len(entry.size).map_err(|err| Fault::Failed("setting length of", err))?;
        }
        let stat = fstat(&file).map_err(failed("looking at"))?;
        if let Some(watch) = watch {
            let kept = self.read_back().keep(watch, &entry.path, &stat);
            kept.map_err(|err| Fault::Failed("remembering, to read it back,", err))?;
        }
        self.metadata.apply_file(OwnedFd::from(file), &stat, entry)?;
        self.syncing.add(dir, &waiting);
        Ok(true)
    }

    fn write_piece(&self, output: &mut Output, piece: Piece) -> Result<(), Fault> {
        let Piece { offset, bytes, room } = piece;
        if bytes.is_empty() {
            return Ok(());
        }
        let Output { file, watch, waiting } = output;
        file.write_all_at(&bytes, offset).map_err(|err| Fault::Failed("writing", err))?;
        if let Some(watch) = watch {
            watch.wrote(offset, &bytes);
        }
        let count = bytes.len() as u64;
        Counters::add(&self.counters.bytes_out, count);
        drop((bytes, room));
        waiting.wrote(file, offset, count).map_err(|err| Fault::Failed("writing", err))
    }

    pub(super) fn read_back(&self) -> MutexGuard<'_, ReadBack> {
        self.read_back.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes something that must not exist yet; what is in its place is removed.
    pub(super) fn create<T>(&self, dir: &Dir, name: &OsStr, make: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
        match make() {
            Err(Errno::EEXIST) => {
                self.remove(dir, name)?;
                make()
            }
            made => made,
        }
    }

    /// A directory is removed only if it is empty.
    pub(super) fn remove(&self, dir: &Dir, name: &OsStr) -> Result<(), Errno> {
        let stat = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        match kind(&stat) {
            SFlag::S_IFDIR => {
                self.directories_changed.store(true, Ordering::SeqCst);
                unlinkat(dir, name, UnlinkatFlags::RemoveDir)
            }
            SFlag::S_IFREG => {
                self.read_back().forget(stat.st_dev, stat.st_ino);
                unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)
            }
            // links lead to directories
            _ => {
                self.read_back().forget_link();
                self.directories_changed.store(true, Ordering::SeqCst);
                unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)
            }
        }
    }
}

pub(super) fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}
