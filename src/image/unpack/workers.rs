//! Files are made by several threads, while one reads the archive.
//!
//! Only regular files go to the workers, in any order. Everything that the place of another thing depends on
//! (directories, links, nodes) is made by the reader itself, which first waits for what is being made at that place.
//! Memory is bounded by the bytes of content on the way ([`ROOM_BYTES`]) and by the number of files
//! ([`JOBS_MAX`]), and does not grow with the workers.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::file::{FileJob, Making};
use super::jobs::Jobs;
use super::read_back::Identity;
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

#[cfg(test)]
impl Place {
    pub(super) fn of(number: u64) -> Self {
        Self(number)
    }
}

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
    /// What the reader waits for has come.
    progress: Condvar,
    making: Making,
}

#[derive(Default)]
struct State {
    jobs: Jobs<Identity, (Place, FileJob)>,
    /// Where files are being made, queued ones included.
    places: HashSet<Place>,
    /// Content on the way, bytes.
    taken: usize,
    /// Of the file that comes first in the archive, with its offset there.
    failure: Option<(u64, ImageError)>,
    /// The reader waits for this.
    awaited: Option<Awaited>,
    closing: bool,
}

/// What the reader can wait for. When it has to wait for the workers to get on, it waits until half of what they have
/// is done: to be woken for each file costs more than the file.
#[derive(Clone, Copy)]
enum Awaited {
    /// Room for so many bytes.
    Room(usize),
    /// The queue takes another file.
    Queue,
    /// Nothing is being made here.
    Place(Place),
    /// Nothing is being made.
    End,
}

impl State {
    /// Need not be waited for. `already`: the reader has begun to wait.
    fn has(&self, awaited: Awaited, already: bool) -> bool {
        match awaited {
            Awaited::Room(_) if already => self.taken <= ROOM_BYTES / 2,
            Awaited::Room(bytes) => self.taken + bytes <= ROOM_BYTES,
            Awaited::Queue if already => self.jobs.len() <= JOBS_MAX / 2,
            Awaited::Queue => self.jobs.len() < JOBS_MAX,
            Awaited::Place(place) => !self.places.contains(&place),
            Awaited::End => self.places.is_empty(),
        }
    }
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
            let thread =
                std::thread::Builder::new().name(format!("unpack-{number}")).spawn(move || shared.work(number));
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
        Place(self.hasher.hash_one((dir.identity(), name)))
    }

    /// Waits for room for content that is to be sent. More than there is at all counts as all there is.
    pub(super) fn room(&self, bytes: usize) -> Result<Room, Gone> {
        let bytes = bytes.min(ROOM_BYTES / 2);
        let mut state = self.shared.wait_for(Awaited::Room(bytes))?;
        state.taken += bytes;
        Ok(Room { bytes, shared: Arc::clone(&self.shared) })
    }

    /// Gives a file to whoever has time, after another one at the same place is complete.
    pub(super) fn send(&self, place: Place, job: FileJob) -> Result<(), Gone> {
        drop(self.shared.wait_for(Awaited::Place(place))?);
        let mut state = self.shared.wait_for(Awaited::Queue)?;
        state.places.insert(place);
        state.jobs.push(job.dir.identity(), (place, job));
        drop(state);
        self.shared.work.notify_one();
        Ok(())
    }

    /// Waits until no file is being made at this place.
    pub(super) fn wait_for(&self, place: Place) -> Result<(), Gone> {
        self.shared.wait_for(Awaited::Place(place)).map(drop)
    }

    /// Waits until no file is being made at all.
    pub(super) fn wait_until_idle(&self) -> Result<(), Gone> {
        self.shared.wait_for(Awaited::End).map(drop)
    }

    /// Waits until every file is complete, or was given up after a failure, which is told once.
    pub(super) fn wait_for_all(&self) -> Result<(), ImageError> {
        let mut state = self.shared.wait(Awaited::End, |_| false);
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

    /// The reader waits for the workers; `Gone` as soon as one of them failed.
    fn wait_for(&self, awaited: Awaited) -> Result<MutexGuard<'_, State>, Gone> {
        let state = self.wait(awaited, |state| state.failure.is_some());
        if state.failure.is_some() { Err(Gone) } else { Ok(state) }
    }

    fn wait(&self, awaited: Awaited, given_up: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if state.has(awaited, false) {
            return state;
        }
        state.awaited = Some(awaited);
        let waits = |state: &mut State| !given_up(state) && !state.has(awaited, true);
        let mut state = self.progress.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner);
        state.awaited = None;
        state
    }

    /// Changes the state, and wakes the reader if it waits for the change.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let wakes = state.awaited.is_some_and(|awaited| state.has(awaited, true) || state.failure.is_some());
        drop(state);
        if wakes {
            self.progress.notify_one();
        }
    }

    /// What a thread does all its life.
    fn work(&self, number: usize) {
        while let Some((place, job)) = self.next_job(number) {
            let mut done = Done { shared: self, place, failure: None };
            let offset = job.offset();
            done.failure = Some((offset, ImageError::StageDied { stage: "unpack" }));
            done.failure = self.making.make(job).err().map(|err| (offset, err));
        }
    }

    /// After a failure, and when all is over, nothing more is begun.
    fn next_job(&self, thread: usize) -> Option<(Place, FileJob)> {
        loop {
            let idle = |state: &mut State| state.jobs.is_empty() && !state.closing;
            let mut state = self.work.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
            let (place, job) = state.jobs.take(thread)?;
            if state.failure.is_none() && !state.closing {
                return Some((place, job));
            }
            drop(state);
            drop(job);
            self.change(|state| {
                state.places.remove(&place);
            });
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
        let failure = self.failure.take();
        self.shared.change(|state| {
            state.places.remove(&self.place);
            if let Some((offset, failure)) = failure
                && state.failure.as_ref().is_none_or(|(first, _)| offset < *first)
            {
                state.failure = Some((offset, failure));
            }
        });
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.change(|state| state.taken -= self.bytes);
    }
}
