//! Finding the stream and the durable consumer, and taking up where they were left.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use async_nats::jetstream::context::{RequestError, RequestErrorKind};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{Context, ErrorCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::clock::Reading;
use super::handover::Handover;
use crate::fold::StreamTime;
use crate::subject::Region;
use crate::topology::{Deployment, Shard, consumer_config, durable_name, ensure_streams, stream_name};

/// How many frames a pull request asks for. Another is sent when half of them have come.
const BATCH: usize = 8192;

/// How long a pull request is good for. It outlives its exporter when a node or a link dies without a word, and
/// the server goes on serving it; until it is over, a successor gets nothing.
const PULL_EXPIRES: Duration = Duration::from_secs(10);

/// How often the server says that it is there when it has no frames; two that don't come are missed.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Who reads: a deployment, or one of the shards that it is shared out to.
#[derive(Clone, Debug, PartialEq)]
pub struct Reader {
    /// The deployment.
    pub deployment: Deployment,
    /// The shard, unless one exporter reads everything.
    pub shard: Option<Shard>,
    /// How many shards the deployment had, while that changes: a new durable begins where theirs were left.
    pub shards_before: Option<u32>,
}

impl From<Deployment> for Reader {
    fn from(deployment: Deployment) -> Self {
        Self { deployment, shard: None, shards_before: None }
    }
}

impl Reader {
    /// The name of its durable consumer.
    #[must_use]
    pub fn durable(&self) -> String {
        durable_name(&self.deployment, self.shard)
    }

    /// The subjects that it reads of a region's stream; none in particular if it reads everything.
    pub(super) fn subjects(&self, region: &Region) -> Vec<String> {
        self.shard.map(|shard| shard.subjects(region)).unwrap_or_default()
    }

    /// The flags that name it.
    fn flags(&self) -> String {
        let Self { deployment, shard, .. } = self;
        let shard = shard.map(|shard| format!(" --shard {shard}")).unwrap_or_default();
        format!("--deployment {deployment}{shard}")
    }
}

/// Which consumer is wanted, and whether it may be made.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) region: Region,
    pub(super) reader: Reader,
    /// Makes what is missing, the stream with so many replicas.
    pub(super) create: Option<usize>,
    /// How far back a new durable begins.
    pub(super) lookback: Duration,
}

/// Why the consumer can't be attached to.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttachError {
    #[error("NATS does not answer: {0}; check --nats-url and that JetStream is enabled there")]
    Unreachable(String),
    #[error("stream {stream} does not exist; make it with `callsight serve --create --region {region}`")]
    NoStream { stream: String, region: Region },
    #[error(
        "durable consumer {durable} does not exist on {stream}; make it with \
         `callsight serve --create --region {region} {flags}`"
    )]
    NoConsumer { durable: String, stream: String, region: Region, flags: String },
    #[error("stream {stream} does not append its servers' {wanted} partitions to the subjects, so it can't be shared out; declare the stream as `callsight serve --create` makes it", wanted = Shard::MOST)]
    NoPartitions { stream: String },
    #[error(
        "durable consumer {0} reads other subjects than are wanted; delete it, a new one is made with --create"
    )]
    WrongSubjects(String),
    #[error("durable consumer {durable} is still being read; stop the exporters of the layout before")]
    StillRead { durable: String },
    #[error(
        "durable consumer {durable} does not exist on {stream}, so nobody knows how far the shards before had come; \
         correct --shards-before, or leave it out to begin one idle timeout before now"
    )]
    NoneBefore { durable: String, stream: String },
    #[error("durable consumer {0} acknowledges frame by frame; delete it, a new one is made with --create")]
    WrongAckPolicy(String),
    #[error("stream {stream} can't be made: {reason}")]
    CreateStream { stream: String, reason: String },
    #[error("durable consumer {durable} can't be made: {reason}")]
    CreateConsumer { durable: String, reason: String },
    #[error(
        "durable consumer {durable} can't be set back to what was acknowledged: {reason}; nats-server 2.14 or newer can"
    )]
    Reset { durable: String, reason: String },
}

