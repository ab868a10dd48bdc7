//! What the engine tells while it works and when it is done.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::digest::Digest;
use super::signature::Signature;
use crate::sys::units::Bytes;

/// What the engine is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Fetching and writing, at once.
    Streaming,
    /// Everything is written; waiting for the disk, then reading back.
    Settling,
}

/// How far an image is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    pub step: Step,
    /// Bytes fetched.
    pub bytes_in: u64,
    /// Bytes the source has, if it said so.
    pub total: Option<u64>,
    /// Bytes of file content (or of the raw image) written.
    pub bytes_out: u64,
    /// Files, directories, links and so on made so far; 0 for a raw image.
    pub files: u64,
    pub elapsed: Duration,
    /// Bytes fetched a second, over the last seconds.
    pub rate: u64,
}

impl Progress {
    /// Time left at the present rate, `None` when it can't be told.
    pub fn left(&self) -> Option<Duration> {
        let missing = self.total?.saturating_sub(self.bytes_in);
        (self.rate > 0).then(|| Duration::from_secs(missing.div_ceil(self.rate)))
    }
}

/// Is told how far an image is, at most four times a second.
pub trait Observer {
    fn progress(&self, progress: &Progress);
}

/// An observer that does not look.
pub struct Unobserved;

impl Observer for Unobserved {
    fn progress(&self, _: &Progress) {}
}

/// Share of its time that each stage worked instead of waiting for its neighbours, 0 to 1. The highest is the
/// bottleneck.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BusyShares {
    pub fetch: f64,
    pub digest: f64,
    pub decompress: f64,
    pub write: f64,
}

/// What became of the last partition of a raw image that was grown to its disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Grown {
    /// Its number.
    pub partition: u32,
    /// Its size in the image, bytes.
    pub from: Bytes,
    /// Its size now, bytes.
    pub to: Bytes,
    /// The file system in there, if it was grown with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<String>,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Bytes fetched.
    pub bytes_in: u64,
    /// Bytes of file content, or of the raw image.
    pub bytes_out: u64,
    /// Files, directories, links and so on; 0 for a raw image.
    pub files: u64,
    /// From start until all was on the disk and read back.
    pub seconds: f64,
    /// `lz4`, `zstd`, `gzip`, `xz` or `none`; `several` of layers that differ.
    pub compression: &'static str,
    pub busy: BusyShares,
    /// Connections made again.
    pub retries: u64,
    /// 1, and one more for each time that all was fetched anew: the image changed, or another mirror was asked.
    pub starts: u32,
    /// The digest that was checked, of an OCI image that of its manifest; absent when none was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The signature that was checked; absent when no keys were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
    /// Where the bytes came from, in order; URLs are without user name and query. Empty for a file.
    pub places: Vec<String>,
    /// Files, or bytes of a raw image, compared with the disk after the caches were dropped.
    pub read_back: u64,
    /// Of `bytes_out`, zeros of a raw image that the device was only told to read as such.
    pub bytes_zeroed: u64,
    /// Absent when nothing was to grow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grown: Option<Grown>,
    /// Peak memory of this process, bytes (`VmHWM`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<u64>,
    /// What could not be kept, one sentence each.
    pub warnings: Vec<String>,
}

/// Counted by the stages, read by the one who tells.
#[derive(Debug)]
pub(super) struct Counters {
    pub(super) bytes_in: AtomicU64,
    total: AtomicU64,
    /// The total is that of several parts.
    total_is_whole: AtomicBool,
    pub(super) bytes_out: AtomicU64,
    pub(super) files: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) bytes_zeroed: AtomicU64,
    grown: Mutex<Option<Grown>>,
    warnings: Mutex<Vec<String>>,
}

/// More are logged, but not kept.
const WARNINGS_KEPT: usize = 32;
const NO_TOTAL: u64 = u64::MAX;

