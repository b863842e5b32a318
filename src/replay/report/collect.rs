//! Gathers a few numbers of each step, and who had it worst.
//!
//! A window may have millions of frames and a hundred thousand steps. So each step is reduced to
//! its numbers at once.
//!
//! Invariant: what is kept of a step does not depend on how many frames came before it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::scores::{Point, Scoreboard};
use super::signals::{By, PerSignal, narrow};
use crate::insight::client::{ClientCounts, ClientKey, Clients};
use crate::insight::counters::{Grown, ServerKey, ratio};
use crate::insight::population::{Population, tenth};
use crate::insight::quantile::percentile;
use crate::insight::state::Threshold;
use crate::replay::account::Account;
use crate::replay::engine::EngineConfig;
use crate::replay::sample::{Step, Table};
use crate::replay::seen::{Fate, Seen};
use crate::replay::window::Window;
use callsight_fold::series::aggregates::{Evidence, Limitation};
use callsight_fold::series::catalogue::{self as c, Metric};
use callsight_fold::series::detail::DetailPlane;
use callsight_fold::series::judgement::Judgement;
use callsight_fold::series::labels::Labels;
use callsight_fold::{Outcome, StreamTime};

/// The most sessions, and pairs, whose timelines are kept at a time.
const TIMELINES: [usize; 2] = [4_096, 8_192];

/// The most sessions, and pairs, that have gone and are remembered by name.
const GONE: [usize; 2] = [50_000, 50_000];

/// The most points that a chart has along its time.
const POINTS: usize = 240;

/// Round-trip times of 50, 95 and 99 of 100 sessions, in seconds.
pub(crate) type Quantiles = [f64; 3];

/// The numbers of a scope at one step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ScopeStep {
    pub(crate) sessions: u32,
    /// Their participants, each once a meeting.
    pub(crate) participants: u32,
    pub(crate) meetings: u32,
    /// Sessions that are degraded, by [`By`].
    pub(crate) degraded: PerSignal<u32>,
    /// Meetings with such a session.
    pub(crate) meetings_degraded: PerSignal<u32>,
    /// Of each live session's last round-trip time.
    pub(crate) rtt: Option<Quantiles>,
    /// The share of NetEQ's decisions since the step before that were to expand.
    pub(crate) expand: Option<f64>,
    /// The share of the samples played since then that were concealed and audible.
    pub(crate) concealed: Option<f64>,
    /// The shares of the audio and video packets since then that were lost on the way, and of those
    /// that were sent.
    pub(crate) lost: Option<f64>,
    pub(crate) video_lost: Option<f64>,
    pub(crate) sent_lost: Option<f64>,
    /// What the degraded sessions tell of the reason, in the order of [`Evidence::ALL`].
    pub(crate) evidence: [u32; Evidence::ALL.len()],
    /// Sessions whose sent video is limited, in the order of [`Limitation::ALL`].
    pub(crate) limited: [u32; Limitation::ALL.len()],
    pub(crate) hidden: u32,
}

impl ScopeStep {
    /// Whether the scope is bad by a signal.
    pub(super) fn is_bad(&self, by: By, threshold: Threshold) -> bool {
        threshold.is_met(self.degraded[by as usize].into(), self.sessions.into())
    }

    /// The people of the scope at this step.
    pub(super) fn people(&self, clients: Clients) -> Population {
        let milliseconds = |seconds: f64| Some(tenth(seconds * 1e3));
        let [rtt_p50_ms, rtt_p95_ms, rtt_p99_ms] =
            self.rtt.map_or([None; 3], |quantiles| quantiles.map(milliseconds));
        let degraded = self.degraded[By::Any as usize];
        Population {
            meetings: self.meetings.into(),
            meetings_degraded: Some(self.meetings_degraded[By::Any as usize].into()),
            participants: self.participants.into(),
            sessions: self.sessions.into(),
            sessions_hidden: self.hidden.into(),
            sessions_degraded: degraded.into(),
            sessions_degraded_ratio: ratio(degraded.into(), self.sessions.into()).unwrap_or_default(),
            sessions_degraded_by: By::SIGNALS.map(|by| self.degraded[by as usize].into()),
            sessions_degraded_evidence: self.evidence.map(Into::into),
            sessions_limited: self.limited.map(Into::into),
            clients,
            rtt_p50_ms,
            rtt_p95_ms,
            rtt_p99_ms,
            audio_concealed_ratio: self.concealed,
            audio_packets_lost_ratio: self.lost,
            video_packets_lost_ratio: self.video_lost,
            sent_packets_lost_ratio: self.sent_lost,
            neteq_expand_ratio: self.expand,
            video_freezes_per_minute: None,
        }
    }

