//! The binary under test.

use std::fmt::Debug;
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use super::http::{self, Response};
use super::nats::Nats;
use super::process::{self, Process};
use super::scrape::Scrape;
use super::{port, tool, wait};

/// The region that `serve` is given unless the test names one.
pub(crate) const REGION: &str = "us";

/// How long a one-shot command may take.
const RUN_DEADLINE: Duration = Duration::from_secs(120);

/// A running `callsight serve`. It keeps its port and flags over a restart.
#[derive(Debug)]
pub(crate) struct Callsight {
    port: u16,
    args: Vec<String>,
    process: Process,
}

impl Callsight {
    /// Starts the exporter; [`Self::ready`] waits for it.
    pub(crate) fn serve(nats: &Nats, extra: &[&str]) -> Self {
        Self::serve_at(&nats.url(), extra)
    }

    /// [`Self::serve`] with any URLs, of servers that may not run yet.
    pub(crate) fn serve_at(nats_url: &str, extra: &[&str]) -> Self {
        let port = port::free();
        let listen = format!("127.0.0.1:{port}");
        let mut args = vec!["serve", "--listen", &listen, "--nats-url", nats_url];
        if !extra.iter().any(|arg| *arg == "--region" || arg.starts_with("--region=")) {
            args.extend(["--region", REGION]);
        }
        args.extend(extra);
        let args: Vec<_> = args.into_iter().map(str::to_owned).collect();
        Self { port, process: launch(&args), args }
    }

    /// Runs a command that ends by itself.
    pub(crate) fn run(args: &[&str]) -> Output {
        Self::run_with_input(args, "")
    }

    /// [`Self::run`] with something on standard input.
    pub(crate) fn run_with_input(args: &[&str], input: &str) -> Output {
        ensure_tools(args);
        process::run(command().args(args), input, RUN_DEADLINE)
    }

    /// Starts a command that runs until it is stopped.
    pub(crate) fn spawn(args: &[&str]) -> Process {
        ensure_tools(args);
        Process::spawn("callsight", command().args(args))
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The address as `host:port`, which Prometheus calls a target.
    pub(crate) fn target(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Sends a GET for a path and returns the response of any status.
    pub(crate) async fn get(&self, path: &str) -> Response {
        self.get_with(path, &[]).await
    }

    /// [`Self::get`] with request headers.
    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        http::get(&format!("{}{path}", self.url()), headers).await.unwrap()
    }

    /// The current metrics, as Prometheus reads them.
    pub(crate) async fn metrics(&self) -> Scrape {
        let response = self.get("/metrics").await;
        assert_eq!(response.status, 200, "{}", response.text());
        Scrape::parse(response.text())
    }

    /// Waits until it answers over HTTP, ready or not.
    pub(crate) async fn listening(&self) {
        let url = format!("{}/livez", self.url());
        wait::eventually_async(wait::PATIENCE, "callsight to listen", async || http::get(&url, &[]).await)
            .await;
    }

    /// Waits until `/readyz` says that it is ready.
    pub(crate) async fn ready(&mut self) {
        self.ready_within(wait::PATIENCE).await;
    }

    /// The same, where servers and links break meanwhile.
    pub(crate) async fn ready_within(&mut self, deadline: Duration) {
        let url = format!("{}/readyz", self.url());
        wait::eventually_async(deadline, "callsight to be ready", async || {
            if let Some(status) = self.process.exited() {
                panic!("callsight ended before it was ready, with {status}:\n{}", self.process.output());
            }
            let answer = http::get(&url, &[]).await;
            let seen = answer.map(|response| (response.status, response.text().to_owned()));
            wait::when(seen, |seen| matches!(seen, Ok((200, _)))).map(drop)
        })
        .await;
    }

    /// Waits until the metrics satisfy a condition, also while the exporter does not listen yet.
    /// `Err` holds what to show if they never do.
    pub(crate) async fn metrics_when<T, E: Debug>(
        &self,
        deadline: Duration,
        what: &str,
        mut condition: impl FnMut(&Scrape) -> Result<T, E>,
    ) -> T {
        let url = format!("{}/metrics", self.url());
        wait::eventually_async(deadline, what, async || {
            let response = http::get(&url, &[]).await?;
            condition(&Scrape::parse(response.text())).map_err(|seen| format!("{seen:?}"))
        })
        .await
    }

    /// The metrics once at least so many frames are folded.
    pub(crate) async fn folded(&self, deadline: Duration, frames: usize) -> Scrape {
        self.metrics_when(deadline, &format!("{frames} folded frames"), |scrape| {
            let folded = scrape.sum("callsight_frames_folded_total", &[]);
            wait::when(folded, |folded| *folded >= frames as f64).map(drop)
        })
        .await;
        self.metrics().await
    }

    /// The exporter's process, for its log, its id and SIGSTOP.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    pub(crate) fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Sends SIGTERM and returns the exit status.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.process.terminate(wait::PATIENCE)
    }

    /// Ends it if it still runs (SIGTERM) and starts it again with the same port and flags.
    pub(crate) fn restart(&mut self) {
        if self.process.exited().is_none() {
            self.terminate();
        }
        self.process = launch(&self.args);
    }
}

/// Fetches the tools that a command of the binary starts itself.
fn ensure_tools(args: &[&str]) {
    let has = |flag: &str| args.iter().any(|arg| arg.split('=').next() == Some(flag));
    match args.first() {
        Some(&"demo") => ["nats-server", "prometheus"].into_iter().for_each(tool::ensure),
        Some(&"replay") if has("--tsdb") || has("--rules") => tool::ensure("prometheus"),
        _ => {}
    }
}

fn launch(args: &[String]) -> Process {
    Process::spawn("callsight", command().args(args))
}

/// The binary, with the fetched tools on its PATH and without the settings of the developer's own
/// environment.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_callsight"));
    command.env("PATH", tool::path());
    for (name, _) in std::env::vars_os() {
        let setting = name.to_string_lossy().starts_with("CALLSIGHT_") && name != "CALLSIGHT_TOOLS";
        if setting || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command
}
