//! What the session rows tell: round-trip times as they are now, the meetings that are hit, and the worst sessions.
//!
//! The rows come sorted by region and meeting, so a meeting is in hand as a whole, and one walk is enough for all of
//! it. Nothing but the worst few sessions is copied.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use hashbrown::{HashMap, HashSet};
use serde::Serialize;

use super::counts::ServerKey;
use callsight_fold::series::aggregates::Signal;
use callsight_fold::series::catalogue as c;
use callsight_fold::series::detail::{DetailPlane, DetailStore, RowView};
use callsight_fold::series::judgement::Judgement;
use callsight_fold::series::reading::labels;

/// How many of the worst sessions are told.
pub(super) const WORST: usize = 12;

/// What is bad of one region or server.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Part {
    /// Round-trip times in milliseconds, of each session that tells one.
    pub(super) rtts_ms: Vec<f64>,
    pub(super) meetings: u64,
    pub(super) meetings_degraded: u64,
}

/// One walk through the session rows.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub(super) servers: BTreeMap<ServerKey, Part>,
    pub(super) regions: BTreeMap<String, Part>,
    /// Of all regions: a meeting in two of them is one.
    pub(super) meetings: u64,
    pub(super) meetings_degraded: u64,
    /// The worst first.
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

/// What makes one session worse than another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limits {
    pub(super) rtt_ms: f64,
    pub(super) concealment: f64,
}

/// A row with what is needed of it.
struct Session<'a> {
    row: &'a RowView,
    judgement: Judgement,
    rtt_ms: Option<f64>,
}

/// A session's place among the worst: how many signals are bad, then by how much.
#[derive(Clone, Copy, PartialEq)]
struct Badness(usize, f64);

impl Badness {
    const NONE: Self = Self(0, 0.0);

    fn of(session: &Session<'_>, limits: Limits) -> Self {
        let Judgement { rtt, audio, video, hidden, concealment, .. } = session.judgement;
        if hidden {
            return Self::NONE;
        }
        let signals = [rtt, audio, video].iter().filter(|bad| **bad).count();
        let far = |value: Option<f64>, limit: f64| value.map_or(0.0, |value| value / limit.max(1e-6));
        let concealed = far(concealment.map(f64::from), limits.concealment);
        Self(signals, far(session.rtt_ms, limits.rtt_ms).max(concealed))
    }

    fn worst_first(&self, other: &Self) -> Ordering {
        other.0.cmp(&self.0).then(other.1.total_cmp(&self.1))
    }
}

impl Walk {
    /// Walks through all session rows, ages taken at `now` in Unix seconds.
    pub(super) fn through(detail: &DetailStore, limits: Limits, now: f64) -> Self {
        let rows = detail.snapshot(DetailPlane::Session);
        let mut walk = Self { rows: rows.len() as u64, ..Self::default() };
        let (hasher, mut met, mut hit) = (RandomState::new(), HashSet::new(), HashSet::new());
        let mut servers: HashMap<(&str, &str), (Part, usize)> = HashMap::new();
        let mut worst = Worst::default();
        let mut meeting = Vec::new();
        for (number, group) in (1..).zip(rows.chunk_by(|a, b| Place::of(a).meeting == Place::of(b).meeting)) {
            let place = Place::of(&group[0]);
            meeting.clear();
            meeting.extend(group.iter().map(Session::of));
            let degraded = meeting.iter().filter(|session| session.judgement.is_degraded()).count() as u64;
            // A meeting that is in two regions is one meeting.
            let hash = hasher.hash_one(&place.meeting[place.region.len()..]);
            met.insert(hash);
            if degraded > 0 {
                hit.insert(hash);
            }
            if !walk.regions.contains_key(place.region) {
                walk.regions.insert(place.region.to_owned(), Part::default());
            }
            let Some(part) = walk.regions.get_mut(place.region) else { continue };
            part.meetings += 1;
            part.meetings_degraded += u64::from(degraded > 0);
            for session in &meeting {
                let server = Place::of(session.row).server;
                let (server, last) = servers.entry((place.region, server)).or_default();
                if let Some(rtt_ms) = session.rtt_ms {
                    part.rtts_ms.push(rtt_ms);
                    server.rtts_ms.push(rtt_ms);
                }
                if std::mem::replace(last, number) != number {
                    server.meetings += 1;
                    let there = meeting.iter().filter(|other| other.judgement.is_degraded());
                    let on_it =
                        |other: &Session<'_>| Place::of(other.row).server == Place::of(session.row).server;
                    server.meetings_degraded += u64::from(there.into_iter().any(on_it));
                }
                worst.offer(Badness::of(session, limits), || SessionSummary {
                    meeting_sessions: meeting.len() as u64,
                    meeting_sessions_degraded: degraded,
                    ..SessionSummary::of(session.row, now)
                });
            }
        }
        let named = servers.into_iter().map(|((region, server), (part, _))| (key(region, server), part));
        walk.servers = named.collect();
        walk.regions =
            walk.regions.into_iter().map(|(region, part)| (key(&region, "").region, part)).collect();
        walk.meetings = met.len() as u64;
        walk.meetings_degraded = hit.len() as u64;
        walk.worst = worst.0.into_iter().map(|(_, summary)| summary).collect();
        walk
    }
}

