//! Files are made by several threads, while one reads the archive.
//!
//! Only regular files go to the workers, in any order. Everything that the place of another thing depends on
//! (directories, links, nodes) is made by the reader itself, which first waits for what is being made at that place.
//! Memory is bounded by the bytes of content on the way ([`ROOM_BYTES`]) and by the number of files
//! ([`JOBS_MAX`]), and does not grow with the workers.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::file::{FileJob, Making};
use super::tree::Dir;
use crate::image::error::ImageError;
use crate::image::queue::Gone;

/// Content on the way from the reader to the disk.
const ROOM_BYTES: usize = 4 << 20;
/// Files on the way. Enough to keep the workers busy while the reader makes a directory.
const JOBS_MAX: usize = 256;
/// More make files no quicker: they wait for the file system's journal.
const WORKERS_MAX: usize = 4;

/// A name in a directory, as a number that is all but certainly its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place(u64);

/// The threads. They end when this is dropped.
pub(super) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    hasher: RandomState,
}

struct Shared {
    state: Mutex<State>,
    /// There is a job, or there will be none.
    work: Condvar,
    /// A job is done, or room was given back.
    progress: Condvar,
    making: Making,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<(Place, FileJob)>,
    /// Where files are being made, queued ones included.
    places: HashSet<Place>,
    /// Content on the way, bytes.
    taken: usize,
    /// Of the file that comes first in the archive, with its offset there.
    failure: Option<(u64, ImageError)>,
    closing: bool,
}

/// Room for some content, given back when it is dropped.
pub(super) struct Room {
    bytes: usize,
    shared: Arc<Shared>,
}

impl Workers {
    pub(super) fn start(making: Making) -> std::io::Result<Self> {
        let shared =
            Arc::new(Shared { state: Mutex::default(), work: Condvar::new(), progress: Condvar::new(), making });
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
        let mut workers = Self { shared, threads: Vec::new(), hasher: RandomState::new() };
        for number in 0..count {
            let shared = Arc::clone(&workers.shared);
            let thread = std::thread::Builder::new().name(format!("unpack-{number}")).spawn(move || shared.work());
            // one that runs is enough
            match thread {
                Ok(thread) => workers.threads.push(thread),
                Err(err) if workers.threads.is_empty() => return Err(err),
                Err(_) => break,
            }
        }
        Ok(workers)
    }

    pub(super) fn making(&self) -> &Making {
        &self.shared.making
    }

    pub(super) fn place(&self, dir: &Dir, name: &[u8]) -> Place {
        Place(self.hasher.hash_one((dir.device, dir.inode, name)))
    }

    /// Waits for room for content that is to be sent. More than there is at all counts as all there is.
    pub(super) fn room(&self, bytes: usize) -> Result<Room, Gone> {
        let bytes = bytes.min(ROOM_BYTES);
        let mut state = self.shared.wait_while(|state| state.taken + bytes > ROOM_BYTES)?;
        state.taken += bytes;
        Ok(Room { bytes, shared: Arc::clone(&self.shared) })
    }

    /// Gives a file to whoever has time, after another one at the same place is complete.
    pub(super) fn send(&self, place: Place, job: FileJob) -> Result<(), Gone> {
        let mut state =
            self.shared.wait_while(|state| state.places.contains(&place) || state.jobs.len() >= JOBS_MAX)?;
        state.places.insert(place);
        state.jobs.push_back((place, job));
        drop(state);
        self.shared.work.notify_one();
        Ok(())
    }

    /// Waits until no file is being made at this place.
    pub(super) fn wait_for(&self, place: Place) -> Result<(), Gone> {
        self.shared.wait_while(|state| state.places.contains(&place)).map(drop)
    }

    /// Waits until every file is complete, or was given up after a failure, which is told once.
    pub(super) fn wait_for_all(&self) -> Result<(), ImageError> {
        let waited = self.shared.progress.wait_while(self.shared.lock(), |state| !state.places.is_empty());
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        match state.failure.take() {
            Some((_, failure)) => Err(failure),
            None => Ok(()),
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // what it panicked of was told by the panic's own report
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the workers; `Gone` as soon as one of them failed.
    fn wait_while(&self, mut busy: impl FnMut(&State) -> bool) -> Result<MutexGuard<'_, State>, Gone> {
        let waited = self.progress.wait_while(self.lock(), |state| state.failure.is_none() && busy(state));
        let state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.failure.is_some() { Err(Gone) } else { Ok(state) }
    }

    /// What a thread does all its life.
    fn work(&self) {
        while let Some((place, job)) = self.next_job() {
            let mut done = Done { shared: self, place, failure: None };
            let offset = job.offset();
            done.failure = Some((offset, ImageError::StageDied { stage: "unpack" }));
            done.failure = self.making.make(job).err().map(|err| (offset, err));
        }
    }

    /// After a failure, and when all is over, nothing more is begun.
    fn next_job(&self) -> Option<(Place, FileJob)> {
        loop {
            let idle = |state: &mut State| state.jobs.is_empty() && !state.closing;
            let mut state = self.work.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
            let (place, job) = state.jobs.pop_front()?;
            if state.failure.is_none() && !state.closing {
                return Some((place, job));
            }
            state.places.remove(&place);
            drop(state);
            drop(job);
            self.progress.notify_all();
        }
    }
}

/// A job has ended, well or not.
struct Done<'a> {
    shared: &'a Shared,
    place: Place,
    failure: Option<(u64, ImageError)>,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.places.remove(&self.place);
        if let Some((offset, failure)) = self.failure.take()
            && state.failure.as_ref().is_none_or(|(first, _)| offset < *first)
        {
            state.failure = Some((offset, failure));
        }
        drop(state);
        self.shared.progress.notify_all();
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.lock().taken -= self.bytes;
        self.shared.progress.notify_all();
    }
}
