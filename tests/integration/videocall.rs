//! videocall.rs as it is: beside its relays there are only `streams apply` and `serve`.
//!
//! The test plays the relays with packets of videocall.rs's own crate: published over core NATS to
//! their subjects every five seconds, without a message id, an acknowledgement or a last packet.
//! What follows is as with frames: series that live and die with their calls, an alert within the
//! promised time, a replay and its report.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::Client;
use callsight_frame::hidden_identifier_of;
use protobuf::{Message, MessageField};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};
use videocall_types::protos::health_packet::{
    HealthPacket, NetEqNetwork, NetEqOperationCounters, NetEqStats, PeerStats, VideoStats,
};

use crate::kit::callsight::{Callsight, REGION};
use crate::kit::nats::Nats;
use crate::kit::process::temporary_directory;
use crate::kit::prometheus::Prometheus;
use crate::kit::stream::Health;
use crate::kit::wait::{self, PATIENCE};
use crate::replay::{by_second, figures, moment, replayed};

/// What each client waits between two packets.
const INTERVAL: Duration = Duration::from_secs(5);

/// The relays, by kind of service and name.
const RELAYS: [(&str, &str); 2] = [("webtransport", "wt-1"), ("websocket", "ws-1")];

/// The people, in meetings of four.
const PEOPLE: u32 = 12;
const MEETING: u32 = 4;

/// The promise of docs/performance.md, and how much longer is waited.
const WITHIN: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(15);

/// How the calls go.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Calls {
    Well,
    /// Long round trips, and a third of the audio is concealed.
    Bad,
    Over,
}

fn user(number: u32) -> String {
    format!("user-{number}@example.com")
}

fn session(number: u32) -> String {
    (9_219_282_349_087_361_000 + u64::from(number)).to_string()
}

/// What somebody's client reports now.
fn packet(number: u32, calls: Calls) -> HealthPacket {
    let meeting = number / MEETING;
    let others = (meeting * MEETING..(meeting + 1) * MEETING).filter(|other| *other != number);
    let (rtt_ms, expand) = if calls == Calls::Bad { (450.0, 33.0) } else { (40.0, 0.5) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    HealthPacket {
        session_id: session(number),
        meeting_id: format!("standup-{meeting}"),
        reporting_user_id: user(number).into_bytes(),
        timestamp_ms: u64::try_from(now.as_millis()).unwrap(),
        reporting_audio_enabled: true,
        peer_stats: others.map(|other| (user(other), stats(expand))).collect(),
        active_server_type: relay(number).0.into(),
        active_server_rtt_ms: rtt_ms,
        ..HealthPacket::default()
    }
}

fn stats(expand_per_sec: f64) -> PeerStats {
    let operation_counters = MessageField::some(NetEqOperationCounters {
        normal_per_sec: 100.0 - expand_per_sec,
        expand_per_sec,
        ..NetEqOperationCounters::default()
    });
    PeerStats {
        can_listen: true,
        can_see: true,
        audio_enabled: true,
        video_enabled: true,
        neteq_stats: MessageField::some(NetEqStats {
            current_buffer_size_ms: 62.0,
            packets_awaiting_decode: 3.0,
            packets_per_sec: 50.0,
            network: MessageField::some(NetEqNetwork { operation_counters, ..NetEqNetwork::default() }),
            ..NetEqStats::default()
        }),
        video_stats: MessageField::some(VideoStats {
            fps_received: 29.5,
            bitrate_kbps: 1_200,
            ..VideoStats::default()
        }),
        ..PeerStats::default()
    }
}

fn relay(number: u32) -> (&'static str, &'static str) {
    RELAYS[number as usize % RELAYS.len()]
}

async fn publish(client: &Client, number: u32, packet: &HealthPacket) {
    let (service_type, server_id) = relay(number);
    let subject = format!("health.diagnostics.{REGION}.{service_type}.{server_id}");
    client.publish(subject, packet.write_to_bytes().unwrap().into()).await.unwrap();
}

/// Publishes everybody's packets, evenly over the interval, until the calls are over. Returns how
/// many they were.
fn play(client: Client, calls: watch::Receiver<Calls>) -> JoinHandle<u64> {
    tokio::spawn(async move {
        let mut pace = interval(INTERVAL / PEOPLE);
        let mut published = 0;
        for number in (0..PEOPLE).cycle() {
            pace.tick().await;
            let calls = *calls.borrow();
            if calls == Calls::Over {
                break;
            }
            publish(&client, number, &packet(number, calls)).await;
            published += 1;
        }
        client.flush().await.unwrap();
        published
    })
}

async fn fires(prometheus: &Prometheus, alert: &str, within: Duration) {
    let asked = format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\",region=\"{REGION}\"}}");
    wait::eventually_async(within, &format!("{alert} to fire"), async || {
        wait::when(prometheus.value(&asked).await, |value| *value == Some(1.0))
    })
    .await;
}