/// The worst sessions so far, the worst first.
#[derive(Default)]
struct Worst(Vec<(Badness, SessionSummary)>);

impl Worst {
    fn offer(&mut self, badness: Badness, summary: impl FnOnce() -> SessionSummary) {
        let after = self.0.partition_point(|(other, _)| other.worst_first(&badness).is_le());
        if after < WORST && badness != Badness::NONE {
            self.0.insert(after, (badness, summary()));
            self.0.truncate(WORST);
        }
    }
}

/// Where a row is, as its labels say it: the labels up to the region, up to the meeting, and those of the server.
#[derive(Clone, Copy)]
struct Place<'a> {
    region: &'a str,
    meeting: &'a str,
    server: &'a str,
}

impl<'a> Place<'a> {
    fn of(row: &'a RowView) -> Self {
        let labels = row.labels().text();
        let until = |next: &str| labels.find(next).map_or(labels, |end| &labels[..end]);
        let server = labels.find(",server_url=").map_or("", |begin| &labels[begin + 1..]);
        Self { region: until(",meeting_id="), meeting: until(",session_id="), server }
    }
}

fn key(region: &str, server: &str) -> ServerKey {
    let mut key = ServerKey::default();
    for (name, value) in labels(region).chain(labels(server)) {
        match name {
            "region" => key.region = value.into_owned(),
            "server_url" => key.server_url = value.into_owned(),
            _ => key.server_type = value.into_owned(),
        }
    }
    key
}

impl<'a> Session<'a> {
    fn of(row: &'a RowView) -> Self {
        let rtt_ms = row.number(&c::SESSION_RTT, 0.0).map(|seconds| seconds * 1e3);
        Self { row, judgement: row.judgement(), rtt_ms }
    }
}

/// By which signals a row is degraded.
pub(super) fn signals(judgement: &Judgement) -> Vec<&'static str> {
    let Judgement { rtt, audio, video, .. } = *judgement;
    let bad = [(rtt, Signal::Rtt), (audio, Signal::Audio), (video, Signal::Video)];
    bad.into_iter().filter(|(bad, _)| *bad).map(|(_, signal)| signal.label()).collect()
}

impl SessionSummary {
    /// A session by its row; how its meeting is has to be added.
    pub(super) fn of(row: &RowView, now: f64) -> Self {
        let value = |metric| row.number(metric, now);
        let state = |metric| value(metric).map(|state| state > 0.0);
        let judgement = row.judgement();
        let mut summary = Self {
            region: String::new(),
            meeting_id: String::new(),
            session_id: String::new(),
            participant_id: String::new(),
            server_url: String::new(),
            server_type: String::new(),
            rtt_ms: value(&c::SESSION_RTT).map(|seconds| tenth(seconds * 1e3)),
            degraded_by: signals(&judgement),
            audio_concealed_ratio: judgement.concealment.map(|ratio| fine(f64::from(ratio))),
            microphone_on: state(&c::SESSION_AUDIO_ENABLED),
            camera_on: state(&c::SESSION_VIDEO_ENABLED),
            tab_hidden: judgement.hidden,
            last_frame_age_seconds: value(&c::SESSION_LAST_SEEN_AGE).map(tenth),
            meeting_sessions: 0,
            meeting_sessions_degraded: 0,
        };
        for (name, value) in row.labels().iter() {
            let field = match name {
                "region" => &mut summary.region,
                "meeting_id" => &mut summary.meeting_id,
                "session_id" => &mut summary.session_id,
                "peer_id" => &mut summary.participant_id,
                "server_url" => &mut summary.server_url,
                _ => &mut summary.server_type,
            };
            *field = value.into_owned();
        }
        summary
    }
}

/// To a tenth: finer than anyone feels a millisecond or a second.
pub(super) fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// To a hundredth of a per cent.
pub(super) fn fine(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
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
        let on = |region, url| {
            &walk.servers[&key(
                &format!("region=\"{region}\""),
                &format!("server_url=\"{url}\",server_type=\"webtransport\""),
            )]
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
