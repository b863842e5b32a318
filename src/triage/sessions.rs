//! Reads the session rows: present round-trip times, degraded meetings, and the worst sessions.
//!
//! There may be a hundred thousand rows. They are sorted by region and meeting, so each meeting is
//! read as a whole, one walk answers everything, and only the worst few sessions are copied.
//!
//! Invariant: the walk takes no lock that a scrape does not take.

use std::borrow::Cow;
use std::collections::BTreeMap;

use hashbrown::HashMap;
use serde::Serialize;

use crate::insight::counters::ServerKey;
use crate::insight::population::{Part, fine, tenth};
use crate::insight::worst::WorstList;
use callsight_fold::series::aggregates::{Evidence, Limitation, Signal};
use callsight_fold::series::catalogue as c;
use callsight_fold::series::detail::{DetailPlane, DetailStore, RowView};
use callsight_fold::series::judgement::Judgement;
use callsight_frame::{CandidateType, Protocol};

/// The number of worst sessions that are shown.
pub(super) const WORST: usize = 12;

/// One walk through the session rows.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub(super) servers: BTreeMap<ServerKey, Part>,
    pub(super) regions: BTreeMap<String, Part>,
    /// Of all regions: a meeting in two of them is one.
    pub(super) meetings: u64,
    pub(super) meetings_degraded: u64,
    pub(super) worst: Vec<SessionSummary>,
    pub(super) rows: u64,
}

/// A live session, as the page shows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SessionSummary {
    pub(super) region: String,
    pub(crate) meeting_id: String,
    pub(crate) session_id: String,
    pub(super) participant_id: String,
    pub(super) server_url: String,
    pub(super) server_type: String,
    pub(super) app: Option<String>,
    pub(super) platform: Option<String>,
    /// The local candidate of its path, and the protocol of its first hop.
    pub(super) candidate_type: Option<&'static str>,
    pub(super) protocol: Option<&'static str>,
    pub(super) rtt_ms: Option<f64>,
    /// By which signals it is degraded.
    pub(super) degraded_by: Vec<&'static str>,
    /// What its own statistics tell of the reason, while it is degraded.
    pub(super) evidence: Option<&'static str>,
    /// Of the peer whose audio is worst, since the frame before.
    pub(super) audio_concealed_ratio: Option<f64>,
    /// Of the peer of which most is lost, since the frame before, to the hundredth.
    pub(super) packets_lost_ratio: Option<f64>,
    /// Of what it sends, since the frame before.
    pub(super) sent_packets_lost_ratio: Option<f64>,
    /// What limited the video that it sends for most of the time since the frame before.
    pub(super) limited_by: Option<&'static str>,
    pub(super) microphone_on: Option<bool>,
    pub(super) camera_on: Option<bool>,
    pub(super) tab_hidden: bool,
    pub(super) last_frame_age_seconds: Option<f64>,
    /// Live sessions of its meeting in its region, and the degraded ones of them.
    pub(super) meeting_sessions: u64,
    pub(super) meeting_sessions_degraded: u64,
    #[serde(skip)]
    pub(super) judgement: Judgement,
}

/// The limits by which sessions are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limits {
    pub(super) rtt_ms: f64,
    pub(super) concealment: f64,
    /// Of what is sent.
    pub(super) loss: f64,
}

/// A row, and what of it is needed more than once.
struct Session<'a> {
    row: &'a RowView,
    meeting_id: Cow<'a, str>,
    /// Region, URL and type.
    server: [Cow<'a, str>; 3],
    judgement: Judgement,
    rtt_ms: Option<f64>,
    sent_lost: Option<f64>,
}

/// The severity of a session: how many signals are bad, then whether others suffer by what it
/// sends, then by how much it is over its limits. `None` if nothing is held against it.
fn severity(session: &Session<'_>, limits: Limits) -> Option<(usize, bool, u64)> {
    let Judgement { hidden, concealment, uplink, .. } = session.judgement;
    let signals = signals(&session.judgement).count();
    let far = |value: Option<f64>, limit: f64| value.map_or(0.0, |value| value / limit.max(1e-6));
    let concealed = far(concealment.map(f64::from), limits.concealment);
    let lost = far(session.sent_lost, limits.loss);
    let excess = far(session.rtt_ms, limits.rtt_ms).max(concealed).max(lost);
    // No value is below zero, so without a zero's sign the bits are in the order of the values.
    (!hidden && (signals > 0 || excess > 0.0)).then_some((signals, uplink, excess.abs().to_bits()))
}

