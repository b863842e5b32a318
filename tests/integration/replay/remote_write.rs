//! Samples that a real Prometheus takes.

use std::collections::BTreeMap;
use std::fs;

use callsight_frame::Frame;
use serde_json::Value;
use time::OffsetDateTime;

use super::{by_second, moment, prometheus, replay, replayed, until_the_next_step};
use crate::kit::callsight::Callsight;
use crate::kit::frames::frame;
use crate::kit::nats::Nats;
use crate::kit::port;
use crate::kit::process::temporary_directory;
use crate::kit::prometheus::Prometheus;
use crate::kit::proxy::Proxy;
use crate::kit::stream::Health;
use crate::kit::wait::{self, PATIENCE};

/// A server with a stream in which one of two sessions ends, with whole seconds between; and when
/// that began.
async fn a_stream() -> (Nats, Health, OffsetDateTime) {
    let begin = OffsetDateTime::now_utc();
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    health.publish(&frame("stays", 1, &["bo", "cy"])).await;
    health.publish(&frame("ends", 1, &["bo"])).await;
    until_the_next_step().await;
    health.publish(&frame("stays", 2, &["bo"])).await;
    health.publish(&Frame { ended: Some(true), ..frame("ends", 2, &["bo"]) }).await;
    until_the_next_step().await;
    (nats, health, begin)
}

type Samples = BTreeMap<(String, i64), f64>;

/// All samples with a replay's label, by series and second.
async fn stored(prometheus: &Prometheus, id: &str) -> Samples {
    let result = prometheus.query(&format!("{{replay=\"{id}\"}}[2h]")).await;
    let mut samples = Samples::new();
    for series in result.as_array().unwrap() {
        let mut labels: BTreeMap<String, String> = serde_json::from_value(series["metric"].clone()).unwrap();
        let name = labels.remove("__name__").unwrap();
        for sample in series["values"].as_array().unwrap() {
            let (second, value) = (sample[0].as_f64().unwrap(), sample[1].as_str().unwrap());
            #[expect(clippy::cast_possible_truncation, reason = "whole seconds")]
            samples.insert((format!("{name}{labels:?}"), second as i64), value.parse().unwrap());
        }
    }
    samples
}

/// The same, out of a file of OpenMetrics.
fn written(text: &str) -> Samples {
    let mut samples = Samples::new();
    for (second, scrape) in by_second(text) {
        for name in scrape.names() {
            for (labels, value) in scrape.series(name) {
                samples.insert((format!("{name}{labels:?}"), second), value);
            }
        }
    }
    samples
}

#[tokio::test]
async fn prometheus_has_what_was_replayed() {
    let (nats, _health, begin) = a_stream().await;
    let prometheus = prometheus(&[]);
    let end = moment(OffsetDateTime::now_utc());
    let receiver = format!("{}/api/v1/write", prometheus.url());
    let args = ["--from", &moment(begin), "--to", &end, "--step=1s", "--replay-id=it", "--openmetrics=-"];
    let text = replayed(&nats.url(), &[&args[..], &["--remote-write", &receiver]].concat());
    let expected = written(&text);
    assert!(expected.len() > 200, "{}", expected.len());
    assert_eq!(stored(&prometheus, "it").await, expected);

    // A series that ended has a stale marker: it is not shown for five more minutes.
    let last = by_second(&text).into_keys().last().unwrap();
    let at = |query: &'static str, second: i64| {
        let prometheus = &prometheus;
        async move {
            let time = second.to_string();
            let found = prometheus.api("query", &[("query", query), ("time", &time)]).await;
            found["result"].as_array().unwrap().len()
        }
    };
    assert_eq!(at("videocall_session_rtt_seconds{session_id=\"ends\"}", last - 1).await, 1);
    assert_eq!(at("videocall_session_rtt_seconds{session_id=\"ends\"}", last).await, 0);
    assert_eq!(at("videocall_pair_can_listen{session_id=\"stays\"}", last - 1).await, 2);
    assert_eq!(at("videocall_pair_can_listen{session_id=\"stays\"}", last).await, 1);
    // So have all of them when the window is over.
    assert_eq!(at("videocall_sessions", last).await, 1);
    assert_eq!(at("videocall_sessions", last + 1).await, 0);
}

