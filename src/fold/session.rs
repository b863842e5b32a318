//! What the fold remembers of a session.

use std::sync::Arc;

use super::counters::Baseline;
use super::detail::{PairSeries, SessionSeries};
use super::population::{Health, ServerIndex};
use super::time::StreamTime;
use crate::frame::{Frame, MAX_PEERS};

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

/// The peers of a session. One that is gone keeps its baseline for a while: it may come back with the
/// counters that it left with.
#[derive(Default)]
pub(super) struct Peers {
    states: Vec<PeerState>,
    round: u32,
    /// Where the next peer probably is: clients list their peers in the same order each time.
    next: usize,
    series: usize,
}

impl Peers {
    /// Begins the next frame.
    pub(super) fn begin(&mut self) {
        self.round = self.round.wrapping_add(1);
        self.next = 0;
    }

    /// The state of a peer of this frame.
    pub(super) fn see(&mut self, peer_id: &str) -> &mut PeerState {
        let (round, count, expected) = (self.round, self.states.len(), self.next);
        let found = (expected..count)
            .chain(0..expected.min(count))
            .find(|index| *self.states[*index].peer_id == *peer_id);
        let index = found.unwrap_or_else(|| {
            let peer_id = peer_id.into();
            let state = PeerState { peer_id, baseline: Baseline::ZERO, series: None, refused: false, round };
            self.states.push(state);
            count
        });
        self.next = index + 1;
        let state = &mut self.states[index];
        state.round = round;
        state
    }

    /// Ends the frame: the series of peers that it didn't have go.
    pub(super) fn end(&mut self) {
        let round = self.round;
        self.series = 0;
        for state in &mut self.states {
            if state.round != round {
                state.series = None;
                state.refused = false;
            }
            self.series += usize::from(state.series.is_some());
        }
        if self.states.len() > 2 * MAX_PEERS {
            self.states.retain(|state| state.round == round);
        }
    }

    /// The number of peers with series, those among them that this frame may turn out not to have.
    pub(super) const fn with_series(&self) -> usize {
        self.series
    }

    /// A peer was given its series.
    pub(super) const fn count_series(&mut self) {
        self.series += 1;
    }

    /// All series go.
    pub(super) fn close(&mut self) {
        for state in &mut self.states {
            state.series = None;
            state.refused = false;
        }
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