    /// The index of the step with the most degraded sessions, the earliest of several.
    pub(super) fn worst(moments: &[Self]) -> Option<usize> {
        (0..moments.len()).rev().max_by_key(|index| moments[*index].degraded[By::Any as usize])
    }
}

/// A region, or all together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    pub(crate) name: String,
    pub(crate) moments: Vec<ScopeStep>,
    /// The releases at the worst step so far, the earliest of several.
    pub(super) clients: Clients,
    worst: u32,
    sums: Grown,
}

impl Scope {
    /// The most degraded sessions at a step, by signal.
    pub(super) fn most_degraded(&self) -> PerSignal<u32> {
        self.moments.iter().fold(PerSignal::default(), |mut most, moment| {
            for (most, now) in most.iter_mut().zip(moment.degraded) {
                *most = now.max(*most);
            }
            most
        })
    }
}

/// A server's round-trip times, by point, each the largest of its steps.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServerTimes {
    /// The quantiles, NaN where nothing is known.
    pub(crate) points: Vec<[f32; 3]>,
    /// The most sessions at a step.
    pub(crate) most_sessions: usize,
}

/// Everything that the page is made of.
pub(crate) struct Collected {
    pub(crate) config: EngineConfig,
    /// The command that makes the page again, without the flags of the connection.
    pub(crate) command: String,
    pub(crate) at: Vec<StreamTime>,
    /// All regions together, and then each if there are several.
    scopes: Vec<Scope>,
    pub(crate) servers: BTreeMap<ServerKey, ServerTimes>,
    /// Who had it worst.
    pub(crate) sessions: Scoreboard,
    /// Which pairs had it worst.
    pub(crate) pairs: Scoreboard,
    /// The outcomes of the messages by region, in the order of the configuration.
    pub(crate) messages: Vec<Account>,
}

/// A scope at the step that is being looked at.
#[derive(Default)]
struct Tally<'a> {
    moment: ScopeStep,
    clients: HashMap<(Cow<'a, str>, Cow<'a, str>), ClientCounts>,
    rtt: Vec<f64>,
    meetings: HashMap<Cow<'a, str>, PerSignal<bool>>,
    participants: HashSet<(Cow<'a, str>, Cow<'a, str>)>,
}

impl Collected {
    pub(crate) fn new(config: EngineConfig, command: String) -> Self {
        let name = |name: &str| Scope { name: name.to_owned(), ..Scope::default() };
        let mut scopes: Vec<_> = config.regions.iter().map(|region| name(region.as_str())).collect();
        if scopes.len() > 1 {
            scopes.insert(0, name("all regions"));
        }
        let stride = stride(config.window);
        let [sessions, pairs] = [0, 1].map(|which| Scoreboard::new(stride, TIMELINES[which], GONE[which]));
        let messages = vec![Account::default(); config.regions.len()];
        let (at, servers) = (Vec::new(), BTreeMap::new());
        Self { config, command, at, scopes, servers, sessions, pairs, messages }
    }

    /// When a place is bad: by the threshold of the live page, but a reader who asks for single
    /// calls is interested in each session of them.
    pub(crate) const fn threshold(&self) -> Threshold {
        match self.config.filter.is_open() {
            true => Threshold::BAD,
            false => Threshold { sessions: 1, ..Threshold::BAD },
        }
    }

    /// The number of steps that a point of a chart stands for.
    pub(crate) fn stride(&self) -> usize {
        stride(self.config.window)
    }

    /// All regions together, or the only one.
    pub(crate) fn whole(&self) -> &Scope {
        &self.scopes[0]
    }

    pub(crate) fn regions(&self) -> &[Scope] {
        &self.scopes[usize::from(self.scopes.len() > 1)..]
    }

