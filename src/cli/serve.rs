//! `callsight serve`: the exporter.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use super::CliError;
use super::args::{NatsArgs, ProcessArgs, distinct, joined};
use crate::config::{
    Deployment, Detail, DetailLevel, Limits, NatsConfig, Thresholds, duration_between, ratio, socket_address,
    whole,
};
use crate::subject::Region;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// The most peers that a frame can hold.
const FRAME_PEERS: usize = 256;

/// A number that no budget needs to go beyond.
const PLENTY: usize = 1_000_000_000;

/// Fold health frames from JetStream and serve them to Prometheus
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    nats: NatsArgs,

    /// A region whose calls to watch.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(long, value_name = "REGION", value_delimiter = ',', required = true, help_heading = "Stream")]
    region: Vec<Region>,

    /// Which of several exporters side by side this is, such as `blue` or `green`.
    ///
    /// It is part of the name of the durable consumer, so two that share it share the frames between them.
    #[arg(long, value_name = "NAME", default_value = "main", help_heading = "Stream")]
    deployment: Deployment,

    /// Make the streams and consumers that are missing, for development.
    ///
    /// Without it, what is missing is logged with the command that makes it, and tried again.
    #[arg(long, help_heading = "Stream")]
    create: bool,

    /// Replicas of the streams that `--create` makes, 1 to 5
    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        value_parser = whole(1..=5_u8),
        help_heading = "Stream"
    )]
    create_replicas: u8,

    /// Address to serve metrics, health and the triage page on
    #[arg(
        long,
        value_name = "IP:PORT",
        default_value = "127.0.0.1:9464",
        value_parser = socket_address,
        help_heading = "HTTP"
    )]
    listen: SocketAddr,

    /// Not ready while the oldest frame yet to fold is older than this, from 1s to 1h
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "10s",
        value_parser = duration_between(SECOND..=HOUR),
        help_heading = "HTTP"
    )]
    ready_max_lag: Duration,

    /// Remove a session that has sent no frame for this long, from 1s to 1h.
    ///
    /// Choose several times the interval at which clients send, so that no session ends for a lost frame.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "30s",
        value_parser = duration_between(SECOND..=HOUR),
        help_heading = "Detail"
    )]
    idle_timeout: Duration,

    /// How much of a call gets series of its own.
    ///
    /// Aggregates are always kept, and replay has every detail whatever is chosen here.
    #[arg(long, value_name = "LEVEL", default_value = "pair", help_heading = "Detail")]
    detail: DetailLevel,

    /// Keep pair detail only for meetings of up to this many sessions, 0 for any size.
    ///
    /// Pairs grow with the square of a meeting: 50 sessions are 2,450 pairs.
    #[arg(long, value_name = "N", default_value = "50", value_parser = whole(0..=u32::MAX), help_heading = "Detail")]
    pair_max_sessions: u32,

    /// A session with a longer round trip than this counts as degraded, from 1ms to 1m
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "300ms",
        value_parser = duration_between(MILLISECOND..=MINUTE),
        help_heading = "Degradation"
    )]
    degraded_rtt: Duration,

    /// A session with a larger share of its audio concealed counts as degraded, from 0 to 1
    #[arg(
        long,
        value_name = "SHARE",
        default_value = "0.05",
        value_parser = ratio,
        help_heading = "Degradation"
    )]
    degraded_concealment: f64,

    /// Most live series of sessions and pairs, all meetings together.
    ///
    /// A series takes about 100 bytes of memory. Beyond this and the other budgets, what is new is refused and
    /// counted; what exists stays right.
    #[arg(
        long,
        value_name = "N",
        default_value = "100000",
        value_parser = whole(1..=PLENTY),
        help_heading = "Budgets"
    )]
    max_series: usize,

    /// Most sessions of one meeting with series of their own
    #[arg(
        long,
        value_name = "N",
        default_value = "1000",
        value_parser = whole(1..=PLENTY),
        help_heading = "Budgets"
    )]
    max_sessions_per_meeting: usize,

    /// Most peers of one session with series of their own, up to 256
    #[arg(
        long,
        value_name = "N",
        default_value = "256",
        value_parser = whole(1..=FRAME_PEERS),
        help_heading = "Budgets"
    )]
    max_peers_per_session: usize,

    /// Most distinct values of the label `server_url`
    #[arg(
        long,
        value_name = "N",
        default_value = "256",
        value_parser = whole(1..=PLENTY),
        help_heading = "Budgets"
    )]
    max_server_urls: usize,

    #[command(flatten)]
    process: ProcessArgs,
}

/// What the exporter is to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ServeConfig {
    pub(crate) nats: NatsConfig,
    /// At least one, each once.
    pub(crate) regions: Vec<Region>,
    pub(crate) deployment: Deployment,
    /// Make streams and consumers that are missing, with this many replicas.
    pub(crate) create: Option<u8>,
    pub(crate) listen: SocketAddr,
    /// Age of the oldest frame yet to fold, beyond which the exporter is not ready.
    pub(crate) ready_max_lag: Duration,
    /// Stream time without a frame after which a session is removed, 1 s to 1 h.
    pub(crate) idle_timeout: Duration,
    pub(crate) detail: Detail,
    pub(crate) thresholds: Thresholds,
    pub(crate) limits: Limits,
}

impl ServeArgs {
    pub(super) fn validate(self) -> (ProcessArgs, ServeConfig) {
        let config = ServeConfig {
            nats: self.nats.into(),
            regions: distinct(self.region),
            deployment: self.deployment,
            create: self.create.then_some(self.create_replicas),
            listen: self.listen,
            ready_max_lag: self.ready_max_lag,
            idle_timeout: self.idle_timeout,
            detail: Detail { level: self.detail, pair_max_sessions: NonZeroU32::new(self.pair_max_sessions) },
            thresholds: Thresholds { rtt: self.degraded_rtt, concealment: self.degraded_concealment },
            limits: Limits {
                series: self.max_series,
                sessions_per_meeting: self.max_sessions_per_meeting,
                peers_per_session: self.max_peers_per_session,
                server_urls: self.max_server_urls,
            },
        };
        (self.process, config)
    }
}

impl fmt::Display for ServeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nats, listen, deployment, .. } = self;
        let regions = joined(&self.regions);
        write!(f, "regions {regions}; listen {listen}; deployment {deployment}; NATS {nats}")
    }
}

/// Serves until told to stop.
pub(crate) async fn run(config: ServeConfig) -> Result<(), CliError> {
    Err(CliError::failed(format!("serve is not built yet ({config})")))
}
