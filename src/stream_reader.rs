//! Reads part of a stream, in order and without leaving a trace.
//!
//! Reading through the exporter's durable would take frames away from it, and the client's ordered
//! consumer is unfit: it names each successor of its consumer, which no user of
//! `jetstream/permissions` may do, and it restarts at the beginning of the stream if it breaks
//! before the first message. A [`StreamReader`] creates an ephemeral consumer in the server's
//! memory instead, lets the server choose its name, acknowledges nothing, and after a break
//! continues after the last message that it returned.
//!
//! A stream loses messages only at its front. So a gap is what was purged or expired while it was
//! read, unless single messages were deleted by hand; the stream's first sequence tells the two
//! apart.
//!
//! Invariant: each message of the part is returned once and in order of its sequence.

use std::error::Error;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::{self, MessagesError};
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, StreamError};
use async_nats::jetstream::stream::{Info, State};
use async_nats::jetstream::{Context, ErrorCode, Message};
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::ReadyChunks;
use serde_json::json;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, timeout};

use crate::config::one_line;
use crate::jetstream_api::{AskError, ask};
use callsight_fold::StreamTime;

/// The messages that one pull request asks for. The client sends the next one when half of them
/// have arrived.
const BATCH: usize = 4096;

/// The bytes that one pull request asks for: some 900 frames of ten participants. More would only
/// wait in memory for the fold. The server delivers no message that is larger, so this is twice the
/// `max_payload` that it has by default.
const BATCH_BYTES: usize = 2 << 20;

/// The most messages that are returned at a time.
const CHUNK: usize = 1024;

/// How long a pull request is valid. It outlives its process when a node or a link dies without a
/// word. The server goes on serving it until it expires, and a successor gets nothing until then.
const PULL_EXPIRES: Duration = Duration::from_secs(10);

/// How often the server confirms an idle pull request; the client notices when two confirmations
/// are missing.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// How long the server keeps a consumer that nobody reads, such as that of a killed process.
const INACTIVE: Duration = Duration::from_secs(60);

/// How long the server may take to answer a request.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long nothing may arrive before the stream itself is looked at.
const QUIET: Duration = Duration::from_secs(3);

/// The pause before a consumer is created again.
const PAUSE: Duration = Duration::from_millis(500);

/// A message of a stream.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// When the stream stored it.
    pub at: StreamTime,
    /// Its subject in the stream.
    pub subject: Subject,
    pub headers: Option<HeaderMap>,
    /// Its payload, a frame unless it was rejected.
    pub payload: Bytes,
}

/// Why a stream cannot be read, or not to the end of the part.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("NATS does not answer: {0}; check --nats-url, and that JetStream is enabled there")]
    Unreachable(String),
    #[error("stream {0} does not exist; check --region, and --mirror if the hub's copy of a region is meant")]
    NoStream(String),
    #[error("stream {stream} can't be read: {reason}; check the user's rights, see jetstream/permissions")]
    Refused { stream: String, reason: async_nats::jetstream::Error },
    /// Messages of the part were removed before they were read.
    #[error(
        "stream {stream} lost frames while it was read: after sequence {after} the next is {next}; it was purged, or \
         they grew too old: choose a later part"
    )]
    Purged {
        stream: String,
        /// The last sequence that was read.
        after: u64,
        /// The stream's first sequence now.
        next: u64,
    },
    #[error("stream {stream} stopped answering after sequence {after}: {}", one_line(&reason.to_string()))]
    Away {
        stream: String,
        /// The last sequence that was read.
        after: u64,
        /// What went wrong last.
        reason: Box<dyn Error + Send + Sync>,
    },
}

impl ReadError {
    /// Whether another attempt may succeed.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Away { .. })
    }
}

/// What a stream holds at one moment.
#[derive(Clone, Debug)]
pub struct Extent {
    pub stream: String,
    /// The number of messages.
    pub messages: u64,
    /// The times of the first and the last message, if there is one.
    pub held: Option<(StreamTime, StreamTime)>,
    /// The first message's sequence: 1 if none was ever removed.
    pub first_sequence: u64,
    /// The last message's sequence.
    pub last_sequence: u64,
}

impl Extent {
    /// Asks the server what a stream holds.
    ///
    /// # Errors
    /// [`ReadError`], also when NATS does not answer within seconds.
    pub async fn look(context: &Context, stream: &str) -> Result<Self, ReadError> {
        let State { messages, first_sequence, last_sequence, first_timestamp, last_timestamp, .. } =
            state(context, stream).await?;
        let nanos = |time: OffsetDateTime| StreamTime::from_unix_nanos(time.unix_timestamp_nanos());
        let held = (messages > 0).then(|| (nanos(first_timestamp), nanos(last_timestamp)));
        Ok(Self { stream: stream.to_owned(), messages, held, first_sequence, last_sequence })
    }
}

