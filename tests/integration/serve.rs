//! The exporter as Prometheus, Kubernetes and an operator meet it.

use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

use async_nats::jetstream::stream;
use callsight::topology::stream_config;
use callsight_frame::{Form, Frame, Reason};
use callsight_publish::{Publisher, PublisherConfig};
use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::kit::callsight::{Callsight, REGION};
use crate::kit::frames::{SERVER_URL, frame, rtt_ms};
use crate::kit::http::{self, Response};
use crate::kit::nats::Nats;
use crate::kit::scrape::Scrape;
use crate::kit::stream::Health;
use crate::kit::wait::{self, PATIENCE};

/// How long an exporter that is cut off may take to notice, and to come back: the longest of its
/// pauses and timeouts.
const RECOVERY: Duration = Duration::from_secs(45);

/// The exporter with its stream made, ready.
async fn ready(nats: &Nats) -> Callsight {
    let mut callsight = Callsight::serve(nats, &["--create"]);
    callsight.ready().await;
    callsight
}

/// Waits until so many frames were folded, and gives the page that says so.
async fn folded(callsight: &Callsight, frames: f64) -> Scrape {
    callsight
        .metrics_when(PATIENCE, "the frames to be folded", |scrape| {
            let folded = scrape.sum("callsight_frames_folded_total", &[]);
            wait::when(folded, |folded| *folded >= frames).map(drop)
        })
        .await;
    callsight.metrics().await
}

/// What `/readyz` answers: its status, and the one region of it.
async fn readiness(callsight: &Callsight) -> (u16, Value) {
    let response = callsight.get("/readyz").await;
    let answer: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(answer["ready"], response.status == 200);
    assert_eq!(answer["regions"].as_array().unwrap().len(), 1, "{answer}");
    (response.status, answer["regions"][0].clone())
}

/// Waits until it is not ready for a reason that has this text in it.
async fn not_ready_because(callsight: &Callsight, text: &str) {
    wait::eventually_async(RECOVERY, text, async || {
        wait::when(readiness(callsight).await, |(status, region)| {
            *status == 503 && region["why"].as_str().is_some_and(|why| why.contains(text))
        })
    })
    .await;
}

async fn ready_again(callsight: &Callsight) {
    wait::eventually_async(RECOVERY, "it to be ready", async || {
        wait::when(readiness(callsight).await, |(status, _)| *status == 200)
    })
    .await;
}