#[tokio::test]
async fn a_refusal_is_shown_with_what_helps() {
    let (nats, health, begin) = a_stream().await;
    let strict = Prometheus::start(&[]);
    let from = moment(begin);
    let send = |url: &str, more: &[&str]| {
        replay(
            &nats.url(),
            &[&["--from", &from, "--step=1s", "--replay-id=it", "--remote-write", url], more].concat(),
        )
    };
    let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();

    let nowhere = send(&format!("{}/nowhere", strict.url()), &[]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(said(&nowhere).contains("--web.enable-remote-write-receiver"), "{}", said(&nowhere));

    // What comes later in time first: the earlier is out of order then.
    let receiver = format!("{}/api/v1/write", strict.url());
    let middle = moment(OffsetDateTime::now_utc());
    health.publish(&frame("stays", 3, &["bo"])).await;
    until_the_next_step().await;
    let args = ["--from", &middle, "--step=1s", "--replay-id=it", "--remote-write", &receiver];
    replayed(&nats.url(), &args);
    let early = send(&receiver, &["--to", &middle]);
    assert_eq!(early.status.code(), Some(1));
    assert!(said(&early).contains("out_of_order_time_window"), "{}", said(&early));

    let away =
        send(&format!("http://127.0.0.1:{}/api/v1/write", port::free()), &["--remote-write-patience=1s"]);
    assert_eq!(away.status.code(), Some(1));
    assert!(said(&away).contains("accepted nothing for 1s"), "{}", said(&away));
}

/// On two threads, because the link has to go on while the test waits for the replay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_interrupted_is_gone_on_with() {
    let (nats, _health, begin) = a_stream().await;
    let prometheus = prometheus(&[]);
    let port = |address: &str| address.rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
    let proxy = Proxy::to(port(&prometheus.target())).await;
    let receiver = format!("http://127.0.0.1:{}/api/v1/write", port(&proxy.url()));
    let folder = temporary_directory();
    let state = folder.path().join("state.json");
    // An hour without frames before, which is sent and remembered in many parts.
    let from = moment(begin - time::Duration::hours(1));
    let end = moment(OffsetDateTime::now_utc());
    let args = |id: &str, to: &str| {
        let id = format!("--replay-id={id}");
        let args = ["--from", &from, "--to", to, "--step=1s", &id, "--remote-write", &receiver];
        let patience = ["--remote-write-patience=2s"];
        args.iter().chain(&patience).map(|&arg| arg.to_owned()).collect::<Vec<_>>()
    };
    let run = |id: &str, to: &str, more: &[&str]| {
        let args = args(id, to);
        replay(&nats.url(), &args.iter().map(String::as_str).chain(more.iter().copied()).collect::<Vec<_>>())
    };
    let with_state = ["--resume", state.to_str().unwrap()];

    let url = nats.url();
    let first = args("it", &end);
    let first = first.iter().map(String::as_str).chain(with_state);
    let mut interrupted =
        Callsight::spawn(&["replay", "--nats-url", &url].into_iter().chain(first).collect::<Vec<_>>());
    wait::eventually(PATIENCE, "something to be taken", || wait::when(state.exists(), |exists| *exists));
    proxy.stall();
    let status = interrupted.ended(PATIENCE);
    let said = interrupted.output();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("samples up to ") && said.contains("rerun with --resume"), "{said}");
    let remembered: Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    assert_eq!(remembered["plan"]["replay"], "it");

    proxy.cut();
    proxy.resume();
    // Another label and another end by now: a resumed replay keeps its own.
    let later = moment(OffsetDateTime::now_utc());
    let resumed = run("other", &later, &with_state);
    assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
    assert!(!state.exists());
    let whole = run("whole", &end, &[]);
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let strip = |samples: Samples, id: &str| {
        let strip =
            |((series, second), value): ((String, i64), f64)| ((series.replace(id, ""), second), value);
        samples.into_iter().map(strip).collect::<Samples>()
    };
    let (it, whole) = (stored(&prometheus, "it").await, stored(&prometheus, "whole").await);
    assert!(it.len() > 200, "{}", it.len());
    assert_eq!(strip(it, "\"it\""), strip(whole, "\"whole\""));
    assert!(stored(&prometheus, "other").await.is_empty());
}
