//! What helm makes of the chart, in every combination, against the schemas of Kubernetes and our
//! own promises.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::{Value, json};

use super::{CHART, INGEST, REGIONS, documents, files, find, helm, names, object, render, values_of};
use crate::kit::{process, python};

/// The oldest Kubernetes that the chart takes, and the newest whose schemas the validator has.
const VERSIONS: [&str; 2] = ["1.28", "1.37"];

/// Kinds of the Prometheus operator, which Kubernetes has no schemas for: `super::monitoring` looks
/// at them.
const FOREIGN: [&str; 3] = ["ServiceMonitor", "PodMonitor", "PrometheusRule"];

/// Features, each with its values. Each is tried alone, all of them together, and all but one of
/// them: so each meets each other, and each is missed once.
const FEATURES: &[(&str, &str)] = &[
    ("green", "colours.green.enabled=true,colours.green.image.tag=1.2.3"),
    ("switched", "colours.green.enabled=true,active=green,colours.blue.enabled=false"),
    ("shards", "shards=3"),
    (
        "sharded-green",
        "colours.green.enabled=true,colours.green.shards=5,colours.green.settings.detail=session",
    ),
    ("creds", "nats.creds.secret=exporter,streams.creds.secret=operator"),
    (
        "tls",
        "nats.urls={tls://a:4222,tls://b:4222},nats.tls.ca.secret=ca,nats.tls.clientCertificate.secret=client,nats.tls.first=true",
    ),
    ("streams", "streams.regions={us,apac},streams.hub=us,streams.replicas=3,streams.image.tag=9.9.9"),
    ("ingest", INGEST),
    (
        "ingest-outside",
        "ingest.ingress.enabled=true,ingest.ingress.hosts={a.example,b.example},ingest.ingress.className=nginx,\
      ingest.ingress.annotations.note=x,ingest.ingress.tls[0].secretName=a,ingest.ingress.tls[0].hosts={a.example},\
      ingest.networkPolicy.from[0].namespaceSelector.matchLabels.a=b,ingest.autoscaling.enabled=true,\
      ingest.settings.allow-origin={https://app.example},ingest.webConfig.secret=web,ingest.webConfig.scheme=HTTPS,\
      ingest.service.type=LoadBalancer,ingest.service.annotations.note=x",
    ),
    ("no-streams", "streams.apply=false"),
    ("web", "webConfig.secret=web,webConfig.scheme=HTTPS"),
    ("service-monitor", "monitoring.monitor.enabled=true,monitoring.monitor.labels.release=prometheus"),
    ("pod-monitor", "monitoring.monitor.enabled=true,monitoring.monitor.kind=PodMonitor"),
    ("rules", "monitoring.rules.enabled=true,monitoring.dashboards.enabled=true"),
    (
        "no-policy",
        "networkPolicy.enabled=false,podDisruptionBudget.enabled=false,serviceAccount.create=false",
    ),
    (
        "peers",
        "networkPolicy.from[0].namespaceSelector.matchLabels.a=b,networkPolicy.natsPeers[0].ipBlock.cidr=10.0.0.0/8",
    ),
    (
        "placement",
        "nodeSelector.disk=ssd,tolerations[0].key=a,tolerations[0].operator=Exists,priorityClassName=high,\
      topologySpreadConstraints[0].maxSkew=1,topologySpreadConstraints[0].topologyKey=zone,\
      topologySpreadConstraints[0].whenUnsatisfiable=ScheduleAnyway,imagePullSecrets[0].name=pull",
    ),
    (
        "labels",
        "podLabels.team=calls,podAnnotations.note=x,service.annotations.note=x,serviceAccount.annotations.note=x",
    ),
    ("names", "fullnameOverride=a-very-long-name-for-a-release-that-goes-on-and-on-and-on-and-on"),
    (
        "node-port",
        "service.type=NodePort,image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    ),
];

/// Every installation that is tried, as helm renders it, with a name for each.
fn installations() -> &'static [(String, String)] {
    static RENDERED: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
        let render = |args: Vec<String>| render(&args.iter().map(String::as_str).collect::<Vec<_>>());
        arguments().into_iter().map(|(name, args)| (name, render(args))).collect()
    });
    &RENDERED
}

