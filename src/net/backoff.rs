//! Growing, slightly random delays between tries.

use std::time::Duration;

/// Doubles from `first` to `longest`; every delay is spread by a tenth, so that a rack that powers on at once does
/// not ask at once for ever.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// For calls to a server that may be away: 1 s, at most 15 s.
    pub fn for_server() -> Self {
        Self::new(Duration::from_secs(1), Duration::from_secs(15))
    }

    /// The delay before the next try.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.longest);
        spread(delay)
    }

    /// Begins again with the first delay.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// `delay`, 10 % more or less.
fn spread(delay: Duration) -> Duration {
    // Without random numbers (none yet in early boot) the delay stays as it is.
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    delay.mul_f64(0.9 + 0.2 * f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_begin_again() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(4));
        let near = |delay: Duration, seconds: f64| (delay.as_secs_f64() / seconds - 1.0).abs() <= 0.11;
        for expected in [1.0, 2.0, 4.0, 4.0] {
            let delay = backoff.next_delay();
            assert!(near(delay, expected), "{delay:?} is not about {expected} s");
        }
        backoff.reset();
        assert!(near(backoff.next_delay(), 1.0));
    }
}
