//! `callsight rollout deploy`: every strategy, every way to fail, and the state of the fleet after
//! it.

use std::time::Duration;

use async_nats::jetstream::stream::Config;
use serde_json::json;

use super::fleet::{Deployed, Fleet, REGIONS, State, certificate};
use crate::kit::nats::Nats;
use crate::kit::process::Process;
use crate::kit::wait;

const DEPLOYED_WITHIN: Duration = Duration::from_secs(200);

/// The steps of a region in a whole deployment.
const REGION: [&str; 7] =
    ["look", "stage", "readyz", "compare", "promote", "active readyz", "streams verify"];

/// A whole deployment of a region, all of it successful.
fn lane(region: &str) -> Vec<String> {
    REGION.iter().chain(&["gateways"]).map(|step| format!("{region} {step} ok")).collect()
}

fn before() -> Vec<String> {
    let gates = ["gateways", "certificates", "streams verify"];
    REGIONS.iter().flat_map(|region| gates.map(|gate| format!("{region} {gate} ok"))).collect()
}

fn closing() -> Vec<String> {
    REGIONS
        .iter()
        .flat_map(|region| ["withdraw", "retire"].map(|step| format!("{region} {step} ok")))
        .collect()
}

/// Asserts that the first step to fail is this one.
#[track_caller]
fn fails_at(deployed: &Deployed, step: &str) {
    let steps = deployed.steps();
    let failed = steps.iter().find(|step| step.ends_with(" failed"));
    assert_eq!(failed.map(String::as_str), Some(&*format!("{step} failed")), "{steps:#?} {}", deployed.text);
}

#[tokio::test]
async fn the_first_time_and_every_time() {
    let mut fleet = Fleet::empty().await;
    let first = fleet.deploy(&["--image-tag", "1.0.0"]).await;
    first.ended("done");
    fleet.both(&State::only("blue", "1.0.0")).await;
    assert!(first.text.contains("a first installation: there is nothing to compare with"), "{}", first.text);

    fleet.call().await;
    let second = fleet.deploy(&["--image-tag", "2.0.0"]).await;
    second.ended("done");
    fleet.both(&State::only("green", "2.0.0")).await;
    // One region after the other, and the old colours last.
    assert_eq!(second.steps(), [before(), lane("us"), lane("apac"), closing()].concat());
    assert_eq!(fleet.changing_calls().len(), 6, "{:?}", fleet.changing_calls());
    let summary = fleet.summary();
    for line in [
        "## Deployment: done",
        "blue-green, region all, services all, version 2.0.0",
        "| apac | callsight | compare | ok |",
    ] {
        assert!(summary.contains(line), "{line}: {summary}");
    }
    assert!(summary.contains("deleted callsight-blue of HEALTH_US"), "{summary}");

    // A dry run shows everything and changes nothing.
    let dry = fleet.deploy(&["--image-tag", "3.0.0", "--dry-run"]).await;
    dry.ended("done");
    fleet.both(&State::only("green", "2.0.0")).await;
    assert_eq!(fleet.changing_calls(), [""; 0]);
    let steps = dry.steps();
    assert!(
        steps.contains(&"apac stage planned".to_owned()) && steps.contains(&"us gateways ok".to_owned()),
        "{steps:?}"
    );
    let summary = fleet.summary();
    for line in [
        "nothing was changed (dry run)",
        "Deployment callsight-blue is added:",
        "callsight:3.0.0",
        "-    colour: green",
        "+    colour: blue",
    ] {
        assert!(summary.contains(line), "{line}: {summary}");
    }

    // A restart restarts the active exporters, and no release changes.
    let ports: Vec<_> = REGIONS.map(|region| fleet.exporter(region, "green")).to_vec();
    let restarted = fleet.deploy(&["--restart-only"]).await;
    restarted.ended("done");
    fleet.both(&State::only("green", "2.0.0")).await;
    assert_ne!(ports, REGIONS.map(|region| fleet.exporter(region, "green")).to_vec());
    let calls = fleet.changing_calls();
    assert_eq!(
        calls,
        REGIONS.map(|region| format!("{region}: kubectl rollout restart deployment.apps/callsight-green"))
    );
}

