//! Series live as long as what they tell of, and a restart leaves no hole in them.

use std::time::{Duration, SystemTime};

use callsight_frame::Frame;
use serde_json::Value;

use crate::kit::callsight::Callsight;
use crate::kit::frames::{frame, rtt_ms};
use crate::kit::http;
use crate::kit::nats::Nats;
use crate::kit::scrape::Scrape;
use crate::kit::stream::Health;
use crate::kit::wait::{self, PATIENCE};

/// How much later than the idle timeout a session's series may go.
const GRACE: Duration = Duration::from_secs(2);

async fn start(extra: &[&str]) -> (Nats, Health, Callsight) {
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let args: Vec<_> = ["--create"].iter().chain(extra).copied().collect();
    let mut callsight = Callsight::serve(&nats, &args);
    callsight.ready().await;
    (nats, health, callsight)
}

/// The live sessions that `/readyz` tells of. Asking for them is no scrape.
async fn live_sessions(callsight: &Callsight) -> u64 {
    let answer: Value = serde_json::from_slice(&callsight.get("/readyz").await.body).unwrap();
    answer["regions"][0]["live_sessions"].as_u64().unwrap()
}

async fn until_live(callsight: &Callsight, sessions: u64) {
    let what = format!("{sessions} live sessions");
    wait::eventually_async(PATIENCE, &what, async || {
        wait::when(live_sessions(callsight).await, |live| *live == sessions)
    })
    .await;
}

/// The names of the series that have a session's label.
fn series_of(scrape: &Scrape, session_id: &str) -> Vec<String> {
    let names = scrape.names().into_iter();
    names.filter(|name| scrape.any(name, &[("session_id", session_id)])).map(str::to_owned).collect()
}

/// Waits until a session's last frame is the one with this number.
async fn shown(callsight: &Callsight, session_id: &str, seq: u64) -> Scrape {
    callsight
        .metrics_when(PATIENCE, &format!("frame {seq} of {session_id}"), |scrape| {
            let rtt = scrape.value("videocall_session_rtt_seconds", &[("session_id", session_id)]);
            wait::when(rtt, |rtt| *rtt == Some(rtt_ms(seq) / 1e3)).map(drop)
        })
        .await;
    callsight.metrics().await
}

#[tokio::test]
async fn a_silent_session_goes_in_time_with_nobody_looking() {
    let (_nats, health, callsight) = start(&["--idle-timeout=3s"]).await;
    let last = health.publish(&frame("silent", 1, &["bo", "cy"])).await;
    let stored_at = SystemTime::from(health.stored_at(last).await);
    until_live(&callsight, 1).await;

    // The server's clock is this machine's, so the deadline in stream time can be waited for here.
    // Another session goes on meanwhile: the silent one goes alone.
    let deadline = stored_at + Duration::from_secs(3) + GRACE;
    let mut seq = 0;
    while let Ok(left) = deadline.duration_since(SystemTime::now()) {
        seq += 1;
        health.publish(&frame("talking", seq, &["bo"])).await;
        tokio::time::sleep(left.min(Duration::from_millis(500))).await;
    }
    let scrape = callsight.metrics().await;
    assert_eq!(series_of(&scrape, "silent"), [""; 0]);
    assert_eq!(
        scrape.value("videocall_session_rtt_seconds", &[("session_id", "talking")]),
        Some(rtt_ms(seq) / 1e3)
    );
    assert_eq!(scrape.sum("videocall_sessions", &[]), 1.0);
    assert_eq!(scrape.sum("videocall_peer_connections", &[]), 1.0);
    assert_eq!(scrape.value("callsight_sessions_removed_total", &[("reason", "idle")]), Some(1.0));
    assert_eq!(
        scrape.value("callsight_scrape_duration_seconds_count", &[]),
        None,
        "this was the first scrape"
    );
}

#[tokio::test]
async fn a_departed_peer_goes_with_the_next_frame() {
    let (_nats, health, callsight) = start(&[]).await;
    health.publish(&frame("s1", 1, &["bo", "cy"])).await;
    let scrape = shown(&callsight, "s1", 1).await;
    assert!(scrape.any("videocall_pair_can_listen", &[("peer_id", "bo")]));
    assert!(scrape.any("videocall_pair_can_listen", &[("peer_id", "cy")]));

    health.publish(&frame("s1", 2, &["cy"])).await;
    let scrape = shown(&callsight, "s1", 2).await;
    let pairs: Vec<_> =
        scrape.names().into_iter().filter(|name| scrape.any(name, &[("peer_id", "bo")])).collect();
    assert_eq!(pairs, [""; 0]);
    let samples = scrape.value("videocall_pair_audio_samples_total", &[("peer_id", "cy")]);
    assert_eq!(samples, Some(96_000.0));
    assert_eq!(scrape.sum("videocall_peer_connections", &[]), 1.0);

    // Back again, it goes on where its counters are: nothing of them is counted a second time.
    health.publish(&frame("s1", 3, &["bo", "cy"])).await;
    let scrape = shown(&callsight, "s1", 3).await;
    let samples = scrape.value("videocall_pair_audio_samples_total", &[("peer_id", "bo")]);
    assert_eq!(samples, Some(144_000.0));
    assert_eq!(scrape.sum("videocall_audio_samples_total", &[]), 2.0 * 144_000.0);
}

