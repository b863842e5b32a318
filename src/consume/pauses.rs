//! The pauses between attempts to consume.
//!
//! Invariant: a fleet that lost the same server does not come back in step.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// The longest pause between two attempts to consume.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Pauses double from 200 ms to [`LONGEST_PAUSE`], of which jitter takes up to half. `backon` adds
/// as much as it takes here, so its bounds are halved.
const PAUSES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_millis(2500))
    .with_jitter()
    .without_max_times();

/// Gives the pause after each attempt.
pub(super) struct Pauses(ExponentialBackoff);

impl Pauses {
    pub(super) fn new() -> Self {
        Self(PAUSES.build())
    }

    /// The pause before the next attempt. Only what `worked` for longer than any pause starts again
    /// with a short one: a server that accepts everybody and disconnects them at once is no better
    /// than one that is away.
    pub(super) fn next(&mut self, worked: Duration) -> Duration {
        if worked > LONGEST_PAUSE {
            *self = Self::new();
        }
        self.0.next().unwrap_or(LONGEST_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than `backon` is off, which computes with 24 bits.
    const ROUNDING: Duration = Duration::from_micros(10);

    #[test]
    fn pauses_double_to_the_longest_and_jitter_takes_up_to_half() {
        let mut pauses = Pauses::new();
        for milliseconds in [200, 400, 800, 1600, 3200, 5000, 5000] {
            let longest = Duration::from_millis(milliseconds);
            let pause = pauses.next(LONGEST_PAUSE);
            assert!((longest / 2 - ROUNDING..=longest + ROUNDING).contains(&pause), "{pause:?}");
        }
        let drawn = || Pauses::new().next(Duration::ZERO);
        assert!((0..10).any(|_| drawn() != drawn()), "fleets must not come back in step");
    }

    #[test]
    fn only_what_worked_longer_than_any_pause_starts_anew() {
        let mut pauses = Pauses::new();
        for _ in 0..10 {
            pauses.next(LONGEST_PAUSE);
        }
        assert!(pauses.next(LONGEST_PAUSE) >= LONGEST_PAUSE / 2 - ROUNDING);
        assert!(pauses.next(LONGEST_PAUSE * 2) <= Duration::from_millis(200) + ROUNDING);
    }
}
