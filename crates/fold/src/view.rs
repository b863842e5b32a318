//! The bounded view of a region: its live sessions, their rows, and its totals.
//!
//! A frame touches everything at once: the population of servers and meetings, the row of its
//! session and of each pair, counters and histograms. The view does so in one pass over the peers.
//!
//! Invariant: a live session counts on exactly one server, and its part of the gauges is what its
//! last frame said.

use std::sync::Arc;
use std::time::Duration;

use super::Outcome;
use super::budget::SessionBudget;
use super::counters::{Growth, MostGrowth};
use super::detail::{DetailRow, set_pair, set_session};
use super::population::{Health, Meetings, NO_SERVER, ServerIndex, Servers};
use super::session::{Live, Session};
use super::settings::{DetailLevel, FoldSettings};
use super::time::StreamTime;
use crate::series::aggregates::{AggregateRecorder, Limit, RegionSeries, Removal};
use crate::series::detail::{DetailPlane, DetailStore};
use crate::series::judgement::Judgement;
use callsight_frame::Frame;
use callsight_frame::subject::Region;

/// A clock that is more than a day off is wrong, no matter by how much; one that has lost its
/// battery is decades off, and would leave nothing of the others in the sum.
const MAX_SKEW: Duration = Duration::from_secs(24 * 60 * 60);

/// What a frame may change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// Gauges: its session is live.
    pub(super) alive: bool,
    /// Growth: its counters have a baseline.
    pub(super) growing: bool,
    /// Counters and histograms: it was not counted before.
    pub(super) counting: bool,
    /// The stream time since the session's frame before.
    pub(super) passed: Duration,
}

/// What the budget for sessions kept out of the fold, and with it out of the aggregates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unfolded {
    /// Frames of further sessions.
    pub frames: u64,
    /// Further peers, once for each frame that has them.
    pub peers: u64,
}

/// The state behind the series of a region.
pub(super) struct View {
    region: Box<str>,
    settings: FoldSettings,
    servers: Servers,
    meetings: Meetings,
    live_sessions: usize,
    detail: DetailStore,
    budget: SessionBudget,
    own: Arc<RegionSeries>,
    pub(super) unfolded: Unfolded,
    /// For each peer of the present frame, its index in the session. Kept to reuse its memory.
    found: Vec<Option<usize>>,
}

impl View {
    pub(super) fn new(
        region: &Region,
        settings: FoldSettings,
        recorder: Arc<AggregateRecorder>,
        detail: DetailStore,
        budget: SessionBudget,
        own: Arc<RegionSeries>,
    ) -> Self {
        Self {
            region: region.as_str().into(),
            settings,
            servers: Servers::new(region.as_str(), recorder, settings.limits.server_urls),
            meetings: Meetings::default(),
            live_sessions: 0,
            detail,
            budget,
            own,
            unfolded: Unfolded::default(),
            found: Vec::new(),
        }
    }

    pub(super) const fn settings(&self) -> &FoldSettings {
        &self.settings
    }

    pub(super) const fn live_sessions(&self) -> usize {
        self.live_sessions
    }

    /// For how many participants the largest meeting has memory.
    #[cfg(test)]
    pub(super) fn largest_meeting(&self) -> usize {
        self.meetings.largest()
    }

    /// Counts a frame by its outcome.
    pub(super) fn count(&self, outcome: Outcome, frame: &Frame<'_>, at: StreamTime, now: StreamTime) {
        match outcome {
            Outcome::Repeated => return self.own.repeated.increment(1),
            Outcome::Refused(refusal) => return self.own.frames_refused(refusal).increment(1),
            Outcome::Late => self.own.late.increment(1),
            Outcome::Folded => {}
        }
        self.own.folded.increment(1);
        self.own.latency.record(now.since(at).as_secs_f64());
        let sent_at = StreamTime::from_unix_nanos(i128::from(frame.sent_at_ms) * 1_000_000);
        let skew = at.since(sent_at).max(sent_at.since(at)).min(MAX_SKEW);
        self.own.clock_skew.record(skew.as_secs_f64());
    }

    /// Takes the values of a frame that is above its session's watermark.
    pub(super) fn fold(&mut self, session: &mut Session, frame: &Frame<'_>, step: Step) {
        let on = self.place(session, frame, step);
        let pairs = step.alive && self.open_session(session, frame);
        if !pairs {
            session.peers.close();
        }
        let (peers, judgement) = self.fold_peers(session, frame, step, on, pairs);
        if step.counting
            && let Some(rtt_ms) = frame.server.as_ref().and_then(|server| server.rtt_ms)
        {
            self.servers.get(on).series.rtt.record(rtt_ms / 1e3);
        }
        if step.alive
            && let Some(live) = &mut session.live
        {
            if let Some(row) = live.detail.row() {
                set_session(row, frame, session.last_seen, judgement);
            }
            let health = Health::new(peers, judgement);
            let before = std::mem::replace(&mut live.health, health);
            self.servers.replace_health(on, before, health);
        }
    }

