//! Consumers and streams as the server describes them, with the server's own time.
//!
//! Freshness is judged by that time, and the client's types drop it.

use std::time::{Duration, Instant};

use async_nats::jetstream::stream::{ClusterInfo, SourceInfo, SubjectTransform};
use async_nats::jetstream::{Context, consumer};
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::timeout;

use super::clock::Reading;
use crate::jetstream_api::{AskError, ask};
use crate::topology::Shard;
use callsight_fold::StreamTime;

/// A mirror that heard from its origin this recently says itself how many messages it lacks.
const HEARD_RECENTLY: Duration = Duration::from_secs(5);

/// How long the origin may take to answer.
const ORIGIN_WITHIN: Duration = Duration::from_secs(1);

/// A leader that has heard the majority this recently leads. They answer it every second.
const LEADS: Duration = Duration::from_secs(4);

/// Whether the server that answered leads, as far as can be told. One that was frozen or cut off
/// learns only later that it has a successor, and until then its answers tell an old state.
fn leads(cluster: Option<&ClusterInfo>) -> bool {
    cluster.is_none_or(|cluster| {
        let heard = cluster.replicas.iter().filter(|replica| replica.active < LEADS).count();
        2 * (heard + 1) > cluster.replicas.len() + 1
    })
}

/// The state of a consumer.
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
    pub(super) config: consumer::Config,
    #[serde(default)]
    pub(super) paused: bool,
    cluster: Option<ClusterInfo>,
}

impl ConsumerState {
    /// Whether the server that answered leads the consumer.
    pub(super) fn is_current(&self) -> bool {
        leads(self.cluster.as_ref())
    }

    /// The consumer sequence up to which there are messages.
    pub(super) const fn end(&self) -> u64 {
        self.delivered.consumer_seq + self.num_pending
    }
}

/// A message's sequence in the consumer and in the stream.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Sequences {
    pub(super) consumer_seq: u64,
    pub(super) stream_seq: u64,
}

/// The state of a stream.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct StreamState {
    #[serde(rename = "ts", with = "time::serde::rfc3339")]
    pub(super) server_time: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) created: OffsetDateTime,
    pub(super) state: LastMessage,
    mirror: Option<SourceInfo>,
    cluster: Option<ClusterInfo>,
    #[serde(default)]
    config: StreamConfig,
    /// The end of a mirror's origin, if that answered after the mirror.
    #[serde(skip)]
    pub(super) origin: Option<LastMessage>,
}

/// The end of a stream.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct LastMessage {
    pub(super) messages: u64,
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) last_ts: OffsetDateTime,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct StreamConfig {
    #[serde(default)]
    subjects: Vec<String>,
    subject_transform: Option<SubjectTransform>,
}

impl StreamState {
    pub(super) fn server_time(&self) -> StreamTime {
        StreamTime::from_unix_nanos(self.server_time.unix_timestamp_nanos())
    }

    /// Whether the server that answered leads the stream.
    pub(super) fn is_current(&self) -> bool {
        leads(self.cluster.as_ref())
    }

    /// The last sequence, if every one up to it can be read.
    pub(super) fn whole_end(&self) -> Option<u64> {
        let LastMessage { messages, first_seq, last_seq, .. } = self.state;
        (first_seq + messages == last_seq + 1).then_some(last_seq)
    }

    /// When the newest message was stored, if there has been one.
    pub(super) fn newest(&self) -> Option<StreamTime> {
        let LastMessage { last_seq, last_ts, .. } = self.state;
        (last_seq > 0).then(|| StreamTime::from_unix_nanos(last_ts.unix_timestamp_nanos()))
    }

    /// Of a mirror: how many messages it lacks, and how long ago it heard from its origin, if ever.
    pub(super) fn mirror(&self) -> Option<(u64, Option<Duration>)> {
        self.mirror.as_ref().map(|mirror| (mirror.lag, mirror.active))
    }

    /// Asks the origin of a mirror for its end, which the mirror can't be beyond, and for the
    /// subjects of its messages. If the mirror has not heard from it recently, that also tells how
    /// many messages the mirror lacks: its own number is as old as its last contact, and mostly
    /// zero.
    pub(super) async fn ask_origin(&mut self, context: &Context) {
        let Some(mirror) = &mut self.mirror else { return };
        let asked = timeout(ORIGIN_WITHIN, stream_state(context, &mirror.name)).await;
        let Ok(Ok(origin)) = asked else { return };
        if mirror.active.is_none_or(|active| active >= HEARD_RECENTLY) {
            mirror.lag = mirror.lag.max(origin.state.last_seq.saturating_sub(self.state.last_seq));
        }
        (self.origin, self.config) = (Some(origin.state), origin.config);
    }

    /// The subjects of its messages before they are stored; of a mirror, once its origin answered.
    pub(super) fn subjects(&self) -> &[String] {
        &self.config.subjects
    }

