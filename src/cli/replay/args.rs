//! The flags of `callsight replay`: four groups, each of which validates its own.
//!
//! Invariant: what contradicts itself is rejected with the names of the flags.

use std::path::PathBuf;
use std::time::Duration;

use time::OffsetDateTime;

use super::super::args::{JudgementArgs, NatsArgs, ProcessArgs, distinct, rejected};
use super::config::{HealConfig, Outputs, RemoteWriteOutput, ReplayConfig, ReplayTask};
use crate::config::{ConfigError, within_an_hour};
use crate::http_client::{Address, Header};
use crate::replay::engine::{EngineConfig, Filter};
use crate::replay::sink::output::Target;
use crate::replay::sink::remote_write::ReceiverConfig;
use crate::replay::window::{Moment, Window};
use callsight_fold::{DetailLevel, StreamTime};
use callsight_frame::subject::Region;
use callsight_frame::{MAX_PEERS, MeetingId, SessionId};

const EXIT_CODES: &str = "Exit codes:\n  0    replayed\n  1    failed; no file is incomplete\n  \
                          2    settings that cannot be used\n  3    the streams hold nothing of what was asked for\n  \
                          130  stopped by a signal; no file is incomplete";

/// Replay a part of the past, with every detail
///
/// Reads the stream of a region again, folds it as `serve` does, and reads all series in regular
/// steps. Choose at least one output. No exporter is affected.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    nats: NatsArgs,
    #[command(flatten)]
    window: WindowArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    remote_write: RemoteWriteArgs,
    #[command(flatten)]
    heal: HealArgs,
    #[command(flatten)]
    judgement: JudgementArgs,
    #[command(flatten)]
    process: ProcessArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Window")]
struct WindowArgs {
    /// When to begin: a time such as 2026-01-31T09:30:00Z, or relative, such as `2h ago`
    #[arg(long, value_name = "TIME", required = true)]
    from: Moment,

    /// When to end; relative times count from the start of the replay
    #[arg(long, value_name = "TIME", default_value = "now")]
    to: Moment,

    /// The time between two steps, from 1s to 1h; steps fall on whole multiples of it
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = within_an_hour)]
    step: Duration,

    /// A region whose calls to replay.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(long, value_name = "REGION", value_delimiter = ',', default_value = "us")]
    region: Vec<Region>,

    /// Read the hub's copies, `HEALTH_{REGION}_MIRROR`, for regions that are far or gone
    #[arg(long)]
    mirror: bool,

    /// Only the frames of this meeting; aggregates are of these alone.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(long, value_name = "ID", value_delimiter = ',', value_parser = meeting)]
    meeting: Vec<String>,

    /// Only the frames of this session; aggregates are of these alone.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(long, value_name = "ID", value_delimiter = ',', value_parser = session)]
    session: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output")]
struct OutputArgs {
    /// Write every series to a file of OpenMetrics, `-` for standard output
    #[arg(long, value_name = "FILE")]
    openmetrics: Option<Target>,

    /// Have promtool, from the PATH, make blocks for Prometheus's own store in this folder.
    ///
    /// The summary shows the command that moves the blocks into Prometheus.
    #[arg(long, value_name = "DIR")]
    tsdb: Option<PathBuf>,

    /// Write the frames themselves, one JSON object per line, `-` for standard output
    #[arg(long, value_name = "FILE")]
    frames: Option<Target>,

    /// Write a report for the meeting after the incident, `-` for standard output.
    ///
    /// One self-contained HTML page: when the incident began and ended, how many sessions it
    /// affected, the worst of them, and charts. The summary repeats its main facts.
    #[arg(long, value_name = "FILE")]
    report: Option<Target>,

    /// Show on standard output which alerts of these rule files would have fired, and when.
    ///
    /// A Prometheus of the replay's own evaluates them; it and promtool are taken from the PATH.
    /// Set `--step` to the scrape interval of your Prometheus. Separate several with commas or
    /// repeat the flag.
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    rules: Vec<PathBuf>,

    /// The value of the label `replay` that every series gets, 1 to 64 of A-Z a-z 0-9 . _ : -; by
    /// default, the time of the run
    #[arg(long, value_name = "ID", value_parser = replay_id)]
    replay_id: Option<String>,

    /// Leave out the label `replay`, so that replayed series look like live ones
    #[arg(long)]
    no_replay_label: bool,

    /// Show neither progress nor a summary
    #[arg(long)]
    quiet: bool,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Remote write")]
struct RemoteWriteArgs {
    /// Send every series to this remote-write receiver, such as
    /// `http://prometheus:9090/api/v1/write`.
    ///
    /// Prometheus needs `--web.enable-remote-write-receiver`, and for samples of the past
    /// `storage.tsdb.out_of_order_time_window` in its configuration. A user and a password in the
    /// URL are never shown.
    #[arg(long, value_name = "URL", hide_env_values = true)]
    remote_write: Option<Address>,

    /// A header of each request, such as `X-Scope-OrgID: team`; repeat the flag for several
    #[arg(long, value_name = "NAME: VALUE", hide_env_values = true)]
    remote_write_header: Vec<Header>,

    /// Give up when the receiver accepts nothing for this long, from 1s to 1h
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = within_an_hour)]
    remote_write_patience: Duration,

    /// Keep the progress in this file, and continue from there if it exists
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Healing")]
struct HealArgs {
    /// Fill the gaps that `--prometheus` has in the region's series within the window, and do
    /// nothing else.
    ///
    /// Labels, times and the state of counters are taken from the samples beside each gap.
    #[arg(long)]
    heal: bool,

    /// The Prometheus that has the gaps; samples are sent to its `/api/v1/write`, or to
    /// `--remote-write`
    #[arg(long, value_name = "URL", hide_env_values = true)]
    prometheus: Option<Address>,
}

