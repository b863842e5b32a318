//! How long to wait before the next try.
//!
//! What broke mostly comes back soon, so the first pause is short; what stays broken must not be hammered, so
//! pauses double up to a bound. And a fleet that lost the same server must not come back to it in step, so
//! each pause is cut short by a random share.

use std::time::Duration;

/// The first and the longest pause.
const BOUNDS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The largest share of a pause that jitter may take away.
const JITTER: f64 = 0.5;

/// Pauses between tries.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) const fn new() -> Self {
        Self(BOUNDS.0)
    }

    /// The pause after something broke that had worked for so long. Only what worked for longer than any
    /// pause begins with a short one again: a server that takes everybody in and throws them out at once is
    /// no better than one that is away. `random` is from 0 up to 1.
    pub(super) fn pause(&mut self, worked: Duration, random: f64) -> Duration {
        if worked > BOUNDS.1 {
            self.0 = BOUNDS.0;
        }
        let pause = self.0;
        self.0 = (pause * 2).min(BOUNDS.1);
        pause.mul_f64(1.0 - JITTER * random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_begin_again_after_it_worked() {
        let mut backoff = Backoff::new();
        let pauses: Vec<u128> = (0..7).map(|_| backoff.pause(Duration::ZERO, 0.0).as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.pause(BOUNDS.1, 0.0), BOUNDS.1, "that was too short to count");
        assert_eq!(backoff.pause(BOUNDS.1 * 2, 0.0), BOUNDS.0);
    }

    #[test]
    fn jitter_takes_up_to_half() {
        for random in [0.0, 0.3, 0.999_999] {
            let pause = Backoff::new().pause(Duration::ZERO, random);
            assert!((BOUNDS.0 / 2..=BOUNDS.0).contains(&pause), "{pause:?}");
        }
        assert_ne!(Backoff::new().pause(Duration::ZERO, 0.1), Backoff::new().pause(Duration::ZERO, 0.2));
    }
}
