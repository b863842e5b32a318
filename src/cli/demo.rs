//! `callsight demo`: everything on this machine.
//!
//! By default all regions share one server, which starts at once. With `--regions` they are bridged
//! as in production, with a cluster of `--servers` per region, and the link between them can be
//! cut. With `--call` nothing is simulated: a browser makes a real call.
//!
//! Invariant: whatever the demo starts is stopped with it, and no file is left behind.

mod bridge;
mod bridged;
mod call;
mod ingests;
#[expect(unreachable_pub, reason = "the test kit exports it")]
mod link;
mod servers;
mod single;
#[expect(unreachable_pub, reason = "the test kit exports it")]
mod supercluster;

use std::fmt;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::time::Duration;

use async_nats::Client;
use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use self::call::{CallPage, Places};
use self::servers::{DemoServer, RegionServers, free_address};
use super::args::{ProcessArgs, distinct, joined, rejected};
use super::monitoring::Rules;
use super::process::print;
use super::simulate::CallArgs;
use super::{CliError, stop_signal};
use crate::config::{ConfigError, within_an_hour};
use crate::consume::Reader;
use crate::ingest::Ingest;
use crate::serve::{Exporter, ExporterConfig, Glance, PageConfig};
use crate::simulate::{self, Clients, IngestTarget, SimulateConfig};
use crate::topology::Deployment;
use callsight_fold::FoldSettings;
use callsight_frame::subject::Region;

/// Intervals of the live line: on a terminal it is overwritten, elsewhere each is a line of its
/// own.
const TERMINAL_LINE: Duration = Duration::from_secs(1);
const LOG_LINE: Duration = Duration::from_secs(5);

/// Interval between two frames of a simulated session, and between two packets of videocall.rs,
/// whose clients have no other.
const FRAME_INTERVAL: Duration = Duration::from_secs(2);
const PACKET_INTERVAL: Duration = Duration::from_secs(5);

/// Idle timeout: short, so that the series of crashed sessions disappear while one watches.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Run everything on this machine: NATS, the exporter, the way in over HTTP, simulated calls, and
/// Prometheus if it is installed
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Bridge")]
pub(crate) struct DemoArgs {
    /// Show a real call in your browser instead of simulated ones: open the address that is
    /// printed.
    ///
    /// Two participants send generated pictures and sounds, or your camera and microphone, through
    /// a network that you make bad with sliders. Here one degraded session is enough for a verdict
    /// and an alert.
    #[arg(
        long,
        help_heading = "Calls",
        conflicts_with_all = ["region", "regions", "servers", "cut", "sessions", "client", "scenario", "seed"]
    )]
    call: bool,

    /// Regions to place calls in, all on one NATS server.
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

    /// Regions of a super-cluster, `us,apac`: each has its own NATS servers, bridged by gateways,
    /// with an arbiter.
    ///
    /// It runs from the files of `jetstream/` and takes some seconds longer to start. The first
    /// region is the hub: the exporter reads the others from their mirrors there.
    #[arg(long, value_name = "REGION", value_delimiter = ',')]
    regions: Vec<Region>,

    /// NATS servers in each region of the super-cluster: 1, 3 or 5.
    ///
    /// 3 is production: 3 + 3 + 1 with the arbiter, each stream on three servers. Any one of them
    /// can be killed, and everything continues.
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = servers_per_region)]
    servers: usize,

    /// Cut the link to this one of `--regions` for a while, so that its mirror falls behind and
    /// catches up
    #[arg(long, value_name = "REGION")]
    cut: Option<Region>,

    /// Time from the start to the cut, from 1s to 1h
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = within_an_hour)]
    cut_after: Duration,

    /// Duration of the cut, from 1s to 1h
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = within_an_hour)]
    cut_for: Duration,

    #[command(flatten)]
    calls: CallArgs,

    #[command(flatten)]
    process: ProcessArgs,
}

/// The validated settings of a demo.
#[derive(Clone, Debug)]
pub(crate) struct DemoConfig {
    /// At least one, each once.
    pub(crate) regions: Vec<Region>,
    /// Servers of each region, if the regions are bridged by gateways; else all share one.
    bridged: Option<usize>,
    /// Time and duration of the cut of the link to the region beyond the hub.
    cut: Option<(Duration, Duration)>,
    /// One call in a browser instead of simulated ones.
    call: bool,
    pub(crate) calls: CallArgs,
}

