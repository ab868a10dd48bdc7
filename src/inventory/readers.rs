//! Runs the readers beside each other, so that one that hangs holds up neither the others nor the machine.
//!
//! A dying disk or a wedged controller keeps a thread inside `open`, `read` or `ioctl` for minutes or for ever, and
//! no signal ends it there. So whatever may hang is asked on a thread of its own, which is waited for by its channel
//! and never joined. After the limit it is given up, named, and left behind; what it still says is not heard.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::Reading;
use crate::sys::roots::Roots;

/// How long each kind of reader may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Readers of the kernel's files alone.
    pub files: Duration,
    /// All disks together: more than what [`each_within`] can take with one disk's limit.
    pub disks: Duration,
    /// The BMC, which answers through a port of a byte at a time.
    pub bmc: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { files: Duration::from_secs(5), disks: Duration::from_secs(30), bmc: Duration::from_secs(20) }
    }
}

/// For one disk: what has to ask the disk itself (ioctl, reading the medium). A drive that recovers from an error
/// takes some seconds.
pub const DISK_LIMIT: Duration = Duration::from_secs(5);

/// Threads that [`each_within`] has at work at once. Those of a machine's disks mostly wait.
const AT_ONCE: usize = 32;
/// Of threads that hang. Each keeps its stack and what it holds open; when so many hang, the next would too.
const MOST_LEFT_BEHIND: usize = 64;

static LEFT_BEHIND: AtomicUsize = AtomicUsize::new(0);

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum GivenUp {
    #[error("{what}: no answer within {} s, given up", limit.as_secs_f64())]
    TookTooLong { what: String, limit: Duration },
    #[error("{what}: not asked, as {MOST_LEFT_BEHIND} earlier questions still have no answer")]
    TooManyHang { what: String },
    #[error("{what}: the thread that asked ended without an answer")]
    Died { what: String },
    #[error("{what}: no thread could be started for it")]
    NoThread { what: String, source: io::Error },
}

/// `work` on every item (its name beside it), many at once, each for at most `limit`. Answers are in the items' order.
pub fn each_within<I: Send + 'static, T: Send + 'static>(
    limit: Duration,
    items: Vec<(String, I)>,
    work: impl Fn(I) -> T + Clone + Send + 'static,
) -> Vec<Result<T, GivenUp>> {
    let mut answers = Vec::with_capacity(items.len());
    let mut asked: VecDeque<Question<T>> = VecDeque::new();
    for (what, item) in items {
        if asked.len() == AT_ONCE {
            answers.extend(asked.pop_front().map(Question::answer));
        }
        let work = work.clone();
        asked.push_back(Question::ask(limit, &what, move || work(item)));
    }
    answers.extend(asked.into_iter().map(Question::answer));
    answers
}

/// What a thread was asked.
pub struct Question<T> {
    what: String,
    limit: Duration,
    asked_at: Instant,
    pending: Result<Pending<T>, GivenUp>,
}

struct Pending<T> {
    answer: Receiver<T>,
    end: Arc<End>,
}

impl<T: Send + 'static> Question<T> {
    /// Starts the thread; the limit counts from here.
    pub fn ask(limit: Duration, what: &str, work: impl FnOnce() -> T + Send + 'static) -> Self {
        Self { what: what.to_owned(), limit, asked_at: Instant::now(), pending: start(what, work) }
    }

    /// Waits for what is left of the limit.
    ///
    /// # Errors
    ///
    /// See [`GivenUp`], which names what was asked.
    pub fn answer(self) -> Result<T, GivenUp> {
        let Self { what, limit, asked_at, pending } = self;
        let Pending { answer, end } = pending?;
        answer.recv_timeout(limit.saturating_sub(asked_at.elapsed())).map_err(|error| match error {
            RecvTimeoutError::Timeout => {
                end.leave_behind();
                GivenUp::TookTooLong { what, limit }
            }
            RecvTimeoutError::Disconnected => GivenUp::Died { what },
        })
    }
}

fn start<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<Pending<T>, GivenUp> {
    if LEFT_BEHIND.load(Ordering::SeqCst) >= MOST_LEFT_BEHIND {
        return Err(GivenUp::TooManyHang { what: what.to_owned() });
    }
    let (sender, answer) = mpsc::channel();
    let end = Arc::new(End::default());
    let at_end = EndOfThread(Arc::clone(&end));
    thread::Builder::new()
        .name(what.to_owned())
        .spawn(move || {
            let _at_end = at_end;
            // Nobody listens any more when it was given up.
            let _ = sender.send(work());
        })
        .map_err(|source| GivenUp::NoThread { what: what.to_owned(), source })?;
    Ok(Pending { answer, end })
}

/// The thread's end and its being given up, whichever comes first: only the second one of them knows whether the
/// thread is among those left behind.
#[derive(Default)]
struct End(AtomicBool);

impl End {
    fn leave_behind(&self) {
        LEFT_BEHIND.fetch_add(1, Ordering::SeqCst);
        self.come();
    }

    fn come(&self) {
        if self.0.swap(true, Ordering::SeqCst) {
            LEFT_BEHIND.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Comes also when the work panics.
struct EndOfThread(Arc<End>);

impl Drop for EndOfThread {
    fn drop(&mut self) {
        self.0.come();
    }
}

/// Starts a reader of the machine under `roots`.
pub(super) fn start_reader<T: Send + 'static>(
    name: &str,
    limit: Duration,
    roots: &Roots,
    read: impl FnOnce(&Roots) -> Reading<T> + Send + 'static,
) -> Question<Reading<T>> {
    let roots = roots.clone();
    Question::ask(limit, name, move || read(&roots))
}

/// What the reader found, and its warnings at the end of `warnings`; nothing, and why, when it was given up.
pub(super) fn found<T: Default + Send + 'static>(reader: Question<Reading<T>>, warnings: &mut Vec<String>) -> T {
    match reader.answer() {
        Ok(reading) => reading.into_found(warnings),
        Err(given_up) => {
            warnings.push(given_up.to_string());
            T::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_hangs_is_named_and_the_others_answer_in_their_order() {
        // Held until the end of the test: the middle one waits for it.
        let (_hold, never) = mpsc::channel::<()>();
        let items = vec![("a".to_owned(), None), ("b".to_owned(), Some(never)), ("c".to_owned(), None)];
        let answers = each_within(Duration::from_millis(50), items, |never: Option<Receiver<()>>| {
            if let Some(never) = never {
                let _ = never.recv();
            }
            7
        });
        let said: Vec<String> =
            answers.into_iter().map(|answer| answer.map_or_else(|why| why.to_string(), |n| n.to_string())).collect();
        assert_eq!(said, ["7", "b: no answer within 0.05 s, given up", "7"]);
    }

    #[test]
    fn more_items_than_threads_are_all_answered_in_order() {
        let items = (0..100).map(|n| (format!("item {n}"), n)).collect();
        let answers: Vec<i32> = each_within(Duration::from_secs(60), items, |n: i32| n * 2)
            .into_iter()
            .map(|n| n.expect("an answer"))
            .collect();
        assert_eq!(answers, (0..100).map(|n| n * 2).collect::<Vec<_>>());
    }

    #[test]
    fn a_thread_that_dies_is_no_answer() {
        let question =
            Question::ask(Duration::from_secs(60), "reader", || -> u8 { std::panic::resume_unwind(Box::new(())) });
        assert_eq!(
            question.answer().expect_err("no answer").to_string(),
            "reader: the thread that asked ended without an answer"
        );
    }
}