#[tokio::test]
async fn gates_stop_it_before_anything_is_changed() {
    let fleet = Fleet::installed().await;
    let blue = State::only("blue", "1.0.0");
    let stopped = async |step: &str, why: &str, arguments: &[&str]| {
        let deployed = fleet.deploy(&[&["--image-tag", "2.0.0"], arguments].concat()).await;
        deployed.ended("stopped");
        fails_at(&deployed, step);
        assert!(deployed.why().contains(why), "{}", deployed.why());
        assert_eq!(fleet.changing_calls(), [""; 0]);
        assert!(deployed.steps().contains(&"us stage not-run".to_owned()));
        fleet.both(&blue).await;
    };

    fleet.secret("apac", "nats", "nats-gateway-tls", "tls.crt", &certificate(5));
    stopped("apac certificates", "in 5 days, and 14 are required: renew it", &["--dry-run"]).await;
    stopped("apac certificates", "in 5 days, and 14 are required: renew it", &[]).await;
    fleet.configure(&[("[us, arbiter]", "[us, eu]")]);
    stopped("apac gateways", "has no gateway to eu", &[]).await;

    // Somebody has changed a stream of the other region by hand.
    fleet.configure(&[]);
    let jetstream = fleet.nats.jetstream("apac", "operator").await;
    let config = jetstream.get_stream("HEALTH_APAC").await.unwrap().cached_info().config.clone();
    jetstream.update_stream(Config { max_age: Duration::from_secs(3600), ..config.clone() }).await.unwrap();
    let single = ["--strategy", "single-region", "--region", "us"];
    stopped("apac streams verify", "helm test callsight failed", &single).await;
    jetstream.update_stream(config).await.unwrap();

    // With the stream restored, one region is deployed and the other stays.
    let deployed = fleet.deploy(&[&["--image-tag", "2.0.0"], &single[..]].concat()).await;
    deployed.ended("done");
    assert_eq!(fleet.state("us").await, State::only("green", "2.0.0"));
    assert_eq!(fleet.state("apac").await, blue);
}

#[tokio::test]
async fn a_failure_rolls_every_region_back() {
    let fleet = Fleet::installed().await;
    let blue = State::only("blue", "1.0.0");
    let elsewhere = Nats::start();
    fleet.configure(&[("compare-within: 60s", "compare-within: 12s")]);
    let rolled_back = async |step: &str, why: &str| {
        let deployed = fleet.deploy(&["--image-tag", "2.0.0"]).await;
        deployed.ended("rolled-back");
        fails_at(&deployed, step);
        assert!(deployed.why().contains(why), "{}", deployed.why());
        fleet.both(&blue).await;
        assert!(fleet.summary().contains("FAILED, and rolled back"));
        deployed
    };

    // Green of the second region reads another stream: its comparison fails after the first region
    // was switched.
    fleet.faults(&json!({"elsewhere": {"apac.callsight-green": elsewhere.url()}}));
    let deployed =
        rolled_back("apac compare", "apac callsight: compare failed: green does not agree with blue").await;
    let steps = deployed.steps();
    let at = |step: &str| {
        steps.iter().position(|known| known == step).unwrap_or_else(|| panic!("{step}: {steps:?}"))
    };
    assert!(at("us promote ok") < at("apac compare failed"));
    assert!(
        at("apac compare failed") < at("apac roll back ok")
            && at("apac roll back ok") < at("us roll back ok")
    );
    assert!(steps.ends_with(&["apac retire not-run".to_owned()]), "{steps:?}");

    // It never becomes ready.
    fleet.faults(&json!({"elsewhere": {"us.callsight-green": "nats://127.0.0.1:1"}}));
    let deployed = fleet.deploy(&["--image-tag", "2.0.0", "--step-timeout", "15s"]).await;
    deployed.ended("rolled-back");
    fails_at(&deployed, "us stage");
    fleet.both(&blue).await;
    assert!(
        !fleet.changing_calls().iter().any(|call| call.starts_with("apac")),
        "{:?}",
        fleet.changing_calls()
    );

    // helm fails at the switch.
    let fault = |call: &str, after: u32| json!({"context": "apac", "call": call, "after": after, "left": 1, "do": "fail"});
    fleet.faults(&json!({"calls": [fault("helm upgrade", 1)]}));
    rolled_back("apac promote", "helm upgrade callsight").await;

    // Rolling back fails too: the report lists what is left, and another run rolls it back.
    fleet.faults(&json!({"calls": [fault("helm upgrade", 1), fault("helm rollback", 0)]}));
    let deployed = fleet.deploy(&["--image-tag", "2.0.0"]).await;
    deployed.ended("failed");
    assert_eq!(fleet.state("us").await, blue, "what can be rolled back is");
    assert_ne!(fleet.state("apac").await, blue);
    assert!(
        fleet.summary().contains("Left changed:\n\n- callsight in apac: it was at revision"),
        "{}",
        fleet.summary()
    );
    let report = fleet.path("report.json");
    let undone = fleet.deploy(&["--undo", report.to_str().unwrap()]).await;
    assert_eq!(
        (undone.code, undone.report["result"].as_str()),
        (Some(0), Some("rolled-back")),
        "{}",
        undone.text
    );
    fleet.both(&blue).await;
}

