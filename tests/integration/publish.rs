//! The publisher against a real nats-server: nothing that was accepted is lost, nothing is stored
//! twice.

use std::time::Duration;

use async_nats::jetstream::{self, stream};
use callsight_frame::{
    Frame, MAX_PEERS, MeetingId, Peer, PeerId, Seq, Server, ServerType, ServerUrl, SessionId,
};
use callsight_publish::{MAX_WINDOW, PublishError, PublishStats, Publisher, PublisherConfig, Settlement};

use crate::kit::nats::Nats;
use crate::kit::wait::{self, PATIENCE};

fn health_stream() -> stream::Config {
    stream::Config {
        name: "HEALTH_US".into(),
        subjects: vec!["health.diagnostics.us.>".into()],
        max_message_size: 4096,
        duplicate_window: Duration::from_secs(120),
        ..Default::default()
    }
}

fn config() -> PublisherConfig {
    PublisherConfig::new("us".parse().unwrap(), "relay", "r1")
}

fn frame(seq: u64) -> Frame<'static> {
    let (meeting, session) = (MeetingId::new("m").unwrap(), SessionId::new("s").unwrap());
    Frame::new(meeting, session, PeerId::new("p").unwrap(), Seq::new(seq).unwrap(), 0)
}

async fn stored(client: &async_nats::Client) -> u64 {
    let mut stream = jetstream::new(client.clone()).get_stream("HEALTH_US").await.unwrap();
    stream.info().await.unwrap().state.messages
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    wait::eventually_async(PATIENCE, what, async || done().then_some(()).ok_or("not yet")).await;
}

/// Publishes and waits for room where there is none.
async fn publish_all(publisher: &Publisher, seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs {
        publisher.room().await.unwrap();
        publisher.publish(&frame(seq)).unwrap();
    }
}

#[tokio::test]
async fn what_is_acknowledged_is_what_the_stream_holds() {
    let nats = Nats::start();
    let client = nats.client().await;
    jetstream::new(client.clone()).create_stream(health_stream()).await.unwrap();
    let publisher = Publisher::start(client.clone(), config()).await.unwrap();

    publish_all(&publisher, 1..=20_000).await;
    let stats = publisher.shutdown(PATIENCE).await.unwrap();

    let expected = PublishStats { accepted: 20_000, acknowledged: 20_000, ..Default::default() };
    assert_eq!(stats, expected);
    assert_eq!(stored(&client).await, 20_000);

    let stream = jetstream::new(client.clone()).get_stream("HEALTH_US").await.unwrap();
    let last = stream.get_raw_message(20_000).await.unwrap();
    assert_eq!(last.subject.as_str(), "health.diagnostics.us.relay.r1.m56");
    assert_eq!(last.headers.get("Nats-Msg-Id").unwrap().as_str(), "s:20000");
    assert_eq!(Frame::decode(&last.payload).unwrap(), frame(20_000));
}

#[tokio::test]
async fn a_killed_server_loses_nothing_that_was_accepted() {
    let mut nats = Nats::start();
    let client = nats.client().await;
    jetstream::new(client.clone()).create_stream(health_stream()).await.unwrap();
    let publisher = Publisher::start(client.clone(), config()).await.unwrap();

    publish_all(&publisher, 1..=2_000).await;
    until("some acks", || publisher.stats().acknowledged >= 100).await;
    nats.kill9();
    publish_all(&publisher, 2_001..=6_000).await;
    nats.restart();
    publish_all(&publisher, 6_001..=8_000).await;
    let stats = publisher.shutdown(PATIENCE).await.unwrap();

    assert_eq!((stats.accepted, stats.acknowledged, stats.failed), (8_000, 8_000, 0), "{stats:?}");
    assert_eq!(stored(&client).await, 8_000);
}

