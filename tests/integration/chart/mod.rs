//! What is shipped for Kubernetes and for containers, by the tools that will read it.
//!
//! A chart is a program that writes YAML, and YAML is quick to be wrong in silence: a mistyped key
//! is ignored, a setting that the exporter refuses is found out by a pod that crashes at night. So
//! every values file and combination of features is rendered by helm and held against the schemas
//! of Kubernetes ([`manifests`]), the settings inside go to the exporter itself ([`exporter`]), the
//! rules to promtool ([`monitoring`]), the values of NATS to nats-server ([`nats`]), and a typo is
//! an error with the name of the key ([`schema`]).

mod exporter;
mod files;
mod golden;
mod manifests;
mod monitoring;
mod nats;
mod schema;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::kit::{process, tool};

const CHART: &str = "helm/callsight";

/// An ingest with a secret and a public key, and what else it needs.
const INGEST: &str = "ingest.enabled=true,ingest.tokenSecrets[0].secret=calls,ingest.tokenSecrets[0].key=secret,\
     ingest.tokenKeys[0].secret=calls,ingest.tokenKeys[0].key=jwks.json,ingest.nats.user=ingest,\
     ingest.nats.password.secret=nats";

/// The values files that a region is installed with.
const REGIONS: [&str; 2] = ["us", "apac"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn values_of(region: &str) -> String {
    format!("{CHART}/values-{region}.yaml")
}

/// Runs helm in the project's root, with nothing of the developer's own.
fn helm(args: &[&str]) -> Output {
    let home = process::temporary_directory();
    let mut command = Command::new(tool::find("helm", "helm"));
    for kind in ["CACHE", "CONFIG", "DATA"] {
        command.env(format!("HELM_{kind}_HOME"), home.path());
    }
    process::run(command.current_dir(root()).args(args), "", Duration::from_secs(60))
}

/// What an installation with these arguments would send to Kubernetes, as text.
fn render(args: &[&str]) -> String {
    let output = template(args);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "helm template {args:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn template(args: &[&str]) -> Output {
    helm(
        &[&["template", "callsight", CHART, "--namespace", "calls", "--kube-version", "1.33"], args].concat(),
    )
}

/// The documents of a YAML stream.
fn documents(text: &str) -> Vec<Value> {
    use serde::Deserialize;
    yaml_serde::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).unwrap())
        .filter(|document| !document.is_null())
        .collect()
}

/// One object out of what was rendered.
#[track_caller]
fn object<'a>(documents: &'a [Value], kind: &str, name: &str) -> &'a Value {
    find(documents, kind, name).unwrap_or_else(|| panic!("no {kind} {name} in {:#?}", names(documents)))
}

fn find<'a>(documents: &'a [Value], kind: &str, name: &str) -> Option<&'a Value> {
    documents.iter().find(|document| document["kind"] == kind && document["metadata"]["name"] == name)
}

fn names(documents: &[Value]) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    documents
        .iter()
        .map(|document| text(&document["kind"]) + "/" + &text(&document["metadata"]["name"]))
        .collect()
}

/// All files in a folder of the project with this ending, in order.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == ending));
    paths.sort();
    paths
}
