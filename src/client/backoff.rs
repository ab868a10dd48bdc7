//! How long to wait before the next try: doubling up to a limit, with jitter.

use std::time::Duration;

/// Delays of 1, 2, 4 … seconds up to a limit, each shortened by up to a quarter at random, so that a hall of machines
/// that lost its server does not come back in one moment.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    limit: Duration,
}

impl Backoff {
    pub fn new(first: Duration, limit: Duration) -> Self {
        Self { next: first.min(limit), limit }
    }

    /// For calls to a server that may be away: 1 s, at most 15 s.
    pub fn for_server() -> Self {
        Self::new(Duration::from_secs(1), Duration::from_secs(15))
    }

    pub fn next_delay(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(self.limit);
        full - full.mul_f64(0.25 * random_fraction())
    }
}

/// 0 to 1. Without random bytes (very early) there is no jitter, which does no harm.
fn random_fraction() -> f64 {
    let mut byte = [0_u8; 1];
    if getrandom::fill(&mut byte).is_err() {
        return 0.0;
    }
    f64::from(byte[0]) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let delays: Vec<Duration> = (0..5).map(|_| backoff.next_delay()).collect();
        for (delay, full) in delays.iter().zip([1, 2, 4, 5, 5]) {
            let full = Duration::from_secs(full);
            assert!(*delay <= full && *delay >= full.mul_f64(0.75), "{delay:?} for {full:?}");
        }
    }
}
