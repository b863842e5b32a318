//! The dashboards: what is in them, that Grafana would take it, and that Prometheus has an answer
//! to every question.

mod answers;
mod browsers;
mod model;
mod videocall;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use self::model::Dashboard;
use crate::kit::process::temporary_directory;
use crate::kit::{process, python, tool};
use crate::rules::files;
use crate::rules::known::Known;

#[test]
fn the_json_is_what_the_source_says() {
    let script = files::path("grafana/generate.py");
    let output = python::run(&[script.to_str().unwrap(), "--check"], "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Puts each dashboard where TypeScript expects what Grafana's own types say, and lets the compiler
/// judge.
#[test]
fn the_json_is_what_grafana_calls_a_dashboard() {
    tool::ensure("grafana-schema");
    let tools = tool::directory().join("grafana-schema/node_modules");
    let compiler = tools.join("typescript/bin/tsc");
    let folder = temporary_directory();
    std::os::unix::fs::symlink(&tools, folder.path().join("node_modules")).unwrap();
    fs::copy(files::path("tests/grafana/schema.ts"), folder.path().join("schema.ts")).unwrap();
    let mut command = Command::new(tool::find("node", "grafana-schema"));
    command.arg(compiler).args(["--noEmit", "--strict", "--skipLibCheck", "--target", "esnext"]);
    command.args(["--module", "esnext", "--moduleResolution", "bundler"]);
    for (number, file) in files::list("grafana/dashboards", "json").iter().enumerate() {
        let json = files::text(file);
        let page = folder.path().join(format!("page{number}.ts"));
        fs::write(
            &page,
            format!("import type {{ Page }} from './schema';\nexport const page: Page = {json};\n"),
        )
        .unwrap();
        command.arg(page);
    }
    // What must not pass, so that a compiler that looks at nothing is noticed.
    let wrong = folder.path().join("wrong.ts");
    fs::write(&wrong, "import type { Page } from './schema';\nexport const page: Page = { uid: 1 };\n")
        .unwrap();
    command.arg(wrong);
    let output = process::run(&mut command, "", Duration::from_secs(120));
    let said = String::from_utf8_lossy(&output.stdout);
    let (expected, errors): (Vec<_>, Vec<_>) =
        said.lines().filter(|line| line.contains("error TS")).partition(|line| line.contains("wrong.ts"));
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    assert!(
        !expected.is_empty(),
        "the compiler did not judge: {said} {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn every_panel_says_what_it_shows_in_which_unit_and_when_it_is_bad() {
    let dashboards = Dashboard::all();
    let uids: BTreeSet<_> = dashboards.iter().map(|dashboard| &dashboard.uid).collect();
    assert_eq!(uids.len(), 6, "{uids:?}");
    for dashboard in &dashboards {
        let mut taken = BTreeSet::new();
        for panel in dashboard.panels() {
            let place = format!("{} / {}", dashboard.uid, panel.title);
            assert!(
                panel.description.ends_with('.') && panel.description.len() > 15,
                "{place}: no description"
            );
            assert!(!panel.unit.is_empty(), "{place}: no unit");
            assert!(panel.thresholds > 0, "{place}: no thresholds");
            assert!(!panel.expressions.is_empty(), "{place}: no query");
            for expression in &panel.expressions {
                for window in expression.split('[').skip(1).filter_map(|rest| rest.split(']').next()) {
                    // The objective's windows are part of its definition.
                    let objective = dashboard.uid == "callsight-rtt" && ["5m", "1h"].contains(&window);
                    let fits = ["$__rate_interval", "$__range"].contains(&window);
                    assert!(objective || fits, "{place}: a window of {window}");
                }
            }
            let [x, y, width, height] = panel.position;
            assert!(x + width <= 24, "{place}: too wide");
            for cell in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
                assert!(taken.insert(cell), "{place}: on top of another");
            }
        }
    }
}

#[test]
fn dashboards_name_only_what_exists() {
    let known = Known::all();
    for dashboard in Dashboard::all() {
        for (place, expression) in dashboard.expressions() {
            let faults = known.faults(&model::filled_in(&expression));
            assert!(faults.is_empty(), "{place}: {faults:?} in {expression}");
        }
    }
}

#[test]
fn one_gets_from_slow_to_whom_with_time_and_place() {
    let dashboards = Dashboard::all();
    let find = |uid: &str| {
        dashboards.iter().find(|dashboard| dashboard.uid == uid).unwrap_or_else(|| panic!("no {uid}"))
    };
    // What a click may fill in, beside the variables: the time, and labels or columns of what was
    // clicked.
    for dashboard in &dashboards {
        let links = dashboard.data_links();
        for url in &links {
            let (path, query) = url.split_once('?').unwrap();
            let target = find(path.strip_prefix("/d/").unwrap());
            let parts: Vec<_> = query.split('&').collect();
            for part in ["${__url_time_range}", "${datasource:queryparam}", "${job:queryparam}"] {
                assert!(parts.contains(&part), "{}: {url} loses {part}", dashboard.uid);
            }
            for part in parts {
                let carried = part.strip_prefix("${").and_then(|part| part.strip_suffix(":queryparam}"));
                let set = part.strip_prefix("var-").map(|part| part.split('=').next().unwrap());
                if let Some(name) = carried {
                    assert!(dashboard.variables.contains(name), "{}: {url} carries {name}", dashboard.uid);
                }
                if let Some(name) = carried.or(set) {
                    assert!(target.variables.contains(name), "{}: {url} sets {name}", dashboard.uid);
                }
            }
        }
        assert_eq!(dashboard.links.len(), dashboards.len() - 1, "{} leads to all others", dashboard.uid);
        for link in &dashboard.links {
            find(link.strip_prefix("/d/").unwrap());
        }
    }
    let leads = |from: &str, to: &str| {
        let links = find(from).data_links();
        assert!(
            links.iter().any(|url| url.starts_with(&format!("/d/{to}?"))),
            "{from} does not lead to {to}"
        );
    };
    leads("callsight-rtt", "callsight-neteq");
    leads("callsight-neteq", "callsight-cause");
    leads("callsight-cause", "callsight-participation");
    leads("callsight-participation", "callsight-session");
}
