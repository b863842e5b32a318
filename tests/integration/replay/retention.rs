//! What is asked for is not there, not any more, or not while it is read.

use std::fs;
use std::time::Duration;

use callsight::topology::stream_name;
use time::OffsetDateTime;

use super::{moment, replay};
use crate::kit::callsight::{Callsight, REGION};
use crate::kit::frames::frame;
use crate::kit::nats::Nats;
use crate::kit::process::temporary_directory;
use crate::kit::stream::Health;
use crate::kit::wait::{self, PATIENCE};

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_window_without_frames_says_what_there_is() {
    let nats = Nats::start();
    let missing = replay(&nats.url(), &["--from=1h ago", "--openmetrics=-"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(said(&missing).contains("stream HEALTH_US does not exist"), "{}", said(&missing));

    let health = Health::create(&nats).await;
    let empty = replay(&nats.url(), &["--from=1h ago", "--openmetrics=-"]);
    assert_eq!(empty.status.code(), Some(3));
    assert!(said(&empty).contains("HEALTH_US is empty"), "{}", said(&empty));

    let sequence = health.publish(&frame("s1", 1, &[])).await;
    let second = moment(health.stored_at(sequence).await);
    let folder = temporary_directory();
    let file = folder.path().join("out.om");
    let args = ["--from=2h ago", "--to=1h ago", "--openmetrics", file.to_str().unwrap()];
    let outside = replay(&nats.url(), &args);
    assert_eq!(outside.status.code(), Some(3));
    // To the second: the message tells it to the millisecond.
    let held = format!("HEALTH_US holds frames from {}", &second[..19]);
    assert!(said(&outside).contains(&held), "{}", said(&outside));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said() {
    let away = replay("nats://127.0.0.1:1", &["--from=1h ago", "--openmetrics=-"]);
    assert_eq!(away.status.code(), Some(1));
    assert!(said(&away).contains("NATS does not answer"), "{}", said(&away));
}

/// A stream of so many frames, which take a while to read.
async fn a_long_stream(nats: &Nats) {
    let url = nats.url();
    let args =
        ["simulate", "--nats-url", &url, "--create", "--sessions=500", "--rate=20000", "--frames=60000"];
    let output = Callsight::run(&[&args[..], &["--leave-at-end=false"]].concat());
    assert!(output.status.success(), "{}", said(&output));
}

#[tokio::test]
async fn what_is_purged_while_it_is_read_is_said_and_leaves_nothing() {
    let nats = Nats::start();
    a_long_stream(&nats).await;
    let folder = temporary_directory();
    let file = folder.path().join("out.jsonl");
    let url = nats.url();
    let args = ["replay", "--nats-url", &url, "--from=1h ago", "--frames", file.to_str().unwrap()];
    let mut replaying = Callsight::spawn(&args);
    wait::eventually(PATIENCE, "the replay to read", || {
        let begun = fs::read_dir(folder.path()).unwrap().filter_map(|entry| entry.ok()?.metadata().ok());
        wait::when(begun.map(|metadata| metadata.len()).sum::<u64>(), |bytes| *bytes > 0)
    });
    replaying.stop();
    let stream = nats.jetstream().await.get_stream(stream_name(&REGION.parse().unwrap())).await.unwrap();
    stream.purge().await.unwrap();
    replaying.cont();
    let status = replaying.ended(2 * PATIENCE);
    assert_eq!(status.code(), Some(1), "{}", replaying.output());
    assert!(
        replaying.output().contains("stream HEALTH_US lost frames while it was read"),
        "{}",
        replaying.output()
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_server_that_restarts_is_read_to_the_end() {
    let mut nats = Nats::start();
    a_long_stream(&nats).await;
    let folder = temporary_directory();
    let file = folder.path().join("out.jsonl");
    let url = nats.url();
    let args = ["replay", "--nats-url", &url, "--from=1h ago", "--frames", file.to_str().unwrap()];
    let mut replaying = Callsight::spawn(&args);
    wait::eventually(PATIENCE, "the replay to read", || {
        let begun = fs::read_dir(folder.path()).unwrap().filter_map(|entry| entry.ok()?.metadata().ok());
        wait::when(begun.map(|metadata| metadata.len()).sum::<u64>(), |bytes| *bytes > 0)
    });
    replaying.stop();
    nats.kill9();
    nats.restart();
    replaying.cont();
    let status = replaying.ended(3 * PATIENCE);
    assert!(status.success(), "{}", replaying.output());
    let text = fs::read_to_string(&file).unwrap();
    let sequences: Vec<u64> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["sequence"].as_u64().unwrap())
        .collect();
    assert!(sequences.iter().copied().eq(1..=60_000), "{} lines", sequences.len());
}

#[tokio::test]
async fn a_signal_leaves_no_half_of_a_file() {
    let nats = Nats::start();
    a_long_stream(&nats).await;
    let folder = temporary_directory();
    let (frames, metrics) = (folder.path().join("out.jsonl"), folder.path().join("out.om"));
    let url = nats.url();
    let args =
        ["replay", "--nats-url", &url, "--from=1h ago", "--step=1s", "--frames", frames.to_str().unwrap()];
    let mut replaying =
        Callsight::spawn(&[&args[..], &["--openmetrics", metrics.to_str().unwrap()]].concat());
    wait::eventually(PATIENCE, "the replay to begin", || {
        wait::when(fs::read_dir(folder.path()).unwrap().count(), |entries| *entries > 0)
    });
    let status = replaying.terminate(PATIENCE);
    assert_eq!(status.code(), Some(130), "{}", replaying.output());
    assert!(replaying.output().contains("stopped by SIGTERM"), "{}", replaying.output());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn nothing_of_the_exporter_is_touched() {
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let mut callsight = Callsight::serve(&nats, &["--create"]);
    callsight.ready().await;
    let begin = OffsetDateTime::now_utc() - Duration::from_secs(1);
    for seq in 1..=5 {
        health.publish(&frame("s1", seq, &["bo"])).await;
    }
    wait::eventually_async(PATIENCE, "the frames to be acknowledged", async || {
        let floor = health.durable().await.ack_floor.stream_sequence;
        wait::when(floor, |floor| *floor == 5)
    })
    .await;
    let before = health.durable().await.delivered.consumer_sequence;
    let output = replay(&nats.url(), &["--from", &moment(begin), "--frames=-"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(health.durable().await.delivered.consumer_sequence, before);
    assert_eq!(health.messages().await, 5);
}
