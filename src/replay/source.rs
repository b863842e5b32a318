//! Reading a part of a region's stream, in order and without leaving a trace.
//!
//! The exporter's durable must not be touched: whoever reads through it takes frames away from it. So a consumer
//! of our own is made, which keeps nothing on the server's disk, acknowledges nothing, and goes by itself. The
//! client's ordered consumer gives each successor of it a name, which the user `replay` of `jetstream/permissions`
//! may not do, and begins anew at the beginning of the stream when it breaks before the first message. This one
//! asks the server for a name, and always goes on after the last message that was taken.
//!
//! A stream only loses messages at its front. So a gap in what comes is what was purged or grew too old under the
//! replay, unless single messages were deleted by hand, and the server tells which.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::State;
use async_nats::jetstream::{Context, ErrorCode, Message};
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use futures_util::StreamExt;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::window::rfc3339;
use crate::config::one_line;
use callsight_fold::StreamTime;

/// How many messages a pull request asks for. Another is sent when half of them have come.
const BATCH: usize = 8192;

/// How many messages are handed on at a time, and how many such portions may wait.
const CHUNK: usize = 1024;
pub(super) const CHUNKS: usize = 8;

/// How long a pull request is good for, and how often the server says that it is there when it has nothing.
const PULL_EXPIRES: Duration = Duration::from_secs(10);
const HEARTBEAT: Duration = Duration::from_secs(2);

/// How long the server keeps a consumer that nobody reads: what is left behind by a replay that was killed.
const INACTIVE: Duration = Duration::from_secs(60);

/// How long the server may take to answer, and how long it may be away altogether.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const AWAY: Duration = Duration::from_secs(60);

/// When nothing comes, the stream is looked at.
const QUIET: Duration = Duration::from_secs(3);

/// The pause before another attempt.
const PAUSE: Duration = Duration::from_millis(500);

/// A message of the stream.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its place in the stream.
    pub sequence: u64,
    /// When the stream received it.
    pub at: StreamTime,
    /// The subject as it stands in the stream.
    pub subject: Subject,
    /// The headers, for those who want the message as it was.
    pub headers: Option<HeaderMap>,
    /// The frame, if it is one.
    pub payload: Bytes,
}

impl Record {
    fn new(message: Message) -> Option<(Self, u64)> {
        let info = message.info().ok()?;
        let at = StreamTime::from_unix_nanos(info.published.unix_timestamp_nanos());
        let (sequence, place) = (info.stream_sequence, info.consumer_sequence);
        let Message { message, .. } = message;
        let async_nats::Message { subject, headers, payload, .. } = message;
        Some((Self { sequence, at, subject, headers, payload }, place))
    }
}

/// Why a stream can't be read, or not to its end.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// NATS does not answer.
    #[error("NATS does not answer: {0}; check --nats-url, and that JetStream is enabled there")]
    Unreachable(String),
    /// There is no such stream.
    #[error(
        "stream {0} does not exist; check --region, and --mirror, which reads the hub's copy of a region"
    )]
    NoStream(String),
    /// The server doesn't let it be read.
    #[error(
        "stream {stream} can't be read: {reason}; the user needs what `replay` has in jetstream/permissions"
    )]
    Refused {
        /// The stream.
        stream: String,
        /// Why not.
        reason: String,
    },
    /// What was to be read is not there any more.
    #[error(
        "stream {stream} lost frames while it was read: after sequence {after} the next is {next}; it was purged, or \
         they grew too old: replay a later part"
    )]
    Purged {
        /// The stream.
        stream: String,
        /// What was read last.
        after: u64,
        /// What there is next.
        next: u64,
    },
    /// The server went away and did not come back.
    #[error("stream {stream} stopped answering after sequence {after}: {reason}")]
    Away {
        /// The stream.
        stream: String,
        /// What was read last.
        after: u64,
        /// What went wrong last.
        reason: String,
    },
}

