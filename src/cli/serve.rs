//! `callsight serve`: the exporter.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::args::{HOUR, JudgementArgs, NatsArgs, PLENTY, ProcessArgs, SECOND};
use super::sources::{SourceArgs, SourcesConfig};
use super::{CliError, stop_signal};
use crate::config::{ConfigError, NatsConfig, duration_between, socket_address, whole};
use crate::consume::Reader;
use crate::nats;
use crate::serve::{Exporter, ExporterConfig, Feed, open_files};
use crate::topology::{Deployment, Shard};
use callsight_fold::{DetailLevel, FoldSettings, Limits};
use callsight_frame::MAX_PEERS;

/// Fold health frames from JetStream and serve them to Prometheus
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    nats: NatsArgs,

    #[command(flatten)]
    sources: SourceArgs,

    /// Which of several exporters side by side this is, such as `blue` or `green`.
    ///
    /// It is part of the name of the durable consumer, so two that share it share the frames between them.
    #[arg(long, value_name = "NAME", default_value = "main", help_heading = "Stream")]
    deployment: Deployment,

    /// Which of the exporters that share a deployment's servers this is: `2/3` is the second of three.
    ///
    /// Each reads its share of the partitions of the stream, through a durable consumer of its own. Without it, one
    /// exporter reads everything.
    #[arg(long, value_name = "I/N", help_heading = "Stream")]
    shard: Option<Shard>,

    /// How many shards the deployment had before, while that changes; 1 if it had none.
    ///
    /// Durable consumers that `--create` makes begin where those of the shards before were left, once these have
    /// been stopped.
    #[arg(long, value_name = "N", value_parser = whole(1..=Shard::MOST), help_heading = "Stream")]
    shards_before: Option<u32>,

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
        value_parser = whole(1..=5_usize),
        help_heading = "Stream"
    )]
    create_replicas: usize,

    /// Address to serve metrics, health and the triage page on
    #[arg(
        long,
        value_name = "IP:PORT",
        default_value = "127.0.0.1:9464",
        value_parser = socket_address,
        help_heading = "HTTP"
    )]
    listen: SocketAddr,

    /// TLS and basic auth for metrics and the triage page, a file in the shape of Prometheus's web config.
    ///
    /// It is read again when it changes. `/livez` and `/readyz` ask for no password.
    #[arg(long, value_name = "FILE", help_heading = "HTTP")]
    web_config: Option<PathBuf>,

    /// Not ready while the oldest frame yet to fold is older than this, from 1s to 1h
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "10s",
        value_parser = duration_between(SECOND..=HOUR),
        help_heading = "HTTP"
    )]
    ready_max_lag: Duration,

    /// How much of a call gets series of its own.
    ///
    /// Aggregates are always kept, and replay has every detail whatever is chosen here.
    #[arg(long, value_name = "LEVEL", default_value = "pair", help_heading = "Detail")]
    detail: DetailArg,

    /// Keep pair detail only for meetings of up to this many sessions, 0 for any size.
    ///
    /// Pairs grow with the square of a meeting: 50 sessions are 2,450 pairs.
    #[arg(long, value_name = "N", default_value = "50", value_parser = whole(0..=PLENTY), help_heading = "Detail")]
    pair_max_sessions: usize,

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
        value_parser = whole(1..=MAX_PEERS),
        help_heading = "Budgets"
    )]
    max_peers_per_session: usize,

    #[command(flatten)]
    judgement: JudgementArgs,

    #[command(flatten)]
    process: ProcessArgs,
}

/// What the exporter is to do, and where its frames come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ServeConfig {
    pub(crate) nats: NatsConfig,
    pub(crate) sources: SourcesConfig,
    pub(crate) exporter: ExporterConfig,
}

impl ServeArgs {
    pub(super) fn validate(self) -> Result<(ProcessArgs, ServeConfig), ConfigError> {
        let shards = self.shard.map_or(1, Shard::of);
        let reader = Reader {
            deployment: self.deployment,
            shard: self.shard,
            shards_before: self.shards_before.filter(|before| *before != shards),
        };
        let exporter = ExporterConfig {
            reader,
            create: self.create.then_some(self.create_replicas),
            listen: self.listen,
            web_config: self.web_config,
            ready_max_lag: self.ready_max_lag,
            max_series: self.max_series,
            fold: FoldSettings {
                idle_timeout: self.judgement.idle_timeout,
                detail: self.detail.into(),
                pair_max_sessions: match self.pair_max_sessions {
                    0 => usize::MAX,
                    sessions => sessions,
                },
                limits: Limits {
                    sessions_per_meeting: self.max_sessions_per_meeting,
                    peers_per_session: self.max_peers_per_session,
                    server_urls: self.judgement.max_server_urls,
                },
                thresholds: self.judgement.thresholds(),
            },
        };
        let nats = self.nats.validate("exporter")?;
        let sources = self.sources.validate(&nats)?;
        Ok((self.process, ServeConfig { nats, sources, exporter }))
    }
}

/// [`DetailLevel`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DetailArg {
    /// Aggregates alone
    Off,
    /// Aggregates, and series of each session
    Session,
    /// All that, and series of each pair of a session and a remote peer
    Pair,
}

impl From<DetailArg> for DetailLevel {
    fn from(arg: DetailArg) -> Self {
        match arg {
            DetailArg::Off => Self::Off,
            DetailArg::Session => Self::Session,
            DetailArg::Pair => Self::Pair,
        }
    }
}

impl fmt::Display for ServeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nats, sources, exporter } = self;
        let ExporterConfig { listen, reader: Reader { deployment, shard, .. }, .. } = exporter;
        write!(f, "regions {sources}; listen {listen}; deployment {deployment}")?;
        if let Some(shard) = shard {
            write!(f, "; shard {shard}")?;
        }
        write!(f, "; NATS {nats}")
    }
}

/// Serves until told to stop.
pub(crate) async fn run(config: ServeConfig) -> Result<(), CliError> {
    open_files::raise_limit();
    let Reader { deployment, shard, .. } = &config.exporter.reader;
    let shard = shard.map(|shard| format!(" {shard}")).unwrap_or_default();
    let name = format!("callsight {deployment}{shard}");
    let client = nats::connect(&config.nats, &name).await.map_err(CliError::other)?;
    let mut feeds = Vec::new();
    for (source, own) in config.sources.sources {
        let client = match own {
            None => client.clone(),
            Some(nats) => nats::connect(&nats, &name).await.map_err(CliError::other)?,
        };
        feeds.push(Feed { source, client });
    }
    let mut exporter = Exporter::start(feeds, config.exporter).await.map_err(CliError::other)?;
    let stop = stop_signal()?;
    let failed = tokio::select! {
        signal = stop => {
            tracing::info!(signal, "stopping");
            None
        }
        error = exporter.failed() => Some(error),
    };
    exporter.stop().await;
    failed.map_or(Ok(()), |error| Err(CliError::other(error)))
}
