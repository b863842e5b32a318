//! For each cause, calls that are hurt by it: the verdict says so, and so does the report that is
//! made of the same stream afterwards.

use serde_json::Value;

use super::{sentence, told};
use crate::kit::callsight::Callsight;
use crate::kit::nats::Nats;
use crate::kit::process::Process;
use crate::kit::wait::{self, PATIENCE};

/// Calls that are hurt from the beginning, as browsers tell them.
fn calls(nats: &Nats, scenario: &str) -> Process {
    Callsight::spawn(&[
        "simulate",
        "--nats-url",
        &nats.url(),
        "--region=us",
        "--client=browser",
        "--sessions=160",
        "--interval=2s",
        "--seed=5",
        &format!("--scenario={scenario}"),
        "--quiet-for=0s",
        "--bad-for=1h",
    ])
}

/// An exporter of calls that are hurt, once the verdict has this cause.
async fn hurt(scenario: &str, cause: &str, place: &str) -> (Nats, Process, Value) {
    let nats = Nats::start();
    let mut callsight = Callsight::serve(&nats, &["--create"]);
    callsight.ready().await;
    let calls = calls(&nats, scenario);
    let answer = told(&callsight, cause, |answer| {
        let mut places = answer[place].as_array().unwrap().iter();
        answer["verdict"]["cause"] == cause
            && places.any(|place| place["state"] == "bad" && place["cause"] == cause)
    })
    .await;
    (nats, calls, answer)
}

/// Checks what the verdict says of the cause, in the API and in the report.
async fn is_told(scenario: &str, cause: &str, evidence: &str) {
    let (nats, _calls, answer) = hurt(scenario, cause, "regions").await;
    let told = answer["verdict"]["evidence"].as_str().unwrap_or_default();
    assert!(told.starts_with(evidence), "{}: {told}", sentence(&answer));

    let url = nats.url();
    let said = format!("\"cause\":\"{cause}\"");
    // The page may have told it within the second that a replay does not see yet.
    wait::eventually_async(PATIENCE, "the report", async || {
        let report =
            ["replay", "--nats-url", &url, "--region=us", "--from=2m ago", "--step=1s", "--report=-"];
        let report = Callsight::run(&report);
        let page = String::from_utf8(report.stdout).unwrap();
        let summary = String::from_utf8_lossy(&report.stderr).into_owned();
        if page.contains(&said) { Ok(()) } else { Err(summary) }
    })
    .await;
}

#[tokio::test]
async fn the_network() {
    is_told("network", "network", "Network: ").await;
}

#[tokio::test]
async fn the_uplinks_of_certain_participants() {
    is_told("uplink", "uplink", "Uplink: ").await;
}

#[tokio::test]
async fn the_processors_of_certain_participants() {
    is_told("processor", "processor", "Processor: ").await;
}

#[tokio::test]
async fn a_release() {
    is_told("release", "client", "Client: ").await;
}

/// A server that nobody can join is one of three: its region is not bad yet.
#[tokio::test]
async fn joins_whose_packets_do_not_arrive() {
    let (_nats, _calls, answer) = hurt("join", "network", "servers").await;
    let told = answer["verdict"]["evidence"].as_str().unwrap_or_default();
    assert!(told.starts_with("Network: no packets arrive when "), "{}: {told}", sentence(&answer));
    assert!(answer["verdict"]["signals"].as_array().unwrap().contains(&"join".into()), "{answer}");
}
