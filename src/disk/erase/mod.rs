//! Erasing disks, all at once, by the strongest method that each has, and proving it.
//!
//! - [`level`]: how thorough; [`method`]: what can be done to a disk; [`ladder`]: which of it this disk has, in order.
//! - [`nvme`], [`ata`], [`scsi`], [`steps`], [`quick`]: the methods.
//! - [`exclude`]: disks that the operator wants left alone.
//! - [`release`]: arrays, mappings, swap and mounts go first.
//! - [`one`] takes one disk down its ladder: when a method is refused, fails, or lies (the disk does not read as it
//!   promised), the next is tried. [`run`] does so for all disks.
//! - [`record`]: what became of it. A disk on which nothing works is a failure: the machine must not be offered.

pub mod ata;
pub mod exclude;
pub mod ladder;
pub mod level;
pub mod method;
pub mod nvme;
pub mod one;
pub mod quick;
pub mod record;
pub mod release;
pub mod run;
pub mod scsi;
pub mod sense;
pub mod steps;
pub mod watch;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub use level::Level;
pub use method::Method;
pub use record::{Attempt, EraseRecord, EraseResult, Erased, Refusal};
pub use run::{EraseProgress, erase_all, erase_named};

/// How long a disk may be silent before it counts as hanging. SCSI error recovery of one command takes minutes.
const DEFAULT_STALL_LIMIT: Duration = Duration::from_secs(600);
const DEFAULT_POLL: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct EraseOptions {
    pub level: Level,
    /// Disks that [`erase_all`] leaves alone, by device path.
    pub excluded: Vec<String>,
    /// Also FORMAT UNIT, for SCSI disks that have nothing better.
    pub format_unit: bool,
    /// For the random sample that is read back.
    pub seed: u64,
    /// A disk that is silent for so long, and longer than its command may take, is given up.
    pub stall_limit: Duration,
    /// Between two looks at a disk that erases itself.
    pub poll: Duration,
    /// Set by somebody else: stop where it can be stopped.
    pub cancel: Arc<AtomicBool>,
}

impl EraseOptions {
    pub fn of_level(level: Level) -> Self {
        Self { level, ..Self::default() }
    }

    /// From the value of `drophammer.erase=`: a level, `format-unit`, or both with a comma between them.
    pub fn from_words(words: Option<&str>) -> Self {
        let is_format_unit = |word: &&str| *word == "format-unit";
        let words = words.unwrap_or_default();
        let level: Vec<&str> = words.split(',').filter(|word| !is_format_unit(word)).collect();
        let level = if words.is_empty() || level.is_empty() { None } else { Some(level.join(",")) };
        let format_unit = words.split(',').any(|word| is_format_unit(&word));
        Self { format_unit, ..Self::of_level(Level::from_word(level.as_deref())) }
    }
}

impl Default for EraseOptions {
    fn default() -> Self {
        // Other places at each erasure. Without entropy it is the same sample each time, which is still a sample.
        let seed = getrandom::u64().unwrap_or(0x5eed);
        Self {
            level: Level::default(),
            excluded: Vec::new(),
            format_unit: false,
            seed,
            stall_limit: DEFAULT_STALL_LIMIT,
            poll: DEFAULT_POLL,
            cancel: Arc::default(),
        }
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
