//! Finds or creates the stream and the durable consumer, and opens it for reading.
//!
//! Invariant: an attached consumer delivers everything that it was not acknowledged, in order,
//! before the rest.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind, RequestErrorKind};
use async_nats::jetstream::{Context, ErrorCode};
use time::OffsetDateTime;

use super::clock::Reading;
use super::handover::{Handover, HandoverError};
use super::partitions::{self, Share};
use super::server_state::{
    ConsumerState, StreamState, consumer_state, filter_consumer, reset_consumer, stream_state,
};
use super::set_back::{self, Position};
use super::source::{Reader, Source, SourceKind};
use crate::jetstream_api::AskError;
use crate::stream_reader;
use crate::topology::{Shard, consumer_config, ensure_streams, mirror_config};
use callsight_frame::subject::Region;

/// Which consumer is read, and whether it may be created.
pub struct ConsumerConfig {
    /// The region, and the stream that it is read from.
    pub source: Source,
    /// Whose durable is used.
    pub reader: Reader,
    /// The replicas of streams that are missing; `None` creates neither streams nor consumers.
    pub create: Option<usize>,
    /// How far back a new durable begins: the idle timeout, so that it meets every live session.
    pub lookback: Duration,
    /// How old a view may be that counts as current: polls are frequent enough to prove it.
    pub max_lag: Duration,
    /// The budget for live sessions, of all regions together.
    pub max_sessions: usize,
}

/// Why the consumer cannot be attached to.
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
    #[error(
        "stream {stream} does not append its servers' {wanted} partitions to the subjects, so shards can't read it; \
         declare the stream as `callsight serve --create` makes it",
        wanted = Shard::MOST
    )]
    NoPartitions { stream: String },
    #[error(
        "stream {stream} takes {subject}, under which it would store frames that no shard reads; give it the subjects \
         that `callsight streams plan` shows"
    )]
    UnreadSubject { stream: String, subject: String },
    #[error(
        "durable consumer {durable} does not deliver the partitions of meetings, m0 to m63, which stream {stream} \
         takes; change its filter with `callsight streams apply --region {region} --deployment {exporters}`, or \
         restart with --create"
    )]
    WithoutMeetings { durable: String, stream: String, region: Region, exporters: String },
    #[error(
        "durable consumer {durable} can't be changed to deliver the partitions of meetings: {reason}; allow the user to \
         create it, or change it with `callsight streams apply`"
    )]
    Filter { durable: String, reason: AskError },
    #[error(
        "durable consumer {0} reads other subjects; correct its filter (`callsight streams plan` shows it), or delete \
         it, and --create makes a new one"
    )]
    WrongSubjects(String),
    #[error(transparent)]
    Handover(#[from] HandoverError),
    #[error("durable consumer {0} acknowledges frame by frame; delete it, and --create makes a new one")]
    WrongAckPolicy(String),
    #[error("durable consumer {0} delivers headers only; set its headers_only to false")]
    HeadersOnly(String),
    #[error("durable consumer {0} is paused; resume it with `nats consumer resume`")]
    Paused(String),
    #[error("stream {stream} can't be made: {reason}")]
    CreateStream { stream: String, reason: CreateStreamError },
    #[error("durable consumer {durable} can't be made: {reason}")]
    CreateConsumer { durable: String, reason: String },
    #[error(
        "durable consumer {durable} can't be set back to its acknowledgement floor: {reason}; it takes nats-server \
         2.14 or newer"
    )]
    Reset { durable: String, reason: AskError },
}

impl AttachError {
    pub(super) fn unreachable(error: impl ToString) -> Self {
        Self::Unreachable(error.to_string())
    }
}

/// A consumer that is ready to be read.
pub(super) struct Attached {
    pub(super) context: Context,
    pub(super) stream: String,
    pub(super) durable: String,
    pub(super) stream_created: OffsetDateTime,
    pub(super) reading: Reading,
    /// The consumer sequence after which the first message comes.
    pub(super) delivered: u64,
    /// How many messages were waiting then.
    pub(super) waiting: u64,
    /// The stream sequence up to which nothing is delivered any more.
    pub(super) acknowledged: u64,
    /// The stream sequence up to which nothing needs folding any more.
    pub(super) taken: u64,
    /// How many frames up to there a filter left out that has since been changed.
    pub(super) passed_over: u64,
    /// What is beyond that and was counted by old shards.
    pub(super) handover: Handover,
    pub(super) messages: pull::Stream,
}

