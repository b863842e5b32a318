//! Rule files of Prometheus, as far as judging the past by them needs to know them.
//!
//! Expressions are Prometheus's business. Here it only has to be known what is recorded from what, so that it can be
//! recorded in that order, and what a rule asks for that a replay doesn't have.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use serde::Deserialize;
use serde::de::{Deserializer, Error};

use super::sample::Table;
use crate::config::one_line;
use callsight_fold::series::catalogue::CATALOGUE;

/// Why rules can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// A file can't be read.
    #[error("cannot read `{}` of --rules", one_line(&path.display().to_string()))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file holds no rules.
    #[error("`{}` is no rule file: {}; `promtool check rules` tells more", one_line(&path.display().to_string()), one_line(problem))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// No file has an alert.
    #[error("the files of --rules have no alert: there is nothing to judge")]
    NoAlert,
}

/// A series that is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// Its name.
    pub name: String,
    /// From what.
    pub expression: String,
    /// The labels that it gets.
    pub labels: BTreeMap<String, String>,
}

/// An alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Its name.
    pub name: String,
    /// When.
    pub expression: String,
    /// The labels that it gets.
    pub labels: BTreeMap<String, String>,
    /// How long it must have been so, `for`.
    pub after: Duration,
    /// How long it goes on once it is no more, `keep_firing_for`.
    pub keep: Duration,
    /// How often it is looked at, if its group says so.
    pub every: Option<Duration>,
}

/// The rules of some files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// What is recorded.
    pub recordings: Vec<Recording>,
    /// What is judged.
    pub alerts: Vec<Alert>,
}

#[derive(Deserialize)]
struct File {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default, deserialize_with = "duration")]
    interval: Duration,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    record: Option<String>,
    alert: Option<String>,
    expr: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default, rename = "for", deserialize_with = "duration")]
    after: Duration,
    #[serde(default, rename = "keep_firing_for", deserialize_with = "duration")]
    keep: Duration,
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|_| D::Error::custom(format!("`{text}` is no duration")))
}

impl Rules {
    /// Reads rule files.
    ///
    /// # Errors
    /// [`RulesError`].
    pub fn read(paths: &[PathBuf]) -> Result<Self, RulesError> {
        let mut rules = Self::default();
        for path in paths {
            let unreadable = |source| RulesError::Unreadable { path: path.clone(), source };
            rules.add(path, &fs::read_to_string(path).map_err(unreadable)?)?;
        }
        if rules.alerts.is_empty() { Err(RulesError::NoAlert) } else { Ok(rules) }
    }

    fn add(&mut self, path: &Path, text: &str) -> Result<(), RulesError> {
        let malformed = |problem| RulesError::Malformed { path: path.to_owned(), problem };
        let file: File = yaml_serde::from_str(text).map_err(|error| malformed(error.to_string()))?;
        for group in file.groups {
            let every = Some(group.interval).filter(|interval| !interval.is_zero());
            for Rule { record, alert, expr: expression, labels, after, keep } in group.rules {
                match (record, alert) {
                    (Some(name), None) => self.recordings.push(Recording { name, expression, labels }),
                    (None, Some(name)) => {
                        self.alerts.push(Alert { name, expression, labels, after, keep, every });
                    }
                    _ => return Err(malformed("a rule has either `record` or `alert`".to_owned())),
                }
            }
        }
        Ok(())
    }

    /// What is recorded, in an order in which each is recorded after what it is recorded from. What is recorded from
    /// itself comes last.
    #[must_use]
    pub fn levels(&self) -> Vec<Vec<&Recording>> {
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

    /// What an expression asks for, directly or by what is recorded, that a replay doesn't have: it was the
    /// exporter's or Prometheus's own, and is not in the stream.
    #[must_use]
    pub fn missing(&self, expression: &str) -> BTreeSet<String> {
        let (mut missing, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut left = vec![expression];
        while let Some(expression) = left.pop() {
            for name in names(expression) {
                if !seen.insert(name) {
                    continue;
                }
                let recorded: Vec<_> =
                    self.recordings.iter().filter(|recording| recording.name == name).collect();
                if recorded.is_empty() && is_not_in_the_stream(name) {
                    missing.insert(name.to_owned());
                }
                left.extend(recorded.iter().map(|recording| recording.expression.as_str()));
            }
        }
        missing
    }

    /// Which tables of a replay any of the rules may ask for.
    #[must_use]
    pub fn tables(&self) -> Vec<bool> {
        let recorded = self.recordings.iter().map(|recording| &recording.expression);
        let judged = self.alerts.iter().map(|alert| &alert.expression);
        let asked: BTreeSet<_> = recorded.chain(judged).flat_map(|expression| names(expression)).collect();
        let wanted = |table: &Table| table.columns.iter().any(|column| asked.contains(&*column.name));
        Table::all().iter().map(wanted).collect()
    }
}

/// Whether a name is that of a metric that somebody scraped serves, and no replay has.
fn is_not_in_the_stream(name: &str) -> bool {
    let is = |metric: &str| {
        name.strip_prefix(metric).is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
    };
    let replayed = || Table::all().iter().any(|table| table.columns.iter().any(|column| column.name == name));
    ["up", "ALERTS", "ALERTS_FOR_STATE"].contains(&name)
        || ["process_", "scrape_", "prometheus_"].iter().any(|prefix| name.starts_with(prefix))
        || (CATALOGUE.iter().any(|metric| is(metric.name)) && !replayed())
}

/// Everything in an expression that may be a name: what it is, Prometheus knows.
fn names(expression: &str) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    // A string may hold anything, and no metric.
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

    fn read(text: &str) -> Result<Rules, RulesError> {
        let mut rules = Rules::default();
        rules.add(Path::new("rules.yaml"), text).map(|()| rules)
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
        assert_eq!((bad.after, bad.keep), (Duration::from_secs(90), Duration::from_secs(10)));
        assert_eq!(bad.every, Some(Duration::from_secs(5)));
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
            ("groups: 3", "no rule file"),
            ("groups: [{name: g, rules: [{expr: x}]}]", "either `record` or `alert`"),
            ("groups: [{name: g, rules: [{alert: A, expr: x, for: soon}]}]", "`soon` is no duration"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("rules.yaml") && error.contains(says), "{error}");
        }
    }
}
