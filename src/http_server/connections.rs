//! Bounds the number of open connections.
//!
//! Many connections without a request must cost little and must not lock a scraper out. Making new
//! connections wait would lock it out for as long as a connection may be silent. So a new
//! connection is always admitted while at least one of the others is silent: it replaces the one
//! that has been silent for longest.
//!
//! Invariant: a connection whose request is being answered is never replaced.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use tokio::sync::Notify;

/// The open connections, at most a fixed number.
pub(super) struct Connections {
    most: usize,
    open: Mutex<Vec<Weak<Slot>>>,
}

/// A connection's slot, freed on drop.
pub(super) struct Slot {
    /// When its last request was answered; `None` while one is being answered.
    silent_since: Mutex<Option<Instant>>,
    replaced: Notify,
}

/// Marks a connection as being answered until it is dropped.
pub(super) struct Answering(Arc<Slot>);

impl Connections {
    pub(super) fn at_most(most: usize) -> Self {
        Self { most, open: Mutex::default() }
    }

    /// Returns a slot for a new connection; `None` if all slots are taken and being answered.
    pub(super) fn admit(&self, now: Instant) -> Option<Arc<Slot>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= self.most {
            // Looked for only now: one that is closed takes no more than its place in the list.
            open.retain(|slot| slot.strong_count() > 0);
        }
        if open.len() >= self.most {
            let silent_since = |slot: &Weak<Slot>| *slot.upgrade()?.silent_since();
            let silent =
                open.iter().enumerate().filter_map(|(index, slot)| Some((silent_since(slot)?, index)));
            let (_, index) = silent.min()?;
            if let Some(slot) = open.remove(index).upgrade() {
                slot.replaced.notify_one();
            }
        }
        let slot = Arc::new(Slot { silent_since: Mutex::new(Some(now)), replaced: Notify::new() });
        open.push(Arc::downgrade(&slot));
        Some(slot)
    }
}

impl Slot {
    /// Returns once another connection has taken the slot: this one must close.
    pub(super) async fn replaced(&self) {
        self.replaced.notified().await;
    }

    /// Marks the beginning of a request; it ends when the result is dropped.
    pub(super) fn answering(self: &Arc<Self>) -> Answering {
        *self.silent_since() = None;
        Answering(Arc::clone(self))
    }

    fn silent_since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.silent_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        *self.0.silent_since() = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    fn replaced(slot: &Slot) -> bool {
        slot.replaced().now_or_never().is_some()
    }

    #[test]
    fn the_longest_silent_is_replaced_and_the_answered_stay() {
        let connections = Connections::at_most(3);
        let start = Instant::now();
        let admit = |second| connections.admit(start + Duration::from_secs(second)).unwrap();
        let (first, second, third) = (admit(0), admit(1), admit(2));
        let answering = first.answering();
        let fourth = admit(3);
        assert!(replaced(&second) && !replaced(&first) && !replaced(&third) && !replaced(&fourth));
        // A replaced connection does not free the slot that another has.
        drop(second);
        let _others = [third.answering(), fourth.answering()];
        assert!(connections.admit(start).is_none());
        drop(answering);
        assert!(connections.admit(start).is_some());
        assert!(replaced(&first));
    }

    #[test]
    fn a_slot_is_freed() {
        let connections = Connections::at_most(1);
        let now = Instant::now();
        let slot = connections.admit(now).unwrap();
        let answering = slot.answering();
        assert!(connections.admit(now).is_none());
        drop((slot, answering));
        assert!(connections.admit(now).is_some());
    }
}
