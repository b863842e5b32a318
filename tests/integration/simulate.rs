//! The simulator against a real nats-server: what it says it published is what the streams hold.

use std::collections::HashSet;
use std::future::pending;
use std::time::Duration;

use async_nats::jetstream::{self, consumer::pull, stream};
use callsight::simulate::{SimulateConfig, run};
use callsight_frame::Frame;
use callsight_frame::subject::Subject;
use futures_util::StreamExt;

use crate::kit::nats::Nats;
use crate::kit::wait::PATIENCE;

fn config() -> SimulateConfig {
    SimulateConfig {
        regions: ["us", "apac"].map(|name| name.parse().unwrap()).to_vec(),
        sessions: 100,
        meeting_size: 4,
        interval: Duration::from_millis(100),
        seed: 1,
        leave_at_end: true,
        quiet: true,
        ..SimulateConfig::default()
    }
}

async fn create_stream(client: &async_nats::Client) -> stream::Stream {
    let config = stream::Config {
        name: "HEALTH".into(),
        subjects: vec!["health.diagnostics.>".into()],
        duplicate_window: Duration::from_secs(120),
        ..Default::default()
    };
    jetstream::new(client.clone()).create_stream(config).await.unwrap()
}

#[tokio::test]
async fn every_frame_is_in_the_stream_and_can_be_read() {
    let nats = Nats::start();
    let client = nats.client().await;
    let stream = create_stream(&client).await;

    let summary =
        run(client.clone(), SimulateConfig { frames: Some(1000), ..config() }, pending()).await.unwrap();
    let said = summary.to_string();
    assert_eq!(said, "published=1000 acknowledged=1000 duplicates=0 retried=0 failed=0 overflowed=0");

    let consumer = stream.create_consumer(pull::Config::default()).await.unwrap();
    let mut messages = consumer.fetch().max_messages(2000).messages().await.unwrap();
    let mut seen = HashSet::new();
    while let Some(message) = messages.next().await {
        let message = message.unwrap();
        let frame = Frame::decode(&message.payload).unwrap();
        let subject = Subject::parse(&message.subject).unwrap();
        assert!(subject.server_id.contains(subject.region), "{subject:?}");
        let id = format!("{}:{}", frame.session_id, frame.seq.get());
        assert_eq!(message.headers.as_ref().unwrap().get("Nats-Msg-Id").unwrap().as_str(), id);
        assert!(seen.insert(id), "twice");
    }
    assert_eq!(seen.len(), 1000);
}

#[tokio::test]
async fn all_leave_when_told_to_stop() {
    let nats = Nats::start();
    let client = nats.client().await;
    let stream = create_stream(&client).await;

    let mut watched = client.subscribe("health.diagnostics.>").await.unwrap();
    // Stops once it has been seen to publish.
    let stop = async {
        watched.next().await;
    };
    let summary = run(client.clone(), config(), stop).await.unwrap();
    assert_eq!(summary.stats.accepted, summary.stats.acknowledged);

    let consumer = stream.create_consumer(pull::Config::default()).await.unwrap();
    let mut messages = consumer.fetch().max_messages(10_000).messages().await.unwrap();
    let (mut live, mut frames) = (HashSet::new(), 0);
    while let Some(message) = messages.next().await {
        let message = message.unwrap();
        let frame = Frame::decode(&message.payload).unwrap();
        frames += 1;
        if frame.ended == Some(true) {
            live.remove(frame.session_id.as_str());
        } else {
            live.insert(frame.session_id.to_string());
        }
    }
    assert_eq!(frames, summary.stats.accepted);
    assert!(live.is_empty(), "still in the call: {live:?}");
}

#[tokio::test]
async fn a_duration_ends_it_and_a_repeat_of_the_seed_is_recognised() {
    let nats = Nats::start();
    let client = nats.client().await;
    create_stream(&client).await;
    let short = SimulateConfig { duration: Some(Duration::from_millis(300)), ..config() };

    let first = run(client.clone(), short.clone(), pending()).await.unwrap();
    assert!(first.stats.accepted >= 200 && first.stats.duplicates == 0, "{first}");
    assert!(first.elapsed < PATIENCE);
    let second = run(client.clone(), short, pending()).await.unwrap();
    assert_eq!(
        (second.stats.accepted, second.stats.duplicates),
        (first.stats.accepted, first.stats.accepted)
    );
}

#[tokio::test]
async fn frames_wait_for_a_stream_rather_than_get_lost() {
    let nats = Nats::start();
    let client = nats.client().await;
    // More than all buffers and windows hold together.
    let us = vec!["us".parse().unwrap()];
    let many =
        SimulateConfig { regions: us, frames: Some(30_000), rate: Some(1e6), meeting_size: 1, ..config() };
    let (summary, _) = tokio::join!(run(client.clone(), many, pending()), async {
        let mut watched = client.subscribe("health.diagnostics.>").await.unwrap();
        watched.next().await;
        create_stream(&client).await
    });
    let summary = summary.unwrap();
    assert_eq!((summary.stats.acknowledged, summary.stats.overflowed), (30_000, 0), "{summary}");
    assert!(summary.stats.retried > 0, "{summary}");
}

#[tokio::test]
async fn a_killed_server_costs_time_and_no_frame() {
    let mut nats = Nats::start();
    let client = nats.client().await;
    let mut stream = create_stream(&client).await;
    let mut watched = client.subscribe("health.diagnostics.>").await.unwrap();

    let running = run(client.clone(), SimulateConfig { frames: Some(3_000), ..config() }, pending());
    let (summary, ()) = tokio::join!(running, async {
        watched.next().await;
        nats.kill9();
        nats.restart();
    });
    let summary = summary.unwrap();
    assert_eq!((summary.stats.accepted, summary.stats.acknowledged), (3_000, 3_000), "{summary}");
    assert_eq!(stream.info().await.unwrap().state.messages, 3_000);
}