/// Replays the calls, and compares series and report with what the packets said.
fn check_replay(nats: &Nats, from: OffsetDateTime, to: OffsetDateTime) {
    let folder = temporary_directory();
    let report = folder.path().join("report.html");
    let (from, to) = (moment(from), moment(to));
    let window = ["--region", REGION, "--from", &from, "--to", &to, "--step=5s"];
    let outputs = ["--openmetrics=-", "--report", report.to_str().unwrap()];
    let samples = by_second(&replayed(&nats.url(), &[&window[..], &outputs].concat()));
    let own = [("session_id", session(0))];
    let own = own.each_ref().map(|(label, value)| (*label, value.as_str()));
    let trips: Vec<_> =
        samples.values().filter_map(|page| page.value("videocall_session_rtt_seconds", &own)).collect();
    assert!(trips.contains(&0.04) && trips.contains(&0.45), "{trips:?}");
    let expanded = [("region", REGION), ("operation", "expand")];
    let last = samples.values().next_back().unwrap();
    assert!(last.sum("videocall_neteq_operations_total", &expanded) > 1_000.0);

    let figures = figures(&std::fs::read_to_string(report).unwrap());
    let steps = figures["all"]["steps"].as_array().unwrap();
    let at_worst =
        |step: &&serde_json::Value| step["sessions"] == PEOPLE && step["sessions_degraded"]["rtt"] == PEOPLE;
    assert!(steps.iter().find(at_worst).is_some(), "{steps:?}");
}

#[tokio::test]
async fn an_unchanged_service_has_series_alerts_and_reports() {
    let nats = Nats::start();
    let url = nats.url();
    let applied =
        Callsight::run(&["streams", "apply", "--region", REGION, "--replicas=1", "--nats-url", &url]);
    assert!(applied.status.success(), "{applied:?}");
    let mut callsight = Callsight::serve(&nats, &[]);
    callsight.ready().await;
    let prometheus = Prometheus::start_shipped(&callsight.target());

    let (calls, watched) = watch::channel(Calls::Well);
    let from = OffsetDateTime::now_utc();
    let client = nats.client().await;
    let playing = play(client.clone(), watched);
    let (ana, bo) = (hidden_identifier_of(user(0)), hidden_identifier_of(user(1)));
    let meeting = ("meeting_id", "standup-0");
    let id = session(0);
    let own = [meeting, ("session_id", id.as_str()), ("peer_id", ana.as_str())];
    let server = [("region", REGION), ("server_url", "relay://wt-1"), ("server_type", "webtransport")];
    let pair = [meeting, ("session_id", id.as_str()), ("peer_id", bo.as_str())];
    let normal = [("operation", "normal")];
    callsight
        .metrics_when(PATIENCE, "session, pair and aggregates", |page| {
            let rtt = page.value("videocall_session_rtt_seconds", &[&own[..], &server].concat());
            let hears = page.value("videocall_pair_can_listen", &pair);
            let buffer = page.value("videocall_pair_audio_buffer_seconds", &pair);
            let of_pair = page.value("videocall_pair_neteq_operations_total", &[&pair[..], &normal].concat());
            let of_server = page.sum("videocall_neteq_operations_total", &[&server[..], &normal].concat());
            let sessions = page.sum("videocall_sessions", &[]);
            let seen = (rtt, hears, buffer, of_pair, of_server, sessions);
            let good = (rtt, hears, buffer) == (Some(0.04), Some(1.0), Some(0.062))
                // Two intervals, of this pair and of eighteen.
                && of_pair >= Some(900.0)
                && of_server >= 15_000.0
                && sessions == f64::from(PEOPLE);
            if good { Ok(()) } else { Err(seen) }
        })
        .await;
    let page = callsight.get("/metrics").await;
    assert!(!page.text().contains("example.com"), "nobody's address is on the page");

    calls.send_replace(Calls::Bad);
    let since = Instant::now();
    fires(&prometheus, "CallRttDegraded", WITHIN + GRACE).await;
    let rtt_fired = since.elapsed();
    fires(&prometheus, "CallAudioDegraded", (WITHIN + GRACE).saturating_sub(since.elapsed())).await;
    let audio_fired = since.elapsed();
    #[expect(clippy::print_stdout, reason = "how far it is from the promise")]
    {
        println!("firing after {rtt_fired:.1?} by round trips, {audio_fired:.1?} by audio");
    }
    assert!(rtt_fired.max(audio_fired) <= WITHIN, "{rtt_fired:?}, {audio_fired:?}");

    calls.send_replace(Calls::Over);
    let published = playing.await.unwrap();
    callsight
        .metrics_when(2 * PATIENCE, "the calls to be gone", |page| {
            let of_calls =
                |name: &&str| name.starts_with("videocall_session_") || name.starts_with("videocall_pair_");
            let left: Vec<_> = page.names().into_iter().filter(of_calls).map(str::to_owned).collect();
            let live = page.sum("videocall_sessions", &[]);
            if left.is_empty() && live == 0.0 { Ok(()) } else { Err((left, live)) }
        })
        .await;

    // Nothing tells the stream that a packet is there twice; the exporter sees it.
    let last = packet(0, Calls::Well);
    publish(&client, 0, &last).await;
    publish(&client, 0, &last).await;
    let counts = callsight
        .metrics_when(PATIENCE, "the repeated packet", |page| {
            let count = |what| page.sum(&format!("callsight_frames_{what}_total"), &[("region", REGION)]);
            let counts = ["folded", "repeated", "rejected", "refused", "missed"].map(count);
            if counts[1] > 0.0 { Ok(counts) } else { Err(counts) }
        })
        .await;
    assert_eq!(counts, [f64::from(u32::try_from(published).unwrap()) + 1.0, 1.0, 0.0, 0.0, 0.0]);
    assert_eq!(Health::at(&nats).await.messages().await, published + 2, "all are in the stream");
    let mut letters = nats.jetstream().await.get_stream("HEALTH_US_DLQ").await.unwrap();
    assert_eq!(letters.info().await.unwrap().state.messages, 0);

    check_replay(&nats, from, OffsetDateTime::now_utc());
}