/// How far a stream was folded by this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    /// When the stream was made: another time means another stream, whose sequence begins anew.
    pub(super) stream_created: OffsetDateTime,
    /// The highest sequence that needs no folding any more.
    pub(super) taken: u64,
}

/// A consumer that is ready to be read.
pub(super) struct Attached {
    pub(super) context: Context,
    pub(super) stream: String,
    pub(super) durable: String,
    /// When the stream was made: another time means another stream, whose sequence begins anew.
    pub(super) stream_created: OffsetDateTime,
    pub(super) reading: Reading,
    /// The place in the consumer's sequence after which the first message comes.
    pub(super) delivered: u64,
    /// How many messages were waiting then.
    pub(super) waiting: u64,
    /// The stream sequence up to which everything was acknowledged.
    pub(super) acknowledged: u64,
    /// What is beyond that and was counted by others.
    pub(super) handover: Handover,
    pub(super) messages: pull::Stream,
}

/// What the server says of a consumer, the server's own time with it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ConsumerState {
    #[serde(rename = "ts", with = "time::serde::rfc3339")]
    server_time: OffsetDateTime,
    pub(super) num_pending: u64,
    pub(super) num_ack_pending: u64,
    /// Pull requests that wait for frames: somebody reads.
    pub(super) num_waiting: u64,
    pub(super) delivered: Sequences,
    pub(super) ack_floor: Sequences,
}

impl ConsumerState {
    /// The place in the consumer's sequence up to which there are messages.
    pub(super) const fn end(&self) -> u64 {
        self.delivered.consumer_seq + self.num_pending
    }
}

/// A place in the sequence of a consumer, and the one in its stream.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Sequences {
    pub(super) consumer_seq: u64,
    pub(super) stream_seq: u64,
}

/// What the server says of a stream.
#[derive(Clone, Debug, Deserialize)]
struct StreamState {
    #[serde(rename = "ts", with = "time::serde::rfc3339")]
    server_time: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    created: OffsetDateTime,
    state: LastSequence,
    #[serde(default)]
    config: StreamConfig,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct StreamConfig {
    subject_transform: Option<SubjectTransform>,
}

#[derive(Clone, Debug, Deserialize)]
struct SubjectTransform {
    dest: String,
}

impl StreamState {
    /// Whether the stream appends the partitions that shards filter for.
    fn has_partitions(&self) -> bool {
        let transform = self.config.subject_transform.as_ref();
        let partition = transform.and_then(|transform| transform.dest.rsplit_once(".{{partition("));
        let count = partition.and_then(|(_, arguments)| arguments.split_once(','));
        count.is_some_and(|(count, _)| count.trim().parse() == Ok(Shard::MOST))
    }
}

#[derive(Clone, Debug, Deserialize)]
struct LastSequence {
    last_seq: u64,
}

/// Why there is no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("{reason}")]
    Refused { code: ErrorCode, reason: String },
    #[error("{0}")]
    Unanswered(RequestError),
}

impl AskError {
    pub(super) fn is(&self, code: ErrorCode) -> bool {
        matches!(self, Self::Refused { code: refused, .. } if *refused == code)
    }
}

async fn ask<T: DeserializeOwned>(
    context: &Context,
    subject: String,
    question: &Value,
) -> Result<T, AskError> {
    match context.request(subject, question).await {
        Ok(Response::Ok(answer)) => Ok(answer),
        Ok(Response::Err { error }) => {
            Err(AskError::Refused { code: error.error_code(), reason: error.to_string() })
        }
        Err(error) => Err(AskError::Unanswered(error)),
    }
}

/// [`ask`] for an answer that tells the consumer's state, and with it the server's time.
async fn ask_consumer(context: &Context, subject: String) -> Result<(ConsumerState, Reading), AskError> {
    let asked = Instant::now();
    let state: ConsumerState = ask(context, subject, &json!({})).await?;
    let server_time = StreamTime::from_unix_nanos(state.server_time.unix_timestamp_nanos());
    Ok((state, Reading { server_time, asked, took: asked.elapsed() }))
}

