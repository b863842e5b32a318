//! Rules, dashboards and monitors: what Kubernetes knows nothing about, and Prometheus and Grafana
//! have to take.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{INGEST, documents, files, object, render, root};
use crate::kit::process::temporary_directory;
use crate::kit::prometheus::promtool;

const RULES: &str = "monitoring.rules.enabled=true,monitoring.rules.labels.release=prometheus";

fn of_kind<'a>(found: &'a [Value], kind: &str) -> Vec<&'a Value> {
    found.iter().filter(|document| document["kind"] == kind).collect()
}

fn stem(path: &Path) -> &str {
    path.file_stem().unwrap().to_str().unwrap()
}

/// The ConfigMap of a dashboard: `callsight-dashboard-rtt` of `callsight-rtt.json`.
fn dashboard_map(path: &Path) -> String {
    format!("callsight-dashboard-{}", stem(path).trim_start_matches("callsight-"))
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn the_rules_in_kubernetes_are_those_of_the_project_and_promtool_takes_them() {
    let by_default = documents(&render(&["--set", RULES]));
    let sources = files("helm/callsight/files/rules", "yaml");
    assert_eq!(of_kind(&by_default, "PrometheusRule").len(), sources.len());
    assert!(!sources.is_empty());

    let found = documents(&render(&["--set", RULES, "--set", "monitoring.rules.videocall=true"]));
    let optional = files("helm/callsight/files/rules/optional", "yaml");
    assert_eq!(of_kind(&found, "PrometheusRule").len(), sources.len() + optional.len());
    for source in sources.into_iter().chain(optional) {
        let rule = object(&found, "PrometheusRule", &format!("callsight-{}", stem(&source)));
        assert_eq!(rule["apiVersion"], "monitoring.coreos.com/v1");
        assert_eq!(rule["metadata"]["labels"]["release"], "prometheus");
        assert_eq!(keys(&rule["spec"]), BTreeSet::from(["groups"]));
        // The names of a PrometheusRule's groups are unique in it; promtool sees to that, and to
        // everything inside.
        let written: Value = yaml_serde::from_str(&fs::read_to_string(&source).unwrap()).unwrap();
        assert_eq!(rule["spec"], written, "{source:?}");
        let directory = temporary_directory();
        let path = directory.path().join("rules.yaml");
        fs::write(&path, yaml_serde::to_string(&rule["spec"]).unwrap()).unwrap();
        let output = promtool(&["check", "rules", path.to_str().unwrap()], "");
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("SUCCESS"), "{source:?}: {said}");
    }
}

#[test]
fn the_dashboards_in_kubernetes_are_those_of_the_project() {
    let set = "monitoring.dashboards.enabled=true,monitoring.dashboards.annotations.folder=Calls";
    let found = documents(&render(&["--set", set]));
    let sources = files("grafana/dashboards", "json");
    assert!(!sources.is_empty());
    let maps: Vec<_> = of_kind(&found, "ConfigMap")
        .into_iter()
        .filter(|map| map["metadata"]["labels"]["grafana_dashboard"] == "1")
        .collect();
    assert_eq!(maps.len(), sources.len());
    for source in sources {
        let map = object(&found, "ConfigMap", &dashboard_map(&source));
        assert_eq!(map["metadata"]["annotations"]["folder"], "Calls");
        let name = source.file_name().unwrap().to_str().unwrap();
        let kept = fs::read_to_string(&source).unwrap();
        let dashboard = map["data"][name].as_str().unwrap();
        assert_eq!(dashboard.trim(), kept.trim());
        assert!(dashboard.len() < 1 << 20, "{name} is too large for a ConfigMap");
        assert!(serde_json::from_str::<Value>(dashboard).unwrap()["title"].is_string(), "{name}");
    }
}

/// What a monitor would make Prometheus do, as a configuration for promtool.
fn scrape_config(endpoint: &Value) -> String {
    let relabel = |rule: &Value| {
        json!({
            "source_labels": rule["sourceLabels"],
            "target_label": rule["targetLabel"],
            "replacement": rule["replacement"],
        })
    };
    let rules: Vec<_> = endpoint["relabelings"].as_array().unwrap().iter().map(relabel).collect();
    let job = json!({
        "job_name": "monitor",
        "scrape_interval": endpoint["interval"],
        "metrics_path": endpoint["path"],
        "scheme": endpoint["scheme"],
        "relabel_configs": rules,
    });
    yaml_serde::to_string(&json!({"scrape_configs": [job]})).unwrap()
}

