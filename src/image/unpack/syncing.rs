//! Writing to the disks begins early, while files are still being made.
//!
//! The kernel keeps what is written in memory until that is a tenth of it, or 30 s old (`vm.dirty_background_ratio`,
//! `vm.dirty_expire_centisecs`): without this, the disks would idle until the end, and then all would wait for them.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::tree::{Dir, file_system_name, reopen};
use crate::image::error::ImageError;
use crate::sys::write_behind::begin_writing;

/// So much is written to a file before it is put on the disk.
const FILE_BYTES: u64 = 8 << 20;
/// So much is written to other files of a file system before all of it is put on its disk.
const FILE_SYSTEM_BYTES: u64 = 32 << 20;

/// What was written to one file, and is not yet on its way to the disk.
#[derive(Default)]
pub(super) struct Waiting {
    /// It is behind this offset.
    from: u64,
    bytes: u64,
}

impl Waiting {
    /// Offsets only grow.
    pub(super) fn wrote(&mut self, file: &File, offset: u64, bytes: u64) -> std::io::Result<()> {
        self.bytes += bytes;
        if self.bytes >= FILE_BYTES {
            let end = offset + bytes;
            begin_writing(file, &(self.from..end))?;
            *self = Self { from: end, bytes: 0 };
        }
        Ok(())
    }
}

/// Puts on disk what the workers write, on a thread of its own, which ends when this is dropped.
pub(super) struct Syncing {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There is something to do, or it is over.
    work: Condvar,
    /// Nothing is being done.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    /// By device: a directory there, and the bytes that were written since it was told last.
    written: HashMap<u64, (Arc<Dir>, u64)>,
    /// The kernel tells it once, so whoever heard it has to tell it.
    failure: Option<ImageError>,
    busy: bool,
    closing: bool,
}

impl Syncing {
    pub(super) fn start() -> std::io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let thread = std::thread::Builder::new().name("sync".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.work()
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A file in that directory is complete.
    pub(super) fn add(&self, dir: &Arc<Dir>, waiting: &Waiting) {
        let mut state = self.shared.lock();
        let (_, written) = state.written.entry(dir.device).or_insert_with(|| (Arc::clone(dir), 0));
        *written += waiting.bytes;
        if *written >= FILE_SYSTEM_BYTES {
            drop(state);
            self.shared.work.notify_one();
        }
    }

    /// Waits for what was begun. What it has not come to is left to [`sync`].
    pub(super) fn end(&self) -> Result<(), ImageError> {
        self.shared.close();
        let state = self.shared.idle.wait_while(self.shared.lock(), |state| state.busy);
        state.unwrap_or_else(PoisonError::into_inner).failure.take().map_or(Ok(()), Err)
    }
}

impl Drop for Syncing {
    fn drop(&mut self) {
        self.shared.close();
        if let Some(thread) = self.thread.take() {
            // what it panicked of was told by the panic's own report
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closing = true;
        self.work.notify_all();
    }

    /// What the thread does all its life.
    fn work(&self) {
        while let Some(dir) = self.next() {
            let failure = sync(&dir).err();
            let mut state = self.lock();
            state.failure = state.failure.take().or(failure);
            state.busy = false;
            drop(state);
            self.idle.notify_all();
        }
    }

    fn next(&self) -> Option<Arc<Dir>> {
        let mut state = self.lock();
        while !state.closing {
            let due = state.written.values_mut().max_by_key(|(_, written)| *written);
            if let Some((dir, written)) = due.filter(|(_, written)| *written >= FILE_SYSTEM_BYTES) {
                *written = 0;
                let dir = Arc::clone(dir);
                state.busy = true;
                return Some(dir);
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }
}

/// Waits until all that was written to a directory's file system is on its disk.
pub(super) fn sync(dir: &Dir) -> Result<(), ImageError> {
    let synced = reopen(dir).and_then(nix::unistd::syncfs);
    synced.map_err(|err| ImageError::Sync { path: file_system_name(dir.device), source: err.into() })
}