    /// Finds the server that a frame counts on. A session that is alive joins it, and first leaves
    /// the server that it moved from.
    fn place(&mut self, session: &mut Session, frame: &Frame<'_>, step: Step) -> ServerIndex {
        let server = frame.server.as_ref();
        let name = server.map_or(NO_SERVER, |server| (server.url.as_str(), server.server_type.label()));
        let on = match &session.live {
            Some(live) if self.servers.get(live.server).is(name) => live.server,
            // A last frame is often a short one.
            Some(live) if !step.alive && server.is_none() => live.server,
            _ => self.servers.find(name, session.touched),
        };
        if !step.alive {
            return on;
        }
        if session.live.as_ref().is_some_and(|live| live.server != on) {
            self.leave(session, Removal::Moved, session.touched, step.counting);
        }
        if session.live.is_none() {
            self.meetings.join(&mut self.servers, &session.meeting_id, &session.peer_id, on);
            self.live_sessions += 1;
            session.live = Some(Live { server: on, health: Health::NONE, detail: DetailRow::Closed });
            if self.servers.is_overflow(on) {
                self.own.refused(Limit::ServerUrls).increment(1);
            }
        }
        on
    }

    /// Takes what a frame says of each peer: counts it on the server, and sets the pair's row if
    /// `pairs` have rows. Returns their number, and the judgement of the session with its peers.
    fn fold_peers(
        &mut self,
        session: &mut Session,
        frame: &Frame<'_>,
        step: Step,
        on: ServerIndex,
        pairs: bool,
    ) -> (usize, Judgement) {
        let thresholds = &self.settings.thresholds;
        let (mut growth, most) = (Growth::default(), MostGrowth::within(step.passed));
        let (mut peers, mut judgement) = (0, Judgement::of_session(frame, thresholds));
        let (region, series) = (&*self.region, &self.servers.get(on).series);
        let refused = session.peers.begin(&frame.peers, self.budget.room_for_peers(), &mut self.found);
        if refused > 0 {
            self.own.refused(Limit::Peers).increment(refused);
            self.unfolded.peers += refused;
        }
        for (peer, index) in frame.peers.iter().zip(&self.found) {
            let Some(index) = *index else { continue };
            peers += 1;
            let room = session.peers.with_series() < self.settings.limits.peers_per_session;
            let state = session.peers.get_mut(index);
            let grown = state.baseline.advance(peer, &most);
            let grown = if step.growing { grown } else { Growth::default() };
            let concealment = grown.concealment_ratio(peer);
            let of_peer = Judgement::of_peer(frame, peer, concealment, grown.freezes(), thresholds);
            judgement.add_peer(&of_peer);
            if step.counting {
                growth.add(&grown);
                if let Some(buffer_ms) = peer.audio.as_ref().and_then(|audio| audio.buffer_ms) {
                    series.audio_buffer.record(buffer_ms / 1e3);
                }
                if let Some(ratio) = concealment {
                    series.concealment.record(ratio);
                }
            }
            if pairs {
                let labels =
                    [region, frame.meeting_id.as_str(), frame.session_id.as_str(), peer.peer_id.as_str()];
                let (row, limit) = ((DetailPlane::Pair, &labels[..]), (room, Limit::PeersPerSession));
                let opened =
                    state.detail.row().is_none() && state.detail.open(&self.detail, row, limit, &self.own);
                if let Some(row) = state.detail.row() {
                    set_pair(row, peer, of_peer);
                }
                if opened {
                    session.peers.count_series();
                }
            }
        }
        session.peers.end();
        if step.counting {
            growth.apply(series, &self.own);
        }
        (peers, judgement)
    }

    /// Gives a live session its row if there is room. Returns whether its pairs may have rows.
    fn open_session(&mut self, session: &mut Session, frame: &Frame<'_>) -> bool {
        if self.settings.detail == DetailLevel::Off {
            return false;
        }
        let Some(live) = &mut session.live else { return false };
        let Some(meeting) = self.meetings.get_mut(&session.meeting_id) else { return false };
        if live.detail.row().is_none() {
            let room = meeting.detailed < self.settings.limits.sessions_per_meeting;
            let server = self.servers.get(live.server);
            let labels = [
                &*self.region,
                frame.meeting_id.as_str(),
                frame.session_id.as_str(),
                frame.peer_id.as_str(),
                &server.url,
                server.server_type,
            ];
            let (row, limit) = ((DetailPlane::Session, &labels[..]), (room, Limit::SessionsPerMeeting));
            meeting.detailed += usize::from(live.detail.open(&self.detail, row, limit, &self.own));
        }
        live.detail.row().is_some()
            && self.settings.detail == DetailLevel::Pair
            && meeting.sessions <= self.settings.pair_max_sessions
    }

    /// Removes the servers that nobody has used for `--server-idle`.
    pub(super) fn remove_idle_servers(&mut self, now: StreamTime) {
        self.servers.remove_idle(self.settings.server_idle, now);
    }

    /// Ends a session's life at a moment: removes its series, and takes it out of the population.
    pub(super) fn leave(&mut self, session: &mut Session, cause: Removal, at: StreamTime, counting: bool) {
        let Some(live) = session.live.take() else { return };
        self.servers.replace_health(live.server, live.health, Health::NONE);
        if live.detail.row().is_some()
            && let Some(meeting) = self.meetings.get_mut(&session.meeting_id)
        {
            meeting.detailed -= 1;
        }
        let who = (&*session.meeting_id, &*session.peer_id);
        self.meetings.leave(&mut self.servers, who, live.server, at);
        session.peers.close();
        self.live_sessions -= 1;
        if cause != Removal::Moved {
            self.budget.leave();
        }
        if counting {
            self.own.removed(cause).increment(1);
        }
    }
}
