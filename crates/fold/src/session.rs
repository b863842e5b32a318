//! What the fold remembers of a session.
//!
//! Sessions and peers come from outside, as many as a client likes to name, so what they cost is kept small:
//! what only live ones need is boxed, and what has ended or departed keeps no more than may still be asked for.

use super::counters::Baseline;
use super::detail::{PairSeries, SessionSeries};
use super::population::{Health, ServerIndex};
use super::time::StreamTime;
use callsight_frame::{Frame, Peer};

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
    pub(super) meeting_id: Box<str>,
    pub(super) peer_id: Box<str>,
    pub(super) peers: Peers,
    /// Whether the peers' counters are those of the last frame: what the next one's growth is taken against.
    pub(super) followed: bool,
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
    pub(super) baseline: Baseline,
    pub(super) series: Option<PairSeries>,
    /// Whether its row was refused, so that the refusal is counted once.
    pub(super) refused: bool,
    /// Where its identifier is among the names of all, and how long it is.
    name: u32,
    name_bytes: u8,
    /// The round in which it was last seen.
    round: u32,
}

/// How many departed peers a session remembers.
const MAX_DEPARTED: usize = 32;

impl PeerState {
    fn name<'a>(&self, names: &'a [u8]) -> &'a [u8] {
        &names[self.name as usize..][..usize::from(self.name_bytes)]
    }

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
    /// The identifiers of all, one behind the other: each frame is compared with all of them, and to fetch each
    /// from a place of its own would take longer than to compare it.
    names: Vec<u8>,
    round: u32,
    /// How many of them the last frame had.
    present: usize,
    series: usize,
}

impl Peers {
    /// Begins a frame: finds each of its peers a state, by index, and lets the series of peers that it doesn't
    /// have go. A peer that the frame has twice is taken once, for its counters can't be told apart.
    pub(super) fn begin(&mut self, peers: &[Peer<'_>], found: &mut Vec<Option<usize>>) {
        if self.states.is_empty() {
            self.states.reserve_exact(peers.len());
            self.names.reserve_exact(peers.iter().map(|peer| peer.peer_id.as_str().len()).sum());
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
        self.present = 0;
        let mut fetched = 0;
        for state in &mut self.states {
            if state.round != round {
                state.close();
            }
            self.present += usize::from(state.round == round);
            if let Some(series) = &state.series {
                self.series += 1;
                // The rows are all over the memory. Asked for one after the other here, they come at the same time; each
                // would be waited for alone when its turn comes.
                fetched ^= series.fetch();
            }
        }
        std::hint::black_box(fetched);
    }

    /// Ends a frame: once there are many departed peers, they are forgotten.
    pub(super) fn end(&mut self) {
        if self.states.len() > self.present + MAX_DEPARTED {
            let round = self.round;
            self.states.retain(|state| state.round == round);
            self.states.shrink_to_fit();
            let all = std::mem::take(&mut self.names);
            self.names.reserve_exact(self.states.iter().map(|state| usize::from(state.name_bytes)).sum());
            for state in &mut self.states {
                let name = state.name(&all);
                state.name = place(&self.names);
                self.names.extend_from_slice(name);
            }
        }
    }

    /// The peers that are there or remembered.
    pub(super) const fn len(&self) -> usize {
        self.states.len()
    }

    /// The state of a peer, which is added if there is none. Clients list their peers in the same order each
    /// time, so it is probably where it is `expected`.
    fn find(&mut self, peer_id: &str, expected: usize) -> usize {
        let count = self.states.len();
        let found = (expected..count)
            .chain(0..expected.min(count))
            .find(|index| self.states[*index].name(&self.names) == peer_id.as_bytes());
        found.unwrap_or_else(|| {
            self.states.push(PeerState {
                baseline: Baseline::ZERO,
                series: None,
                refused: false,
                name: place(&self.names),
                name_bytes: u8::try_from(peer_id.len()).unwrap_or(u8::MAX),
                round: self.round.wrapping_sub(1),
            });
            self.names.extend_from_slice(peer_id.as_bytes());
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

/// Where the next name will be.
#[expect(clippy::cast_possible_truncation, reason = "a few hundred identifiers of at most 128 bytes")]
const fn place(names: &[u8]) -> u32 {
    names.len() as u32
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
            followed: false,
            live: None,
        }
    }

    /// What it takes to remember the session: nothing extra while it is live.
    pub(super) const fn remembered(&self) -> usize {
        if self.live.is_some() { 0 } else { 1 + self.peers.len() }
    }

    /// Keeps no more of a session that is over than its watermark.
    pub(super) fn end(&mut self) {
        self.meeting_id = Box::default();
        self.peer_id = Box::default();
        self.peers = Peers::default();
        self.followed = false;
    }

    /// Whether the frame is of the same participant in the same meeting.
    pub(super) fn is(&self, frame: &Frame<'_>) -> bool {
        *self.meeting_id == *frame.meeting_id.as_str() && *self.peer_id == *frame.peer_id.as_str()
    }
}
