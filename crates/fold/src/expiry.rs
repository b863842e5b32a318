//! The queue of sessions that may expire.
//!
//! Every frame moves its session's deadline, and moving an entry of a queue on every frame would
//! cost more than the fold. So an entry may be early: when it is due, the fold looks at the session
//! and requeues it at its present deadline. A session whose deadline comes forward gets a second
//! entry and remembers its moment; the stale one is skipped.
//!
//! Invariant: a session never has a deadline before its earliest entry.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::time::StreamTime;

/// Sessions by the earliest moment at which they may expire.
#[derive(Default)]
pub(super) struct Expiry(BinaryHeap<Reverse<(StreamTime, Arc<str>)>>);

impl Expiry {
    /// Queues a session for a moment.
    pub(super) fn put(&mut self, at: StreamTime, session_id: Arc<str>) {
        self.0.push(Reverse((at, session_id)));
    }

    /// Takes out a session whose moment has come, with that moment.
    pub(super) fn take_due(&mut self, now: StreamTime) -> Option<(Arc<str>, StreamTime)> {
        let Reverse((at, _)) = self.0.peek()?;
        if *at > now {
            return None;
        }
        self.0.pop().map(|Reverse((at, session_id))| (session_id, at))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
