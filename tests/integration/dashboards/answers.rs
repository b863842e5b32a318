//! Every question that dashboards, rules and documents ask gets an answer from a real Prometheus.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use callsight_frame::{Frame, PeerId, Seq};
use serde_json::Value;

use super::browsers::Browsers;
use super::model::{self, Dashboard};
use crate::ingest::client::token;
use crate::ingest::{Way, frame_of};
use crate::kit::callsight::{Callsight, REGION};
use crate::kit::frames::frame;
use crate::kit::nats::Nats;
use crate::kit::prometheus::Prometheus;
use crate::kit::stream::Health;
use crate::kit::wait;
use crate::rules::{files, promql};

/// What can't get an answer here, by a part of the expression, and why.
const UNANSWERED: &[(&str, &str)] = &[
    ("absent(callsight_build_info)", "there is an exporter all the time, which is what it is about"),
    ("callsight_mirror_lag", "there is one NATS, and so no mirror"),
    ("callsight_ingest_ready[1h]", "there is an ingest all the time, of which it is about the absence"),
];

/// What panels say of calls in browsers that go well from the stream to Prometheus, where they have
/// no number.
const ABSENT_WITH_BROWSERS: &[&str] =
    &["no client reports", "no mirror is read", "none is rejected", "none is refused", "no ingest runs"];

/// How long all questions together may take to be answered.
const ANSWERED_WITHIN: Duration = Duration::from_secs(120);

/// Questions by place: once each, for dashboards share many.
fn questions() -> BTreeMap<String, String> {
    let mut questions = BTreeMap::new();
    let mut ask = |place: &str, expression: String| {
        questions.entry(expression).or_insert_with(|| place.to_owned());
    };
    for (place, expression) in Dashboard::all().iter().flat_map(Dashboard::expressions) {
        ask(&place, in_numbers(&model::filled_in(&expression)).0.to_owned());
    }
    // Rules and runbook ask whether something is so; here the answer may be no.
    for rule in files::rules() {
        ask(rule.name(), promql::unfiltered(&rule.expr));
    }
    for expression in files::promql(&files::text("docs/runbook.md")) {
        ask("docs/runbook.md", promql::unfiltered(&expression));
    }
    for expression in files::last_columns(&files::text("docs/migration.md")) {
        ask("docs/migration.md", expression);
    }
    questions
}

/// An expression without the words that it shows instead of nothing, and those words.
fn in_numbers(expression: &str) -> (&str, Option<&str>) {
    match expression.split_once(" or on () label_replace(vector(0), ") {
        Some((numbers, words)) => (numbers, Some(words)),
        None => (expression, None),
    }
}

/// What panels ask, by place, in which words count only where browsers have no number.
fn questions_about_browsers() -> BTreeMap<String, String> {
    let panels = |dashboard: &Dashboard| {
        let (uid, panels) = (dashboard.uid.clone(), dashboard.panels());
        panels.into_iter().map(move |panel| (format!("{uid} / {}", panel.title), panel.expressions))
    };
    let mut questions = BTreeMap::new();
    for (place, expressions) in Dashboard::all().iter().flat_map(panels) {
        for expression in expressions {
            let whole = model::filled_in(&expression);
            let (numbers, words) = in_numbers(&whole);
            let says = |words: &str| ABSENT_WITH_BROWSERS.iter().any(|absent| words.contains(absent));
            let asked = if words.is_some_and(says) { &whole } else { numbers };
            questions.insert(asked.to_owned(), place.clone());
        }
    }
    questions
}

/// Leaves the questions that have had no answer since then.
async fn unanswered(
    prometheus: &Prometheus,
    asked: BTreeMap<String, String>,
    since: &str,
) -> BTreeMap<String, String> {
    let mut left = BTreeMap::new();
    for (expression, place) in asked {
        if !is_answered(prometheus, &expression, since).await {
            left.insert(expression, place);
        }
    }
    left
}

