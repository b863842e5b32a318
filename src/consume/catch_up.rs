//! How far the fold is behind its stream.
//!
//! The server is polled every few seconds while the fold takes thousands of messages a second, so
//! an answer is out of date when it arrives. But it names the consumer sequence up to which there
//! are messages, and that can be compared with what has been taken since.
//!
//! After an outage the age of the oldest message that was not folded is unknown, until one is. So
//! the first goal is what was waiting when the consumer was attached.
//!
//! The server that leads the consumer counts what is left in its own copy of the stream, which may
//! be behind the leader's after a restart. So the end of the stream counts too, as its own leader
//! names it.
//!
//! Invariant: no lag is reported before everything is folded that was waiting at attachment.

use std::time::Duration;

/// The consumer sequences that an attached consumer has to reach.
#[derive(Debug)]
pub(super) struct CatchUp {
    /// The last message that was waiting at attachment; `None` once it is folded.
    first: Option<u64>,
    /// The last message at the last poll.
    goal: u64,
    /// The stream's last sequence at the last poll, if it can be compared with what was taken.
    stream_end: Option<u64>,
}

/// How far the fold is behind its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// This many messages that were waiting at attachment are left, of unknown age.
    Unknown(u64),
    /// This many messages are left, and none of them is older than this.
    By(u64, Duration),
}

impl CatchUp {
    /// Starts at attachment: deliveries begin after `delivered`, and `waiting` messages are there.
    pub(super) const fn new(delivered: u64, waiting: u64) -> Self {
        let goal = delivered + waiting;
        Self { first: Some(goal), goal, stream_end: None }
    }

    /// Sets the stream's last sequence at a poll.
    pub(super) const fn stream_polled(&mut self, end: Option<u64>) {
        self.stream_end = end;
    }

    /// Sets the last message at a poll. There may be fewer than before: streams are purged, and
    /// messages expire.
    pub(super) fn polled(&mut self, goal: u64) {
        self.goal = goal;
        self.first = self.first.map(|first| first.min(goal));
    }

    /// How far behind a fold is that took everything up to `delivered`, which is `taken` in the
    /// stream, and whose newest message is this old.
    pub(super) fn behind(&mut self, delivered: u64, taken: u64, newest_age: Option<Duration>) -> Behind {
        let left = self.first.and_then(|first| first.checked_sub(delivered)).filter(|left| *left > 0);
        if let Some(left) = left {
            return Behind::Unknown(left);
        }
        self.first = None;
        let in_stream = self.stream_end.map_or(0, |end| end.saturating_sub(taken));
        match self.goal.saturating_sub(delivered).max(in_stream) {
            0 => Behind::By(0, Duration::ZERO),
            left => Behind::By(left, newest_age.unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Option<Duration> = Some(Duration::from_secs(60));

    #[test]
    fn nothing_is_known_before_what_was_waiting_is_folded() {
        let mut catch_up = CatchUp::new(100, 50);
        assert_eq!(catch_up.behind(100, 0, None), Behind::Unknown(50));
        catch_up.polled(170);
        assert_eq!(catch_up.behind(149, 0, AGE), Behind::Unknown(1));
        assert_eq!(catch_up.behind(150, 0, AGE), Behind::By(20, AGE.unwrap()));
        assert_eq!(catch_up.behind(170, 0, AGE), Behind::By(0, Duration::ZERO));
        catch_up.polled(180);
        assert_eq!(catch_up.behind(170, 0, AGE), Behind::By(10, AGE.unwrap()));
    }

    #[test]
    fn with_nothing_waiting_it_is_there() {
        assert_eq!(CatchUp::new(100, 0).behind(100, 0, None), Behind::By(0, Duration::ZERO));
    }

    #[test]
    fn a_purge_takes_the_goal_away() {
        let mut catch_up = CatchUp::new(100, 50);
        assert_eq!(catch_up.behind(110, 0, AGE), Behind::Unknown(40));
        catch_up.polled(110);
        assert_eq!(catch_up.behind(110, 0, AGE), Behind::By(0, Duration::ZERO));
    }

    #[test]
    fn the_end_of_the_stream_counts_where_the_consumer_does_not_know_it_yet() {
        let mut catch_up = CatchUp::new(100, 0);
        catch_up.stream_polled(Some(2050));
        assert_eq!(catch_up.behind(100, 2000, AGE), Behind::By(50, AGE.unwrap()));
        assert_eq!(catch_up.behind(150, 2050, AGE), Behind::By(0, Duration::ZERO));
        catch_up.stream_polled(None);
        assert_eq!(catch_up.behind(100, 2000, AGE), Behind::By(0, Duration::ZERO));
    }
}
