//! Whether frames can be stored: the connection, the stream and the publisher.
//!
//! An instance that can store nothing must get no requests, and it may not ask the stream's API:
//! its user may publish, nothing else. So it publishes a message that no stream stores, since the
//! message expects a stream of another name, and the refusal proves that the stream is there.
//!
//! Invariant: nothing is stored by asking.

use std::time::{Duration, Instant};

use async_nats::client::{Request, RequestErrorKind};
use async_nats::connection::State;
use async_nats::jetstream::{ErrorCode, response};
use async_nats::{Client, HeaderMap, StatusCode};
use callsight_publish::Publisher;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::nats::Refusals;

/// How often to ask while all is well, and while it is not.
const CALM: Duration = Duration::from_secs(5);
const ALERT: Duration = Duration::from_millis(500);

/// How long a new instance may take to connect before that is worth a warning.
const CONNECTED_WITHIN: Duration = Duration::from_secs(5);

/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(2);

/// The name that no stream has: names have no spaces.
const NO_STREAM: &str = "no stream";

/// `STREAM_NOT_MATCH`: the stream is there and would take a message.
const NOT_MATCH: ErrorCode = ErrorCode::STREAM_NOT_MATCH;

/// Asks again and again, until dropped, and keeps why frames can't be stored.
pub(super) async fn watch_stream(
    client: Client,
    refusals: Refusals,
    subject: String,
    problem: watch::Sender<Option<String>>,
) {
    let start = Instant::now();
    let (mut connected, mut logged) = (false, None);
    loop {
        let found = ask(&client, &refusals, &subject).await;
        let pause = if found.is_none() { CALM } else { ALERT };
        connected |= disconnected(&client, &refusals).is_none();
        // Every instance begins without a connection.
        let begins = !connected && start.elapsed() < CONNECTED_WITHIN;
        if !begins && logged.as_ref() != Some(&found) {
            match &found {
                Some(reason) => tracing::warn!(reason, "frames cannot be stored"),
                None => tracing::info!(subject, "frames can be stored"),
            }
            logged = Some(found.clone());
        }
        problem.send_replace(found);
        sleep(pause).await;
    }
}

/// Why there is no connection.
pub(super) fn disconnected(client: &Client, refusals: &Refusals) -> Option<String> {
    (client.connection_state() != State::Connected).then(|| match refusals.of_connection() {
        Some(reason) => format!("NATS is not connected: {reason}"),
        None => "NATS is not connected".to_owned(),
    })
}

/// What the publisher says of the stream's answers, while frames wait for one.
pub(super) fn setback(publisher: &Publisher) -> Option<String> {
    let stats = publisher.stats();
    // Without one, nothing would tell that the stream is well again.
    let waits = stats.in_flight + stats.buffered > 0;
    publisher.setback().filter(|_| waits).map(|why| format!("the stream does not store frames: {why}"))
}

async fn ask(client: &Client, refusals: &Refusals, subject: &str) -> Option<String> {
    if let Some(problem) = disconnected(client, refusals) {
        return Some(problem);
    }
    let asked = Instant::now();
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Stream", NO_STREAM);
    let request = Request::new().headers(headers).payload(Vec::new().into()).timeout(Some(WITHIN));
    let absent =
        || format!("no stream takes {subject}; create or update its stream with `callsight streams apply`");
    match client.send_request(subject.to_owned(), request).await {
        Ok(answer) if answer.status == Some(StatusCode::NO_RESPONDERS) => Some(absent()),
        Ok(answer) => {
            match serde_json::from_slice::<response::Response<serde_json::Value>>(&answer.payload) {
                Ok(response::Response::Err { error }) if error.error_code() == NOT_MATCH => None,
                Ok(response::Response::Err { error }) => Some(format!("the stream refuses frames: {error}")),
                // Something else listens on the subject and was faster: what the publisher says
                // counts.
                Ok(response::Response::Ok(_)) | Err(_) => None,
            }
        }
        Err(error) if error.kind() == RequestErrorKind::NoResponders => Some(absent()),
        Err(error) => Some(match refusals.about("diagnostics", asked) {
            Some(refusal) => format!("the user may not publish frames: {refusal}"),
            None => format!("the stream does not answer: {error}"),
        }),
    }
}
