//! Writing dead letters, before the frames that they are about are acknowledged.
//!
//! The dead-letter stream may be absent, full or slow, and rejected frames may come by the thousand: neither
//! may stop the consumer. So a whole chunk's letters are sent at once and waited for together, for a bounded
//! time, and after a failure the next letters are counted as lost without trying for a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::timeout;

use crate::dead_letter;
use crate::frame::Rejection;
use crate::log::Bounded;
use crate::series::aggregates::RegionSeries;
use crate::subject::Region;
use crate::topology::{dead_letter_stream_name, stream_name};

/// How long a chunk's letters may take to be stored.
const WITHIN: Duration = Duration::from_secs(2);

/// How long letters are not tried after one could not be stored.
const PAUSE: Duration = Duration::from_secs(5);

/// A rejected frame, to be written down.
pub(super) struct Rejected {
    pub(super) subject: async_nats::Subject,
    pub(super) payload: Bytes,
    pub(super) sequence: u64,
    pub(super) rejection: Rejection,
}

/// Writes the dead letters of one region.
pub(super) struct Burial {
    context: Context,
    region: Region,
    own: Arc<RegionSeries>,
    paused_until: Option<Instant>,
    problem: Option<String>,
    log: Bounded,
}

impl Burial {
    pub(super) fn new(context: Context, region: Region, own: Arc<RegionSeries>) -> Self {
        let log = Bounded::every(Duration::from_secs(10));
        Self { context, region, own, paused_until: None, problem: None, log }
    }

    /// Why letters can't be stored, if they can't.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Writes letters and waits until they are stored, or it is clear that they won't be.
    pub(super) async fn write(&mut self, rejected: Vec<Rejected>) {
        if rejected.is_empty() {
            return;
        }
        let letters = rejected.len() as u64;
        if self.paused_until.is_some_and(|until| Instant::now() < until) {
            self.own.dead_letters_lost.increment(letters);
            return;
        }
        let stream = stream_name(&self.region);
        let writing = join_all(rejected.into_iter().map(|rejected| {
            let subject = dead_letter::subject(&self.region, &rejected.rejection);
            let headers =
                dead_letter::headers(&stream, &rejected.subject, rejected.sequence, &rejected.rejection);
            let message = PublishMessage::build().headers(headers).payload(rejected.payload);
            async { self.context.send_publish(subject, message).await?.await }
        }));
        let (stored, problem) = match timeout(WITHIN, writing).await {
            Ok(results) => {
                let stored = results.iter().filter(|result| result.is_ok()).count() as u64;
                (stored, results.into_iter().find_map(Result::err).map(|error| self.explain(&error)))
            }
            Err(_) => (0, Some("the dead-letter stream does not answer".to_owned())),
        };
        self.own.dead_letters.increment(stored);
        self.own.dead_letters_lost.increment(letters - stored);
        let now = Instant::now();
        self.paused_until = problem.is_some().then(|| now + PAUSE);
        if let Some(problem) = &problem
            && let Some(unlogged) = self.log.allow(now)
        {
            tracing::error!(region = %self.region, problem, lost = letters - stored, unlogged, "dead letters lost");
        }
        self.problem = problem;
    }

    fn explain(&self, error: &PublishError) -> String {
        let stream = dead_letter_stream_name(&self.region);
        match error.kind() {
            PublishErrorKind::StreamNotFound => format!(
                "dead-letter stream {stream} does not exist; make it with `callsight serve --create --region {}`",
                self.region
            ),
            _ => format!("dead-letter stream {stream} refuses: {error}"),
        }
    }
}
