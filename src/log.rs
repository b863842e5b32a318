//! Logging where the input decides how often.

use std::time::{Duration, Instant};

/// Lets one log line through in each interval, and counts those that it held back.
#[derive(Debug)]
pub(crate) struct Bounded {
    interval: Duration,
    last: Option<Instant>,
    held_back: u64,
}

impl Bounded {
    /// At most one line in so much time.
    pub(crate) const fn every(interval: Duration) -> Self {
        Self { interval, last: None, held_back: 0 }
    }

    /// Whether to log now, and if so how many lines were held back since the last one.
    pub(crate) fn allow(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < self.interval) {
            self.held_back += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_an_interval_and_a_count_of_the_others() {
        let start = Instant::now();
        let interval = Duration::from_secs(1);
        let mut bounded = Bounded::every(interval);
        assert_eq!(bounded.allow(start), Some(0));
        assert_eq!(bounded.allow(start + interval / 2), None);
        assert_eq!(bounded.allow(start + interval / 2), None);
        assert_eq!(bounded.allow(start + interval), Some(2));
    }
}
