//! The HTTP routes: the triage page and its API, the scrape, and the probes.
//!
//! Invariant: every route answers GET and HEAD alone, and an error says what to do.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use warp::http::{Response, StatusCode, header};
use warp::reply::Reply;
use warp::{Filter, Rejection};

use super::readiness::ReadinessReport;
use super::scrape::Scraper;
use super::triage::Triage;
use crate::consume::RegionHealth;
use crate::http_server::Gate;
use crate::http_server::negotiate::{self, Encoding};
use crate::triage::{Document, Drill, DrillError, api, page, problem};

/// The state that the routes read.
#[derive(Clone)]
pub(super) struct State {
    scraper: Scraper,
    regions: Vec<Arc<RegionHealth>>,
    ready_max_lag: Duration,
    /// Shown by `/readyz`: a client that comes through a Kubernetes service can't tell otherwise
    /// which deployment answered.
    deployment: Arc<str>,
    triage: Triage,
    document: Arc<Document>,
    gate: Arc<Gate>,
}

impl State {
    pub(super) fn new(
        scraper: Scraper,
        regions: Vec<Arc<RegionHealth>>,
        ready_max_lag: Duration,
        deployment: Arc<str>,
        triage: Triage,
        document: Document,
        gate: Arc<Gate>,
    ) -> Self {
        Self { scraper, regions, ready_max_lag, deployment, triage, document: Arc::new(document), gate }
    }
}

/// The answer of `/livez`.
#[derive(Serialize)]
struct Liveness {
    alive: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    why: Vec<String>,
}

/// Builds the routes `/`, `/api/triage` and below, `/metrics`, `/livez` and `/readyz`.
pub(super) fn routes(state: State) -> impl Filter<Extract = (impl Reply,), Error = Infallible> + Clone {
    let state = warp::any().map(move || state.clone());
    let metrics = warp::path!("metrics")
        .and(state.clone())
        .and(warp::header::optional::<String>("accept"))
        .and(warp::header::optional::<String>("accept-encoding"))
        .then(metrics);
    let livez = warp::path!("livez").and(state.clone()).map(|state: State| livez(&state));
    let readyz = warp::path!("readyz").and(state.clone()).map(|state: State| readyz(&state));
    let api = warp::path("api").and(warp::path("triage"));
    let triage = api.and(warp::path::end()).and(state.clone()).map(|state: State| triage(&state));
    let meeting = api.and(state.clone()).and(warp::path!("meeting" / String));
    let meeting = meeting.then(|state, id: String| drill(state, Drill::meeting(&id)));
    let session = api.and(state.clone()).and(warp::path!("session" / String));
    let session = session.then(|state, id: String| drill(state, Drill::session(&id)));
    let page = warp::path::end().and(state).map(|state: State| page(&state.document));
    let read = warp::get().or(warp::head()).unify();
    read.and(metrics.or(livez).or(readyz).or(page).or(triage).or(meeting).or(session)).recover(refuse)
}

async fn metrics(state: State, accept: Option<String>, accept_encoding: Option<String>) -> impl Reply {
    let format = negotiate::format(accept.as_deref());
    let Some(encoding) = negotiate::encoding(accept_encoding.as_deref()) else {
        let text = "metrics come as gzip or identity; accept one of them\n";
        return warp::reply::with_status(text, StatusCode::NOT_ACCEPTABLE).into_response();
    };
    let gzip = encoding == Encoding::Gzip;
    let Some(page) = state.scraper.page(format, gzip).await else {
        let text = "too many scrapes at a time; scrape less often\n";
        return warp::reply::with_status(text, StatusCode::SERVICE_UNAVAILABLE).into_response();
    };
    let mut response = warp::reply::stream(page).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(format.content_type()));
    headers.insert(header::VARY, header::HeaderValue::from_static("Accept, Accept-Encoding"));
    if gzip {
        headers.insert(header::CONTENT_ENCODING, header::HeaderValue::from_static("gzip"));
    }
    response
}

fn livez(state: &State) -> warp::reply::Response {
    let why: Vec<String> = state.regions.iter().filter_map(|region| region.stuck()).collect();
    let alive = why.is_empty();
    answer(&Liveness { alive, why }, alive)
}

fn readyz(state: &State) -> warp::reply::Response {
    let regions: Vec<_> = state.regions.iter().map(|region| region.report(state.ready_max_lag)).collect();
    let ready = regions.iter().all(|region| region.ready);
    let deployment = Some(state.deployment.to_string());
    let warnings = state.gate.warning().map(str::to_owned).into_iter().collect();
    answer(&ReadinessReport { ready, deployment, warnings, regions }, ready)
}

fn answer(body: &impl Serialize, good: bool) -> warp::reply::Response {
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    warp::reply::with_status(warp::reply::json(body), status).into_response()
}

fn triage(state: &State) -> warp::reply::Response {
    match state.triage.latest() {
        Some(json) => api(StatusCode::OK, json),
        None => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "the first summary is not ready yet; try again in a second",
        ),
    }
}

async fn drill(state: State, into: Result<Drill, DrillError>) -> warp::reply::Response {
    let drilled = match into {
        Ok(into) => state.triage.drill(into).await,
        Err(error) => Err(error),
    };
    match drilled {
        Ok(json) => api(StatusCode::OK, json),
        Err(error) => {
            let status = match error {
                DrillError::BadId(..) => StatusCode::BAD_REQUEST,
                DrillError::NotFound(..) | DrillError::NoDetail => StatusCode::NOT_FOUND,
                DrillError::Busy => StatusCode::SERVICE_UNAVAILABLE,
            };
            problem(status, &error.to_string())
        }
    }
}

async fn refuse(rejection: Rejection) -> Result<impl Reply, Infallible> {
    let (status, text) = if rejection.is_not_found() {
        (StatusCode::NOT_FOUND, "not found; the paths are /, /api/triage, /metrics, /readyz and /livez\n")
    } else if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        (StatusCode::METHOD_NOT_ALLOWED, "use GET or HEAD\n")
    } else {
        (StatusCode::BAD_REQUEST, "the request's headers are not valid\n")
    };
    Ok(Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
        .body(text))
}
