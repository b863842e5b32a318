//! Writes dead letters, before the frames that they are about are acknowledged.
//!
//! The dead-letter stream may be absent, full or slow, and rejected frames may arrive by the
//! thousand. Neither may stop the consumer. So the letters of a whole chunk are sent at once and
//! waited for together, for a bounded time.
//!
//! Mostly, what keeps a letter from being stored passes: the connection broke, or the server has
//! just started and does not have its streams yet. So the letter waits and is sent again while the
//! fold goes on, and nothing is acknowledged until it is stored: if the exporter dies meanwhile,
//! its successor gets the frame. Only what lasts makes letters count as lost. The next ones are not
//! tried for a while then, and are lost at once if it still lasts.
//!
//! Invariant: each rejected frame counts as one letter, stored or lost.

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
use crate::log::RateLimit;
use crate::topology::{dead_letter_stream_name, stream_name};
use callsight_fold::StreamTime;
use callsight_fold::series::aggregates::RegionSeries;
use callsight_frame::Rejection;
use callsight_frame::subject::Region;

/// How long the letters of a chunk may take to be stored.
const WITHIN: Duration = Duration::from_secs(2);

/// How long letters wait for a dead-letter stream that does not take them, before they are lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long no letter is sent after some were lost.
const PAUSE: Duration = Duration::from_secs(5);

/// The most letters that wait, and the most bytes of them.
const MOST_WAITING: usize = 8192;
const MOST_BYTES: usize = 16 << 20;

pub(super) struct Rejected {
    pub(super) subject: async_nats::Subject,
    pub(super) payload: Bytes,
    pub(super) sequence: u64,
    pub(super) received: StreamTime,
    pub(super) rejection: Rejection,
}

/// Why letters are not stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error("it does not exist; make it with `callsight serve --create --region {0}`")]
    NoStream(Region),
    #[error("{0}")]
    Refused(PublishError),
    #[error("it does not answer")]
    Unanswered,
}

/// Writes the dead letters of one region.
pub(super) struct DeadLetterWriter {
    context: Context,
    region: Region,
    own: Arc<RegionSeries>,
    waiting: Vec<Rejected>,
    failing_since: Option<Instant>,
    paused_until: Option<Instant>,
    error: Option<WriteError>,
    losses: RateLimit,
}

impl DeadLetterWriter {
    pub(super) fn new(context: Context, region: Region, own: Arc<RegionSeries>) -> Self {
        Self {
            context,
            region,
            own,
            waiting: Vec::new(),
            failing_since: None,
            paused_until: None,
            error: None,
            losses: RateLimit::new(Duration::from_secs(10)),
        }
    }

    /// Why letters are not stored, if they are not, as text for `/readyz`.
    pub(super) fn warning(&self) -> Option<String> {
        let error = self.error.as_ref()?;
        Some(format!(
            "dead-letter stream {} takes no letters: {error}",
            dead_letter_stream_name(&self.region)
        ))
    }

    /// Whether letters wait that may still be stored: their frames must not be acknowledged yet.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Sends letters and those that wait, and returns when they are stored or can't be stored now.
    pub(super) async fn write(&mut self, rejected: Vec<Rejected>) {
        self.waiting.extend(rejected);
        if self.waiting.is_empty() {
            return;
        }
        if self.paused_until.is_some_and(|until| Instant::now() < until) {
            self.give_up();
            return;
        }
        self.send_all().await;
        if self.waiting.is_empty() {
            self.failing_since = None;
            return;
        }
        let now = Instant::now();
        let since = *self.failing_since.get_or_insert(now);
        let bytes: usize = self.waiting.iter().map(|letter| letter.payload.len()).sum();
        let too_many = self.waiting.len() > MOST_WAITING || bytes > MOST_BYTES;
        if too_many || now.saturating_duration_since(since) >= PATIENCE {
            self.paused_until = Some(now + PAUSE);
            self.give_up();
        }
    }

    /// Sends what waits, and keeps waiting what may be stored later.
    async fn send_all(&mut self) {
        let letters = std::mem::take(&mut self.waiting);
        let results = join_all(letters.iter().map(|letter| timeout(WITHIN, self.send(letter)))).await;
        let (mut stored, mut too_long) = (0, 0);
        self.error = None;
        for (letter, result) in letters.into_iter().zip(results) {
            let error = match result.map_err(|_| WriteError::Unanswered) {
                Ok(Ok(_)) => {
                    stored += 1;
                    continue;
                }
                // Headers make a letter longer than its frame, which may be too long for the
                // server.
                Ok(Err(error)) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                    too_long += 1;
                    continue;
                }
                Ok(Err(error)) if error.kind() == PublishErrorKind::StreamNotFound => {
                    WriteError::NoStream(self.region.clone())
                }
                Ok(Err(error)) => WriteError::Refused(error),
                Err(error) => error,
            };
            self.error = Some(error);
            self.waiting.push(letter);
        }
        self.own.dead_letters.increment(stored);
        if too_long > 0 {
            self.lose(too_long);
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
        if let Some(suppressed) = self.losses.check(Instant::now()) {
            let error = self.error.as_ref().map(tracing::field::display);
            tracing::error!(region = %self.region, error, lost = letters, suppressed, "dead letters lost");
        }
    }
}
