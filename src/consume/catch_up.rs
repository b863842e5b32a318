//! Telling how far the fold is behind its stream.
//!
//! The server is asked every few seconds what it has, while the fold takes thousands of messages a second: an
//! answer is out of date as soon as it is there. But it names a place in the consumer's sequence up to which
//! there are messages, and that place can be compared with what has been taken since.
//!
//! After an outage nobody knows how old the oldest message is that has not been folded, until one is. So the
//! first goal is what was waiting when the consumer was attached; before that is folded, nothing may be relied
//! on, whatever the lag.

use std::time::Duration;

/// The goals of a consumer since it was attached.
#[derive(Debug)]
pub(super) struct CatchUp {
    /// The place in the consumer's sequence up to which there were messages when it was attached; none once
    /// they are folded.
    first: Option<u64>,
    /// The same when the server was last asked.
    goal: u64,
}

/// How far the fold is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// So many messages from before it was attached are left.
    Unknown(u64),
    /// So many messages are left, and the oldest of them is no older than this.
    By(u64, Duration),
}

impl CatchUp {
    /// The consumer is attached: its sequence goes on after `delivered`, and so many messages are waiting.
    pub(super) const fn new(delivered: u64, waiting: u64) -> Self {
        let goal = delivered + waiting;
        Self { first: Some(goal), goal }
    }

    /// The server says that there are messages up to this place. There may be fewer than before: streams are
    /// purged, and their oldest messages go.
    pub(super) fn asked(&mut self, goal: u64) {
        self.goal = goal;
        self.first = self.first.map(|first| first.min(goal));
    }

    /// How far behind a fold is that took everything up to a place, and that took a message of this age last.
    pub(super) fn behind(&mut self, taken: u64, newest_age: Option<Duration>) -> Behind {
        if let Some(left) = self.first.and_then(|first| first.checked_sub(taken)).filter(|left| *left > 0) {
            return Behind::Unknown(left);
        }
        self.first = None;
        match self.goal.saturating_sub(taken) {
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
        assert_eq!(catch_up.behind(100, None), Behind::Unknown(50));
        catch_up.asked(170);
        assert_eq!(catch_up.behind(149, AGE), Behind::Unknown(1));
        assert_eq!(catch_up.behind(150, AGE), Behind::By(20, AGE.unwrap()));
        assert_eq!(catch_up.behind(170, AGE), Behind::By(0, Duration::ZERO));
        catch_up.asked(180);
        assert_eq!(catch_up.behind(170, AGE), Behind::By(10, AGE.unwrap()));
    }

    #[test]
    fn with_nothing_waiting_it_is_there() {
        assert_eq!(CatchUp::new(100, 0).behind(100, None), Behind::By(0, Duration::ZERO));
    }

    #[test]
    fn a_purge_takes_the_goal_away() {
        let mut catch_up = CatchUp::new(100, 50);
        assert_eq!(catch_up.behind(110, AGE), Behind::Unknown(40));
        catch_up.asked(110);
        assert_eq!(catch_up.behind(110, AGE), Behind::By(0, Duration::ZERO));
    }
}
