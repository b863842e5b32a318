//! Every frame that was published and acknowledged has its effect exactly once, whatever dies in
//! between.
//!
//! The account is the exporter's own: each message of the stream is counted as folded, repeated or
//! rejected, and each delivery beyond its first as redelivered. The stream, read by the test, says
//! what the account must come to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use callsight_frame::Frame;

use crate::kit::callsight::Callsight;
use crate::kit::frames::{frame, rtt_ms};
use crate::kit::nats::Nats;
use crate::kit::process::Process;
use crate::kit::scrape::Scrape;
use crate::kit::stream::Health;
use crate::kit::wait;

/// How long an account may take to come out right: an outage, the pauses of publisher and exporter,
/// and the rest.
const SETTLED: Duration = Duration::from_secs(60);

/// Far beyond any test: no session falls idle, and the gauges of each can be compared with its last
/// frame.
const NEVER_IDLE: &str = "--idle-timeout=1h";

/// Everything that an account is made of: the server, its stream, and the exporter, ready before
/// the first frame.
async fn start() -> (Nats, Health, Callsight) {
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let mut callsight = Callsight::serve(&nats, &["--create", NEVER_IDLE]);
    callsight.ready().await;
    (nats, health, callsight)
}

/// What an exporter says became of the messages that it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Account {
    received: u64,
    folded: u64,
    repeated: u64,
    rejected: u64,
    redelivered: u64,
}

impl Account {
    fn of(scrape: &Scrape) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter is whole")]
        let count = |name: &str| scrape.sum(&format!("callsight_frames_{name}_total"), &[]) as u64;
        Self {
            received: count("received"),
            folded: count("folded"),
            repeated: count("repeated"),
            rejected: count("rejected"),
            redelivered: count("redelivered"),
        }
    }

    /// Messages of the stream, each counted once.
    fn taken(&self) -> u64 {
        self.folded + self.repeated + self.rejected
    }
}

/// Waits until so many messages were taken, and gives the account of it.
async fn taken(callsight: &Callsight, messages: u64) -> Account {
    callsight
        .metrics_when(SETTLED, &format!("{messages} messages to be taken"), |scrape| {
            wait::when(Account::of(scrape), |account| account.taken() >= messages)
        })
        .await
}

/// Clients that send so many frames within a few seconds and then fall silent.
fn clients(nats: &Nats, frames: u32, rate: u32) -> Process {
    let (url, frames, rate) = (nats.url(), frames.to_string(), rate.to_string());
    Callsight::spawn(&[
        "simulate",
        "--nats-url",
        &url,
        "--sessions",
        "60",
        "--rate",
        &rate,
        "--frames",
        &frames,
        "--leave-at-end=false",
    ])
}

/// Waits for their end, and tells how many of their frames the stream acknowledged.
fn acknowledged(clients: &mut Process) -> u64 {
    let status = clients.ended(SETTLED);
    let output = clients.output();
    assert!(status.success(), "{output}");
    assert!(!output.contains("closed before all frames"), "nothing was lost: {output}");
    let account = output.lines().last().unwrap();
    let value = |key: &str| -> u64 {
        let found = account.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("no {key} in {account:?}")).parse().unwrap()
    };
    assert_eq!((value("acknowledged"), value("failed"), value("overflowed")), (value("published"), 0, 0));
    value("acknowledged")
}

/// How many messages of the stream are at or below the highest `seq` of their session before them.
async fn overtaken(health: &Health) -> u64 {
    let mut highest = BTreeMap::new();
    let mut overtaken = 0;
    for message in health.read().await {
        let frame = Frame::decode(&message.payload).unwrap();
        let highest = highest.entry(frame.session_id.to_string()).or_insert(0);
        overtaken += u64::from(frame.seq.get() <= *highest);
        *highest = frame.seq.get().max(*highest);
    }
    overtaken
}

