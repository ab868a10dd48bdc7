//! Lines of the log on their way to a server: a queue with a bound, which nobody who logs ever waits for.
//!
//! It fills from the agent's first line on. When it is full the oldest lines go, and are counted.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterFn, LevelFilter, filter_fn};
use tracing_subscriber::layer::Context;

use crate::redact::redacted;

/// Bytes of text that wait at most. An installation logs some hundred kilobytes.
const MOST_BYTES: usize = 2 << 20;
/// One line, cut beyond: a server takes 256 KiB (Loki's `max_line_size`), and has the start of a longer one.
const LONGEST_VALUE: usize = 64 << 10;
/// What a line takes besides its text.
const OVERHEAD: usize = 128;

/// Cheap to clone.
#[derive(Clone, Default)]
pub struct LogQueue {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Line>,
    bytes: usize,
    /// Lines that were lost since the last time somebody asked.
    dropped: u64,
    /// Nobody will ever take lines out.
    is_closed: bool,
    /// Lines were taken out, and nobody knows yet what became of them.
    is_sending: bool,
    /// Whoever sends should not wait for more.
    is_urgent: bool,
    /// Somebody sends.
    is_served: bool,
}

/// One line, with its fields in their order.
#[derive(Clone, Debug)]
pub struct Line {
    /// By the clock that nobody sets: lines from before the clock was right get the right time all the same.
    pub at: Instant,
    pub level: Level,
    pub message: String,
    pub fields: Vec<(String, String)>,
}

impl Line {
    fn bytes(&self) -> usize {
        let fields: usize = self.fields.iter().map(|(key, value)| key.len() + value.len() + 8).sum();
        OVERHEAD + self.message.len() + fields
    }
}

impl LogQueue {
    /// What `tracing` feeds it by: lines of ours from debug on, of libraries from warnings on.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    {
        let is_wanted: fn(&Metadata<'_>) -> bool =
            |metadata| metadata.target().starts_with("drophammer") || *metadata.level() <= Level::WARN;
        let filter: FilterFn<_> = filter_fn(is_wanted).with_max_level_hint(LevelFilter::DEBUG);
        QueueLayer(self.clone()).with_filter(filter)
    }

    /// Never waits.
    pub fn push(&self, mut line: Line) {
        for text in line.fields.iter_mut().map(|(_, value)| value).chain([&mut line.message]) {
            let shown = match redacted(text) {
                Cow::Owned(shown) => shown,
                Cow::Borrowed(_) => continue,
            };
            *text = shown;
        }
        let mut state = self.lock();
        if state.is_closed {
            return;
        }
        state.bytes += line.bytes();
        state.lines.push_back(line);
        state.make_room();
        drop(state);
        self.shared.changed.notify_one();
    }

    /// Forgets what waits and takes nothing more: there is no server.
    pub fn close(&self) {
        let mut state = self.lock();
        *state = State { is_closed: true, ..State::default() };
        drop(state);
        self.shared.changed.notify_one();
    }

    pub fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Somebody sends from now on, whom it makes sense to wait for.
    pub fn set_served(&self) {
        self.lock().is_served = true;
    }

    /// Waits for lines, then up to `patience` for more of them, and takes at most `limit` bytes out, one line at least.
    /// [`LogQueue::settle`] has to follow. Empty when the queue is closed.
    pub async fn take(&self, patience: Duration, limit: usize) -> Vec<Line> {
        self.wait_until(|state| !state.lines.is_empty() || state.is_closed).await;
        let enough = |state: &State| state.bytes >= limit || state.is_urgent || state.is_closed;
        let _ = tokio::time::timeout(patience, self.wait_until(enough)).await;
        let mut state = self.lock();
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(line) = state.lines.front() {
            bytes += line.bytes();
            if bytes > limit && !taken.is_empty() {
                break;
            }
            taken.extend(state.pop());
        }
        state.is_sending = !taken.is_empty();
        taken
    }

    /// What was taken is done with: `lost` lines of it did not arrive.
    pub fn settle(&self, lost: usize) {
        let mut state = self.lock();
        state.is_sending = false;
        state.dropped += u64::try_from(lost).unwrap_or(u64::MAX);
    }

