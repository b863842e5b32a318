//! `callsight rollout compare`: go if green is as good as blue, otherwise stop with the reasons.

use super::stage::{OlderBuild, calls, compare, exporter, has_sessions, reasons, verdict};
use crate::kit::callsight::Callsight;
use crate::kit::certificates::Authority;
use crate::kit::nats::Nats;
use crate::kit::process::{Process, temporary_directory};
use crate::kit::proxy::Proxy;

const SESSIONS: usize = 40;

/// Blue with its calls.
struct Stage {
    nats: Nats,
    blue: Callsight,
    _calls: Process,
}

impl Stage {
    async fn with_calls() -> Self {
        let nats = Nats::start();
        let mut blue = exporter(&nats.url(), "blue", &[]);
        blue.ready().await;
        let calls = calls(&nats, SESSIONS);
        has_sessions(&blue, 35.0).await;
        Self { nats, blue, _calls: calls }
    }

    /// Compares with a green that must not take over, and returns the reasons.
    async fn stops(&self, green: &str) -> String {
        let output = compare(&self.blue.url(), green, "7s", &["--json"]).await;
        let (code, verdict) = verdict(&output);
        assert_eq!((code, verdict["go"].as_bool()), (Some(1), Some(false)), "{verdict}");
        let reasons = reasons(&verdict);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("error: green must not take over: "), "{error}");
        reasons
    }
}

#[tokio::test]
async fn equals_go_and_a_green_that_is_not_up_yet_is_waited_for() {
    let stage = Stage::with_calls().await;
    let mut green = exporter(&stage.nats.url(), "green", &[]);
    let output = compare(&stage.blue.url(), &green.url(), "60s", &[]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("verdict: go, green agrees with blue"), "{text}");
    for row in [
        "version",
        "us sessions",
        "us RTT p95",
        "us frames folded",
        "us NetEQ operations",
        "live pair series",
    ] {
        assert!(text.lines().any(|line| line.starts_with(row)), "{row}: {text}");
    }

    // The same for scripts, with green and blue swapped.
    green.ready().await;
    let (code, verdict) = verdict(&compare(&green.url(), &stage.blue.url(), "60s", &["--json"]).await);
    assert_eq!((code, verdict["go"].as_bool()), (Some(0), Some(true)), "{verdict}");
    let rows = verdict["judgement"]["rows"].as_array().unwrap();
    let sessions = rows.iter().find(|row| row["what"] == "sessions").unwrap();
    assert!(sessions["blue"].as_f64().unwrap() > 30.0, "{sessions}");
    let rtt = rows.iter().find(|row| row["what"] == "RTT p95").unwrap();
    assert!(rtt["green"].as_f64().unwrap() > 1.0 && rtt["verdict"] == "agree", "{rtt}");
}

#[tokio::test]
async fn a_green_that_reads_another_stream_is_starved() {
    let stage = Stage::with_calls().await;
    let elsewhere = Nats::start();
    let mut green = exporter(&elsewhere.url(), "green", &[]);
    green.ready().await;
    let reasons = stage.stops(&green.url()).await;
    assert!(reasons.contains("region us: sessions: green has 0, less than blue's"), "{reasons}");
    assert!(reasons.contains("region us: frames folded: green has 0/s"), "{reasons}");
}

#[tokio::test]
async fn a_green_that_gets_a_part_of_the_frames_stops() {
    let stage = Stage::with_calls().await;
    // A shard without the other one.
    let mut green = exporter(&stage.nats.url(), "green", &["--shard", "1/2"]);
    green.ready().await;
    let reasons = stage.stops(&green.url()).await;
    assert!(reasons.contains("region us: frames folded: green has"), "{reasons}");

    // Both of them together are as good as one.
    let fellow = exporter(&stage.nats.url(), "green", &["--shard", "2/2"]);
    let both = format!("{},{}", green.url(), fellow.url());
    let (code, verdict) = verdict(&compare(&stage.blue.url(), &both, "60s", &["--json"]).await);
    assert_eq!((code, verdict["go"].as_bool()), (Some(0), Some(true)), "{verdict}");
}

#[tokio::test]
async fn an_older_green_stops_at_once_unless_it_is_meant() {
    let stage = Stage::with_calls().await;
    let mut green = exporter(&stage.nats.url(), "green", &[]);
    green.ready().await;
    let older = OlderBuild::of(&green, "0.0.9").await;
    let (code, verdict_) = verdict(&compare(&stage.blue.url(), &older.url, "60s", &["--json"]).await);
    assert_eq!((code, verdict_["windows"].as_u64()), (Some(1), Some(1)), "{verdict_}");
    assert!(reasons(&verdict_).contains("green runs 0.0.9, which is older"), "{verdict_}");

    let meant = compare(&stage.blue.url(), &older.url, "60s", &["--json", "--allow-older"]).await;
    let (code, verdict) = verdict(&meant);
    assert_eq!((code, verdict["judgement"]["version"].as_str()), (Some(0), Some("older")), "{verdict}");
}