/// The gauges are those of each session's last frame in the stream, and there are no others.
async fn assert_last_frames_show(callsight: &Callsight, health: &Health) {
    let messages = health.read().await;
    let mut last: BTreeMap<String, Frame<'_>> = BTreeMap::new();
    for message in &messages {
        let frame = Frame::decode(&message.payload).unwrap();
        let session_id = frame.session_id.to_string();
        if last.get(&session_id).is_none_or(|before| before.seq < frame.seq) {
            last.insert(session_id, frame);
        }
    }
    let scrape = callsight.metrics().await;
    let by_session = |name: &str| -> BTreeMap<String, f64> {
        scrape.series(name).into_iter().map(|(labels, value)| (labels["session_id"].clone(), value)).collect()
    };
    let live = || last.iter().filter(|(_, frame)| frame.ended != Some(true));
    let rtts = live()
        .filter_map(|(session_id, frame)| Some((session_id.clone(), frame.server.as_ref()?.rtt_ms? / 1e3)));
    assert_eq!(by_session("videocall_session_rtt_seconds"), rtts.collect());
    assert_eq!(by_session("videocall_session_last_seen_age_seconds").len(), live().count());

    let pairs: BTreeMap<_, _> = scrape
        .series("videocall_pair_audio_samples_total")
        .into_iter()
        .map(|(labels, value)| ((labels["session_id"].clone(), labels["peer_id"].clone()), value))
        .collect();
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    let expected = live().flat_map(|(session_id, frame)| {
        frame.peers.iter().filter_map(|peer| {
            let samples = peer.audio.as_ref()?.total_samples?;
            Some(((session_id.clone(), peer.peer_id.to_string()), samples as f64))
        })
    });
    assert_eq!(pairs, expected.collect());
}

#[tokio::test]
async fn a_killed_exporter_loses_nothing_and_counts_nothing_twice() {
    let (nats, health, mut callsight) = start().await;
    let mut clients = clients(&nats, 12_000, 3_000);
    taken(&callsight, 3_000).await;
    callsight.kill9();
    assert!(clients.exited().is_none(), "it should have died in the middle");
    let floor = health.settled_ack_floor().await;
    assert!(floor > 0);

    callsight.restart();
    let published = acknowledged(&mut clients);
    assert_eq!(published, health.messages().await);
    let account = taken(&callsight, published - floor).await;
    assert_eq!((account.taken(), account.received), (published - floor, published - floor), "{account:?}");
    assert_eq!((account.redelivered, account.repeated, account.rejected), (0, 0, 0), "{account:?}");
    assert_last_frames_show(&callsight, &health).await;

    // It is at rest: what is acknowledged now is everything, and the next one gets nothing again.
    assert!(callsight.terminate().success());
    assert_eq!(health.settled_ack_floor().await, published);
    callsight.restart();
    callsight.ready().await;
    let account = Account::of(&callsight.metrics().await);
    assert_eq!(account.received, 0, "{account:?}");
    assert_last_frames_show(&callsight, &health).await;
}

#[tokio::test]
async fn a_killed_server_loses_nothing_and_counts_nothing_twice() {
    let (mut nats, _, callsight) = start().await;
    let mut clients = clients(&nats, 12_000, 3_000);
    taken(&callsight, 2_000).await;
    nats.kill9();
    assert!(clients.exited().is_none(), "the server should have died in the middle");
    nats.restart();
    // And once more: whether the clients are still at it depends on how soon everybody found the
    // way back.
    taken(&callsight, 6_000).await;
    nats.kill9();
    nats.restart();

    let published = acknowledged(&mut clients);
    // The connection that was there before may still be finding its way back.
    let health = Health::at(&nats).await;
    let stored = health.messages().await;
    assert!(stored >= published, "{published} frames were acknowledged, {stored} are there");
    let account = taken(&callsight, stored).await;
    assert_eq!(account.taken(), stored, "{account:?}");
    assert_eq!(account.received - account.redelivered, stored, "{account:?}");
    // What was stored again, and what a later frame of its session overtook in a retry.
    assert_eq!((account.repeated, account.rejected), (overtaken(&health).await, 0), "{account:?}");
    assert_last_frames_show(&callsight, &health).await;
}

