//! From a call that goes bad to an alert that fires: the promise is 30 seconds, with what ships and
//! default settings.
//!
//! Everything on the way is real: clients that report every 5 s, the stream, the exporter, and a
//! Prometheus with the shipped configuration. One region has long round trips, another loses
//! packets, and others have an uplink, a release or joins that fail, while one is well all the
//! time. A view that is cut off is an alert as well.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use tokio::time::Instant;

use crate::kit::callsight::Callsight;
use crate::kit::nats::Nats;
use crate::kit::process::Process;
use crate::kit::prometheus::Prometheus;
use crate::kit::wait::{self, PATIENCE};

/// The promise.
pub(crate) const WITHIN: Duration = Duration::from_secs(30);

/// When the regions turn bad after the start of the calls, and for how long: longer than the
/// promise, so that a late alert can be distinguished from one that never fires.
const QUIET: Duration = Duration::from_secs(12);
const BAD: Duration = Duration::from_secs(40);

/// How much longer is waited than promised, so that a failure tells by how much.
const GRACE: Duration = Duration::from_secs(15);

/// The name of an alert, and its region.
type Expected = (&'static str, &'static str);

fn simulate(nats: &Nats, regions: &str, scenario: &str, flags: &[&str]) -> Process {
    let (url, quiet, bad) = (nats.url(), QUIET.as_secs(), BAD.as_secs());
    let (quiet, bad) = (format!("--quiet-for={quiet}s"), format!("--bad-for={bad}s"));
    let command = ["simulate", "--nats-url", &url, "--region", regions, "--scenario", scenario, &quiet, &bad];
    Callsight::spawn(&[&command, flags].concat())
}

/// The alerts on calls that fire now, with their regions.
async fn firing(prometheus: &Prometheus) -> Vec<(String, String)> {
    let label = |alert: &Value, name: &str| alert["labels"][name].as_str().unwrap_or_default().to_owned();
    let alerts = alerts(prometheus).await;
    let firing = alerts.iter().map(|alert| (label(alert, "alertname"), label(alert, "region")));
    firing.filter(|(name, _)| name.starts_with("Call")).collect()
}

/// All alerts that fire now.
async fn alerts(prometheus: &Prometheus) -> Vec<Value> {
    let mut alerts = prometheus.api("alerts", &[]).await["alerts"].as_array().unwrap().clone();
    alerts.retain(|alert| alert["state"] == "firing");
    alerts
}

fn is(alert: &(String, String), expected: Expected) -> bool {
    alert.0 == expected.0 && alert.1 == expected.1
}

/// Waits until the alert fires, or doesn't; how long it took since then.
pub(crate) async fn until(
    prometheus: &Prometheus,
    expected: Expected,
    fires: bool,
    since: Instant,
) -> Duration {
    let what = format!("{expected:?} to {}", if fires { "fire" } else { "end" });
    let deadline = since + WITHIN + GRACE - Instant::now();
    wait::eventually_async(deadline, &what, async || {
        wait::when(firing(prometheus).await, |alerts| alerts.iter().any(|alert| is(alert, expected)) == fires)
    })
    .await;
    since.elapsed()
}

/// Simulates the troubles, each in its regions with its flags, and waits for their alerts. Returns
/// the calls, when they recover, and how long each alert took to fire.
async fn detects(
    nats: &Nats,
    prometheus: &Prometheus,
    troubles: &[(&str, &str, &[&str])],
    expected: &[Expected],
) -> (Vec<Process>, Instant, Vec<Duration>) {
    let turns_bad = Instant::now() + QUIET;
    let calls = troubles.iter().map(|(regions, scenario, flags)| simulate(nats, regions, scenario, flags));
    let calls: Vec<_> = calls.collect();
    tokio::time::sleep_until(turns_bad).await;
    assert_eq!(firing(prometheus).await, [], "all was well so far");
    let sessions = prometheus.value("sum(videocall_sessions)").await;
    assert!(sessions.is_some_and(|sessions| sessions > 150.0), "{sessions:?}");
    let fired = expected.iter().map(|expected| until(prometheus, *expected, true, turns_bad));
    let fired = join_all(fired).await;
    (calls, turns_bad + BAD, fired)
}

