//! The real servers that the demo starts.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::cli::tool::find_tool;
use crate::cli::{CliError, monitoring};

/// How long a server may take to start.
const START_WITHIN: Duration = Duration::from_secs(15);

/// A server, and where clients find it. Dropped, it is killed.
pub(super) struct Server {
    child: Child,
    name: String,
    log: PathBuf,
    pub(super) address: SocketAddr,
}

impl Server {
    /// Starts a server; its log is in the folder.
    pub(super) fn start(
        mut command: Command,
        name: &str,
        address: SocketAddr,
        folder: &Path,
    ) -> Result<Self, CliError> {
        let cannot = |error| CliError::caused(format!("cannot start {name}"), error);
        let path = folder.join(format!("{name}.log"));
        let log = std::fs::File::create(&path).map_err(cannot)?;
        let same = log.try_clone().map_err(cannot)?;
        command.stdin(Stdio::null()).stdout(log).stderr(same).kill_on_drop(true);
        // Ctrl-C goes to a whole process group; the servers are stopped after what uses them, not with it.
        let child = command.process_group(0).spawn().map_err(cannot)?;
        Ok(Self { child, name: name.to_owned(), log: path, address })
    }

    /// Waits until it accepts connections.
    pub(super) async fn wait_until_up(&mut self) -> Result<(), CliError> {
        let deadline = Instant::now() + START_WITHIN;
        while tokio::net::TcpStream::connect(self.address).await.is_err() {
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let last = log.lines().last().unwrap_or("it said nothing").to_owned();
                return Err(CliError::failed(format!("{} did not start: {last}", self.name)));
            }
            sleep(Duration::from_millis(50)).await;
        }
        // Somebody else may have taken the port in between, and answer there.
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            _ => Err(CliError::failed(format!("{} did not start: its port was taken; try again", self.name))),
        }
    }

    pub(super) async fn stop(mut self) {
        // It may have ended by itself.
        let _ = self.child.kill().await;
    }
}

/// Prometheus, if it is there, told to look at one address.
pub(super) fn prometheus(metrics: SocketAddr, folder: &Path) -> Result<Option<Server>, CliError> {
    let Some(prometheus) = find_tool("prometheus") else { return Ok(None) };
    let address = free_address(9090)?;
    let config = monitoring::write(folder, metrics)
        .map_err(|error| CliError::caused("cannot write Prometheus's configuration", error))?;
    let mut command = Command::new(prometheus);
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("prometheus").display()))
        .arg(format!("--web.listen-address={address}"));
    Server::start(command, "prometheus", address, folder).map(Some)
}

/// nats-server, yet without arguments.
pub(super) fn nats_server() -> Result<Command, CliError> {
    find_tool("nats-server").map(Command::new).ok_or_else(|| {
        CliError::failed(
            "there is no nats-server on the PATH; `./dev demo` gets one and starts the demo, \
             or see https://nats.io/download",
        )
    })
}

/// An address of this machine with the usual port if it is free, else with another.
pub(super) fn free_address(usual: u16) -> Result<SocketAddr, CliError> {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, usual))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .and_then(|listener| listener.local_addr());
    free.map_err(|error| CliError::caused("there is no free port", error))
}
