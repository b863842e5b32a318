//! `callsight demo`: everything on this machine.

use std::env;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::args::{ProcessArgs, distinct, joined};
use super::simulate::CallArgs;
use super::{CliError, monitoring, stop_signal};
use crate::config::{NatsConfig, NatsIdentity, NatsTls};
use crate::fold::FoldSettings;
use crate::nats;
use crate::serve::{Exporter, ExporterConfig, Glance};
use crate::simulate::{self, SimulateConfig};
use crate::subject::Region;
use crate::topology::{Deployment, ensure_streams};

/// How often the line is written: on a terminal over itself, elsewhere one under the other.
const TERMINAL_LINE: Duration = Duration::from_secs(1);
const LOG_LINE: Duration = Duration::from_secs(5);

/// How long a server may take to start.
const START_WITHIN: Duration = Duration::from_secs(15);

/// How often each simulated session sends a frame.
const FRAME_INTERVAL: Duration = Duration::from_secs(2);

/// How long a simulated crash leaves its series behind: short, so that one can watch them go.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Run everything on this machine: NATS, the exporter, simulated calls, and Prometheus if it is there
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// A region to place calls in.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(
        long,
        value_name = "REGION",
        value_delimiter = ',',
        default_value = "us,apac",
        help_heading = "Calls"
    )]
    region: Vec<Region>,

    #[command(flatten)]
    calls: CallArgs,

    #[command(flatten)]
    process: ProcessArgs,
}

/// What to show.
#[derive(Clone, Debug)]
pub(crate) struct DemoConfig {
    /// At least one, each once.
    pub(crate) regions: Vec<Region>,
    pub(crate) calls: CallArgs,
}

impl DemoArgs {
    pub(super) fn validate(self) -> (ProcessArgs, DemoConfig) {
        (self.process, DemoConfig { regions: distinct(self.region), calls: self.calls })
    }
}

impl fmt::Display for DemoConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CallArgs { sessions, scenario, .. } = self.calls;
        write!(f, "regions {}; {sessions} sessions; scenario {scenario}", joined(&self.regions))
    }
}

/// Runs the demo until told to stop. Whatever it started is stopped with it, and leaves nothing behind.
pub(crate) async fn run(config: DemoConfig) -> Result<(), CliError> {
    let folder = tempfile::Builder::new().prefix("callsight-demo-").tempdir();
    let folder = folder.map_err(|error| CliError::caused("cannot make a folder for the demo", error))?;
    let servers = Servers::start(&folder).await?;
    let demo = async {
        let client =
            nats::connect(&servers.nats_config()?, "callsight demo").await.map_err(CliError::other)?;
        let context = async_nats::jetstream::new(client.clone());
        for region in &config.regions {
            let made = ensure_streams(&context, region, 1).await;
            made.map_err(|error| CliError::caused("cannot make the streams", error))?;
        }
        let exporter = Exporter::start(client.clone(), exporter_config(&config, servers.metrics)?).await;
        let exporter = exporter.map_err(CliError::other)?;
        say(&servers.addresses(&exporter))?;
        let (stop, stopping) = watch::channel(false);
        let calls = tokio::spawn(simulate::run(client, simulate_config(&config), async move {
            let mut stopping = stopping;
            let _ = stopping.wait_for(|stop| *stop).await;
        }));
        let watched = watch_calls(&exporter, config.calls.duration).await;
        stop.send_replace(true);
        let calls = calls.await;
        exporter.stop().await;
        let summary = calls.map_err(|error| CliError::caused("the simulation broke off", error))?;
        let summary = summary.map_err(CliError::other)?;
        watched?;
        say(&format!(
            "\nstopped: {} frames published, {} acknowledged",
            summary.published, summary.acknowledged
        ))
    };
    let shown = demo.await;
    servers.stop().await;
    shown
}

fn exporter_config(config: &DemoConfig, listen: SocketAddr) -> Result<ExporterConfig, CliError> {
    let deployment: Deployment = "demo".parse().map_err(CliError::other)?;
    Ok(ExporterConfig {
        listen,
        web_config: None,
        regions: config.regions.clone(),
        reader: deployment.into(),
        create: Some(1),
        ready_max_lag: Duration::from_secs(10),
        max_series: 1_000_000,
        fold: FoldSettings { idle_timeout: IDLE_TIMEOUT, ..FoldSettings::default() },
    })
}