    /// Whether the stream appends the partitions that shards filter for.
    pub(super) fn has_partitions(&self) -> bool {
        let transform = self.config.subject_transform.as_ref();
        let partition = transform.and_then(|transform| transform.destination.rsplit_once(".{{partition("));
        let count = partition.and_then(|(_, arguments)| arguments.split_once(','));
        count.is_some_and(|(count, _)| count.trim().parse() == Ok(Shard::MOST))
    }
}

async fn ask_consumer(
    context: &Context,
    subject: String,
    request: Value,
) -> Result<(ConsumerState, Reading), AskError> {
    let asked = Instant::now();
    let state: ConsumerState = ask(context, subject, &request).await?;
    let server_time = StreamTime::from_unix_nanos(state.server_time.unix_timestamp_nanos());
    Ok((state, Reading { server_time, asked, took: asked.elapsed() }))
}

pub(super) async fn consumer_state(
    context: &Context,
    stream: &str,
    durable: &str,
) -> Result<(ConsumerState, Reading), AskError> {
    ask_consumer(context, format!("CONSUMER.INFO.{stream}.{durable}"), json!({})).await
}

pub(super) async fn stream_state(context: &Context, stream: &str) -> Result<StreamState, AskError> {
    ask(context, format!("STREAM.INFO.{stream}"), &json!({})).await
}

/// Changes the filter of a consumer. An update replaces the whole configuration, of which the
/// client's types know only a part.
pub(super) async fn filter_consumer(
    context: &Context,
    stream: &str,
    durable: &str,
    subjects: Vec<String>,
) -> Result<(), AskError> {
    let mut found: Value = ask(context, format!("CONSUMER.INFO.{stream}.{durable}"), &json!({})).await?;
    let mut config = found["config"].take();
    config["filter_subjects"] = subjects.into();
    if let Some(config) = config.as_object_mut() {
        config.remove("filter_subject");
    }
    let request = json!({ "stream_name": stream, "config": config, "action": "update" });
    ask(context, format!("CONSUMER.CREATE.{stream}.{durable}"), &request).await.map(|_: Value| ())
}

/// Sets a consumer back to its acknowledgement floor, or lets it begin with a stream sequence, and
/// returns its state then.
pub(super) async fn reset_consumer(
    context: &Context,
    stream: &str,
    durable: &str,
    begin: Option<u64>,
) -> Result<(ConsumerState, Reading), AskError> {
    let request = begin.map_or_else(|| json!({}), |seq| json!({ "seq": seq }));
    ask_consumer(context, format!("CONSUMER.RESET.{stream}.{durable}"), request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    impl StreamState {
        pub(in super::super) fn of(
            server_time: OffsetDateTime,
            created: OffsetDateTime,
            last_seq: u64,
        ) -> Self {
            Self {
                server_time,
                created,
                state: LastMessage { messages: last_seq, first_seq: 1, last_seq, last_ts: created },
                mirror: None,
                cluster: None,
                config: StreamConfig::default(),
                origin: None,
            }
        }

        pub(in super::super) fn declare(&mut self, subjects: &[&str], destination: &str) {
            let transform = SubjectTransform { source: String::new(), destination: destination.to_owned() };
            let subjects = subjects.iter().map(ToString::to_string).collect();
            self.config = StreamConfig { subjects, subject_transform: Some(transform) };
        }
    }

    #[test]
    fn a_leader_that_has_not_heard_the_majority_may_have_a_successor() {
        let cluster = |seconds: &[u64]| {
            let replica =
                |seconds: &u64| json!({"name": "", "current": true, "active": seconds * 1_000_000_000});
            let replicas: Vec<_> = seconds.iter().map(replica).collect();
            serde_json::from_value::<ClusterInfo>(json!({ "replicas": replicas })).unwrap()
        };
        assert!(leads(None));
        for (seconds, expected) in
            [(&[][..], true), (&[0, 0], true), (&[0, 60], true), (&[60, 60], false), (&[60], false)]
        {
            assert_eq!(leads(Some(&cluster(seconds))), expected, "{seconds:?}");
        }
    }

    #[test]
    fn only_a_stream_that_appends_all_partitions_can_be_shared_out() {
        let mut stream = StreamState::of(OffsetDateTime::UNIX_EPOCH, OffsetDateTime::UNIX_EPOCH, 0);
        assert!(!stream.has_partitions());
        for (dest, has) in [
            ("health.diagnostics.us.{{wildcard(1)}}.{{wildcard(2)}}.{{partition(64,2)}}", true),
            ("health.diagnostics.us.{{wildcard(1)}}.{{wildcard(2)}}.{{partition(8,2)}}", false),
            ("health.diagnostics.us.{{wildcard(1)}}.{{wildcard(2)}}", false),
        ] {
            stream.declare(&[], dest);
            assert_eq!(stream.has_partitions(), has, "{dest}");
        }
    }
}
