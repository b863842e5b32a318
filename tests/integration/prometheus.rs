//! The exposition as those read it who have to: promtool, the parsers of PyPI's prometheus_client,
//! and Prometheus.

use std::collections::BTreeMap;
use std::fs;

use callsight_fold::series::catalogue::{CATALOGUE, Kind, Metric, Plane};
use serde_json::Value;

use crate::kit::callsight::{Callsight, REGION};
use crate::kit::frames::{frame, full_frame};
use crate::kit::http::Response;
use crate::kit::nats::Nats;
use crate::kit::process::temporary_directory;
use crate::kit::prometheus::{Prometheus, promtool};
use crate::kit::python;
use crate::kit::stream::Health;
use crate::kit::wait::{self, PATIENCE};

/// What only an exporter that reads mirrors has; `regions::bridge` sees them.
const OF_MIRRORS: [&str; 2] = ["callsight_mirror_lag_frames", "callsight_mirror_lag_seconds"];

/// The metrics that an exporter has which reads a region's own stream.
fn metrics() -> impl Iterator<Item = &'static Metric> {
    let exporters = CATALOGUE.iter().copied().filter(|metric| metric.plane != Plane::Ingest);
    exporters.filter(|metric| !OF_MIRRORS.contains(&metric.name))
}

/// An exporter that has something to tell of every metric, and its page in one of the formats.
async fn full_page(accept: &str) -> Response {
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let mut callsight = Callsight::serve(&nats, &["--create", "--max-sessions-per-meeting=1"]);
    callsight.ready().await;
    for seq in 1..=2 {
        health.publish(&full_frame("s1", seq, &["bo"])).await;
    }
    // Beyond the budget, repeated, rejected, and ended: what is only counted when it happens.
    health.publish(&frame("s2", 1, &["bo"])).await;
    health.publish_as("again", &frame("s2", 1, &["bo"])).await;
    health.publish_bytes(&format!("health.diagnostics.{REGION}.relay.relay-1"), vec![0xc1]).await;
    health.publish(&callsight_frame::Frame { ended: Some(true), ..frame("s2", 2, &[]) }).await;
    callsight
        .metrics_when(PATIENCE, "every metric", |scrape| {
            let is_there = |name: &str, kind: Kind| match kind {
                Kind::Histogram(_) => scrape.any(&format!("{name}_count"), &[]),
                _ => scrape.any(name, &[]),
            };
            let missing: Vec<_> = metrics()
                .filter(|metric| !is_there(metric.name, metric.kind))
                .map(|metric| metric.name)
                .collect();
            wait::when(missing, Vec::is_empty)
        })
        .await;
    callsight.get_with("/metrics", &[("accept", accept)]).await
}

