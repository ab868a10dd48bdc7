//! Work on several threads whose results come in the order the work was given.

use std::collections::VecDeque;
use std::sync::mpsc::{self, TryRecvError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

/// What a thread does with a job. The first parameter is what it keeps from job to job.
type Work<T, J, R> = fn(&mut T, J) -> R;

/// A line of jobs. Threads are started when there is work for them, up to a limit; with a limit of one there are
/// none, and [`Ordered::submit`] does the work itself.
///
/// There is no limit to the line's length: a job holds memory, and whoever gives it must have that.
pub(super) struct Ordered<T, J, R> {
    work: Work<T, J, R>,
    own: T,
    threads_max: usize,
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared<J, R>>,
    line: VecDeque<Place<R>>,
}

enum Place<R> {
    Done(R),
    Pending(mpsc::Receiver<R>),
}

struct Shared<J, R> {
    queue: Mutex<Queue<J, R>>,
    changed: Condvar,
}

struct Queue<J, R> {
    jobs: VecDeque<(J, mpsc::SyncSender<R>)>,
    /// Threads that wait for a job.
    idle: usize,
    closed: bool,
}

impl<J, R> Shared<J, R> {
    /// A thread that panicked held no lock while it worked, so the queue is whole.
    fn lock(&self) -> MutexGuard<'_, Queue<J, R>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job, `None` when there will be no more.
    fn next_job(&self) -> Option<(J, mpsc::SyncSender<R>)> {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            queue.idle += 1;
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }
}

impl<T: Default + 'static, J: Send + 'static, R: Send + 'static> Ordered<T, J, R> {
    pub(super) fn new(threads_max: usize, work: Work<T, J, R>) -> Self {
        let queue = Queue { jobs: VecDeque::new(), idle: 0, closed: false };
        let shared = Arc::new(Shared { queue: Mutex::new(queue), changed: Condvar::new() });
        let threads_max = if threads_max > 1 { threads_max } else { 0 };
        Self { work, own: T::default(), threads_max, threads: Vec::new(), shared, line: VecDeque::new() }
    }

    /// Puts a job at the end of the line.
    pub(super) fn submit(&mut self, job: J) {
        if self.threads_max == 0 {
            let result = (self.work)(&mut self.own, job);
            return self.push(result);
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        let mut queue = self.shared.lock();
        queue.jobs.push_back((job, sender));
        let is_short = queue.idle < queue.jobs.len();
        drop(queue);
        self.line.push_back(Place::Pending(receiver));
        if is_short && self.threads.len() < self.threads_max {
            self.start_thread();
        }
        self.shared.changed.notify_one();
    }

    /// Puts something at the end of the line that needs no work.
    pub(super) fn push(&mut self, result: R) {
        self.line.push_back(Place::Done(result));
    }

    /// Takes the first result, waiting for it. `None` if the line is empty, or the thread died over its job.
    pub(super) fn take(&mut self) -> Option<R> {
        match self.line.pop_front()? {
            Place::Done(result) => Some(result),
            Place::Pending(receiver) => receiver.recv().ok(),
        }
    }

    /// [`Ordered::take`] would not wait.
    pub(super) fn is_ready(&mut self) -> bool {
        let Some(first) = self.line.front_mut() else { return false };
        match first {
            Place::Done(_) => true,
            Place::Pending(receiver) => match receiver.try_recv() {
                Ok(result) => {
                    *first = Place::Done(result);
                    true
                }
                Err(TryRecvError::Disconnected) => true,
                Err(TryRecvError::Empty) => false,
            },
        }
    }

    pub(super) fn len(&self) -> usize {
        self.line.len()
    }

    /// Gives up everything in the line.
    pub(super) fn clear(&mut self) {
        self.shared.lock().jobs.clear();
        self.line.clear();
    }

    /// On a machine that can't start even one, the work is done here.
    fn start_thread(&mut self) {
        let (shared, work) = (Arc::clone(&self.shared), self.work);
        let run = move || {
            let mut own = T::default();
            while let Some((job, sender)) = shared.next_job() {
                // whoever gave the job may have lost interest
                let _ = sender.send(work(&mut own, job));
            }
        };
        match Builder::new().name("decompress".to_owned()).spawn(run) {
            Ok(thread) => self.threads.push(thread),
            Err(error) => {
                tracing::warn!(threads = self.threads.len(), %error, "can't start another thread to decompress");
                self.threads_max = self.threads.len();
                if self.threads_max == 0 {
                    self.work_off();
                }
            }
        }
    }

    fn work_off(&mut self) {
        let jobs = std::mem::take(&mut self.shared.lock().jobs);
        for (job, sender) in jobs {
            let _ = sender.send((self.work)(&mut self.own, job));
        }
    }
}

impl<T, J, R> Drop for Ordered<T, J, R> {
    /// Waits for the jobs at hand, not for those in the queue.
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        queue.jobs.clear();
        drop(queue);
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // its job told what was wrong, if anything was
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// Waits for a word before it works, if there is someone to give it.
    type Job = (u32, Option<Receiver<()>>);

    fn twice((): &mut (), (number, wait): Job) -> u32 {
        if let Some(wait) = wait {
            wait.recv().unwrap();
        }
        number * 2
    }

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        for threads in [1, 2, 5] {
            let mut ordered = Ordered::new(threads, twice);
            (0..100).for_each(|number| ordered.submit((number, None)));
            ordered.push(7);
            let results: Vec<u32> = std::iter::from_fn(|| ordered.take()).collect();
            assert_eq!(results, (0..100).map(|number| number * 2).chain([7]).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_later_result_waits_for_the_first() {
        let mut ordered = Ordered::new(2, twice);
        let (go, wait) = channel();
        ordered.submit((1, Some(wait)));
        ordered.submit((2, None));
        assert!(!ordered.is_ready());
        go.send(()).unwrap();
        assert_eq!((ordered.take(), ordered.take(), ordered.take()), (Some(2), Some(4), None));
    }

    #[test]
    fn one_thread_is_the_callers_own() {
        let mut ordered = Ordered::new(1, |(): &mut (), (): ()| std::thread::current().id());
        ordered.submit(());
        assert!(ordered.is_ready());
        assert_eq!(ordered.take(), Some(std::thread::current().id()));
    }

    #[test]
    fn jobs_that_were_not_begun_end_with_the_line() {
        let (done, seen) = channel();
        let mut ordered = Ordered::new(2, |(): &mut (), (wait, done): (Receiver<()>, mpsc::Sender<()>)| {
            let _ = wait.recv();
            let _ = done.send(());
        });
        let words: Vec<_> = (0..20).map(|_| channel::<()>()).collect();
        let mut go = Vec::new();
        for (word, wait) in words {
            ordered.submit((wait, done.clone()));
            go.push(word);
        }
        drop(done);
        ordered.clear();
        assert_eq!(ordered.len(), 0);
        drop(go);
        drop(ordered);
        assert!(seen.iter().count() <= 2);
    }
}