fn arguments() -> Vec<(String, Vec<String>)> {
    let mut all = vec![("defaults".to_owned(), Vec::new())];
    for region in REGIONS {
        all.push((region.to_owned(), vec!["--values".to_owned(), values_of(region)]));
    }
    let set = |values: &str| ["--set".to_owned(), values.replace(' ', "")];
    for (index, (name, values)) in FEATURES.iter().enumerate() {
        all.push(((*name).to_owned(), set(values).into()));
        let others = FEATURES.iter().enumerate().filter(|(other, _)| *other != index);
        all.push((format!("all-but-{name}"), others.flat_map(|(_, (_, values))| set(values)).collect()));
    }
    let together = FEATURES.iter().flat_map(|(_, values)| set(values));
    all.push(("everything".to_owned(), together.collect()));
    all
}

/// What installations have in common is judged once.
#[test]
fn every_combination_is_valid_for_the_oldest_and_the_newest_kubernetes() {
    let directory = process::temporary_directory();
    let mut distinct = BTreeSet::new();
    for (name, rendered) in installations() {
        let found = rendered.split("\n---\n");
        assert!(found.clone().count() >= 4, "{name}: {rendered}");
        for (number, document) in found.enumerate() {
            if distinct.insert(document) {
                fs::write(directory.path().join(format!("{name}-{number}.yaml")), document).unwrap();
            }
        }
    }
    let paths = files(directory.path().to_str().unwrap(), "yaml");
    assert!(paths.len() > FEATURES.len());
    for version in VERSIONS {
        let mut command = Command::new(python::program("kubernetes-validate"));
        command.args(["--strict", "-k", version]).args(&paths);
        let output = process::run(&mut command, "", Duration::from_secs(300));
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let wrong: Vec<_> = said.lines().filter(|line| line.starts_with("ERROR")).collect();
        assert!(output.status.success() && wrong.is_empty(), "Kubernetes {version}: {wrong:#?}");
        let passed = said.matches("passed for resource").count();
        let unknown = said.matches("Couldn't find schema").count();
        assert_eq!(passed + unknown, paths.len(), "{said}");
        for unknown in said.lines().filter(|line| line.contains("Couldn't find schema")) {
            assert!(FOREIGN.iter().any(|kind| unknown.contains(&format!("kind {kind} "))), "{unknown}");
        }
    }
}

#[test]
fn helm_finds_nothing_to_complain_about() {
    for values in [None, Some(values_of("us")), Some(values_of("apac"))] {
        let mut args = vec!["lint", "--strict", CHART];
        if let Some(values) = &values {
            args.extend(["--values", values]);
        }
        let output = helm(&args);
        assert!(output.status.success(), "{values:?}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

/// Rules and dashboards are shared with the rest of the project, dashboards by a symbolic link.
#[test]
fn a_packaged_chart_is_whole() {
    let directory = process::temporary_directory();
    let folder = directory.path().to_str().unwrap();
    let output = helm(&["package", CHART, "--destination", folder]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let package = format!("{folder}/callsight-{}.tgz", env!("CARGO_PKG_VERSION"));
    let packaged =
        helm(&["template", "callsight", &package, "--namespace", "calls", "--values", &values_of("us")]);
    let packaged = documents(&String::from_utf8(packaged.stdout).unwrap());
    let unpacked = documents(&render(&["--values", &values_of("us")]));
    assert_eq!(names(&packaged), names(&unpacked));
    assert_eq!(packaged, unpacked);
}

/// All pods that a rendered installation makes.
fn pods(documents: &[Value]) -> Vec<(&str, &Value)> {
    let pod = |document: &'_ Value| match document["kind"].as_str().unwrap() {
        "Pod" => Some("/spec"),
        "Deployment" | "StatefulSet" | "Job" => Some("/spec/template/spec"),
        _ => None,
    };
    let with_pods = documents.iter().filter_map(|document| Some((document, pod(document)?)));
    with_pods
        .map(|(document, path)| {
            (document["metadata"]["name"].as_str().unwrap(), document.pointer(path).unwrap())
        })
        .collect()
}

#[test]
fn every_pod_is_without_rights() {
    for (name, rendered) in installations() {
        let found = documents(rendered);
        let pods = pods(&found);
        assert!(!pods.is_empty(), "{name}");
        for (pod, spec) in pods {
            let what = format!("{name}: {pod}");
            assert_eq!(spec["automountServiceAccountToken"], false, "{what}");
            assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{what}");
            assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{what}");
            assert_eq!(spec.get("hostNetwork"), None, "{what}");
            for container in spec["containers"].as_array().unwrap() {
                let security = &container["securityContext"];
                assert_eq!(security["readOnlyRootFilesystem"], true, "{what}");
                assert_eq!(security["allowPrivilegeEscalation"], false, "{what}");
                assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}), "{what}");
                assert!(container["resources"]["limits"]["memory"].is_string(), "{what}");
                assert!(container["resources"]["requests"]["cpu"].is_string(), "{what}");
                for mount in container["volumeMounts"].as_array().into_iter().flatten() {
                    assert_eq!(mount["readOnly"], true, "{what}");
                }
            }
        }
    }
}

