//! Two exporters on one stream with calls, and a proxy that makes one look older.

use std::process::Output;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::kit::callsight::Callsight;
use crate::kit::http;
use crate::kit::nats::Nats;
use crate::kit::process::Process;
use crate::kit::wait::{self, PATIENCE};

/// Frames come so often that two seconds have plenty.
const INTERVAL: &str = "200ms";

/// An exporter of this deployment.
pub(super) fn exporter(nats_url: &str, deployment: &str, extra: &[&str]) -> Callsight {
    Callsight::serve_at(nats_url, &[&["--create", "--deployment", deployment], extra].concat())
}

/// Sessions that never end, on several servers.
pub(super) fn calls(nats: &Nats, sessions: usize) -> Process {
    let (url, sessions) = (nats.url(), sessions.to_string());
    let args = ["simulate", "--create", "--sessions", &sessions, "--interval", INTERVAL, "--nats-url", &url];
    Callsight::spawn(&[&args[..], &["--log-level", "warn"]].concat())
}

/// Waits until an exporter has at least this many sessions.
pub(super) async fn has_sessions(exporter: &Callsight, sessions: f64) {
    exporter
        .metrics_when(PATIENCE, "the calls to be there", |scrape| {
            wait::when(scrape.sum("videocall_sessions", &[]), |seen| *seen >= sessions).map(drop)
        })
        .await;
}

/// `rollout compare` of two addresses over short windows; give a long timeout where `go` is
/// expected.
pub(super) async fn compare(blue: &str, green: &str, timeout: &str, extra: &[&str]) -> Output {
    let args =
        ["rollout", "compare", "--blue", blue, "--green", green, "--window", "2s", "--timeout", timeout];
    let args: Vec<_> = args.iter().chain(extra).map(|arg| (*arg).to_owned()).collect();
    run(args).await
}

/// Runs a command that ends by itself, off the test's thread, which may serve what the command
/// requests.
pub(super) async fn run(args: Vec<String>) -> Output {
    let run = move || Callsight::run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// The exit code, and the JSON that was printed.
pub(super) fn verdict(output: &Output) -> (Option<i32>, Value) {
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code(), json)
}

/// The reasons of a verdict, in one line.
pub(super) fn reasons(verdict: &Value) -> String {
    let reasons = verdict["reasons"].as_array().unwrap();
    reasons.iter().map(|reason| reason.as_str().unwrap()).collect::<Vec<_>>().join("; ")
}

/// Serves the pages of a real exporter with another version in them, as an older build would. Ends
/// when dropped.
pub(super) struct OlderBuild {
    pub(super) url: String,
    task: JoinHandle<()>,
}

impl OlderBuild {
    pub(super) async fn of(exporter: &Callsight, version: &'static str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let behind = exporter.url();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                connections.spawn(answer(connection, behind.clone(), version));
            }
        });
        Self { url, task }
    }
}

impl Drop for OlderBuild {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut connection: TcpStream, behind: String, version: &'static str) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.unwrap());
    }
    let path = String::from_utf8(head).unwrap().split(' ').nth(1).unwrap().to_owned();
    let response = http::get(&format!("{behind}{path}"), &[]).await.unwrap();
    let own = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    let body = response.text().replace(&own, &format!("version=\"{version}\""));
    let (status, length) = (response.status, body.len());
    let text = format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    connection.write_all(text.as_bytes()).await.unwrap();
}