impl ReplayArgs {
    /// Validates the flags together, at a present moment.
    ///
    /// # Errors
    /// Flags contradict each other, lack another, or leave nothing to do.
    pub(in crate::cli) fn validate(
        self,
        now: OffsetDateTime,
    ) -> Result<(ProcessArgs, ReplayConfig), ConfigError> {
        let (mirror, quiet) = (self.window.mirror, self.output.quiet);
        let window = self.window.window(now)?;
        let filter = Filter { meetings: self.window.meeting, sessions: self.window.session };
        let task = match (self.heal.heal, self.heal.prometheus) {
            (true, None) => return rejected("`--heal` needs `--prometheus` too"),
            (false, Some(_)) => return rejected("`--prometheus` needs `--heal` too"),
            (true, Some(prometheus)) => {
                let outputs = self.output.outputs(now)?;
                ReplayTask::Heal(self.remote_write.heal(prometheus, &outputs, &filter)?)
            }
            (false, None) => {
                let outputs = self.remote_write.add_to(self.output.outputs(now)?)?;
                ReplayTask::Write(writable(outputs, window)?)
            }
        };
        let mut fold = self.judgement.fold();
        (fold.detail, fold.pair_max_sessions) = (DetailLevel::Pair, usize::MAX);
        (fold.limits.sessions_per_meeting, fold.limits.peers_per_session) = (usize::MAX, MAX_PEERS);
        let engine = EngineConfig { regions: distinct(self.window.region), window, filter, fold, mirror };
        let nats = self.nats.validate("replay")?;
        Ok((self.process, ReplayConfig { nats, engine, task, quiet }))
    }
}

impl WindowArgs {
    fn window(&self, now: OffsetDateTime) -> Result<Window, ConfigError> {
        let now = StreamTime::from_unix_nanos(now.unix_timestamp_nanos());
        let (from, to) = (self.from.from(now), self.to.from(now));
        if from >= to {
            let (from, to) = (self.from, self.to);
            return rejected(format!("the window ends before it begins: `--from` {from} `--to` {to}"));
        }
        // The future can't be replayed.
        Ok(Window::aligned(from, to.min(now.max(from)), self.step))
    }
}

impl OutputArgs {
    /// All outputs but remote write.
    fn outputs(self, now: OffsetDateTime) -> Result<Outputs, ConfigError> {
        let replay = match (self.replay_id, self.no_replay_label) {
            (Some(_), true) => {
                return rejected("`--replay-id` and `--no-replay-label` contradict each other");
            }
            (None, true) => None,
            (id, false) => Some(id.unwrap_or_else(|| default_id(now))),
        };
        let Self { openmetrics, tsdb, frames, report, rules, .. } = self;
        Ok(Outputs { replay, openmetrics, tsdb, frames, report, rules, remote_write: None })
    }
}

impl RemoteWriteArgs {
    fn add_to(self, outputs: Outputs) -> Result<Outputs, ConfigError> {
        let remote_write = match (self.remote_write, self.resume) {
            (None, Some(_)) => return rejected("`--resume` needs `--remote-write` too"),
            (None, None) => None,
            (Some(address), resume) => {
                let (headers, patience) = (self.remote_write_header, self.remote_write_patience);
                Some(RemoteWriteOutput { receiver: ReceiverConfig { address, headers, patience }, resume })
            }
        };
        Ok(Outputs { remote_write, ..outputs })
    }

    fn heal(self, prometheus: Address, others: &Outputs, filter: &Filter) -> Result<HealConfig, ConfigError> {
        if !others.is_empty() || self.resume.is_some() {
            return rejected(
                "`--heal` fills gaps and nothing else; leave the other outputs and `--resume` out",
            );
        }
        if !filter.is_open() {
            return rejected("`--heal` fills gaps with all calls; leave `--meeting` and `--session` out");
        }
        let headers = self.remote_write_header;
        let address = self.remote_write.unwrap_or_else(|| prometheus.below("api/v1/write"));
        let receiver =
            ReceiverConfig { address, headers: headers.clone(), patience: self.remote_write_patience };
        Ok(HealConfig { prometheus, headers, receiver })
    }
}

/// Checks that there are outputs, and that they can be written.
fn writable(outputs: Outputs, window: Window) -> Result<Outputs, ConfigError> {
    if outputs.is_empty() {
        return rejected(
            "choose an output: --openmetrics, --tsdb, --frames, --report, --rules, --remote-write or --heal",
        );
    }
    if outputs.to_stdout() > 1 {
        return rejected(
            "only one of `--openmetrics`, `--frames`, `--report` and `--rules` can go to standard output",
        );
    }
    if outputs.use_steps() && window.steps().next().is_none() {
        let step = humantime::format_duration(window.step);
        return rejected(format!(
            "no whole multiple of `--step` {step} lies in the window; choose a longer window or a shorter step"
        ));
    }
    Ok(outputs)
}

/// `replay-20260131T093000Z`.
fn default_id(now: OffsetDateTime) -> String {
    let (year, month, day) = now.to_calendar_date();
    let (hour, minute, second) = now.to_hms();
    format!("replay-{year:04}{:02}{day:02}T{hour:02}{minute:02}{second:02}Z", u8::from(month))
}

fn replay_id(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err("write 1 to 64 of A-Z a-z 0-9 . _ : -".to_owned())
    }
}

fn meeting(text: &str) -> Result<String, String> {
    MeetingId::new(text).map(|id| id.as_str().to_owned()).map_err(|error| error.to_string())
}

fn session(text: &str) -> Result<String, String> {
    SessionId::new(text).map(|id| id.as_str().to_owned()).map_err(|error| error.to_string())
}
