//! What a replay read, and what became of it.
//!
//! The engine counts, and every output and the summary show the same counts.
//!
//! Invariant: without a filter, `messages` is `folded` + `repeated` + `refused` + `rejected`. With
//! one, it also counts what the filter excludes and what it can't apply to, the invalid frames.

use std::collections::BTreeMap;

use super::seen::Fate;
use callsight_fold::{Outcome, StreamTime};

/// Counts of messages, steps and samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Messages from before the window.
    pub warm_up: u64,
    /// Messages within the window.
    pub messages: u64,
    /// Frames folded, the late ones among them.
    pub folded: u64,
    /// Folded frames that were older than the idle timeout.
    pub late: u64,
    /// Frames at or below their session's watermark.
    pub repeated: u64,
    /// Valid frames that changed nothing, for the reasons of [`callsight_fold::Refusal`].
    pub refused: u64,
    /// Messages that are not valid frames, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Frames that the filter excludes.
    pub passed_over: u64,
    /// Steps of the window.
    pub steps: u64,
    /// Samples at all steps.
    pub samples: u64,
    /// The largest number of live sessions at a step.
    pub most_sessions: usize,
    /// When the first and the last message within the window were received.
    pub span: Option<(StreamTime, StreamTime)>,
}

impl Account {
    /// Counts what became of a message.
    pub(super) fn count(&mut self, fate: &Fate<'_>) {
        match fate {
            Fate::Rejected(rejection) => {
                *self.rejected.entry(rejection.reason.label()).or_default() += 1;
            }
            Fate::Taken(_, Outcome::Repeated) => self.repeated += 1,
            Fate::Taken(_, Outcome::Refused(_)) => self.refused += 1,
            Fate::Taken(_, outcome @ (Outcome::Folded | Outcome::Late)) => {
                self.folded += 1;
                self.late += u64::from(*outcome == Outcome::Late);
            }
        }
    }

    /// Messages rejected for any reason.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// Whether the window has neither a frame that the filter includes nor a live session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.folded + self.repeated + self.refused + self.rejected() == 0 && self.most_sessions == 0
    }
}