impl DemoArgs {
    pub(super) fn validate(self) -> Result<(ProcessArgs, DemoConfig), ConfigError> {
        let mut regions = distinct(self.region);
        let [hub, other] = bridged::REGIONS;
        let bridged = !self.regions.is_empty() || self.cut.is_some() || self.servers > 1;
        if bridged {
            if !self.regions.is_empty() {
                regions = distinct(self.regions);
            }
            if !regions.iter().map(Region::as_str).eq([hub, other]) {
                return rejected(format!(
                    "`--regions` must be {hub},{other}; `jetstream/` has no other regions"
                ));
            }
            if let Some(cut) = self.cut.as_ref().filter(|cut| cut.as_str() != other) {
                return rejected(format!("`--cut` must be {other}, the region beyond the hub, not {cut}"));
            }
        }
        if self.call {
            regions.truncate(1);
        }
        self.calls.check(&regions)?;
        let cut = self.cut.map(|_| (self.cut_after, self.cut_for));
        let bridged = bridged.then_some(self.servers);
        Ok((self.process, DemoConfig { regions, bridged, cut, call: self.call, calls: self.calls }))
    }
}

/// Parses the number of servers per region.
fn servers_per_region(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(servers @ (1 | 3 | 5)) => Ok(servers),
        Ok(2 | 4) => Err("write 1, 3 or 5: servers decide by majority, so an even number survives no more \
                          failures than one server fewer"
            .to_owned()),
        _ => Err("write 1, 3 or 5".to_owned()),
    }
}

impl fmt::Display for DemoConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CallArgs { sessions, client, scenario, .. } = self.calls;
        if self.call {
            return write!(f, "a call in the browser; region {}", joined(&self.regions));
        }
        let bridged = match self.bridged {
            Some(1) => ", bridged".to_owned(),
            Some(servers) => format!(", bridged, {servers} servers each"),
            None => String::new(),
        };
        write!(
            f,
            "regions {}{bridged}; {sessions} sessions; clients {client}; scenario {scenario}",
            joined(&self.regions)
        )
    }
}

/// Runs the demo until a signal or the end of its duration.
pub(crate) async fn run(config: DemoConfig) -> Result<(), CliError> {
    let mut stop = std::pin::pin!(stop_signal()?);
    let folder = tempfile::Builder::new().prefix("callsight-demo-").tempdir();
    let folder = folder.map_err(|error| CliError::caused("cannot create a folder for the demo", error))?;
    // The servers take a while to elect a leader, and a signal must not wait for that.
    let starting = Stage::start(&config, &folder);
    let stage = tokio::select! {
        stage = starting => stage?,
        _ = &mut stop => return Ok(()),
    };
    let shown = stage.show(&config, stop).await;
    stage.stop().await;
    shown
}

/// What is started before the exporter and the calls.
struct Stage {
    nats: RegionServers,
    prometheus: Option<DemoServer>,
    /// Address for the exporter, which Prometheus needs before the exporter starts.
    metrics: SocketAddr,
    /// Where a part of the clients sends its frames.
    targets: Vec<IngestTarget>,
    ingests: Vec<Ingest>,
    reader: Reader,
    /// Address for the page of the call, which exporter and ingest must know.
    page: Option<SocketAddr>,
}

impl Stage {
    async fn start(config: &DemoConfig, folder: &TempDir) -> Result<Self, CliError> {
        // The deployment of `jetstream/` that reads all regions.
        let deployment = if config.bridged.is_some() { "global" } else { "demo" };
        let reader = deployment.parse::<Deployment>().map_err(CliError::other)?.into();
        let nats = match config.bridged {
            Some(servers) => bridged::start(servers, folder).await?,
            None => single::start(&config.regions, folder).await?,
        };
        let metrics = free_address(9464)?;
        let targets = ingests::plan(&nats.ingests)?;
        let scraped: Vec<_> = targets.iter().map(|target| target.address).chain([metrics]).collect();
        let page = config.call.then(|| free_address(call::PORT)).transpose()?;
        let rules = if config.call { Rules::OneSession } else { Rules::Shipped };
        let prometheus = servers::prometheus(&scraped, rules, folder.path())?;
        let ingests = ingests::start(&nats.ingests, &targets, page, folder.path()).await?;
        Ok(Self { nats, prometheus, metrics, targets, ingests, reader, page })
    }

