//! The HTTP routes of `rewind`: the page, its windows, and the answers of `serve` at a moment.
//!
//! Invariant: every route answers GET and HEAD alone, and an error says what to do.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use warp::http::StatusCode;
use warp::reply::Reply;
use warp::{Filter, Rejection};

use super::tape::{Mark, Steps};
use super::windows::{AskError, Asked, Entry, Phase, Windows, now};
use crate::http_server::Gate;
use crate::replay::window::{Moment, rfc3339};
use crate::triage::{Document, Drill, DrillError, api, page, problem};
use callsight_frame::MeetingId;

/// The state that the routes read.
#[derive(Clone)]
pub(super) struct State {
    pub(super) windows: Windows,
    /// The window to begin with, for which `/readyz` waits.
    pub(super) first: Option<Asked>,
    /// The page of the present.
    pub(super) live_url: Option<Arc<str>>,
    pub(super) document: Arc<Document>,
    pub(super) gate: Arc<Gate>,
}

/// The query of a moment, or of a window.
#[derive(Debug, Deserialize)]
struct Query {
    at: Option<String>,
    from: Option<String>,
    to: Option<String>,
    meeting: Option<String>,
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
enum QueryError {
    #[error("`{0}` is no time: write one such as 2026-01-31T09:30:00Z, 2h ago or now")]
    BadMoment(String),
    #[error("`{0}` is missing: give it as a time, such as 2026-01-31T09:30:00Z or 2h ago")]
    Missing(&'static str),
    #[error("`{0}` is no meeting id: 1 to 128 bytes of A-Z, a-z, 0-9 and ._:@-")]
    BadMeeting(String),
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("{0} is in no window: choose one that has it, with ?from= and ?to=")]
    NoWindow(String),
    #[error("{0} is not folded yet: try again in a moment")]
    NotYet(String),
    #[error("{0}")]
    Failed(String),
    #[error("the page did not list this session or meeting at {0}: `callsight replay --session` has it")]
    NotListed(String),
    #[error(transparent)]
    Drill(#[from] DrillError),
    #[error("the step can't be read: {0}")]
    Unreadable(#[from] std::io::Error),
}

impl QueryError {
    const fn status(&self) -> StatusCode {
        match self {
            Self::BadMoment(_)
            | Self::Missing(_)
            | Self::BadMeeting(_)
            | Self::Ask(AskError::Empty(_) | AskError::TooLong(_))
            | Self::Drill(_) => StatusCode::BAD_REQUEST,
            Self::NoWindow(_) | Self::NotListed(_) | Self::Failed(_) => StatusCode::NOT_FOUND,
            Self::NotYet(_) | Self::Ask(AskError::Busy(_) | AskError::Disk(_)) | Self::Unreadable(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }
}

impl Query {
    fn window(&self, windows: &Windows) -> Result<Arc<Entry>, QueryError> {
        let from = moment(self.from.as_deref().ok_or(QueryError::Missing("from"))?)?;
        let to = moment(self.to.as_deref().ok_or(QueryError::Missing("to"))?)?;
        let meeting = self.meeting.clone().filter(|id| !id.is_empty());
        if let Some(id) = meeting.as_ref().filter(|id| MeetingId::new(id).is_err()) {
            return Err(QueryError::BadMeeting(id.chars().take(128).collect()));
        }
        Ok(windows.open(&Asked::new(from, to, meeting, now(), windows.limits())?)?)
    }

    /// The answers about the moment that is asked for.
    fn shot(&self, windows: &Windows) -> Result<(super::tape::Shot, String), QueryError> {
        let at = moment(self.at.as_deref().ok_or(QueryError::Missing("at"))?)?.from(now());
        let named = rfc3339(at);
        let entry = match (&self.from, &self.to) {
            (None, None) => windows.with(at).ok_or_else(|| QueryError::NoWindow(named.clone()))?,
            _ => self.window(windows)?,
        };
        if let Phase::Failed(why) = entry.phase() {
            return Err(QueryError::Failed(why));
        }
        let folded = entry.phase() == Phase::Folded
            || entry.tape.steps().ends.last().is_some_and(|(last, _)| *last >= at);
        if !folded {
            return Err(QueryError::NotYet(named));
        }
        match entry.tape.at(at)? {
            Some(shot) => Ok((shot, named)),
            None => Err(QueryError::Failed(format!("the streams hold no frame that early: {named}"))),
        }
    }
}

fn moment(text: &str) -> Result<Moment, QueryError> {
    // `+` in a query is a space, also in an offset from UTC.
    text.replace(' ', "+")
        .parse()
        .or_else(|_| text.parse())
        .map_err(|_| QueryError::BadMoment(text.chars().take(64).collect()))
}

/// A window, as the timeline draws it.
#[derive(Serialize)]
struct WindowAnswer {
    from: String,
    to: String,
    meeting: Option<String>,
    /// `waiting`, `folding`, `folded` or `failed`.
    state: &'static str,
    /// How much is read, from 0 to 1.
    progress: f64,
    /// How far it is, in words; why it failed, if it did.
    note: String,
    step_seconds: u64,
    bytes: u64,
    timeline: Timeline,
}

/// The steps so far; every list of a region is as long as the one of the moments.
#[derive(Serialize)]
struct Timeline {
    at_unix_seconds: Vec<i64>,
    regions: Vec<RegionTimeline>,
    /// When the verdict became bad, with its sentence, or good again.
    verdicts: Vec<VerdictMark>,
}

#[derive(Serialize)]
struct RegionTimeline {
    region: String,
    sessions: Vec<u64>,
    sessions_degraded: Vec<u64>,
}

#[derive(Serialize)]
struct VerdictMark {
    at: String,
    at_unix_seconds: i64,
    bad: bool,
    sentence: Option<String>,
}

fn seconds(at: callsight_fold::StreamTime) -> i64 {
    i64::try_from(at.unix_nanos().div_euclid(1_000_000_000)).unwrap_or(i64::MAX)
}

impl WindowAnswer {
    fn new(entry: &Entry, windows: &Windows, with_timeline: bool) -> Self {
        let (progress, note) = entry.control.progress();
        let (state, progress, note) = match entry.phase() {
            Phase::Waiting => ("waiting", 0.0, "others are folded first".to_owned()),
            Phase::Folding => ("folding", progress, note),
            Phase::Folded => ("folded", 1.0, String::new()),
            Phase::Failed(why) => ("failed", progress, why),
        };
        let Asked { from, to, meeting } = entry.asked.clone();
        let bytes = entry.tape.len();
        let steps = entry.tape.steps();
        let timeline =
            if with_timeline { Timeline::new(&steps, &windows.fixed().regions) } else { Timeline::empty() };
        drop(steps);
        let (from, to) = (rfc3339(from), rfc3339(to));
        Self {
            from,
            to,
            meeting,
            state,
            progress,
            note,
            step_seconds: windows.limits().step.as_secs(),
            bytes,
            timeline,
        }
    }
}

impl Timeline {
    const fn empty() -> Self {
        Self { at_unix_seconds: Vec::new(), regions: Vec::new(), verdicts: Vec::new() }
    }

    fn new(steps: &Steps, regions: &[String]) -> Self {
        let region = |(index, region): (usize, &String)| {
            let each = |of: fn(&Mark) -> u64| {
                steps.marks.iter().map(|marks| marks.get(index).map_or(0, of)).collect()
            };
            RegionTimeline {
                region: region.clone(),
                sessions: each(|mark| mark.sessions),
                sessions_degraded: each(|mark| mark.sessions_degraded),
            }
        };
        let verdict = |(at, sentence): &(callsight_fold::StreamTime, Option<String>)| VerdictMark {
            at: rfc3339(*at),
            at_unix_seconds: seconds(*at),
            bad: sentence.is_some(),
            sentence: sentence.clone(),
        };
        Self {
            at_unix_seconds: steps.ends.iter().map(|(at, _)| seconds(*at)).collect(),
            regions: regions.iter().enumerate().map(region).collect(),
            verdicts: steps.verdicts.iter().map(verdict).collect(),
        }
    }
}

/// Everything that is folded, or being folded, and what may be.
#[derive(Serialize)]
struct WindowsAnswer<'a> {
    regions: &'a [String],
    max_windows: usize,
    max_window_seconds: u64,
    live_url: Option<&'a str>,
    /// The window of `--from` and `--to`.
    first: Option<[String; 2]>,
    windows: Vec<WindowAnswer>,
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    why: Option<String>,
    warnings: Vec<&'static str>,
}

/// Builds the routes `/`, `/api/triage` and below, `/api/windows`, `/api/window`, `/livez` and
/// `/readyz`.
pub(super) fn routes(state: State) -> impl Filter<Extract = (impl Reply,), Error = Infallible> + Clone {
    let state = warp::any().map(move || state.clone());
    let query = warp::query::<Query>();
    let api_path = warp::path("api");
    let triage = api_path.and(warp::path!("triage")).and(state.clone()).and(query);
    let triage = triage
        .map(|state: State, query: Query| answer(query.shot(&state.windows).map(|(shot, _)| shot.summary)));
    let drill = |into: fn(&str) -> Result<Drill, DrillError>| {
        move |id: String, state: State, query: Query| answer(drill(&state, into(&id), &query))
    };
    let session = api_path.and(warp::path!("triage" / "session" / String)).and(state.clone()).and(query);
    let session = session.map(drill(Drill::session));
    let meeting = api_path.and(warp::path!("triage" / "meeting" / String)).and(state.clone()).and(query);
    let meeting = meeting.map(drill(Drill::meeting));
    let window = api_path.and(warp::path!("window")).and(state.clone()).and(query);
    let window = window.map(|state: State, query: Query| {
        let opened = query.window(&state.windows);
        answer(opened.and_then(|entry| json(&WindowAnswer::new(&entry, &state.windows, true))))
    });
    let windows = api_path.and(warp::path!("windows")).and(state.clone());
    let windows = windows.map(|state: State| answer(json(&all(&state))));
    let livez = warp::path!("livez").map(|| api(StatusCode::OK, "{\"alive\":true}".into()));
    let readyz = warp::path!("readyz").and(state.clone()).map(|state: State| readyz(&state));
    let page = warp::path::end().and(state).map(|state: State| page(&state.document));
    let read = warp::get().or(warp::head()).unify();
    read.and(triage.or(session).or(meeting).or(window).or(windows).or(livez).or(readyz).or(page))
        .recover(refuse)
}

fn json(value: &impl Serialize) -> Result<Bytes, QueryError> {
    Ok(serde_json::to_vec(value).map_err(std::io::Error::from)?.into())
}

fn answer(result: Result<Bytes, QueryError>) -> warp::reply::Response {
    match result {
        Ok(json) => api(StatusCode::OK, json),
        Err(error) => problem(error.status(), &error.to_string()),
    }
}

fn drill(state: &State, into: Result<Drill, DrillError>, query: &Query) -> Result<Bytes, QueryError> {
    let into = into?;
    let (shot, named) = query.shot(&state.windows)?;
    shot.detail(&into).ok_or(QueryError::NotListed(named))
}

fn all(state: &State) -> WindowsAnswer<'_> {
    let (windows, limits) = (&state.windows, state.windows.limits());
    let regions = &windows.fixed().regions[..];
    WindowsAnswer {
        regions,
        max_windows: limits.windows,
        max_window_seconds: limits.length.as_secs(),
        live_url: state.live_url.as_deref(),
        first: state.first.as_ref().map(|asked| [rfc3339(asked.from), rfc3339(asked.to)]),
        windows: windows.all().iter().map(|entry| WindowAnswer::new(entry, windows, false)).collect(),
    }
}

fn readyz(state: &State) -> warp::reply::Response {
    let why =
        state.first.as_ref().and_then(|asked| match state.windows.open(asked).map(|entry| entry.phase()) {
            Ok(Phase::Folded) => None,
            Ok(Phase::Failed(why)) => Some(why),
            Ok(Phase::Waiting | Phase::Folding) => {
                Some("the window of --from and --to is being folded".to_owned())
            }
            Err(error) => Some(error.to_string()),
        });
    let ready = why.is_none();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let warnings = state.gate.warning().into_iter().collect();
    warp::reply::with_status(warp::reply::json(&Readiness { ready, why, warnings }), status).into_response()
}

async fn refuse(rejection: Rejection) -> Result<impl Reply, Infallible> {
    let (status, text) = if rejection.is_not_found() {
        (
            StatusCode::NOT_FOUND,
            "not found; the paths are /, /api/triage, /api/window, /api/windows, /readyz and /livez",
        )
    } else if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        (StatusCode::METHOD_NOT_ALLOWED, "use GET or HEAD")
    } else {
        (StatusCode::BAD_REQUEST, "the request is not valid: see docs/rewind.md for its query")
    };
    Ok(problem(status, text))
}