async fn assert_well(prometheus: &Prometheus, region: &str) {
    let alerts = firing(prometheus).await;
    assert!(alerts.iter().all(|alert| alert.1 != region), "region {region} is well: {alerts:?}");
}

#[expect(clippy::print_stdout, reason = "the figures that docs/performance.md states")]
fn assert_in_time(what: &str, expected: &[Expected], took: &[Duration]) {
    for ((alert, region), took) in expected.iter().zip(took) {
        println!("{alert} in {region}: {what} after {:.1} s", took.as_secs_f64());
    }
    assert!(took.iter().all(|took| *took <= WITHIN), "{took:?}");
}

#[tokio::test]
async fn a_region_that_turns_bad_is_an_alert_within_30_seconds_and_over_as_soon() {
    let (nats, _callsight, prometheus) = shipped("us,apac,eu").await;
    let expected = [("CallRttDegraded", "apac"), ("CallAudioDegraded", "eu")];
    let troubles: [(_, _, &[_]); 2] = [("us,apac", "apac-rtt-spike", &[]), ("eu", "packet-loss", &[])];
    let (_calls, recovers, fired) = detects(&nats, &prometheus, &troubles, &expected).await;
    assert_well(&prometheus, "us").await;
    assert_in_time("firing", &expected, &fired);

    tokio::time::sleep_until(recovers).await;
    let ended = expected.iter().map(|expected| until(&prometheus, *expected, false, recovers));
    let ended = join_all(ended).await;
    assert_well(&prometheus, "us").await;
    assert_in_time("over", &expected, &ended);
}

#[tokio::test]
async fn an_uplink_a_release_and_joins_that_fail_are_alerts_within_30_seconds() {
    let (nats, _callsight, prometheus) = shipped("us,apac,eu,asia").await;
    let expected = [("CallJoinsFail", "us"), ("CallReleaseWorse", "apac"), ("CallUplinkDegraded", "eu")];
    let troubles: [(_, _, &[_]); 4] = [
        ("us", "join", &[]),
        ("apac", "release", &[]),
        // Clients with a NetEQ of their own do not tell what the far end lacks.
        ("eu", "uplink", &["--client=browser"]),
        ("asia", "steady", &["--seed=2"]),
    ];
    let (_calls, _, fired) = detects(&nats, &prometheus, &troubles, &expected).await;
    assert_well(&prometheus, "asia").await;
    assert_in_time("firing", &expected, &fired);
}

/// What ships, with default settings: NATS, an exporter that is ready, and a Prometheus that
/// scrapes it.
async fn shipped(regions: &str) -> (Nats, Callsight, Prometheus) {
    let nats = Nats::start();
    let mut callsight = Callsight::serve(&nats, &["--create", &format!("--region={regions}")]);
    callsight.ready().await;
    let prometheus = Prometheus::start_shipped(&callsight.target());
    wait::eventually_async(PATIENCE, "the first scrape", async || {
        wait::when(prometheus.value("up").await, |up| *up == Some(1.0))
    })
    .await;
    (nats, callsight, prometheus)
}

#[tokio::test]
async fn a_view_that_is_cut_off_is_an_alert_that_says_why() {
    let (nats, _callsight, prometheus) = shipped("us").await;
    let _calls = simulate(&nats, "us", "steady", &[]);
    wait::eventually_async(PATIENCE, "calls", async || {
        wait::when(prometheus.value("sum(videocall_sessions)").await, |sessions| *sessions > Some(50.0))
    })
    .await;
    assert_eq!(firing(&prometheus).await, [], "all was well so far");

    let lost = ("CallsightViewLost", "us");
    let cut = Instant::now();
    nats.stop();
    until(&prometheus, lost, true, cut).await;
    let fired = alerts(&prometheus).await;
    let alert = fired.iter().find(|alert| alert["labels"]["alertname"] == lost.0).unwrap();
    let summary = alert["annotations"]["summary"].as_str().unwrap();
    let (who, why) = summary.split_once(" since ").unwrap();
    assert!(who.ends_with("can't tell for us") && why.ends_with("UTC: NATS does not answer"), "{summary}");
    nats.cont();
    until(&prometheus, lost, false, Instant::now()).await;
    assert_eq!(firing(&prometheus).await, [], "nothing else was the matter");
}
