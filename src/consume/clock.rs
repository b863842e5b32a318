//! Stream time now, from a monotonic clock.
//!
//! Freshness is judged by the clock of the server that stored a frame. The exporter's own wall
//! clock may be wrong or may jump; its monotonic clock does neither, so the difference between the
//! two is all it takes. Each answer about the consumer has the server's time, and a stored frame
//! proves that it is at least as late as that frame.
//!
//! The server's clock may jump as well: it is set, or another server leads the stream. No call has
//! aged by that. So stream time continues steadily, and the server's times are shifted by the jump
//! from then on. Otherwise a jump forward would end every session, and after a jump back none would
//! fall idle until the clock is where it was.
//!
//! Invariant: stream time never jumps by more than [`JUMP`], and no frame is in its future.

use std::time::{Duration, Instant};

use callsight_fold::StreamTime;

/// A difference that neither drift nor a slow answer explains.
const JUMP: Duration = Duration::from_secs(5);

/// An answer that took longer is too vague to correct the clock.
const VAGUE: Duration = Duration::from_secs(1);

/// The server's time in one answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) server_time: StreamTime,
    /// When the request was sent.
    pub(super) asked: Instant,
    /// How long the answer took.
    pub(super) took: Duration,
}

/// Runs on by itself from the last reading, and steadily.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamClock {
    anchor: Instant,
    at_anchor: StreamTime,
    /// How far the anchor may be off: the answer may have been written at its beginning or end.
    vague: Duration,
    /// How far the server's clock has jumped since the first reading, in nanoseconds.
    jumped: i128,
}

impl StreamClock {
    pub(super) fn new(reading: Reading) -> Self {
        // The answer was written between request and arrival, most probably half way.
        let half = reading.took / 2;
        Self { anchor: reading.asked + half, at_anchor: reading.server_time, vague: half, jumped: 0 }
    }

    /// The stream time at a moment.
    pub(super) fn at(&self, instant: Instant) -> StreamTime {
        self.at_anchor + instant.saturating_duration_since(self.anchor)
    }

    /// The server's time at a moment, its jumps included.
    pub(super) fn server_time(&self, instant: Instant) -> StreamTime {
        moved(self.at(instant), self.jumped)
    }

    /// Translates a time of the server's clock into stream time.
    pub(super) const fn steady(&self, time: StreamTime) -> StreamTime {
        moved(time, -self.jumped)
    }

    /// Follows the server's clock, but for a jump, which it returns in nanoseconds.
    pub(super) fn follow(&mut self, reading: Reading) -> Option<i128> {
        if reading.took > VAGUE {
            return None;
        }
        let read = Self::new(reading);
        let ahead = read.at_anchor.unix_nanos() - self.server_time(read.anchor).unix_nanos();
        if ahead.unsigned_abs() > (JUMP + self.vague + read.vague).as_nanos() {
            self.jumped += ahead;
            return Some(ahead);
        }
        *self = Self { at_anchor: self.steady(read.at_anchor), jumped: self.jumped, ..read };
        None
    }

    /// Translates the time at which a frame was stored. The frame is here at `instant`, so it can't
    /// have been stored later: the clock is corrected, unless the server's has jumped.
    pub(super) fn stored(&mut self, time: StreamTime, instant: Instant) -> StreamTime {
        let (time, now) = (self.steady(time), self.at(instant));
        if time > now && time.since(now) <= JUMP {
            (self.anchor, self.at_anchor) = (instant, time);
            return time;
        }
        time.min(now)
    }
}

const fn moved(time: StreamTime, nanos: i128) -> StreamTime {
    StreamTime::from_unix_nanos(time.unix_nanos() + nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: StreamTime = StreamTime::from_unix_nanos(43_200_000_000_000);
    const HOUR: Duration = Duration::from_secs(3600);
    const SECOND: Duration = Duration::from_secs(1);

    fn reading(server_time: StreamTime, asked: Instant) -> Reading {
        Reading { server_time, asked, took: Duration::ZERO }
    }

    #[test]
    fn it_runs_by_itself_and_never_behind_a_frame() {
        let start = Instant::now();
        let mut clock = StreamClock::new(reading(NOON, start));
        let later = start + 3 * SECOND;
        assert_eq!(clock.at(later), NOON + 3 * SECOND);
        assert_eq!(clock.stored(NOON + SECOND, later), NOON + SECOND);
        assert_eq!(clock.at(later), NOON + 3 * SECOND, "an older frame proves nothing");
        assert_eq!(clock.stored(NOON + 5 * SECOND, later), NOON + 5 * SECOND);
        assert_eq!(clock.at(later + SECOND), NOON + 6 * SECOND);
    }

    #[test]
    fn the_answer_was_made_half_way_and_a_slow_one_is_not_believed() {
        let start = Instant::now();
        let mut clock = StreamClock::new(Reading { server_time: NOON, asked: start, took: 2 * SECOND });
        assert_eq!(clock.at(start + SECOND), NOON);
        let slow = Reading { server_time: NOON + HOUR, asked: start, took: 4 * SECOND };
        assert_eq!(clock.follow(slow), None);
        assert_eq!(clock.at(start + SECOND), NOON);
        assert_eq!(clock.follow(reading(NOON + 2 * SECOND, start + SECOND)), None);
        assert_eq!(clock.at(start + SECOND), NOON + 2 * SECOND, "drift is followed");
    }

    #[test]
    fn an_answer_that_was_late_is_no_jump() {
        let start = Instant::now();
        // The server was frozen when it was asked, and answered at the end of that.
        let late = Reading { server_time: NOON + 12 * SECOND, asked: start, took: 12 * SECOND };
        let mut clock = StreamClock::new(late);
        let then = start + 13 * SECOND;
        assert_eq!(clock.follow(reading(NOON + 13 * SECOND, then)), None);
        assert_eq!(clock.at(then), NOON + 13 * SECOND);
        assert!(clock.follow(reading(NOON + 20 * SECOND, then + SECOND)).is_some(), "once it is exact");
    }

    #[test]
    fn a_jump_of_the_servers_clock_moves_nothing() {
        let start = Instant::now();
        for back in [false, true] {
            let jump = |time: StreamTime| if back { time - HOUR } else { time + HOUR };
            let mut clock = StreamClock::new(reading(NOON, start));
            let then = start + 2 * SECOND;
            let early = clock.stored(jump(NOON + 2 * SECOND), then);
            assert!(early <= clock.at(then), "no frame is in the future, even before the jump is known");
            assert!(clock.follow(reading(jump(NOON + 2 * SECOND), then)).is_some());
            assert_eq!(clock.at(then), NOON + 2 * SECOND);
            assert_eq!(clock.server_time(then), jump(NOON + 2 * SECOND));
            let stored = clock.stored(jump(NOON + 3 * SECOND), then + SECOND);
            assert_eq!(stored, NOON + 3 * SECOND, "a frame is as old as it is");
            assert_eq!(clock.follow(reading(jump(NOON + 4 * SECOND), then + 2 * SECOND)), None);
            assert_eq!(clock.at(then + 2 * SECOND), NOON + 4 * SECOND);
        }
    }
}