/// The labels of a selector are those of the pods that it is for.
fn selects(selector: &Value, pod: &Value) -> bool {
    let labels = &pod["spec"]["template"]["metadata"]["labels"];
    selector.as_object().unwrap().iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[test]
fn services_lead_to_their_colour_and_to_the_active_one() {
    for active in ["blue", "green"] {
        let found = documents(&render(&["--set", &format!("colours.green.enabled=true,active={active}")]));
        for colour in ["blue", "green"] {
            let pods = object(&found, "Deployment", &format!("callsight-{colour}"));
            // Rollouts want a pod that is ready, and people its page above all when it is not.
            for (service, unready) in [("callsight", Value::Null), ("callsight-page", true.into())] {
                let main = &object(&found, "Service", service)["spec"];
                assert_eq!(selects(&main["selector"], pods), active == colour, "{active} {colour}");
                assert_eq!(main["publishNotReadyAddresses"], unready, "{service}");
            }
            for service in ["blue", "green"] {
                let own = &object(&found, "Service", &format!("callsight-{service}"))["spec"];
                assert_eq!(selects(&own["selector"], pods), service == colour);
                assert_eq!(own["publishNotReadyAddresses"], true);
            }
            for (kind, pointer) in [
                ("NetworkPolicy", "/spec/podSelector/matchLabels"),
                ("PodDisruptionBudget", "/spec/selector/matchLabels"),
            ] {
                let selector = object(&found, kind, "callsight").pointer(pointer).unwrap();
                assert!(selects(selector, pods), "{kind} {colour}");
            }
        }
    }
}

/// It reads nothing, so that colours mean nothing to it: not two of it, nor two policies.
#[test]
fn there_is_one_ingest_whichever_colours_run() {
    let monitors =
        "monitoring.monitor.enabled=true,ingest.ingress.enabled=true,ingest.ingress.hosts={a.example}";
    for active in ["blue", "green"] {
        let set = format!("{INGEST},{monitors},colours.green.enabled=true,active={active}");
        let found = documents(&render(&["--set", &set]));
        let named = names(&found);
        for kind in
            ["Deployment", "Service", "Ingress", "NetworkPolicy", "PodDisruptionBudget", "ServiceMonitor"]
        {
            let of_kind = named.iter().filter(|name| **name == format!("{kind}/callsight-ingest"));
            assert_eq!(of_kind.count(), 1, "{kind}: {named:#?}");
        }
        let ingests = named.iter().filter(|name| name.contains("ingest"));
        assert_eq!(ingests.count(), 7, "those, and its settings: {named:#?}");
        let pods =
            ["blue", "green", "ingest"].map(|of| object(&found, "Deployment", &format!("callsight-{of}")));
        for (kind, pointer) in [
            ("Service", "/spec/selector"),
            ("NetworkPolicy", "/spec/podSelector/matchLabels"),
            ("PodDisruptionBudget", "/spec/selector/matchLabels"),
        ] {
            for document in found.iter().filter(|document| document["kind"] == kind) {
                let name = document["metadata"]["name"].as_str().unwrap();
                let selected = pods.map(|pods| selects(document.pointer(pointer).unwrap(), pods));
                assert_eq!(selected[2], name == "callsight-ingest", "{kind} {name}");
                assert!(!selected[2] || selected == [false, false, true], "{kind} {name}: {selected:?}");
            }
        }
    }
}

/// Whoever deploys a version has it taken by the exporters first, and ingest with the switch.
#[test]
fn an_ingest_has_the_image_of_the_active_colour_and_restarts_for_nothing_else() {
    let template = |set: &str| {
        let found = documents(&render(&["--set", &format!("{INGEST},image.tag=1.0.0,{set}")]));
        object(&found, "Deployment", "callsight-ingest")["spec"]["template"].clone()
    };
    let image = |template: &Value| template["spec"]["containers"][0]["image"].as_str().unwrap().to_owned();
    let before = template("colours.blue.image.tag=1.1.0");
    assert!(image(&before).ends_with(":1.1.0"), "{}", image(&before));
    let staged = "colours.blue.image.tag=1.1.0,colours.green.enabled=true,colours.green.image.tag=1.2.0";
    for other in [staged, &format!("{staged},settings.idle-timeout=45s,streams.apply=false")] {
        assert_eq!(template(other), before, "{other}");
    }
    assert!(image(&template(&format!("{staged},active=green"))).ends_with(":1.2.0"));
    assert!(image(&template(&format!("{staged},ingest.image.tag=2.0.0"))).ends_with(":2.0.0"));
    assert_ne!(template("colours.blue.image.tag=1.1.0,ingest.settings.buffer=9"), before);
}

#[test]
fn an_ingest_is_rolled_without_a_moment_in_which_nobody_answers() {
    let found = documents(&render(&["--set", &format!("{INGEST},ingest.drainSeconds=45")]));
    let spec = &object(&found, "Deployment", "callsight-ingest")["spec"];
    assert_eq!(spec["strategy"]["rollingUpdate"], json!({"maxUnavailable": 0, "maxSurge": 1}));
    assert_eq!(spec["replicas"], 2);
    let pod = &spec["template"]["spec"];
    // The drain, 2 s for open requests and 5 s for frames that wait.
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > 45 + 2 + 5, "{pod}");
    for constraint in pod["topologySpreadConstraints"].as_array().unwrap() {
        assert!(selects(
            &constraint["labelSelector"]["matchLabels"],
            object(&found, "Deployment", "callsight-ingest")
        ));
    }
    let scaled = documents(&render(&["--set", &format!("{INGEST},ingest.autoscaling.enabled=true")]));
    let spec = &object(&scaled, "Deployment", "callsight-ingest")["spec"];
    assert_eq!(spec.get("replicas"), None, "an upgrade would undo the scaling");
    let scaler = &object(&scaled, "HorizontalPodAutoscaler", "callsight-ingest")["spec"];
    assert_eq!(scaler["scaleTargetRef"]["name"], "callsight-ingest");
}