    /// The indices of the scopes that a region belongs to.
    fn scopes_of(&self, region: &str) -> impl Iterator<Item = usize> + use<> {
        let several = self.scopes.len() > 1;
        let own = self.config.regions.iter().position(|known| known.as_str() == region);
        own.map(|own| own + usize::from(several)).into_iter().chain(several.then_some(0))
    }

    /// Counts a message of the window.
    pub(crate) fn frame(&mut self, seen: &Seen<'_>) {
        let region = self.config.regions.iter().position(|region| region == seen.region);
        let Some(messages) = region.and_then(|index| self.messages.get_mut(index)) else { return };
        messages.count(&seen.fate);
        let Fate::Taken(frame, Outcome::Folded) = seen.fate else { return };
        let score = self.sessions.enter(frame.session_id.as_str(), || {
            let names = [seen.region.as_str(), frame.meeting_id.as_str(), frame.peer_id.as_str()];
            names.map(Into::into)
        });
        score.frames += 1;
        if let Some(server) = &frame.server {
            score.most_rtt = score.most_rtt.max(narrow(server.rtt_ms.unwrap_or(f64::NAN) / 1e3));
            score.on(server.url.as_str());
        }
    }

    /// Reduces all series at the next step to its numbers.
    pub(crate) fn step(&mut self, step: &Step) {
        let index = self.at.len();
        self.at.push(step.at);
        let mut tallies: Vec<Tally<'_>> = self.scopes.iter().map(|_| Tally::default()).collect();
        let mut by_server: BTreeMap<[Cow<'_, str>; 3], (usize, Vec<f64>)> = BTreeMap::new();
        let rtt_of = column(DetailPlane::Session, &c::SESSION_RTT);
        for (labels, values, judgement) in step.tables[DetailPlane::Session as usize].judged() {
            let [region, meeting, session, peer, url, kind, app, platform] = labels.values();
            let rtt = rtt_of(values);
            for scope in self.scopes_of(&region) {
                tallies[scope].add(meeting.clone(), peer.clone(), rtt, &judgement);
                tallies[scope].add_client(app.clone(), platform.clone(), &judgement);
            }
            let score = self
                .sessions
                .enter(&session, || [region.as_ref(), meeting.as_ref(), peer.as_ref()].map(Into::into));
            score.on(&url);
            score.of(&app, &platform, &judgement);
            self.sessions.see(&session, index, Point::of_session(rtt, &judgement));
            let (sessions, times) = by_server.entry([region, url, kind]).or_default();
            *sessions += 1;
            times.extend(Some(rtt).filter(|rtt| !rtt.is_nan()));
        }
        for (tally, scope) in tallies.into_iter().zip(&mut self.scopes) {
            let (moment, clients) = tally.close();
            let degraded = moment.degraded[By::Any as usize];
            if scope.moments.is_empty() || degraded > scope.worst {
                (scope.worst, scope.clients) = (degraded, clients);
            }
            scope.moments.push(moment);
        }
        let point = index / self.stride();
        for (labels, (sessions, times)) in by_server {
            self.servers.entry(labels.into()).or_default().take(point, sessions, times);
        }
        self.pairs(index, step);
        self.rates(step);
        self.sessions.settle(index);
        self.pairs.settle(index);
    }

    fn pairs(&mut self, index: usize, step: &Step) {
        let columns = [&c::PAIR_CAN_LISTEN, &c::PAIR_CAN_SEE].map(|metric| column(DetailPlane::Pair, metric));
        for (labels, values, judgement) in step.tables[DetailPlane::Pair as usize].judged() {
            // The region, the meeting, and who is heard or not; the session is a part of the name.
            let names = || {
                let [region, meeting, _, peer] = labels.values();
                [region, meeting, peer].map(|name| name.as_ref().into())
            };
            self.pairs.enter(labels.text(), names);
            let [can_listen, can_see] = columns.each_ref().map(|value| value(values) != 0.0);
            self.pairs.see(labels.text(), index, Point::of_pair(can_listen, can_see, &judgement));
        }
    }

    /// Computes the rates of counters since the step before.
    fn rates(&mut self, step: &Step) {
        let mut sums = vec![Grown::default(); self.scopes.len()];
        let mut add = |metric: &Metric, to: fn(&mut Grown, Labels<'_>, u64)| {
            let Some(table) = Table::index_of(metric) else { return };
            for (labels, values) in step.tables[table].iter() {
                let Some(region) = labels.get("region") else { continue };
                for scope in self.scopes_of(&region) {
                    to(&mut sums[scope], labels, whole(values[0]));
                }
            }
        };
        add(&c::NETEQ_OPERATIONS, |sums, labels, value| {
            sums.operations += value;
            if labels.get("operation").is_some_and(|operation| operation == "expand") {
                sums.expands += value;
            }
        });
        add(&c::SAMPLES, |sums, _, value| sums.samples += value);
        add(&c::CONCEALED_SAMPLES, |sums, _, value| sums.concealed += value);
        add(&c::SILENT_CONCEALED_SAMPLES, |sums, _, value| sums.silent += value);
        add(&c::PACKETS_RECEIVED, |sums, _, value| sums.received += value);
        add(&c::PACKETS_LOST, |sums, _, value| sums.lost += value);
        add(&c::VIDEO_PACKETS_RECEIVED, |sums, _, value| sums.video_received += value);
        add(&c::VIDEO_PACKETS_LOST, |sums, _, value| sums.video_lost += value);
        add(&c::SEND_AUDIO_PACKETS, |sums, _, value| sums.sent += value);
        add(&c::SEND_VIDEO_PACKETS, |sums, _, value| sums.sent += value);
        add(&c::SEND_AUDIO_PACKETS_LOST, |sums, _, value| sums.sent_lost += value);
        add(&c::SEND_VIDEO_PACKETS_LOST, |sums, _, value| sums.sent_lost += value);
        for (scope, now) in self.scopes.iter_mut().zip(sums) {
            let before = std::mem::replace(&mut scope.sums, now);
            let Some(moment) = scope.moments.last_mut() else { continue };
            let grown = scope.sums.since(&before);
            (moment.expand, moment.concealed) = (grown.expand_ratio(), grown.concealed_ratio());
            (moment.lost, moment.video_lost) = (grown.lost_ratio(), grown.video_lost_ratio());
            moment.sent_lost = grown.sent_lost_ratio();
        }
    }
}

/// The number of steps that a point of a chart stands for.
fn stride(Window { from, to, step, .. }: Window) -> usize {
    let steps = to.since(from).as_nanos() / step.as_nanos().max(1) + 1;
    usize::try_from(steps).unwrap_or(usize::MAX).div_ceil(POINTS).max(1)
}

/// Reads the value of a metric from a plane's rows: NaN, which says nothing, if the plane does not
/// have it.
fn column(plane: DetailPlane, metric: &Metric) -> impl Fn(&[f64]) -> f64 {
    let column = plane.columns().iter().position(|column| column.metric.name == metric.name);
    move |values| column.map_or(f64::NAN, |column| values[column])
}

/// A counter's value, which a step has as a float.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it counts, and NaN becomes zero"
)]
const fn whole(value: f64) -> u64 {
    value as u64
}

