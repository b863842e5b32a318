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

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Drops the entries that are stale.
    pub(super) fn retain(&mut self, current: impl Fn(StreamTime, &str) -> bool) {
        self.0.retain(|Reverse((at, session_id))| current(*at, session_id));
        self.shrink();
    }

    /// Gives back the memory of a queue that was much longer.
    pub(super) fn shrink(&mut self) {
        if self.0.len() < self.0.capacity() / 8 {
            self.0.shrink_to(self.0.len() * 2);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
