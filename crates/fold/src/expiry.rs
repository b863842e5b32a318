//! When to look at a session again.
//!
//! Every frame moves its session's deadline, and moving an entry in a queue on every frame would cost more
//! than the fold. So a session has one entry, which is allowed to be early: when it comes up, whoever asked
//! looks at the session and puts it back at the deadline it has by then. Where a deadline has to come forward
//! the session gets another entry and remembers that one; the former is passed over when it comes up.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::time::StreamTime;

/// Sessions by the earliest moment at which they may have to go.
#[derive(Default)]
pub(super) struct Expiry(BinaryHeap<Reverse<(StreamTime, Arc<str>)>>);

impl Expiry {
    /// Puts a session in, to come up at a moment.
    pub(super) fn put(&mut self, at: StreamTime, session_id: Arc<str>) {
        self.0.push(Reverse((at, session_id)));
    }

    /// Takes out a session whose moment has come, and tells the moment.
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
