//! `callsight simulate`: realistic clients.
//!
//! Invariant: the last line on stdout has the counts, even if the run fails to get every ack.

use std::fmt;
use std::time::Duration;

use futures_util::FutureExt;

use super::args::{NatsArgs, ProcessArgs, distinct, joined, rejected};
use super::process::print;
use super::{CliError, stop_signal};
use crate::config::{ConfigError, HOUR, NatsConfig, duration, duration_between, positive, whole};
use crate::nats;
use crate::simulate::{self, Clients, Rhythm, Scenario, SimulateError};
use crate::topology::ensure_streams;
use callsight_frame::MAX_PEERS;
use callsight_frame::subject::Region;
use callsight_publish::PublishStats;

const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Publish the health frames of simulated calls to JetStream
#[derive(Debug, clap::Args)]
pub(crate) struct SimulateArgs {
    #[command(flatten)]
    nats: NatsArgs,

    /// Regions to place calls in.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(long, value_name = "REGION", value_delimiter = ',', default_value = "us", help_heading = "Stream")]
    region: Vec<Region>,

    /// Create missing streams, for development
    #[arg(long, help_heading = "Stream")]
    create: bool,

    #[command(flatten)]
    calls: CallArgs,

    /// Average number of participants of a meeting, from 1 to 128
    #[arg(
        long,
        value_name = "N",
        default_value = "4",
        value_parser = whole(1..=MAX_PEERS / 2),
        help_heading = "Calls"
    )]
    meeting_size: usize,

    /// Interval between two frames of a session, from 10ms to 1h
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "5s",
        value_parser = duration_between(INTERVAL_MIN..=HOUR),
        help_heading = "Pace"
    )]
    interval: Duration,

    /// Frames per second of all sessions together, instead of `--interval`
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Pace")]
    rate: Option<f64>,

    /// Stop after this number of frames
    #[arg(long, value_name = "N", value_parser = whole(1..=u64::MAX), help_heading = "Pace")]
    frames: Option<u64>,

    /// Let all sessions leave at the end; with false they fall silent, as if the relays had crashed
    #[arg(long, default_value = "true", help_heading = "Calls")]
    leave_at_end: bool,

    #[command(flatten)]
    process: ProcessArgs,
}

/// Flags of the calls, which the demo shares.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Calls")]
pub(crate) struct CallArgs {
    /// Number of concurrent sessions
    #[arg(long, value_name = "N", default_value = "100", value_parser = whole(1..=10_000_000_usize))]
    pub(crate) sessions: usize,

    /// What the clients are, and so what their frames report.
    ///
    /// With `videocall`, 0 frames are acknowledged: the counts at the end say what NATS was sent,
    /// and what no stream was there to store is gone.
    #[arg(long, value_name = "KIND", default_value = "mix")]
    pub(crate) client: Clients,

    /// Scenario that the calls follow
    #[arg(long, value_name = "NAME", default_value = "steady")]
    pub(crate) scenario: Scenario,

    #[command(flatten)]
    pub(crate) rhythm: Rhythm,

    /// Seed of all random numbers, by default a random one; the same seed gives the same calls and
    /// session ids.
    ///
    /// The stream drops frames that it already received within the last 2 minutes as duplicates.
    #[arg(long, value_name = "N", value_parser = whole(0..=u64::MAX))]
    pub(crate) seed: Option<u64>,

    /// Stop after this time; by default, run until interrupted
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Pace")]
    pub(crate) duration: Option<Duration>,
}

impl CallArgs {
    /// Checks that the scenario has something to affect.
    pub(super) fn check(&self, regions: &[Region]) -> Result<(), ConfigError> {
        let Self { scenario, client, .. } = self;
        if !regions.iter().any(|region| scenario.affects(region)) {
            return rejected(format!("`--scenario {scenario}` affects region apac; add that region"));
        }
        if !scenario.shows_in(*client) {
            return rejected(format!(
                "`--scenario {scenario}` does not show in what `--client {client}` reports; choose \
                 `--client browser` or `--client mix`"
            ));
        }
        Ok(())
    }

    /// Returns the seed of the flag, or a random one.
    pub(crate) fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(rand::random)
    }
}

/// The validated settings of a simulation and of its connection.
#[derive(Clone, Debug)]
pub(crate) struct SimulateCommandConfig {
    pub(crate) nats: NatsConfig,
    /// Whether to create missing streams.
    pub(crate) create: bool,
    pub(crate) calls: simulate::SimulateConfig,
}

impl SimulateArgs {
    pub(super) fn validate(self) -> Result<(ProcessArgs, SimulateCommandConfig), ConfigError> {
        let regions = distinct(self.region);
        self.calls.check(&regions)?;
        let calls = simulate::SimulateConfig {
            regions,
            sessions: self.calls.sessions,
            meeting_size: self.meeting_size,
            interval: self.interval,
            duration: self.calls.duration,
            frames: self.frames,
            seed: self.calls.seed(),
            clients: self.calls.client,
            scenario: self.calls.scenario,
            rhythm: self.calls.rhythm,
            rate: self.rate,
            leave_at_end: self.leave_at_end,
            quiet: false,
            ingest: Vec::new(),
        };
        let config = SimulateCommandConfig { nats: self.nats.validate("relay")?, create: self.create, calls };
        Ok((self.process, config))
    }
}

impl fmt::Display for SimulateCommandConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nats, calls, .. } = self;
        let regions = joined(&calls.regions);
        let simulate::SimulateConfig { sessions, seed, clients, scenario, .. } = calls;
        write!(
            f,
            "regions {regions}; {sessions} sessions; clients {clients}; scenario {scenario}; seed {seed}; NATS {nats}"
        )
    }
}

/// Simulates until the end of the settings, or until a signal.
pub(crate) async fn run(config: SimulateCommandConfig) -> Result<(), CliError> {
    let client = nats::connect(&config.nats, "callsight simulate").await.map_err(CliError::other)?;
    if config.create {
        let context = async_nats::jetstream::new(client.clone());
        for region in &config.calls.regions {
            let made = ensure_streams(&context, region, 1).await;
            made.map_err(|error| CliError::caused("cannot create the stream", error))?;
        }
    }
    let (scenario, regions, seed) = (config.calls.scenario, joined(&config.calls.regions), config.calls.seed);
    let stop = stop_signal()?.map(drop);
    let simulated = simulate::run(client, config.calls, stop).await;
    let summary = match &simulated {
        Ok(summary) | Err(SimulateError::Unacknowledged { summary, .. }) => Some(summary),
        Err(_) => None,
    };
    if let Some(summary) = summary {
        let seconds = summary.elapsed.as_secs_f64().max(0.001);
        let PublishStats { accepted: published, acknowledged, .. } = summary.stats;
        let rate = published as f64 / seconds;
        let text = format!(
            "{scenario} in {regions}, seed {seed}, for {seconds:.1} s: {published} frames published, {rate:.0} per second, \
             {acknowledged} acknowledged\n{summary}\n"
        );
        print(&text)?;
    }
    simulated.map(|_| ()).map_err(CliError::other)
}
