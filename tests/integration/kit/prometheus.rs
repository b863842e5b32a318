//! A real Prometheus, and its promtool.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use url::Url;

use super::process::{self, Process, temporary_directory};
use super::{http, port, tool, wait};

/// How often another port is tried when somebody else was quicker.
const ATTEMPTS: usize = 5;

/// Scrapes its targets every second into a store that goes with the value.
#[derive(Debug)]
pub(crate) struct Prometheus {
    port: u16,
    process: Process,
    // Dropped after the process that writes to it.
    _directory: TempDir,
}

impl Prometheus {
    /// Starts one that scrapes these `host:port`s, and waits until it answers queries.
    pub(crate) async fn start(targets: &[&str]) -> Self {
        let mut config = String::from(
            "global: {scrape_interval: 1s, evaluation_interval: 1s}\nscrape_configs:\n- job_name: callsight\n  \
             static_configs:\n  - targets:\n",
        );
        for target in targets {
            writeln!(config, "    - {target}").unwrap();
        }
        Self::start_with(&config).await
    }

    /// Starts one with the configuration and the rules that ship, but for the target.
    pub(crate) async fn start_shipped(target: &str) -> Self {
        Self::start_with(&shipped(target)).await
    }

    /// [`Self::start_shipped`], scraping every second: for tests that only wait until something is there.
    pub(crate) async fn start_shipped_and_hurry(target: &str) -> Self {
        let config = shipped(target);
        let config = replace(&config, "scrape_interval: 5s", "scrape_interval: 1s");
        Self::start_with(&replace(&config, "scrape_timeout: 4s", "scrape_timeout: 1s")).await
    }

    /// Starts one with a whole configuration, for rules and the like. Paths in it must be absolute.
    pub(crate) async fn start_with(config: &str) -> Self {
        for _ in 0..ATTEMPTS {
            let mut prometheus = Self::launch(port::free(), config);
            if prometheus.wait_until_ready().await {
                return prometheus;
            }
        }
        panic!("prometheus found no free port in {ATTEMPTS} attempts")
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where it listens, as `host:port`.
    pub(crate) fn target(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The result of an instant query now: `data.result` of Prometheus's API.
    pub(crate) async fn query(&self, promql: &str) -> Value {
        self.api("query", &[("query", promql)]).await["result"].take()
    }

    /// The value of a query that gives at most one series; `None` if it gives none.
    ///
    /// # Panics
    ///
    /// If it gives more than one.
    pub(crate) async fn value(&self, promql: &str) -> Option<f64> {
        let result = self.query(promql).await;
        let series = result.as_array().unwrap_or_else(|| panic!("{promql} gives no vector: {result}"));
        assert!(series.len() <= 1, "{promql} gives more than one series: {result}");
        // `[seconds, "value"]`: a string, because JSON has no NaN.
        series.first().map(|sample| sample["value"][1].as_str().unwrap().parse().unwrap())
    }

    /// `data` of any GET under `/api/v1/`: `targets`, `alerts`, `query_range` …
    pub(crate) async fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let base = format!("{}/api/v1/{path}", self.url());
        let url = Url::parse_with_params(&base, parameters).unwrap();
        let response = http::get(url.as_str(), &[]).await.unwrap();
        assert_eq!(response.status, 200, "{path} {parameters:?}: {}", response.text());
        serde_json::from_slice::<Value>(&response.body).unwrap()["data"].take()
    }

    fn launch(port: u16, config: &str) -> Self {
        let directory = temporary_directory();
        let (config_file, store) = (directory.path().join("prometheus.yml"), directory.path().join("data"));
        fs::write(&config_file, config).unwrap();
        let mut command = Command::new(tool::find("prometheus", "prometheus"));
        command
            .arg(format!("--config.file={}", config_file.display()))
            .arg(format!("--storage.tsdb.path={}", store.display()))
            .arg("--web.enable-remote-write-receiver")
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        Self { port, process: Process::spawn("prometheus", &mut command), _directory: directory }
    }

    /// False if somebody else has the port.
    async fn wait_until_ready(&mut self) -> bool {
        let url = format!("{}/-/ready", self.url());
        wait::eventually_async(wait::PATIENCE, "prometheus to be ready", async || {
            if let Some(status) = self.process.exited() {
                let output = self.process.output();
                assert!(output.contains("address already in use"), "prometheus ended, {status}:\n{output}");
                return Ok(false);
            }
            let status = http::get(&url, &[]).await.map(|response| response.status);
            wait::when(status, |status| *status == Ok(200)).map(|_| true)
        })
        .await
    }
}

/// The configuration that ships, for another target, and for another folder than that of its rules.
fn shipped(target: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("helm/callsight/files");
    let config = fs::read_to_string(folder.join("prometheus.yml")).unwrap();
    let rules = folder.join("rules/*.yaml");
    let config = replace(&config, "- rules/*.yaml", &format!("- {}", rules.display()));
    replace(&config, "127.0.0.1:9464", target)
}

fn replace(text: &str, what: &str, by: &str) -> String {
    assert_eq!(text.matches(what).count(), 1, "{what} in {text}");
    text.replace(what, by)
}

/// Runs promtool to its end.
pub(crate) fn promtool(args: &[&str], input: &str) -> Output {
    let mut command = Command::new(tool::find("promtool", "prometheus"));
    process::run(command.args(args), input, Duration::from_secs(60))
}