/// Attaches to the consumer. A durable that is made anew begins after what was `folded`, but not
/// after a frame whose letter is not stored: if this process dies, its successor has to get that
/// one. `unsettled` is the first such frame. `left_out` is whether a filter leaves out frames, or
/// left out some that are not counted yet. What was delivered to anybody before and not
/// acknowledged is delivered again, first and at once: one acknowledgement covers a whole batch, so
/// a later one would cover it unread.
pub(super) async fn attach(
    context: Context,
    config: &ConsumerConfig,
    folded: Option<Position>,
    unsettled: Option<u64>,
    left_out: &mut bool,
) -> Result<Attached, AttachError> {
    let mut state = find_stream(&context, config).await?;
    if config.reader.shard.is_some() {
        state.ask_origin(&context).await;
    }
    partitions::check(&state, config, Share::Whole)?;
    let source = &config.source;
    let (stream, durable) = (source.stream.clone(), config.reader.durable());
    let folded = folded.filter(|folded| folded.stream_created == state.created);
    let kept = match &folded {
        Some(folded) => set_back::kept(&context, source, &state, folded).await?,
        None => None,
    };
    let folded = folded.map(|folded| kept.unwrap_or(folded.taken));
    let settled = folded.map(|folded| unsettled.map_or(folded, |first| folded.min(first.saturating_sub(1))));
    let (consumer, found, handover) = find_consumer(&context, config, &state, settled, left_out).await?;
    let floor = found.ack_floor.stream_seq;
    let is_changed = *left_out && Share::of(&found.config, config) == Some(Share::Whole);
    // A mirror that is behind fetches the same messages again.
    let last = if source.is_mirror() { floor } else { state.state.last_seq };
    // A durable may be past what the stream has, or has anew, after a power loss. The server itself
    // corrects that only at its start.
    let begin = match kept {
        Some(kept) if floor > kept => Some(kept + 1),
        // The server counts what waits for another filter only from a given sequence.
        _ if is_changed && floor <= last => Some(floor + 1),
        _ => (floor > last).then(|| last + 1),
    };
    // This answer says where deliveries begin. A later one might not: pull requests of a
    // predecessor that vanished are still served, and what they got would seem to have been taken.
    let (at_reset, reading) = reset(&context, &stream, &durable, begin).await?;
    let messages = stream_reader::open(&consumer).await.map_err(AttachError::unreachable)?;
    let taken = folded.unwrap_or(floor.min(last));
    let passed_over = if is_changed { partitions::passed_over(&context, config, taken).await? } else { 0 };
    *left_out &= !is_changed;
    Ok(Attached {
        stream,
        stream_created: state.created,
        durable,
        context,
        reading,
        delivered: at_reset.delivered.consumer_seq,
        waiting: at_reset.num_pending,
        acknowledged: at_reset.ack_floor.stream_seq,
        taken,
        passed_over,
        handover,
        messages,
    })
}

/// Resets the durable to its acknowledgement floor, or to `begin` if the server permits that, which
/// it does not for a durable that began with new messages. What is then passed over is counted as
/// missed.
async fn reset(
    context: &Context,
    stream: &str,
    durable: &str,
    begin: Option<u64>,
) -> Result<(ConsumerState, Reading), AttachError> {
    let mut answer = reset_consumer(context, stream, durable, begin).await;
    if let (Some(begin), Err(AskError::Refused(error))) = (begin, &answer) {
        tracing::error!(stream, durable, begin, %error, "the durable can't be set back as its stream was");
        answer = reset_consumer(context, stream, durable, None).await;
    }
    answer.map_err(|reason| match reason {
        AskError::Unanswered(error) if error.kind() == RequestErrorKind::TimedOut => {
            AttachError::unreachable(error)
        }
        reason => AttachError::Reset { durable: durable.to_owned(), reason },
    })
}

/// Checks that a durable delivers what its reader is to fold, and returns its share. Anybody may
/// change it while it is read.
pub(super) fn check(found: &ConsumerState, config: &ConsumerConfig) -> Result<Share, AttachError> {
    let durable = || config.reader.durable();
    let ConsumerState { config: found, paused, .. } = found;
    if found.ack_policy != AckPolicy::All {
        return Err(AttachError::WrongAckPolicy(durable()));
    }
    let share = Share::of(found, config).ok_or_else(|| AttachError::WrongSubjects(durable()))?;
    if found.headers_only {
        return Err(AttachError::HeadersOnly(durable()));
    }
    if *paused {
        return Err(AttachError::Paused(durable()));
    }
    Ok(share)
}