    /// How many lines were lost since the last call.
    pub fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.lock().dropped)
    }

    /// Waits until all was sent, or `limit` is over; whether it was. Without anybody who sends there is nothing to do.
    pub async fn flush(&self, limit: Duration) -> bool {
        self.lock().is_urgent = true;
        self.shared.changed.notify_one();
        let done = async {
            // By looking: the sender is the one that is woken.
            while !self.is_idle() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let is_done = tokio::time::timeout(limit, done).await.is_ok();
        self.lock().is_urgent = false;
        is_done
    }

    /// Nothing waits and nothing is under way, or nobody sends at all.
    pub fn is_idle(&self) -> bool {
        let state = self.lock();
        !state.is_served || (state.lines.is_empty() && !state.is_sending)
    }

    async fn wait_until(&self, is_reached: impl Fn(&State) -> bool) {
        loop {
            // A wake-up between the look and the wait is kept by `Notify`.
            let changed = self.shared.changed.notified();
            if is_reached(&self.lock()) {
                return;
            }
            changed.await;
        }
    }

    /// The state is consistent after every statement, so a poisoned lock is as good as another.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn pop(&mut self) -> Option<Line> {
        let line = self.lines.pop_front()?;
        self.bytes -= line.bytes();
        Some(line)
    }

    fn make_room(&mut self) {
        while self.bytes > MOST_BYTES && self.pop().is_some() {
            self.dropped += 1;
        }
    }
}

struct QueueLayer(LogQueue);

impl<S: Subscriber> Layer<S> for QueueLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if self.0.is_closed() {
            return;
        }
        let mut line =
            Line { at: Instant::now(), level: *event.metadata().level(), message: String::new(), fields: Vec::new() };
        event.record(&mut Recorder(&mut line));
        self.0.push(line);
    }
}

struct Recorder<'a>(&'a mut Line);

impl Recorder<'_> {
    fn put(&mut self, name: &str, mut value: String) {
        if value.len() > LONGEST_VALUE {
            let length = value.len();
            value.truncate(value.floor_char_boundary(LONGEST_VALUE));
            value = format!("{value}… ({length} bytes)");
        }
        match name {
            "message" => self.0.message = value,
            name => self.0.fields.push((name.to_owned(), value)),
        }
    }
}

impl Visit for Recorder<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    fn line(message: &str) -> Line {
        Line { at: Instant::now(), level: Level::INFO, message: message.to_owned(), fields: Vec::new() }
    }

    fn messages(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.message.as_str()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_loses_its_oldest_lines_and_counts_them() {
        let queue = LogQueue::default();
        let long = "x".repeat(100_000);
        for n in 0..30 {
            queue.push(line(&format!("{n} {long}")));
        }
        let dropped = queue.take_dropped();
        assert!((9..15).contains(&dropped), "{dropped}");
        let taken = queue.take(Duration::ZERO, usize::MAX).await;
        assert_eq!(u64::try_from(taken.len()).unwrap() + dropped, 30);
        assert!(
            taken[0].message.starts_with(&format!("{dropped} ")) && taken.last().unwrap().message.starts_with("29 ")
        );
        queue.settle(3);
        assert_eq!((queue.take_dropped(), queue.take_dropped()), (3, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_waits_for_more_and_has_a_limit() {
        let queue = LogQueue::default();
        queue.set_served();
        let begun = Instant::now();
        let pusher = queue.clone();
        tokio::spawn(async move {
            for n in 0..4 {
                pusher.push(line(&n.to_string()));
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        });
        assert_eq!(messages(&queue.take(Duration::from_secs(1), 3 * 129).await), ["0", "1", "2"]);
        assert_eq!(begun.elapsed(), Duration::from_millis(600));
        assert!(!queue.is_idle());
        queue.settle(0);
        assert_eq!(messages(&queue.take(Duration::from_secs(1), 1).await), ["3"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_closed_keeps_nothing() {
        let queue = LogQueue::default();
        queue.push(line("early"));
        queue.close();
        queue.push(line("late"));
        assert!(queue.take(Duration::from_secs(1), 1000).await.is_empty() && queue.is_idle());
    }

    #[test]
    fn lines_of_ours_come_with_their_fields_and_noise_of_others_does_not() {
        let queue = LogQueue::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(queue.layer()), || {
            tracing::debug!(disk = "vda", count = 3, "erased {}", "it");
            tracing::trace!("too much");
            tracing::info!(target: "h2::client", "frame");
            tracing::warn!(target: "h2::client", "odd frame");
        });
        let lines: Vec<Line> = queue.lock().lines.iter().cloned().collect();
        assert_eq!(messages(&lines), ["erased it", "odd frame"]);
        assert_eq!(lines[0].level, Level::DEBUG);
        assert_eq!(lines[0].fields, [("disk".to_owned(), "vda".to_owned()), ("count".to_owned(), "3".to_owned())]);
    }
}