/// Writes a line about all calls again and again, until a signal or the end of the time.
async fn watch_calls(exporter: &Exporter, duration: Option<Duration>) -> Result<(), CliError> {
    let terminal = io::stdout().is_terminal();
    let mut every = interval(if terminal { TERMINAL_LINE } else { LOG_LINE });
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut signal = std::pin::pin!(stop_signal());
    let end = async {
        match duration {
            Some(duration) => sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    let mut end = std::pin::pin!(end);
    loop {
        tokio::select! {
            biased;
            signal = &mut signal => return signal.map(|_| ()),
            () = &mut end => return Ok(()),
            _ = every.tick() => {
                let line = line(&exporter.glance());
                let (before, after) = if terminal { ("\r\x1b[2K", "") } else { ("", "\n") };
                say_raw(&format!("{before}{line}{after}"))?;
            }
        }
    }
}

fn line(glance: &Glance) -> String {
    let rtt = match glance.rtt {
        Some(rtt) => {
            let [p50, p95, p99] = rtt.map(|value| value.as_secs_f64() * 1e3);
            format!("p50 {p50:4.0} ms   p95 {p95:4.0} ms   p99 {p99:4.0} ms")
        }
        None => "no round trips yet".to_owned(),
    };
    let state = if glance.ready { "ready" } else { "not ready" };
    format!("RTT {rtt}   sessions {:4}   lag {:.1} s   {state}", glance.sessions, glance.lag.as_secs_f64())
}

fn say(text: &str) -> Result<(), CliError> {
    say_raw(&format!("{text}\n"))
}

fn say_raw(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| CliError::caused("cannot write to stdout", error))
}

/// The real servers that the demo starts.
struct Servers {
    nats: Child,
    prometheus: Option<Child>,
    nats_address: SocketAddr,
    prometheus_address: SocketAddr,
    /// Where the exporter is to listen: Prometheus is told before the exporter starts.
    metrics: SocketAddr,
}

impl Servers {
    async fn start(folder: &TempDir) -> Result<Self, CliError> {
        let nats_address = free_address(4222)?;
        let metrics = free_address(9464)?;
        let prometheus_address = free_address(9090)?;
        let Some(nats_server) = find_tool("nats-server") else {
            return Err(CliError::failed(
                "there is no nats-server on the PATH; `./dev demo` gets one and starts the demo, \
                 or see https://nats.io/download",
            ));
        };
        let mut nats = Command::new(nats_server);
        nats.args([
            "--addr",
            "127.0.0.1",
            "--port",
            &nats_address.port().to_string(),
            "--jetstream",
            "--store_dir",
        ])
        .arg(folder.path().join("nats"));
        let nats = start(nats, "nats-server", folder.path())?;
        let prometheus = match find_tool("prometheus") {
            None => None,
            Some(prometheus) => {
                let config = monitoring::write(folder.path(), metrics)
                    .map_err(|error| CliError::caused("cannot write Prometheus's configuration", error))?;
                let mut command = Command::new(prometheus);
                command
                    .arg(format!("--config.file={}", config.display()))
                    .arg(format!("--storage.tsdb.path={}", folder.path().join("prometheus").display()))
                    .arg(format!("--web.listen-address={prometheus_address}"));
                Some(start(command, "prometheus", folder.path())?)
            }
        };
        let mut servers = Self { nats, prometheus, nats_address, prometheus_address, metrics };
        servers.wait_for_nats(folder.path()).await?;
        Ok(servers)
    }

    async fn wait_for_nats(&mut self, folder: &Path) -> Result<(), CliError> {
        let deadline = Instant::now() + START_WITHIN;
        while tokio::net::TcpStream::connect(self.nats_address).await.is_err() {
            let ended = self.nats.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(folder.join("nats-server.log")).unwrap_or_default();
                let last = log.lines().last().unwrap_or("it said nothing").to_owned();
                return Err(CliError::failed(format!("nats-server did not start: {last}")));
            }
            sleep(Duration::from_millis(50)).await;
        }
        // Somebody else may have taken the port in between, and answer there.
        match self.nats.try_wait() {
            Ok(None) => Ok(()),
            _ => Err(CliError::failed("nats-server did not start: its port was taken; try again")),
        }
    }

    fn nats_config(&self) -> Result<NatsConfig, CliError> {
        let url = format!("nats://{}", self.nats_address).parse().map_err(CliError::other)?;
        Ok(NatsConfig {
            servers: vec![url],
            identity: NatsIdentity::Anonymous,
            tls: NatsTls::default(),
            inbox_prefix: "_INBOX.demo".to_owned(),
        })
    }

    fn addresses(&self, exporter: &Exporter) -> String {
        let prometheus = match &self.prometheus {
            Some(_) => format!(
                "Prometheus  http://{address}/graph?g0.expr=videocall_sessions&g0.tab=0\n\
                 alerts      http://{address}/alerts",
                address = self.prometheus_address
            ),
            None => "Prometheus  not found; `./dev demo` gets one".to_owned(),
        };
        format!(
            "Callsight   http://{address}/\nmetrics     http://{address}/metrics\n{prometheus}\n\
             NATS        nats://{}\nCtrl-C stops all of it.\n",
            self.nats_address,
            address = exporter.address(),
        )
    }

    async fn stop(mut self) {
        for child in self.prometheus.iter_mut().chain([&mut self.nats]) {
            // It may have ended by itself.
            let _ = child.kill().await;
        }
    }
}

fn start(mut command: Command, name: &str, folder: &Path) -> Result<Child, CliError> {
    let cannot = |error| CliError::caused(format!("cannot start {name}"), error);
    let log = std::fs::File::create(folder.join(format!("{name}.log"))).map_err(cannot)?;
    let same = log.try_clone().map_err(cannot)?;
    command.stdin(Stdio::null()).stdout(log).stderr(same).kill_on_drop(true);
    // Ctrl-C goes to a whole process group; the servers are stopped after what uses them, not with it.
    command.process_group(0).spawn().map_err(cannot)
}

/// A tool on the PATH, or among those that `./dev` brought.
pub(super) fn find_tool(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let brought = [PathBuf::from("target/tools/bin")];
    env::split_paths(&path).chain(brought).map(|folder| folder.join(name)).find(|tool| tool.is_file())
}

/// An address of this machine with the usual port if it is free, else with another.
fn free_address(usual: u16) -> Result<SocketAddr, CliError> {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, usual))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .and_then(|listener| listener.local_addr());
    free.map_err(|error| CliError::caused("there is no free port", error))
}

fn simulate_config(config: &DemoConfig) -> SimulateConfig {
    let CallArgs { sessions, scenario, .. } = config.calls;
    SimulateConfig {
        regions: config.regions.clone(),
        sessions,
        meeting_size: 4,
        interval: FRAME_INTERVAL,
        duration: None,
        frames: None,
        seed: config.calls.seed(),
        scenario,
        rhythm: config.calls.rhythm(),
        rate: None,
        leave_at_end: true,
        quiet: true,
    }
}
