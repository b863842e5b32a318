//! The rules that ship: promtool finds no fault with them, each is tested both ways, each alert
//! leads to a section of the runbook, and none names a metric or label that doesn't exist.

pub(crate) mod files;
pub(crate) mod known;
pub(crate) mod promql;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use self::known::Known;
use crate::kit::prometheus::promtool;

const UNIT_TESTS: &str = "tests/rules";
const RUNBOOK: &str = "https://github.com/callsight/callsight/blob/main/docs/runbook.md#";

fn assert_content(args: &[&str]) {
    let said = promtool(args, "");
    let words = [said.stdout, said.stderr].concat();
    assert!(said.status.success(), "{args:?}: {}", String::from_utf8_lossy(&words));
}

#[test]
fn promtool_takes_the_configuration_and_its_rules() {
    let config = files::path("helm/callsight/files/prometheus.yml");
    assert_content(&["check", "config", config.to_str().unwrap()]);
}

#[test]
fn the_rules_do_what_their_unit_tests_say() {
    for file in files::list(UNIT_TESTS, "yaml") {
        assert_content(&["test", "rules", files::path(&file).to_str().unwrap()]);
    }
}

#[derive(Deserialize)]
struct UnitTests {
    tests: Vec<UnitTest>,
}

#[derive(Deserialize)]
struct UnitTest {
    #[serde(default)]
    alert_rule_test: Vec<AlertTest>,
    #[serde(default)]
    promql_expr_test: Vec<ExpressionTest>,
}

#[derive(Deserialize)]
struct AlertTest {
    alertname: String,
    exp_alerts: Vec<ExpectedAlert>,
}

#[derive(Deserialize)]
struct ExpectedAlert {
    exp_annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct ExpressionTest {
    expr: String,
}

#[test]
fn every_rule_has_a_unit_test_and_every_alert_one_of_each_kind() {
    let (mut fires, mut silent, mut recorded) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let files = files::list(UNIT_TESTS, "yaml");
    for test in files.iter().flat_map(|file| files::yaml::<UnitTests>(file).tests) {
        // A test of silence in which it fires at another time would prove nothing about the cases
        // of its own.
        let fired: BTreeSet<_> = test
            .alert_rule_test
            .iter()
            .filter(|asked| !asked.exp_alerts.is_empty())
            .map(|asked| asked.alertname.clone())
            .collect();
        for asked in test.alert_rule_test {
            let told = |alert: &ExpectedAlert| {
                ["summary", "description"].iter().all(|key| alert.exp_annotations.contains_key(*key))
            };
            assert!(asked.exp_alerts.iter().all(told), "{}: say what it says", asked.alertname);
            if !fired.contains(&asked.alertname) {
                silent.insert(asked.alertname);
            }
        }
        fires.extend(fired);
        let selectors = test.promql_expr_test.iter().flat_map(|asked| promql::names(&asked.expr).selectors);
        recorded.extend(selectors.map(|selector| selector.metric));
    }
    for rule in files::rules().into_iter().chain(files::optional_rules()) {
        let name = rule.name();
        if rule.record.is_some() {
            assert!(recorded.contains(name), "no test of {name} in {UNIT_TESTS}");
        } else {
            assert!(fires.contains(name), "no test in {UNIT_TESTS} in which {name} fires");
            assert!(silent.contains(name), "no test in {UNIT_TESTS} in which {name} stays silent");
        }
    }
}

#[test]
fn every_alert_says_what_is_wrong_and_leads_to_the_runbook() {
    let runbook = files::text("docs/runbook.md");
    let sections = files::sections(&runbook);
    let mut names = BTreeSet::new();
    for alert in files::alerts() {
        let name = alert.name();
        assert!(names.insert(name.to_owned()), "{name} twice");
        let severity = alert.labels.get("severity").map(String::as_str);
        assert!(matches!(severity, Some("critical" | "warning")), "{name} has severity {severity:?}");
        let keys: Vec<_> = alert.annotations.keys().map(String::as_str).collect();
        assert_eq!(keys, ["description", "runbook_url", "summary"], "{name}");
        // Absence has no number, and a view that is lost has the time since when.
        let number = ["$value", "toTime"].iter().any(|part| alert.annotations["summary"].contains(part))
            || ["CallsightExporterAbsent", "CallsightIngestAbsent"].contains(&name);
        let named = alert.annotations["summary"].contains("$labels.instance");
        assert!(number || named, "{name}: the summary has no number");
        assert_eq!(alert.annotations["runbook_url"], format!("{RUNBOOK}{}", name.to_lowercase()), "{name}");

        let section =
            sections.get(name).unwrap_or_else(|| panic!("docs/runbook.md has no section on {name}"));
        for part in ["**Meaning.** ", "**Look at**", "\n1. ", "\n2. ", "\n3. ", "**Do.** "] {
            assert!(section.contains(part), "{name}: its section in docs/runbook.md has no {part:?}");
        }
        assert!(!section.contains("\n4. "), "{name}: three things to look at are enough");
    }
    for section in sections.keys() {
        assert!(names.contains(*section), "docs/runbook.md has a section on {section}, which is no alert");
    }
}

#[test]
fn rules_and_documents_name_only_what_exists() {
    // It looks at the rules' own expressions, one after the other.
    let known = Known::all();
    let mut looked_at = 0;
    let mut check = |place: &str, expression: &str| {
        looked_at += 1;
        let faults = known.faults(expression);
        assert!(faults.is_empty(), "{place}: {faults:?} in {expression}");
    };
    for alert in files::alerts() {
        for text in alert.annotations.values() {
            for expression in files::asked(text) {
                check(alert.name(), &expression);
            }
        }
    }
    for expression in files::promql(&files::text("docs/runbook.md")) {
        check("docs/runbook.md", &expression);
    }
    for expression in files::last_columns(&files::text("docs/migration.md")) {
        check("docs/migration.md", &expression);
    }
    assert!(looked_at > 120, "only {looked_at} expressions were found");
}
