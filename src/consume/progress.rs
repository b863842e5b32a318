//! Notices deliveries and acknowledgements that were lost while everything looks well.
//!
//! A connection that breaks takes with it what is under way, in both directions, and the client
//! library is connected again before anybody notices. If frames go on arriving, the hole in the
//! sequence shows. If none do, only the server can say what it delivered and what it counts as
//! acknowledged. Without asking, lost deliveries would come again after half a minute, which delays
//! the alert for a bad call by as much.
//!
//! An acknowledgement may also be too late: one that was sent before the durable was reset, and
//! arrives after, carries a place in the former consumer sequence. The server takes it, and ignores
//! all that follow until the new sequence is beyond that place. Another reset repairs that too.
//!
//! Invariant: a lost delivery or acknowledgement is noticed at the second poll after it.

/// How far the server and this process are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The consumer sequence up to which the server delivered.
    pub(super) sent: u64,
    /// The consumer sequence up to which deliveries were taken.
    pub(super) taken: u64,
    /// The stream sequence up to which acknowledgements were sent.
    pub(super) acknowledged: u64,
    /// The stream sequence up to which the server counts messages as acknowledged.
    pub(super) floor: u64,
}

/// What only attaching again repairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stalled {
    #[error("deliveries do not arrive")]
    Deliveries,
    #[error("acknowledgements have no effect")]
    Acknowledgements,
}

/// Compares both sides at each poll with the poll before.
#[derive(Debug, Default)]
pub(super) struct Progress {
    before: Option<Mark>,
    repeated: bool,
}

impl Progress {
    /// Returns whether the last acknowledgement was lost and has to be sent again.
    pub(super) fn check(&mut self, now: Mark) -> Result<bool, Stalled> {
        let Some(before) = self.before.replace(now) else { return Ok(false) };
        if now.taken == before.taken && now.taken < before.sent {
            return Err(Stalled::Deliveries);
        }
        if now.floor >= before.acknowledged {
            self.repeated = false;
            return Ok(false);
        }
        if std::mem::replace(&mut self.repeated, true) {
            return Err(Stalled::Acknowledgements);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(sent: u64, taken: u64, acknowledged: u64, floor: u64) -> Mark {
        Mark { sent, taken, acknowledged, floor }
    }

    #[test]
    fn what_is_under_way_is_fine() {
        let mut progress = Progress::default();
        for now in
            [mark(0, 0, 0, 0), mark(9, 0, 0, 0), mark(20, 9, 9, 0), mark(20, 20, 20, 9), mark(20, 20, 20, 20)]
        {
            assert_eq!(progress.check(now), Ok(false), "{now:?}");
        }
    }

    #[test]
    fn deliveries_that_never_arrive_are_lost() {
        let mut progress = Progress::default();
        assert_eq!(progress.check(mark(9, 4, 4, 4)), Ok(false));
        assert_eq!(progress.check(mark(9, 4, 4, 4)), Err(Stalled::Deliveries));
    }

    #[test]
    fn an_acknowledgement_without_effect_is_sent_again_once() {
        let mut progress = Progress::default();
        assert_eq!(progress.check(mark(9, 9, 9, 4)), Ok(false));
        assert_eq!(progress.check(mark(9, 9, 9, 4)), Ok(true));
        assert_eq!(progress.check(mark(9, 9, 9, 4)), Err(Stalled::Acknowledgements));

        let mut progress = Progress::default();
        progress.check(mark(9, 9, 9, 4)).unwrap();
        assert_eq!(progress.check(mark(9, 9, 9, 4)), Ok(true));
        assert_eq!(progress.check(mark(9, 9, 9, 9)), Ok(false));
        assert_eq!(progress.check(mark(20, 20, 20, 9)), Ok(false));
        assert_eq!(progress.check(mark(20, 20, 20, 9)), Ok(true), "one by one");
    }
}
