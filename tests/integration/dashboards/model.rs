//! A dashboard's JSON, as far as the tests look at it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::rules::files;

pub(crate) struct Dashboard {
    pub(crate) uid: String,
    pub(crate) variables: BTreeSet<String>,
    /// Addresses of the links at the top.
    pub(crate) links: Vec<String>,
    json: Value,
}

pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) description: String,
    pub(crate) unit: String,
    /// How many steps there are.
    pub(crate) thresholds: usize,
    pub(crate) expressions: Vec<String>,
    /// What it says where there is no value.
    pub(crate) nothing: Option<String>,
    /// Left, top, width, height.
    pub(crate) position: [u64; 4],
    links: Vec<String>,
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

impl Dashboard {
    pub(crate) fn all() -> Vec<Self> {
        let read = |file: &String| {
            let json: Value = serde_json::from_str(&files::text(file)).unwrap();
            assert_eq!(*file, format!("grafana/dashboards/{}.json", string(&json["uid"])));
            Self {
                uid: string(&json["uid"]),
                variables: list(&json["templating"]["list"])
                    .iter()
                    .map(|variable| string(&variable["name"]))
                    .collect(),
                links: list(&json["links"]).iter().map(|link| string(&link["url"])).collect(),
                json,
            }
        };
        files::list("grafana/dashboards", "json").iter().map(read).collect()
    }

    /// Its panels, without the rows' titles.
    pub(crate) fn panels(&self) -> Vec<Panel> {
        let panels = list(&self.json["panels"]).iter().filter(|panel| panel["type"] != "row");
        panels
            .map(|panel| {
                let defaults = &panel["fieldConfig"]["defaults"];
                Panel {
                    title: string(&panel["title"]),
                    description: string(&panel["description"]),
                    unit: string(&defaults["unit"]),
                    thresholds: list(&defaults["thresholds"]["steps"]).len(),
                    expressions: list(&panel["targets"])
                        .iter()
                        .map(|target| string(&target["expr"]))
                        .collect(),
                    nothing: defaults["noValue"].as_str().map(str::to_owned),
                    position: ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap()),
                    links: list(&defaults["links"]).iter().map(|link| string(&link["url"])).collect(),
                }
            })
            .collect()
    }

    /// Addresses that a click on a series or a row leads to.
    pub(crate) fn data_links(&self) -> Vec<String> {
        self.panels().into_iter().flat_map(|panel| panel.links).collect()
    }

    /// Every expression of panels, variables and annotations, each with its place.
    pub(crate) fn expressions(&self) -> Vec<(String, String)> {
        let at = |what: &str| format!("{} / {what}", self.uid);
        let mut all = Vec::new();
        for panel in self.panels() {
            all.extend(panel.expressions.into_iter().map(|expression| (at(&panel.title), expression)));
        }
        let variables =
            list(&self.json["templating"]["list"]).iter().filter(|variable| variable["type"] == "query");
        for variable in variables {
            let place = at(&format!("variable {}", variable["name"]));
            all.push((place, label_values(&string(&variable["query"]["query"]))));
        }
        for annotation in list(&self.json["annotations"]["list"]) {
            let place = at(&format!("annotation {}", annotation["name"]));
            all.push((place, string(&annotation["target"]["expr"])));
        }
        all
    }
}

/// `label_values(SELECTOR, LABEL)` as Prometheus would be asked it.
fn label_values(query: &str) -> String {
    let inner = query.strip_prefix("label_values(").and_then(|query| query.strip_suffix(')'));
    let (selector, label) =
        inner.and_then(|inner| inner.rsplit_once(", ")).unwrap_or_else(|| panic!("{query}"));
    format!("count by ({label}) ({selector})")
}

/// The expression with what Grafana would fill in for its variables, when all of everything is
/// selected.
pub(crate) fn filled_in(expression: &str) -> String {
    let mut text =
        expression.replace("$__rate_interval", "20s").replace("$__range", "1m").replace("$job", "callsight");
    // The longer names first: `$server_type` begins with `$server`.
    for variable in ["$server_type", "$server", "$region", "$meeting", "$session"] {
        text = text.replace(variable, ".*");
    }
    assert!(!text.contains('$') || text.contains("\"$1\""), "what is filled in here? {text}");
    text
}