async fn state(context: &Context, stream: &str) -> Result<State, ReadError> {
    match timeout(ANSWER_WITHIN, ask::<Info>(context, format!("STREAM.INFO.{stream}"), &json!({}))).await {
        Ok(Ok(info)) => Ok(info.state),
        Ok(Err(error)) if error.is(ErrorCode::STREAM_NOT_FOUND) => {
            Err(ReadError::NoStream(stream.to_owned()))
        }
        Ok(Err(AskError::Refused(reason))) => Err(ReadError::Refused { stream: stream.to_owned(), reason }),
        Ok(Err(AskError::Unanswered(error))) => Err(ReadError::Unreachable(error.to_string())),
        Err(_) => Err(ReadError::Unreachable("no connection".to_owned())),
    }
}

/// The part of a stream to read.
#[derive(Clone, Debug)]
pub struct Part {
    pub stream: String,
    /// The subjects to read; all if there are none.
    pub subjects: Vec<String>,
    /// Where the part begins.
    pub start: DeliverPolicy,
    /// The last sequence that belongs to the part.
    pub last_sequence: u64,
    /// The latest time at which a message of the part was stored.
    pub until: Option<StreamTime>,
    /// Whether messages that are removed before they are read are an error. It takes all subjects:
    /// those of others leave gaps.
    pub gapless: bool,
    /// What the server shows as the consumer's description.
    pub description: &'static str,
    /// How long nothing may arrive before the reader gives up.
    pub patience: Duration,
}

/// The start of a part that begins with the first message stored at a time or later.
#[must_use]
pub fn start_at(time: StreamTime) -> DeliverPolicy {
    match OffsetDateTime::from_unix_timestamp_nanos(time.unix_nanos()) {
        Ok(start_time) => DeliverPolicy::ByStartTime { start_time },
        Err(_) => DeliverPolicy::All,
    }
}

/// A consumer in the server's memory, which the server forgets when nobody has read it for a time.
pub(crate) fn ephemeral(
    description: &str,
    deliver_policy: DeliverPolicy,
    inactive_threshold: Duration,
) -> pull::Config {
    pull::Config {
        description: Some(description.to_owned()),
        deliver_policy,
        ack_policy: AckPolicy::None,
        inactive_threshold,
        memory_storage: true,
        num_replicas: 1,
        ..pull::Config::default()
    }
}

/// Opens a consumer for reading.
pub(crate) async fn open(consumer: &Consumer<pull::Config>) -> Result<pull::Stream, StreamError> {
    let stream = consumer.stream().max_messages_per_batch(BATCH).max_bytes_per_batch(BATCH_BYTES);
    stream.expires(PULL_EXPIRES).heartbeat(HEARTBEAT).messages().await
}

/// Reads a [`Part`] of a stream.
pub struct StreamReader {
    context: Context,
    part: Part,
    /// The sequence of the last message that was returned; 0 before the first.
    sequence: u64,
    consumer: Option<EphemeralConsumer>,
    done: bool,
}

struct EphemeralConsumer {
    chunks: ReadyChunks<pull::Stream>,
    /// The consumer sequence of its last message.
    delivered: u64,
}

impl StreamReader {
    /// Prepares to read; the server is first asked by [`Self::next`].
    #[must_use]
    pub fn new(context: Context, part: Part) -> Self {
        Self { context, part, sequence: 0, consumer: None, done: false }
    }

