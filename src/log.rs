//! Limits how often a log line is written whose cause is in the input.

use std::time::{Duration, Instant};

/// Allows at most one log line per interval, and counts the lines that it suppressed.
#[derive(Debug)]
pub(crate) struct RateLimit {
    interval: Duration,
    last: Option<Instant>,
    suppressed: u64,
}

impl RateLimit {
    pub(crate) const fn new(interval: Duration) -> Self {
        Self { interval, last: None, suppressed: 0 }
    }

    /// Returns how many lines were suppressed since the last one, if one may be logged now.
    pub(crate) fn check(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < self.interval) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_interval_and_a_count_of_the_others() {
        let start = Instant::now();
        let interval = Duration::from_secs(1);
        let mut limit = RateLimit::new(interval);
        assert_eq!(limit.check(start), Some(0));
        assert_eq!(limit.check(start + interval / 2), None);
        assert_eq!(limit.check(start + interval / 2), None);
        assert_eq!(limit.check(start + interval), Some(2));
    }
}
