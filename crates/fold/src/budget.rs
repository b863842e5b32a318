//! The budget for sessions, and for the peers that they observe.
//!
//! Whoever may publish can begin sessions by the thousand a second, each with hundreds of peers,
//! and the fold holds a state for each. A process has one memory, so its folds share one budget.
//!
//! Invariant: what is held of sessions and peers is bounded by `max_sessions` alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::session::Session;

/// How many peers may be followed for each session, on average.
const PEERS_A_SESSION: usize = 8;

/// How many sessions and peers may be remembered for each live session.
const REMEMBERED_A_SESSION: usize = 2;

/// The budget for live sessions of all folds of a process. Clones share it.
#[derive(Clone)]
pub struct SessionBudget(Arc<Counts>);

struct Counts {
    max_sessions: usize,
    live: AtomicUsize,
    /// The peers of live sessions.
    peers: AtomicUsize,
    /// Sessions that are not live but remembered, each counted with its peers.
    remembered: AtomicUsize,
}

impl SessionBudget {
    /// A budget for so many live sessions.
    #[must_use]
    pub fn new(max_sessions: usize) -> Self {
        let [live, peers, remembered] = Default::default();
        Self(Arc::new(Counts { max_sessions, live, peers, remembered }))
    }

    /// Takes the place of a live session, if there is one.
    pub(super) fn enter(&self) -> bool {
        // Reserving before comparing keeps two regions that fold at once from both taking the last
        // place.
        let taken = self.0.live.fetch_add(1, Relaxed) < self.0.max_sessions;
        if !taken {
            self.leave();
        }
        taken
    }

    /// Gives the place of a live session back.
    pub(super) fn leave(&self) {
        self.0.live.fetch_sub(1, Relaxed);
    }

    /// How many more peers may be followed.
    pub(super) fn room_for_peers(&self) -> usize {
        let max = self.0.max_sessions.saturating_mul(PEERS_A_SESSION);
        max.saturating_sub(self.0.peers.load(Relaxed))
    }

    /// Whether a session that is not live may be remembered.
    pub(super) fn may_remember(&self, session: &Session) -> bool {
        let max = self.0.max_sessions.saturating_mul(REMEMBERED_A_SESSION);
        self.remembered() + Holding::of(session).remembered <= max
    }

    /// Replaces what is held of a session.
    pub(super) fn replace(&self, before: Holding, now: Holding) {
        for (count, before, now) in [
            (&self.0.peers, before.peers, now.peers),
            (&self.0.remembered, before.remembered, now.remembered),
        ] {
            // Wrapping, an addition can also subtract.
            if before != now {
                count.fetch_add(now.wrapping_sub(before), Relaxed);
            }
        }
    }

    pub(super) fn remembered(&self) -> usize {
        self.0.remembered.load(Relaxed)
    }

    #[cfg(test)]
    pub(super) fn live(&self) -> usize {
        self.0.live.load(Relaxed)
    }

    #[cfg(test)]
    pub(super) fn peers(&self) -> usize {
        self.0.peers.load(Relaxed)
    }
}

/// What is held of a session, apart from its place among the live ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holding {
    /// The peers of a live session.
    peers: usize,
    /// A session that is not live, with its peers.
    remembered: usize,
}

impl Holding {
    pub(super) const NONE: Self = Self { peers: 0, remembered: 0 };

    pub(super) const fn of(session: &Session) -> Self {
        let peers = session.peers.len();
        if session.live.is_some() {
            Self { peers, remembered: 0 }
        } else {
            Self { peers: 0, remembered: 1 + peers }
        }
    }
}
