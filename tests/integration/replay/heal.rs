//! An exporter that was down leaves a hole, and a replay fills it.

use std::time::Duration;

use time::OffsetDateTime;

use super::{moment, prometheus, replayed};
use crate::kit::callsight::{Callsight, REGION};
use crate::kit::nats::Nats;
use crate::kit::prometheus::Prometheus;
use crate::kit::wait::{self, PATIENCE};

/// How long the exporter is down.
const DOWN: Duration = Duration::from_secs(60);

/// The longest time between two samples that is no hole: scrapes are a second apart, and one may be
/// late.
const NO_HOLE: f64 = 1.9;

/// When there are live samples of a metric, in Unix seconds, in order.
async fn moments(prometheus: &Prometheus, metric: &str) -> Vec<f64> {
    let result = prometheus.query(&format!("{metric}{{region=\"{REGION}\",replay=\"\"}}[10m]")).await;
    let values = result.as_array().unwrap().iter().flat_map(|series| series["values"].as_array().unwrap());
    let mut moments: Vec<f64> = values.map(|sample| sample[0].as_f64().unwrap()).collect();
    moments.sort_by(f64::total_cmp);
    moments.dedup();
    moments
}

/// Pairs of moments with nothing between, too far apart.
fn holes(moments: &[f64]) -> Vec<(f64, f64)> {
    let pairs = moments.windows(2).map(|pair| (pair[0], pair[1]));
    pairs.filter(|(before, after)| after - before > NO_HOLE).collect()
}

async fn until_there_are(prometheus: &Prometheus, after: f64, samples: usize) {
    wait::eventually_async(2 * PATIENCE, "samples", async || {
        let moments = moments(prometheus, "videocall_sessions").await;
        wait::when(moments.iter().filter(|at| **at > after).count(), |count| *count >= samples)
    })
    .await;
}

#[tokio::test]
async fn no_hole_is_left_of_a_minute_without_the_exporter() {
    let begin = OffsetDateTime::now_utc();
    let nats = Nats::start();
    let url = nats.url();
    let calls = ["simulate", "--nats-url", &url, "--create", "--sessions=40", "--interval=1s", "--seed=7"];
    let _calls = Callsight::spawn(&calls);
    let mut callsight = Callsight::serve(&nats, &["--create"]);
    callsight.ready().await;
    let prometheus = prometheus(&[&callsight.target()]);
    until_there_are(&prometheus, 0.0, 8).await;

    callsight.kill9();
    let down = OffsetDateTime::now_utc();
    // The time itself is what this test is about.
    tokio::time::sleep(DOWN).await;
    let up = OffsetDateTime::now_utc();
    callsight.restart();
    callsight.ready().await;
    #[expect(clippy::cast_precision_loss, reason = "seconds")]
    until_there_are(&prometheus, up.unix_timestamp() as f64, 8).await;

    let live = moments(&prometheus, "videocall_sessions").await;
    let hole = holes(&live);
    #[expect(clippy::cast_precision_loss, reason = "seconds")]
    let around =
        hole.iter().any(|(from, to)| *from <= down.unix_timestamp() as f64 + 1.0 && to - from >= 59.0);
    assert!(around, "{hole:?}");
    let counted =
        prometheus.value("sum(last_over_time(videocall_audio_samples_total[10m] @ end()))").await.unwrap();
    assert!(counted > 0.0);

    // The last samples are a moment old, and may not all be there yet.
    let last = OffsetDateTime::from_unix_timestamp_nanos((live.last().unwrap() * 1e9) as i128).unwrap();
    let first = OffsetDateTime::from_unix_timestamp_nanos((live[0] * 1e9) as i128).unwrap();
    let (from, to) = (moment(first), moment(last));
    assert!(first > begin);
    let prometheus_url = prometheus.url();
    let args = [
        "replay",
        "--nats-url",
        &url,
        "--from",
        &from,
        "--to",
        &to,
        "--heal",
        "--prometheus",
        &prometheus_url,
    ];
    let healed = Callsight::run(&args);
    let said = String::from_utf8_lossy(&healed.stderr).into_owned();
    assert!(healed.status.success(), "{said}");
    assert!(said.contains("every 1s: filled ") && said.contains("job=\"callsight\""), "{said}");

    for metric in ["videocall_sessions", "videocall_rtt_seconds_bucket", "videocall_pair_can_listen"] {
        let now = moments(&prometheus, metric).await;
        let left = holes(&now);
        assert!(left.is_empty(), "{metric}: {left:?}");
    }
    // Nothing is out of the ordinary in between: as many sessions as ever, and counters go on where
    // they were.
    let middle = ((down.unix_timestamp() + up.unix_timestamp()) / 2).to_string();
    let at_middle = async |query: &str| {
        let found = prometheus.api("query", &[("query", query), ("time", &middle)]).await;
        found["result"][0]["value"][1].as_str().and_then(|value| value.parse::<f64>().ok())
    };
    let sessions = at_middle("sum(videocall_sessions)").await.unwrap();
    assert!((35.0..=45.0).contains(&sessions), "{sessions}");
    let resets = at_middle("sum(resets(videocall_audio_samples_total[40s]))").await;
    assert_eq!(resets, Some(0.0));

    let again = replayed(&url, &["--from", &from, "--to", &to, "--heal", "--prometheus", &prometheus_url]);
    assert_eq!(again, "");
    let again = Callsight::run(&args);
    assert!(String::from_utf8_lossy(&again.stderr).contains("us: no hole from"), "{again:?}");
}
