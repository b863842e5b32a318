//! Rule files of Prometheus.
//!
//! Expressions are left to Prometheus. A backtest only needs to know which recording rule depends
//! on which, to evaluate them in that order, and what a rule needs that a replay does not have.
//!
//! Invariant: no metric in an expression is missed, though a word that is not a metric may be taken
//! for one.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error};

use crate::config::{one_line, read_text};
use crate::replay::InputError;
use crate::replay::prometheus::Labels;
use crate::replay::sample::Table;
use callsight_fold::series::catalogue::CATALOGUE;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingRule {
    /// The name of the series.
    pub name: String,
    pub expression: String,
    /// Labels that its series get.
    pub labels: Labels,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertRule {
    /// The name of the alert.
    pub name: String,
    pub expression: String,
    /// Labels that its alerts get.
    pub labels: Labels,
    /// `for`: how long the expression must hold before the alert fires.
    pub hold: Duration,
    /// `keep_firing_for`: how long the alert fires after the expression no longer holds.
    pub keep_firing: Duration,
    /// How often the rule is evaluated, if its group says so.
    pub interval: Option<Duration>,
}

/// The rules of some files, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    pub recordings: Vec<RecordingRule>,
    pub alerts: Vec<AlertRule>,
}

#[derive(Deserialize)]
struct RuleFile {
    groups: Vec<RuleGroup>,
}

#[derive(Deserialize)]
struct RuleGroup {
    #[serde(default, deserialize_with = "duration")]
    interval: Duration,
    #[serde(default)]
    rules: Vec<RawRule>,
}

#[derive(Deserialize)]
struct RawRule {
    record: Option<String>,
    alert: Option<String>,
    expr: String,
    #[serde(default)]
    labels: Labels,
    #[serde(default, rename = "for", deserialize_with = "duration")]
    hold: Duration,
    #[serde(default, rename = "keep_firing_for", deserialize_with = "duration")]
    keep_firing: Duration,
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|_| D::Error::custom(format!("`{text}` is not a duration")))
}

impl RuleSet {
    /// Reads rule files.
    ///
    /// # Errors
    /// A file can't be read, is not a rule file, or no file has an alerting rule.
    pub fn read(paths: &[PathBuf]) -> Result<Self, InputError> {
        let mut rules = Self::default();
        for path in paths {
            let shown = one_line(&path.display().to_string());
            let text = read_text(path)
                .map_err(|error| InputError::caused(format!("cannot read `{shown}` of --rules"), error))?;
            rules.add(&shown, &text)?;
        }
        if rules.alerts.is_empty() {
            return Err(InputError::new("the files of --rules have no alert; add a file that has one"));
        }
        Ok(rules)
    }

    fn add(&mut self, path: &str, text: &str) -> Result<(), InputError> {
        let malformed = |problem: &str| {
            let problem = one_line(problem);
            InputError::new(format!(
                "`{path}` is not a rule file: {problem}; check it with `promtool check rules`"
            ))
        };
        let file: RuleFile = yaml_serde::from_str(text).map_err(|error| malformed(&error.to_string()))?;
        for group in file.groups {
            let interval = Some(group.interval).filter(|interval| !interval.is_zero());
            for RawRule { record, alert, expr: expression, labels, hold, keep_firing } in group.rules {
                match (record, alert) {
                    (Some(name), None) => self.recordings.push(RecordingRule { name, expression, labels }),
                    (None, Some(name)) => {
                        let rule = AlertRule { name, expression, labels, hold, keep_firing, interval };
                        self.alerts.push(rule);
                    }
                    _ => return Err(malformed("a rule has either `record` or `alert`")),
                }
            }
        }
        Ok(())
    }

    /// Recording rules in levels, each of which depends on earlier ones. Rules that depend on
    /// themselves come last.
    #[must_use]
    pub fn levels(&self) -> Vec<Vec<&RecordingRule>> {
        let mut left: Vec<_> = self.recordings.iter().collect();
        let mut levels = Vec::new();
        while !left.is_empty() {
            let waiting: BTreeSet<_> = left.iter().map(|recording| recording.name.as_str()).collect();
            let (ready, rest): (Vec<_>, Vec<_>) =
                left.iter().partition(|recording| names(&recording.expression).is_disjoint(&waiting));
            if ready.is_empty() {
                levels.push(rest);
                break;
            }
            levels.push(ready);
            left = rest;
        }
        levels
    }