#[test]
fn only_frames_are_led_in_from_outside_and_only_by_those_who_are_named() {
    let found = documents(&render(&["--values", &values_of("us"), "--set", "ingest.enabled=true"]));
    let rules = object(&found, "Ingress", "callsight-ingest")["spec"]["rules"].as_array().unwrap();
    for path in rules.iter().flat_map(|rule| rule["http"]["paths"].as_array().unwrap()) {
        assert_eq!((&path["path"], &path["pathType"]), (&json!("/v1/frames"), &json!("Exact")));
    }
    assert!(!rules.is_empty());
    let policy = &object(&found, "NetworkPolicy", "callsight-ingest")["spec"];
    let from = policy["ingress"][0]["from"].as_array().unwrap();
    let namespace =
        |peer: &Value| peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"].clone();
    let from: Vec<_> = from.iter().map(namespace).collect();
    assert_eq!(from, ["ingress-nginx", "monitoring"]);
    assert_eq!(policy["egress"], object(&found, "NetworkPolicy", "callsight")["spec"]["egress"]);
}

/// Two pods of a colour would share its durable, and with it the frames.
#[test]
fn a_colour_never_has_two_pods_for_one_durable() {
    let one = documents(&render(&[]));
    let deployment = object(&one, "Deployment", "callsight-blue");
    assert_eq!(deployment["spec"]["replicas"], 1);
    assert_eq!(deployment["spec"]["strategy"], json!({"type": "Recreate"}));

    let three = documents(&render(&["--set", "shards=3"]));
    assert_eq!(find(&three, "Deployment", "callsight-blue"), None);
    let set = &object(&three, "StatefulSet", "callsight-blue")["spec"];
    assert_eq!(set["replicas"], 3);
    assert_eq!(set["ordinals"]["start"], 1, "shards count from 1");
    let container = &set["template"]["spec"]["containers"][0];
    assert!(container["args"].as_array().unwrap().contains(&json!("--shard=$(SHARD)/3")), "{container}");
    let index = "metadata.labels['apps.kubernetes.io/pod-index']";
    assert_eq!(
        container["env"][0],
        json!({"name": "SHARD", "valueFrom": {"fieldRef": {"fieldPath": index}}})
    );
}

