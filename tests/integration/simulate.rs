//! The simulator against a real nats-server: what it says it published is what the streams hold.

use std::collections::HashSet;
use std::future::pending;
use std::time::Duration;

use async_nats::jetstream::{self, consumer::pull, stream};
use callsight::simulate::{SimulateConfig, run};
use callsight_frame::subject::{MeetingPartition, Partition, Subject};
use callsight_frame::{Frame, JoinState, ServerType};
use futures_util::StreamExt;
use protobuf::Message;
use videocall_types::protos::health_packet::HealthPacket;

use crate::kit::callsight::Callsight;
use crate::kit::nats::Nats;
use crate::kit::stream::Health;
use crate::kit::wait::{self, PATIENCE};

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
        let meeting = MeetingPartition::of(frame.meeting_id.as_str());
        assert_eq!(subject.partition, Some(Partition::Meeting(meeting)));
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

/// Simulates by the command for some seconds of calls, and reads back what is in the stream then.
async fn simulated(client: &str, scenario: &str) -> Vec<Vec<u8>> {
    let nats = Nats::start();
    let url = nats.url();
    let calls = ["--sessions=40", "--interval=250ms", "--frames=1200", "--meeting-size=5", "--seed=3"];
    let trouble = ["--scenario", scenario, "--quiet-for=1s", "--bad-for=10m"];
    let head = ["simulate", "--create", "--nats-url", &url, "--client", client];
    let output = Callsight::run(&[&head[..], &calls, &trouble].concat());
    assert!(output.status.success(), "{output:?}");
    let messages = Health::at(&nats).await.read().await;
    assert_eq!(messages.len(), 1_200);
    messages.iter().map(|message| message.payload.to_vec()).collect()
}

/// Frames of sessions that have joined and see somebody.
fn in_calls(frames: &[Vec<u8>]) -> Vec<Frame<'_>> {
    let frames = frames.iter().map(|frame| Frame::decode(frame).unwrap());
    let joined = |frame: &Frame<'_>| frame.join.as_ref().unwrap().state == JoinState::Joined;
    let frames: Vec<_> = frames.filter(|frame| joined(frame) && !frame.peers.is_empty()).collect();
    assert!(frames.len() > 500, "{}", frames.len());
    frames
}

#[tokio::test]
async fn browsers_report_what_they_send_and_lose() {
    let frames = simulated("browser", "uplink").await;
    let frames = in_calls(&frames);
    let (mut lost, mut limited, mut concealed) = (0, 0, 0);
    for frame in &frames {
        let client = frame.client.as_ref().unwrap();
        assert!(client.app.is_some() && client.platform.is_some(), "{frame:?}");
        assert_eq!(frame.server.as_ref().unwrap().server_type, ServerType::WebRtc);
        assert!(frame.path.as_ref().unwrap().candidate_type.is_some(), "{frame:?}");
        let sending = frame.send.as_ref().unwrap();
        lost += sending.audio_packets_lost.unwrap();
        limited += sending.limited.as_ref().map_or(0, |limited| limited.bandwidth_ms.unwrap());
        for audio in frame.peers.iter().map(|peer| peer.audio.as_ref().unwrap()) {
            assert!(audio.neteq.is_none() && audio.packets_lost.is_some(), "{audio:?}");
            concealed += audio.concealment_events.unwrap();
        }
    }
    assert!(lost > 100 && limited > 1_000 && concealed > 100, "{lost}, {limited} ms, {concealed}");
}

#[tokio::test]
async fn packets_of_videocall_rs_are_published_as_its_relays_do() {
    let nats = Nats::start();
    let url = nats.url();
    let calls = ["--sessions=40", "--interval=250ms", "--frames=600", "--meeting-size=5", "--seed=3"];
    let head = ["simulate", "--create", "--nats-url", &url, "--client=videocall"];
    let output = Callsight::run(&[&head[..], &calls].concat());
    assert!(output.status.success(), "{output:?}");
    let counts = String::from_utf8(output.stdout).unwrap();
    let counts = counts.lines().last().unwrap();
    assert_eq!(counts, "published=600 acknowledged=0 duplicates=0 retried=0 failed=0 overflowed=0");

    // Nobody answered, so they may just be on their way.
    let health = Health::at(&nats).await;
    wait::eventually_async(PATIENCE, "all packets in the stream", async || {
        wait::when(health.messages().await, |messages| *messages == 600)
    })
    .await;
    for message in health.read().await {
        assert_eq!(message.headers, None, "without an id");
        let Subject { region, service_type, server_id, partition } =
            Subject::parse(&message.subject).unwrap();
        assert!(
            matches!(partition, Some(Partition::Server(_))),
            "as relays of videocall.rs publish: {partition:?}"
        );
        let packet = HealthPacket::parse_from_bytes(&message.payload).unwrap();
        assert_eq!((region, service_type), ("us", packet.active_server_type.as_str()));
        assert!(server_id.starts_with("relay-us-") && !packet.peer_stats.is_empty(), "{packet:?}");
    }
}

#[tokio::test]
async fn a_mix_has_clients_with_a_jitter_buffer_of_their_own_too() {
    let frames = simulated("mix", "steady").await;
    let frames = in_calls(&frames);
    let (browsers, others): (Vec<_>, Vec<_>) = frames.iter().partition(|frame| frame.send.is_some());
    assert!(browsers.len() > 200 && others.len() > 200, "{} and {}", browsers.len(), others.len());
    for frame in others {
        assert!(frame.path.is_none() && frame.client.is_some(), "{frame:?}");
        for peer in &frame.peers {
            let audio = peer.audio.as_ref().unwrap();
            assert!(audio.neteq.is_some() && audio.packets_lost.is_none(), "{audio:?}");
            assert!(peer.video.as_ref().is_none_or(|video| video.freeze_count.is_none()), "{peer:?}");
        }
    }
}