impl Walk {
    /// Walks through all session rows, ages taken at `now` in Unix seconds.
    pub(super) fn through(detail: &DetailStore, limits: Limits, now: f64) -> Self {
        let rows = detail.snapshot(DetailPlane::Session);
        let mut walk = Self { rows: rows.len() as u64, ..Self::default() };
        // Whether each meeting is degraded. One that is in two regions is one meeting.
        let mut meetings: HashMap<Cow<'_, str>, bool> = HashMap::new();
        let mut regions: HashMap<Cow<'_, str>, Part> = HashMap::new();
        let mut servers: HashMap<[Cow<'_, str>; 3], Part> = HashMap::new();
        let mut worst = WorstList::new(WORST);
        // Region and meeting are the first labels.
        for group in rows.chunk_by(|a, b| a.labels().values::<2>() == b.labels().values()) {
            let sessions: Vec<_> = group.iter().map(Session::of).collect();
            let degraded = sessions.iter().filter(|session| session.judgement.is_degraded()).count() as u64;
            let Session { meeting_id, server: [region, ..], .. } = &sessions[0];
            *meetings.entry(meeting_id.clone()).or_default() |= degraded > 0;
            let part = regions.entry(region.clone()).or_default();
            part.add_meeting(degraded > 0);
            let mut degraded_on: HashMap<_, bool> = HashMap::new();
            for session in &sessions {
                *degraded_on.entry(&session.server).or_default() |= session.judgement.is_degraded();
                if let Some(rtt_ms) = session.rtt_ms {
                    part.rtts_ms.push(rtt_ms);
                    servers.entry(session.server.clone()).or_default().rtts_ms.push(rtt_ms);
                }
                let Some(severity) = severity(session, limits) else { continue };
                worst.offer(severity, || SessionSummary {
                    meeting_sessions: sessions.len() as u64,
                    meeting_sessions_degraded: degraded,
                    ..SessionSummary::of(session.row, now)
                });
            }
            for (server, degraded) in degraded_on {
                servers.entry(server.clone()).or_default().add_meeting(degraded);
            }
        }
        walk.servers = servers.into_iter().map(|(server, part)| (server.into(), part)).collect();
        walk.regions = regions.into_iter().map(|(region, part)| (region.into_owned(), part)).collect();
        walk.meetings = meetings.len() as u64;
        walk.meetings_degraded = meetings.values().filter(|degraded| **degraded).count() as u64;
        walk.worst = worst.into_items();
        walk
    }
}

impl<'a> Session<'a> {
    fn of(row: &'a RowView) -> Self {
        let [region, meeting_id, _, _, server_url, server_type] = row.labels().values();
        let server = [region, server_url, server_type];
        let rtt_ms = row.number(&c::SESSION_RTT, 0.0).map(|seconds| seconds * 1e3);
        let sent_lost = row.number(&c::SESSION_SEND_LOSS, 0.0);
        Self { row, meeting_id, server, judgement: row.judgement(), rtt_ms, sent_lost }
    }
}

/// The signals that degrade a row.
pub(super) fn signals(judgement: &Judgement) -> impl Iterator<Item = &'static str> {
    let signals = Signal::ALL.into_iter().zip(judgement.signals());
    signals.filter(|(_, bad)| *bad).map(|(signal, _)| signal.label())
}

/// A ratio that is stored in whole per cent.
pub(super) fn hundredths(percent: Option<u8>) -> Option<f64> {
    percent.map(|percent| f64::from(percent) / 100.0)
}

/// The text of a label, unless it stands for what nobody tells.
fn told(label: String) -> Option<String> {
    Some(label).filter(|label| label != "none")
}

