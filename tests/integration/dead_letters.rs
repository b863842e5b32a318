//! A frame that is refused is neither lost nor in the way: it is in the dead-letter stream before
//! it is acknowledged, and where that stream takes nothing, the fold goes on and says so.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::consumer::{self, DeliverPolicy, pull};
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use async_nats::jetstream::{Context, Message};
use callsight::dead_letter::DeadLetter;
use callsight::topology::{dead_letter_stream_config, dead_letter_stream_name, ensure_streams};
use callsight_frame::{Form, Reason};
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use protobuf::Message as _;
use serde_json::Value;
use videocall_types::protos::health_packet::HealthPacket;

use crate::kit::callsight::{Callsight, REGION};
use crate::kit::frames::frame;
use crate::kit::nats::Nats;
use crate::kit::stream::Health;
use crate::kit::wait::{self, PATIENCE};

const SUBJECT: &str = "health.diagnostics.us.relay.relay-1";

fn dlq() -> String {
    dead_letter_stream_name(&REGION.parse().unwrap())
}

async fn start() -> (Nats, Health, Context, Callsight) {
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let jetstream = nats.jetstream().await;
    let mut callsight = Callsight::serve(&nats, &["--create"]);
    callsight.ready().await;
    (nats, health, jetstream, callsight)
}