/// Whether the answer, over all the time since then, has a number in it.
async fn is_answered(prometheus: &Prometheus, expression: &str, since: &str) -> bool {
    let now = seconds_now();
    let range = [("query", expression), ("start", since), ("end", now.as_str()), ("step", "5s")];
    let result = prometheus.api("query_range", &range).await["result"].take();
    let number =
        |sample: &Value| sample[1].as_str().unwrap().parse::<f64>().is_ok_and(|value| !value.is_nan());
    let has_number = |series: &Value| series["values"].as_array().unwrap().iter().any(number);
    result.as_array().unwrap().iter().any(has_number)
}

fn seconds_now() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    format!("{:.3}", now.as_secs_f64())
}

/// A Prometheus with what ships, which has scraped these.
async fn scraping(targets: &[&str]) -> Prometheus {
    let prometheus = Prometheus::start_shipped_and_hurry(targets);
    wait::eventually_async(wait::PATIENCE, "the first scrape", async || {
        wait::when(prometheus.value("sum(up)").await, |up| *up == Some(targets.len() as f64))
    })
    .await;
    prometheus
}

#[tokio::test]
async fn every_question_gets_an_answer() {
    let nats = Nats::start();
    let url = nats.url();
    // A budget that is hit, so that refusals are there too.
    let flags = ["--create", "--region=us,apac", "--max-sessions-per-meeting=3"];
    let mut callsight = Callsight::serve(&nats, &flags);
    callsight.ready().await;
    let way = Way::start(&url, &[]);
    let prometheus = scraping(&[&callsight.target(), &way.target()]).await;
    let since = seconds_now();
    let _calls = Callsight::spawn(&[
        "simulate",
        "--nats-url",
        &url,
        "--region=us,apac",
        "--scenario=apac-rtt-spike",
        "--quiet-for=0s",
        "--bad-for=10m",
        "--interval=1s",
    ]);
    let health = Health::at(&nats).await;
    let mut browsers = Browsers::new(&health);
    let mut left = questions();
    assert!(left.len() > 200, "{}", left.len());
    let (skipped, mut asked): (Vec<_>, BTreeMap<_, _>) = {
        let is_unanswered = |expression: &str| UNANSWERED.iter().any(|(part, _)| expression.contains(part));
        let skipped: Vec<_> = left.keys().filter(|expression| is_unanswered(expression)).cloned().collect();
        left.retain(|expression, _| !is_unanswered(expression));
        (skipped, left)
    };
    for (part, reason) in UNANSWERED {
        assert!(skipped.iter().any(|expression| expression.contains(part)), "nobody asks {part}: {reason}");
    }
    // An invalid question fails at once, with what Prometheus says; one without an answer when all
    // has had its time.
    let (owner, mut refused) = (frame("owned", 1, &[]), 0);
    health.publish(&owner).await;
    let stranger = Frame { seq: Seq::new(2).unwrap(), peer_id: PeerId::new("stranger").unwrap(), ..owner };
    wait::eventually_async(ANSWERED_WITHIN, "an answer to every question", async || {
        browsers.report().await;
        way.post(&token("ana"), &frame_of("ana:1", refused + 1, &[])).await;
        way.post("nobody", &frame_of("ana:1", refused + 1, &[])).await;
        health.publish_bytes(&format!("health.diagnostics.{REGION}.relay.relay-1"), vec![0xc1]).await;
        refused += 1;
        health.publish_as(&format!("refused:{refused}"), &stranger).await;
        asked = unanswered(&prometheus, asked.clone(), &since).await;
        if asked.is_empty() { Ok(()) } else { Err(asked.clone()) }
    })
    .await;
    for (part, reason) in UNANSWERED {
        let mut answered = true;
        for expression in skipped.iter().filter(|expression| expression.contains(part)) {
            answered &= is_answered(&prometheus, expression, &since).await;
        }
        assert!(!answered, "{part} has answers, so take it out of UNANSWERED, for this is not so: {reason}");
    }
}