    /// Returns the next messages, at least one, or `None` at the end of the part.
    ///
    /// # Errors
    /// [`ReadError`]; the reader can't be used any more.
    pub async fn next(&mut self) -> Result<Option<Vec<Record>>, ReadError> {
        let began = Instant::now();
        while !self.done {
            match self.read(began).await {
                Ok(records) if records.is_empty() => {}
                Ok(records) => return Ok(Some(records)),
                Err(error) if error.may_pass() && began.elapsed() <= self.part.patience => {
                    self.consumer = None;
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Waits for the next messages of the consumer, which is created if there is none.
    async fn read(&mut self, began: Instant) -> Result<Vec<Record>, ReadError> {
        if self.consumer.is_none() {
            self.consumer = self.create_consumer().await?;
        }
        let Some(consumer) = &mut self.consumer else {
            self.done = true;
            return Ok(Vec::new());
        };
        match timeout(QUIET, consumer.chunks.next()).await {
            Ok(Some(chunk)) => self.take(chunk).await,
            Ok(None) => Err(self.away("the subscription ended")),
            Err(_) => {
                self.check_purged().await?;
                if began.elapsed() > PULL_EXPIRES {
                    Err(self.away("nothing arrived"))
                } else {
                    Ok(Vec::new())
                }
            }
        }
    }

    /// Creates a consumer that delivers what was not returned yet; `None` if nothing is left.
    async fn create_consumer(&self) -> Result<Option<EphemeralConsumer>, ReadError> {
        let deliver_policy = match self.sequence {
            0 => self.part.start,
            last => DeliverPolicy::ByStartSequence { start_sequence: last + 1 },
        };
        let config = pull::Config {
            filter_subjects: self.part.subjects.clone(),
            ..ephemeral(self.part.description, deliver_policy, INACTIVE)
        };
        let creating = self.context.create_consumer_on_stream(config, &self.part.stream);
        let consumer = match timeout(ANSWER_WITHIN, creating).await.map_err(|_| self.away("no answer"))? {
            Ok(consumer) => consumer,
            Err(error) => {
                // A stream that was deleted is not worth another attempt.
                state(&self.context, &self.part.stream).await?;
                return Err(self.away(error));
            }
        };
        if consumer.cached_info().num_pending == 0 {
            self.check_purged().await?;
            return Ok(None);
        }
        let messages = open(&consumer).await.map_err(|error| self.away(error))?;
        Ok(Some(EphemeralConsumer { chunks: messages.ready_chunks(CHUNK), delivered: 0 }))
    }

    async fn take(&mut self, chunk: Vec<Result<Message, MessagesError>>) -> Result<Vec<Record>, ReadError> {
        let mut records = Vec::with_capacity(chunk.len());
        for message in chunk {
            match self.take_one(message).await {
                Ok(record) => records.extend(record),
                // What arrived before the break is returned first.
                Err(error) if error.may_pass() && !records.is_empty() => {
                    self.consumer = None;
                    break;
                }
                Err(error) => return Err(error),
            }
            if self.done {
                break;
            }
        }
        Ok(records)
    }

    /// Takes a message, unless it lies beyond the part.
    async fn take_one(
        &mut self,
        message: Result<Message, MessagesError>,
    ) -> Result<Option<Record>, ReadError> {
        let message = message.map_err(|error| self.away(error))?;
        let info = message.info().map_err(|error| self.away(error))?;
        let (sequence, pending) = (info.stream_sequence, info.pending);
        let at = StreamTime::from_unix_nanos(info.published.unix_timestamp_nanos());
        if let Some(consumer) = &mut self.consumer {
            consumer.delivered += 1;
            if info.consumer_sequence != consumer.delivered {
                return Err(self.away("a delivery was lost on the way"));
            }
        }
        if self.sequence > 0 && sequence > self.sequence + 1 {
            self.check_purged().await?;
        }
        // A part with gaps may end before its last sequence.
        self.done = sequence >= self.part.last_sequence || (pending == 0 && !self.part.gapless);
        if sequence > self.part.last_sequence || self.part.until.is_some_and(|until| at > until) {
            self.done = true;
            return Ok(None);
        }
        self.sequence = sequence;
        let async_nats::Message { subject, headers, payload, .. } = message.message;
        Ok(Some(Record { sequence, at, subject, headers, payload }))
    }

    /// Returns an error if messages were removed from the stream that were not returned yet.
    async fn check_purged(&self) -> Result<(), ReadError> {
        if !self.part.gapless {
            return Ok(());
        }
        let next = state(&self.context, &self.part.stream).await?.first_sequence;
        if next > self.sequence + 1 && (self.sequence > 0 || next > self.part.last_sequence) {
            return Err(ReadError::Purged { stream: self.part.stream.clone(), after: self.sequence, next });
        }
        Ok(())
    }

    fn away(&self, reason: impl Into<Box<dyn Error + Send + Sync>>) -> ReadError {
        let (stream, after) = (self.part.stream.clone(), self.sequence);
        ReadError::Away { stream, after, reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream::stream;
    use callsight_testkit::nats::Nats;
    use callsight_testkit::wait::{PATIENCE, eventually_async, when};

    use super::*;

    /// How many of so many messages are delivered to a reader that stops after the first one. Then
    /// it goes on and gets all.
    async fn delivered_to_one_that_stops(messages: u64, size: usize) -> usize {
        let nats = Nats::start();
        let (client, context) = (nats.client().await, nats.jetstream().await);
        let config = stream::Config { name: "S".into(), subjects: vec!["s".into()], ..Default::default() };
        context.create_stream(config).await.unwrap();
        for _ in 0..messages {
            client.publish("s", vec![0; size].into()).await.unwrap();
        }
        eventually_async(PATIENCE, "the messages to be stored", async || {
            when(state(&context, "S").await.unwrap().messages, |stored| *stored == messages)
        })
        .await;

        let config = ephemeral("test", DeliverPolicy::All, INACTIVE);
        let consumer = context.create_consumer_on_stream(config, "S").await.unwrap();
        let mut reading = open(&consumer).await.unwrap();
        let mut last = reading.next().await.unwrap().unwrap().info().unwrap().stream_sequence;
        assert_eq!(last, 1);
        // Without a request that waits, the server delivers nothing more.
        let info = eventually_async(PATIENCE, "the request to be served", async || {
            when(consumer.get_info().await.unwrap(), |info| info.num_waiting == 0)
        })
        .await;
        while last < messages {
            let next = reading.next().await.unwrap().unwrap().info().unwrap().stream_sequence;
            assert_eq!(next, last + 1);
            last = next;
        }
        usize::try_from(info.delivered.consumer_sequence).unwrap()
    }

    #[tokio::test]
    async fn no_more_is_on_its_way_than_one_pull_asks_for() {
        assert_eq!(delivered_to_one_that_stops(10_000, 10).await, BATCH);
        const LARGE: usize = 60 << 10;
        let large = delivered_to_one_that_stops(200, LARGE).await;
        assert!(large * LARGE <= BATCH_BYTES, "{large}");
        // Subjects and headers count too.
        assert!((large + 2) * LARGE > BATCH_BYTES, "{large}");
    }
}
