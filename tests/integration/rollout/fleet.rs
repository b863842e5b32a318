//! Two regions to deploy to: real NATS with gateways, real helm, real exporters; only what needs an
//! API server is `cluster.py`.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use futures_util::TryStreamExt;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;

use crate::kit::callsight::{Callsight, command};
use crate::kit::http;
use crate::kit::process::{self, Process, temporary_directory};
use crate::kit::scrape::Scrape;
use crate::kit::supercluster::SuperCluster;
use crate::kit::wait::{self, PATIENCE};
use crate::kit::{python, tool};

pub(super) const REGIONS: [&str; 2] = ["us", "apac"];

/// The longest that a deployment may take, unless something hangs.
const DEPLOYED_WITHIN: Duration = Duration::from_secs(300);

const SESSIONS: &str = "24";

/// A fleet, and where its state is.
pub(super) struct Fleet {
    pub(super) nats: SuperCluster,
    state: TempDir,
    _daemon: Process,
    _calls: Vec<Process>,
}

/// The state of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// The colour to which the service leads.
    pub(super) active: String,
    /// The colours that run, with the tags of their images.
    pub(super) running: Vec<(String, String)>,
    /// The colours that have a durable.
    pub(super) durables: Vec<String>,
}

impl State {
    /// One colour alone.
    pub(super) fn only(colour: &str, tag: &str) -> Self {
        Self {
            active: colour.to_owned(),
            running: vec![(colour.to_owned(), tag.to_owned())],
            durables: vec![colour.to_owned()],
        }
    }
}

/// The output of a run, and its report.
pub(super) struct Deployed {
    pub(super) code: Option<i32>,
    pub(super) text: String,
    pub(super) report: Value,
}

impl Deployed {
    /// `region step result`, in order.
    pub(super) fn steps(&self) -> Vec<String> {
        let text = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
        let steps = self.report["steps"].as_array().unwrap().iter();
        steps.map(|line| [text(line, "region"), text(line, "step"), text(line, "result")].join(" ")).collect()
    }

    /// Why it failed, in one line.
    pub(super) fn why(&self) -> String {
        let reasons = self.report["why"].as_array().unwrap();
        reasons.iter().map(|reason| reason.as_str().unwrap()).collect::<Vec<_>>().join("; ")
    }

    /// Asserts how it ended, by report and exit code.
    #[track_caller]
    pub(super) fn ended(&self, result: &str) {
        let code = Some(i32::from(result != "done"));
        assert_eq!((self.code, self.report["result"].as_str()), (code, Some(result)), "{}", self.text);
        // Every step that was run was timed, and no other.
        for line in self.report["steps"].as_array().unwrap() {
            let run = matches!(line["result"].as_str(), Some("ok" | "failed"));
            assert!(!run || line["seconds"].as_f64().is_some(), "{line}");
            assert!(line["result"] != "not-run" || line["seconds"].is_null(), "{line}");
        }
    }
}

impl Fleet {
    /// A fleet with nothing installed and no calls.
    pub(super) async fn empty() -> Self {
        let nats = SuperCluster::start().await;
        let state = temporary_directory();
        let fleet = Self { nats, _daemon: daemon(state.path()), state, _calls: Vec::new() };
        fleet.configure(&[]);
        fleet
    }

    /// A fleet with version 1.0.0 in blue everywhere, and calls that never end.
    pub(super) async fn installed() -> Self {
        let mut fleet = Self::empty().await;
        fleet.deploy(&["--image-tag", "1.0.0"]).await.ended("done");
        fleet.call().await;
        fleet
    }

    /// Starts calls in both regions, and waits until both exporters have them.
    pub(super) async fn call(&mut self) {
        for region in REGIONS {
            let url = self.nats.url(region, "relay");
            let args = ["simulate", "--region", region, "--sessions", SESSIONS, "--interval", "200ms"];
            let args = [&args[..], &["--nats-url", &url, "--log-level", "warn"]].concat();
            self._calls.push(Callsight::spawn(&args));
            wait::eventually_async(PATIENCE, "the calls to be seen", async || {
                let colour = self.state(region).await.active;
                let page = http::get(&format!("{}/metrics", self.exporter(region, &colour)), &[]).await?;
                let sessions = Scrape::parse(page.text()).sum("videocall_sessions", &[]);
                if sessions >= 20.0 { Ok(()) } else { Err(format!("{sessions} sessions")) }
            })
            .await;
        }
    }

