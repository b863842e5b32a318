//! What is served where.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use warp::http::{Response, StatusCode, header};
use warp::reply::Reply;
use warp::{Filter, Rejection};

use super::negotiate;
use super::scrape::Scraper;
use crate::consume::{HealthReport, RegionHealth};

/// What the routes answer from.
#[derive(Clone)]
pub(super) struct State {
    pub(super) scraper: Scraper,
    pub(super) regions: Vec<Arc<RegionHealth>>,
    pub(super) ready_max_lag: Duration,
    /// Which of several exporters side by side this is. Whoever reaches it through a service can't tell otherwise.
    pub(super) deployment: Arc<str>,
}

/// The answer of `/readyz`.
#[derive(Serialize)]
struct Readiness<'a> {
    ready: bool,
    deployment: &'a str,
    regions: Vec<HealthReport>,
}

/// The answer of `/livez`.
#[derive(Serialize)]
struct Liveness {
    alive: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    why: Vec<String>,
}

/// All routes: `/metrics`, `/livez`, `/readyz` and `/`. They answer GET and HEAD.
pub(super) fn routes(state: State) -> impl Filter<Extract = (impl Reply,), Error = Infallible> + Clone {
    let state = warp::any().map(move || state.clone());
    let metrics = warp::path!("metrics")
        .and(state.clone())
        .and(warp::header::optional::<String>("accept"))
        .and(warp::header::optional::<String>("accept-encoding"))
        .then(metrics);
    let livez = warp::path!("livez").and(state.clone()).map(|state: State| livez(&state));
    let readyz = warp::path!("readyz").and(state.clone()).map(|state: State| readyz(&state));
    let landing = warp::path::end().and(state).map(|state: State| landing(&state));
    let read = warp::get().or(warp::head()).unify();
    read.and(metrics.or(livez).or(readyz).or(landing)).recover(refuse)
}

async fn metrics(state: State, accept: Option<String>, accept_encoding: Option<String>) -> impl Reply {
    let format = negotiate::format(accept.as_deref());
    let gzip = negotiate::gzip(accept_encoding.as_deref());
    let Some(page) = state.scraper.page(format, gzip).await else {
        let text = "too many scrapes at a time; scrape less often\n";
        return warp::reply::with_status(text, StatusCode::SERVICE_UNAVAILABLE).into_response();
    };
    let mut response = warp::reply::stream(page.pieces()).into_response();
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
    answer(&Readiness { ready, deployment: &state.deployment, regions }, ready)
}

fn answer(body: &impl Serialize, good: bool) -> warp::reply::Response {
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    warp::reply::with_status(warp::reply::json(body), status).into_response()
}

fn landing(state: &State) -> impl Reply + use<> {
    let mut rows = String::new();
    for region in &state.regions {
        let report = region.report(state.ready_max_lag);
        let why = report.why.as_deref().unwrap_or("ready");
        let class = if report.ready { "good" } else { "bad" };
        rows.push_str(&format!(
            "<tr><td>{}</td><td class=\"{class}\">{}</td><td>{}</td><td>{}</td><td>{:.1} s</td></tr>\n",
            report.region,
            escape(why),
            report.live_sessions,
            report.pending_frames,
            report.lag_seconds
        ));
    }
    let page = include_str!("landing.html").replace("{version}", env!("CARGO_PKG_VERSION"));
    warp::reply::html(page.replace("{regions}", &rows))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

async fn refuse(rejection: Rejection) -> Result<impl Reply, Infallible> {
    let (status, text) = if rejection.is_not_found() {
        (StatusCode::NOT_FOUND, "there are /metrics, /readyz, /livez and /\n")
    } else if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        (StatusCode::METHOD_NOT_ALLOWED, "use GET or HEAD\n")
    } else {
        (StatusCode::BAD_REQUEST, "the request's headers can't be read\n")
    };
    Ok(Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
        .body(text))
}