/// What a stream holds when it is looked at.
#[derive(Clone, Debug)]
pub struct Extent {
    /// The stream.
    pub stream: String,
    /// The times of the first and the last message, if there is one.
    pub held: Option<(StreamTime, StreamTime)>,
    /// The first message's place: 1 if nothing ever went.
    pub first_sequence: u64,
    /// The last message's place.
    pub last_sequence: u64,
}

impl Extent {
    /// Looks at a stream.
    ///
    /// # Errors
    /// [`ReadError`], also when NATS is away.
    pub async fn look(context: &Context, stream: &str) -> Result<Self, ReadError> {
        let state = state(context, stream).await?;
        let nanos = |time: OffsetDateTime| StreamTime::from_unix_nanos(time.unix_timestamp_nanos());
        let held = (state.messages > 0).then(|| (nanos(state.first_timestamp), nanos(state.last_timestamp)));
        let (first_sequence, last_sequence) = (state.first_sequence, state.last_sequence);
        Ok(Self { stream: stream.to_owned(), held, first_sequence, last_sequence })
    }

    /// What there is, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match self.held {
            None => format!("{} is empty", self.stream),
            Some((first, last)) => {
                format!("{} holds frames from {} to {}", self.stream, rfc3339(first), rfc3339(last))
            }
        }
    }
}

async fn state(context: &Context, stream: &str) -> Result<State, ReadError> {
    match timeout(ANSWER_WITHIN, context.get_stream(stream)).await {
        Err(_) => Err(ReadError::Unreachable("no connection".to_owned())),
        Ok(Ok(found)) => Ok(found.cached_info().state.clone()),
        Ok(Err(error)) => Err(match error.kind() {
            GetStreamErrorKind::JetStream(refused) if refused.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                ReadError::NoStream(stream.to_owned())
            }
            GetStreamErrorKind::JetStream(refused) => {
                ReadError::Refused { stream: stream.to_owned(), reason: refused.to_string() }
            }
            _ => ReadError::Unreachable(error.to_string()),
        }),
    }
}

/// How far the reading came.
struct Place {
    sequence: u64,
    progress: Instant,
    problem: String,
}

/// Reads all messages from `since` on and up to `until` that the stream had when it was looked at. They go to
/// `sender` in portions, and so does what went wrong; nobody who listens ends it.
pub async fn read(
    context: Context,
    extent: Extent,
    since: StreamTime,
    until: StreamTime,
    sender: mpsc::Sender<Result<Vec<Record>, ReadError>>,
) {
    let mut place = Place { sequence: 0, progress: Instant::now(), problem: "no answer".to_owned() };
    if extent.held.is_none_or(|(_, last)| last < since) {
        return;
    }
    loop {
        match pull(&context, &extent, since, until, &sender, &mut place).await {
            Ok(End::Done | End::NobodyListens) => return,
            Ok(End::Broken(problem)) => place.problem = problem,
            Err(error) => {
                let _ = sender.send(Err(error)).await;
                return;
            }
        }
        if place.progress.elapsed() > AWAY {
            let Place { sequence: after, problem, .. } = place;
            let away = ReadError::Away { stream: extent.stream, after, reason: one_line(&problem) };
            let _ = sender.send(Err(away)).await;
            return;
        }
        sleep(PAUSE).await;
    }
}

enum End {
    Done,
    NobodyListens,
    Broken(String),
}