#[tokio::test]
async fn published_values_are_scraped_as_they_are() {
    let nats = Nats::start();
    let callsight = ready(&nats).await;
    let config = PublisherConfig::new(REGION.parse().unwrap(), "relay", "relay-1");
    let publisher = Publisher::start(nats.client().await, config).await.unwrap();
    for seq in 1..=2 {
        publisher.publish(&frame("s1", seq, &["bo", "cy"])).unwrap();
    }
    // Of this one nothing is known but that it is there.
    let mut silent = frame("s2", 1, &["bo"]);
    (silent.server, silent.audio_enabled, silent.video_enabled) = (None, None, None);
    (silent.peers[0].audio, silent.peers[0].video) = (None, None);
    publisher.publish(&silent).unwrap();
    publisher.shutdown(PATIENCE).await.unwrap();
    let scrape = folded(&callsight, 3.0).await;

    let session = [("region", REGION), ("meeting_id", "standup"), ("session_id", "s1"), ("peer_id", "s1")];
    let on_server = [("server_url", SERVER_URL), ("server_type", "webtransport")];
    let session_on_server: Vec<_> = session.into_iter().chain(on_server).collect();
    for (name, value) in [
        ("videocall_session_rtt_seconds", rtt_ms(2) / 1e3),
        ("videocall_session_audio_enabled", 1.0),
        ("videocall_session_video_enabled", 0.0),
    ] {
        assert_eq!(scrape.value(name, &session_on_server), Some(value), "{name}");
    }
    let age = scrape.value("videocall_session_last_seen_age_seconds", &session_on_server).unwrap();
    assert!((0.0..PATIENCE.as_secs_f64()).contains(&age), "{age}");

    let pair = [("region", REGION), ("meeting_id", "standup"), ("session_id", "s1"), ("peer_id", "bo")];
    for (name, value) in [
        ("videocall_pair_can_listen", Some(1.0)),
        ("videocall_pair_can_see", Some(0.0)),
        ("videocall_pair_audio_buffer_seconds", Some(0.062)),
        ("videocall_pair_audio_target_seconds", Some(0.08)),
        ("videocall_pair_audio_packets_awaiting_decode", Some(3.0)),
        ("videocall_pair_audio_samples_total", Some(96_000.0)),
        ("videocall_pair_audio_concealed_samples_total", Some(960.0)),
        ("videocall_pair_audio_silent_concealed_samples_total", None),
        ("videocall_pair_video_frames_per_second", Some(0.0)),
        ("videocall_pair_video_frames_buffered", None),
        ("videocall_pair_video_bytes_per_second", Some(187_500.0)),
        ("videocall_pair_video_freezes_total", Some(2.0)),
    ] {
        assert_eq!(scrape.value(name, &pair), value, "{name}");
    }
    for (operation, value) in
        [("normal", Some(196.0)), ("expand", Some(4.0)), ("accelerate", Some(0.0)), ("merge", None)]
    {
        let labels: Vec<_> = pair.into_iter().chain([("operation", operation)]).collect();
        assert_eq!(scrape.value("videocall_pair_neteq_operations_total", &labels), value, "{operation}");
    }

    // Two peers of s1 have told of their audio in two frames.
    for (name, value) in [
        ("videocall_rtt_seconds_count", 2.0),
        ("videocall_audio_buffer_seconds_count", 4.0),
        ("videocall_audio_concealment_ratio_count", 4.0),
        ("videocall_audio_samples_total", 2.0 * 96_000.0),
        ("videocall_audio_concealed_samples_total", 2.0 * 960.0),
        ("videocall_audio_silent_concealed_samples_total", 0.0),
        ("videocall_audio_packets_received_total", 200.0),
        ("videocall_audio_packets_lost_total", 0.0),
        ("videocall_video_freezes_total", 4.0),
        ("videocall_meetings", 1.0),
        ("videocall_sessions", 1.0),
        ("videocall_participants", 1.0),
        ("videocall_peer_connections", 2.0),
    ] {
        assert_eq!(scrape.value(name, &on_server), Some(value), "{name}");
    }
    assert_eq!(scrape.value("videocall_rtt_seconds_sum", &on_server), Some((rtt_ms(1) + rtt_ms(2)) / 1e3));
    assert_eq!(
        scrape.value("videocall_neteq_operations_total", &[on_server[0], ("operation", "expand")]),
        Some(8.0)
    );
    // Its video froze since the frame before.
    for (signal, sessions) in [("rtt", 0.0), ("audio", 0.0), ("video", 1.0)] {
        let degraded = scrape.value("videocall_sessions_degraded", &[on_server[0], ("signal", signal)]);
        assert_eq!(degraded, Some(sessions), "{signal}");
    }

    // The other session is there, with what it told and nothing else.
    assert_eq!(scrape.value("videocall_sessions", &[("server_url", "none")]), Some(1.0));
    let silent = [("session_id", "s2")];
    assert_eq!(scrape.value("videocall_pair_can_listen", &silent), Some(1.0));
    let told: Vec<_> = scrape.names().into_iter().filter(|name| scrape.any(name, &silent)).collect();
    let expected =
        ["videocall_pair_can_listen", "videocall_pair_can_see", "videocall_session_last_seen_age_seconds"];
    assert_eq!(told, expected);

    let own = [("region", REGION)];
    assert_eq!(scrape.value("callsight_frames_received_total", &own), Some(3.0));
    assert_eq!(scrape.value("callsight_frame_latency_seconds_count", &own), Some(3.0));
    assert_eq!(scrape.value("callsight_nats_connected", &own), Some(1.0));
    assert_eq!(scrape.value("callsight_ready", &own), Some(1.0));
    assert!(scrape.value("process_resident_memory_bytes", &[]).unwrap() > 0.0);
}