impl<'a> Tally<'a> {
    fn add(&mut self, meeting: Cow<'a, str>, peer: Cow<'a, str>, rtt: f64, judgement: &Judgement) {
        self.moment.sessions += 1;
        self.rtt.extend(Some(rtt).filter(|rtt| !rtt.is_nan()));
        let meeting_is = self.meetings.entry(meeting.clone()).or_default();
        for (by, is) in By::all_of(judgement).into_iter().enumerate() {
            self.moment.degraded[by] += u32::from(is);
            meeting_is[by] |= is;
        }
        if let Some(evidence) = judgement.evidence {
            self.moment.evidence[evidence as usize] += 1;
        }
        if let Some(by) = judgement.limited {
            self.moment.limited[by as usize] += 1;
        }
        self.moment.hidden += u32::from(judgement.hidden);
        self.participants.insert((meeting, peer));
    }

    fn add_client(&mut self, app: Cow<'a, str>, platform: Cow<'a, str>, judgement: &Judgement) {
        let degraded = judgement.is_degraded().into();
        self.clients.entry((app, platform)).or_default().add(ClientCounts { sessions: 1, degraded });
    }

    fn close(mut self) -> (ScopeStep, Clients) {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        self.moment.meetings = count(self.meetings.len());
        self.moment.participants = count(self.participants.len());
        for (by, meetings) in self.moment.meetings_degraded.iter_mut().enumerate() {
            *meetings = count(self.meetings.values().filter(|is| is[by]).count());
        }
        self.moment.rtt = quantiles(self.rtt);
        let clients = self.clients.into_iter().map(|((app, platform), counts)| {
            (ClientKey { app: app.into_owned(), platform: platform.into_owned() }, counts)
        });
        (self.moment, clients.collect())
    }
}