/// Reads through one consumer as far as it goes.
async fn pull(
    context: &Context,
    extent: &Extent,
    since: StreamTime,
    until: StreamTime,
    sender: &mpsc::Sender<Result<Vec<Record>, ReadError>>,
    place: &mut Place,
) -> Result<End, ReadError> {
    let stream = &extent.stream;
    let deliver_policy = if place.sequence > 0 {
        DeliverPolicy::ByStartSequence { start_sequence: place.sequence + 1 }
    } else {
        match OffsetDateTime::from_unix_timestamp_nanos(since.unix_nanos()) {
            Ok(start_time) => DeliverPolicy::ByStartTime { start_time },
            Err(_) => DeliverPolicy::All,
        }
    };
    let config = pull::Config {
        description: Some("Callsight replay".to_owned()),
        deliver_policy,
        ack_policy: AckPolicy::None,
        inactive_threshold: INACTIVE,
        memory_storage: true,
        num_replicas: 1,
        ..pull::Config::default()
    };
    let consumer = match timeout(ANSWER_WITHIN, context.create_consumer_on_stream(config, stream)).await {
        Ok(Ok(consumer)) => consumer,
        Ok(Err(error)) => {
            // Gone for good, or only away?
            state(context, stream).await.map(drop).or_else(passing)?;
            return Ok(End::Broken(error.to_string()));
        }
        Err(_) => return Ok(End::Broken("no answer".to_owned())),
    };
    if consumer.cached_info().num_pending == 0 {
        check_purged(context, extent, place).await?;
        return Ok(End::Done);
    }
    let messages = consumer
        .stream()
        .max_messages_per_batch(BATCH)
        .expires(PULL_EXPIRES)
        .heartbeat(HEARTBEAT)
        .messages()
        .await;
    let messages = match messages {
        Ok(messages) => messages,
        Err(error) => return Ok(End::Broken(error.to_string())),
    };
    let mut chunks = messages.ready_chunks(CHUNK);
    let mut delivered = 0;
    loop {
        let chunk = match timeout(QUIET, chunks.next()).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Ok(End::Broken("the subscription ended".to_owned())),
            Err(_) => {
                check_purged(context, extent, place).await?;
                if place.progress.elapsed() > PULL_EXPIRES {
                    return Ok(End::Broken("nothing came".to_owned()));
                }
                continue;
            }
        };
        let mut records = Vec::with_capacity(chunk.len());
        let mut end = None;
        for message in chunk {
            let (record, consumer_place) = match message.map(Record::new) {
                Ok(Some(record)) => record,
                Ok(None) => {
                    end = Some(End::Broken("a message came without its place".to_owned()));
                    break;
                }
                Err(error) => {
                    end = Some(End::Broken(error.to_string()));
                    break;
                }
            };
            delivered += 1;
            if consumer_place != delivered {
                end = Some(End::Broken("a delivery got lost on the way".to_owned()));
                break;
            }
            if place.sequence > 0 && record.sequence > place.sequence + 1 {
                let first = state(context, stream).await.map(|state| state.first_sequence);
                if first.or_else(|error| passing(error).map(|()| 0))? > place.sequence + 1 {
                    let next = record.sequence;
                    return Err(ReadError::Purged { stream: stream.clone(), after: place.sequence, next });
                }
            }
            if record.at > until {
                end = Some(End::Done);
                break;
            }
            place.sequence = record.sequence;
            let last = record.sequence >= extent.last_sequence;
            records.push(record);
            if last {
                end = Some(End::Done);
                break;
            }
        }
        if !records.is_empty() {
            place.progress = Instant::now();
            if sender.send(Ok(records)).await.is_err() {
                return Ok(End::NobodyListens);
            }
            // Whoever folds may have taken long; that is not the server's fault.
            place.progress = Instant::now();
        }
        if let Some(end) = end {
            return Ok(end);
        }
    }
}

/// Tells whether nothing comes because it is not there any more.
async fn check_purged(context: &Context, extent: &Extent, place: &Place) -> Result<(), ReadError> {
    let next = match state(context, &extent.stream).await {
        Ok(state) => state.first_sequence,
        Err(error) => return passing(error),
    };
    if next > place.sequence + 1 && (place.sequence > 0 || next > extent.last_sequence) {
        return Err(ReadError::Purged { stream: extent.stream.clone(), after: place.sequence, next });
    }
    Ok(())
}

/// What may pass by itself is no error.
fn passing(error: ReadError) -> Result<(), ReadError> {
    if matches!(error, ReadError::Unreachable(_)) { Ok(()) } else { Err(error) }
}
