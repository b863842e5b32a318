//! Finding the stream and the durable consumer, and taking up where they were left.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use async_nats::jetstream::context::{CreateStreamError, RequestErrorKind};
use async_nats::jetstream::{Context, ErrorCode};
use time::OffsetDateTime;

use super::answer::{AskError, StreamState, consumer_state, reset_consumer, stream_state};
use super::clock::Reading;
use super::handover::Handover;
use super::source::{Reader, Source, SourceKind};
use crate::topology::{Shard, consumer_config, ensure_streams, mirror_config};
use callsight_frame::subject::Region;

/// How many frames a pull request asks for. Another is sent when half of them have come.
const BATCH: usize = 8192;

/// How long a pull request is good for. It outlives its exporter when a node or a link dies without a word, and
/// the server goes on serving it; until it is over, a successor gets nothing.
const PULL_EXPIRES: Duration = Duration::from_secs(10);

/// How often the server says that it is there when it has no frames; two that don't come are missed.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Which consumer is wanted, and whether it may be made.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) source: Source,
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
        "stream {stream} of region {region} does not exist; make it with `callsight streams apply`, see docs/topology.md"
    )]
    NoOtherStream { stream: String, region: Region },
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

/// Attaches to the consumer. What had been delivered to somebody before and not acknowledged is delivered
/// again, first and at once: with one acknowledgement for a whole batch, a later one would cover it unread.
pub(super) async fn attach(
    context: Context,
    wanted: &Wanted,
    folded: Option<Position>,
) -> Result<Attached, AttachError> {
    let (name, stream) = find_stream(&context, wanted).await?;
    // A mirror has the subjects that the stream gave its messages, and nothing of how.
    if wanted.reader.shard.is_some() && !wanted.source.is_mirror() && !stream.has_partitions() {
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
    if read != wanted.reader.subjects(&wanted.source.region).into_iter().collect() {
        return Err(AttachError::WrongSubjects(durable));
    }
    // The answer tells where deliveries begin. A later one might not: pull requests of a predecessor that
    // vanished without a word are still served, and what they got would seem to have been taken.
    let (state, reading) = match reset_consumer(&context, &name, &durable).await {
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
    let Source { region, kind, stream: name, .. } = wanted.source.clone();
    if let Some(replicas) = wanted.create
        && let Err(error) = make_streams(context, &wanted.source, replicas).await
    {
        use async_nats::jetstream::context::CreateStreamErrorKind as Kind;
        let reason = error.to_string();
        return Err(match error.kind() {
            Kind::TimedOut | Kind::JetStreamUnavailable | Kind::Response => AttachError::Unreachable(reason),
            _ => AttachError::CreateStream { stream: name, reason },
        });
    }
    match stream_state(context, &name).await {
        Ok(state) => Ok((name, state)),
        Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => Err(match kind {
            SourceKind::Own => AttachError::NoStream { stream: name, region },
            SourceKind::Remote | SourceKind::Mirror => AttachError::NoOtherStream { stream: name, region },
        }),
        Err(error) => Err(AttachError::Unreachable(error.to_string())),
    }
}

/// Makes what is missing of the streams, under their usual names alone. Those of another cluster are made there.
async fn make_streams(context: &Context, source: &Source, replicas: usize) -> Result<(), CreateStreamError> {
    let usual = Source::new(source.region.clone(), source.kind);
    match source.kind {
        _ if source.stream != usual.stream => Ok(()),
        SourceKind::Own => ensure_streams(context, &source.region, replicas).await,
        SourceKind::Remote => Ok(()),
        SourceKind::Mirror => {
            context.get_or_create_stream(mirror_config(&source.region, replicas)).await.map(drop)
        }
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
                    region: wanted.source.region.clone(),
                    flags: wanted.reader.flags(),
                });
            }
            let handover = Handover::read(context, wanted, stream, state.state.last_seq, false).await?;
            let begin = beginning(state, folded, handover.begin(), wanted.lookback);
            tracing::info!(stream, durable, ?begin, "creating the durable consumer");
            let config = pull::Config {
                durable_name: Some(durable.clone()),
                deliver_policy: begin,
                filter_subjects: wanted.reader.subjects(&wanted.source.region),
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
        let stream = StreamState::of(now, made, 9);
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
}