impl ServerTimes {
    fn take(&mut self, point: usize, sessions: usize, times: Vec<f64>) {
        self.most_sessions = self.most_sessions.max(sessions);
        if self.points.len() <= point {
            self.points.resize(point + 1, [f32::NAN; 3]);
        }
        if let Some(now) = quantiles(times) {
            for (most, now) in self.points[point].iter_mut().zip(now) {
                *most = most.max(narrow(now));
            }
        }
    }

    /// The largest of a quantile; NaN if there is none.
    pub(crate) fn most(&self, quantile: usize) -> f32 {
        self.points.iter().map(|point| point[quantile]).fold(f32::NAN, f32::max)
    }
}

/// The smallest values that 50, 95 and 99 of 100 do not exceed.
fn quantiles(mut values: Vec<f64>) -> Option<Quantiles> {
    let [p50, p95, p99] = [50, 95, 99].map(|percent| percentile(&mut values, percent));
    Some([p50?, p95?, p99?])
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Collected {
        /// Fills in the moments of each scope, for tests of what is made of them.
        pub(in super::super) fn fill(&mut self, moments: Vec<Vec<ScopeStep>>) {
            for (scope, moments) in self.scopes.iter_mut().zip(moments) {
                scope.moments = moments;
            }
        }
    }

    #[test]
    fn a_metric_that_a_plane_does_not_have_is_unknown() {
        let values = [0.25, 1.0, 0.0, 3.0];
        assert_eq!(column(DetailPlane::Session, &c::SESSION_RTT)(&values), 0.25);
        assert_eq!(column(DetailPlane::Session, &c::SESSION_VIDEO_ENABLED)(&values), 0.0);
        for metric in [&c::PAIR_CAN_LISTEN, &c::RTT] {
            assert!(column(DetailPlane::Session, metric)(&values).is_nan(), "{}", metric.name);
        }
    }

    #[test]
    fn quantiles_are_values_that_somebody_had() {
        assert_eq!(quantiles(Vec::new()), None);
        assert_eq!(quantiles(vec![0.3]), Some([0.3; 3]));
        assert_eq!(quantiles(vec![0.4, 0.1, 0.3, 0.2]), Some([0.2, 0.4, 0.4]));
        let hundred = (1..=100).rev().map(f64::from).collect();
        assert_eq!(quantiles(hundred), Some([50.0, 95.0, 99.0]));
    }

    #[test]
    fn a_tally_counts_meetings_and_participants_once() {
        let mut tally = Tally::default();
        let bad = Judgement { rtt: true, ..Judgement::NONE };
        for (meeting, peer, rtt, judgement) in [
            ("m1", "ann", 0.1, Judgement::NONE),
            ("m1", "ann", 0.5, bad),
            ("m1", "bo", 0.6, Judgement { audio: true, ..bad }),
            ("m2", "ann", f64::NAN, Judgement::NONE),
        ] {
            tally.add(meeting.into(), peer.into(), rtt, &judgement);
        }
        let expected = ScopeStep {
            sessions: 4,
            participants: 3,
            meetings: 2,
            degraded: [2, 1, 0, 0, 0, 2],
            meetings_degraded: [1, 1, 0, 0, 0, 1],
            rtt: Some([0.5, 0.6, 0.6]),
            ..ScopeStep::default()
        };
        assert_eq!(tally.close().0, expected);
    }

    #[test]
    fn a_servers_point_is_the_worst_of_its_steps() {
        let mut server = ServerTimes::default();
        server.take(1, 3, vec![0.1, 0.2, 0.3]);
        server.take(1, 2, vec![0.25, 0.25]);
        server.take(2, 0, Vec::new());
        assert!(server.points[0][0].is_nan() && server.points[2][0].is_nan());
        assert_eq!((server.points[1], server.most_sessions), ([0.25, 0.3, 0.3], 3));
        assert!((server.most(1) - 0.3).abs() < 1e-6);
    }
}
