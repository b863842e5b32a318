//! `callsight rewind`: the triage page of any moment of the past.
//!
//! Invariant: a window to begin with has both ends.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::args::{JudgementArgs, NatsArgs, ProcessArgs, distinct, joined, rejected, web_address};
use super::process::{Prepared, prepared};
use super::{CliError, service_stop_signal};
use crate::config::{ConfigError, NatsConfig, SECOND, duration_between, socket_address, whole};
use crate::nats;
use crate::replay::window::Moment;
use crate::rewind::{Rewind, RewindConfig, WindowLimits};
use callsight_fold::DetailLevel;
use callsight_frame::MAX_PEERS;
use callsight_frame::subject::Region;

/// Serve the triage page of any moment of the past
///
/// Folds a window of the stream once, and shows the page of each moment in it, with a timeline.
/// Windows are chosen on the page, or by its address. No exporter is affected.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Windows")]
pub(crate) struct RewindArgs {
    #[command(flatten)]
    nats: NatsArgs,

    /// A region whose calls to show.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(long, value_name = "REGION", value_delimiter = ',', required = true)]
    region: Vec<Region>,

    /// Read the hub's copies, `HEALTH_{REGION}_MIRROR`, for regions that are far or gone
    #[arg(long)]
    mirror: bool,

    /// When the window to begin with begins: a time such as 2026-01-31T09:30:00Z, or relative, such
    /// as `2h ago`
    #[arg(long, value_name = "TIME")]
    from: Option<Moment>,

    /// When it ends; `now` if only `--from` is given
    #[arg(long, value_name = "TIME")]
    to: Option<Moment>,

    /// Time from one moment that is kept to the next, from 1s to 1m, in whole seconds
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "5s",
        value_parser = duration_between(SECOND..=Duration::from_secs(60))
    )]
    step: Duration,

    /// Maximum number of windows that are kept; the one that nobody has viewed for longest goes
    #[arg(long, value_name = "N", default_value = "8", value_parser = whole(1..=1000_usize))]
    max_windows: usize,

    /// Maximum length of a window, from 1m to 7d
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "6h",
        value_parser = duration_between(Duration::from_secs(60)..=Duration::from_secs(7 * 24 * 3600))
    )]
    max_window: Duration,

    /// Maximum disk of all windows together, in MiB
    #[arg(long, value_name = "MIB", default_value = "1024", value_parser = whole(1..=1_usize << 20))]
    max_disk: usize,

    /// Folder for the windows; by default the system's for temporary files.
    ///
    /// Nothing is left there when the process ends.
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,

    #[command(flatten)]
    http: RewindHttpArgs,

    #[command(flatten)]
    judgement: JudgementArgs,

    #[command(flatten)]
    process: ProcessArgs,
}

/// Flags of the HTTP server.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "HTTP")]
struct RewindHttpArgs {
    /// Address to serve the page on
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9466", value_parser = socket_address)]
    listen: SocketAddr,

    /// File with TLS and basic auth, in the format of Prometheus's web config.
    ///
    /// It is reloaded when it changes; only a restart removes TLS or all users. `/livez` and
    /// `/readyz` require no password.
    #[arg(long, value_name = "FILE")]
    web_config: Option<PathBuf>,

    /// Address of the exporter's page, for the link `Live`
    #[arg(long, value_name = "URL", value_parser = web_address)]
    live_url: Option<String>,
}

/// The validated settings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    nats: NatsConfig,
    rewind: RewindConfig,
}

impl RewindArgs {
    fn validate(self) -> Result<(ProcessArgs, Settings), ConfigError> {
        let first = match (self.from, self.to) {
            (None, None) => None,
            (Some(from), to) => Some((from, to.unwrap_or(Moment::Ago(Duration::ZERO)))),
            (None, Some(_)) => return rejected("`--to` needs `--from` too"),
        };
        if self.step.subsec_nanos() > 0 {
            return rejected("`--step` is not in whole seconds");
        }
        // As a replay: of the past everything is shown that the stream has.
        let mut fold = self.judgement.fold();
        (fold.detail, fold.pair_max_sessions) = (DetailLevel::Pair, usize::MAX);
        (fold.limits.sessions_per_meeting, fold.limits.peers_per_session) = (usize::MAX, MAX_PEERS);
        let limits = WindowLimits {
            windows: self.max_windows,
            length: self.max_window,
            step: self.step,
            bytes: (self.max_disk as u64) << 20,
        };
        let rewind = RewindConfig {
            listen: self.http.listen,
            web_config: self.http.web_config,
            regions: distinct(self.region),
            mirror: self.mirror,
            fold,
            first,
            live_url: self.http.live_url,
            folder: self.folder.unwrap_or_else(std::env::temp_dir),
            limits,
        };
        Ok((self.process, Settings { nats: self.nats.validate("replay")?, rewind }))
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nats, rewind: RewindConfig { listen, regions, limits, folder, .. } } = self;
        let (length, disk) = (humantime::format_duration(limits.length), limits.bytes >> 20);
        write!(
            f,
            "regions {}; listen {listen}; at most {} windows of {length}, {disk} MiB in {}; NATS {nats}",
            joined(regions),
            limits.windows,
            folder.display()
        )
    }
}

/// Prepares the server of the past.
pub(super) fn prepare(args: RewindArgs) -> Result<Prepared, ConfigError> {
    Ok(prepared(args.validate()?, run))
}

/// Serves until a signal.
async fn run(Settings { nats, rewind }: Settings) -> Result<(), CliError> {
    let client = nats::connect(&nats, "callsight rewind").await.map_err(CliError::other)?;
    // Before anything says that it listens: a signal that comes then must end it in order.
    let stop = service_stop_signal()?;
    let context = async_nats::jetstream::new(client);
    let rewind = Rewind::start(context, rewind).await.map_err(CliError::other)?;
    let signal = stop.await;
    tracing::info!(signal, "stopping");
    rewind.stop().await;
    Ok(())
}