/// Asks for the consumer's state.
pub(super) async fn consumer_state(
    context: &Context,
    stream: &str,
    durable: &str,
) -> Result<(ConsumerState, Reading), AskError> {
    ask_consumer(context, format!("CONSUMER.INFO.{stream}.{durable}")).await
}

/// Attaches to the consumer. What had been delivered to somebody before and not acknowledged is delivered
/// again, first and at once: with one acknowledgement for a whole batch, a later one would cover it unread.
pub(super) async fn attach(
    context: Context,
    wanted: &Wanted,
    folded: Option<Position>,
) -> Result<Attached, AttachError> {
    let (name, stream) = find_stream(&context, wanted).await?;
    if wanted.reader.shard.is_some() && !stream.has_partitions() {
        return Err(AttachError::NoPartitions { stream: name });
    }
    let (consumer, handover) = find_consumer(&context, wanted, &name, &stream, folded).await?;
    let durable = wanted.reader.durable();
    let config = &consumer.cached_info().config;
    if config.ack_policy != AckPolicy::All {
        return Err(AttachError::WrongAckPolicy(durable));
    }
    let single = Some(&config.filter_subject).filter(|subject| !subject.is_empty());
    let read: BTreeSet<_> = config.filter_subjects.iter().chain(single).cloned().collect();
    if read != wanted.reader.subjects(&wanted.region).into_iter().collect() {
        return Err(AttachError::WrongSubjects(durable));
    }
    // The answer tells where deliveries begin. A later one might not: pull requests of a predecessor that
    // vanished without a word are still served, and what they got would seem to have been taken.
    let (state, reading) = match ask_consumer(&context, format!("CONSUMER.RESET.{name}.{durable}")).await {
        Ok(answer) => answer,
        Err(AskError::Unanswered(error)) if error.kind() == RequestErrorKind::TimedOut => {
            return Err(AttachError::Unreachable(error.to_string()));
        }
        Err(error) => return Err(AttachError::Reset { durable, reason: error.to_string() }),
    };
    let messages = consumer
        .stream()
        .max_messages_per_batch(BATCH)
        .expires(PULL_EXPIRES)
        .heartbeat(HEARTBEAT)
        .messages()
        .await
        .map_err(|error| AttachError::Unreachable(error.to_string()))?;
    Ok(Attached {
        stream: name,
        stream_created: stream.created,
        durable,
        context,
        reading,
        delivered: state.delivered.consumer_seq,
        waiting: state.num_pending,
        acknowledged: state.ack_floor.stream_seq,
        handover,
        messages,
    })
}

async fn find_stream(context: &Context, wanted: &Wanted) -> Result<(String, StreamState), AttachError> {
    let name = stream_name(&wanted.region);
    if let Some(replicas) = wanted.create
        && let Err(error) = ensure_streams(context, &wanted.region, replicas).await
    {
        use async_nats::jetstream::context::CreateStreamErrorKind as Kind;
        let reason = error.to_string();
        return Err(match error.kind() {
            Kind::TimedOut | Kind::JetStreamUnavailable | Kind::Response => AttachError::Unreachable(reason),
            _ => AttachError::CreateStream { stream: name, reason },
        });
    }
    match ask(context, format!("STREAM.INFO.{name}"), &json!({})).await {
        Ok(state) => Ok((name, state)),
        Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => {
            Err(AttachError::NoStream { stream: name, region: wanted.region.clone() })
        }
        Err(error) => Err(AttachError::Unreachable(error.to_string())),
    }
}

