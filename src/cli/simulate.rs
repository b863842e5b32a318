//! `callsight simulate`: realistic clients.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use super::CliError;
use super::args::{NatsArgs, ProcessArgs, distinct, joined};
use crate::config::{NatsConfig, duration, duration_between, positive, whole};
use crate::subject::Region;

const INTERVAL_MIN: Duration = Duration::from_millis(10);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// Send the health frames of simulated calls to JetStream
#[derive(Debug, clap::Args)]
pub(crate) struct SimulateArgs {
    #[command(flatten)]
    nats: NatsArgs,

    /// A region to place calls in.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(long, value_name = "REGION", value_delimiter = ',', default_value = "us", help_heading = "Stream")]
    region: Vec<Region>,

    /// Make the streams that are missing, for development
    #[arg(long, help_heading = "Stream")]
    create: bool,

    #[command(flatten)]
    calls: CallArgs,

    /// Participants of a meeting, on average
    #[arg(
        long,
        value_name = "N",
        default_value = "4",
        value_parser = positive,
        help_heading = "Calls"
    )]
    meeting_size: f64,

    /// How often a session sends a frame, from 10ms to 1h
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "5s",
        value_parser = duration_between(INTERVAL_MIN..=INTERVAL_MAX),
        help_heading = "Pace"
    )]
    interval: Duration,

    /// Frames a second of all sessions together, instead of `--interval`
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Pace")]
    rate: Option<f64>,

    /// Stop after this many frames
    #[arg(long, value_name = "N", value_parser = whole(NonZeroU64::MIN..=NonZeroU64::MAX), help_heading = "Pace")]
    frames: Option<NonZeroU64>,

    #[command(flatten)]
    process: ProcessArgs,
}

/// The calls themselves, as the demo has them too.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CallArgs {
    /// Sessions at a time
    #[arg(long, value_name = "N", default_value = "100", value_parser = whole(NonZeroU32::MIN..=NonZeroU32::MAX), help_heading = "Calls")]
    pub(crate) sessions: NonZeroU32,

    /// What happens to the network
    #[arg(long, value_name = "NAME", default_value = "steady", help_heading = "Calls")]
    pub(crate) scenario: Scenario,

    /// Seed of all chance: the same one gives the same calls
    #[arg(long, value_name = "N", default_value = "1", value_parser = whole(0..=u64::MAX), help_heading = "Calls")]
    pub(crate) seed: u64,

    /// Stop after this long; without it, when told to
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Pace")]
    pub(crate) duration: Option<Duration>,
}

/// What happens to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// Nothing out of the ordinary.
    Steady,
    /// Round trips within apac become long for a while.
    ApacRttSpike,
    /// Packets are lost, audio is concealed, video freezes.
    PacketLoss,
    /// Many join at once.
    FlashCrowd,
}

/// How fast frames are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// Each session sends one so often.
    Interval(Duration),
    /// All sessions together send so many a second.
    Rate(f64),
}

/// What to simulate.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SimulateConfig {
    pub(crate) nats: NatsConfig,
    /// At least one, each once.
    pub(crate) regions: Vec<Region>,
    /// Make streams that are missing.
    pub(crate) create: bool,
    /// Sessions at a time.
    pub(crate) sessions: NonZeroU32,
    /// Participants of a meeting, on average.
    pub(crate) meeting_size: f64,
    pub(crate) scenario: Scenario,
    pub(crate) seed: u64,
    pub(crate) pace: Pace,
    /// When to stop by itself; with neither this nor `frames`, never.
    pub(crate) duration: Option<Duration>,
    /// After how many frames to stop.
    pub(crate) frames: Option<NonZeroU64>,
}

impl SimulateArgs {
    pub(super) fn validate(self) -> (ProcessArgs, SimulateConfig) {
        let config = SimulateConfig {
            nats: self.nats.into(),
            regions: distinct(self.region),
            create: self.create,
            sessions: self.calls.sessions,
            meeting_size: self.meeting_size,
            scenario: self.calls.scenario,
            seed: self.calls.seed,
            pace: self.rate.map_or(Pace::Interval(self.interval), Pace::Rate),
            duration: self.calls.duration,
            frames: self.frames,
        };
        (self.process, config)
    }
}

impl fmt::Display for SimulateConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nats, sessions, seed, .. } = self;
        write!(f, "regions {}; {sessions} sessions; seed {seed}; NATS {nats}", joined(&self.regions))
    }
}

/// Simulates until told to stop, or until enough is sent.
pub(crate) async fn run(config: SimulateConfig) -> Result<(), CliError> {
    Err(CliError::failed(format!("simulate is not built yet ({config})")))
}
