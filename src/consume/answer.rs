//! What the server says of a consumer and of a stream, in as much as it matters here.

use std::time::{Duration, Instant};

use async_nats::jetstream::context::RequestError;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{Context, ErrorCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::timeout;

use super::clock::Reading;
use crate::topology::Shard;
use callsight_fold::StreamTime;

/// A mirror that heard of its origin within so many nanoseconds knows what it is missing.
const HEARD_LATELY: u64 = 5_000_000_000;

/// How long the origin may take to tell.
const ORIGIN_WITHIN: Duration = Duration::from_secs(1);

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

/// What the server says of a stream, the server's own time with it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct StreamState {
    #[serde(rename = "ts", with = "time::serde::rfc3339")]
    pub(super) server_time: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) created: OffsetDateTime,
    pub(super) state: LastSequence,
    mirror: Option<MirrorState>,
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
    /// What time it was at the server.
    pub(super) fn server_time(&self) -> StreamTime {
        StreamTime::from_unix_nanos(self.server_time.unix_timestamp_nanos())
    }

    /// When the newest message was stored, if there has been one.
    pub(super) fn newest(&self) -> Option<StreamTime> {
        let LastSequence { last_seq, last_ts } = self.state;
        (last_seq > 0).then(|| StreamTime::from_unix_nanos(last_ts.unix_timestamp_nanos()))
    }

    /// Of a mirror: the messages that it has not got, and for how long it has not heard of its origin, if it ever has.
    pub(super) fn mirror(&self) -> Option<(u64, Option<Duration>)> {
        let MirrorState { lag, active, .. } = self.mirror.as_ref()?;
        Some((*lag, u64::try_from(*active).ok().map(Duration::from_nanos)))
    }

    /// Asks the stream that this one is a mirror of, if it has not heard of it lately. What it then says to be missing
    /// is from before, and mostly nothing.
    pub(super) async fn ask_origin(&mut self, context: &Context) {
        let Some(mirror) = &mut self.mirror else { return };
        if u64::try_from(mirror.active).is_ok_and(|active| active < HEARD_LATELY) {
            return;
        }
        let asked = timeout(ORIGIN_WITHIN, stream_state(context, &mirror.name)).await;
        if let Ok(Ok(origin)) = asked {
            mirror.lag = mirror.lag.max(origin.state.last_seq.saturating_sub(self.state.last_seq));
        }
    }

    /// One of which no more matters than this.
    #[cfg(test)]
    pub(super) fn of(server_time: OffsetDateTime, created: OffsetDateTime, last_seq: u64) -> Self {
        Self {
            server_time,
            created,
            state: LastSequence { last_seq, last_ts: created },
            mirror: None,
            config: StreamConfig::default(),
        }
    }

    /// Whether the stream appends the partitions that shards filter for.
    pub(super) fn has_partitions(&self) -> bool {
        let transform = self.config.subject_transform.as_ref();
        let partition = transform.and_then(|transform| transform.dest.rsplit_once(".{{partition("));
        let count = partition.and_then(|(_, arguments)| arguments.split_once(','));
        count.is_some_and(|(count, _)| count.trim().parse() == Ok(Shard::MOST))
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct LastSequence {
    pub(super) last_seq: u64,
    #[serde(with = "time::serde::rfc3339")]
    last_ts: OffsetDateTime,
}

#[derive(Clone, Debug, Deserialize)]
struct MirrorState {
    name: String,
    lag: u64,
    /// Nanoseconds since it heard of its origin; negative if it never has.
    active: i64,
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

/// Asks for the stream's state.
pub(super) async fn stream_state(context: &Context, stream: &str) -> Result<StreamState, AskError> {
    ask(context, format!("STREAM.INFO.{stream}"), &json!({})).await
}

/// Sets a consumer back to what it knows as acknowledged, and tells its state then.
pub(super) async fn reset_consumer(
    context: &Context,
    stream: &str,
    durable: &str,
) -> Result<(ConsumerState, Reading), AskError> {
    ask_consumer(context, format!("CONSUMER.RESET.{stream}.{durable}")).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stream_that_appends_all_partitions_can_be_shared_out() {
        let mut stream = StreamState::of(OffsetDateTime::UNIX_EPOCH, OffsetDateTime::UNIX_EPOCH, 0);
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
