//! The tools themselves do what the other tests take for granted.

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use async_nats::jetstream::stream;

use crate::kit::callsight::{Callsight, REGION};
use crate::kit::nats::Nats;
use crate::kit::process::temporary_directory;
use crate::kit::prometheus::{Prometheus, promtool};
use crate::kit::scrape::Scrape;
use crate::kit::{http, python, wait};

const STREAM: &str = "KIT";

/// Stores one message and returns how many the stream then holds.
async fn publish(nats: &Nats) -> u64 {
    let jetstream = nats.jetstream().await;
    let config = stream::Config {
        name: STREAM.to_owned(),
        subjects: vec!["kit.>".to_owned()],
        ..stream::Config::default()
    };
    let mut stream = jetstream.get_or_create_stream(config).await.unwrap();
    jetstream.publish("kit.test", "payload".into()).await.unwrap().await.unwrap();
    stream.info().await.unwrap().state.messages
}

async fn stored(nats: &Nats) -> u64 {
    let mut stream = nats.jetstream().await.get_stream(STREAM).await.unwrap();
    stream.info().await.unwrap().state.messages
}

#[tokio::test]
async fn nats_keeps_a_stream_over_restarts_on_the_same_url() {
    let mut nats = Nats::start();
    let url = nats.url();
    assert_eq!(publish(&nats).await, 1);

    nats.restart();
    assert_eq!(stored(&nats).await, 1);

    nats.kill9();
    nats.restart();
    assert_eq!(stored(&nats).await, 1);
    assert_eq!(nats.url(), url);
    assert!(nats.process().output().contains("Server is ready"), "{}", nats.process().output());
}

#[tokio::test]
async fn a_stopped_nats_answers_once_it_goes_on() {
    let nats = Nats::start();
    publish(&nats).await;
    let jetstream = nats.jetstream().await;
    nats.stop();
    tokio::time::timeout(Duration::from_millis(200), jetstream.get_stream(STREAM)).await.unwrap_err();
    nats.cont();
    wait::eventually_async(wait::PATIENCE, "an answer", async || jetstream.get_stream(STREAM).await).await;
}

#[test]
fn a_killed_nats_leaves_nothing_running() {
    let nats = Nats::start();
    let (entry, address) = (format!("/proc/{}", nats.process().id()), nats.url().replace("nats://", ""));
    assert!(Path::new(&entry).exists());
    TcpStream::connect(&address).unwrap();
    drop(nats);
    assert!(!Path::new(&entry).exists());
    TcpStream::connect(&address).unwrap_err();
}

#[tokio::test]
async fn two_servers_run_side_by_side() {
    let (first, second) = (Nats::start(), Nats::start());
    assert_eq!(publish(&first).await, 1);
    assert!(second.jetstream().await.get_stream(STREAM).await.is_err());
}

#[tokio::test]
async fn prometheus_scrapes_and_answers() {
    let target = Prometheus::start(&[]);
    let prometheus = Prometheus::start(&[&target.target()]);
    let up = wait::eventually_async(wait::PATIENCE, "the first scrape", async || {
        prometheus.value("up").await.ok_or("no series")
    })
    .await;
    assert_eq!(up, 1.0);
    assert_eq!(prometheus.query("vector(7)").await[0]["value"][1], "7");
    assert_eq!(prometheus.value("absent_metric").await, None);
}

