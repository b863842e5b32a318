//! The files of rules as they ship, and the runbook that they lead to.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A recording rule or an alert.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    pub(crate) record: Option<String>,
    pub(crate) alert: Option<String>,
    pub(crate) expr: String,
    #[serde(rename = "for")]
    pub(crate) _pending: Option<String>,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Rule {
    pub(crate) fn name(&self) -> &str {
        self.alert.as_ref().or(self.record.as_ref()).unwrap()
    }
}

#[derive(Deserialize)]
struct RuleFile {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

/// A file of the project.
pub(crate) fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

pub(crate) fn text(relative: &str) -> String {
    let path = path(relative);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files of a folder with this extension, in order, as paths relative to the project.
pub(crate) fn list(folder: &str, extension: &str) -> Vec<String> {
    let entries = fs::read_dir(path(folder)).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries
        .map(|name| name.into_string().unwrap())
        .filter(|name| Path::new(name).extension().is_some_and(|found| found == extension))
        .map(|name| format!("{folder}/{name}"))
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no .{extension} in {folder}");
    names
}

pub(crate) fn yaml<T: DeserializeOwned>(relative: &str) -> T {
    yaml_serde::from_str(&text(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"))
}

/// All rules that ship: first those that record, for the alerts build on them.
pub(crate) fn rules() -> Vec<Rule> {
    rules_in("helm/callsight/files/rules")
}

/// Those that are loaded only on request: the metric names of videocall.rs.
pub(crate) fn optional_rules() -> Vec<Rule> {
    rules_in("helm/callsight/files/rules/optional")
}

fn rules_in(folder: &str) -> Vec<Rule> {
    let files = list(folder, "yaml");
    let groups = files.iter().flat_map(|file| yaml::<RuleFile>(file).groups);
    let mut rules: Vec<_> = groups.flat_map(|group| group.rules).collect();
    rules.sort_by_key(|rule| rule.alert.is_some());
    rules
}

/// The alerts among them.
pub(crate) fn alerts() -> Vec<Rule> {
    rules().into_iter().filter(|rule| rule.alert.is_some()).collect()
}

/// The expressions in the text of an alert: what its templates ask Prometheus, with something for
/// what they fill in.
pub(crate) fn asked(annotation: &str) -> Vec<String> {
    let quoted = annotation.split('"').skip(1).step_by(2);
    quoted
        .filter(|text| text.contains("videocall_") || text.contains("callsight_"))
        .map(|text| text.replace("%s", "any").replace("%f", "1"))
        .collect()
}

/// A section of a document, by its heading of the third level.
pub(crate) fn sections(document: &str) -> BTreeMap<&str, &str> {
    document
        .split("\n### ")
        .skip(1)
        .map(|section| {
            let (heading, body) = section.split_once('\n').unwrap();
            (heading, body.split("\n## ").next().unwrap())
        })
        .collect()
}

/// What the last columns of a document's tables ask.
pub(crate) fn last_columns(document: &str) -> Vec<String> {
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix("` |"));
    rows.map(|row| row.rsplit_once("| `").unwrap().1.to_owned()).collect()
}

/// The blocks of PromQL in a document.
pub(crate) fn promql(document: &str) -> Vec<String> {
    let blocks = document.split("```promql\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().trim().to_owned()).collect()
}