impl Counters {
    pub(super) fn new() -> Self {
        Self {
            bytes_in: AtomicU64::new(0),
            total: AtomicU64::new(NO_TOTAL),
            total_is_whole: AtomicBool::new(false),
            bytes_out: AtomicU64::new(0),
            files: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            bytes_zeroed: AtomicU64::new(0),
            grown: Mutex::new(None),
            warnings: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// Everything is fetched and written anew.
    pub(super) fn start_over(&self) {
        for counter in [&self.bytes_in, &self.bytes_out, &self.bytes_zeroed, &self.files] {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// Bytes of what is being fetched now, unless all parts together are known.
    pub(super) fn set_total(&self, total: Option<u64>) {
        if !self.total_is_whole.load(Ordering::Relaxed) {
            self.total.store(total.unwrap_or(NO_TOTAL), Ordering::Relaxed);
        }
    }

    /// Bytes of all parts together.
    pub(super) fn set_whole(&self, total: u64) {
        self.total_is_whole.store(true, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    pub(super) fn total(&self) -> Option<u64> {
        Some(Self::get(&self.total)).filter(|total| *total != NO_TOTAL)
    }

    pub(super) fn set_grown(&self, grown: Grown) {
        if let Ok(mut place) = self.grown.lock() {
            *place = Some(grown);
        }
    }

    pub(super) fn grown(&self) -> Option<Grown> {
        self.grown.lock().ok().and_then(|grown| grown.clone())
    }

    pub(super) fn warn(&self, warning: String) {
        tracing::warn!("{warning}");
        if let Ok(mut warnings) = self.warnings.lock()
            && warnings.len() < WARNINGS_KEPT
        {
            warnings.push(warning);
        }
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().map(|warnings| warnings.clone()).unwrap_or_default()
    }
}

/// Turns counters into [`Progress`], with the rate over the last few seconds.
pub(super) struct Meter {
    start: Instant,
    /// Oldest first.
    past: std::collections::VecDeque<(Instant, u64)>,
}

impl Meter {
    /// Between two tellings.
    pub(super) const TICK: Duration = Duration::from_millis(250);
    /// 5 s.
    const PAST_TICKS: usize = 20;

    pub(super) fn new(start: Instant) -> Self {
        Self { start, past: [(start, 0)].into() }
    }

    pub(super) fn read(&mut self, counters: &Counters, step: Step) -> Progress {
        let (now, bytes_in) = (Instant::now(), Counters::get(&counters.bytes_in));
        let (then, bytes_then) = self.past.front().copied().unwrap_or((self.start, 0));
        self.past.push_back((now, bytes_in));
        if self.past.len() > Self::PAST_TICKS {
            self.past.pop_front();
        }
        Progress {
            step,
            bytes_in,
            total: counters.total(),
            bytes_out: Counters::get(&counters.bytes_out),
            files: Counters::get(&counters.files),
            elapsed: now - self.start,
            rate: rate(bytes_in.saturating_sub(bytes_then), now - then),
        }
    }
}

/// Bytes a second.
fn rate(bytes: u64, time: Duration) -> u64 {
    let millis = time.as_millis().max(1);
    u64::try_from(u128::from(bytes) * 1000 / millis).unwrap_or(u64::MAX)
}

/// Peak memory of this process in bytes.
///
/// Source: `/proc/self/status`, line `VmHWM`, in KiB.
pub(super) fn read_peak_rss() -> Option<u64> {
    parse_peak_rss(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn parse_peak_rss(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_memory_is_in_bytes() {
        assert_eq!(parse_peak_rss("VmPeak:\t  9 kB\nVmHWM:\t    5120 kB\nVmRSS:\t 1 kB\n"), Some(5_242_880));
        assert_eq!(parse_peak_rss("VmRSS:\t 1 kB\n"), None);
    }

    #[test]
    fn time_left_needs_a_total_and_a_rate() {
        let progress = Progress {
            step: Step::Streaming,
            bytes_in: 400,
            total: Some(1000),
            bytes_out: 0,
            files: 0,
            elapsed: Duration::from_secs(4),
            rate: 100,
        };
        assert_eq!(progress.left(), Some(Duration::from_secs(6)));
        assert_eq!(Progress { total: None, ..progress }.left(), None);
        assert_eq!(Progress { rate: 0, ..progress }.left(), None);
    }

    #[test]
    fn rate_is_per_second() {
        assert_eq!(rate(500, Duration::from_millis(250)), 2000);
        assert_eq!(rate(500, Duration::ZERO), 500_000);
    }
}