#[tokio::test]
async fn time_and_signals_end_it_and_a_killed_run_is_rolled_back() {
    let fleet = Fleet::installed().await;
    let blue = State::only("blue", "1.0.0");
    let hang = |context: &str| json!({"calls": [{"context": context, "call": "helm upgrade", "left": 1, "do": "hang"}]});

    fleet.faults(&hang("apac"));
    let deployed = fleet.deploy(&["--image-tag", "2.0.0", "--step-timeout", "20s"]).await;
    deployed.ended("rolled-back");
    fails_at(&deployed, "apac stage");
    assert!(
        deployed.why().contains("helm upgrade callsight") && deployed.why().contains("timed out"),
        "{}",
        deployed.why()
    );
    fleet.both(&blue).await;

    // SIGTERM in the second region, while helm runs.
    fleet.faults(&hang("apac"));
    let mut run = started(&fleet, "apac look ok").await;
    let code = run.terminate(DEPLOYED_WITHIN).code();
    let deployed = Deployed { code, text: run.output(), report: fleet.report() };
    deployed.ended("rolled-back");
    fails_at(&deployed, "apac stage");
    assert!(deployed.why().contains("interrupted"), "{}", deployed.why());
    fleet.both(&blue).await;

    // kill -9: what is left is in the report, and another run rolls it back.
    fleet.faults(&hang("apac"));
    let mut run = started(&fleet, "apac look ok").await;
    run.kill9();
    let report = fleet.report();
    assert_eq!(
        (report["result"].as_str(), report["changes"].as_array().unwrap().len()),
        (Some("unfinished"), 2)
    );
    let report = fleet.path("report.json");
    let undone = fleet.deploy(&["--undo", report.to_str().unwrap()]).await;
    assert_eq!(
        (undone.code, undone.report["result"].as_str()),
        (Some(0), Some("rolled-back")),
        "{}",
        undone.text
    );
    fleet.both(&blue).await;
}

/// A deployment under way, whose report has this step, and which is calling helm again.
async fn started(fleet: &Fleet, step: &str) -> Process {
    let run = Process::spawn("callsight rollout", &mut fleet.rollout(&["deploy", "--image-tag", "2.0.0"]));
    wait::eventually_async(DEPLOYED_WITHIN, step, async || {
        let deployed = Deployed { code: None, text: String::new(), report: fleet.report() };
        if deployed.report.is_null() || !deployed.steps().contains(&step.to_owned()) {
            return Err(format!("{} {}", deployed.report, run.output()));
        }
        wait::when(fleet.changing_calls(), |calls| {
            calls.iter().any(|call| call.starts_with("apac: helm upgrade"))
        })
        .map(drop)
        .map_err(|calls| format!("{calls:?}"))
    })
    .await;
    run
}