/// Or else a new chart, or a change to green, would restart blue in the middle of a comparison.
#[test]
fn a_colour_restarts_only_for_what_concerns_it() {
    let blue = |set: &str| {
        let found = documents(&render(&["--set", set]));
        object(&found, "Deployment", "callsight-blue")["spec"]["template"].clone()
    };
    let before = blue("image.tag=1.0.0");
    for other in [
        "colours.green.enabled=true,colours.green.image.tag=1.1.0",
        "colours.green.enabled=true,colours.green.settings.idle-timeout=45s",
        "colours.green.enabled=true,active=green",
        "streams.apply=false,monitoring.monitor.enabled=true",
    ] {
        assert_eq!(blue(&format!("image.tag=1.0.0,{other}")), before, "{other}");
    }
    for own in [
        "settings.idle-timeout=45s",
        "colours.blue.settings.idle-timeout=45s",
        "colours.blue.image.tag=1.1.0",
    ] {
        assert_ne!(blue(&format!("image.tag=1.0.0,{own}")), before, "{own}");
    }
    let labels = before["metadata"]["labels"].as_object().unwrap();
    assert!(
        !labels.contains_key("helm.sh/chart") && !labels.contains_key("app.kubernetes.io/version"),
        "{labels:?}"
    );
}

#[test]
fn an_image_of_ones_own_wins_over_that_of_all() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let image = |set: &str| {
        let found = documents(&render(&["--set", set]));
        object(&found, "Deployment", "callsight-blue")["spec"]["template"]["spec"]["containers"][0]["image"]
            .clone()
    };
    let repository = "ghcr.io/callsight/callsight";
    let by_all = format!("image.digest={digest}");
    assert_eq!(image("image.tag="), format!("{repository}:{}", env!("CARGO_PKG_VERSION")));
    assert_eq!(image("image.tag=1.0.0"), format!("{repository}:1.0.0"));
    assert_eq!(image(&by_all), format!("{repository}@{digest}"));
    assert_eq!(image(&format!("{by_all},colours.blue.image.tag=1.1.0")), format!("{repository}:1.1.0"));
    assert_eq!(image(&format!("colours.blue.image.digest={digest}")), format!("{repository}@{digest}"));
    assert_eq!(image("colours.blue.image.repository=mine,image.tag=v2"), "mine:v2");
}
