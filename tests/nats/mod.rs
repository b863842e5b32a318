//! A nats-server for a test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a test waits for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A nats-server with JetStream that keeps its port and its files over a restart.
pub(crate) struct Server {
    port: u16,
    store: tempfile::TempDir,
    process: Child,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let store = tempfile::tempdir().unwrap();
        // The server chooses the port, so that no two tests get the same one, and writes it to a file.
        let mut server = Self { port: 0, process: Self::spawn(-1, store.path()), store };
        let ports = server.store.path().join(format!("nats-server_{}.ports", server.process.id()));
        let end = Instant::now() + DEADLINE;
        while server.port == 0 {
            assert!(Instant::now() < end, "nats-server did not come up");
            tokio::time::sleep(Duration::from_millis(10)).await;
            let Ok(text) = std::fs::read_to_string(&ports) else { continue };
            let Ok(json) = serde_json::from_str::<serde_json::Value>(&text) else { continue };
            let url = json["nats"][0].as_str().unwrap();
            server.port = url.rsplit(':').next().unwrap().parse().unwrap();
        }
        server
    }

    fn spawn(port: i32, store: &Path) -> Child {
        let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/nats-server");
        let program = if fetched.exists() { fetched } else { PathBuf::from("nats-server") };
        Command::new(program)
            .args(["--addr", "127.0.0.1", "--port", &port.to_string(), "--jetstream"])
            .arg("--store_dir")
            .arg(store)
            .arg("--ports_file_dir")
            .arg(store)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server on PATH or in target/tools/bin; ./dev tools fetches it")
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) fn restart(&mut self) {
        self.process = Self::spawn(self.port.into(), self.store.path());
    }

    pub(crate) async fn client(&self) -> async_nats::Client {
        async_nats::connect(format!("nats://127.0.0.1:{}", self.port)).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
