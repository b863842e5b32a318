//! The state of a session, live or remembered.
//!
//! Clients name as many sessions and peers as they like, so each must cost little: an ended session
//! or a departed peer keeps no more than a later frame may need.
//!
//! Invariant: a session holds at most the peers of its last frame and [`MAX_DEPARTED`] departed
//! ones.

use std::hash::BuildHasher;

use hashbrown::DefaultHashBuilder;

use super::counters::{Baseline, SendBaseline};
use super::detail::DetailRow;
use super::population::{GroupIndex, Health};
use super::time::StreamTime;
use callsight_frame::{Frame, JoinState, Peer};

/// A session: its watermark, the baselines of its counters, and its series while it is live.
pub(super) struct Session {
    /// The highest `seq` that was folded.
    pub(super) watermark: u64,
    /// The stream time of the last frame that was folded.
    pub(super) last_seen: StreamTime,
    /// When that frame was folded. The session is remembered for a while from then, live or not.
    pub(super) touched: StreamTime,
    /// When the expiry looks at it next; an entry for another moment is stale.
    pub(super) due: StreamTime,
    /// The meeting and the participant that the session belongs to; empty once it has ended.
    pub(super) meeting_id: Box<str>,
    pub(super) peer_id: Box<str>,
    /// Of an ended session, the hash of both: a flood leaves many of them.
    owner: u64,
    pub(super) peers: Peers,
    /// Allocated by the first frame that tells what the session sends.
    pub(super) sent: Option<Box<SendBaseline>>,
    /// How far its attempt to join was in its last frame that told.
    pub(super) join: Option<JoinState>,
    /// Whether the peers' baselines are the counters of the last frame.
    pub(super) followed: bool,
    /// `None` unless the session is live.
    pub(super) live: Option<Live>,
}

/// The part of a session that only a live one has.
pub(super) struct Live {
    pub(super) server: GroupIndex,
    pub(super) client: GroupIndex,
    pub(super) path: GroupIndex,
    pub(super) health: Health,
    pub(super) detail: DetailRow,
}

/// A peer that the session observes or has observed.
pub(super) struct PeerState {
    pub(super) baseline: Baseline,
    pub(super) detail: DetailRow,
    /// The offset and length of its identifier in [`Peers::names`].
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
}

/// The peers of a session. A departed one keeps its baseline for a while, since it may return with
/// the counters that it left with.
#[derive(Default)]
pub(super) struct Peers {
    states: Vec<PeerState>,
    /// The identifiers of all peers in one buffer: each frame is compared with all of them, and
    /// fetching each from an allocation of its own would take longer than comparing it.
    names: Vec<u8>,
    round: u32,
    /// How many peers the last frame had.
    present: usize,
    series: usize,
}

impl Peers {
    /// Begins a frame: finds the index of each of its peers, and removes the series of peers that
    /// it lacks. A peer that it has twice counts once, since its counters can't be told apart.
    /// Takes in at most `room` new peers, and returns how many it refused.
    pub(super) fn begin(
        &mut self,
        peers: &[Peer<'_>],
        mut room: usize,
        found: &mut Vec<Option<usize>>,
    ) -> u64 {
        if self.states.is_empty() {
            self.states.reserve_exact(peers.len().min(room));
            self.names.reserve_exact(peers.iter().map(|peer| peer.peer_id.as_str().len()).sum());
        }
        self.round = self.round.wrapping_add(1);
        found.clear();
        let (mut next, mut refused) = (0, 0);
        for peer in peers {
            let Some(index) = self.find(peer.peer_id.as_str(), next, &mut room) else {
                refused += 1;
                found.push(None);
                continue;
            };
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
                state.detail = DetailRow::Closed;
            }
            self.present += usize::from(state.round == round);
            if let Some(row) = state.detail.row() {
                self.series += 1;
                // The rows are scattered in memory. Requested here in one loop, they are fetched in
                // parallel; later, the processor would wait for each of them alone.
                fetched ^= row.fetch();
            }
        }
        std::hint::black_box(fetched);
        refused
    }

    /// Ends a frame: forgets the departed peers once there are many.
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

    /// The number of peers, present or remembered.
    pub(super) const fn len(&self) -> usize {
        self.states.len()
    }

    /// The index of a peer, which is added when it is new and there is room. Clients list their
    /// peers in the same order each time, so it is probably at `expected`.
    fn find(&mut self, peer_id: &str, expected: usize, room: &mut usize) -> Option<usize> {
        let count = self.states.len();
        let found = (expected..count)
            .chain(0..expected.min(count))
            .find(|index| self.states[*index].name(&self.names) == peer_id.as_bytes());
        found.or_else(|| {
            *room = room.checked_sub(1)?;
            self.states.push(PeerState {
                baseline: Baseline::ZERO,
                detail: DetailRow::Closed,
                name: place(&self.names),
                name_bytes: u8::try_from(peer_id.len()).unwrap_or(u8::MAX),
                round: self.round.wrapping_sub(1),
            });
            self.names.extend_from_slice(peer_id.as_bytes());
            Some(count)
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

    /// Counts one more peer with series.
    pub(super) const fn count_series(&mut self) {
        self.series += 1;
    }

    /// Removes the series of all peers.
    pub(super) fn close(&mut self) {
        self.states.iter_mut().for_each(|state| state.detail = DetailRow::Closed);
        self.series = 0;
    }
}

/// The offset of the next name.
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
            owner: 0,
            peers: Peers::default(),
            sent: None,
            join: None,
            followed: false,
            live: None,
        }
    }

    /// Reduces an ended session to its watermark and its owner.
    pub(super) fn end(&mut self, owners: &DefaultHashBuilder) {
        self.owner = owners.hash_one((&*self.meeting_id, &*self.peer_id));
        self.meeting_id = Box::default();
        self.peer_id = Box::default();
        self.peers = Peers::default();
        self.sent = None;
        self.join = None;
        self.followed = false;
    }

    /// Whether the frame is of the participant and the meeting that began the session.
    pub(super) fn belongs_to(&self, frame: &Frame<'_>, owners: &DefaultHashBuilder) -> bool {
        let (meeting_id, peer_id) = (frame.meeting_id.as_str(), frame.peer_id.as_str());
        if !self.meeting_id.is_empty() {
            return *self.meeting_id == *meeting_id && *self.peer_id == *peer_id;
        }
        self.owner == owners.hash_one((meeting_id, peer_id))
    }

    /// Takes the owner back that [`Self::end`] gave away.
    pub(super) fn revive(&mut self, frame: &Frame<'_>) {
        if self.meeting_id.is_empty() {
            self.meeting_id = frame.meeting_id.as_str().into();
            self.peer_id = frame.peer_id.as_str().into();
        }
    }
}