/// All that the dead-letter stream holds.
async fn letters(jetstream: &Context) -> Vec<Message> {
    let mut stream = jetstream.get_stream(dlq()).await.unwrap();
    let messages = stream.info().await.unwrap().state.messages;
    if messages == 0 {
        return Vec::new();
    }
    let config = pull::Config {
        deliver_policy: DeliverPolicy::All,
        ack_policy: consumer::AckPolicy::None,
        inactive_threshold: Duration::from_secs(30),
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await.unwrap();
    let batch = consumer.fetch().max_messages(usize::try_from(messages).unwrap());
    batch.messages().await.unwrap().try_collect().await.unwrap()
}

/// A packet of videocall.rs whose round trip is no number.
fn packet() -> Vec<u8> {
    let packet = HealthPacket {
        session_id: "7".into(),
        meeting_id: "standup".into(),
        reporting_user_id: b"ana@example.com".to_vec(),
        timestamp_ms: 1_767_225_600_000,
        active_server_rtt_ms: f64::NAN,
        ..HealthPacket::default()
    };
    packet.write_to_bytes().unwrap()
}

/// What no exporter takes, each for a reason of its own.
fn bad(number: usize) -> (Reason, Vec<u8>) {
    let frame = frame("bad", 1, &["bo"]).encode(Form::Compact);
    match number % 4 {
        0 => (Reason::Malformed, b"\xc1 no frame".to_vec()),
        1 => (Reason::NotFinite, packet()),
        2 => (Reason::Malformed, frame[..frame.len() / 2].to_vec()),
        _ => (Reason::TooLarge, vec![0; 65 * 1024]),
    }
}

/// A third of so many messages is bad. Tells the bad ones by their place in the stream.
async fn publish(jetstream: &Context, round: u64, messages: usize) -> BTreeMap<u64, (Reason, Vec<u8>)> {
    let sessions: Vec<_> = (0..messages).map(|number| format!("s{number}")).collect();
    let stored = join_all(sessions.iter().enumerate().map(async |(number, session)| {
        let refused = number.is_multiple_of(3).then(|| bad(number / 3));
        let payload = match &refused {
            Some((_, payload)) => payload.clone(),
            None => frame(session, round, &["bo"]).encode(Form::Compact),
        };
        let ack = jetstream.publish(SUBJECT, payload.into()).await.unwrap().await.unwrap();
        Some((ack.sequence, refused?))
    }));
    stored.await.into_iter().flatten().collect()
}

/// The letters by the place of their frames in the health stream. No frame has two.
fn by_sequence(letters: &[Message]) -> BTreeMap<u64, &Message> {
    let sequence = |letter: &Message| DeadLetter::read(letter.headers.as_ref()).sequence.parse().unwrap();
    let found: BTreeMap<u64, &Message> = letters.iter().map(|letter| (sequence(letter), letter)).collect();
    assert_eq!(found.len(), letters.len(), "a frame has two letters");
    found
}

#[tokio::test]
async fn a_refused_frame_has_its_letter_before_it_is_acknowledged_and_only_one() {
    let (nats, health, jetstream, mut callsight) = start().await;
    let mut refused = BTreeMap::new();
    for round in 1..=4 {
        refused.extend(publish(&jetstream, round, 300).await);
        // In the middle of it, most probably.
        callsight.kill9();
        let floor = health.settled_ack_floor().await;
        let letters = letters(&jetstream).await;
        let letters = by_sequence(&letters);
        let missing: Vec<_> = refused.range(..=floor).filter(|(at, _)| !letters.contains_key(at)).collect();
        assert!(missing.is_empty(), "acknowledged up to {floor} without letters: {missing:?}");
        callsight.restart();
    }
    let last = health.messages().await;
    wait::eventually_async(PATIENCE, "everything to be acknowledged", async || {
        wait::when(health.durable().await.ack_floor.stream_sequence, |floor| *floor == last)
    })
    .await;
    let letters = letters(&jetstream).await;
    let found = by_sequence(&letters);
    assert!(found.keys().eq(refused.keys()));
    for (sequence, (reason, payload)) in &refused {
        let letter = found[sequence];
        let headers = DeadLetter::read(letter.headers.as_ref());
        assert_eq!(headers.reason, reason.label());
        // The stream appends the partition.
        assert!(headers.subject.starts_with(&format!("{SUBJECT}.")), "{headers:?}");
        assert!(!headers.detail.is_empty() && headers.detail != "unknown", "{headers:?}");
        if *reason == Reason::NotFinite {
            assert_eq!(headers.detail, "active_server_rtt_ms: NaN");
        }
        assert_eq!(letter.subject.as_str(), format!("health.deadletter.{REGION}.{}", reason.label()));
        assert!(letter.payload == payload, "the letter of {sequence} is not what was published");
    }

    let shown = Callsight::run(&["frame", "check", "--dlq", "--nats-url", &nats.url(), "--limit", "1000"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    let first = text.lines().next().unwrap_or_default();
    assert_eq!(first, format!("{}: {} dead letters, {} shown", dlq(), refused.len(), refused.len()));
    assert_eq!(text.lines().count(), 1 + refused.len());
    for (sequence, (reason, payload)) in &refused {
        let line = text.lines().find(|line| line.contains(&format!(", sequence {sequence}, "))).unwrap();
        assert!(line.contains(&format!("  {}: ", reason.label())), "{line}");
        assert!(line.contains(&format!(" {} bytes", payload.len())), "{line}");
    }
}

/// `/readyz` says that it is ready, and what is wrong all the same.
async fn warning(callsight: &Callsight) -> Option<String> {
    let answer = callsight.get("/readyz").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(answer["ready"], Value::Bool(true));
    answer["regions"][0]["warning"].as_str().map(str::to_owned)
}

async fn counted(callsight: &Callsight, name: &str) -> f64 {
    callsight.metrics().await.sum(name, &[])
}

const LOST: &str = "callsight_dead_letters_lost_total";
const STORED: &str = "callsight_dead_letters_total";

/// The dead-letter stream takes nothing: the fold goes on, the loss is counted and said, and it is
/// over when the stream is there again.
async fn goes_on_without(health: &Health, callsight: &Callsight, said: &str, repair: impl AsyncFnOnce()) {
    let stored = counted(callsight, STORED).await;
    health.publish_bytes(SUBJECT, b"\xc1 no frame".to_vec()).await;
    health.publish(&frame("good", 1, &["bo"])).await;
    callsight
        .metrics_when(PATIENCE, "the frame behind the refused one", |scrape| {
            let row = scrape.any("videocall_session_rtt_seconds", &[("session_id", "good")]);
            wait::when(row, |shown| *shown)
        })
        .await;
    wait::eventually_async(PATIENCE, "a warning", async || {
        let warning = warning(callsight).await;
        wait::when(warning, |warning| warning.as_ref().is_some_and(|text| text.contains(said)))
    })
    .await;
    callsight
        .metrics_when(PATIENCE, "the loss", |scrape| wait::when(scrape.sum(LOST, &[]), |lost| *lost == 1.0))
        .await;
    let last = health.messages().await;
    wait::eventually_async(PATIENCE, "the acknowledgement", async || {
        wait::when(health.durable().await.ack_floor.stream_sequence, |floor| *floor == last)
    })
    .await;
    assert_eq!(counted(callsight, STORED).await, stored);

    repair().await;
    // Nobody has to send another bad frame for that.
    wait::eventually_async(PATIENCE, "the warning to go", async || {
        wait::when(warning(callsight).await, Option::is_none)
    })
    .await;
    health.publish_bytes(SUBJECT, b"\xc1 no frame".to_vec()).await;
    callsight
        .metrics_when(PATIENCE, "letters to be stored again", |scrape| {
            wait::when(scrape.sum(STORED, &[]), |now| *now > stored)
        })
        .await;
    assert_eq!(counted(callsight, LOST).await, 1.0, "what came after the repair is stored");
    // Every refused frame is counted as one or the other.
    callsight
        .metrics_when(PATIENCE, "the account", |scrape| {
            let (lost, stored) = (scrape.sum(LOST, &[]), scrape.sum(STORED, &[]));
            let refused = scrape.sum("callsight_frames_rejected_total", &[]);
            wait::when((lost, stored, refused), |(lost, stored, refused)| lost + stored == *refused)
        })
        .await;
}

#[tokio::test]
async fn a_frame_whose_letter_is_lost_is_counted_before_it_is_acknowledged() {
    const FRAMES: u64 = 10;
    let (_nats, health, jetstream, callsight) = start().await;
    jetstream.delete_stream(dlq()).await.unwrap();
    wait::eventually_async(PATIENCE, "several frames to be acknowledged without letters", async || {
        health.publish_bytes(SUBJECT, b"\xc1 no frame".to_vec()).await;
        let floor = health.durable().await.ack_floor.stream_sequence;
        let lost = counted(&callsight, LOST).await;
        assert!(
            lost >= f64::from(u32::try_from(floor).unwrap()),
            "{floor} are acknowledged, and {lost} letters counted as lost"
        );
        wait::when(floor, |floor| *floor >= FRAMES)
    })
    .await;
}

#[tokio::test]
async fn a_letter_that_waits_survives_its_durable_and_its_exporter() {
    let (_nats, health, jetstream, mut callsight) = start().await;
    jetstream.delete_stream(dlq()).await.unwrap();
    health.publish_bytes(SUBJECT, b"\xc1 no frame".to_vec()).await;
    health.publish(&frame("good", 1, &["bo"])).await;
    callsight
        .metrics_when(PATIENCE, "both frames", |scrape| {
            wait::when(scrape.sum("callsight_frames_received_total", &[]), |received| *received == 2.0)
        })
        .await;
    let stream = jetstream.get_stream(health.durable().await.stream_name).await.unwrap();
    stream.delete_consumer("callsight-main").await.unwrap();
    // The exporter makes its durable again, before the frame whose letter waits.
    wait::eventually_async(PATIENCE, "the durable to be made again", async || {
        stream.consumer_info("callsight-main").await.map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(counted(&callsight, LOST).await, 0.0);
    callsight.kill9();
    ensure_streams(&jetstream, &REGION.parse().unwrap(), 1).await.unwrap();
    callsight.restart();
    callsight
        .metrics_when(PATIENCE, "the letter", |scrape| {
            wait::when(scrape.sum(STORED, &[]), |stored| *stored == 1.0)
        })
        .await;
    assert!(by_sequence(&letters(&jetstream).await).keys().eq(&[1]));
}

#[tokio::test]
async fn an_absent_dead_letter_stream_stops_nothing() {
    let (_nats, health, jetstream, callsight) = start().await;
    jetstream.delete_stream(dlq()).await.unwrap();
    let repair = async || ensure_streams(&jetstream, &REGION.parse().unwrap(), 1).await.unwrap();
    goes_on_without(&health, &callsight, "does not exist", repair).await;
}

#[tokio::test]
async fn a_full_dead_letter_stream_stops_nothing() {
    let (_nats, health, jetstream, callsight) = start().await;
    jetstream.delete_stream(dlq()).await.unwrap();
    let usual = dead_letter_stream_config(&REGION.parse().unwrap(), 1);
    let small = Config { max_messages: 1, discard: DiscardPolicy::New, ..usual.clone() };
    jetstream.create_stream(small).await.unwrap();
    health.publish_bytes(SUBJECT, b"\xc1 the first has room".to_vec()).await;
    callsight
        .metrics_when(PATIENCE, "the first letter", |scrape| {
            wait::when(scrape.sum(STORED, &[]), |stored| *stored == 1.0)
        })
        .await;
    let repair = async || {
        jetstream.update_stream(usual.clone()).await.unwrap();
    };
    goes_on_without(&health, &callsight, "maximum messages exceeded", repair).await;
}

#[tokio::test]
async fn large_frames_whose_letters_nobody_stores_do_not_fill_the_memory() {
    const FRAMES: u32 = 2_000;
    let (_nats, health, jetstream, callsight) = start().await;
    jetstream.delete_stream(dlq()).await.unwrap();
    for _ in 0..FRAMES {
        // The server drops what it has no time to store, unless somebody waits.
        health.publish_bytes(SUBJECT, vec![0; 65 * 1024]).await;
    }
    callsight
        .metrics_when(2 * PATIENCE, "all but the last letters to be lost", |scrape| {
            wait::when(scrape.sum(LOST, &[]), |lost| *lost == f64::from(FRAMES))
        })
        .await;
    let peak = callsight.process().peak();
    assert!(peak < 64 << 20, "{peak} bytes");
}