    /// Metrics that an expression needs, directly or through recording rules, and that a replay
    /// does not have: those about the exporter and those of Prometheus itself.
    #[must_use]
    pub fn missing(&self, expression: &str) -> BTreeSet<String> {
        let (mut missing, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut left = vec![expression];
        while let Some(expression) = left.pop() {
            for name in names(expression) {
                if !seen.insert(name) {
                    continue;
                }
                let before = left.len();
                let recorded = self.recordings.iter().filter(|rule| rule.name == name);
                left.extend(recorded.map(|rule| rule.expression.as_str()));
                if left.len() == before && is_not_in_the_stream(name) {
                    missing.insert(name.to_owned());
                }
            }
        }
        missing
    }

    /// For each of [`Table::all`], whether a rule may need it.
    #[must_use]
    pub fn tables(&self) -> Vec<bool> {
        let recorded = self.recordings.iter().map(|recording| &recording.expression);
        let judged = self.alerts.iter().map(|alert| &alert.expression);
        let asked: BTreeSet<_> = recorded.chain(judged).flat_map(|expression| names(expression)).collect();
        let wanted = |table: &Table| table.columns.iter().any(|column| asked.contains(&*column.name));
        Table::all().iter().map(wanted).collect()
    }
}

/// Whether a metric of this name is scraped live, but can't be replayed.
fn is_not_in_the_stream(name: &str) -> bool {
    let is = |metric: &str| {
        name.strip_prefix(metric).is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
    };
    let replayed = || Table::all().iter().any(|table| table.columns.iter().any(|column| column.name == name));
    ["up", "ALERTS", "ALERTS_FOR_STATE"].contains(&name)
        || ["process_", "scrape_", "prometheus_"].iter().any(|prefix| name.starts_with(prefix))
        || (CATALOGUE.iter().any(|metric| is(metric.name)) && !replayed())
}

/// Everything in an expression that may be a name.
fn names(expression: &str) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    // Every other part is inside a string.
    for (place, part) in expression.split(['"', '\'', '`']).enumerate() {
        if place % 2 == 1 {
            continue;
        }
        let part = part
            .split(|character: char| !(character.is_ascii_alphanumeric() || matches!(character, '_' | ':')));
        names.extend(part.filter(|name| !name.is_empty()));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<RuleSet, InputError> {
        let mut rules = RuleSet::default();
        rules.add("rules.yaml", text).map(|()| rules)
    }

    const TEXT: &str = r#"
groups:
  - name: recorded
    rules:
      - {record: "b:ratio", expr: 'a:sum{x="c:sum"} / 2'}
      - {record: "a:sum", expr: "sum(videocall_sessions)", labels: {kind: sum}}
      - {record: "lag:max", expr: "max(callsight_consumer_pending_frames)"}
  - name: judged
    interval: 5s
    rules:
      - {alert: Bad, expr: "b:ratio > 0.2", for: 1m30s, keep_firing_for: 10s, labels: {severity: critical}}
      - {alert: Behind, expr: "lag:max > 10"}
      - {alert: Gone, expr: 'up{job="callsight"} == 0'}
"#;

    #[test]
    fn rules_are_read_as_prometheus_writes_them() {
        let rules = read(TEXT).unwrap();
        let bad = &rules.alerts[0];
        assert_eq!((bad.hold, bad.keep_firing), (Duration::from_secs(90), Duration::from_secs(10)));
        assert_eq!(bad.interval, Some(Duration::from_secs(5)));
        assert_eq!(bad.labels["severity"], "critical");
        assert_eq!(rules.recordings[1].labels["kind"], "sum");
    }

    #[test]
    fn what_is_recorded_from_something_recorded_comes_later() {
        let rules = read(TEXT).unwrap();
        let levels: Vec<Vec<_>> = rules
            .levels()
            .iter()
            .map(|level| level.iter().map(|recording| recording.name.as_str()).collect())
            .collect();
        assert_eq!(levels, [vec!["a:sum", "lag:max"], vec!["b:ratio"]]);
        let round = read("groups: [{name: g, rules: [{record: 'a:x', expr: 'a:x'}]}]").unwrap();
        assert_eq!(round.levels().len(), 1);
    }

    #[test]
    fn what_a_replay_does_not_have_is_found_through_what_is_recorded() {
        let rules = read(TEXT).unwrap();
        let missing: Vec<_> = rules.alerts.iter().map(|alert| rules.missing(&alert.expression)).collect();
        assert!(missing[0].is_empty(), "{missing:?}");
        assert!(missing[1].contains("callsight_consumer_pending_frames"), "{missing:?}");
        assert!(missing[2].contains("up"), "{missing:?}");
    }

    #[test]
    fn only_tables_that_are_asked_for_are_kept() {
        let rules = read(TEXT).unwrap();
        let kept: Vec<_> = Table::all().iter().zip(rules.tables()).filter(|(_, kept)| *kept).collect();
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].0.families[0].metric.name, "videocall_sessions");
    }

    #[test]
    fn a_mistake_says_where_it_is() {
        for (text, says) in [
            ("groups: 3", "not a rule file"),
            ("groups: [{name: g, rules: [{expr: x}]}]", "either `record` or `alert`"),
            ("groups: [{name: g, rules: [{alert: A, expr: x, for: soon}]}]", "`soon` is not a duration"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("rules.yaml") && error.contains(says), "{error}");
        }
    }
}
