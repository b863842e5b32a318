//! The HTTP routes: the way in, the scrape, and the probes.
//!
//! Invariant: every answer about a frame carries what CORS needs, and an error says what to do.

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Buf;
use callsight_fold::series::aggregates::Aggregates;
use callsight_fold::series::detail::DetailStore;
use callsight_fold::series::exposition::{Format, write_page};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::Stream;
use metrics::with_local_recorder;
use serde::Serialize;
use warp::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use warp::reply::{Reply, Response};
use warp::{Filter, Rejection};

use super::cors::Cors;
use super::intake::Intake;
use super::readiness::Readiness;
use super::refusal::error;
use crate::http_server::PeerAddress;
use crate::http_server::negotiate::{self, Encoding};

/// The path of the way in, which has its own proof of who speaks.
pub(super) const FRAMES: &str = "/v1/frames";

/// What the routes share.
pub(super) struct State {
    pub(super) intake: Intake,
    pub(super) cors: Cors,
    pub(super) readiness: Readiness,
    pub(super) page: Page,
}

/// The metrics, for a scrape.
pub(super) struct Page {
    aggregates: Aggregates,
    process: metrics_process::Collector,
}

/// The answer of `/readyz`.
#[derive(Serialize)]
struct ReadinessAnswer {
    ready: bool,
    /// What keeps frames from being stored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    why: Vec<String>,
    /// What is wrong although frames are stored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<&'static str>,
}

/// Builds the routes `/v1/frames`, `/metrics`, `/livez` and `/readyz`.
pub(super) fn routes(state: Arc<State>) -> impl Filter<Extract = (impl Reply,), Error = Infallible> + Clone {
    let state = warp::any().map(move || Arc::clone(&state));
    let frames = warp::path!("v1" / "frames")
        .and(state.clone())
        .and(warp::method())
        .and(warp::header::headers_cloned())
        .and(warp::ext::optional::<PeerAddress>())
        .and(warp::body::stream())
        .then(frames);
    // The path decides first: an unknown one is not found with any method.
    let read = warp::get().or(warp::head()).unify();
    let metrics = warp::path!("metrics").and(read).and(state.clone()).and(warp::header::headers_cloned());
    let metrics = metrics.then(metrics_answer);
    let livez = warp::path!("livez").and(read);
    let livez = livez.map(|| warp::reply::json(&serde_json::json!({ "alive": true })));
    let readyz = warp::path!("readyz").and(read).and(state).map(|state: Arc<State>| readyz(&state));
    frames.or(metrics).or(livez).or(readyz).recover(refuse)
}

async fn frames<B: Buf + Send, E: Send>(
    state: Arc<State>,
    method: Method,
    headers: HeaderMap,
    peer: Option<PeerAddress>,
    body: impl Stream<Item = Result<B, E>> + Send,
) -> Response {
    let State { intake, cors, readiness, .. } = &*state;
    let mut response = match method {
        Method::OPTIONS => cors.preflight(&headers),
        Method::POST => {
            let begun = intake.series.begin();
            match intake.post(peer, &headers, body).await {
                Ok(duplicate) => {
                    begun.stored(duplicate);
                    StatusCode::NO_CONTENT.into_response()
                }
                Err(refusal) => {
                    begun.refused(&refusal);
                    refusal.answer()
                }
            }
        }
        _ => {
            let mut response = error(StatusCode::METHOD_NOT_ALLOWED, None, "send frames with POST");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST, OPTIONS"));
            response
        }
    };
    cors.allow(&headers, &mut response);
    if readiness.drains.load(Relaxed) {
        // A connection that stays open would lead its next request here.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn readyz(state: &State) -> Response {
    let why = state.readiness.why(&state.intake.publisher);
    let warnings = state.readiness.warnings();
    let ready = why.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = warp::reply::json(&ReadinessAnswer { ready, why, warnings });
    warp::reply::with_status(body, status).into_response()
}

async fn metrics_answer(state: Arc<State>, headers: HeaderMap) -> Response {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let format = negotiate::format(text(header::ACCEPT));
    let Some(encoding) = negotiate::encoding(text(header::ACCEPT_ENCODING)) else {
        let text = "metrics come as gzip or identity; accept one of them\n";
        return warp::reply::with_status(text, StatusCode::NOT_ACCEPTABLE).into_response();
    };
    // The process's files are read for it.
    let written = tokio::task::spawn_blocking(move || state.write_page(format, encoding)).await;
    let page = match written.map_err(io::Error::other).flatten() {
        Ok(page) => page,
        Err(error) => {
            tracing::warn!(%error, "scrape given up");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    };
    let mut response = page.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if encoding == Encoding::Gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

impl Page {
    pub(super) fn new(aggregates: Aggregates) -> Self {
        let process = metrics_process::Collector::default();
        with_local_recorder(aggregates.recorder(), || process.describe());
        Self { aggregates, process }
    }
}

impl State {
    /// Writes the page, of which nothing grows with clients.
    fn write_page(&self, format: Format, encoding: Encoding) -> io::Result<Vec<u8>> {
        let Self { intake, readiness, page: Page { aggregates, process }, .. } = self;
        with_local_recorder(aggregates.recorder(), || process.collect());
        intake.show();
        readiness.show(&intake.publisher, &intake.series);
        let mut text = Vec::new();
        write_page(aggregates, &DetailStore::new(0), 0.0, format, &mut text)?;
        if encoding == Encoding::Identity {
            return Ok(text);
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&text)?;
        encoder.finish()
    }
}

async fn refuse(rejection: Rejection) -> Result<Response, Infallible> {
    Ok(if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        let mut response = error(StatusCode::METHOD_NOT_ALLOWED, None, "use GET or HEAD");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        response
    } else {
        let detail = "the paths are /v1/frames, /metrics, /readyz and /livez";
        error(StatusCode::NOT_FOUND, None, detail)
    })
}
