//! `callsight replay`: an incident, out of the stream and back into the tools that people use.

mod run;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use time::OffsetDateTime;

use super::args::{HOUR, JudgementArgs, NatsArgs, ProcessArgs, SECOND, distinct, joined};
use crate::config::{ConfigError, NatsConfig, duration_between};
use crate::replay::engine::{EngineConfig, Filter};
use crate::replay::http::{Address, Header};
use crate::replay::sink::output::Target;
use crate::replay::window::{Moment, Window};
use callsight_fold::{DetailLevel, FoldSettings, Limits, StreamTime};
use callsight_frame::subject::Region;
use callsight_frame::{MAX_PEERS, MeetingId, SessionId};

pub(crate) use run::run;

/// What ends the help.
const EXIT_CODES: &str = "Exit codes:\n  0    replayed\n  1    failed; files are whole or not there\n  \
                          2    settings that cannot be used\n  3    the streams hold nothing of what was asked for\n  \
                          130  stopped by a signal; files are whole or not there";

/// Replay a part of the past, with every detail
///
/// Reads the stream of a region again, folds it as `serve` does, and looks at all series in regular steps. Name at
/// least one thing for it to become. Reading takes nothing away from any exporter.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    nats: NatsArgs,

    /// When to begin: a time such as 2026-01-31T09:30:00Z, or so long ago, such as `2h ago`
    #[arg(long, value_name = "TIME", required = true, help_heading = "Window")]
    from: Moment,

    /// When to end; `now` and the like are taken when the replay starts
    #[arg(long, value_name = "TIME", default_value = "now", help_heading = "Window")]
    to: Moment,

    /// From one look at the series to the next, from 1s to 1h; they fall on whole multiples of it
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "15s",
        value_parser = duration_between(SECOND..=HOUR),
        help_heading = "Window"
    )]
    step: Duration,

    /// A region whose calls to replay.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(long, value_name = "REGION", value_delimiter = ',', default_value = "us", help_heading = "Window")]
    region: Vec<Region>,

    /// Read the hub's copies, `HEALTH_{REGION}_MIRROR`, for regions that are far or gone
    #[arg(long, help_heading = "Window")]
    mirror: bool,

    /// Only the frames of this meeting; aggregates are of these alone.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(long, value_name = "ID", value_delimiter = ',', value_parser = meeting, help_heading = "Window")]
    meeting: Vec<String>,

    /// Only the frames of this session; aggregates are of these alone.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(long, value_name = "ID", value_delimiter = ',', value_parser = session, help_heading = "Window")]
    session: Vec<String>,

    /// Write every series to a file of OpenMetrics, `-` for standard output
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    openmetrics: Option<Target>,

    /// Have promtool make blocks for Prometheus's own store in this folder.
    ///
    /// It is looked for on the PATH. At the end the command is shown that moves the blocks in.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    tsdb: Option<PathBuf>,

    /// Write the frames themselves, a JSON object a line, `-` for standard output
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    frames: Option<Target>,

    /// Write a page for the meeting after the incident, `-` for standard output.
    ///
    /// One file that needs nothing else: when it began and ended, for how many, who had it worst, with charts. The summary
    /// tells the main facts of it.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    report: Option<Target>,

    /// Tell which alerts of these rule files would have fired, and when, on standard output.
    ///
    /// A Prometheus of its own judges them; it and promtool are looked for on the PATH. Judge by the scrape interval
    /// that there was, such as `--step 5s`. Separate several with commas or repeat the flag.
    #[arg(long, value_name = "FILE", value_delimiter = ',', help_heading = "Output")]
    rules: Vec<PathBuf>,

    /// Value of the label `replay` that every series gets, 1 to 64 of A-Z a-z 0-9 . _ : -; made from the time of the
    /// run unless given
    #[arg(long, value_name = "ID", value_parser = replay_id, help_heading = "Output")]
    replay_id: Option<String>,

    /// Leave out the label `replay`: what is replayed can't be told from what was live any more
    #[arg(long, help_heading = "Output")]
    no_replay_label: bool,

    /// Show neither progress nor a summary
    #[arg(long, help_heading = "Output")]
    quiet: bool,

    /// Send every series to this receiver of remote write, such as `http://prometheus:9090/api/v1/write`.
    ///
    /// Prometheus needs `--web.enable-remote-write-receiver`, and for samples of the past
    /// `storage.tsdb.out_of_order_time_window` in its configuration. A user and a password in the URL are never shown.
    #[arg(long, value_name = "URL", hide_env_values = true, help_heading = "Remote write")]
    remote_write: Option<Address>,

    /// A header to send along, such as `X-Scope-OrgID: team`; repeat the flag for several
    #[arg(long, value_name = "NAME: VALUE", hide_env_values = true, help_heading = "Remote write")]
    remote_write_header: Vec<Header>,

    /// Give up when the receiver takes nothing for this long, from 1s to 1h
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "1m",
        value_parser = duration_between(SECOND..=HOUR),
        help_heading = "Remote write"
    )]
    remote_write_patience: Duration,

    /// Remember in this file what was taken, and go on from there if it is there already
    #[arg(long, value_name = "FILE", help_heading = "Remote write")]
    resume: Option<PathBuf>,

    /// Fill the holes that `--prometheus` has in the region's series within the window, and nothing else.
    ///
    /// Labels, times and the state of counters are taken from the samples beside each hole.
    #[arg(long, help_heading = "Healing")]
    heal: bool,

    /// The Prometheus that has the holes; it is written to at `/api/v1/write` unless `--remote-write` names another
    /// address
    #[arg(long, value_name = "URL", hide_env_values = true, help_heading = "Healing")]
    prometheus: Option<Address>,

    #[command(flatten)]
    judgement: JudgementArgs,

    #[command(flatten)]
    process: ProcessArgs,
}

