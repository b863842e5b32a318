//! The detail of one meeting or session: who hears and sees whom.
//!
//! The worst list says who is affected; a reader then asks on which side the trouble is. Rows are
//! sorted by region and meeting, so a meeting is found without reading others. A session is
//! searched for in all rows, so only a few searches run at a time.
//!
//! Invariant: the answer for a meeting is bounded, whatever its size.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::findings::findings;
use super::sessions::{Limits, SessionSummary, hundredths, signals};
use super::summary::VERSION;
use crate::insight::population::{fine, tenth};
use callsight_fold::series::catalogue as c;
use callsight_fold::series::detail::{DetailPlane, DetailStore, RowView};
use callsight_fold::series::judgement::Judgement;
use callsight_frame::{MeetingId, SessionId};

/// The most sessions and pairs of a meeting that are returned.
const MOST_SESSIONS: usize = 200;
const MOST_PAIRS: usize = 2_500;

/// The meeting or session asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Drill {
    Meeting(String),
    Session(String),
}

/// The reason that there is no answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DrillError {
    #[error("`{0}` is no {1} id: 1 to 128 bytes of A-Z, a-z, 0-9 and ._:@-")]
    BadId(String, &'static str),
    #[error(
        "there is no live {1} `{0}`: it may have ended, or a budget refused its detail; the stream has all of it"
    )]
    NotFound(String, &'static str),
    #[error("sessions have no detail here: start the exporter with --detail session or pair")]
    NoDetail,
    #[error("too much is being looked into; try again later")]
    Busy,
}

impl Drill {
    /// The meeting that the last part of a path names.
    pub(crate) fn meeting(text: &str) -> Result<Self, DrillError> {
        id(text, "meeting", |id| MeetingId::new(id).is_ok()).map(Self::Meeting)
    }

    /// The session that the last part of a path names.
    pub(crate) fn session(text: &str) -> Result<Self, DrillError> {
        id(text, "session", |id| SessionId::new(id).is_ok()).map(Self::Session)
    }
}

fn id(text: &str, kind: &'static str, valid: fn(&str) -> bool) -> Result<String, DrillError> {
    let plain = percent_decode_str(text).decode_utf8_lossy();
    if valid(&plain) {
        return Ok(plain.into_owned());
    }
    Err(DrillError::BadId(plain.chars().take(128).collect(), kind))
}

/// A session's view of one peer.
#[derive(Debug, Serialize)]
pub(super) struct Pair {
    region: String,
    session_id: String,
    /// The participant whose session it is, if it is live.
    pub(super) participant_id: Option<String>,
    /// The peer that it receives.
    pub(super) peer_id: String,
    hears: Option<bool>,
    sees: Option<bool>,
    /// Whether the peer's microphone and camera are on.
    peer_microphone_on: bool,
    peer_camera_on: bool,
    /// Whether the session asks for the peer's audio and video: what it does not is not missed.
    audio_wanted: bool,
    video_wanted: bool,
    degraded_by: Vec<&'static str>,
    /// Of audio or video, whichever is higher, since the frame before, to the hundredth.
    pub(super) packets_lost_ratio: Option<f64>,
    audio_concealed_ratio: Option<f64>,
    audio_buffer_ms: Option<f64>,
    audio_target_ms: Option<f64>,
    video_frames_per_second: Option<f64>,
    video_height: Option<f64>,
    video_freezes_total: Option<f64>,
    screen_frames_per_second: Option<f64>,
    #[serde(skip)]
    pub(super) judgement: Judgement,
}

/// What a session sends, as it tells itself.
#[derive(Debug, Serialize)]
struct Sending {
    rtt_ms: Option<f64>,
    /// Of the largest layer, as is the height.
    video_frames_per_second: Option<f64>,
    video_height: Option<f64>,
    bitrate_kbps: Option<f64>,
    /// The bandwidth that is estimated to be there for it.
    available_kbps: Option<f64>,
}

#[derive(Serialize)]
struct MeetingDetail {
    version: u32,
    meeting_id: String,
    sessions_total: usize,
    pairs_total: usize,
    /// The degraded ones first; at most 200.
    sessions: Vec<SessionSummary>,
    /// The degraded ones first; at most 2,500.
    pairs: Vec<Pair>,
}