impl SessionSummary {
    /// Describes a session by its row, without the numbers of its meeting.
    pub(super) fn of(row: &RowView, now: f64) -> Self {
        let value = |metric| row.number(metric, now);
        let state = |metric| value(metric).map(|state| state > 0.0);
        let judgement = row.judgement();
        let [region, meeting_id, session_id, participant_id, server_url, server_type, app, platform] =
            row.labels().values().map(Cow::into_owned);
        Self {
            region,
            meeting_id,
            session_id,
            participant_id,
            server_url,
            server_type,
            app: told(app),
            platform: told(platform),
            candidate_type: judgement.candidate_type.map(CandidateType::label),
            protocol: judgement.protocol.map(Protocol::label),
            rtt_ms: value(&c::SESSION_RTT).map(|seconds| tenth(seconds * 1e3)),
            degraded_by: signals(&judgement).collect(),
            evidence: judgement.evidence.map(Evidence::label),
            audio_concealed_ratio: judgement.concealment.map(|ratio| fine(f64::from(ratio))),
            packets_lost_ratio: hundredths(judgement.loss_percent),
            sent_packets_lost_ratio: value(&c::SESSION_SEND_LOSS).map(fine),
            limited_by: judgement.limited.map(Limitation::label),
            microphone_on: state(&c::SESSION_AUDIO_ENABLED),
            camera_on: state(&c::SESSION_VIDEO_ENABLED),
            tab_hidden: judgement.hidden,
            last_frame_age_seconds: value(&c::SESSION_LAST_SEEN_AGE).map(tenth),
            meeting_sessions: 0,
            meeting_sessions_degraded: 0,
            judgement,
        }
    }
}

#[cfg(test)]
mod tests {
    use metrics::{gauge, with_local_recorder};

    use super::*;
    use callsight_fold::series::detail::Row;

    const LIMITS: Limits = Limits { rtt_ms: 300.0, concealment: 0.05, loss: 0.05 };

    fn open(store: &DetailStore, region: &str, meeting: &str, session: &str, relay: &str, rtt: f64) -> Row {
        let labels = [region, meeting, session, session, relay, "webtransport", "none", "none"];
        let row = store.open(DetailPlane::Session, &labels).unwrap();
        with_local_recorder(&row, || gauge!(c::SESSION_RTT.name).set(rtt / 1e3));
        row.judge(Judgement { rtt: rtt > 300.0, ..Judgement::NONE });
        row
    }

    #[test]
    fn parts_meetings_and_round_trips_are_found_in_one_walk() {
        let store = DetailStore::new(1_000_000);
        let _rows = [
            open(&store, "apac", "m1", "a", "https://x", 450.0),
            open(&store, "apac", "m1", "b", "https://y", 60.0),
            open(&store, "apac", "m2", "c", "https://x", 500.0),
            open(&store, "us", "m1", "d", "https://z", 50.0),
            open(&store, "us", "m10", "e", "https://z", f64::NAN),
        ];
        let walk = Walk::through(&store, LIMITS, 0.0);
        assert_eq!((walk.rows, walk.meetings, walk.meetings_degraded), (5, 3, 2));
        let apac = &walk.regions["apac"];
        assert_eq!((apac.meetings, apac.meetings_degraded), (2, 2));
        assert_eq!(apac.rtts_ms.iter().sum::<f64>(), 1010.0);
        assert_eq!((walk.regions["us"].meetings, walk.regions["us"].rtts_ms.len()), (2, 1));
        let on = |region: &str, url: &str| {
            &walk.servers[&ServerKey::from([region, url, "webtransport"].map(Into::into))]
        };
        assert_eq!((on("apac", "https://x").meetings, on("apac", "https://x").meetings_degraded), (2, 2));
        assert_eq!((on("apac", "https://y").meetings, on("apac", "https://y").meetings_degraded), (1, 0));
        assert_eq!(walk.servers.len(), 3);
    }

