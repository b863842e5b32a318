//! From a call that goes bad to an alert that fires: the promise is 30 seconds, with what ships and
//! default settings.
//!
//! Everything on the way is real: clients that report every 5 s, the stream, the exporter, and a
//! Prometheus with the shipped configuration. One region has long round trips, another loses
//! packets, and a third is well all the time. A view that is cut off is an alert as well.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::kit::callsight::Callsight;
use crate::kit::nats::Nats;
use crate::kit::process::Process;
use crate::kit::prometheus::Prometheus;
use crate::kit::wait::{self, PATIENCE};

/// The promise.
const WITHIN: Duration = Duration::from_secs(30);

/// When the regions turn bad after the start of the calls, and for how long: longer than the
/// promise, so that a late alert can be distinguished from one that never fires.
const QUIET: Duration = Duration::from_secs(12);
const BAD: Duration = Duration::from_secs(40);

/// How much longer is waited than promised, so that a failure tells by how much.
const GRACE: Duration = Duration::from_secs(15);

/// The alerts that must fire, each with its region.
const EXPECTED: [(&str, &str); 2] = [("CallRttDegraded", "apac"), ("CallAudioDegraded", "eu")];

fn simulate(nats: &Nats, regions: &str, scenario: &str) -> Process {
    let (url, quiet, bad) = (nats.url(), QUIET.as_secs(), BAD.as_secs());
    Callsight::spawn(&[
        "simulate",
        "--nats-url",
        &url,
        "--region",
        regions,
        "--scenario",
        scenario,
        &format!("--quiet-for={quiet}s"),
        &format!("--bad-for={bad}s"),
    ])
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

fn is(alert: &(String, String), expected: (&str, &str)) -> bool {
    alert.0 == expected.0 && alert.1 == expected.1
}

/// Waits until the alert fires, or doesn't; how long it took since then.
async fn until(prometheus: &Prometheus, expected: (&str, &str), fires: bool, since: Instant) -> Duration {
    let what = format!("{expected:?} to {}", if fires { "fire" } else { "end" });
    let deadline = since + WITHIN + GRACE - Instant::now();
    wait::eventually_async(deadline, &what, async || {
        wait::when(firing(prometheus).await, |alerts| alerts.iter().any(|alert| is(alert, expected)) == fires)
    })
    .await;
    since.elapsed()
}

#[tokio::test]
async fn a_region_that_turns_bad_is_an_alert_within_30_seconds_and_over_as_soon() {
    let nats = Nats::start();
    let mut callsight = Callsight::serve(&nats, &["--create", "--region=us,apac,eu"]);
    callsight.ready().await;
    let prometheus = Prometheus::start_shipped(&callsight.target());
    wait::eventually_async(PATIENCE, "the first scrape", async || {
        wait::when(prometheus.value("up").await, |up| *up == Some(1.0))
    })
    .await;

    let turns_bad = Instant::now() + QUIET;
    let _calls = [simulate(&nats, "us,apac", "apac-rtt-spike"), simulate(&nats, "eu", "packet-loss")];
    tokio::time::sleep_until(turns_bad).await;
    assert_eq!(firing(&prometheus).await, [], "all was well so far");
    let sessions = prometheus.value("sum(videocall_sessions)").await;
    assert!(sessions.is_some_and(|sessions| sessions > 150.0), "{sessions:?}");

    let [rtt, audio] = EXPECTED.map(|expected| until(&prometheus, expected, true, turns_bad));
    let fired = tokio::join!(rtt, audio);
    let well = |alerts: &[(String, String)]| alerts.iter().all(|(_, region)| region != "us");
    let alerts = firing(&prometheus).await;
    assert!(well(&alerts), "region us is well: {alerts:?}");

    let recovers = turns_bad + BAD;
    tokio::time::sleep_until(recovers).await;
    let [rtt, audio] = EXPECTED.map(|expected| until(&prometheus, expected, false, recovers));
    let ended = tokio::join!(rtt, audio);
    let alerts = firing(&prometheus).await;
    assert!(well(&alerts), "region us was well: {alerts:?}");

    let seconds = |(rtt, audio): (Duration, Duration)| [rtt.as_secs_f64(), audio.as_secs_f64()];
    let ([rtt_fired, audio_fired], [rtt_ended, audio_ended]) = (seconds(fired), seconds(ended));
    #[expect(clippy::print_stdout, reason = "the figures that docs/performance.md states")]
    {
        println!("apac-rtt-spike: firing after {rtt_fired:.1} s, over after {rtt_ended:.1} s");
        println!("packet-loss: firing after {audio_fired:.1} s, over after {audio_ended:.1} s");
    }
    let slowest = [fired.0, fired.1, ended.0, ended.1].into_iter().max().unwrap();
    assert!(slowest <= WITHIN, "{slowest:?}");
}

#[tokio::test]
async fn a_view_that_is_cut_off_is_an_alert_that_says_why() {
    let nats = Nats::start();
    let mut callsight = Callsight::serve(&nats, &["--create", "--region=us"]);
    callsight.ready().await;
    let prometheus = Prometheus::start_shipped(&callsight.target());
    let _calls = simulate(&nats, "us", "steady");
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
