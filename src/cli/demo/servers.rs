//! The real servers that the demo starts, and its connections to NATS.
//!
//! Invariant: a server that is dropped is killed.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_nats::Client;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::bridge::Bridge;
use crate::cli::monitoring::Rules;
use crate::cli::tool::find_tool;
use crate::cli::{CliError, monitoring};
use crate::config::{NatsConfig, NatsIdentity, NatsTls};
use crate::consume::Source;
use crate::nats;
use crate::nats::Refusals;
use crate::serve::Feed;
use callsight_frame::subject::Region;

/// Maximum time for a server to start.
const START_WITHIN: Duration = Duration::from_secs(15);

/// A running server and its address. It is killed when dropped.
pub(super) struct DemoServer {
    child: Child,
    name: String,
    log: PathBuf,
    pub(super) address: SocketAddr,
}

impl DemoServer {
    /// Starts a server with its log in the folder.
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
        // Ctrl-C goes to the whole process group, but servers must stop after their clients.
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
                let last = log.lines().last().unwrap_or("it logged nothing").to_owned();
                return Err(CliError::failed(format!("{} did not start: {last}", self.name)));
            }
            sleep(Duration::from_millis(50)).await;
        }
        self.check_running()
    }

    /// Checks that it has not ended. Another process may have taken its port, and accept
    /// connections on it.
    pub(super) fn check_running(&mut self) -> Result<(), CliError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            _ => Err(CliError::failed(format!("{} did not start: its port is in use; try again", self.name))),
        }
    }

    pub(super) async fn stop(mut self) {
        // It may have ended already.
        let _ = self.child.kill().await;
    }
}

/// The NATS servers of the regions, with the connections to them.
pub(super) struct RegionServers {
    pub(super) servers: Vec<DemoServer>,
    /// The addresses, for people.
    pub(super) addresses: String,
    /// The connections of relays, each with the regions next to its server.
    pub(super) relays: Vec<(Client, Vec<Region>)>,
    /// The connections of the way in over HTTP, each with its region.
    pub(super) ingests: Vec<(Client, Region)>,
    /// The stream of each region, and the exporter's connection, which reads them all.
    pub(super) sources: Vec<Source>,
    pub(super) exporter: Client,
    /// Present if each region has its own server.
    pub(super) bridge: Option<Bridge>,
}

impl RegionServers {
    pub(super) fn feeds(&self) -> Vec<Feed> {
        let feed = |source: &Source| Feed {
            source: source.clone(),
            client: self.exporter.clone(),
            refusals: Refusals::default(),
        };
        self.sources.iter().map(feed).collect()
    }

    pub(super) async fn stop(self) {
        let Self { servers, relays, ingests, exporter, mut bridge, .. } = self;
        // They would log the loss of their servers.
        drop((relays, ingests, exporter));
        if let Some(bridge) = &mut bridge {
            bridge.disconnect();
        }
        for server in servers {
            server.stop().await;
        }
    }
}

/// Starts Prometheus, if it is installed, with these targets.
pub(super) fn prometheus(
    targets: &[SocketAddr],
    rules: Rules,
    folder: &Path,
) -> Result<Option<DemoServer>, CliError> {
    let Some(prometheus) = find_tool("prometheus") else { return Ok(None) };
    let address = free_address(9090)?;
    let config = monitoring::write(folder, targets, rules)
        .map_err(|error| CliError::caused("cannot write Prometheus's configuration", error))?;
    let mut command = Command::new(prometheus);
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("prometheus").display()))
        .arg(format!("--web.listen-address={address}"));
    DemoServer::start(command, "prometheus", address, folder).map(Some)
}

/// Returns the command of nats-server, without arguments.
pub(super) fn nats_server() -> Result<Command, CliError> {
    find_tool("nats-server").map(Command::new).ok_or_else(|| {
        CliError::failed(
            "nats-server is not on the PATH; `./dev demo` downloads it and starts the demo, \
             or see https://nats.io/download",
        )
    })
}

/// Ports for servers: below those that the kernel gives to outgoing connections, any of which could
/// take a port before its server does.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// Returns an address of this machine with the usual port if it is free, or with another one.
pub(super) fn free_address(usual: u16) -> Result<SocketAddr, CliError> {
    let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let others = std::iter::repeat_with(|| rand::random_range(PORTS)).take(PORTS.len());
    let port = std::iter::once(usual).chain(others).find(|port| *port != ANY && free(*port));
    port.map(|port| (Ipv4Addr::LOCALHOST, port).into())
        .ok_or_else(|| CliError::failed("there is no free port"))
}

/// For [`free_address`]: no port is usual.
pub(super) const ANY: u16 = 0;

/// Connects to one of several NATS servers as a user with an inbox of its own.
pub(super) async fn connect(
    servers: &[SocketAddr],
    identity: NatsIdentity,
    user: &str,
) -> Result<Client, CliError> {
    let urls = servers.iter().map(|server| format!("nats://{server}").parse());
    let config = NatsConfig {
        servers: urls.collect::<Result<_, _>>().map_err(CliError::other)?,
        fallback: Vec::new(),
        identity,
        tls: NatsTls::default(),
        inbox_prefix: format!("_INBOX.{user}"),
    };
    nats::connect(&config, "callsight demo").await.map_err(CliError::other)
}