    /// Writes the fleet's file, with replacements of its text.
    pub(super) fn configure(&self, replacements: &[(&str, &str)]) {
        let mut regions = String::new();
        for (region, gateways) in [("us", "[apac, arbiter]"), ("apac", "[us, arbiter]")] {
            let port = self.nats.server(region).port();
            let values = self.path(&format!("values-{region}.yaml"));
            fs::write(
                &values,
                format!(
                    "
nats:
  urls: [\"nats://127.0.0.1:{port}\"]
  user: exporter
  password: {{secret: nats-users, key: exporter}}
  tls: {{ca: {{secret: \"\"}}}}
# A region has one server here.
streams: {{replicas: 1, user: operator, password: {{secret: nats-users, key: operator}}}}
"
                ),
            )
            .unwrap();
            for user in ["exporter", "operator"] {
                self.secret(region, "callsight", "nats-users", user, &format!("{user}-secret"));
            }
            self.secret(region, "nats", "nats-gateway-tls", "tls.crt", &certificate(60));
            let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/helm/callsight");
            regions += &format!(
                "
  - name: {region}
    context: {region}
    values: {{callsight: [{shipped}/values-{region}.yaml, {values}]}}
    monitors: [\"{monitor}\"]
    gateways: {gateways}
    certificates: [secret/nats/nats-gateway-tls]
    nats: {{url: [\"nats://127.0.0.1:{port}\"], user: operator, password-file: {password}}}
",
                values = values.display(),
                monitor = self.nats.server(region).monitor_url(),
                password = self.path("secrets").join(region).join("callsight/nats-users/operator").display(),
            );
        }
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/helm/callsight");
        let mut text = format!(
            "
services:
  - {{name: callsight, kind: exporter, chart: {chart}, release: callsight, namespace: callsight}}
regions:{regions}
gates: {{window: 1s, soak: 3s, compare-within: 60s, ready-within: 30s}}
"
        );
        for (from, to) in replacements {
            assert!(text.contains(from), "{from}: {text}");
            text = text.replace(from, to);
        }
        fs::write(self.path("fleet.yaml"), text).unwrap();
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.state.path().join(name)
    }

    /// Sets the value of a secret's key.
    pub(super) fn secret(&self, region: &str, namespace: &str, name: &str, key: &str, value: &str) {
        let folder = self.path("secrets").join(region).join(namespace).join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(key), value).unwrap();
    }

    /// Sets what goes wrong from now on.
    pub(super) fn faults(&self, faults: &Value) {
        fs::write(self.path("faults.json"), faults.to_string()).unwrap();
    }

    /// `callsight rollout` with the fleet, ready to start, with empty reports.
    pub(super) fn rollout(&self, arguments: &[&str]) -> Command {
        for file in ["report.json", "summary.md", "calls.jsonl"] {
            if !arguments.contains(&"--undo") || file != "report.json" {
                let _ = fs::remove_file(self.path(file));
            }
        }
        let path = env::split_paths(&tool::path()).collect::<Vec<_>>();
        let path = env::join_paths(std::iter::once(self.path("bin")).chain(path)).unwrap();
        let mut command = command();
        command.env("PATH", path).arg("rollout").args(arguments);
        command.arg("--fleet").arg(self.path("fleet.yaml"));
        command.arg("--report").arg(self.path("report.json"));
        command.arg("--summary").arg(self.path("summary.md"));
        command
    }

    /// Runs `callsight rollout deploy` to its end.
    pub(super) async fn deploy(&self, arguments: &[&str]) -> Deployed {
        self.run(&[&["deploy"], arguments].concat()).await
    }

    /// Runs `callsight rollout` to its end.
    pub(super) async fn run(&self, arguments: &[&str]) -> Deployed {
        let mut command = self.rollout(arguments);
        let run = move || process::run(&mut command, "", DEPLOYED_WITHIN);
        let output: Output = tokio::task::spawn_blocking(run).await.unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        Deployed { code: output.status.code(), text, report: self.report() }
    }

    /// The report as it is on disk, `null` if there is none.
    pub(super) fn report(&self) -> Value {
        fs::read(self.path("report.json")).map_or(Value::Null, |json| serde_json::from_slice(&json).unwrap())
    }

    /// The summary in Markdown.
    pub(super) fn summary(&self) -> String {
        fs::read_to_string(self.path("summary.md")).unwrap()
    }

    /// The calls that change something, `context: helm upgrade …`.
    pub(super) fn changing_calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path("calls.jsonl")).unwrap_or_default();
        let calls = calls.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let told = calls.map(|call| {
            let words: Vec<_> =
                call["words"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
            format!(
                "{}: {} {}",
                call["context"].as_str().unwrap(),
                call["tool"].as_str().unwrap(),
                words.join(" ")
            )
        });
        let reads = ["list", "get", "template", "test", "port-forward", "rollout status"];
        told.filter(|call| !reads.iter().any(|verb| format!("{call} ").contains(&format!(" {verb} "))))
            .collect()
    }

    /// The present state of a region.
    pub(super) async fn state(&self, region: &str) -> State {
        let objects = self.objects(region);
        let kind = |kind: &'static str| objects.iter().filter(move |object| object["kind"] == kind);
        let service = kind("Service").find(|object| object["metadata"]["name"] == "callsight");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let images: BTreeMap<String, String> = kind("Deployment")
            .map(|object| {
                let image = text(&object["spec"]["template"]["spec"]["containers"][0]["image"]);
                let tag = image.rsplit(':').next().unwrap().to_owned();
                (text(&object["metadata"]["labels"]["colour"]), tag)
            })
            .collect();
        let running = self.pods(region).into_keys().map(|colour| {
            let tag = images.get(&colour).cloned().unwrap_or_default();
            (colour, tag)
        });
        let stream = format!("HEALTH_{}", region.to_uppercase());
        let jetstream = self.nats.jetstream(region, "operator").await;
        let mut durables: Vec<String> = match jetstream.get_stream(stream).await {
            Ok(stream) => stream.consumer_names().try_collect().await.unwrap(),
            Err(_) => Vec::new(),
        };
        durables.sort_unstable();
        State {
            active: service.map(|service| text(&service["spec"]["selector"]["colour"])).unwrap_or_default(),
            running: running.collect(),
            // The hub's `global` is there all the time.
            durables: durables
                .iter()
                .filter_map(|name| name.strip_prefix("callsight-"))
                .filter(|name| matches!(*name, "blue" | "green"))
                .map(str::to_owned)
                .collect(),
        }
    }

    /// Asserts the state of both regions.
    #[track_caller]
    pub(super) fn both(&self, state: &State) -> impl Future<Output = ()> {
        let expected = state.clone();
        let caller = std::panic::Location::caller();
        async move {
            for region in REGIONS {
                assert_eq!(self.state(region).await, expected, "{region}, {caller}");
            }
        }
    }

    fn objects(&self, region: &str) -> Vec<Value> {
        let Ok(release) = fs::read(self.path("releases").join(format!("{region}.callsight.json"))) else {
            return Vec::new();
        };
        let release: Value = serde_json::from_slice(&release).unwrap();
        let revision = release["revision"].as_u64().unwrap().to_string();
        release["history"][revision]["objects"].as_array().unwrap().clone()
    }

    /// Ports by colour.
    fn pods(&self, region: &str) -> BTreeMap<String, u64> {
        let prefix = format!("{region}.callsight-");
        let files = fs::read_dir(self.path("pods")).unwrap().filter_map(|file| {
            let path = file.unwrap().path();
            let colour = path.file_name()?.to_str()?.strip_prefix(&prefix)?.strip_suffix(".json")?.to_owned();
            let pod: Value = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
            Some((colour, pod["port"].as_u64()?))
        });
        files.collect()
    }

    /// Where a colour's exporter answers.
    pub(super) fn exporter(&self, region: &str, colour: &str) -> String {
        format!("http://127.0.0.1:{}", self.pods(region)[colour])
    }
}

/// A certificate that is valid for this many days.
pub(super) fn certificate(days: i64) -> String {
    let mut params = CertificateParams::new(vec!["nats.example".to_owned()]).unwrap();
    params.not_before = OffsetDateTime::now_utc() - time::Duration::days(1);
    params.not_after = OffsetDateTime::now_utc() + time::Duration::days(days) + time::Duration::hours(1);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

/// Starts the kubelet, and puts the stand-ins for helm and kubectl on the product's path.
fn daemon(state: &Path) -> Process {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/rollout/cluster.py");
    let python = python::program("python");
    for folder in ["bin", "pods", "releases", "secrets"] {
        fs::create_dir(state.join(folder)).unwrap();
    }
    for program in ["helm", "kubectl"] {
        let (state, python) = (state.display(), python.display());
        let text = format!(
            "#!/bin/sh\nexport STAND_IN_STATE='{state}'\nexec '{python}' '{script}' {program} \"$@\"\n"
        );
        let path = state_path(&state.to_string(), program);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let settings = json!({
        "callsight": env!("CARGO_BIN_EXE_callsight"),
        "helm": tool::find("helm", "helm"),
        "contexts": REGIONS,
    });
    fs::write(state.join("settings.json"), settings.to_string()).unwrap();
    let mut command = Command::new(python);
    command.args([script, "daemon"]).env("STAND_IN_STATE", state);
    Process::spawn("the stand-in's daemon", &mut command)
}

fn state_path(state: &str, program: &str) -> PathBuf {
    Path::new(state).join("bin").join(program)
}