/// What to replay, and what to make of it.
#[derive(Clone, Debug)]
pub(crate) struct ReplayConfig {
    nats: NatsConfig,
    engine: EngineConfig,
    mirror: bool,
    outputs: Outputs,
    /// The Prometheus whose holes are filled, instead of all that.
    heal: Option<Address>,
    quiet: bool,
}

/// What a replay becomes.
#[derive(Clone, Debug)]
struct Outputs {
    /// The label that every series gets.
    replay: Option<String>,
    openmetrics: Option<Target>,
    tsdb: Option<PathBuf>,
    frames: Option<Target>,
    report: Option<Target>,
    /// Files with rules.
    rules: Vec<PathBuf>,
    remote_write: Option<Address>,
    headers: Vec<Header>,
    patience: Duration,
    resume: Option<PathBuf>,
}

impl Outputs {
    /// Whether there is something that a replay becomes all at once.
    const fn is_none(&self) -> bool {
        self.openmetrics.is_none()
            && self.tsdb.is_none()
            && self.frames.is_none()
            && self.report.is_none()
            && self.rules.is_empty()
    }

    /// How many of them go to standard output.
    fn to_stdout(&self) -> usize {
        let files = [&self.openmetrics, &self.frames, &self.report];
        let stdout = files.iter().filter(|target| ***target == Some(Target::Stdout)).count();
        stdout + usize::from(!self.rules.is_empty())
    }
}

impl ReplayArgs {
    /// What they mean together, at a present moment.
    pub(super) fn validate(self, now: OffsetDateTime) -> Result<(ProcessArgs, ReplayConfig), ConfigError> {
        let rejected = |message: &str| Err(ConfigError::Rejected(message.to_owned()));
        let replay = match (self.replay_id, self.no_replay_label) {
            (Some(_), true) => {
                return rejected("`--replay-id` and `--no-replay-label` contradict each other");
            }
            (None, true) => None,
            (id, false) => Some(id.unwrap_or_else(|| default_id(now))),
        };
        let outputs = Outputs {
            replay,
            openmetrics: self.openmetrics,
            tsdb: self.tsdb,
            frames: self.frames,
            report: self.report,
            rules: self.rules,
            remote_write: self.remote_write,
            headers: self.remote_write_header,
            patience: self.remote_write_patience,
            resume: self.resume,
        };
        let heal = match (self.heal, self.prometheus) {
            (true, None) => return rejected("`--heal` needs `--prometheus` too"),
            (false, Some(_)) => return rejected("`--prometheus` needs `--heal` too"),
            (false, None) => None,
            (true, Some(_)) if !outputs.is_none() || outputs.resume.is_some() => {
                return rejected(
                    "`--heal` fills holes and nothing else; leave the other outputs and `--resume` out",
                );
            }
            (true, Some(_)) if !self.meeting.is_empty() || !self.session.is_empty() => {
                return rejected(
                    "`--heal` fills holes with all calls; leave `--meeting` and `--session` out",
                );
            }
            (true, Some(prometheus)) => Some(prometheus),
        };
        if heal.is_none() && outputs.is_none() && outputs.remote_write.is_none() {
            return rejected(
                "nothing to make of it; add --openmetrics, --tsdb, --frames, --report, --rules, --remote-write or --heal",
            );
        }
        if outputs.resume.is_some() && outputs.remote_write.is_none() {
            return rejected("`--resume` needs `--remote-write` too");
        }
        if outputs.to_stdout() > 1 {
            return rejected(
                "only one of `--openmetrics`, `--frames`, `--report` and `--rules` can go to standard output",
            );
        }
        let now = StreamTime::from_unix_nanos(now.unix_timestamp_nanos());
        let (from, to) = (self.from.from(now), self.to.from(now));
        if from >= to {
            return rejected(&format!(
                "the window ends before it begins: `--from` {} `--to` {}",
                self.from, self.to
            ));
        }
        // What has not been yet can't be replayed.
        let window = Window::aligned(from, to.min(now.max(from)), self.step);
        let looks = outputs.openmetrics.is_some()
            || outputs.tsdb.is_some()
            || outputs.remote_write.is_some()
            || outputs.report.is_some()
            || !outputs.rules.is_empty();
        if heal.is_none() && looks && window.steps().next().is_none() {
            let step = humantime::format_duration(self.step);
            return rejected(&format!(
                "no whole multiple of `--step` {step} lies in the window; choose a longer window or a shorter step"
            ));
        }
        let engine = EngineConfig {
            regions: distinct(self.region),
            window,
            filter: Filter { meetings: self.meeting, sessions: self.session },
            fold: FoldSettings {
                idle_timeout: self.judgement.idle_timeout,
                detail: DetailLevel::Pair,
                pair_max_sessions: usize::MAX,
                limits: Limits {
                    sessions_per_meeting: usize::MAX,
                    peers_per_session: MAX_PEERS,
                    server_urls: self.judgement.max_server_urls,
                },
                thresholds: self.judgement.thresholds(),
            },
        };
        let nats = self.nats.validate("replay")?;
        let (mirror, quiet) = (self.mirror, self.quiet);
        Ok((self.process, ReplayConfig { nats, engine, mirror, outputs, heal, quiet }))
    }
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

impl fmt::Display for ReplayConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nats, engine, .. } = self;
        let step = humantime::format_duration(engine.window.step);
        write!(f, "regions {}; {}; step {step}; NATS {nats}", joined(&engine.regions), engine.window)
    }
}