#[tokio::test]
async fn a_session_that_says_goodbye_goes_at_once() {
    let (_nats, health, callsight) = start(&["--idle-timeout=1h"]).await;
    health.publish(&frame("s1", 1, &["bo"])).await;
    health.publish(&frame("s2", 1, &["bo"])).await;
    shown(&callsight, "s2", 1).await;
    health.publish(&Frame { ended: Some(true), ..frame("s1", 2, &["bo"]) }).await;
    // The next frame of another session is folded after it.
    health.publish(&frame("s2", 2, &["bo"])).await;
    let scrape = shown(&callsight, "s2", 2).await;
    assert_eq!(series_of(&scrape, "s1"), [""; 0]);
    assert_eq!(scrape.value("callsight_sessions_removed_total", &[("reason", "ended")]), Some(1.0));
    assert_eq!(scrape.sum("videocall_sessions", &[]), 1.0);
    // What its last frame told has been counted all the same.
    assert_eq!(scrape.sum("videocall_audio_samples_total", &[]), 4.0 * 48_000.0);
}

#[tokio::test]
async fn a_restart_restores_the_live_sessions_before_it_is_ready() {
    let (_nats, health, mut callsight) = start(&["--idle-timeout=1h"]).await;
    let sessions: Vec<_> = (0..40).map(|number| format!("s{number}")).collect();
    for seq in 1..=2 {
        for session_id in &sessions {
            health.publish(&frame(session_id, seq, &["bo", "cy"])).await;
        }
    }
    health.publish(&Frame { ended: Some(true), ..frame("gone", 1, &["bo"]) }).await;
    health.publish(&frame("marker", 1, &["bo"])).await;
    shown(&callsight, "marker", 1).await;
    // The last acknowledgement follows the fold: it must be there, or the frame would rightly come
    // again.
    let last = health.messages().await;
    wait::eventually_async(PATIENCE, "the acknowledgement", async || {
        wait::when(health.durable().await.ack_floor.stream_sequence, |floor| *floor == last)
    })
    .await;

    callsight.kill9();
    callsight.restart();
    // Whoever sees it ready sees all sessions: nobody is asked a second time.
    let url = format!("{}/readyz", callsight.url());
    wait::eventually_async(PATIENCE, "callsight to be ready", async || {
        let status = http::get(&url, &[]).await.map(|answer| answer.status);
        wait::when(status, |status| *status == Ok(200)).map(drop)
    })
    .await;
    let scrape = callsight.metrics().await;
    for session_id in &sessions {
        let session = [("session_id", session_id.as_str())];
        assert_eq!(
            scrape.value("videocall_session_rtt_seconds", &session),
            Some(rtt_ms(2) / 1e3),
            "{session_id}"
        );
        assert_eq!(
            scrape.sum("videocall_pair_audio_samples_total", &session),
            2.0 * 96_000.0,
            "{session_id}"
        );
    }
    assert_eq!(series_of(&scrape, "gone"), [""; 0]);
    assert_eq!(scrape.sum("videocall_sessions", &[]), 41.0);
    for counted in [
        "callsight_frames_received_total",
        "callsight_frames_folded_total",
        "videocall_audio_samples_total",
        "videocall_neteq_operations_total",
        "videocall_video_freezes_total",
        "videocall_rtt_seconds_count",
        "videocall_audio_buffer_seconds_count",
        "callsight_frame_latency_seconds_count",
        "callsight_sessions_removed_total",
    ] {
        assert_eq!(scrape.sum(counted, &[]), 0.0, "{counted} was fed by the restart");
    }

    // What follows is counted from where the sessions were.
    health.publish(&frame("s0", 3, &["bo", "cy"])).await;
    let scrape = shown(&callsight, "s0", 3).await;
    assert_eq!(scrape.sum("videocall_audio_samples_total", &[]), 2.0 * 48_000.0);
    assert_eq!(scrape.sum("videocall_video_freezes_total", &[]), 2.0);
    assert_eq!(scrape.sum("callsight_frames_folded_total", &[]), 1.0);
    // And what was there before the restart is known again.
    health.publish_as("again", &frame("s1", 2, &["bo", "cy"])).await;
    health.publish(&frame("s0", 4, &["bo", "cy"])).await;
    let scrape = shown(&callsight, "s0", 4).await;
    assert_eq!(scrape.sum("callsight_frames_repeated_total", &[]), 1.0);
}
