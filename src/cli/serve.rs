//! `callsight serve`: the exporter.
//!
//! Invariant: only validated settings reach the exporter, and a signal always stops it cleanly.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::args::{JudgementArgs, NatsArgs, PLENTY, ProcessArgs, web_address};
use super::process::{Prepared, prepared};
use super::sources::{SourceArgs, SourcesConfig};
use super::{CliError, service_stop_signal};
use crate::config::{ConfigError, NatsConfig, named, socket_address, whole, within_an_hour};
use crate::consume::Reader;
use crate::nats::{self, Refusals};
use crate::serve::trim::share_arena;
use crate::serve::{Exporter, ExporterConfig, Feed, PageConfig};
use crate::topology::{Deployment, Shard};
use callsight_fold::{DetailLevel, FoldSettings, Limits};
use callsight_frame::MAX_PEERS;

const SIGNALS: &str = "Signals:\n  SIGTERM, SIGINT  stop, after everything that was folded is acknowledged\n  \
                       SIGHUP           from a terminal that closes, stop; otherwise nothing: files that change \
                       are reloaded by themselves. Under nohup it is ignored";

/// Fold health frames from JetStream and serve them to Prometheus
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Stream", after_help = SIGNALS)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    nats: NatsArgs,

    #[command(flatten)]
    sources: SourceArgs,

    /// Name of this exporter among several side by side, such as `blue` or `green`.
    ///
    /// It is part of the durable consumer's name, so exporters with the same name divide the frames
    /// between them.
    #[arg(long, value_name = "NAME", default_value = "main")]
    deployment: Deployment,

    /// Shard of the deployment that this exporter is: `2/3` is the second of three.
    ///
    /// Each shard reads its share of the stream's partitions through its own durable consumer.
    /// Without it, the exporter reads everything.
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,

    /// Number of shards that the deployment had before, while it changes; 1 for none.
    ///
    /// Durable consumers that `--create` creates begin where those of the previous shards ended,
    /// once these are stopped.
    #[arg(long, value_name = "N", value_parser = whole(1..=Shard::MOST))]
    shards_before: Option<u32>,

    /// Create missing streams and consumers, for development.
    ///
    /// Without it, a missing one is logged with the command that creates it, and the exporter
    /// retries.
    #[arg(long)]
    create: bool,

    /// Replicas of the streams that `--create` creates, 1 to 5
    #[arg(long, value_name = "N", default_value = "1", value_parser = whole(1..=5_usize))]
    create_replicas: usize,

    #[command(flatten)]
    http: ServeHttpArgs,

    /// Level of detail of each call's own series.
    ///
    /// Aggregates are always exported, and a replay has every detail regardless.
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "pair",
        value_parser = named(&DETAIL_LEVELS),
        help_heading = "Detail"
    )]
    detail: DetailLevel,

    /// Maximum number of sessions of a meeting with pair detail, 0 for any number.
    ///
    /// Pairs grow with the square of a meeting's size: 50 sessions are 2,450 pairs.
    #[arg(long, value_name = "N", default_value = "50", value_parser = whole(0..=PLENTY), help_heading = "Detail")]
    pair_max_sessions: usize,

    #[command(flatten)]
    budgets: BudgetArgs,

    #[command(flatten)]
    judgement: JudgementArgs,

    #[command(flatten)]
    process: ProcessArgs,
}

/// Flags of the HTTP server.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "HTTP")]
struct ServeHttpArgs {
    /// Address to serve metrics, health and the triage page on
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9464", value_parser = socket_address)]
    listen: SocketAddr,

    /// File with TLS and basic auth for metrics and the triage page, in the format of Prometheus's
    /// web config.
    ///
    /// It is reloaded when it changes; only a restart removes TLS or all users. `/livez` and
    /// `/readyz` require no password.
    #[arg(long, value_name = "FILE")]
    web_config: Option<PathBuf>,

    /// Address of `callsight rewind`, for a link from the triage page to the last half hour
    #[arg(long, value_name = "URL", value_parser = web_address)]
    rewind_url: Option<String>,

    /// Age of a region's view above which `/readyz` is not ready, from 1s to 1h.
    ///
    /// Everything that was stored before is folded. A view without contact for 7 s is lost in any
    /// case.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = within_an_hour)]
    ready_max_lag: Duration,
}