#[tokio::test]
async fn each_strategy_has_its_own_order_and_its_own_way_back() {
    let fleet = Fleet::installed().await;
    let (blue, elsewhere) = (State::only("blue", "1.0.0"), Nats::start());
    let starved = json!({"elsewhere": {"apac.callsight-green": elsewhere.url()}});

    // Parallel: the region that fails is rolled back alone.
    fleet.configure(&[("compare-within: 60s", "compare-within: 12s")]);
    fleet.faults(&starved);
    let deployed = fleet.deploy(&["--image-tag", "2.0.0", "--strategy", "parallel"]).await;
    deployed.ended("rolled-back");
    assert_eq!(fleet.state("us").await, State::only("green", "2.0.0"));
    assert_eq!(fleet.state("apac").await, blue);

    // Canary: the first region compares for longer, and its failure leaves the second untouched.
    fleet.configure(&[]);
    fleet.faults(
        &json!({"calls": [{"context": "us", "call": "helm upgrade", "after": 1, "left": 1, "do": "fail"}]}),
    );
    let deployed = fleet.deploy(&["--image-tag", "3.0.0", "--strategy", "canary"]).await;
    deployed.ended("rolled-back");
    let steps = deployed.steps();
    assert!(
        steps.contains(&"us compare (soak) ok".to_owned()) && steps.contains(&"apac look not-run".to_owned()),
        "{steps:?}"
    );
    assert_eq!(fleet.state("us").await, State::only("green", "2.0.0"));
    let soak =
        deployed.report["steps"].as_array().unwrap().iter().find(|line| line["step"] == "compare (soak)");
    assert!(soak.unwrap()["seconds"].as_f64().unwrap() >= 3.0, "{soak:?}");

    // What follows the switch is not rolled back: the report says what is left to do.
    fleet.faults(
        &json!({"calls": [{"context": "us", "call": "helm upgrade", "after": 2, "left": 1, "do": "fail"}]}),
    );
    let single = ["--image-tag", "3.0.0", "--strategy", "single-region", "--region", "us"];
    let deployed = fleet.deploy(&single).await;
    deployed.ended("failed");
    fails_at(&deployed, "us withdraw");
    assert!(deployed.why().contains("the new colour is active and stays so"), "{}", deployed.why());
    let state = fleet.state("us").await;
    assert_eq!((&*state.active, state.running.len()), ("blue", 2));

    // Green is the standby colour: it can be promoted alone, if it agrees.
    let promoted = fleet.run(&["promote", "--region", "us"]).await;
    promoted.ended("done");
    assert_eq!(fleet.state("us").await.active, "green");

    // An emergency: gates are skipped, and the report says so in capitals.
    fleet.faults(&starved);
    let emergency =
        ["--image-tag", "4.0.0", "--strategy", "single-region", "--region", "apac", "--skip-gates"];
    let deployed = fleet.deploy(&emergency).await;
    deployed.ended("done");
    assert!(deployed.steps().contains(&"apac compare skipped".to_owned()), "{:?}", deployed.steps());
    assert!(fleet.summary().contains("**GATES WERE SKIPPED.**"), "{}", fleet.summary());
    assert_eq!(fleet.state("apac").await.active, "green");
}

#[tokio::test]
async fn what_is_not_in_the_fleet_is_refused() {
    let fleet = Fleet::empty().await;
    for (arguments, problem) in [
        (&["--region", "eu"][..], "the fleet has no region `eu`; it has us, apac"),
        (&["--services", "nats"], "the fleet has no service `nats`; it has callsight"),
        (&["--strategy", "single-region"], "single-region needs a region"),
    ] {
        let deployed = fleet.deploy(arguments).await;
        assert!(deployed.code == Some(1) && deployed.text.contains(problem), "{}", deployed.text);
        assert!(deployed.report.is_null(), "nothing was begun");
    }
    fleet.configure(&[("gates: {", "gates: {windw: 1s, ")]);
    let deployed = fleet.deploy(&[]).await;
    assert!(deployed.code == Some(1) && deployed.text.contains("windw"), "{}", deployed.text);
}