#[tokio::test]
async fn each_path_answers_in_its_own_way() {
    let nats = Nats::start();
    let callsight = ready(&nats).await;
    Health::at(&nats).await.publish(&frame("s1", 1, &["bo"])).await;
    folded(&callsight, 1.0).await;
    let content_type = |response: &Response| response.header("content-type").unwrap().to_owned();

    let text = callsight.get("/metrics").await;
    assert_eq!(content_type(&text), "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(text.header("content-encoding"), None);
    assert!(text.text().contains("\n# TYPE callsight_frames_folded_total counter\n"));

    let open_metrics =
        ("accept", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5");
    let open = callsight.get_with("/metrics", &[open_metrics]).await;
    assert_eq!(content_type(&open), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.text().contains("\n# TYPE callsight_frames_folded counter\ncallsight_frames_folded_total{"));
    assert!(open.text().ends_with("\n# EOF\n"));

    let zipped = callsight.get_with("/metrics", &[("accept-encoding", "gzip"), open_metrics]).await;
    assert_eq!(
        (zipped.header("content-encoding"), content_type(&zipped)),
        (Some("gzip"), content_type(&open))
    );
    let mut unzipped = String::new();
    GzDecoder::new(&*zipped.body).read_to_string(&mut unzipped).unwrap();
    assert!(unzipped.contains("videocall_session_rtt_seconds{") && unzipped.ends_with("\n# EOF\n"));
    assert!(zipped.body.len() < unzipped.len() / 2);

    let live = callsight.get("/livez").await;
    assert_eq!((live.status, content_type(&live).as_str()), (200, "application/json"));
    assert_eq!(serde_json::from_slice::<Value>(&live.body).unwrap(), json!({ "alive": true }));

    let expected = json!({ "region": REGION, "ready": true, "pending_frames": 0, "lag_seconds": 0.0, "live_sessions": 1 });
    wait::eventually_async(PATIENCE, "an answer that knows of the session", async || {
        wait::when(readiness(&callsight).await, |answer| *answer == (200, expected.clone()))
    })
    .await;

    let landing = callsight.get("/").await;
    assert_eq!((landing.status, content_type(&landing).as_str()), (200, "text/html; charset=utf-8"));
    assert!(landing.text().contains("<h1 id=\"sentence\">"), "{}", landing.text());

    let missing = callsight.get("/metric").await;
    assert_eq!((missing.status, content_type(&missing).as_str()), (404, "text/plain; charset=utf-8"));
    assert_eq!(missing.text(), "not found; the paths are /, /api/triage, /metrics, /readyz and /livez\n");
    for path in ["/metrics", "/"] {
        let refused = http::post(&format!("{}{path}", callsight.url())).await.unwrap();
        assert_eq!((refused.status, refused.text()), (405, "use GET or HEAD\n"), "{path}");
    }
}

#[tokio::test]
async fn it_says_what_is_missing_and_recovers_once_somebody_made_it() {
    let nats = Nats::start();
    let callsight = Callsight::serve(&nats, &[]);
    callsight.listening().await;
    let missing = "stream HEALTH_US does not exist; make it with `callsight serve --create --region us`";
    not_ready_because(&callsight, missing).await;
    assert_eq!(callsight.get("/livez").await.status, 200);
    let scrape = callsight.metrics().await;
    assert_eq!(scrape.value("callsight_nats_connected", &[("region", REGION)]), Some(0.0));
    assert_eq!(scrape.value("callsight_ready", &[("region", REGION)]), Some(0.0));

    let url = nats.url();
    let made = Callsight::run(&[
        "simulate",
        "--create",
        "--nats-url",
        &url,
        "--sessions",
        "4",
        "--frames",
        "40",
        "--rate",
        "1000",
    ]);
    assert!(made.status.success(), "{made:?}");
    let missing = "durable consumer callsight-main does not exist on HEALTH_US; make it with \
                   `callsight serve --create --region us --deployment main`";
    not_ready_because(&callsight, missing).await;
    assert!(callsight.process().output().contains("callsight serve --create"));

    let mut other = Callsight::serve(&nats, &["--create"]);
    other.ready().await;
    assert!(other.terminate().success());
    ready_again(&callsight).await;
    Health::at(&nats).await.publish(&frame("s1", 1, &["bo"])).await;
    callsight
        .metrics_when(PATIENCE, "the session", |scrape| {
            scrape.value("videocall_session_rtt_seconds", &[("session_id", "s1")]).ok_or("absent")
        })
        .await;
}

#[tokio::test]
async fn it_waits_for_nats_at_the_start_and_later() {
    let mut nats = Nats::start();
    nats.terminate();
    let callsight = Callsight::serve(&nats, &["--create"]);
    callsight.listening().await;
    not_ready_because(&callsight, "NATS").await;
    assert_eq!(callsight.get("/livez").await.status, 200);

    nats.restart();
    ready_again(&callsight).await;
    let health = Health::at(&nats).await;
    health.publish(&frame("s1", 1, &["bo"])).await;
    folded(&callsight, 1.0).await;

    nats.kill9();
    not_ready_because(&callsight, "NATS does not answer").await;
    let scrape = callsight.metrics().await;
    assert_eq!(scrape.value("callsight_nats_connected", &[("region", REGION)]), Some(0.0));
    assert_eq!(scrape.value("callsight_frames_folded_total", &[("region", REGION)]), Some(1.0));

    nats.restart();
    ready_again(&callsight).await;
    Health::at(&nats).await.publish(&frame("s1", 2, &["bo"])).await;
    let scrape = folded(&callsight, 2.0).await;
    assert_eq!(scrape.value("callsight_nats_connected", &[("region", REGION)]), Some(1.0));
    assert_eq!(scrape.value("callsight_frames_folded_total", &[("region", REGION)]), Some(2.0));
}

#[tokio::test]
async fn sigterm_acknowledges_what_was_folded() {
    let nats = Nats::start();
    let mut callsight = ready(&nats).await;
    let health = Health::at(&nats).await;
    for seq in 1..=50 {
        health.publish(&frame("s1", seq, &["bo"])).await;
    }
    folded(&callsight, 50.0).await;
    assert_eq!(callsight.terminate().code(), Some(0));
    assert_eq!(health.durable().await.ack_floor.stream_sequence, 50);
    assert!(callsight.process().output().contains("drained"), "{}", callsight.process().output());

    // Under load: what it had folded is what the next one does not get.
    let url = nats.url();
    let mut clients = Callsight::spawn(&[
        "simulate",
        "--nats-url",
        &url,
        "--sessions",
        "50",
        "--rate",
        "2000",
        "--frames",
        "4000",
        "--leave-at-end=false",
    ]);
    callsight.restart();
    folded(&callsight, 500.0).await;
    assert_eq!(callsight.terminate().code(), Some(0));
    let floor = health.durable().await.ack_floor.stream_sequence;
    assert!(floor > 550, "{floor}");
    callsight.restart();
    assert!(clients.ended(PATIENCE).success());
    let left = health.messages().await - floor;
    #[expect(clippy::cast_precision_loss, reason = "a few thousand frames")]
    let scrape = folded(&callsight, left as f64).await;
    let count = |name| scrape.value(name, &[("region", REGION)]).map(|count| count as u64);
    assert_eq!(count("callsight_frames_received_total"), Some(left));
    assert_eq!(count("callsight_frames_redelivered_total"), Some(0));
}

#[test]
fn a_port_in_use_is_one_line_and_exit_code_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    // No NATS that refuses at once, of which a line could come first: this one says nothing.
    let nats = format!("nats://{address}");
    let output = Callsight::run(&["serve", "--region", REGION, "--listen", &address, "--nats-url", &nats]);
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{line}");
    let expected = format!("error: cannot listen on {address}; choose another address with --listen: ");
    assert!(line.starts_with(&expected) && line.lines().count() == 1, "{line}");
}

/// A frame in the named form, after a change that no encoder of ours would make.
fn named(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut json = serde_json::to_value(frame("bad", 1, &["bo"])).unwrap();
    change(&mut json);
    rmp_serde::to_vec(&json).unwrap()
}

fn not_finite() -> Vec<u8> {
    let mut frame: Frame = frame("bad", 1, &["bo"]);
    frame.server.as_mut().unwrap().rtt_ms = Some(f64::NAN);
    frame.encode(Form::Compact)
}

#[tokio::test]
async fn bad_frames_are_counted_by_reason_and_stop_nothing() {
    let nats = Nats::start();
    // Made by hand, it takes another region's subjects too.
    let region = REGION.parse().unwrap();
    let mut config = stream_config(&region, 1);
    config.subjects.push("health.diagnostics.mars.*.*".to_owned());
    let _: stream::Stream = nats.jetstream().await.create_stream(config).await.unwrap();
    let callsight = ready(&nats).await;
    let health = Health::at(&nats).await;

    let many: Vec<_> = (0..257).map(|_| json!({})).collect();
    let bad = [
        (Reason::Malformed, b"\xc1".to_vec()),
        (Reason::Malformed, Vec::new()),
        (Reason::Malformed, b"{\"v\": 1}".to_vec()),
        (Reason::Malformed, named(|_| ()).split_last().unwrap().1.to_vec()),
        (Reason::TooLarge, named(|json| json["new"] = "x".repeat(65 * 1024).into())),
        (Reason::UnsupportedVersion, named(|json| json["v"] = 2.into())),
        (Reason::MissingField, named(|json| drop(json.as_object_mut().unwrap().remove("peer_id")))),
        (Reason::BadIdentifier, named(|json| json["meeting_id"] = "a meeting\"}\n".into())),
        (Reason::BadUrl, named(|json| json["server"]["url"] = "relay".into())),
        (Reason::TooManyPeers, named(|json| json["peers"] = many.into())),
        (Reason::NotFinite, not_finite()),
        (Reason::OutOfRange, named(|json| json["peers"][0]["audio"]["total_samples"] = (-1).into())),
        (Reason::OutOfRange, named(|json| json["seq"] = 0.into())),
    ];
    health.publish(&frame("good", 1, &["bo"])).await;
    for (seq, (_, payload)) in (2..).zip(&bad) {
        health.publish_bytes("health.diagnostics.us.relay.relay-1", payload.clone()).await;
        health.publish(&frame("good", seq, &["bo"])).await;
    }
    health
        .publish_bytes("health.diagnostics.mars.relay.relay-1", frame("bad", 1, &[]).encode(Form::Compact))
        .await;
    let last = bad.len() as u64 + 2;
    health.publish(&frame("good", last, &["bo"])).await;

    #[expect(clippy::cast_precision_loss, reason = "a handful of frames")]
    let scrape = folded(&callsight, last as f64).await;
    for reason in Reason::ALL {
        let expected =
            bad.iter().filter(|(of, _)| of == reason).count() + usize::from(*reason == Reason::BadSubject);
        assert!(expected > 0, "no example of {reason}");
        let labels = [("region", REGION), ("reason", reason.label())];
        let counted = scrape.value("callsight_frames_rejected_total", &labels);
        assert_eq!(counted, Some(expected as f64), "{reason}");
    }
    assert_eq!(
        scrape.value("videocall_session_rtt_seconds", &[("session_id", "good")]),
        Some(rtt_ms(last) / 1e3)
    );
    assert!(!scrape.any("videocall_session_rtt_seconds", &[("session_id", "bad")]));
    // They are acknowledged over, and the log tells of them without a line for each.
    wait::eventually_async(PATIENCE, "all to be acknowledged", async || {
        let (floor, messages) = (health.durable().await.ack_floor.stream_sequence, health.messages().await);
        wait::when((floor, messages), |(floor, messages)| floor == messages)
    })
    .await;
    let logged = callsight.process().output().matches("frame rejected").count();
    assert!((1..bad.len()).contains(&logged), "{}", callsight.process().output());
}

#[tokio::test]
async fn an_encoding_that_is_excluded_is_not_sent() {
    let nats = Nats::start();
    let callsight = ready(&nats).await;
    for (accepted, status, encoding) in [
        ("gzip, identity;q=0", 200, Some("gzip")),
        ("identity;q=0", 406, None),
        ("br, *;q=0", 406, None),
        ("identity", 200, None),
    ] {
        let answer = callsight.get_with("/metrics", &[("accept-encoding", accepted)]).await;
        assert_eq!((answer.status, answer.header("content-encoding")), (status, encoding), "{accepted}");
    }
}
