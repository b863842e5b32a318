//! Warns of what the budget for sessions refused.
//!
//! The aggregates promise to count everybody. When they can't, whoever reads them must know.
//!
//! Invariant: while something is refused, and for a minute after, `/readyz` says so.

use std::time::{Duration, Instant};

use crate::log::RateLimit;
use callsight_fold::Unfolded;
use callsight_frame::subject::Region;

/// How long `/readyz` warns after the last refusal: a client that is still there has sent again by
/// then.
const WARNED: Duration = Duration::from_secs(60);

/// How often refusals that go on are logged.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Follows what a fold refused.
pub(super) struct Refused {
    region: Region,
    max_sessions: usize,
    /// What had been refused at the last look, and when there was no warning.
    seen: Unfolded,
    before: Unfolded,
    last: Option<Instant>,
    log: RateLimit,
}

impl Refused {
    pub(super) fn new(region: Region, max_sessions: usize) -> Self {
        let (seen, before) = Default::default();
        Self { region, max_sessions, seen, before, last: None, log: RateLimit::new(LOG_EVERY) }
    }

    /// Looks at what has been refused until now. Returns the warning about it.
    pub(super) fn look(&mut self, refused: Unfolded, now: Instant) -> Option<String> {
        let recent = |last: &Instant| now.saturating_duration_since(*last) < WARNED;
        if self.last.filter(recent).is_none() {
            self.before = self.seen;
        }
        let more = refused != std::mem::replace(&mut self.seen, refused);
        if more {
            self.last = Some(now);
        }
        self.last.filter(recent)?;
        let Self { region, max_sessions, .. } = self;
        let frames = refused.frames - self.before.frames;
        let peers = refused.peers - self.before.peers;
        if more && let Some(suppressed) = self.log.check(now) {
            tracing::warn!(
                %region, max_sessions, frames, peers, suppressed,
                "sessions or peers refused: the aggregates are incomplete; find who sends them, or raise --max-sessions"
            );
        }
        Some(format!(
            "the aggregates are incomplete: {frames} frames of further sessions and {peers} peers were refused, \
             the last {} s ago; at most {max_sessions} sessions (--max-sessions) with 8 peers each are counted",
            self.last.map_or(0, |last| now.saturating_duration_since(last).as_secs())
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warning_stays_for_a_minute_after_the_last_refusal() {
        let mut refused = Refused::new("us".parse().unwrap(), 10);
        let begin = Instant::now();
        let mut look = |seconds, frames, peers| {
            refused.look(Unfolded { frames, peers }, begin + Duration::from_secs(seconds))
        };
        assert_eq!(look(0, 0, 0), None);
        let first = look(1, 5, 0).unwrap();
        assert!(first.contains("5 frames of further sessions and 0 peers") && first.contains("10 sessions"));
        assert!(look(50, 7, 2).unwrap().contains("7 frames of further sessions and 2 peers"));
        assert!(look(109, 7, 2).unwrap().contains("the last 59 s ago"));
        assert_eq!(look(110, 7, 2), None);
        assert!(look(200, 8, 2).unwrap().contains("1 frames of further sessions and 0 peers"));
    }
}
