//! NATS away, the stream absent, the instance stopped or killed: every frame with a 204 is folded,
//! and none twice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use callsight_frame::Frame;
use futures_util::future::join_all;
use rustix::process::{Pid, Signal, kill_process};

use super::client::{message_headers, send, token, told};
use super::{Way, frame_of};
use crate::kit::callsight::Callsight;
use crate::kit::nats::Nats;
use crate::kit::port;
use crate::kit::stream::Health;
use crate::kit::wait::{self, PATIENCE};

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let mut nats = Nats::start();
    let mut way = Way::start(&nats.url(), &["--ack-timeout=1s"]);
    way.readiness(503).await;
    wait::eventually_async(PATIENCE, "the stream to be missed", async || {
        let answer = way.get("/readyz").await;
        let expected = "no stream takes health.diagnostics.us.ingest.edge-1.m0; create or update its stream with \
                        `callsight streams apply`";
        wait::when((answer.status, answer.text().to_owned()), |(status, text)| {
            *status == 503 && text.contains(expected)
        })
        .map(drop)
    })
    .await;
    assert_eq!(way.metrics().await.value("callsight_ingest_ready", &[]), Some(0.0));
    let answer = way.post(&token("ana"), &frame_of("ana:1", 1, &[])).await;
    assert_eq!((answer.status, told(&answer).1.as_deref()), (503, Some("ack_late")));
    assert_eq!(answer.header("retry-after"), Some("2"));

    let health = Health::create(&nats).await;
    way.ready().await;
    // The frame of the 503 waited, and sending it again is no second one.
    assert_eq!(way.post(&token("ana"), &frame_of("ana:1", 1, &[])).await.status, 204);
    assert_eq!(health.messages().await, 1, "and asking for the stream stores nothing");

    nats.terminate();
    let said = way.readiness(503).await;
    assert!(said.contains("NATS is not connected"), "{said}");
    assert_eq!(way.get("/livez").await.status, 200);
    nats.restart();
    way.ready().await;
}

#[tokio::test]
async fn a_full_buffer_is_told_at_once() {
    let nats = Nats::start();
    let mut way = Way::start(&nats.url(), &["--buffer=4", "--ack-timeout=1m", "--rate-participant=1000000"]);
    way.readiness(503).await;
    // NATS is there and its stream is not: the publisher's window fills, then the buffer.
    let target = way.target();
    let headers = Arc::new(message_headers(&token("ana")));
    let mut waiting = Vec::new();
    let mut refused = None;
    for seq in 1..=5_000_u64 {
        let (target, headers) = (target.clone(), Arc::clone(&headers));
        let body = frame_of("ana:1", seq, &[]).encode(callsight_frame::Form::Compact);
        let mut request = tokio::spawn(async move {
            let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
            send(&target, "POST", "/v1/frames", &headers, &body).await
        });
        // Whoever gets no answer soon waits for the stream.
        match tokio::time::timeout(Duration::from_millis(5), &mut request).await {
            Err(_) => waiting.push(request),
            Ok(answer) => {
                refused = Some(answer.unwrap().unwrap());
                break;
            }
        }
    }
    let refused = refused.expect("the buffer is full in the end");
    assert_eq!((refused.status, told(&refused).1.as_deref()), (503, Some("buffer_full")));
    assert!(refused.header("retry-after").is_some());
    assert!(way.metrics().await.value("callsight_ingest_buffer_ratio", &[]) > Some(0.7));

    let health = Health::create(&nats).await;
    let mut stored = 0;
    for request in waiting {
        let answer = request.await.unwrap().unwrap();
        // Those that were slow to be refused are not stored.
        stored += u64::from(answer.status == 204);
    }
    assert!(stored >= 4, "{stored}");
    assert_eq!(health.messages().await, stored);
}

/// A load balancer goes on sending for a while after it was told to stop.
#[tokio::test]
async fn an_instance_that_drains_is_not_ready_and_takes_frames() {
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let mut way = Way::start(&nats.url(), &["--drain=10m"]);
    way.ready().await;
    kill_process(Pid::from_raw(way.process.id().cast_signed()).unwrap(), Signal::TERM).unwrap();
    let said = way.readiness(503).await;
    assert!(said.contains("this instance stops; send requests to another"), "{said}");
    let answer = way.post(&token("ana"), &frame_of("ana:1", 1, &[])).await;
    assert_eq!((answer.status, answer.header("connection")), (204, Some("close")));
    assert_eq!(health.messages().await, 1);
    assert!(way.terminate().success(), "a second signal ends it");
    assert!(send(&way.target(), "GET", "/livez", &[], &[]).await.is_err(), "the port is closed");
    let log = way.process.output();
    assert!(!log.contains("WARN"), "neither its start nor its end is worth a warning: {log}");
}

#[tokio::test]
async fn an_instance_that_never_connects_warns() {
    let nats = format!("nats://127.0.0.1:{}", port::free());
    let way = Way::start(&nats, &[]);
    wait::eventually(PATIENCE, "the warning", || {
        wait::when(way.process.output(), |log| log.contains("frames cannot be stored")).map(drop)
    });
}

