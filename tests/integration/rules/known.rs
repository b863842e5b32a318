//! The metrics and labels that there are: those of the catalogue, what the rules record, and what
//! Prometheus adds.

use std::collections::{BTreeMap, BTreeSet};

use callsight_fold::series::catalogue::{CATALOGUE, Kind};

use super::files::{self, Rule};
use super::promql::names;

/// What Prometheus puts on every series that it scrapes.
const TARGET: &[&str] = &["job", "instance"];

/// What is not Callsight's own: Prometheus's, and the standard metrics of a process.
const OTHERS: &[(&str, &[&str])] = &[
    ("up", &[]),
    ("scrape_duration_seconds", &[]),
    ("scrape_samples_scraped", &[]),
    ("process_cpu_seconds_total", &[]),
    ("process_resident_memory_bytes", &[]),
    ("process_open_fds", &[]),
    ("process_max_fds", &[]),
    ("process_start_time_seconds", &[]),
    ("ALERTS", &["alertname", "alertstate", "severity", "region", "server_url", "server_type", "signal"]),
];

/// Every metric with its labels.
pub(crate) struct Known(BTreeMap<String, BTreeSet<String>>);

impl Known {
    pub(crate) fn all() -> Self {
        let mut known = BTreeMap::new();
        let mut add = |name: &str, labels: &[&str]| {
            let labels = labels.iter().chain(TARGET).map(|&label| label.to_owned()).collect::<BTreeSet<_>>();
            assert!(known.insert(name.to_owned(), labels).is_none(), "{name} twice");
        };
        for metric in CATALOGUE {
            if matches!(metric.kind, Kind::Histogram(_)) {
                add(&format!("{}_bucket", metric.name), &[metric.labels, &["le"]].concat());
                add(&format!("{}_sum", metric.name), metric.labels);
                add(&format!("{}_count", metric.name), metric.labels);
            } else {
                add(metric.name, metric.labels);
            }
        }
        for (name, labels) in OTHERS {
            add(name, labels);
        }
        let mut known = Self(known);
        known.record(files::rules());
        known
    }

    /// Adds what the rules record. A rule only uses what was recorded before it, and takes no name
    /// that there is.
    pub(crate) fn record(&mut self, rules: Vec<Rule>) {
        for rule in rules {
            let faults = self.faults(&rule.expr);
            assert!(faults.is_empty(), "{}: {faults:?}", rule.name());
            if let Some(record) = rule.record {
                let found = names(&rule.expr);
                let labels = if found.by.is_empty() {
                    found.selectors.iter().flat_map(|selector| self.0[&selector.metric].clone()).collect()
                } else {
                    found.by
                };
                let more =
                    labels.into_iter().filter(|label| label != "le" && !TARGET.contains(&label.as_str()));
                let before = self.0.insert(record.clone(), more.collect());
                assert_eq!(before, None, "{record} twice");
            }
        }
    }

    /// What an expression names and there isn't.
    pub(crate) fn faults(&self, expression: &str) -> Vec<String> {
        let found = names(expression);
        let mut faults = Vec::new();
        let mut there = BTreeSet::new();
        for selector in &found.selectors {
            let Some(labels) = self.0.get(&selector.metric) else {
                faults.push(format!("there is no metric {}", selector.metric));
                continue;
            };
            there.extend(labels);
            let unknown = selector.labels.difference(labels);
            faults.extend(unknown.map(|label| format!("{} has no label {label}", selector.metric)));
        }
        there.extend(&found.made);
        let grouped = found.by.iter().chain(&found.others).filter(|label| !there.contains(label));
        faults.extend(grouped.map(|label| format!("nothing here has a label {label}")));
        faults
    }
}

#[test]
fn a_name_that_does_not_exist_is_found() {
    let known = Known::all();
    let faults = |expression| known.faults(expression).join("; ");
    assert_eq!(faults("sum by (region) (rate(videocall_rtt_seconds_bucket{le=\"0.3\",job=\"a\"}[5m]))"), "");
    assert_eq!(faults("region:videocall_sessions_degraded:ratio{signal=\"rtt\"}"), "");
    assert_eq!(faults("videocall_rtt_seconds"), "there is no metric videocall_rtt_seconds");
    assert_eq!(faults("videocall_sessions{signal=\"rtt\"}"), "videocall_sessions has no label signal");
    assert_eq!(
        faults("region:videocall_sessions:sum{server_url=\"\"}"),
        "region:videocall_sessions:sum has no label server_url"
    );
    assert_eq!(faults("sum by (user) (videocall_sessions)"), "nothing here has a label user");
}
