//! The routes of the page: its files, and what its script asks for.
//!
//! Invariant: nothing is fetched from elsewhere, and an error is `{"error": "…"}` and says what to
//! do.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use warp::http::{HeaderMap, Response, StatusCode, header};
use warp::reply::Reply;
use warp::{Filter, Rejection};

use super::requests::{Impair, Join};
use super::{Call, Places, origin};

/// The longest body of a request, in bytes.
const MAX_BODY: u64 = 4096;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The files by path. `callsight.js` is the client of `clients/web` as `./dev web` builds it.
const FILES: [(&str, &str, &str); 8] = [
    ("", HTML, include_str!("index.html")),
    ("participant", HTML, include_str!("participant.html")),
    ("call.css", CSS, include_str!("call.css")),
    ("call.js", SCRIPT, include_str!("call.js")),
    ("server.js", SCRIPT, include_str!("server.js")),
    ("media.js", SCRIPT, include_str!("media.js")),
    ("participant.js", SCRIPT, include_str!("participant.js")),
    ("callsight.js", SCRIPT, include_str!("callsight.js")),
];

/// Builds all routes.
pub(super) fn routes(call: Arc<Call>) -> impl Filter<Extract = (impl Reply,), Error = Infallible> + Clone {
    // A page elsewhere whose name leads to this machine is not this one.
    let here = warp::host::exact(&call.places.page.to_string());
    let call = warp::any().map(move || Arc::clone(&call));
    // Paths come first, so that what is not there is not called another method.
    let file = warp::path::tail().and(warp::get()).and(call.clone()).and_then(file);
    let setup = warp::path!("api" / "setup").and(warp::get()).and(call.clone());
    let setup = setup.map(|call: Arc<Call>| reply(StatusCode::OK, &call.setup()));
    let alerts = warp::path!("api" / "alerts").and(warp::get()).and(call.clone()).then(alerts);
    let body = warp::header::headers_cloned()
        .and(warp::body::content_length_limit(MAX_BODY))
        .and(warp::body::bytes())
        .and(call);
    let join = warp::path!("api" / "join").and(warp::post()).and(body.clone()).then(join);
    let token = warp::path!("api" / "token").and(warp::post()).and(body.clone()).map(token);
    let network = warp::path!("api" / "network").and(warp::put()).and(body).map(network);
    here.and(setup.or(alerts).or(join).or(token).or(network).or(file)).recover(refuse)
}

async fn file(path: warp::path::Tail, call: Arc<Call>) -> Result<impl Reply, Rejection> {
    let found = FILES.iter().find(|(name, ..)| *name == path.as_str());
    let (_, content_type, text) = found.ok_or_else(warp::reject::not_found)?;
    let Places { ingest, triage, .. } = &call.places;
    // The participants are pages in the page, and so is the triage page.
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; \
         connect-src 'self' {}; frame-src 'self' {}; frame-ancestors 'self'; base-uri 'none'; form-action 'none'",
        origin(ingest.address),
        origin(*triage)
    );
    Ok(Response::builder()
        .header(header::CONTENT_TYPE, *content_type)
        .header(header::CACHE_CONTROL, "no-store")
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(header::REFERRER_POLICY, "no-referrer")
        .header(header::CONTENT_SECURITY_POLICY, policy)
        .body(*text))
}

async fn alerts(call: Arc<Call>) -> impl Reply {
    match call.alerts().await {
        Ok(alerts) => reply(StatusCode::OK, &alerts),
        Err(error) => problem(StatusCode::SERVICE_UNAVAILABLE, &error),
    }
}

async fn join(headers: HeaderMap, body: Bytes, call: Arc<Call>) -> impl Reply {
    match read::<Join>(&headers, &body) {
        Ok(request) => match call.join(request).await {
            Ok(network) => reply(StatusCode::OK, &network),
            Err(error) => {
                let text = format!("cannot start the network: {error}; close other programs and try again");
                problem(StatusCode::SERVICE_UNAVAILABLE, &text)
            }
        },
        Err((status, error)) => problem(status, &error),
    }
}

fn token(headers: HeaderMap, body: Bytes, call: Arc<Call>) -> impl Reply {
    match read::<Join>(&headers, &body).map(|request| call.token(request)) {
        Ok(Some(token)) => reply(StatusCode::OK, &json!({ "token": token })),
        Ok(None) => problem(StatusCode::INTERNAL_SERVER_ERROR, "cannot sign a token"),
        Err((status, error)) => problem(status, &error),
    }
}

fn network(headers: HeaderMap, body: Bytes, call: Arc<Call>) -> impl Reply {
    let read = read::<Impair>(&headers, &body);
    let read = read.and_then(|request| {
        let network = request.network().map_err(|error| (StatusCode::BAD_REQUEST, error))?;
        Ok((request.participant, network))
    });
    match read {
        Ok((participant, network)) => {
            call.impair(participant, network);
            reply(StatusCode::OK, &json!({}))
        }
        Err((status, error)) => problem(status, &error),
    }
}

/// Reads a body of JSON. Only with this content type do browsers ask before they send a request of
/// another page, and this server allows none.
fn read<T: DeserializeOwned>(headers: &HeaderMap, body: &[u8]) -> Result<T, (StatusCode, String)> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if content_type != Some("application/json") {
        let text = "write the content type application/json".to_owned();
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    serde_json::from_slice(body).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))
}

fn reply(status: StatusCode, body: &Value) -> warp::reply::Response {
    let json = warp::reply::with_header(warp::reply::json(body), header::CACHE_CONTROL, "no-store");
    warp::reply::with_status(json, status).into_response()
}

fn problem(status: StatusCode, error: &str) -> warp::reply::Response {
    reply(status, &json!({ "error": error }))
}

async fn refuse(rejection: Rejection) -> Result<impl Reply, Infallible> {
    let (status, text) = if rejection.is_not_found() {
        (StatusCode::NOT_FOUND, "not found; open the address that `callsight demo --call` prints")
    } else if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        (StatusCode::METHOD_NOT_ALLOWED, "this path has another method")
    } else if rejection.find::<warp::reject::PayloadTooLarge>().is_some() {
        (StatusCode::PAYLOAD_TOO_LARGE, "the body is too long")
    } else if rejection.find::<warp::reject::LengthRequired>().is_some() {
        (StatusCode::LENGTH_REQUIRED, "state the length of the body")
    } else {
        (StatusCode::BAD_REQUEST, "the request is not valid")
    };
    Ok(problem(status, text))
}