/// An acknowledgement that the server has not stored is lost with it: what it covered is folded
/// again. Nothing else is, and nothing is lost.
#[tokio::test]
async fn an_exporter_and_its_server_killed_together_lose_nothing() {
    let (mut nats, health, mut callsight) = start().await;
    let mut clients = clients(&nats, 12_000, 3_000);
    let before = taken(&callsight, 3_000).await;
    nats.kill9();
    callsight.kill9();
    assert!(clients.exited().is_none(), "both should have died in the middle");
    nats.restart();
    let health_after = Health::at(&nats).await;
    drop(health);
    let floor = health_after.durable().await.ack_floor.stream_sequence;
    callsight.restart();
    let killed = std::time::Instant::now();
    callsight.ready().await;
    #[expect(clippy::print_stdout, reason = "the figures that this is about")]
    {
        let again = before.taken().saturating_sub(floor);
        println!("at least {again} frames are folded again; ready after {} ms", killed.elapsed().as_millis());
    }
    acknowledged(&mut clients);
    let stored = health_after.messages().await;
    let account = taken(&callsight, stored - floor).await;
    assert_eq!(account.taken(), stored - floor, "{account:?}");
    assert_eq!(callsight.metrics().await.sum("callsight_frames_missed_total", &[]), 0.0);
    assert_last_frames_show(&callsight, &health_after).await;
}

#[tokio::test]
async fn an_exporter_that_was_stopped_for_longer_than_a_heartbeat_goes_on() {
    let (nats, health, callsight) = start().await;
    // They send for two heartbeats of 5 s, and most of that reaches nobody.
    let mut clients = clients(&nats, 2_400, 200);
    taken(&callsight, 100).await;
    callsight.process().stop();
    let published = acknowledged(&mut clients);
    callsight.process().cont();

    let account = taken(&callsight, published).await;
    assert_eq!(account.taken(), published, "{account:?}");
    assert_eq!(account.received - account.redelivered, published, "{account:?}");
    assert_eq!((account.repeated, account.rejected), (0, 0), "{account:?}");
    assert_last_frames_show(&callsight, &health).await;
}

#[tokio::test]
async fn a_repeated_or_late_frame_changes_nothing() {
    let (_nats, health, callsight) = start().await;
    for seq in [1, 2, 4] {
        health.publish(&frame("s1", seq, &["bo"])).await;
    }
    taken(&callsight, 3).await;
    let before = callsight.metrics().await;

    // The last one again, one that was overtaken, and the first one with an end in it.
    health.publish_as("again", &frame("s1", 4, &["bo"])).await;
    health.publish(&frame("s1", 3, &["bo", "cy"])).await;
    health.publish_as("first", &Frame { ended: Some(true), ..frame("s1", 1, &[]) }).await;
    let account = taken(&callsight, 6).await;
    assert_eq!((account.folded, account.repeated, account.received), (3, 3, 6), "{account:?}");
    let after = callsight.metrics().await;

    let calls = |name: &&str| name.starts_with("videocall_") && !name.ends_with("last_seen_age_seconds");
    let told = |scrape: &Scrape| -> BTreeSet<String> {
        let names: Vec<_> = scrape.names().into_iter().filter(calls).collect();
        let lines = names
            .iter()
            .flat_map(|name| scrape.series(name).into_iter().map(move |series| format!("{name} {series:?}")));
        lines.collect()
    };
    let (before, now) = (told(&before), told(&after));
    let changed: Vec<_> = before.symmetric_difference(&now).collect();
    assert!(changed.is_empty() && !now.is_empty(), "{changed:#?}");
    assert_eq!(after.value("videocall_session_rtt_seconds", &[("session_id", "s1")]), Some(rtt_ms(4) / 1e3));
}
