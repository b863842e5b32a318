//! A real Prometheus, and its promtool.

use std::fmt::Write;
use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use url::Url;

use crate::process::{self, Process, temporary_directory};
use crate::{http, port, tool};

/// A server on 127.0.0.1 with a store of its own.
#[derive(Debug)]
pub struct Prometheus {
    port: u16,
    _process: Process,
    // Dropped after the process that writes to it.
    _directory: TempDir,
}

impl Prometheus {
    /// Starts one that scrapes these `host:port`s every second. Returns once it answers queries.
    pub fn start(targets: &[&str]) -> Self {
        let mut config = String::from(
            "global: {scrape_interval: 1s, evaluation_interval: 1s}\nscrape_configs:\n- job_name: callsight\n  \
             static_configs:\n  - targets:\n",
        );
        for target in targets {
            writeln!(config, "    - {target}").unwrap();
        }
        Self::start_with(&config)
    }

    /// Starts one with the shipped configuration and rules, except for the target.
    pub fn start_shipped(target: &str) -> Self {
        Self::start_with(&shipped(&[target]))
    }

    /// [`Self::start_shipped`] with several targets, scraping every second, for tests that only
    /// wait for a series.
    pub fn start_shipped_and_hurry(targets: &[&str]) -> Self {
        Self::start_with(&hurried(&shipped(targets)))
    }

    /// [`Self::start_shipped_and_hurry`] with the optional rules too.
    pub fn start_with_optional_rules_and_hurry(target: &str) -> Self {
        let optional = tool::root().join("helm/callsight/files/rules/optional/videocall.yaml");
        let config = shipped(&[target]);
        let comment = "# - rules/optional/videocall.yaml";
        Self::start_with(&hurried(&replace(&config, comment, &format!("- {}", optional.display()))))
    }

    /// Starts one with a whole configuration. Paths in it must be absolute.
    pub fn start_with(config: &str) -> Self {
        port::retry("prometheus", || {
            let (port, directory) = (port::free(), temporary_directory());
            let (file, store) = (directory.path().join("prometheus.yml"), directory.path().join("data"));
            fs::write(&file, config).unwrap();
            let mut command = Command::new(tool::find("prometheus", "prometheus"));
            command
                .arg(format!("--config.file={}", file.display()))
                .arg(format!("--storage.tsdb.path={}", store.display()))
                .arg("--web.enable-remote-write-receiver")
                .arg(format!("--web.listen-address=127.0.0.1:{port}"));
            let mut process = Process::spawn("prometheus", &mut command);
            process.wait_until_logged("Server is ready to receive web requests")?;
            Ok(Self { port, _process: process, _directory: directory })
        })
    }

    /// The URL of its API and pages.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where it listens, as `host:port`.
    pub fn target(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The result of an instant query now: `data.result` of Prometheus's API.
    pub async fn query(&self, promql: &str) -> Value {
        self.api("query", &[("query", promql)]).await["result"].take()
    }

    /// The value of a query that gives at most one series; `None` if it gives none.
    ///
    /// # Panics
    ///
    /// If it gives more than one.
    pub async fn value(&self, promql: &str) -> Option<f64> {
        let result = self.query(promql).await;
        let series = result.as_array().unwrap_or_else(|| panic!("{promql} gives no vector: {result}"));
        assert!(series.len() <= 1, "{promql} gives more than one series: {result}");
        // `[seconds, "value"]`: a string, because JSON has no NaN.
        series.first().map(|sample| sample["value"][1].as_str().unwrap().parse().unwrap())
    }

    /// `data` of any GET under `/api/v1/`: `targets`, `alerts`, `query_range` …
    pub async fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let base = format!("{}/api/v1/{path}", self.url());
        let url = Url::parse_with_params(&base, parameters).unwrap();
        let response = http::get(url.as_str(), &[]).await.unwrap();
        assert_eq!(response.status, 200, "{path} {parameters:?}: {}", response.text());
        serde_json::from_slice::<Value>(&response.body).unwrap()["data"].take()
    }
}

/// The shipped configuration with other targets, and with the rules at their place in the
/// repository.
fn shipped(targets: &[&str]) -> String {
    let folder = tool::root().join("helm/callsight/files");
    let config = fs::read_to_string(folder.join("prometheus.yml")).unwrap();
    let rules = folder.join("rules/*.yaml");
    let config = replace(&config, "- rules/*.yaml", &format!("- {}", rules.display()));
    replace(&config, "127.0.0.1:9464", &targets.join("\", \""))
}

/// A configuration that scrapes every second.
fn hurried(config: &str) -> String {
    let config = replace(config, "scrape_interval: 5s", "scrape_interval: 1s");
    replace(&config, "scrape_timeout: 4s", "scrape_timeout: 1s")
}

fn replace(text: &str, what: &str, by: &str) -> String {
    assert_eq!(text.matches(what).count(), 1, "{what} in {text}");
    text.replace(what, by)
}

/// Runs promtool to its end.
pub fn promtool(args: &[&str], input: &str) -> Output {
    let mut command = Command::new(tool::find("promtool", "prometheus"));
    process::run(command.args(args), input, Duration::from_secs(60))
}
