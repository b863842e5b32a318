//! How many connections are open, and which of them has to go for another.
//!
//! A crowd of connections that say nothing must cost little, and must not keep a scraper out. To let newcomers wait
//! would: the crowd holds its places for as long as it may be silent. So a newcomer is always let in, and takes the
//! place of the one that has been without a request for longest. Who is being answered is never pushed out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

/// All open connections.
pub(super) struct Connections {
    most: usize,
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    next: u64,
    taken: HashMap<u64, Place>,
}

struct Place {
    /// Since when it has no request; nothing while it has.
    silent_since: Option<Instant>,
    leave: Arc<Notify>,
}

/// A connection's place, which it gives back at its end.
pub(super) struct Slot {
    connections: Arc<Connections>,
    number: u64,
    leave: Arc<Notify>,
}

/// While it lives, its connection is being answered.
pub(super) struct Answering(Arc<Slot>);

impl Connections {
    pub(super) fn at_most(most: usize) -> Arc<Self> {
        Arc::new(Self { most, places: Mutex::default() })
    }

    /// A place for a new connection, another's if need be; none when all are being answered.
    pub(super) fn admit(self: &Arc<Self>, now: Instant) -> Option<Arc<Slot>> {
        let mut places = self.places();
        if places.taken.len() >= self.most {
            let silent =
                places.taken.iter().filter_map(|(number, place)| Some((place.silent_since?, *number))).min();
            let (_, number) = silent?;
            if let Some(place) = places.taken.remove(&number) {
                place.leave.notify_one();
            }
        }
        let number = places.next;
        places.next += 1;
        let leave = Arc::new(Notify::new());
        let place = Place { silent_since: Some(now), leave: Arc::clone(&leave) };
        places.taken.insert(number, place);
        Some(Arc::new(Slot { connections: Arc::clone(self), number, leave }))
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Returns when the connection has to go for another.
    pub(super) async fn lost(&self) {
        self.leave.notified().await;
    }

    /// A request has come; it lasts until its answer has been handed over.
    pub(super) fn answering(self: &Arc<Self>) -> Answering {
        self.set_silent_since(None);
        Answering(Arc::clone(self))
    }

    fn set_silent_since(&self, moment: Option<Instant>) {
        if let Some(place) = self.connections.places().taken.get_mut(&self.number) {
            place.silent_since = moment;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connections.places().taken.remove(&self.number);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.set_silent_since(Some(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    fn lost(slot: &Slot) -> bool {
        slot.lost().now_or_never().is_some()
    }

    #[test]
    fn the_longest_silent_goes_and_who_is_answered_stays() {
        let connections = Connections::at_most(3);
        let start = Instant::now();
        let admit = |second| connections.admit(start + Duration::from_secs(second)).unwrap();
        let (first, second, third) = (admit(0), admit(1), admit(2));
        let answering = first.answering();
        let fourth = admit(3);
        assert!(lost(&second) && !lost(&first) && !lost(&third) && !lost(&fourth));
        // One that was pushed out does not give back a place that another has.
        drop(second);
        let _others = [third.answering(), fourth.answering()];
        assert!(connections.admit(start).is_none());
        drop(answering);
        assert!(connections.admit(start).is_some());
        assert!(lost(&first));
    }

    #[test]
    fn a_place_is_given_back() {
        let connections = Connections::at_most(1);
        let now = Instant::now();
        let slot = connections.admit(now).unwrap();
        let answering = slot.answering();
        assert!(connections.admit(now).is_none());
        drop((slot, answering));
        assert!(connections.admit(now).is_some());
    }
}
