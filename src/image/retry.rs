//! How often, and after how long, a broken connection is made again.

use std::fmt;
use std::time::Duration;

/// Limits of one fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Tries in a row that brought (nearly) nothing before the fetch is given up.
    pub tries: u32,
    /// Pause after the first failure; doubles with each.
    pub first_pause: Duration,
    pub longest_pause: Duration,
    /// A server that sends nothing for so long counts as lost.
    pub stall: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            tries: 10,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(30),
            stall: Duration::from_secs(30),
        }
    }
}

impl Retry {
    /// Pause after the `failed`th failure (1 is the first), spread by a quarter to both sides so that a rack that
    /// lost its server does not come back in one beat. `random` is any number.
    pub(super) fn pause(&self, failed: u32, random: u32) -> Duration {
        let doubled = self.first_pause.saturating_mul(1 << failed.saturating_sub(1).min(16));
        let spread = 750 + random % 501;
        doubled.min(self.longest_pause) * spread / 1000
    }
}

/// Why tries failed: each reason once, with how often and where.
#[derive(Debug, Default)]
pub(super) struct History {
    reasons: Vec<Failures>,
    /// Those that there was no room for.
    others: u32,
}

#[derive(Debug)]
struct Failures {
    reason: String,
    count: u32,
    /// Bytes.
    offsets: (u64, u64),
}

impl History {
    const REASONS_MAX: usize = 6;
    const REASON_MAX_CHARS: usize = 160;

    pub(super) fn note(&mut self, offset: u64, reason: &str) {
        let reason: String = reason.chars().take(Self::REASON_MAX_CHARS).collect();
        if let Some(known) = self.reasons.iter_mut().find(|known| known.reason == reason) {
            known.count += 1;
            known.offsets = (known.offsets.0.min(offset), known.offsets.1.max(offset));
        } else if self.reasons.len() < Self::REASONS_MAX {
            self.reasons.push(Failures { reason, count: 1, offsets: (offset, offset) });
        } else {
            self.others += 1;
        }
    }

    /// All tries failed for one reason.
    pub(super) fn is_uniform(&self) -> bool {
        self.reasons.len() <= 1
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Failures { reason, count, offsets: (first, last) }) in self.reasons.iter().enumerate() {
            let comma = if index == 0 { "" } else { "; " };
            write!(f, "{comma}{count} × {reason} (at byte {first}")?;
            match first == last {
                true => write!(f, ")")?,
                false => write!(f, " to {last})")?,
            }
        }
        match self.others {
            0 => Ok(()),
            others => write!(f, "; {others} × other reasons"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_has_each_reason_once() {
        let mut history = History::default();
        assert!(history.is_uniform());
        for offset in [5, 0, 9] {
            history.note(offset, "connection refused");
        }
        assert!(history.is_uniform());
        history.note(7, "server answered 503");
        assert!(!history.is_uniform());
        let text = "3 × connection refused (at byte 0 to 9); 1 × server answered 503 (at byte 7)";
        assert_eq!(history.to_string(), text);
    }

    #[test]
    fn a_history_is_short() {
        let mut history = History::default();
        (0..1000).for_each(|n| history.note(n, &format!("{n}{}", "x".repeat(10_000))));
        let text = history.to_string();
        assert!(text.ends_with("994 × other reasons") && text.len() < 1500, "{}", text.len());
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let middle = 250;
        let pauses: Vec<u64> = (1..=7).map(|n| Retry::default().pause(n, middle).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn pauses_are_spread_by_a_quarter() {
        let retry = Retry::default();
        assert_eq!(retry.pause(1, 0), Duration::from_millis(750));
        assert_eq!(retry.pause(1, 500), Duration::from_millis(1250));
        assert_eq!(retry.pause(u32::MAX, 500), Duration::from_millis(37_500));
    }
}