/// Browsers have no counts of NetEQ's operations, and much that other clients lack. A service of
/// browsers alone sees no panel without an answer.
#[tokio::test]
async fn no_panel_is_empty_when_all_clients_are_browsers() {
    let nats = Nats::start();
    let mut callsight = Callsight::serve(&nats, &["--create"]);
    callsight.ready().await;
    let prometheus = scraping(&[&callsight.target()]).await;
    let since = seconds_now();
    let health = Health::at(&nats).await;
    let mut browsers = Browsers::new(&health);
    let mut asked = questions_about_browsers();
    assert!(asked.len() > 120, "{}", asked.len());
    let in_words: Vec<_> = asked.keys().filter(|asked| in_numbers(asked).1.is_some()).cloned().collect();
    wait::eventually_async(ANSWERED_WITHIN, "an answer in every panel", async || {
        browsers.report().await;
        asked = unanswered(&prometheus, asked.clone(), &since).await;
        if asked.is_empty() { Ok(()) } else { Err(asked.clone()) }
    })
    .await;

    // They were browsers, and one of the calls was bad.
    assert_eq!(prometheus.value("sum(videocall_neteq_operations_total)").await, Some(0.0));
    browsers.report().await;
    wait::eventually_async(wait::PATIENCE, "evidence of the bad call", async || {
        let peers = r#"sum(videocall_sessions_degraded_evidence{evidence="peers"})"#;
        let sending = r#"sum(videocall_sessions_degraded_evidence{evidence="sending"})"#;
        browsers.report().await;
        let seen = (prometheus.value(peers).await, prometheus.value(sending).await);
        wait::when(seen, |seen| *seen == (Some(2.0), Some(1.0)))
    })
    .await;
    // Panels about what only other clients report show words, and nothing else.
    assert!(in_words.len() > 5, "{in_words:?}");
    for expression in in_words {
        let result = prometheus.query(&expression).await;
        let series = result.as_array().unwrap();
        let says =
            |value: &Value| ABSENT_WITH_BROWSERS.iter().any(|words| value.as_str().unwrap().contains(words));
        let words = series.iter().filter(|series| series["metric"].as_object().unwrap().values().any(says));
        assert_eq!((words.count(), series.len()), (1, 1), "{expression}: {result}");
    }
}

/// Clients with a jitter buffer of their own tell neither what they send nor what of a video is
/// lost, and panels say so.
#[tokio::test]
async fn no_panel_is_empty_when_no_client_is_a_browser() {
    let nats = Nats::start();
    let url = nats.url();
    let mut callsight = Callsight::serve(&nats, &["--create"]);
    callsight.ready().await;
    let prometheus = scraping(&[&callsight.target()]).await;
    let since = seconds_now();
    let region = format!("--region={REGION}");
    let calls = ["simulate", "--nats-url", &url, &region, "--interval=1s", "--client=neteq"];
    let _calls = Callsight::spawn(&calls);
    let mut left = Vec::new();
    for dashboard in Dashboard::all() {
        let silent = dashboard.panels().into_iter().filter(|panel| panel.nothing.is_none());
        left.extend(silent.map(|panel| (format!("{} / {}", dashboard.uid, panel.title), panel.expressions)));
    }
    assert!(left.len() > 100, "{}", left.len());
    wait::eventually_async(ANSWERED_WITHIN, "an answer in every panel", async || {
        let mut empty = Vec::new();
        for (place, expressions) in left.drain(..) {
            let mut answered = false;
            for expression in &expressions {
                answered |= is_answered(&prometheus, &model::filled_in(expression), &since).await;
            }
            if !answered {
                empty.push((place, expressions));
            }
        }
        left = empty;
        if left.is_empty() { Ok(()) } else { Err(left.clone()) }
    })
    .await;
}
