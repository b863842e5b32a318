//! What strangers can spend, and what they can't.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::{SECRET, claims, raw, send, token, told};
use super::{Way, frame_of};
use crate::kit::callsight::Callsight;
use crate::kit::frames::SERVER_URL;
use crate::kit::jwt::hs256;
use crate::kit::nats::Nats;
use crate::kit::stream::Health;
use crate::kit::wait::{self, PATIENCE};

/// The deadline for heads and bodies, and some slack for a busy machine.
const DEADLINE: Duration = Duration::from_secs(10);
const SLACK: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_participant_who_sends_too_fast_waits_and_others_do_not() {
    let nats = Nats::start();
    let _health = Health::create(&nats).await;
    let mut way = Way::start(&nats.url(), &["--rate-participant=1"]);
    way.ready().await;
    let ana = token("ana");
    let mut refused = None;
    // Ten at once are one second's over ten; a few more come while it is tried.
    for seq in 1..=100 {
        let answer = way.post(&ana, &frame_of("ana:1", seq, &[])).await;
        if answer.status == 429 {
            refused = Some((seq, answer));
            break;
        }
        assert_eq!(answer.status, 204, "frame {seq}");
    }
    let (seq, answer) = refused.expect("a hundred frames are too many");
    assert!(seq > 10, "{seq}");
    assert_eq!(told(&answer).1.as_deref(), Some("participant"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(way.post(&token("bo"), &frame_of("bo:1", 1, &[])).await.status, 204);
    // A new session is the same participant, and so is the same one in another meeting not.
    let retro = hs256(SECRET.as_bytes(), &claims("ana", &json!({"meeting_id": "retro"})));
    let other = callsight_frame::Frame {
        meeting_id: callsight_frame::MeetingId::new("retro").unwrap(),
        ..frame_of("ana:9", 1, &[])
    };
    assert_eq!(way.post(&retro, &other).await.status, 204);
    wait::eventually_async(PATIENCE, "the next frame to be taken", async || {
        let answer = way.post(&ana, &frame_of("ana:2", 1, &[])).await;
        wait::when(answer.status, |status| *status == 204)
    })
    .await;
    let limited = way.metrics().await.value("callsight_ingest_rate_limited_total", &[("by", "participant")]);
    assert!(limited >= Some(1.0), "{limited:?}");
}

#[tokio::test]
async fn an_address_that_sends_too_fast_waits_before_its_token_is_looked_at() {
    let nats = Nats::start();
    let _health = Health::create(&nats).await;
    let mut way = Way::start(&nats.url(), &["--rate-address=1", "--trusted-proxy", "127.0.0.0/8"]);
    way.ready().await;
    let frame = frame_of("ana:1", 1, &[]);
    let from = async |address: &str, token: &str| {
        way.post_with(token, &frame, &[("X-Forwarded-For", address)]).await.unwrap()
    };
    let mut refused = None;
    for _ in 0..100 {
        let answer = from("198.51.100.7, 127.0.0.9", "guessed").await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
        assert_eq!(answer.status, 401);
    }
    let refused = refused.expect("a hundred guesses are too many");
    assert_eq!(told(&refused).1.as_deref(), Some("address"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    // What the client writes in front of its own address changes nothing.
    assert_eq!(from("203.0.113.1, 198.51.100.7", "guessed").await.status, 429);
    assert_eq!(from("198.51.100.8", &token("ana")).await.status, 204);

    // Without a trusted proxy, the header is nobody's address.
    let mut own = Way::start(&nats.url(), &["--rate-address=1"]);
    own.ready().await;
    let mut statuses = Vec::new();
    for number in 0..30 {
        let address = format!("198.51.100.{number}");
        let header = ("X-Forwarded-For", address.as_str());
        statuses.push(own.post_with("guessed", &frame, &[header]).await.unwrap().status);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
}

/// A body that comes a byte a second holds a connection for ten seconds, and then no longer.
#[tokio::test]
async fn slow_senders_are_given_up_and_nobody_waits_for_them() {
    let nats = Nats::start();
    let _health = Health::create(&nats).await;
    let mut way = Way::start(&nats.url(), &[]);
    way.ready().await;
    let head = format!(
        "POST /v1/frames HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\
         Authorization: Bearer {}\r\n\r\n{{",
        token("slow")
    );
    let began = Instant::now();
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(way.target()).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    // And some that never finish their heads.
    let mut silent = TcpStream::connect(way.target()).await.unwrap();
    silent.write_all(b"POST /v1/frames HTTP/1.1\r\nHost:").await.unwrap();
    assert_eq!(way.post(&token("ana"), &frame_of("ana:1", 1, &[])).await.status, 204);
    let mut incomplete = 0;
    for stream in &mut slow {
        let mut answer = String::new();
        timeout(DEADLINE + SLACK, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        // The first twenty are within the participant's rate.
        let limited = answer.starts_with("HTTP/1.1 429") && answer.contains("participant");
        assert!(limited || answer.contains("\"reason\":\"incomplete\""), "{answer}");
        incomplete += u32::from(!limited);
    }
    assert!(incomplete >= 20, "{incomplete}");
    assert!(began.elapsed() >= DEADLINE, "they were given their time");
    let mut rest = Vec::new();
    let _ = timeout(DEADLINE + SLACK, silent.read_to_end(&mut rest)).await.expect("it is closed");
}

#[tokio::test]
async fn a_crowd_of_connections_keeps_no_client_out() {
    let nats = Nats::start();
    let _health = Health::create(&nats).await;
    let mut way = Way::start(&nats.url(), &["--max-connections=32"]);
    way.ready().await;
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(TcpStream::connect(way.target()).await.unwrap());
    }
    assert_eq!(way.post(&token("ana"), &frame_of("ana:1", 1, &[])).await.status, 204);
    assert!(way.process.descriptors() < 100, "{}", way.process.descriptors());
}

#[tokio::test]
async fn heads_have_a_limit() {
    let nats = Nats::start();
    let mut way = Way::start(&nats.url(), &[]);
    way.readiness(503).await;
    let long = "a".repeat(20_000);
    let answer = send(&way.target(), "POST", "/v1/frames", &[("X-Long", &long)], b"").await.unwrap();
    assert_eq!(answer.status, 431);
    for nonsense in
        [&b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"[..], b"POST\r\n\r\n", b"\r\n\r\n\r\n\r\nx\r\n\r\n"]
    {
        let answer = raw(&way.target(), nonsense).await;
        assert!(answer.as_ref().is_ok_and(|answer| answer.status == 400), "{answer:?}");
    }
}

/// Its request is forgotten, and its frame is stored nevertheless.
#[tokio::test]
async fn a_client_that_hangs_up_leaves_nothing_behind() {
    let nats = Nats::start();
    let mut way = Way::start(&nats.url(), &["--ack-timeout=1m"]);
    way.readiness(503).await;
    let body = callsight_frame::Frame::encode(&frame_of("ana:1", 1, &[]), callsight_frame::Form::Compact);
    let head = format!(
        "POST /v1/frames HTTP/1.1\r\nHost: x\r\nContent-Type: application/msgpack\r\nContent-Length: {}\r\n\
         Authorization: Bearer {}\r\n\r\n",
        body.len(),
        token("ana")
    );
    let mut stream = TcpStream::connect(way.target()).await.unwrap();
    stream.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
    let in_flight = async |expected: f64| {
        wait::eventually_async(PATIENCE, &format!("{expected} requests in flight"), async || {
            let seen = way.metrics().await.value("callsight_ingest_requests_in_flight", &[]);
            wait::when(seen, |seen| *seen == Some(expected))
        })
        .await
    };
    in_flight(1.0).await;
    drop(stream);
    in_flight(0.0).await;
    let abandoned = way.metrics().await.sum("callsight_ingest_frames_total", &[("outcome", "abandoned")]);
    assert_eq!(abandoned, 1.0);
    let health = Health::create(&nats).await;
    wait::eventually_async(PATIENCE, "the frame to be stored", async || {
        wait::when(health.messages().await, |messages| *messages == 1)
    })
    .await;
    way.ready().await;
}

#[tokio::test]
async fn strangers_servers_take_one_place_of_the_exporters_budget() {
    let nats = Nats::start();
    let mut callsight = Callsight::serve(&nats, &["--create", "--max-server-urls=2"]);
    callsight.ready().await;
    let flags = ["--server-pattern", "*.example", "--rate-participant=1000"];
    let mut way = Way::start(&nats.url(), &flags);
    way.ready().await;
    let sessions: Vec<_> = (0..20).map(|number| format!("eve:{number}")).collect();
    for (number, session) in sessions.iter().enumerate() {
        let url = format!("https://invented-{number}.test");
        let mut frame = frame_of(session, 1, &[]);
        frame.server.as_mut().unwrap().url = callsight_frame::ServerUrl::new(&url).unwrap();
        assert_eq!(way.post(&token("eve"), &frame).await.status, 204);
    }
    assert_eq!(way.post(&token("ana"), &frame_of("ana:1", 1, &[])).await.status, 204);
    callsight
        .metrics_when(PATIENCE, "all sessions", |scrape| {
            wait::when(scrape.sum("videocall_sessions", &[]), |sessions| *sessions == 21.0).map(drop)
        })
        .await;
    let scrape = callsight.metrics().await;
    let on = |url: &str| scrape.value("videocall_sessions", &[("server_url", url)]);
    assert_eq!(on(SERVER_URL), Some(1.0), "the real server has its own series");
    assert_eq!(on("https://other.invalid"), Some(20.0));
}