async fn find_consumer(
    context: &Context,
    wanted: &Wanted,
    stream: &str,
    state: &StreamState,
    folded: Option<Position>,
) -> Result<(Consumer<pull::Config>, Handover), AttachError> {
    let durable = wanted.reader.durable();
    let handover = match consumer_state(context, stream, &durable).await {
        Ok(_) => Handover::read(context, wanted, stream, state.state.last_seq, true).await?,
        Err(error) if error.is(ErrorCode::CONSUMER_NOT_FOUND) => {
            if wanted.create.is_none() {
                return Err(AttachError::NoConsumer {
                    durable,
                    stream: stream.to_owned(),
                    region: wanted.region.clone(),
                    flags: wanted.reader.flags(),
                });
            }
            let handover = Handover::read(context, wanted, stream, state.state.last_seq, false).await?;
            let begin = beginning(state, folded, handover.begin(), wanted.lookback);
            tracing::info!(stream, durable, ?begin, "creating the durable consumer");
            let config = pull::Config {
                durable_name: Some(durable.clone()),
                deliver_policy: begin,
                filter_subjects: wanted.reader.subjects(&wanted.region),
                ..consumer_config(&wanted.reader.deployment, state.server_time)
            };
            if let Err(error) = context.create_consumer_on_stream(config, stream).await {
                return Err(AttachError::CreateConsumer { durable, reason: error.to_string() });
            }
            handover
        }
        Err(error) => return Err(AttachError::Unreachable(error.to_string())),
    };
    let found = context.get_consumer_from_stream(&durable, stream).await;
    Ok((found.map_err(|error| AttachError::Unreachable(error.to_string()))?, handover))
}

/// Where a new durable begins: after what this process has folded, if it has folded this very stream, else after
/// what the shards `before` have, else a while before now. Now is the server's: the local clock may be anywhere.
fn beginning(
    stream: &StreamState,
    folded: Option<Position>,
    before: Option<u64>,
    lookback: Duration,
) -> DeliverPolicy {
    match folded {
        Some(Position { stream_created, taken })
            if stream_created == stream.created && taken <= stream.state.last_seq =>
        {
            DeliverPolicy::ByStartSequence { start_sequence: taken + 1 }
        }
        _ => match before {
            Some(floor) => DeliverPolicy::ByStartSequence { start_sequence: floor + 1 },
            None => DeliverPolicy::ByStartTime { start_time: stream.server_time - lookback },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_durable_begins_after_what_was_folded_of_this_very_stream() {
        let lookback = Duration::from_secs(30);
        let made = OffsetDateTime::UNIX_EPOCH;
        let now = made + Duration::from_secs(1000);
        let stream = state(now, made, 9);
        let from = |folded| beginning(&stream, folded, None, lookback);

        let by_time = DeliverPolicy::ByStartTime { start_time: now - lookback };
        assert_eq!(from(None), by_time);
        assert_eq!(from(Some(Position { stream_created: now, taken: 4 })), by_time, "another stream");
        assert_eq!(from(Some(Position { stream_created: made, taken: 10 })), by_time, "set back since");
        for taken in [0, 4, 9] {
            let after = DeliverPolicy::ByStartSequence { start_sequence: taken + 1 };
            assert_eq!(from(Some(Position { stream_created: made, taken })), after);
        }
        let after_others = DeliverPolicy::ByStartSequence { start_sequence: 4 };
        assert_eq!(beginning(&stream, None, Some(3), lookback), after_others);
    }

    fn state(server_time: OffsetDateTime, created: OffsetDateTime, last_seq: u64) -> StreamState {
        StreamState {
            server_time,
            created,
            state: LastSequence { last_seq },
            config: StreamConfig::default(),
        }
    }

    #[test]
    fn only_a_stream_that_appends_all_partitions_can_be_shared_out() {
        let mut stream = state(OffsetDateTime::UNIX_EPOCH, OffsetDateTime::UNIX_EPOCH, 0);
        assert!(!stream.has_partitions());
        for (dest, has) in [
            ("health.diagnostics.us.{{wildcard(1)}}.{{wildcard(2)}}.{{partition(64,2)}}", true),
            ("health.diagnostics.us.{{wildcard(1)}}.{{wildcard(2)}}.{{partition(8,2)}}", false),
            ("health.diagnostics.us.{{wildcard(1)}}.{{wildcard(2)}}", false),
        ] {
            stream.config.subject_transform = Some(SubjectTransform { dest: dest.to_owned() });
            assert_eq!(stream.has_partitions(), has, "{dest}");
        }
    }
}