/// Flags that bound series and sessions, and with them memory.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Budgets")]
struct BudgetArgs {
    /// Maximum number of live sessions, in all regions together.
    ///
    /// It also bounds the peers that they observe, to eight times as many, and the sessions and
    /// peers that are remembered for two minutes, to twice as many. Frames of further sessions are
    /// refused, counted and warned of: the aggregates are incomplete then. A session takes 1 to 2
    /// KB of memory, and up to 7 KB if its client wants to fill the memory.
    #[arg(long, value_name = "N", default_value = "5000", value_parser = whole(1..=PLENTY))]
    max_sessions: usize,

    /// Maximum number of live series of sessions and pairs, in all meetings together.
    ///
    /// A session takes 10 and a pair 26, whether its client reports all of them or not, and each
    /// about 100 bytes of memory at most. Beyond this and the other budgets, new series are
    /// refused and counted; existing ones stay correct.
    #[arg(long, value_name = "N", default_value = "125000", value_parser = whole(1..=PLENTY))]
    max_series: usize,

    /// Maximum number of sessions of a meeting with their own series
    #[arg(long, value_name = "N", default_value = "1000", value_parser = whole(1..=PLENTY))]
    max_sessions_per_meeting: usize,

    /// Maximum number of peers of a session with their own series, up to 256
    #[arg(long, value_name = "N", default_value = "256", value_parser = whole(1..=MAX_PEERS))]
    max_peers_per_session: usize,
}

/// The validated settings of the exporter and of its sources.
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
        let judged = self.judgement.fold();
        let exporter = ExporterConfig {
            reader,
            create: self.create.then_some(self.create_replicas),
            listen: self.http.listen,
            web_config: self.http.web_config,
            ready_max_lag: self.http.ready_max_lag,
            max_series: self.budgets.max_series,
            max_sessions: self.budgets.max_sessions,
            fold: FoldSettings {
                detail: self.detail,
                pair_max_sessions: match self.pair_max_sessions {
                    0 => usize::MAX,
                    sessions => sessions,
                },
                limits: Limits {
                    sessions_per_meeting: self.budgets.max_sessions_per_meeting,
                    peers_per_session: self.budgets.max_peers_per_session,
                    ..judged.limits
                },
                ..judged
            },
            page: PageConfig { rewind_url: self.http.rewind_url, ..PageConfig::default() },
        };
        let nats = self.nats.validate("exporter")?;
        let sources = self.sources.validate(&nats)?;
        Ok((self.process, ServeConfig { nats, sources, exporter }))
    }
}

/// The levels of detail on the command line, with their help.
const DETAIL_LEVELS: [(&str, &str, DetailLevel); 3] = [
    ("off", "Aggregates only", DetailLevel::Off),
    ("session", "Aggregates, and series of every session", DetailLevel::Session),
    ("pair", "All of that, and series of every pair of a session and a remote peer", DetailLevel::Pair),
];

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

/// Prepares the exporter.
pub(super) fn prepare(args: ServeArgs) -> Result<Prepared, ConfigError> {
    let Prepared { settings, run } = prepared(args.validate()?, run);
    let run = Box::new(|| {
        share_arena();
        run()
    });
    Ok(Prepared { settings, run })
}

/// Serves until a signal, or until the exporter fails.
pub(crate) async fn run(config: ServeConfig) -> Result<(), CliError> {
    let Reader { deployment, shard, .. } = &config.exporter.reader;
    let shard = shard.map(|shard| format!(" {shard}")).unwrap_or_default();
    let name = format!("callsight {deployment}{shard}");
    let connect = async |nats: &NatsConfig| {
        let refusals = Refusals::default();
        let client = nats::connect_noting(nats, &name, refusals.clone()).await.map_err(CliError::other)?;
        Ok::<_, CliError>((client, refusals))
    };
    let shared = connect(&config.nats).await?;
    let mut feeds = Vec::new();
    for (source, own) in config.sources.sources {
        let (client, refusals) = match own {
            None => shared.clone(),
            Some(nats) => connect(&nats).await?,
        };
        feeds.push(Feed { source, client, refusals });
    }
    // Before anything says that it serves: a signal that comes then must end it in order.
    let stop = service_stop_signal()?;
    let mut exporter = Exporter::start(feeds, config.exporter).await.map_err(CliError::other)?;
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