#[test]
fn a_monitor_finds_each_colour_once_as_a_job_of_its_own() {
    for kind in ["ServiceMonitor", "PodMonitor"] {
        let set = format!(
            "colours.green.enabled=true,monitoring.monitor.enabled=true,monitoring.monitor.kind={kind},\
             monitoring.monitor.labels.release=prometheus,webConfig.scheme=HTTPS,webConfig.secret=web,\
             monitoring.monitor.basicAuth.username.name=web,monitoring.monitor.basicAuth.username.key=user,\
             monitoring.monitor.basicAuth.password.name=web,monitoring.monitor.basicAuth.password.key=password,\
             monitoring.monitor.tlsConfig.ca.secret.name=web,monitoring.monitor.tlsConfig.ca.secret.key=ca.crt"
        );
        let found = documents(&render(&["--set", &set]));
        let monitor = object(&found, kind, "callsight");
        assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
        let (endpoints, targets) = match kind {
            "ServiceMonitor" => ("endpoints", of_kind(&found, "Service")),
            _ => ("podMetricsEndpoints", of_kind(&found, "Deployment")),
        };
        assert_eq!(keys(&monitor["spec"]), BTreeSet::from([endpoints, "selector"]), "{kind}");
        let wanted = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
        let labels = |target: &Value| match kind {
            "ServiceMonitor" => target["metadata"]["labels"].clone(),
            _ => target["spec"]["template"]["metadata"]["labels"].clone(),
        };
        let chosen: Vec<_> = targets
            .iter()
            .filter(|target| wanted.iter().all(|(key, value)| labels(target).get(key) == Some(value)))
            .map(|target| target["metadata"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(chosen, ["callsight-blue", "callsight-green"], "{kind}");

        let endpoint = &monitor["spec"][endpoints][0];
        let known =
            BTreeSet::from(["port", "path", "interval", "scheme", "relabelings", "basicAuth", "tlsConfig"]);
        assert_eq!(keys(endpoint), known, "{kind}");
        assert_eq!((&endpoint["port"], &endpoint["scheme"]), (&json!("http"), &json!("https")));
        assert_eq!(endpoint["basicAuth"]["password"], json!({"name": "web", "key": "password"}));
        let job = &endpoint["relabelings"][0];
        assert_eq!((&job["targetLabel"], &job["replacement"]), (&json!("job"), &json!("callsight-$1")));

        let directory = temporary_directory();
        let path = directory.path().join("prometheus.yml");
        fs::write(&path, scrape_config(endpoint)).unwrap();
        let output = promtool(&["check", "config", path.to_str().unwrap()], "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A password that the exporter asks for is not sent, in the clear, to an ingest without one.
#[test]
fn a_monitor_finds_the_ingest_alone_and_shows_no_password_unasked() {
    let auth =
        "monitoring.monitor.basicAuth.password.name=web,monitoring.monitor.basicAuth.password.key=password";
    for (kind, pods, list) in
        [("ServiceMonitor", "Service", "endpoints"), ("PodMonitor", "Deployment", "podMetricsEndpoints")]
    {
        let set = format!("{INGEST},monitoring.monitor.enabled=true,monitoring.monitor.kind={kind},{auth}");
        let found = documents(&render(&["--set", &set]));
        let spec = &object(&found, kind, "callsight-ingest")["spec"];
        let wanted = spec["selector"]["matchLabels"].as_object().unwrap();
        let chosen = of_kind(&found, pods).into_iter().filter(|target| {
            let template = &target["spec"]["template"]["metadata"]["labels"];
            let labels = if pods == "Service" { &target["metadata"]["labels"] } else { template };
            wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
        });
        let chosen: Vec<_> = chosen.map(|target| target["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(chosen, ["callsight-ingest"], "{kind}");
        let endpoint = &spec[list][0];
        assert_eq!(
            endpoint["relabelings"][0],
            json!({"targetLabel": "job", "replacement": "callsight-ingest"})
        );
        assert_eq!(endpoint.get("basicAuth"), None, "{kind}");
        let web = format!("{set},ingest.webConfig.secret=web,ingest.webConfig.scheme=HTTPS");
        let found = documents(&render(&["--set", &web]));
        let endpoint = &object(&found, kind, "callsight-ingest")["spec"][list][0];
        assert_eq!(
            (&endpoint["scheme"], &endpoint["basicAuth"]["password"]["key"]),
            (&json!("https"), &json!("password"))
        );
    }
}

#[test]
fn dashboards_are_in_the_chart_by_a_link_and_not_a_copy() {
    let link = root().join("helm/callsight/files/dashboards");
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("../../../grafana/dashboards"));
    assert_eq!(fs::canonicalize(link).unwrap(), fs::canonicalize(root().join("grafana/dashboards")).unwrap());
}
