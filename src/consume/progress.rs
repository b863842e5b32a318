//! Noticing that deliveries or acknowledgements go astray while everything looks well.
//!
//! A connection that breaks takes with it what was under way, in both directions, and the client library is
//! attached again before anybody notices. If frames go on arriving, the hole in the sequence shows. If none do,
//! only the server knows what it delivered and what it took as acknowledged; without asking, what got lost would
//! come again after half a minute, which is as long as a call may be bad before somebody is told.
//!
//! And an acknowledgement may be too late: one that left before the durable was set back, and arrives after,
//! carries a place in the former sequence. The server takes it, and ignores all that follow until the new
//! sequence is beyond that place. Setting the durable back once more mends that too.

/// How far both sides are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The place in the consumer's sequence that the server has delivered up to.
    pub(super) sent: u64,
    /// The place in it that was taken up to.
    pub(super) taken: u64,
    /// The stream sequence that was acknowledged.
    pub(super) acknowledged: u64,
    /// The stream sequence that the server knows as acknowledged.
    pub(super) floor: u64,
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Fine,
    /// The last acknowledgement got lost: send it again.
    AcknowledgeAgain,
    /// Attach again.
    Lost(&'static str),
}

/// Compares how far both sides are with how far they were when it was last asked.
#[derive(Debug, Default)]
pub(super) struct Progress {
    before: Option<Mark>,
    repeated: bool,
}

impl Progress {
    pub(super) fn judge(&mut self, now: Mark) -> Verdict {
        let Some(before) = self.before.replace(now) else { return Verdict::Fine };
        if now.taken == before.taken && now.taken < before.sent {
            return Verdict::Lost("what was delivered did not arrive");
        }
        if now.floor >= before.acknowledged {
            self.repeated = false;
            return Verdict::Fine;
        }
        if std::mem::replace(&mut self.repeated, true) {
            return Verdict::Lost("acknowledgements have no effect");
        }
        Verdict::AcknowledgeAgain
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
            assert_eq!(progress.judge(now), Verdict::Fine, "{now:?}");
        }
    }

    #[test]
    fn deliveries_that_never_arrive_are_lost() {
        let mut progress = Progress::default();
        assert_eq!(progress.judge(mark(9, 4, 4, 4)), Verdict::Fine);
        assert!(matches!(progress.judge(mark(9, 4, 4, 4)), Verdict::Lost(_)));
    }

    #[test]
    fn an_acknowledgement_without_effect_is_sent_again_once() {
        let mut progress = Progress::default();
        assert_eq!(progress.judge(mark(9, 9, 9, 4)), Verdict::Fine);
        assert_eq!(progress.judge(mark(9, 9, 9, 4)), Verdict::AcknowledgeAgain);
        assert!(matches!(progress.judge(mark(9, 9, 9, 4)), Verdict::Lost(_)));

        let mut progress = Progress::default();
        progress.judge(mark(9, 9, 9, 4));
        assert_eq!(progress.judge(mark(9, 9, 9, 4)), Verdict::AcknowledgeAgain);
        assert_eq!(progress.judge(mark(9, 9, 9, 9)), Verdict::Fine);
        assert_eq!(progress.judge(mark(20, 20, 20, 9)), Verdict::Fine);
        assert_eq!(progress.judge(mark(20, 20, 20, 9)), Verdict::AcknowledgeAgain, "one by one");
    }
}