#[tokio::test]
async fn promtool_finds_no_fault() {
    let page = full_page("text/plain").await;
    let checked = promtool(&["check", "metrics"], page.text());
    let said = [checked.stdout, checked.stderr].concat();
    assert!(checked.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

/// Prints the families that a parser of prometheus_client finds in a file: name, type, help.
const PARSE: &str = "
import importlib, json, sys
parser = importlib.import_module(sys.argv[1])
with open(sys.argv[2], encoding='utf-8', newline='') as page:
    families = list(parser.text_string_to_metric_families(page.read()))
print(json.dumps({f.name: [f.type, f.documentation, len(f.samples)] for f in families}))
";

/// What the parser finds, and that it finds every metric of the catalogue as it was declared.
async fn assert_parsed(parser: &str, accept: &str) {
    let page = full_page(accept).await;
    let directory = temporary_directory();
    let file = directory.path().join("page");
    fs::write(&file, &page.body).unwrap();
    let output = python::run(&["-", parser, file.to_str().unwrap()], PARSE);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let families: BTreeMap<String, (String, String, usize)> = serde_json::from_slice(&output.stdout).unwrap();
    for metric in metrics() {
        // Both parsers name the family of a counter without its suffix.
        let name = metric.name.strip_suffix("_total").unwrap_or(metric.name);
        let (kind, help, samples) =
            families.get(name).unwrap_or_else(|| panic!("no {name} in {families:#?}"));
        assert_eq!((kind.as_str(), help.as_str()), (metric.kind.name(), metric.help), "{name}");
        assert!(*samples > 0, "{name}");
    }
}

#[tokio::test]
async fn the_parser_of_the_text_format_reads_every_metric() {
    assert_parsed("prometheus_client.parser", "text/plain").await;
}

#[tokio::test]
async fn the_parser_of_openmetrics_reads_every_metric() {
    assert_parsed("prometheus_client.openmetrics.parser", "application/openmetrics-text").await;
}

/// The buckets of round trips, and the ends of them all.
fn rtt_edges() -> Vec<f64> {
    let metric = CATALOGUE.iter().find(|metric| metric.name == "videocall_rtt_seconds").unwrap();
    let Kind::Histogram(bounds) = metric.kind else { panic!("{metric:?}") };
    [0.0].into_iter().chain(bounds.iter().copied()).chain([f64::INFINITY]).collect()
}

/// The values of a query by the label `region`.
async fn by_region(prometheus: &Prometheus, query: &str) -> BTreeMap<String, f64> {
    let result = prometheus.query(query).await;
    let value = |series: &Value| -> f64 { series["value"][1].as_str().unwrap().parse().unwrap() };
    let region = |series: &Value| series["metric"]["region"].as_str().unwrap().to_owned();
    result.as_array().unwrap().iter().map(|series| (region(series), value(series))).collect()
}

#[tokio::test]
async fn prometheus_answers_how_calls_are_by_region() {
    let nats = Nats::start();
    let url = nats.url();
    let mut callsight = Callsight::serve(&nats, &["--create", "--region=us,apac"]);
    callsight.ready().await;
    let prometheus = Prometheus::start(&[&callsight.target()]);
    let mut clients = Callsight::spawn(&[
        "simulate",
        "--nats-url",
        &url,
        "--region=us,apac",
        "--sessions=60",
        "--interval=500ms",
    ]);

    let both =
        |values: &BTreeMap<String, f64>| values.len() == 2 && values.values().all(|value| value.is_finite());
    let ask = async |query: &str| {
        wait::eventually_async(PATIENCE, query, async || {
            wait::when(by_region(&prometheus, query).await, both)
        })
        .await
    };
    // A histogram tells no more than the bucket, and the scrapes missed some of what it has
    // counted: so it is held against the buckets in which the sessions' own values lie, over the
    // same time.
    let p95 =
        ask("histogram_quantile(0.95, sum by (le, region) (rate(videocall_rtt_seconds_bucket[1m])))").await;
    let low = ask("quantile by (region) (0.85, min_over_time(videocall_session_rtt_seconds[1m]))").await;
    let high = ask("max by (region) (max_over_time(videocall_session_rtt_seconds[1m]))").await;
    let edges = rtt_edges();
    for (region, p95) in &p95 {
        let (low, high) = (low[region], high[region]);
        let from = edges.iter().rfind(|edge| **edge <= low).unwrap();
        let to = edges.iter().find(|edge| **edge >= high).unwrap();
        assert!(
            low > 0.0 && from <= p95 && p95 <= to,
            "{region}: {p95} is not in {from}..={to} ({low}..={high})"
        );
    }
    let sessions = ask("sum by (region) (videocall_sessions)").await;
    assert!(sessions.values().all(|sessions| *sessions > 10.0), "{sessions:?}");

    // All leave, and with the next scrape Prometheus knows it: the series are stale, not left
    // standing for five minutes. What was, it still knows.
    let asked = prometheus.value("count(videocall_session_rtt_seconds)").await;
    assert!(asked.is_some_and(|sessions| sessions > 20.0), "{asked:?}");
    assert!(clients.terminate(PATIENCE).success(), "{}", clients.output());
    wait::eventually_async(PATIENCE, "the sessions to be stale", async || {
        wait::when(prometheus.value("count(videocall_session_rtt_seconds)").await, Option::is_none)
    })
    .await;
    let was = prometheus.value("count(last_over_time(videocall_session_rtt_seconds[5m]))").await;
    assert!(was.is_some_and(|sessions| sessions > 20.0), "{was:?}");
    assert_eq!(prometheus.value("sum(videocall_sessions)").await, Some(0.0));
}