    /// Runs the exporter and the calls until `stop`, which may have completed already.
    async fn show(
        &self,
        config: &DemoConfig,
        stop: impl Future<Output = &'static str>,
    ) -> Result<(), CliError> {
        let exporter = Exporter::start(self.nats.feeds(), self.exporter_config()).await;
        let exporter = exporter.map_err(CliError::other)?;
        let page = self.call_page(&exporter).await?;
        print(&self.addresses(&exporter)?)?;
        let (over, _) = watch::channel(false);
        let calls = self.calls(config).into_iter().map(|(client, calls)| {
            let mut ending = over.subscribe();
            tokio::spawn(simulate::run(client, calls, async move {
                let _ = ending.wait_for(|over| *over).await;
            }))
        });
        let calls: Vec<_> = calls.collect();
        let watched = tokio::select! {
            watched = self.watch_calls(&exporter, config.calls.duration, stop) => watched,
            () = self.cut(config) => Ok(()),
        };
        // Relays could not end their calls over a cut link.
        if let Some(bridge) = &self.nats.bridge {
            bridge.set_cut(false);
        }
        over.send_replace(true);
        let calls = join_all(calls).await;
        if let Some(page) = page {
            page.stop().await;
        }
        exporter.stop().await;
        let (mut published, mut acknowledged) = (0, 0);
        for calls in calls {
            let summary =
                calls.map_err(|error| CliError::caused("the simulation ended unexpectedly", error))?;
            let summary = summary.map_err(CliError::other)?;
            published += summary.stats.accepted;
            acknowledged += summary.stats.acknowledged;
        }
        watched?;
        print(&match config.call {
            true => "\nstopped\n".to_owned(),
            false => format!("\nstopped: {published} frames published, {acknowledged} acknowledged\n"),
        })
    }

    /// Starts the page of the call, if there is to be one.
    async fn call_page(&self, exporter: &Exporter) -> Result<Option<CallPage>, CliError> {
        let (Some(page), Some(ingest)) = (self.page, self.targets.first()) else { return Ok(None) };
        let places = Places {
            page,
            ingest: ingest.clone(),
            triage: exporter.address(),
            prometheus: self.prometheus.as_ref().map(|prometheus| prometheus.address),
        };
        CallPage::start(places).await.map(Some)
    }

    /// Returns the calls and the connections of their relays, which are next to each region's
    /// servers.
    fn calls(&self, config: &DemoConfig) -> Vec<(Client, SimulateConfig)> {
        if config.call {
            return Vec::new();
        }
        let (seed, count) = (config.calls.seed(), self.nats.relays.len());
        let calls = |(index, (client, regions)): (usize, &(Client, Vec<Region>))| {
            // Each server has a share of the sessions, and a seed of its own.
            let sessions = (config.calls.sessions + count - 1 - index) / count;
            let calls = SimulateConfig {
                regions: regions.clone(),
                sessions: sessions.max(1),
                meeting_size: 4,
                interval: match config.calls.client {
                    Clients::Videocall => PACKET_INTERVAL,
                    _ => FRAME_INTERVAL,
                },
                seed: seed.wrapping_add(index as u64),
                clients: config.calls.client,
                scenario: config.calls.scenario,
                rhythm: config.calls.rhythm,
                leave_at_end: true,
                quiet: true,
                ingest: self.targets.clone(),
                ..SimulateConfig::default()
            };
            (client.clone(), calls)
        };
        self.nats.relays.iter().enumerate().map(calls).collect()
    }

    fn exporter_config(&self) -> ExporterConfig {
        ExporterConfig {
            listen: self.metrics,
            web_config: None,
            reader: self.reader.clone(),
            create: self.nats.bridge.is_none().then_some(1),
            ready_max_lag: Duration::from_secs(10),
            max_series: 1_000_000,
            max_sessions: 100_000,
            fold: FoldSettings { idle_timeout: IDLE_TIMEOUT, ..FoldSettings::default() },
            page: match self.page {
                Some(page) => PageConfig {
                    bad_sessions: 1,
                    framed_by: Some(call::origin(page)),
                    ..PageConfig::default()
                },
                None => PageConfig::default(),
            },
        }
    }

