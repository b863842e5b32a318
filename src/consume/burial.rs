//! Writing dead letters, before the frames that they are about are acknowledged.
//!
//! The dead-letter stream may be absent, full or slow, and rejected frames may come by the thousand: neither
//! may stop the consumer. So a whole chunk's letters are sent at once and waited for together, for a bounded
//! time.
//!
//! Mostly what keeps a letter from being stored passes: the connection broke, or the server has just come back
//! and does not know its streams yet. So the letter waits and is sent again, while the fold goes on, and until
//! it is stored nothing is acknowledged: should the exporter die now, its successor gets the frame. Only what
//! lasts makes letters count as lost; the next ones are not tried for a while, and are lost at once if it has
//! not passed by then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::timeout;

use crate::dead_letter;
use crate::log::Bounded;
use crate::topology::{dead_letter_stream_name, stream_name};
use callsight_fold::StreamTime;
use callsight_fold::series::aggregates::RegionSeries;
use callsight_frame::Rejection;
use callsight_frame::subject::Region;

/// How long a chunk's letters may take to be stored.
const WITHIN: Duration = Duration::from_secs(2);

/// How long letters wait for a dead-letter stream that does not take them, before they are given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long letters are not tried after some were given up.
const PAUSE: Duration = Duration::from_secs(5);

/// The most letters and the most bytes of them that wait.
const MOST_WAITING: (usize, usize) = (8192, 16 << 20);

/// A rejected frame, to be written down.
pub(super) struct Rejected {
    pub(super) subject: async_nats::Subject,
    pub(super) payload: Bytes,
    pub(super) sequence: u64,
    pub(super) received: StreamTime,
    pub(super) rejection: Rejection,
}

/// Writes the dead letters of one region.
pub(super) struct Burial {
    context: Context,
    region: Region,
    own: Arc<RegionSeries>,
    waiting: Vec<Rejected>,
    /// Since when letters have been failing.
    failing_since: Option<Instant>,
    paused_until: Option<Instant>,
    problem: Option<String>,
    log: Bounded,
}

impl Burial {
    pub(super) fn new(context: Context, region: Region, own: Arc<RegionSeries>) -> Self {
        let log = Bounded::every(Duration::from_secs(10));
        Self {
            context,
            region,
            own,
            waiting: Vec::new(),
            failing_since: None,
            paused_until: None,
            problem: None,
            log,
        }
    }

    /// Why letters can't be stored, if they can't.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Whether there are letters that may still be stored: their frames must not be acknowledged yet.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Writes letters, and those that wait, and waits until they are stored or it is clear that now they
    /// can't be.
    pub(super) async fn write(&mut self, rejected: Vec<Rejected>) {
        self.waiting.extend(rejected);
        if self.waiting.is_empty() {
            return;
        }
        if self.paused_until.is_some_and(|until| Instant::now() < until) {
            self.give_up();
            return;
        }
        let letters = std::mem::take(&mut self.waiting);
        let results = join_all(letters.iter().map(|letter| timeout(WITHIN, self.send(letter)))).await;
        let (mut stored, mut too_long) = (0, 0);
        let mut problem = None;
        for (letter, result) in letters.into_iter().zip(results) {
            match result {
                Ok(Ok(_)) => stored += 1,
                // Headers make a letter longer than its frame: it may be too long for the server.
                Ok(Err(error)) if error.kind() == PublishErrorKind::MaxPayloadExceeded => too_long += 1,
                Ok(Err(error)) => {
                    problem = Some(self.explain(&error));
                    self.waiting.push(letter);
                }
                Err(_) => {
                    problem = Some("the dead-letter stream does not answer".to_owned());
                    self.waiting.push(letter);
                }
            }
        }
        let now = Instant::now();
        self.own.dead_letters.increment(stored);
        self.problem = problem;
        if too_long > 0 {
            self.lose(too_long);
        }
        if self.waiting.is_empty() {
            self.failing_since = None;
            return;
        }
        let since = *self.failing_since.get_or_insert(now);
        let bytes: usize = self.waiting.iter().map(|letter| letter.payload.len()).sum();
        let too_many = self.waiting.len() > MOST_WAITING.0 || bytes > MOST_WAITING.1;
        if too_many || now.saturating_duration_since(since) >= PATIENCE {
            self.paused_until = Some(now + PAUSE);
            self.give_up();
        }
    }

    async fn send(&self, letter: &Rejected) -> Result<PublishAck, PublishError> {
        let stream = stream_name(&self.region);
        let subject = dead_letter::subject(&self.region, &letter.rejection);
        let headers = dead_letter::headers(
            &stream,
            &letter.subject,
            letter.sequence,
            letter.received,
            &letter.rejection,
        );
        let message = PublishMessage::build().headers(headers).payload(letter.payload.clone());
        self.context.send_publish(subject, message).await?.await
    }

    fn give_up(&mut self) {
        let letters = self.waiting.len() as u64;
        self.waiting.clear();
        self.lose(letters);
    }

    fn lose(&mut self, letters: u64) {
        self.own.dead_letters_lost.increment(letters);
        if let Some(unlogged) = self.log.allow(Instant::now()) {
            let problem = self.problem.as_deref();
            tracing::error!(region = %self.region, problem, lost = letters, unlogged, "dead letters lost");
        }
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
