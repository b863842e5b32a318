//! Alerts judged after the fact fire when they fired.

use std::fs;
use std::path::Path;
use std::time::Duration;

use callsight_frame::Frame;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{moment, replay, replayed};
use crate::kit::callsight::Callsight;
use crate::kit::nats::Nats;
use crate::kit::process::temporary_directory;
use crate::kit::prometheus::Prometheus;
use crate::kit::relay::{Crowd, Relay};
use crate::kit::stream::Health;
use crate::kit::wait::{self, PATIENCE};

/// What is recorded from something recorded, an alert on it that waits, one that has no reason, and
/// one that a replay can't judge.
const RULES: &str = r#"
groups:
  - name: test
    interval: 1s
    rules:
      - {record: "region:slow:sum", expr: 'sum by (region) (videocall_sessions_degraded{signal="rtt"})'}
      - {record: "region:slow:ratio", expr: "region:slow:sum / sum by (region) (videocall_sessions)"}
      - {alert: Slow, expr: "region:slow:ratio > 0.5", for: 2s, labels: {severity: critical}}
      - {alert: Crowded, expr: "sum(videocall_sessions) > 1000"}
      - {alert: Down, expr: "up == 0"}
"#;

/// How far the two may be apart: what is live waits for a scrape and an evaluation, each a second
/// apart.
const APART: Duration = Duration::from_secs(4);

fn rules(folder: &Path, text: &str) -> String {
    let path = folder.join("rules.yaml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Whether the live alert fires, as Prometheus says.
async fn firing(prometheus: &Prometheus) -> bool {
    prometheus.value("count(ALERTS{alertname=\"Slow\",alertstate=\"firing\"})").await.is_some()
}

/// The time behind a word in a line.
fn time_after(line: &str, word: &str) -> OffsetDateTime {
    let rest = line.split_once(word).unwrap_or_else(|| panic!("no {word}: {line}")).1.trim_start();
    let text = rest.split([' ', ',']).next().unwrap();
    OffsetDateTime::parse(text, &Rfc3339).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[tokio::test]
async fn an_alert_would_have_fired_when_it_did() {
    let nats = Nats::start();
    let _health = Health::create(&nats).await;
    let relay = Relay::start(&nats).await;
    let mut callsight = Callsight::serve(&nats, &["--create"]);
    callsight.ready().await;
    let folder = temporary_directory();
    let rules = rules(folder.path(), RULES);
    let prometheus = Prometheus::start_with(&format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{rules}']\n\
         scrape_configs: [{{job_name: callsight, static_configs: [{{targets: ['{}']}}]}}]\n",
        callsight.target()
    ));

    // Everybody is well, then slow until the alert fires and a while longer, then well until it is
    // resolved.
    let crowd = Crowd::new("", 8);
    let begin = OffsetDateTime::now_utc();
    let (mut seq, mut fired, mut resolved, mut slow) = (0, None, None, false);
    let mut pace = tokio::time::interval(Duration::from_millis(250));
    let deadline = OffsetDateTime::now_utc() + 3 * PATIENCE;
    while resolved.is_none() {
        pace.tick().await;
        assert!(OffsetDateTime::now_utc() < deadline, "slow: {slow}, fired: {fired:?}");
        seq += 1;
        for session in 0..crowd.len() {
            let mut frame: Frame<'_> = crowd.frame(session, seq);
            frame.server.as_mut().unwrap().rtt_ms = Some(if slow { 900.0 } else { 50.0 });
            relay.say(&frame).await;
        }
        let (now, fires) = (OffsetDateTime::now_utc(), firing(&prometheus).await);
        slow = fired.map_or(seq > 12, |fired| now < fired + Duration::from_secs(3));
        if fires && fired.is_none() {
            fired = Some(now);
        }
        if !fires && fired.is_some() {
            resolved = Some(now);
        }
    }
    relay.settle().await;
    let (fired, resolved) = (fired.unwrap(), resolved.unwrap());
    // So that the last steps are within the window.
    let to = OffsetDateTime::now_utc() + Duration::from_secs(2);
    wait::eventually(PATIENCE, "the window to be over", || {
        wait::when(OffsetDateTime::now_utc(), |now| *now > to).map(drop)
    });

    let (from, to) = (moment(begin), moment(to));
    let args = ["--from", &from, "--to", &to, "--step", "1s", "--rules", &rules];
    let said = replayed(&nats.url(), &args);
    let line = said.lines().find(|line| line.contains("Slow{")).unwrap_or_else(|| panic!("{said}"));
    assert!(
        line.contains("region=\"us\",severity=\"critical\"") && line.ends_with("at most 1.000"),
        "{said}"
    );
    for (word, live) in [("fired", fired), ("resolved", resolved)] {
        let replayed = time_after(line, word);
        assert!((replayed - live).unsigned_abs() <= APART, "{word} {replayed}, live {live}: {said}");
    }
    assert!(said.contains("\n  did not fire: Crowded\n"), "{said}");
    assert!(said.contains("not evaluated: Down needs up,"), "{said}");
    assert_eq!(said.matches("Slow{").count(), 1, "{said}");
}

#[tokio::test]
async fn rules_that_cannot_be_judged_say_why() {
    let nats = Nats::start();
    let _health = Health::create(&nats).await;
    let relay = Relay::start(&nats).await;
    Crowd::new("", 4).speak(&relay, 1).await;
    relay.settle().await;
    let folder = temporary_directory();
    let refused = |text: &str| {
        let rules = rules(folder.path(), text);
        let output = replay(&nats.url(), &["--from", "1m ago", "--step", "1s", "--rules", &rules]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    for (text, says) in [
        ("groups: [{name: g, rules: [{record: r, expr: x}]}]", "no alert"),
        ("groups: [{name: g, rules: [{alert: A, expr: x, for: soon}]}]", "`soon` is not a duration"),
        (
            "groups: [{name: g, rules: [{alert: Odd, expr: 'sum(('}]}]",
            "rule Odd can't be evaluated: status 400",
        ),
    ] {
        let said = refused(text);
        assert!(said.contains(says), "{said}");
    }
    let output = replay(&nats.url(), &["--from", "1m ago", "--rules", "/nowhere/rules.yaml", "--step", "1s"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("cannot read `/nowhere/rules.yaml` of --rules"), "{said}");
}