/// A client as the documentation describes it: it sends a frame until it has its 204.
async fn faithful(target: &str, session: &str, frames: u64, refused: &AtomicUsize) {
    let (peer_id, _) = session.rsplit_once(':').unwrap();
    let headers = message_headers(&token(peer_id));
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    for seq in 1..=frames {
        let body = frame_of(session, seq, &[]).encode(callsight_frame::Form::Compact);
        // Sooner than `Retry-After` says, so that the test takes less time.
        wait::eventually_async(PATIENCE, "a frame to be taken", async || {
            // The instance may be away.
            let answer = send(target, "POST", "/v1/frames", &headers, &body).await?;
            if answer.status == 204 {
                return Ok::<_, Box<dyn std::error::Error + Send + Sync>>(());
            }
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert_eq!(answer.status, 503, "{text}");
            assert!(answer.header("retry-after").is_some());
            refused.fetch_add(1, Relaxed);
            Err(text.into())
        })
        .await;
    }
}

/// All frames of these sessions are stored once and folded once.
async fn assert_folded_once(health: &Health, exporter: &Callsight, sessions: &[String], frames: u64) {
    let stored = health.read().await;
    let ids: Vec<_> = stored
        .iter()
        .map(|message| {
            let frame = Frame::decode(&message.payload).unwrap();
            (frame.session_id.to_string(), frame.seq.get())
        })
        .collect();
    let distinct: BTreeSet<_> = ids.iter().cloned().collect();
    let expected: BTreeSet<_> =
        sessions.iter().flat_map(|session| (1..=frames).map(|seq| (session.clone(), seq))).collect();
    assert_eq!(distinct, expected);
    assert_eq!(ids.len(), distinct.len(), "none is stored twice");
    let scrape = exporter.folded(PATIENCE, ids.len()).await;
    assert_eq!(scrape.sum("callsight_frames_folded_total", &[]), ids.len() as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_nats_killed_and_back_every_204_is_folded_once() {
    const FRAMES: u64 = 60;
    let mut nats = Nats::start();
    let health = Health::create(&nats).await;
    let mut exporter = Callsight::serve(&nats, &["--create"]);
    exporter.ready().await;
    let flags = ["--ack-timeout=1s", "--buffer=20", "--rate-participant=100000", "--rate-address=100000"];
    let mut way = Way::start(&nats.url(), &flags);
    way.ready().await;
    let sessions: Vec<_> = (0..20).map(|number| format!("p{number}:x")).collect();
    let (target, refused, done) = (way.target(), AtomicUsize::new(0), AtomicBool::new(false));
    let clients = async {
        join_all(sessions.iter().map(|session| faithful(&target, session, FRAMES, &refused))).await;
        done.store(true, Relaxed);
    };
    let faults = async {
        for _ in 0..2 {
            let before = refused.load(Relaxed);
            nats.kill9();
            // Until some were told to come back.
            wait::eventually_async(PATIENCE, "a 503", async || {
                let seen = (refused.load(Relaxed), done.load(Relaxed));
                wait::when(seen, |(refused, done)| *refused > before || *done)
            })
            .await;
            nats.restart();
            way.ready().await;
        }
    };
    tokio::join!(clients, faults);
    assert!(refused.load(Relaxed) > 0);
    assert_folded_once(&health, &exporter, &sessions, FRAMES).await;
    let scrape = way.metrics().await;
    let frames = |outcome: &str| scrape.sum("callsight_ingest_frames_total", &[("outcome", outcome)]);
    assert_eq!(frames("stored") + frames("duplicate"), FRAMES as f64 * 20.0, "one 204 for each");
    assert!(frames("unavailable") > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_instance_killed_and_stopped_every_204_is_folded_once() {
    const FRAMES: u64 = 100;
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let mut exporter = Callsight::serve(&nats, &["--create"]);
    exporter.ready().await;
    let mut way = Way::start(&nats.url(), &["--rate-participant=100000", "--rate-address=100000"]);
    way.ready().await;
    let sessions: Vec<_> = (0..10).map(|number| format!("p{number}:x")).collect();
    let (target, refused) = (way.target(), AtomicUsize::new(0));
    let clients = join_all(sessions.iter().map(|session| faithful(&target, session, FRAMES, &refused)));
    let faults = async {
        let some = async |more: u64| {
            let before = health.messages().await;
            wait::eventually_async(PATIENCE, "some frames", async || {
                wait::when(health.messages().await, |now| *now >= (before + more).min(1000))
            })
            .await;
        };
        some(50).await;
        way.kill9();
        way.restart();
        way.ready().await;
        some(50).await;
        assert!(way.terminate().success());
        way.restart();
        way.ready().await;
    };
    tokio::join!(clients, faults);
    assert_folded_once(&health, &exporter, &sessions, FRAMES).await;
}
