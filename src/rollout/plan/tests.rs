use super::*;

const FLEET: &str = "
services:
  - {name: nats, kind: plain, chart: nats/nats, release: nats, namespace: nats, workload: statefulset/nats}
  - {name: callsight, kind: exporter, chart: helm/callsight, release: callsight, namespace: callsight}
regions:
  - name: us
    context: us
    monitors: [\"nats/pod/nats-0:8222\"]
    gateways: [apac]
    certificates: [secret/nats/nats-gateway-tls]
  - {name: apac, context: apac}
";

fn fleet() -> Fleet {
    yaml_serde::from_str(FLEET).unwrap()
}

fn request(strategy: Strategy) -> DeploymentRequest {
    let mode = DeploymentMode::Replace;
    DeploymentRequest { strategy, mode, region: None, services: vec!["callsight".to_owned()] }
}

/// `us: look, stage` and so on, a line a lane.
fn shown(steps: &[Step<'_>]) -> String {
    let mut text = String::new();
    let mut region = "";
    for step in steps {
        text += &if step.region.name.as_str() == region {
            format!(", {step}")
        } else {
            format!(" | {}: {step}", step.region.name)
        };
        region = step.region.name.as_str();
    }
    text.trim_start_matches(" | ").to_owned()
}

fn lanes(plan: &DeploymentPlan<'_>) -> Vec<(String, String)> {
    plan.lanes.iter().map(|lane| (shown(&lane.steps), shown(&lane.closing))).collect()
}

const US: &str = "us: look, stage, readyz, compare, promote, active readyz, streams verify, gateways";
const APAC: &str = "apac: look, stage, readyz, compare, promote, active readyz, streams verify";

#[test]
fn blue_green_is_one_region_after_the_other_and_the_old_ones_go_last() {
    let fleet = fleet();
    let plan = plan(&fleet, &request(Strategy::BlueGreen)).unwrap();
    assert_eq!(shown(&plan.before), "us: gateways, certificates, streams verify | apac: streams verify");
    let closing = "us: withdraw, retire | apac: withdraw, retire".to_owned();
    assert_eq!(lanes(&plan), [(format!("{US} | {APAC}"), closing)]);
}

#[test]
fn the_canary_soaks_and_the_others_do_not() {
    let fleet = fleet();
    let plan = plan(&fleet, &request(Strategy::Canary)).unwrap();
    let us = US.replace("compare", "compare (soak)");
    assert_eq!(lanes(&plan)[0].0, format!("{us} | {APAC}"));
}

#[test]
fn parallel_is_a_lane_for_each_region() {
    let fleet = fleet();
    let plan = plan(&fleet, &request(Strategy::Parallel)).unwrap();
    let lane = |steps: &str, region: &str| (steps.to_owned(), format!("{region}: withdraw, retire"));
    assert_eq!(lanes(&plan), [lane(US, "us"), lane(APAC, "apac")]);
}

#[test]
fn one_region_is_deployed_and_all_are_looked_at() {
    let fleet = fleet();
    let one = DeploymentRequest { region: Some("apac".to_owned()), ..request(Strategy::SingleRegion) };
    let plan_ = plan(&fleet, &one).unwrap();
    assert!(shown(&plan_.before).starts_with("us: gateways"), "{plan_:?}");
    assert_eq!(lanes(&plan_), [(APAC.to_owned(), "apac: withdraw, retire".to_owned())]);
    let error = plan(&fleet, &request(Strategy::SingleRegion)).unwrap_err();
    assert_eq!(error.to_string(), "single-region needs a region; the fleet has us, apac");
}

#[test]
fn a_restart_changes_no_release_and_a_promotion_stages_nothing() {
    let fleet = fleet();
    let restart = DeploymentRequest {
        mode: DeploymentMode::Restart,
        services: Vec::new(),
        ..request(Strategy::BlueGreen)
    };
    let plan_ = plan(&fleet, &restart).unwrap();
    assert_eq!(shown(&plan_.before), "us: gateways, certificates");
    let own = "restart, look, restart, active readyz";
    assert_eq!(lanes(&plan_), [(format!("us: {own}, gateways | apac: {own}"), String::new())]);

    let promote = DeploymentRequest {
        mode: DeploymentMode::Promote,
        services: Vec::new(),
        ..request(Strategy::BlueGreen)
    };
    let plan_ = plan(&fleet, &promote).unwrap();
    assert_eq!(
        lanes(&plan_)[0].0,
        "us: look, compare, promote, active readyz, streams verify, gateways | \
         apac: look, compare, promote, active readyz, streams verify"
    );
    let plain = DeploymentRequest { services: vec!["nats".to_owned()], ..promote };
    assert_eq!(
        plan(&fleet, &plain).unwrap_err().to_string(),
        "service `nats` has no colours to promote; name one that has with --services"
    );
}

#[test]
fn services_go_in_the_order_of_the_fleet() {
    let fleet = fleet();
    let both = DeploymentRequest {
        services: vec!["callsight".to_owned(), "nats".to_owned()],
        region: Some("us".to_owned()),
        ..request(Strategy::BlueGreen)
    };
    let plan_ = plan(&fleet, &both).unwrap();
    let steps = &plan_.lanes[0].steps;
    assert_eq!(
        (steps[0].service().map(|service| &*service.name), steps[1].to_string()),
        (Some("nats"), "upgrade".to_owned())
    );
    let unknown = DeploymentRequest { services: vec!["natz".to_owned()], ..both };
    assert_eq!(
        plan(&fleet, &unknown).unwrap_err().to_string(),
        "the fleet has no service `natz`; it has nats, callsight"
    );
    let nowhere = DeploymentRequest { region: Some("eu".to_owned()), ..request(Strategy::BlueGreen) };
    assert_eq!(
        plan(&fleet, &nowhere).unwrap_err().to_string(),
        "the fleet has no region `eu`; it has us, apac"
    );
}
