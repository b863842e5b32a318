//! Finding the stream and the durable consumer, and taking up where they were left.

use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, Consumer, pull};
use async_nats::jetstream::context::{GetStreamErrorKind, RequestError};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{Context, ErrorCode};
use serde::Deserialize;
use time::OffsetDateTime;

use super::clock::StreamClock;
use crate::fold::StreamTime;
use crate::subject::Region;
use crate::topology::{Deployment, consumer_config, ensure_streams, stream_name};

/// How many frames a pull request asks for. Another is sent when half of them have come.
const BATCH: usize = 8192;

/// How often the server says that it is there when it has no frames.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Which consumer is wanted, and whether it may be made.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) region: Region,
    pub(super) deployment: Deployment,
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
         `callsight serve --create --region {region} --deployment {deployment}`"
    )]
    NoConsumer { durable: String, stream: String, region: Region, deployment: Deployment },
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

/// A consumer that is ready to be read.
pub(super) struct Attached {
    pub(super) context: Context,
    pub(super) stream: String,
    pub(super) durable: String,
    /// When the stream was made: another time means another stream, whose sequence begins anew.
    pub(super) stream_created: OffsetDateTime,
    pub(super) clock: StreamClock,
    /// The place in the consumer's sequence after which the first message comes.
    pub(super) delivered: u64,
    /// The stream sequence up to which everything was acknowledged.
    pub(super) acknowledged: u64,
    pub(super) messages: pull::Stream,
}

/// What the server says of a consumer, the server's own time with it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ConsumerState {
    #[serde(rename = "ts", with = "time::serde::rfc3339")]
    server_time: OffsetDateTime,
    pub(super) num_pending: u64,
    pub(super) num_ack_pending: u64,
    delivered: Sequences,
    ack_floor: Sequences,
}

#[derive(Clone, Debug, Deserialize)]
struct Sequences {
    consumer_seq: u64,
    stream_seq: u64,
}

/// Asks for the consumer's state, and reads the server's clock from the answer: it was taken somewhere
/// between question and answer, most probably in the middle.
pub(super) async fn consumer_state(
    context: &Context,
    stream: &str,
    durable: &str,
) -> Result<(ConsumerState, StreamClock), RequestError> {
    let asked = Instant::now();
    let subject = format!("CONSUMER.INFO.{stream}.{durable}");
    let response: Response<ConsumerState> = context.request(subject, &serde_json::json!({})).await?;
    let middle = asked + asked.elapsed() / 2;
    match response {
        Response::Ok(state) => {
            let server_time = StreamTime::from_unix_nanos(state.server_time.unix_timestamp_nanos());
            Ok((state, StreamClock::new(server_time, middle)))
        }
        Response::Err { error } => {
            Err(RequestError::with_source(async_nats::jetstream::context::RequestErrorKind::Other, error))
        }
    }
}

/// Attaches to the consumer. What had been delivered to somebody before and not acknowledged is delivered
/// again, first and at once: with one acknowledgement for a whole batch, a later one would cover it unread.
pub(super) async fn attach(context: Context, wanted: &Wanted) -> Result<Attached, AttachError> {
    let stream = find_stream(&context, wanted).await?;
    let mut consumer = find_consumer(&stream, wanted).await?;
    let durable = wanted.deployment.durable();
    if consumer.cached_info().config.ack_policy != AckPolicy::All {
        return Err(AttachError::WrongAckPolicy(durable));
    }
    let reset = |error: String| AttachError::Reset { durable: durable.clone(), reason: error };
    consumer.reset(None).await.map_err(|error| reset(error.to_string()))?;
    let stream_info = stream.cached_info();
    let unreachable = |error: String| AttachError::Unreachable(error);
    let (state, clock) = consumer_state(&context, &stream_info.config.name, &durable)
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    let messages = consumer
        .stream()
        .max_messages_per_batch(BATCH)
        .heartbeat(HEARTBEAT)
        .messages()
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    Ok(Attached {
        stream: stream_info.config.name.clone(),
        stream_created: stream_info.created,
        durable: durable.clone(),
        context,
        clock,
        delivered: state.delivered.consumer_seq,
        acknowledged: state.ack_floor.stream_seq,
        messages,
    })
}

async fn find_stream(context: &Context, wanted: &Wanted) -> Result<Stream, AttachError> {
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
    context.get_stream(&name).await.map_err(|error| {
        if is_not_found(&error.kind()) {
            AttachError::NoStream { stream: name, region: wanted.region.clone() }
        } else {
            AttachError::Unreachable(error.to_string())
        }
    })
}

fn is_not_found(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

async fn find_consumer(stream: &Stream, wanted: &Wanted) -> Result<Consumer<pull::Config>, AttachError> {
    let durable = wanted.deployment.durable();
    let name = &stream.cached_info().config.name;
    match stream.consumer_info(&durable).await {
        Ok(_) => {}
        Err(error) if is_no_consumer(&error.kind()) => {
            if wanted.create.is_none() {
                return Err(AttachError::NoConsumer {
                    durable,
                    stream: name.clone(),
                    region: wanted.region.clone(),
                    deployment: wanted.deployment.clone(),
                });
            }
            let start = OffsetDateTime::now_utc() - wanted.lookback;
            let created = stream.create_consumer(consumer_config(&wanted.deployment, start)).await;
            if let Err(error) = created {
                return Err(AttachError::CreateConsumer { durable, reason: error.to_string() });
            }
            tracing::info!(stream = name, durable, "durable consumer created");
        }
        Err(error) => return Err(AttachError::Unreachable(error.to_string())),
    }
    stream.get_consumer(&durable).await.map_err(|error| AttachError::Unreachable(error.to_string()))
}

fn is_no_consumer(kind: &async_nats::jetstream::context::ConsumerInfoErrorKind) -> bool {
    use async_nats::jetstream::context::ConsumerInfoErrorKind as Kind;
    match kind {
        Kind::NotFound => true,
        Kind::JetStream(error) => error.error_code() == ErrorCode::CONSUMER_NOT_FOUND,
        _ => false,
    }
}