#[tokio::test]
async fn a_repeat_is_acknowledged_as_such_and_not_stored() {
    let nats = Nats::start();
    let client = nats.client().await;
    jetstream::new(client.clone()).create_stream(health_stream()).await.unwrap();
    let publisher = Publisher::start(client.clone(), config()).await.unwrap();

    for _ in 0..2 {
        publish_all(&publisher, 1..=10).await;
    }
    let stats = publisher.flush(PATIENCE).await.unwrap();

    assert_eq!((stats.acknowledged, stats.duplicates), (20, 10));
    assert_eq!(stored(&client).await, 10);
}

#[tokio::test]
async fn frames_wait_for_a_stream_that_is_not_there_yet() {
    let nats = Nats::start();
    let client = nats.client().await;
    let publisher = Publisher::start(client.clone(), config()).await.unwrap();

    publish_all(&publisher, 1..=3_000).await;
    until("a second try", || publisher.stats().retried > 0).await;
    let error = publisher.flush(Duration::from_millis(1)).await.unwrap_err();
    assert!(matches!(error, PublishError::FlushTimeout { unsettled: 3_000 }), "{error}");
    let waiting = publisher.stats();
    assert!((1..=1024).contains(&waiting.in_flight), "{waiting:?}");
    assert_eq!((waiting.acknowledged, waiting.failed), (0, 0), "{waiting:?}");

    jetstream::new(client.clone()).create_stream(health_stream()).await.unwrap();
    let stats = publisher.flush(PATIENCE).await.unwrap();
    assert_eq!((stats.acknowledged, stats.failed), (3_000, 0), "{stats:?}");
    assert_eq!(stored(&client).await, 3_000);
}

#[tokio::test]
async fn a_full_buffer_is_told_to_the_caller_and_counted() {
    let nats = Nats::start();
    let client = nats.client().await;
    let publisher =
        Publisher::start(client.clone(), PublisherConfig { window: 4, buffer: 8, ..config() }).await.unwrap();

    publish_all(&publisher, 1..=12).await;
    until("a full window and a full buffer", || {
        let stats = publisher.stats();
        (stats.in_flight, stats.buffered) == (4, 8)
    })
    .await;
    for seq in 13..=15 {
        let error = publisher.publish(&frame(seq)).unwrap_err();
        assert!(matches!(error, PublishError::Overflow { buffer: 8 }), "{error}");
    }
    let stats = publisher.stats();
    assert_eq!((stats.accepted, stats.overflowed), (12, 3));

    jetstream::new(client.clone()).create_stream(health_stream()).await.unwrap();
    publish_all(&publisher, 13..=15).await;
    assert_eq!(publisher.flush(PATIENCE).await.unwrap().acknowledged, 15);
    assert_eq!(stored(&client).await, 15);
}

#[tokio::test]
async fn the_greatest_window_and_the_buffer_are_all_that_is_held() {
    let held = (MAX_WINDOW + config().buffer) as u64;
    let nats = Nats::start();
    let client = nats.client().await;
    // Somebody who listens and never answers: the server doesn't say that nobody is there.
    let _silent = client.subscribe("health.diagnostics.us.>").await.unwrap();
    let publisher =
        Publisher::start(client.clone(), PublisherConfig { window: MAX_WINDOW, ..config() }).await.unwrap();

    publish_all(&publisher, 1..=held).await;
    wait::eventually_async(PATIENCE, "a full window and a full buffer", async || {
        let stats = publisher.stats();
        wait::when((stats.in_flight, stats.buffered), |seen| *seen == (MAX_WINDOW as u64, 8192))
    })
    .await;
    let error = publisher.publish(&frame(held + 1)).unwrap_err();
    assert!(matches!(error, PublishError::Overflow { buffer: 8192 }), "{error}");
    let stats = publisher.stats();
    assert_eq!((stats.accepted, stats.overflowed, stats.acknowledged), (held, 1, 0), "{stats:?}");

    jetstream::new(client.clone()).create_stream(health_stream()).await.unwrap();
    let stats = publisher.flush(PATIENCE).await.unwrap();
    assert_eq!((stats.acknowledged, stats.failed), (held, 0), "{stats:?}");
    assert_eq!(stored(&client).await, held);
}

