//! What the fold remembers of a session.

use std::sync::Arc;

use super::counters::Baseline;
use super::detail::{PairSeries, SessionSeries};
use super::population::{Health, ServerIndex};
use super::time::StreamTime;
use crate::frame::{Frame, MAX_PEERS, Peer};

/// A session: its watermark, what the next frame's growth is taken against, and its series while it is live.
pub(super) struct Session {
    /// The highest `seq` that was folded.
    pub(super) watermark: u64,
    /// The stream time of the last frame that was folded.
    pub(super) last_seen: StreamTime,
    /// When it was folded. Until some time after that the session is remembered, live or not.
    pub(super) touched: StreamTime,
    /// When it will be looked at: an entry of the expiry for another moment is out of date.
    pub(super) due: StreamTime,
    pub(super) meeting_id: Arc<str>,
    pub(super) peer_id: Arc<str>,
    pub(super) peers: Peers,
    /// There while the session is live.
    pub(super) live: Option<Live>,
}

/// A live session's part of the series.
pub(super) struct Live {
    pub(super) server: ServerIndex,
    pub(super) health: Health,
    pub(super) series: Option<SessionSeries>,
    /// Whether its row was refused, so that the refusal is counted once.
    pub(super) refused: bool,
}

impl Live {
    /// A session that just became live on a server, without detail yet.
    pub(super) fn on(server: ServerIndex) -> Self {
        Self { server, health: Health::default(), series: None, refused: false }
    }
}

/// A peer that the session observes, or has observed.
pub(super) struct PeerState {
    pub(super) peer_id: Box<str>,
    pub(super) baseline: Baseline,
    pub(super) series: Option<PairSeries>,
    /// Whether its row was refused, so that the refusal is counted once.
    pub(super) refused: bool,
    /// The round in which it was last seen.
    round: u32,
}

impl PeerState {
    fn close(&mut self) {
        self.series = None;
        self.refused = false;
    }
}

/// The peers of a session. One that is gone keeps its baseline for a while: it may come back with the
/// counters that it left with.
#[derive(Default)]
pub(super) struct Peers {
    states: Vec<PeerState>,
    round: u32,
    series: usize,
}

impl Peers {
    /// Begins a frame: finds each of its peers a state, by index, and lets the series of peers that it doesn't
    /// have go. A peer that the frame has twice is taken once, for its counters can't be told apart.
    pub(super) fn begin(&mut self, peers: &[Peer<'_>], found: &mut Vec<Option<usize>>) {
        if self.states.len() > 2 * MAX_PEERS {
            let round = self.round;
            self.states.retain(|state| state.round == round);
        }
        self.round = self.round.wrapping_add(1);
        found.clear();
        let mut next = 0;
        for peer in peers {
            let index = self.find(peer.peer_id.as_str(), next);
            next = index + 1;
            let state = &mut self.states[index];
            let again = std::mem::replace(&mut state.round, self.round) == self.round;
            found.push((!again).then_some(index));
        }
        let round = self.round;
        self.series = 0;
        for state in &mut self.states {
            if state.round != round {
                state.close();
            }
            self.series += usize::from(state.series.is_some());
        }
    }

    /// The state of a peer, which is added if there is none. Clients list their peers in the same order each
    /// time, so it is probably where it is `expected`.
    fn find(&mut self, peer_id: &str, expected: usize) -> usize {
        let count = self.states.len();
        let found = (expected..count)
            .chain(0..expected.min(count))
            .find(|index| *self.states[*index].peer_id == *peer_id);
        found.unwrap_or_else(|| {
            self.states.push(PeerState {
                peer_id: peer_id.into(),
                baseline: Baseline::ZERO,
                series: None,
                refused: false,
                round: self.round.wrapping_sub(1),
            });
            count
        })
    }

    /// The state at an index that [`Self::begin`] found.
    pub(super) fn get_mut(&mut self, index: usize) -> &mut PeerState {
        &mut self.states[index]
    }

    /// The number of peers with series.
    pub(super) const fn with_series(&self) -> usize {
        self.series
    }

    /// A peer was given its series.
    pub(super) const fn count_series(&mut self) {
        self.series += 1;
    }

    /// All series go.
    pub(super) fn close(&mut self) {
        self.states.iter_mut().for_each(PeerState::close);
        self.series = 0;
    }
}

impl Session {
    pub(super) fn new(frame: &Frame<'_>) -> Self {
        Self {
            watermark: 0,
            last_seen: StreamTime::default(),
            touched: StreamTime::default(),
            due: StreamTime::default(),
            meeting_id: frame.meeting_id.as_str().into(),
            peer_id: frame.peer_id.as_str().into(),
            peers: Peers::default(),
            live: None,
        }
    }

    /// Whether the frame is of the same participant in the same meeting.
    pub(super) fn is(&self, frame: &Frame<'_>) -> bool {
        *self.meeting_id == *frame.meeting_id.as_str() && *self.peer_id == *frame.peer_id.as_str()
    }
}
