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
use super::counters::{Growth, MostGrowth, PeerGrowth, SendGrowth};
use super::degraded::Losses;
use super::detail::{DetailRow, set_pair, set_session};
use super::population::{
    ByClient, ByPath, GroupIndex, GroupName, Groups, Health, Meetings, NONE, Servers, replace_degraded,
    replace_health,
};
use super::rates;
use super::session::{Live, Session};
use super::settings::{DetailLevel, FoldSettings};
use super::time::StreamTime;
use crate::series::aggregates::{AggregateRecorder, Limit, RegionSeries, Removal, ServerSeries};
use crate::series::detail::{DetailPlane, DetailStore};
use crate::series::judgement::Judgement;
use callsight_frame::subject::Region;
use callsight_frame::{Frame, JoinFailure, JoinState, Peer};

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
    /// The `seq` of the frame before.
    pub(super) watermark: u64,
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
    clients: Groups<ByClient>,
    paths: Groups<ByPath>,
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
            servers: Groups::new(region.as_str(), Arc::clone(&recorder), settings.limits.server_urls),
            clients: Groups::new(region.as_str(), Arc::clone(&recorder), settings.limits.apps),
            // Both of its names are of closed vocabularies.
            paths: Groups::new(region.as_str(), recorder, usize::MAX),
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
        let most = MostGrowth::within(step.passed);
        let sent = self.fold_sending(session, frame, step, on, &most);
        let (peers, mut judgement) = self.fold_peers(session, frame, (step, &most, &sent), on, pairs);
        self.fold_join(session, frame, step);
        if step.counting
            && let Some(rtt_ms) = frame.server.as_ref().and_then(|server| server.rtt_ms)
        {
            self.servers.get(on).series.rtt.record(rtt_ms / 1e3);
        }
        if step.alive
            && let Some(live) = &mut session.live
        {
            // As with its group, what a frame lacks stays.
            let (before, path) = (live.health.judgement, frame.path.as_ref());
            judgement.candidate_type = path.and_then(|path| path.candidate_type).or(before.candidate_type);
            judgement.protocol = path.and_then(|path| path.protocol).or(before.protocol);
            if let Some(row) = live.detail.row() {
                set_session(row, frame, session.last_seen, sent.loss, judgement);
            }
            let health = Health::new(peers, judgement);
            let before = std::mem::replace(&mut live.health, health);
            self.replace_health(live, before, health);
        }
    }

    /// Replaces a session's part of the gauges.
    fn replace_health(&self, live: &Live, before: Health, now: Health) {
        replace_health(&self.servers.get(live.server).series, before, now);
        replace_degraded(&self.clients.get(live.client).series, before, now);
        replace_degraded(&self.paths.get(live.path).series, before, now);
    }

    /// Finds the server that a frame counts on. A session that is alive joins it, and first leaves
    /// the server or the release that it moved from.
    fn place(&mut self, session: &mut Session, frame: &Frame<'_>, step: Step) -> GroupIndex {
        let server = frame.server.as_ref();
        let name = server.map_or((NONE, NONE), |server| (server.url.as_str(), server.server_type.label()));
        let on = match &session.live {
            Some(live) if self.servers.get(live.server).is(name) => live.server,
            // A last frame is often a short one.
            Some(live) if !step.alive && server.is_none() => live.server,
            _ => self.servers.find(name, session.touched),
        };
        if !step.alive {
            return on;
        }
        let client = match (&session.live, client_of(frame)) {
            (Some(live), None) => live.client,
            (Some(live), Some(name)) if self.clients.get(live.client).is(name) => live.client,
            (_, name) => self.clients.find(name.unwrap_or((NONE, NONE)), session.touched),
        };
        let path = match (&session.live, path_of(frame)) {
            (Some(live), None) => live.path,
            (Some(live), Some(name)) if self.paths.get(live.path).is(name) => live.path,
            (_, name) => self.paths.find(name.unwrap_or((NONE, NONE)), session.touched),
        };
        if session.live.as_ref().is_some_and(|live| live.server != on || live.client != client) {
            self.leave(session, Removal::Moved, session.touched, step.counting);
        }
        match &mut session.live {
            None => {
                self.meetings.join(&mut self.servers, &session.meeting_id, &session.peer_id, on);
                self.enter(client, path);
                self.live_sessions += 1;
                let (health, detail) = (Health::NONE, DetailRow::Closed);
                session.live = Some(Live { server: on, client, path, health, detail });
                if self.servers.is_overflow(on) {
                    self.own.refused(Limit::ServerUrls).increment(1);
                }
                if self.clients.is_overflow(client) {
                    self.own.refused(Limit::Apps).increment(1);
                }
            }
            Some(live) if live.path != path => {
                // The row stays, since a path is not among its labels.
                replace_degraded(&self.paths.get(live.path).series, live.health, Health::NONE);
                let left = self.paths.get_mut(std::mem::replace(&mut live.path, path));
                left.leave(session.touched);
                left.series.sessions.decrement(1);
                let entered = self.paths.get_mut(path);
                entered.enter();
                entered.series.sessions.increment(1);
                replace_degraded(&entered.series, Health::NONE, live.health);
            }
            Some(_) => {}
        }
        on
    }

    /// Counts a session in the groups of its release and of its path.
    fn enter(&mut self, client: GroupIndex, path: GroupIndex) {
        let (client, path) = (self.clients.get_mut(client), self.paths.get_mut(path));
        client.enter();
        client.series.sessions.increment(1);
        path.enter();
        path.series.sessions.increment(1);
    }

    /// Counts what the session sends on its server, and returns how that has grown.
    fn fold_sending(
        &self,
        session: &mut Session,
        frame: &Frame<'_>,
        step: Step,
        on: GroupIndex,
        most: &MostGrowth,
    ) -> SendGrowth {
        if frame.send.is_none() && frame.path.is_none() {
            return SendGrowth::default();
        }
        let grown = session.sent.get_or_insert_default().advance(frame, most, step.passed);
        let grown = if step.growing { grown } else { SendGrowth::default() };
        if step.counting {
            let series = &self.servers.get(on).series;
            grown.apply(series, &self.own);
            if let Some(send) = &frame.send {
                if let Some(rtt_ms) = send.rtt_ms {
                    series.send_rtt.record(rtt_ms / 1e3);
                }
                record_height(&series.send_frame_height, send.frame_height);
            }
        }
        grown
    }

    /// Counts an attempt to join when it ends. One that had ended before the session was first seen
    /// was counted elsewhere.
    fn fold_join(&self, session: &mut Session, frame: &Frame<'_>, step: Step) {
        let Some(join) = &frame.join else { return };
        let before = session.join.replace(join.state);
        if before == Some(join.state) || !(step.growing && step.counting) {
            return;
        }
        match join.state {
            JoinState::Joined => {
                self.own.joins(None).increment(1);
                if let Some(setup_ms) = join.setup_ms {
                    self.own.join_time.record(setup_ms / 1e3);
                }
            }
            JoinState::Failed => {
                self.own.joins(Some(join.reason.unwrap_or(JoinFailure::Other))).increment(1);
            }
            JoinState::Joining | JoinState::Other => {}
        }
    }

    /// Takes what a frame says of each peer: counts it on the server, and sets the pair's row if
    /// `pairs` have rows. Returns their number, and the judgement of the session with its peers.
    fn fold_peers(
        &mut self,
        session: &mut Session,
        frame: &Frame<'_>,
        (step, most, sent): (Step, &MostGrowth, &SendGrowth),
        on: GroupIndex,
        pairs: bool,
    ) -> (usize, Judgement) {
        let thresholds = &self.settings.thresholds;
        let (mut growth, mut losses) = (Growth::default(), Losses::default());
        let (mut peers, mut judgement) = (0, Judgement::of_session(frame, sent, thresholds));
        let (region, series) = (&*self.region, &self.servers.get(on).series);
        let refused = session.peers.begin(&frame.peers, self.budget.room_for_peers(), &mut self.found);
        if refused > 0 {
            self.own.refused(Limit::Peers).increment(refused);
            self.unfolded.peers += refused;
        }
        let time = rates::time_of(frame, step);
        let mut rates = frame.rates.iter();
        for (peer, index) in frame.peers.iter().zip(&self.found) {
            let rates = rates.next();
            let Some(index) = *index else { continue };
            peers += 1;
            let room = session.peers.with_series() < self.settings.limits.peers_per_session;
            let state = session.peers.get_mut(index);
            let grown = state.baseline.advance(peer, most, &mut growth);
            let mut grown = if step.growing { grown } else { PeerGrowth::default() };
            let counted;
            let peer = match rates {
                Some(Some(rates)) => {
                    grown.concealment = rates::concealment(peer, rates);
                    counted = state.baseline.advance_at(peer, rates, time, most, &mut growth);
                    &counted
                }
                _ => peer,
            };
            let of_peer = Judgement::of_peer(frame, peer, &grown, thresholds);
            judgement.add_peer(&of_peer);
            losses.add(&grown, &of_peer, thresholds);
            if step.counting {
                if let Some(buffer_ms) = peer.audio.as_ref().and_then(|audio| audio.buffer_ms) {
                    series.audio_buffer.record(buffer_ms / 1e3);
                }
                if let Some(ratio) = grown.concealment {
                    series.concealment.record(ratio);
                }
                record_heights(series, peer);
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
        if step.growing && step.counting {
            growth.apply(series, &self.own);
        }
        judgement.explain(frame, losses);
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
            let (server, client) = (self.servers.get(live.server), self.clients.get(live.client));
            let labels = [
                &*self.region,
                frame.meeting_id.as_str(),
                frame.session_id.as_str(),
                frame.peer_id.as_str(),
                &server.name,
                server.kind,
                &client.name,
                client.kind,
            ];
            let (row, limit) = ((DetailPlane::Session, &labels[..]), (room, Limit::SessionsPerMeeting));
            meeting.detailed += usize::from(live.detail.open(&self.detail, row, limit, &self.own));
        }
        live.detail.row().is_some()
            && self.settings.detail == DetailLevel::Pair
            && meeting.sessions <= self.settings.pair_max_sessions
    }

    /// Removes the servers, releases and paths that nobody has used for `--server-idle`.
    pub(super) fn remove_idle_groups(&mut self, now: StreamTime) {
        let idle = self.settings.server_idle;
        self.servers.remove_idle(idle, now);
        self.clients.remove_idle(idle, now);
        self.paths.remove_idle(idle, now);
    }

    /// Ends a session's life at a moment: removes its series, and takes it out of the population.
    pub(super) fn leave(&mut self, session: &mut Session, cause: Removal, at: StreamTime, counting: bool) {
        let Some(live) = session.live.take() else { return };
        self.replace_health(&live, live.health, Health::NONE);
        let (client, path) = (self.clients.get_mut(live.client), self.paths.get_mut(live.path));
        client.leave(at);
        client.series.sessions.decrement(1);
        path.leave(at);
        path.series.sessions.decrement(1);
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

/// The release and the platform of a session, if its frame names one of them.
fn client_of<'a>(frame: &Frame<'a>) -> Option<GroupName<'a>> {
    let client = frame.client.as_ref().filter(|client| client.app.is_some() || client.platform.is_some())?;
    let app = client.app.as_ref().map_or(NONE, |app| app.as_str());
    Some((app, client.platform.map_or(NONE, |platform| platform.label())))
}

/// The local candidate and the protocol of a session's path, if its frame names one of them.
fn path_of(frame: &Frame<'_>) -> Option<GroupName<'static>> {
    let path = frame.path.as_ref()?;
    let path = (path.candidate_type.is_some() || path.protocol.is_some()).then_some(path)?;
    let candidate_type = path.candidate_type.map_or(NONE, |candidate_type| candidate_type.label());
    Some((candidate_type, path.protocol.map_or(NONE, |protocol| protocol.label())))
}

#[expect(clippy::cast_precision_loss, reason = "a frame has at most some thousand lines")]
fn record_height(histogram: &metrics::Histogram, height: Option<u64>) {
    if let Some(height) = height {
        histogram.record(height as f64);
    }
}

fn record_heights(series: &ServerSeries, peer: &Peer<'_>) {
    for video in [&peer.video, &peer.screen].into_iter().flatten() {
        record_height(&series.frame_height, video.frame_height);
    }
}