    fn addresses(&self, exporter: &Exporter) -> Result<String, CliError> {
        let prometheus = match &self.prometheus {
            Some(prometheus) => format!(
                "Prometheus  http://{address}/graph?g0.expr=videocall_sessions&g0.tab=0\n\
                 alerts      http://{address}/alerts",
                address = prometheus.address
            ),
            None => "Prometheus  not found; `./dev demo` downloads it".to_owned(),
        };
        let (nats, address) = (&self.nats.addresses, exporter.address());
        if let Some(page) = self.page {
            return Ok(format!(
                "Call        {}/\nCallsight   http://{address}/\n{prometheus}\n\n\
                 Open the first address in Chromium, Chrome, Edge or Firefox. Ctrl-C stops everything.\n\n",
                call::origin(page)
            ));
        }
        let ingest = |target: &IngestTarget| format!("http://{} ({})", target.address, target.region);
        let ingests: Vec<_> = self.targets.iter().map(ingest).collect();
        let command = self.targets.first().map(ingests::command).transpose()?.unwrap_or_default();
        Ok(format!(
            "Callsight   http://{address}/\nmetrics     http://{address}/metrics\n{prometheus}\n\
             ingest      {}\nNATS        {nats}\n\nA frame of your own:\n\n  {command}\n\n\
             Ctrl-C stops everything.\n\n",
            ingests.join("  ")
        ))
    }

    /// Cuts the link for a while if configured, and never completes.
    async fn cut(&self, config: &DemoConfig) {
        if let (Some(bridge), Some((after, duration))) = (&self.nats.bridge, config.cut) {
            sleep(after).await;
            bridge.set_cut(true);
            sleep(duration).await;
            bridge.set_cut(false);
        }
        std::future::pending().await
    }

    /// Writes the live line repeatedly, until a signal or the end of the duration.
    async fn watch_calls(
        &self,
        exporter: &Exporter,
        duration: Option<Duration>,
        stop: impl Future<Output = &'static str>,
    ) -> Result<(), CliError> {
        let terminal = io::stdout().is_terminal();
        let mut every = interval(if terminal { TERMINAL_LINE } else { LOG_LINE });
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stop = std::pin::pin!(stop);
        let mut end = std::pin::pin!(sleep(duration.unwrap_or(Duration::MAX)));
        loop {
            tokio::select! {
                biased;
                _ = &mut stop => return Ok(()),
                () = &mut end => return Ok(()),
                _ = every.tick() => {
                    let line = line(&exporter.glance());
                    let bridge = self.bridge_line(exporter).await;
                    let (before, after) = if terminal { ("\r\x1b[2K", "") } else { ("", "\n") };
                    print(&format!("{before}{line}{bridge}{after}"))?;
                }
            }
        }
    }

    /// Returns the bridge's part of the live line.
    async fn bridge_line(&self, exporter: &Exporter) -> String {
        let Some(bridge) = &self.nats.bridge else { return String::new() };
        let [_, region] = bridged::REGIONS;
        let behind = match bridge.behind().await {
            Some(frames) => frames.to_string(),
            None => "an unknown number".to_owned(),
        };
        let mirrors = exporter.mirrors();
        let silent = mirrors.iter().find(|(name, _)| name == region).and_then(|(_, lag)| lag.silent);
        let contact = match silent {
            Some(silent) => format!(", last contact {} s ago", silent.as_secs()),
            None => String::new(),
        };
        let cut = if bridge.is_cut() { ", LINK CUT" } else { "" };
        format!("   mirror of {region} behind by {behind}{contact}{cut}")
    }

    async fn stop(self) {
        for ingest in self.ingests {
            ingest.stop().await;
        }
        if let Some(prometheus) = self.prometheus {
            prometheus.stop().await;
        }
        self.nats.stop().await;
    }
}

fn line(glance: &Glance) -> String {
    let rtt = match glance.rtt {
        Some(rtt) => {
            let [p50, p95, p99] = rtt.map(|value| value.as_secs_f64() * 1e3);
            format!("p50 {p50:4.0} ms   p95 {p95:4.0} ms   p99 {p99:4.0} ms")
        }
        None => "not measured yet".to_owned(),
    };
    let state = if glance.ready { "ready" } else { "not ready" };
    format!("RTT {rtt}   sessions {:4}   lag {:.1} s   {state}", glance.sessions, glance.lag.as_secs_f64())
}