async fn find_stream(context: &Context, config: &ConsumerConfig) -> Result<StreamState, AttachError> {
    use CreateStreamErrorKind::{JetStreamUnavailable, Response, TimedOut};
    let Source { region, kind, stream, .. } = config.source.clone();
    if let Some(replicas) = config.create
        && let Err(reason) = create_streams(context, &config.source, replicas).await
    {
        return Err(match reason.kind() {
            TimedOut | JetStreamUnavailable | Response => AttachError::unreachable(reason),
            _ => AttachError::CreateStream { stream, reason },
        });
    }
    stream_state(context, &stream).await.map_err(|error| match kind {
        _ if !error.is(ErrorCode::STREAM_NOT_FOUND) => AttachError::unreachable(error),
        SourceKind::Own => AttachError::NoStream { stream, region },
        SourceKind::Remote | SourceKind::Mirror => AttachError::NoOtherStream { stream, region },
    })
}

/// Creates the streams that are missing, under their usual names alone. Those of another cluster
/// are created there.
async fn create_streams(
    context: &Context,
    source: &Source,
    replicas: usize,
) -> Result<(), CreateStreamError> {
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

/// Finds or creates the durable, and returns it with its state. The reset moves its acknowledgement
/// floor past what was removed from the stream.
async fn find_consumer(
    context: &Context,
    config: &ConsumerConfig,
    state: &StreamState,
    settled: Option<u64>,
    left_out: &mut bool,
) -> Result<(Consumer<pull::Config>, ConsumerState, Handover), AttachError> {
    let ConsumerConfig { source, reader, create, lookback, .. } = config;
    let (stream, durable) = (&source.stream, reader.durable());
    let found = match consumer_state(context, stream, &durable).await {
        Ok((found, _)) => Some(found),
        Err(error) if error.is(ErrorCode::CONSUMER_NOT_FOUND) => None,
        Err(error) => return Err(AttachError::unreachable(error)),
    };
    if found.is_none() && create.is_none() {
        let (stream, region) = (stream.clone(), source.region.clone());
        return Err(AttachError::NoConsumer { durable, stream, region, flags: reader.flags() });
    }
    let handover = Handover::read(context, reader, stream, state.state.last_seq, found.is_some()).await?;
    let mut found = match found {
        Some(found) => found,
        None => {
            *left_out |= handover.leaves_out_meetings();
            let begin = beginning(state, settled, handover.begin(), *lookback);
            tracing::info!(stream, durable, ?begin, "creating the durable consumer");
            let config = pull::Config {
                durable_name: Some(durable.clone()),
                deliver_policy: begin,
                filter_subjects: reader.subjects(&source.region),
                ..consumer_config(&reader.deployment, state.server_time)
            };
            if let Err(error) = context.create_consumer_on_stream(config, stream).await {
                return Err(AttachError::CreateConsumer { durable, reason: error.to_string() });
            }
            consumer_state(context, stream, &durable).await.map_err(AttachError::unreachable)?.0
        }
    };
    if check(&found, config)? == Share::OfServers {
        *left_out = true;
        if create.is_some() {
            tracing::info!(stream, durable, "letting the partitions of meetings through its filter");
            let changed = filter_consumer(context, stream, &durable, reader.subjects(&source.region)).await;
            changed.map_err(|reason| AttachError::Filter { durable: durable.clone(), reason })?;
            found = consumer_state(context, stream, &durable).await.map_err(AttachError::unreachable)?.0;
        }
        partitions::check(state, config, check(&found, config)?)?;
    }
    let consumer = context.get_consumer_from_stream(&durable, stream).await;
    Ok((consumer.map_err(AttachError::unreachable)?, found, handover))
}

/// Where a new durable begins: after what this process settled of this very stream, else after what
/// the old shards counted (`before`), else `lookback` before now. Now is the server's: the local
/// clock may be wrong.
fn beginning(
    stream: &StreamState,
    settled: Option<u64>,
    before: Option<u64>,
    lookback: Duration,
) -> DeliverPolicy {
    match settled.filter(|taken| *taken <= stream.state.last_seq).or(before) {
        Some(last) => DeliverPolicy::ByStartSequence { start_sequence: last + 1 },
        None => DeliverPolicy::ByStartTime { start_time: stream.server_time - lookback },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_durable_begins_after_what_was_folded() {
        let lookback = Duration::from_secs(30);
        let made = OffsetDateTime::UNIX_EPOCH;
        let now = made + Duration::from_secs(1000);
        let stream = StreamState::of(now, made, 9);
        let from = |folded| beginning(&stream, folded, None, lookback);

        let by_time = DeliverPolicy::ByStartTime { start_time: now - lookback };
        assert_eq!(from(None), by_time);
        assert_eq!(from(Some(10)), by_time, "a mirror that is behind");
        for taken in [0, 4, 9] {
            assert_eq!(from(Some(taken)), DeliverPolicy::ByStartSequence { start_sequence: taken + 1 });
        }
        let after_others = DeliverPolicy::ByStartSequence { start_sequence: 4 };
        assert_eq!(beginning(&stream, None, Some(3), lookback), after_others);
    }
}
