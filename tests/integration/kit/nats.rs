//! A real nats-server with JetStream.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use async_nats::jetstream;
use tempfile::TempDir;

use super::process::{Process, temporary_directory};
use super::{port, tool, wait};

/// How often another port is tried when somebody else was quicker.
const ATTEMPTS: usize = 5;

/// One server on 127.0.0.1 with its own port and store. Both outlive a restart and neither outlives the value.
#[derive(Debug)]
pub(crate) struct Nats {
    port: u16,
    setup: Setup,
    store: TempDir,
    process: Process,
}

/// What the server is told beside its port and store: a configuration, and the variables that it names.
#[derive(Clone, Debug, Default)]
struct Setup {
    config: Option<String>,
    environment: Vec<(String, String)>,
}

impl Nats {
    /// Returns once it accepts clients and JetStream is up.
    pub(crate) fn start() -> Self {
        Self::start_as(&Setup::default())
    }

    /// One with a configuration of its own and the environment variables that it names. Paths in it must be absolute.
    pub(crate) fn start_with(config: &str, environment: &[(&str, &str)]) -> Self {
        let environment = environment.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        Self::start_as(&Setup { config: Some(config.to_owned()), environment: environment.collect() })
    }

    fn start_as(setup: &Setup) -> Self {
        for _ in 0..ATTEMPTS {
            let (port, store) = (port::free(), temporary_directory());
            let process = launch(port, &store, setup);
            let mut nats = Self { process, port, setup: setup.clone(), store };
            if nats.wait_until_up().is_ok() {
                return nats;
            }
        }
        panic!("nats-server found no free port in {ATTEMPTS} attempts")
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// A client that goes on reconnecting for ever, as the product's own do.
    pub(crate) async fn client(&self) -> async_nats::Client {
        async_nats::connect(self.url()).await.unwrap()
    }

    pub(crate) async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client().await)
    }

    /// The server's process, for its log and its number.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// Ends it if it still runs (SIGTERM) and starts it again on the same port and store.
    pub(crate) fn restart(&mut self) {
        if self.process.exited().is_none() {
            self.terminate();
        }
        self.process = launch(self.port, &self.store, &self.setup);
        self.wait_until_up().unwrap_or_else(|reason| panic!("nats-server did not come back: {reason}"));
    }

    /// SIGTERM, and returns once it has ended.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.process.terminate(wait::PATIENCE)
    }

    /// SIGKILL. [`Self::restart`] brings it back with what its store holds.
    pub(crate) fn kill9(&mut self) {
        self.process.kill9();
    }

    /// SIGSTOP: connections stay open and nothing answers.
    pub(crate) fn stop(&self) {
        self.process.stop();
    }

    /// SIGCONT, after [`Self::stop`].
    pub(crate) fn cont(&self) {
        self.process.cont();
    }

    /// Fails if the server ended instead, most likely because the port is taken; panics if it does neither.
    fn wait_until_up(&mut self) -> Result<(), String> {
        let what = format!("nats-server with JetStream at {}", self.url());
        let configured = self.setup.config.is_some();
        wait::eventually(wait::PATIENCE, &what, || {
            if let Some(status) = self.process.exited() {
                return Ok(Err(format!("{status}\n{}", self.process.output())));
            }
            if configured {
                // Its greeting may come after a TLS handshake only.
                let output = self.process.output();
                return wait::when(output, |output| output.contains("Server is ready")).map(|_| Ok(()));
            }
            wait::when(greeting(self.port), |greeting| {
                greeting.as_ref().is_ok_and(|info| info.contains("\"jetstream\":true"))
            })
            .map_err(|greeting| format!("{greeting:?}"))
            .map(|_| Ok(()))
        })
    }
}

fn launch(port: u16, store: &TempDir, setup: &Setup) -> Process {
    let mut command = Command::new(tool::find("nats-server", "nats-server"));
    command.args(["--addr", "127.0.0.1", "--port", &port.to_string(), "--jetstream", "--store_dir"]);
    command.arg(store.path());
    if let Some(config) = &setup.config {
        let file = store.path().join("nats-server.conf");
        fs::write(&file, config).unwrap();
        command.arg("--config").arg(file);
    }
    command.envs(setup.environment.iter().map(|(name, value)| (name, value)));
    Process::spawn("nats-server", &mut command)
}

/// The `INFO` line with which the server receives a client.
fn greeting(port: u16) -> Result<String, String> {
    let receive = || {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    };
    receive().map_err(|error: std::io::Error| error.to_string())
}