#[tokio::test]
async fn a_green_that_lags_or_hangs_stops_and_goes_once_it_has_caught_up() {
    let stage = Stage::with_calls().await;
    let link = Proxy::to(stage.nats.port()).await;
    let mut green = exporter(&link.url(), "green", &["--ready-max-lag", "1s"]);
    green.ready().await;

    link.stall();
    let reasons = stage.stops(&green.url()).await;
    assert!(reasons.contains("green"), "{reasons}");

    link.resume();
    green.process().stop();
    let reasons = stage.stops(&green.url()).await;
    assert!(reasons.contains("green does not answer") || reasons.contains("no window"), "{reasons}");

    green.process().cont();
    let (code, verdict) = verdict(&compare(&stage.blue.url(), &green.url(), "90s", &["--json"]).await);
    assert_eq!((code, verdict["go"].as_bool()), (Some(0), Some(true)), "{verdict}");
}

#[tokio::test]
async fn what_can_not_be_compared_is_said() {
    let stage = Stage::with_calls().await;
    let mut other_region = exporter(&stage.nats.url(), "green", &["--region", "apac"]);
    other_region.ready().await;
    let reasons = stage.stops(&other_region.url()).await;
    assert!(reasons.contains("they watch different regions: blue us, green apac"), "{reasons}");

    let itself = stage.blue.url().replace("127.0.0.1", "localhost");
    let reasons = stage.stops(&itself).await;
    assert!(reasons.contains("the same exporter, deployment blue"), "{reasons}");

    let nobody = stage.stops("http://127.0.0.1:1").await;
    assert!(
        nobody.contains("green does not answer at http://127.0.0.1:1: io: Connection refused"),
        "{nobody}"
    );
}

#[tokio::test]
async fn without_calls_it_stops_unless_told_otherwise() {
    let nats = Nats::start();
    let (mut blue, mut green) = (exporter(&nats.url(), "blue", &[]), exporter(&nats.url(), "green", &[]));
    blue.ready().await;
    green.ready().await;
    let (code, verdict_) = verdict(&compare(&blue.url(), &green.url(), "4s", &["--json"]).await);
    assert_eq!(code, Some(1));
    assert!(reasons(&verdict_).contains("--min-sessions 0"), "{verdict_}");
    let without = compare(&blue.url(), &green.url(), "60s", &["--json", "--min-sessions", "0"]).await;
    assert_eq!(verdict(&without).0, Some(0));
}

#[tokio::test]
async fn exporters_behind_tls_and_passwords_are_asked_like_prometheus_asks_them() {
    let authority = Authority::new();
    authority.sign_to("web");
    let hash = bcrypt::hash("hunter2", 4).unwrap();
    let config = format!(
        "tls_server_config: {{cert_file: web.pem, key_file: web.key}}\nbasic_auth_users: {{prometheus: {hash}}}\n"
    );
    let web_config = authority.file("web.yml", &config);
    let password = authority.file("password", "hunter2\n");
    let nats = Nats::start();
    let secured = |deployment| exporter(&nats.url(), deployment, &["--web-config", &web_config]);
    let (blue, green) = (secured("blue"), secured("green"));
    let https = |exporter: &Callsight| exporter.url().replace("http://", "https://");
    let (blue, green) = ((https(&blue), blue), (https(&green), green));

    let ca = authority.ca();
    let with_ca = ["--json", "--min-sessions", "0", "--http-ca", &ca];
    let login = ["--http-user", "prometheus", "--http-password-file", &password];
    let (code, verdict_) =
        verdict(&compare(&blue.0, &green.0, "60s", &[&with_ca[..], &login].concat()).await);
    assert_eq!(code, Some(0), "{verdict_}");

    let (code, verdict_) = verdict(&compare(&blue.0, &green.0, "4s", &with_ca).await);
    assert!(code == Some(1) && reasons(&verdict_).contains("answers 401 to /metrics"), "{verdict_}");
    let (code, verdict_) = verdict(&compare(&blue.0, &green.0, "4s", &["--json"]).await);
    assert!(code == Some(1) && reasons(&verdict_).contains("invalid peer certificate"), "{verdict_}");

    let directory = temporary_directory();
    let missing = directory.path().join("nothing");
    let half = ["--http-user", "prometheus", "--http-password-file", missing.to_str().unwrap()];
    let output = compare(&blue.0, &green.0, "4s", &half).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(1) && error.contains("cannot ask the exporters: cannot read"),
        "{error}"
    );
}
