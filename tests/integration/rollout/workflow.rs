//! The workflows that GitHub runs match the program: inputs, pins and the shipped fleet.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::kit::callsight::{Callsight, command};
use crate::kit::process;
use crate::kit::wait::PATIENCE;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn workflow(name: &str) -> Value {
    let text = fs::read_to_string(Path::new(ROOT).join(".github/workflows").join(name)).unwrap();
    yaml_serde::from_str(&text).unwrap()
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn the_inputs_are_settings_of_the_program() {
    let workflow = workflow("helm-deploy.yml");
    let inputs = workflow["on"]["workflow_dispatch"]["inputs"].as_object().unwrap();
    let environment = workflow["jobs"]["deploy"]["env"].as_object().unwrap();
    let mut passed = BTreeSet::new();
    let mut deploy = command();
    deploy.current_dir(ROOT).args(["rollout", "deploy", "--check-config"]);
    for (name, value) in environment {
        let value = value.as_str().unwrap();
        let input = value.strip_prefix("${{ inputs.").and_then(|rest| rest.strip_suffix(" }}"));
        let value = match input {
            None => value.to_owned(),
            Some(input) => {
                passed.insert(input);
                // What the form proposes.
                let default = &inputs[input]["default"];
                default.as_str().map_or_else(|| default.to_string(), str::to_owned)
            }
        };
        deploy.env(name, value);
    }
    assert_eq!(passed, inputs.keys().map(String::as_str).collect(), "every input is passed on");
    let output = process::run(&mut deploy, "", PATIENCE);
    assert!(output.status.success(), "{output:?}");
    let help = String::from_utf8(Callsight::run(&["rollout", "deploy", "--help"]).stdout).unwrap();
    for name in environment.keys() {
        assert!(help.contains(&format!("[env: {name}]")), "{name} is no setting of the program");
    }
    for strategy in strings(&inputs["strategy"]["options"]) {
        assert!(help.contains(&format!("- {strategy}:")), "{strategy}: {help}");
    }
}

#[test]
fn the_shipped_fleet_is_sound_and_has_the_workflows_regions() {
    let output = process::run(
        command().current_dir(ROOT).args(["rollout", "deploy", "--region", "nowhere", "--dry-run"]),
        "",
        PATIENCE,
    );
    let error = String::from_utf8(output.stderr).unwrap();
    let known =
        error.rsplit_once("it has ").map(|(_, regions)| regions.trim().split(", ").collect::<Vec<_>>());
    let workflow = workflow("helm-deploy.yml");
    let options = strings(&workflow["on"]["workflow_dispatch"]["inputs"]["region"]["options"]);
    assert_eq!(known.as_deref(), Some(&options[1..]), "{error}");
    let fleet: Value =
        yaml_serde::from_str(&fs::read_to_string(Path::new(ROOT).join("helm/fleet.yaml")).unwrap()).unwrap();
    for region in fleet["regions"].as_array().unwrap() {
        for file in region["values"].as_object().unwrap().values().flat_map(strings) {
            assert!(Path::new(ROOT).join(file).is_file(), "{file}");
        }
        for setting in region["set-file"].as_object().unwrap().values().flat_map(strings) {
            let file = setting.split_once('=').unwrap().1;
            assert!(Path::new(ROOT).join(file).is_file(), "{file}");
        }
    }
}

#[test]
fn every_action_is_pinned_and_every_workflow_asks_for_little() {
    for name in ["ci.yml", "release.yml", "helm-deploy.yml"] {
        let text = fs::read_to_string(Path::new(ROOT).join(".github/workflows").join(name)).unwrap();
        for line in text.lines().filter(|line| line.contains("uses: ") && !line.contains("uses: ./")) {
            let (_, pin) = line.split_once('@').unwrap_or_else(|| panic!("{name}: {line}"));
            let (commit, version) = pin.split_once(" # v").unwrap_or_else(|| panic!("{name}: {line}"));
            let is_commit = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(is_commit && version.starts_with(|first: char| first.is_ascii_digit()), "{name}: {line}");
        }
        let workflow = workflow(name);
        let permissions = workflow["permissions"].as_object().unwrap();
        assert!(permissions.values().all(|permission| permission == "read"), "{name}: {permissions:?}");
        for (job, content) in workflow["jobs"].as_object().unwrap() {
            let writes =
                content["permissions"].as_object().into_iter().flatten().filter(|(_, what)| *what == "write");
            let allowed: &[&str] = match (name, job.as_str()) {
                ("release.yml", "image") => &["packages"],
                ("release.yml", "npm") => &["id-token"],
                ("release.yml", "publish") => &["contents", "packages"],
                _ => &[],
            };
            assert_eq!(writes.map(|(what, _)| what.as_str()).collect::<Vec<_>>(), allowed, "{name}: {job}");
        }
    }
}

#[test]
fn a_release_is_of_one_version() {
    let script = Path::new(ROOT).join(".github/scripts/release-version");
    let of = |tag: &str| process::run(Command::new(&script).arg(tag).current_dir(ROOT), "", PATIENCE);
    let right = of(concat!("v", env!("CARGO_PKG_VERSION")));
    assert!(right.status.success(), "{right:?}");
    assert_eq!(
        String::from_utf8(right.stdout).unwrap(),
        concat!("version=", env!("CARGO_PKG_VERSION"), "\n")
    );
    let wrong = of("v99.0.0");
    let error = String::from_utf8(wrong.stderr).unwrap();
    assert!(wrong.status.code() == Some(1) && wrong.stdout.is_empty(), "{error}");
    for place in ["Cargo.toml", "the chart's version", "the chart's appVersion", "clients/web/package.json"] {
        assert!(error.contains(place), "{place}: {error}");
    }
}