#[derive(Serialize)]
struct SessionDetail {
    version: u32,
    session: SessionSummary,
    /// What the numbers mean, in words.
    findings: Vec<String>,
    sends: Sending,
    /// What the session receives from each peer.
    receives: Vec<Pair>,
    /// What other sessions of the meeting receive from its participant.
    received_by: Vec<Pair>,
}

/// Reads the rows, and returns JSON.
pub(super) fn into(
    detail: &DetailStore,
    regions: &[String],
    drill: &Drill,
    limits: Limits,
    now: f64,
) -> Result<Bytes, DrillError> {
    let answer = match drill {
        Drill::Meeting(id) => {
            let mut meeting = MeetingDetail::find(detail, regions, id, now);
            if meeting.sessions.is_empty() {
                return Err(DrillError::NotFound(id.clone(), "meeting"));
            }
            meeting.sessions.truncate(MOST_SESSIONS);
            meeting.pairs.truncate(MOST_PAIRS);
            serde_json::to_vec(&meeting)
        }
        Drill::Session(id) => {
            let rows = detail.snapshot(DetailPlane::Session);
            let found = rows.iter().find(|row| row.labels().get("session_id").as_deref() == Some(id));
            let session = found.and_then(|row| SessionDetail::find(detail, regions, row, limits, now));
            let Some(session) = session else { return Err(DrillError::NotFound(id.clone(), "session")) };
            serde_json::to_vec(&session)
        }
    };
    answer.map(Bytes::from).map_err(|error| {
        tracing::error!(%error, "the detail of a session can't be written");
        DrillError::Busy
    })
}

impl SessionDetail {
    /// Reads the meeting of a session; `None` if the session has just ended.
    fn find(
        detail: &DetailStore,
        regions: &[String],
        row: &RowView,
        limits: Limits,
        now: f64,
    ) -> Option<Self> {
        let [_, meeting_id, session_id] = row.labels().values();
        let meeting = MeetingDetail::find(detail, regions, &meeting_id, now);
        let (own, peers): (Vec<_>, Vec<_>) =
            meeting.sessions.into_iter().partition(|session| session.session_id == session_id);
        let session = own.into_iter().next()?;
        let (receives, others): (Vec<_>, Vec<_>) =
            meeting.pairs.into_iter().partition(|pair| pair.session_id == session_id);
        let received_by: Vec<_> =
            others.into_iter().filter(|pair| pair.peer_id == session.participant_id).collect();
        let findings = findings(&session, &peers, &receives, &received_by, limits);
        let sends = Sending::of(row, now);
        Some(Self { version: VERSION, session, findings, sends, receives, received_by })
    }
}

impl MeetingDetail {
    /// Reads all of a meeting's rows in all regions.
    fn find(detail: &DetailStore, regions: &[String], meeting_id: &str, now: f64) -> Self {
        let (mut sessions, mut pairs) = (Vec::new(), Vec::new());
        for region in regions {
            let prefix = [region.as_str(), meeting_id];
            let rows = detail.rows(DetailPlane::Session, &prefix);
            let mut here: Vec<_> = rows.iter().map(|row| SessionSummary::of(row, now)).collect();
            let (count, degraded) =
                (here.len(), here.iter().filter(|one| !one.degraded_by.is_empty()).count());
            for session in &mut here {
                session.meeting_sessions = count as u64;
                session.meeting_sessions_degraded = degraded as u64;
            }
            sessions.append(&mut here);
            pairs.extend(detail.rows(DetailPlane::Pair, &prefix).iter().map(|row| Pair::of(row, now)));
        }
        let participants: BTreeMap<_, _> = sessions
            .iter()
            .map(|session| (session.session_id.as_str(), session.participant_id.as_str()))
            .collect();
        for pair in &mut pairs {
            pair.participant_id = participants.get(pair.session_id.as_str()).map(ToString::to_string);
        }
        sessions.sort_by_key(|session| std::cmp::Reverse(session.degraded_by.len()));
        pairs.sort_by_key(|pair| std::cmp::Reverse(pair.degraded_by.len()));
        let (sessions_total, pairs_total) = (sessions.len(), pairs.len());
        let meeting_id = meeting_id.to_owned();
        Self { version: VERSION, meeting_id, sessions_total, pairs_total, sessions, pairs }
    }
}