#[tokio::test]
async fn reads_the_exposition_of_a_real_server() {
    let prometheus = Prometheus::start(&[]);
    let response = http::get(&format!("{}/metrics", prometheus.url()), &[]).await.unwrap();
    assert_eq!(response.status, 200);
    assert!(response.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let scrape = Scrape::parse(response.text());
    assert!(scrape.sum("prometheus_build_info", &[]) > 0.0);
    let missing = http::get(&format!("{}/nothing/here", prometheus.url()), &[]).await.unwrap();
    assert_eq!(missing.status, 404);
}

#[test]
fn promtool_tells_good_metrics_from_bad() {
    let good = promtool(&["check", "metrics"], "# HELP a_total A.\n# TYPE a_total counter\na_total 1\n");
    assert!(good.status.success(), "{good:?}");
    let bad = promtool(&["check", "metrics"], "# TYPE a counter\na 1\n");
    assert!(!bad.status.success(), "{bad:?}");
}

#[test]
fn python_has_what_a_client_needs() {
    let output = python::run(&["-"], "import msgpack, nats, prometheus_client\nprint('ready')\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ready\n", "{output:?}");
}

#[tokio::test]
async fn callsight_keeps_its_address_over_restarts() {
    let nats = Nats::start();
    let mut callsight = Callsight::serve(&nats, &["--create"]);
    callsight.ready().await;
    let (url, first) = (callsight.url(), callsight.process().id());
    assert_eq!(callsight.metrics().await.value("callsight_build_info", &[]), Some(1.0));

    callsight.restart();
    callsight.ready().await;
    callsight.kill9();
    callsight.restart();
    callsight.ready().await;
    assert_eq!(callsight.url(), url);
    assert_ne!(callsight.process().id(), first);
    assert!(callsight.terminate().success(), "{}", callsight.process().output());
}

#[tokio::test]
async fn prometheus_scrapes_callsight() {
    let nats = Nats::start();
    let mut callsight = Callsight::serve(&nats, &["--create"]);
    callsight.ready().await;
    let prometheus = Prometheus::start(&[&callsight.target()]);
    wait::eventually_async(wait::PATIENCE, "a scrape", async || {
        wait::when(prometheus.value("up").await, |up| *up == Some(1.0))
    })
    .await;
    callsight
        .metrics_when(wait::PATIENCE, "the scrape to be counted", |scrape| {
            wait::when(scrape.sum("callsight_scrape_duration_seconds_count", &[]), |&scrapes| scrapes > 0.0)
        })
        .await;
    let openmetrics = callsight.get_with("/metrics", &[("accept", "application/openmetrics-text")]).await;
    assert!(openmetrics.text().ends_with("# EOF\n"));
}

#[test]
fn callsight_runs_to_its_end_or_until_told() {
    let version = Callsight::run(&["--version"]);
    assert!(version.status.success(), "{version:?}");
    let wrong = Callsight::run_with_input(&["frame", "check"], "no frame");
    assert!(!wrong.status.success(), "{wrong:?}");

    let mut waiting = Callsight::spawn(&["serve", "--region", REGION, "--nats-url", "nats://127.0.0.1:1"]);
    waiting.terminate(wait::PATIENCE);
}

/// A benchmark that is a whole program, as `benches/compare.py` runs it.
fn whole_program(folder: &Path, name: &str, prints: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\ncat <<'END'\n{prints}END\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[test]
fn whole_programs_are_compared_by_the_figures_that_they_print() {
    let folder = temporary_directory();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/compare.py");
    let compare = |pairs: &[String]| {
        let arguments =
            [&[script.to_str().unwrap(), "6"], &*pairs.iter().map(String::as_str).collect::<Vec<_>>()];
        let output = python::run(&arguments.concat(), "");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let old = whole_program(folder.path(), "old", "round 1: 80000 frames/s at 5.0 µs\nmedian ratio 0.80\n");
    let new = whole_program(folder.path(), "new", "round 1: 60000 frames/s at 5.0 µs\nmedian ratio 0.60\n");
    let text = compare(&[format!("end_to_end={old}:{new}"), format!("live={old}:{new}")]);
    for line in [
        "end_to_end: new figure / old figure, median of 2 (middle half of them)",
        "  round 1: 60000 frames/s at 5.0 µs",
        "    60000        0.75 (0.75 to 0.75)",
        "    5            1.00 (1.00 to 1.00)",
        "  median ratio 0.60",
        "    0.6          0.75 (0.75 to 0.75)",
        "live: not compared: both builds would run the same target/release/callsight",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
    }
    let silent = whole_program(folder.path(), "silent", "");
    assert!(compare(&[format!("replay={old}:{silent}")]).contains("not compared: it prints no figures"));
}