    #[test]
    fn the_worst_come_first_and_there_are_only_so_many() {
        let store = DetailStore::new(1_000_000);
        let mut rows: Vec<_> = (1..40)
            .map(|number| {
                open(
                    &store,
                    "us",
                    &format!("m{}", number / 4),
                    &format!("s{number}"),
                    "https://x",
                    f64::from(number),
                )
            })
            .collect();
        rows.push(open(&store, "us", "n", "slow", "https://x", 350.0));
        let deaf = open(&store, "us", "n", "deaf", "https://x", 20.0);
        deaf.judge(Judgement { audio: true, concealment: Some(0.4), ..Judgement::NONE });
        let both = open(&store, "us", "n", "both", "https://x", 301.0);
        both.judge(Judgement { rtt: true, video: true, ..Judgement::NONE });
        let hidden = open(&store, "us", "n", "hidden", "https://x", 5000.0);
        hidden.judge(Judgement { hidden: true, ..Judgement::NONE });
        let walk = Walk::through(&store, LIMITS, 0.0);
        let names: Vec<_> = walk.worst.iter().map(|session| session.session_id.as_str()).collect();
        assert_eq!(names[..5], ["both", "deaf", "slow", "s39", "s38"]);
        assert_eq!(names.len(), WORST);
        assert_eq!((walk.worst[0].meeting_sessions, walk.worst[0].meeting_sessions_degraded), (4, 3));
        assert_eq!(walk.worst[0].degraded_by, ["rtt", "video"]);
        assert_eq!(walk.worst[1].audio_concealed_ratio, Some(0.4));
    }

    #[test]
    fn a_failed_join_and_a_lossy_uplink_rank_like_other_signals() {
        let store = DetailStore::new(1_000_000);
        let _slow = open(&store, "us", "m", "slow", "https://x", 400.0);
        let deaf = open(&store, "us", "m", "deaf", "https://x", 20.0);
        deaf.judge(Judgement { audio: true, concealment: Some(0.9), ..Judgement::NONE });
        let barred = open(&store, "us", "m", "barred", "https://x", f64::NAN);
        barred.judge(Judgement { join: true, evidence: Some(Evidence::Path), ..Judgement::NONE });
        let labels = ["us", "m", "uplink", "ann", "https://x", "webrtc", "web-2", "safari"];
        let uplink = store.open(DetailPlane::Session, &labels).unwrap();
        with_local_recorder(&uplink, || gauge!(c::SESSION_SEND_LOSS.name).set(0.18));
        uplink.judge(Judgement {
            uplink: true,
            loss_percent: Some(3),
            evidence: Some(Evidence::Sending),
            limited: Some(Limitation::Bandwidth),
            candidate_type: Some(CandidateType::Relay),
            protocol: Some(Protocol::Tls),
            ..Judgement::NONE
        });
        let lossy = open(&store, "us", "m", "lossy", "https://x", 20.0);
        with_local_recorder(&lossy, || gauge!(c::SESSION_SEND_LOSS.name).set(0.049));
        let worst = Walk::through(&store, LIMITS, 0.0).worst;
        let names: Vec<_> = worst.iter().map(|session| session.session_id.as_str()).collect();
        // Deaf ones may be deaf by the uplink of another.
        assert_eq!(names, ["uplink", "deaf", "slow", "barred", "lossy"]);
        let first = &worst[0];
        assert_eq!((&first.degraded_by[..], first.evidence), (&["uplink"][..], Some("sending")));
        assert_eq!((first.app.as_deref(), first.platform.as_deref()), (Some("web-2"), Some("safari")));
        assert_eq!((first.candidate_type, first.protocol), (Some("relay"), Some("tls")));
        assert_eq!((first.packets_lost_ratio, first.sent_packets_lost_ratio), (Some(0.03), Some(0.18)));
        assert_eq!(first.limited_by, Some("bandwidth"));
        assert_eq!((&worst[3].degraded_by[..], worst[3].evidence), (&["join"][..], Some("path")));
        let silent = &worst[4];
        assert_eq!((&silent.app, &silent.platform, silent.candidate_type), (&None, &None, None));
        assert_eq!((silent.packets_lost_ratio, silent.limited_by), (None, None));
    }
}