impl Pair {
    fn of(row: &RowView, now: f64) -> Self {
        let value = |metric| row.number(metric, now);
        let state = |metric| value(metric).map(|state| state > 0.0);
        let milliseconds = |metric| value(metric).map(|seconds| tenth(seconds * 1e3));
        let judgement = row.judgement();
        let [region, _, session_id, peer_id] = row.labels().values().map(Cow::into_owned);
        Self {
            region,
            session_id,
            participant_id: None,
            peer_id,
            hears: state(&c::PAIR_CAN_LISTEN),
            sees: state(&c::PAIR_CAN_SEE),
            peer_microphone_on: judgement.microphone,
            peer_camera_on: judgement.camera,
            audio_wanted: !judgement.audio_unwanted,
            video_wanted: !judgement.video_unwanted,
            degraded_by: signals(&judgement).collect(),
            packets_lost_ratio: hundredths(judgement.loss_percent),
            audio_concealed_ratio: judgement.concealment.map(|ratio| fine(f64::from(ratio))),
            audio_buffer_ms: milliseconds(&c::PAIR_AUDIO_BUFFER),
            audio_target_ms: milliseconds(&c::PAIR_AUDIO_TARGET),
            video_frames_per_second: value(&c::PAIR_VIDEO_FPS).map(tenth),
            video_height: value(&c::PAIR_VIDEO_HEIGHT),
            video_freezes_total: value(&c::PAIR_FREEZES),
            screen_frames_per_second: value(&c::PAIR_SCREEN_FPS).map(tenth),
            judgement,
        }
    }
}

impl Sending {
    fn of(row: &RowView, now: f64) -> Self {
        let value = |metric| row.number(metric, now);
        let kilobits = |metric| value(metric).map(|bytes| tenth(bytes * 8.0 / 1e3));
        Self {
            rtt_ms: value(&c::SESSION_SEND_RTT).map(|seconds| tenth(seconds * 1e3)),
            video_frames_per_second: value(&c::SESSION_SEND_FPS).map(tenth),
            video_height: value(&c::SESSION_SEND_HEIGHT),
            bitrate_kbps: kilobits(&c::SESSION_SEND_BYTE_RATE),
            available_kbps: kilobits(&c::SESSION_AVAILABLE_BYTE_RATE),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use callsight_fold::series::detail::Row;

    const LIMITS: Limits = Limits { rtt_ms: 300.0, concealment: 0.05, loss: 0.05 };

    fn open(store: &DetailStore, plane: DetailPlane, labels: &[&str], bad: usize) -> Row {
        let row = store.open(plane, labels).unwrap();
        row.judge(Judgement { rtt: bad > 0, audio: bad > 1, video: bad > 2, ..Judgement::NONE });
        row
    }

    /// How many signals are held against each.
    fn badness(list: &Value) -> Vec<usize> {
        list.as_array().unwrap().iter().map(|one| one["degraded_by"].as_array().unwrap().len()).collect()
    }

    #[test]
    fn of_a_large_meeting_the_worst_are_shown_and_all_are_counted() {
        let store = DetailStore::new(1_000_000);
        let mut rows = Vec::new();
        for session in 0..1000 {
            let id = format!("s{session}");
            // The last ones are the worst.
            let bad = [997, 998, 999].iter().position(|last| *last == session).map_or(0, |place| place + 1);
            let labels = ["us", "m", &id, &id, "none", "none", "none", "none"];
            rows.push(open(&store, DetailPlane::Session, &labels, bad));
            for peer in ["p", "q", "r"] {
                rows.push(open(&store, DetailPlane::Pair, &["us", "m", &id, peer], bad));
            }
        }
        let regions = ["us".to_owned()];
        let read = |drill: Result<Drill, DrillError>| -> Value {
            serde_json::from_slice(&into(&store, &regions, &drill.unwrap(), LIMITS, 0.0).unwrap()).unwrap()
        };
        let meeting = read(Drill::meeting("m"));
        assert_eq!((&meeting["sessions_total"], &meeting["pairs_total"]), (&1000.into(), &3000.into()));
        let (sessions, pairs) = (badness(&meeting["sessions"]), badness(&meeting["pairs"]));
        assert_eq!((sessions.len(), pairs.len()), (200, 2_500));
        assert_eq!((&sessions[..4], &pairs[..10]), (&[3, 2, 1, 0][..], &[3, 3, 3, 2, 2, 2, 1, 1, 1, 0][..]));
        // One that the meeting does not show is whole.
        let session = read(Drill::session("s500"));
        assert_eq!(session["session"]["meeting_sessions"], 1000);
        assert_eq!(session["receives"].as_array().unwrap().len(), 3);
    }
}
