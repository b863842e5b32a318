//! Stream time as it is now, told from a monotonic clock.
//!
//! Freshness is judged by the clock of the server that stored a frame. The exporter's own wall clock may be
//! wrong or may jump; its monotonic clock does neither, so it is enough to know how far the two are apart.
//! The server tells its time with every answer about the consumer, and a stored frame proves that it is at
//! least as late as that frame.

use std::time::Instant;

use crate::fold::StreamTime;

/// A reading of stream time that runs on by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamClock {
    anchor: Instant,
    at_anchor: StreamTime,
}

impl StreamClock {
    /// A clock that showed `server_time` at `instant`.
    pub(super) const fn new(server_time: StreamTime, instant: Instant) -> Self {
        Self { anchor: instant, at_anchor: server_time }
    }

    /// The stream time at a moment.
    pub(super) fn at(&self, instant: Instant) -> StreamTime {
        self.at_anchor + instant.saturating_duration_since(self.anchor)
    }

    /// A frame was stored at `time` and is here at `instant`: the clock is at least so late.
    pub(super) fn observe(&mut self, time: StreamTime, instant: Instant) {
        if time > self.at(instant) {
            *self = Self::new(time, instant);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_runs_by_itself_and_never_behind_a_frame() {
        let start = Instant::now();
        let noon = StreamTime::from_unix_nanos(1_000_000_000);
        let mut clock = StreamClock::new(noon, start);
        let later = start + Duration::from_secs(3);
        assert_eq!(clock.at(later), noon + Duration::from_secs(3));
        clock.observe(noon + Duration::from_secs(1), later);
        assert_eq!(clock.at(later), noon + Duration::from_secs(3), "an older frame proves nothing");
        clock.observe(noon + Duration::from_secs(5), later);
        assert_eq!(clock.at(later + Duration::from_secs(1)), noon + Duration::from_secs(6));
    }
}