#[tokio::test]
async fn what_exporters_would_reject_is_not_accepted() {
    let nats = Nats::start();
    let publisher = Publisher::start(nats.client().await, config()).await.unwrap();
    let server = Server::new(ServerUrl::new("https://relay.example").unwrap(), ServerType::WebRtc);
    let slow = Frame { server: Some(Server { rtt_ms: Some(1e300), ..server }), ..frame(1) };
    let crowd = Frame { peers: vec![Peer::new(PeerId::new("p").unwrap()); MAX_PEERS + 1], ..frame(1) };
    for (bad, expected) in [
        (slow, "exporters would reject the frame: out_of_range: server.rtt_ms: 1e300 is more than 600000"),
        (
            crowd,
            "exporters would reject the frame: too_many_peers: peers: 257 peers, a frame has at most 256",
        ),
    ] {
        assert_eq!(publisher.publish(&bad).unwrap_err().to_string(), expected);
    }
    assert_eq!(publisher.stats(), PublishStats::default());
}

#[tokio::test]
async fn what_the_stream_refuses_for_good_is_given_up() {
    let nats = Nats::start();
    let client = nats.client().await;
    jetstream::new(client.clone()).create_stream(health_stream()).await.unwrap();
    let publisher = Publisher::start(client.clone(), config()).await.unwrap();

    let (meeting, session) = (MeetingId::new("m").unwrap(), SessionId::new("s").unwrap());
    // One beyond what the stream takes, one beyond what the server takes.
    for (seq, bytes) in [(1, 5_000), (2, 2_000_000)] {
        publisher.publish_encoded(meeting, session, Seq::new(seq).unwrap(), vec![0; bytes].into()).unwrap();
    }
    publish_all(&publisher, 3..=10).await;
    let stats = publisher.flush(PATIENCE).await.unwrap();

    assert_eq!((stats.acknowledged, stats.failed, stats.retried), (8, 2, 0), "{stats:?}");
    assert_eq!(stored(&client).await, 8);
}

#[tokio::test]
async fn a_closed_client_ends_the_publisher() {
    let nats = Nats::start();
    let client = nats.client().await;
    let publisher = Publisher::start(client.clone(), config()).await.unwrap();
    publish_all(&publisher, 1..=5).await;
    until("frames on their way", || publisher.stats().in_flight == 5).await;

    client.drain().await.unwrap();
    until("the end", || matches!(publisher.publish(&frame(6)), Err(PublishError::Closed))).await;
    assert!(matches!(publisher.flush(PATIENCE).await, Err(PublishError::Closed)));
    let stats = publisher.stats();
    assert_eq!(stats.accepted, stats.failed, "{stats:?}");
}

#[tokio::test]
async fn a_tracked_frame_is_settled_once_and_by_name() {
    let nats = Nats::start();
    let client = nats.client().await;
    let publisher = Publisher::start(client.clone(), config()).await.unwrap();
    let track = |seq: u64, bytes: usize| {
        let (meeting, session) = (MeetingId::new("m").unwrap(), SessionId::new("s").unwrap());
        publisher.publish_tracked(meeting, session, Seq::new(seq).unwrap(), vec![0; bytes].into()).unwrap()
    };
    assert_eq!(publisher.setback(), None);
    let first = track(1, 10);
    until("a setback", || publisher.setback().is_some_and(|why| why.contains("no stream takes the subject")))
        .await;
    // Nobody waits for this one any more, and it is stored nevertheless.
    drop(track(2, 10));
    jetstream::new(client.clone()).create_stream(health_stream()).await.unwrap();

    assert_eq!(first.await, Settlement::Stored);
    assert_eq!(track(1, 10).await, Settlement::Duplicate);
    assert_eq!(track(3, 5_000).await, Settlement::Rejected);
    publisher.flush(PATIENCE).await.unwrap();
    assert_eq!(publisher.setback(), None);
    assert_eq!(stored(&client).await, 2);

    jetstream::new(client.clone()).delete_stream("HEALTH_US").await.unwrap();
    let lost = track(4, 10);
    drop(publisher);
    assert_eq!(lost.await, Settlement::Lost);
}
