//! A region's stream, as relays and operators use it.

use std::time::Duration;

use async_nats::jetstream::consumer::{self, DeliverPolicy, pull};
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self, Message};
use async_nats::{Client, HeaderMap};
use callsight::topology::{Bond, Declared, ReconcileError, Reconciler, ensure_streams, stream_name};
use callsight_frame::subject::Region;
use callsight_frame::{Form, Frame};
use futures_util::TryStreamExt;
use time::OffsetDateTime;

use super::callsight::REGION;
use super::nats::Nats;
use super::supercluster::SETTLED_WITHIN;
use super::wait;

/// The durable consumer of `callsight serve` unless the test names another deployment.
const DURABLE: &str = "callsight-main";

/// Creates the streams of both regions of a super-cluster, the mirror and the durables, as they are
/// declared.
pub(crate) async fn declare(operator: Client, replicas: usize) {
    let regions: Vec<Region> = ["us", "apac"].iter().map(|region| region.parse().unwrap()).collect();
    let declared = Declared::builtin(&regions, &["main".parse().unwrap()], replicas, Bond::Gateways);
    let reconciler = Reconciler::new(operator, SETTLED_WITHIN);
    // Until all servers have joined, some placements are rejected.
    wait::eventually_async(SETTLED_WITHIN, "the streams to be created", async || {
        for step in reconciler.plan(&declared, false).await? {
            reconciler.apply(&step).await?;
        }
        Ok::<_, ReconcileError>(())
    })
    .await;
}

/// The stream of [`REGION`], over a connection of its own.
#[derive(Debug)]
pub(crate) struct Health {
    jetstream: jetstream::Context,
}

impl Health {
    /// Makes the stream as the product does.
    pub(crate) async fn create(nats: &Nats) -> Self {
        let health = Self::at(nats).await;
        ensure_streams(&health.jetstream, &REGION.parse().unwrap(), 1).await.unwrap();
        health
    }

    /// A stream that exists, or that something else will make.
    pub(crate) async fn at(nats: &Nats) -> Self {
        Self { jetstream: nats.jetstream().await }
    }

    /// Stores a frame under the message id that publishers give it, and returns its sequence
    /// number.
    pub(crate) async fn publish(&self, frame: &Frame<'_>) -> u64 {
        self.publish_as(&format!("{}:{}", frame.session_id, frame.seq.get()), frame).await
    }

    /// [`Self::publish`] with another message id, as if the duplicate window had passed.
    pub(crate) async fn publish_as(&self, message_id: &str, frame: &Frame<'_>) -> u64 {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", message_id);
        let subject = format!("health.diagnostics.{REGION}.relay.relay-1");
        let payload = frame.encode(Form::Compact).into();
        let ack =
            self.jetstream.publish_with_headers(subject, headers, payload).await.unwrap().await.unwrap();
        assert!(!ack.duplicate, "{message_id} was stored before");
        ack.sequence
    }

    /// Stores any bytes under any subject of the stream.
    pub(crate) async fn publish_bytes(&self, subject: &str, payload: Vec<u8>) -> u64 {
        self.jetstream.publish(subject.to_owned(), payload.into()).await.unwrap().await.unwrap().sequence
    }

    /// The number of messages in the stream. No test removes any, so it is the last sequence number
    /// too.
    pub(crate) async fn messages(&self) -> u64 {
        let state = self.stream().await.get_info().await.unwrap().state;
        assert_eq!(state.messages, state.last_sequence);
        state.messages
    }

    /// When the server stored a message, by the server's clock.
    pub(crate) async fn stored_at(&self, sequence: u64) -> OffsetDateTime {
        self.stream().await.get_raw_message(sequence).await.unwrap().time
    }

    /// Every message of the stream, in order.
    pub(crate) async fn read(&self) -> Vec<Message> {
        let messages = self.messages().await;
        if messages == 0 {
            return Vec::new();
        }
        let config = pull::Config {
            deliver_policy: DeliverPolicy::All,
            ack_policy: consumer::AckPolicy::None,
            inactive_threshold: Duration::from_secs(30),
            ..pull::Config::default()
        };
        let consumer = self.stream().await.create_consumer(config).await.unwrap();
        let batch = consumer.fetch().max_messages(usize::try_from(messages).unwrap());
        let read: Vec<_> = batch.messages().await.unwrap().try_collect().await.unwrap();
        assert_eq!(read.len() as u64, messages);
        read
    }

    /// The state of the exporter's durable consumer.
    pub(crate) async fn durable(&self) -> consumer::Info {
        self.durable_named(DURABLE).await
    }

    /// The state of the durable consumer of a deployment or of a shard.
    pub(crate) async fn durable_named(&self, name: &str) -> consumer::Info {
        self.stream().await.consumer_info(name).await.unwrap()
    }

    /// The sequence number up to which everything is acknowledged, once the exporter is gone: the
    /// server may still have to read some of its acknowledgements.
    pub(crate) async fn settled_ack_floor(&self) -> u64 {
        self.settled_ack_floor_of(DURABLE).await
    }

    /// [`Self::settled_ack_floor`] of the durable consumer of a deployment or of a shard.
    pub(crate) async fn settled_ack_floor_of(&self, name: &str) -> u64 {
        let mut before = None;
        wait::eventually_async(wait::PATIENCE, "the durable to be left alone", async || {
            let info = self.durable_named(name).await;
            let seen = (info.num_waiting, info.ack_floor.stream_sequence);
            let last = before.replace(seen);
            if info.num_waiting == 0 && last == Some(seen) { Ok(seen.1) } else { Err(seen) }
        })
        .await
    }

    async fn stream(&self) -> Stream {
        self.jetstream.get_stream(stream_name(&REGION.parse().unwrap())).await.unwrap()
    }
}
