//! How often, and after how long, a broken connection is made again.

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

#[cfg(test)]
mod tests {
    use super::*;

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
