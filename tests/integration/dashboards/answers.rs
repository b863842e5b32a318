//! Every question that dashboards, rules and documents ask gets an answer from a real Prometheus.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use callsight_frame::{Frame, PeerId, Seq};
use serde_json::Value;

use super::model::{self, Dashboard};
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
];

/// Questions by place: once each, for dashboards share many.
fn questions() -> BTreeMap<String, String> {
    let mut questions = BTreeMap::new();
    let mut ask = |place: &str, expression: String| {
        questions.entry(expression).or_insert_with(|| place.to_owned());
    };
    for (place, expression) in Dashboard::all().iter().flat_map(Dashboard::expressions) {
        ask(&place, model::filled_in(&expression));
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

#[tokio::test]
async fn every_question_gets_an_answer() {
    let nats = Nats::start();
    let url = nats.url();
    // A budget that is hit, so that refusals are there too.
    let flags = ["--create", "--region=us,apac", "--max-sessions-per-meeting=3"];
    let mut callsight = Callsight::serve(&nats, &flags);
    callsight.ready().await;
    let prometheus = Prometheus::start_shipped_and_hurry(&callsight.target());
    wait::eventually_async(wait::PATIENCE, "the first scrape", async || {
        wait::when(prometheus.value("up").await, |up| *up == Some(1.0))
    })
    .await;
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
    let mut left = questions();
    assert!(left.len() > 150, "{}", left.len());
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
    wait::eventually_async(Duration::from_secs(120), "an answer to every question", async || {
        health.publish_bytes(&format!("health.diagnostics.{REGION}.relay.relay-1"), vec![0xc1]).await;
        refused += 1;
        health.publish_as(&format!("refused:{refused}"), &stranger).await;
        let mut unanswered = BTreeMap::new();
        for (expression, place) in &asked {
            if !is_answered(&prometheus, expression, &since).await {
                unanswered.insert(expression.clone(), place.clone());
            }
        }
        asked = unanswered;
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
