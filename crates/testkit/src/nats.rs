//! A real nats-server with JetStream.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use async_nats::jetstream;
use tempfile::TempDir;

use crate::disk::Disk;
use crate::process::{Process, temporary_directory};
use crate::{port, tool, wait};

/// One server on 127.0.0.1 with a port and a store of its own, which it keeps over a restart.
#[derive(Debug)]
pub struct Nats {
    name: String,
    port: u16,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    process: Process,
    /// Present if it loses what was not synced with its power.
    disk: Option<Disk>,
    // Dropped after the process that writes to it.
    store: TempDir,
}

impl Nats {
    /// Returns once it accepts clients and JetStream is up.
    pub fn start() -> Self {
        Self::start_with("", &[])
    }

    /// Starts one with a configuration and the environment variables that it names. Paths in it
    /// must be absolute.
    pub fn start_with(config: &str, environment: &[(&str, &str)]) -> Self {
        let environment: Vec<_> =
            environment.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        port::retry("nats-server", || {
            let (port, store) = (port::free(), temporary_directory());
            let file = store.path().join("nats-server.conf");
            fs::write(&file, config).unwrap();
            let arguments = [
                ["--addr", "127.0.0.1", "--jetstream"].map(str::to_owned).to_vec(),
                vec![format!("--port={port}"), format!("--store_dir={}", store.path().display())],
                vec![format!("--config={}", file.display())],
            ];
            let mut nats =
                Self::launch("nats-server".to_owned(), port, arguments.concat(), environment.clone(), store);
            nats.wait_until_up().map(|()| nats)
        })
    }

    /// Starts one that its arguments and environment tell its port and store. It may end at once if
    /// a port is taken, see [`Self::wait_until_up`].
    pub(crate) fn launch(
        name: String,
        port: u16,
        arguments: Vec<String>,
        environment: Vec<(String, String)>,
        store: TempDir,
    ) -> Self {
        let (process, disk) = spawn(&name, &arguments, &environment, None);
        Self { name, port, arguments, environment, process, disk, store }
    }

    /// A `nats-server` command that judges a configuration instead of serving.
    pub fn check(config: &Path) -> Command {
        let mut command = program();
        command.arg("-t").arg("--config").arg(config);
        command
    }

    /// Where it listens, on the loopback address.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The URL for clients.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The folder of its files, to be changed only while the server is down.
    pub fn store(&self) -> &Path {
        self.store.path()
    }

    /// A client that reconnects forever, as the product's own do.
    pub async fn client(&self) -> async_nats::Client {
        async_nats::connect(self.url()).await.unwrap()
    }

    /// JetStream, over a connection of its own.
    pub async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client().await)
    }

    /// The server's process, for its log and its id.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Ends it if it still runs (SIGTERM) and starts it again on the same port and store. Returns
    /// once it accepts clients.
    pub fn restart(&mut self) {
        self.start_again(None);
        self.wait_until_back();
    }

    /// [`Self::restart`] on a disk that holds what is in the store now, and of what follows only
    /// what was synced when [`Self::cut_power`] comes.
    pub fn restart_on_a_disk_that_forgets(&mut self) {
        self.start_on_a_disk_that_forgets();
        self.wait_until_back();
    }

    /// [`Self::restart_on_a_disk_that_forgets`] without waiting, for servers that wait for each
    /// other.
    pub fn start_on_a_disk_that_forgets(&mut self) {
        self.start_again(Some(self.store.path().to_owned()));
    }

    fn start_again(&mut self, forgets: Option<PathBuf>) {
        if self.process.exited().is_none() {
            self.terminate();
        }
        (self.process, self.disk) = spawn(&self.name, &self.arguments, &self.environment, forgets.as_deref());
    }

    fn wait_until_back(&mut self) {
        self.wait_until_up().unwrap_or_else(|reason| panic!("{} did not come back: {reason}", self.name));
    }

    /// Sends SIGTERM and returns once the process has ended.
    pub fn terminate(&mut self) -> ExitStatus {
        self.process.terminate(wait::PATIENCE)
    }

    /// Sends SIGUSR2, the lame duck mode: hands over what it leads, and its clients. Returns once
    /// the process has ended.
    pub fn lame_duck(&mut self) -> ExitStatus {
        self.process.lame_duck(wait::PATIENCE)
    }

    /// Sends SIGKILL. [`Self::restart`] brings it back with what its store holds.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Ends it as a cut of its power would: at once, and without what its disk had not synced.
    pub fn cut_power(&mut self) {
        self.process.kill9();
        let Some(disk) = self.disk.take() else { panic!("{} has no disk that forgets", self.name) };
        disk.forget();
    }

    /// Sends SIGSTOP: connections stay open and nothing answers.
    pub fn stop(&self) {
        self.process.stop();
    }

    /// Sends SIGCONT, after [`Self::stop`].
    pub fn cont(&self) {
        self.process.cont();
    }

    /// Moves its clients and leaders to other servers, and returns once it has ended. nats-server
    /// takes at least ten seconds for that.
    pub fn drain(&mut self) -> ExitStatus {
        self.process.drain(wait::PATIENCE * 3)
    }

    /// Waits until it accepts clients and JetStream is up.
    ///
    /// # Errors
    ///
    /// If the server ended instead, most likely because a port is taken.
    pub fn wait_until_up(&mut self) -> Result<(), String> {
        self.process.wait_until_logged("Server is ready")
    }
}

fn program() -> Command {
    Command::new(tool::find("nats-server", "nats-server"))
}

fn spawn(
    name: &str,
    arguments: &[String],
    environment: &[(String, String)],
    forgets: Option<&Path>,
) -> (Process, Option<Disk>) {
    let mut command = program();
    command.args(arguments).envs(environment.iter().map(|(name, value)| (name, value)));
    match forgets {
        None => (Process::spawn(name, &mut command), None),
        Some(store) => {
            let (process, disk) = Disk::spawn(store, name, &mut command);
            (process, Some(disk))
        }
    }
}
