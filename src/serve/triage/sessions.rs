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
use callsight_fold::series::aggregates::Signal;
use callsight_fold::series::catalogue as c;
use callsight_fold::series::detail::{DetailPlane, DetailStore, RowView};
use callsight_fold::series::judgement::Judgement;

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
pub(super) struct SessionSummary {
    pub(super) region: String,
    pub(super) meeting_id: String,
    pub(super) session_id: String,
    pub(super) participant_id: String,
    pub(super) server_url: String,
    pub(super) server_type: String,
    pub(super) rtt_ms: Option<f64>,
    /// By which signals it is degraded: `rtt`, `audio`, `video`.
    pub(super) degraded_by: Vec<&'static str>,
    /// Of the peer whose audio is worst, since the frame before.
    pub(super) audio_concealed_ratio: Option<f64>,
    pub(super) microphone_on: Option<bool>,
    pub(super) camera_on: Option<bool>,
    pub(super) tab_hidden: bool,
    pub(super) last_frame_age_seconds: Option<f64>,
    /// Live sessions of its meeting in its region, and the degraded ones of them.
    pub(super) meeting_sessions: u64,
    pub(super) meeting_sessions_degraded: u64,
}

/// The limits by which sessions are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limits {
    pub(super) rtt_ms: f64,
    pub(super) concealment: f64,
}

/// A row, and what of it is needed more than once.
struct Session<'a> {
    row: &'a RowView,
    meeting_id: Cow<'a, str>,
    /// Region, URL and type.
    server: [Cow<'a, str>; 3],
    judgement: Judgement,
    rtt_ms: Option<f64>,
}

/// The severity of a session: how many signals are bad, then by how much. `None` if nothing is held
/// against it.
fn severity(session: &Session<'_>, limits: Limits) -> Option<(usize, u64)> {
    let Judgement { rtt, audio, video, hidden, concealment, .. } = session.judgement;
    let signals = [rtt, audio, video].iter().filter(|bad| **bad).count();
    let far = |value: Option<f64>, limit: f64| value.map_or(0.0, |value| value / limit.max(1e-6));
    let concealed = far(concealment.map(f64::from), limits.concealment);
    let excess = far(session.rtt_ms, limits.rtt_ms).max(concealed);
    // No value is below zero, so without a zero's sign the bits are in the order of the values.
    (!hidden && (signals > 0 || excess > 0.0)).then_some((signals, excess.abs().to_bits()))
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
        Self { row, meeting_id, server, judgement: row.judgement(), rtt_ms }
    }
}

/// The signals that degrade a row.
pub(super) fn signals(judgement: &Judgement) -> Vec<&'static str> {
    let Judgement { rtt, audio, video, .. } = *judgement;
    let bad = [(rtt, Signal::Rtt), (audio, Signal::Audio), (video, Signal::Video)];
    bad.into_iter().filter(|(bad, _)| *bad).map(|(_, signal)| signal.label()).collect()
}

impl SessionSummary {
    /// Describes a session by its row, without the numbers of its meeting.
    pub(super) fn of(row: &RowView, now: f64) -> Self {
        let value = |metric| row.number(metric, now);
        let state = |metric| value(metric).map(|state| state > 0.0);
        let judgement = row.judgement();
        let [region, meeting_id, session_id, participant_id, server_url, server_type] =
            row.labels().values().map(Cow::into_owned);
        Self {
            region,
            meeting_id,
            session_id,
            participant_id,
            server_url,
            server_type,
            rtt_ms: value(&c::SESSION_RTT).map(|seconds| tenth(seconds * 1e3)),
            degraded_by: signals(&judgement),
            audio_concealed_ratio: judgement.concealment.map(|ratio| fine(f64::from(ratio))),
            microphone_on: state(&c::SESSION_AUDIO_ENABLED),
            camera_on: state(&c::SESSION_VIDEO_ENABLED),
            tab_hidden: judgement.hidden,
            last_frame_age_seconds: value(&c::SESSION_LAST_SEEN_AGE).map(tenth),
            meeting_sessions: 0,
            meeting_sessions_degraded: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use metrics::{gauge, with_local_recorder};

    use super::*;
    use callsight_fold::series::detail::Row;

    const LIMITS: Limits = Limits { rtt_ms: 300.0, concealment: 0.05 };

    fn open(store: &DetailStore, region: &str, meeting: &str, session: &str, relay: &str, rtt: f64) -> Row {
        let labels = [region, meeting, session, session, relay, "webtransport"];
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
}
