//! The way in over HTTP, against a real nats-server and a real exporter.

mod browser;
pub(crate) mod client;
mod examples;
mod faults;
mod requests;
mod strangers;
mod tokens;

use std::process::ExitStatus;

use callsight_frame::{Form, Frame, SessionId};
use tempfile::TempDir;

use crate::kit::callsight::{Callsight, REGION};
use crate::kit::frames::frame;
use crate::kit::http::{self, Response};
use crate::kit::process::{Process, temporary_directory};
use crate::kit::scrape::Scrape;
use crate::kit::{port, wait};
use client::{SECRET, message_headers, send};

/// A running `callsight ingest` with files of its own. It keeps its port and flags over a restart.
pub(crate) struct Way {
    port: u16,
    args: Vec<String>,
    pub(crate) process: Process,
    // Dropped after the process that reads it.
    _directory: TempDir,
}

impl Way {
    /// Starts it with the tests' secret; [`Self::ready`] waits for it.
    pub(crate) fn start(nats_url: &str, extra: &[&str]) -> Self {
        let directory = temporary_directory();
        let secret = directory.path().join("secret");
        std::fs::write(&secret, SECRET).unwrap();
        let keys = ["--token-secret", secret.to_str().unwrap()];
        Self::start_in(directory, nats_url, &[&keys[..], extra].concat())
    }

    /// Starts it with no other keys than the flags name.
    pub(crate) fn start_in(directory: TempDir, nats_url: &str, extra: &[&str]) -> Self {
        let port = port::free();
        let listen = format!("127.0.0.1:{port}");
        let own = ["ingest", "--listen", &listen, "--nats-url", nats_url, "--region", REGION];
        let args = [&own[..], &["--server-id", "edge-1"], extra].concat();
        let args: Vec<_> = args.into_iter().map(str::to_owned).collect();
        let process = launch(&args);
        Self { port, args, process, _directory: directory }
    }

    pub(crate) fn target(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    async fn get(&self, path: &str) -> Response {
        http::get(&self.url(path), &[]).await.unwrap()
    }

    async fn metrics(&self) -> Scrape {
        Scrape::parse(self.get("/metrics").await.text())
    }

    /// Waits until `/readyz` has a status, and returns what it says.
    async fn readiness(&mut self, status: u16) -> String {
        let url = self.url("/readyz");
        wait::eventually_async(wait::PATIENCE, &format!("/readyz to answer {status}"), async || {
            if let Some(ended) = self.process.exited() {
                panic!("it ended with {ended}:\n{}", self.process.output());
            }
            let answer = http::get(&url, &[]).await?;
            let seen = (answer.status, answer.text().to_owned());
            let seen = wait::when(seen, |(seen, _)| *seen == status).map_err(|seen| format!("{seen:?}"))?;
            Ok::<_, String>(seen.1)
        })
        .await
    }

    pub(crate) async fn ready(&mut self) {
        self.readiness(200).await;
    }

    /// Posts a frame in MessagePack.
    pub(crate) async fn post(&self, token: &str, frame: &Frame<'_>) -> Response {
        self.post_with(token, frame, &[]).await.unwrap()
    }

    async fn post_with(
        &self,
        token: &str,
        frame: &Frame<'_>,
        more: &[(&str, &str)],
    ) -> Result<Response, String> {
        let headers = message_headers(token);
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).chain(more.iter().copied()).collect();
        send(&self.target(), "POST", "/v1/frames", &headers, &frame.encode(Form::Named)).await
    }

    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.process.terminate(wait::PATIENCE)
    }

    fn kill9(&mut self) {
        self.process.kill9();
    }

    fn restart(&mut self) {
        self.process = launch(&self.args);
    }
}

fn launch(args: &[String]) -> Process {
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    Callsight::spawn(&args)
}

/// Frame `seq` of a participant's session `{peer_id}:{random}`, whose text is the session's.
pub(crate) fn frame_of<'a>(session_id: &'a str, seq: u64, peers: &[&'a str]) -> Frame<'a> {
    let (peer_id, _) = session_id.rsplit_once(':').unwrap();
    Frame {
        peer_id: callsight_frame::PeerId::new(peer_id).unwrap(),
        session_id: SessionId::new(session_id).unwrap(),
        ..frame(session_id, seq, peers)
    }
}
