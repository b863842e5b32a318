//! `callsight replay`: an incident, out of the stream and back into the tools that people use.

use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use time::OffsetDateTime;

use super::args::{HOUR, JudgementArgs, NatsArgs, ProcessArgs, SECOND, distinct, joined};
use super::{CliError, stop_signal};
use crate::config::{ConfigError, NatsConfig, duration_between};
use crate::fold::{DetailLevel, FoldSettings, Limits, StreamTime};
use crate::frame::{MAX_PEERS, MeetingId, SessionId};
use crate::nats;
use crate::replay::engine::{EngineConfig, Filter};
use crate::replay::progress::{self, Control};
use crate::replay::sink::frames::Frames;
use crate::replay::sink::openmetrics::OpenMetrics;
use crate::replay::sink::{Sink, SinkError, Target};
use crate::replay::window::{Moment, Window};
use crate::replay::{self, ReplayError, Replayed};
use crate::subject::Region;

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

    /// Write the frames themselves, a JSON object a line, `-` for standard output
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    frames: Option<Target>,

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
    quiet: bool,
}

/// What a replay becomes.
#[derive(Clone, Debug)]
struct Outputs {
    /// The label that every series gets.
    replay: Option<String>,
    openmetrics: Option<Target>,
    frames: Option<Target>,
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
        let outputs = Outputs { replay, openmetrics: self.openmetrics, frames: self.frames };
        if outputs.openmetrics.is_none() && outputs.frames.is_none() {
            return rejected("nothing to make of it; add --openmetrics or --frames");
        }
        if outputs.openmetrics == Some(Target::Stdout) && outputs.frames == Some(Target::Stdout) {
            return rejected("only one of `--openmetrics` and `--frames` can go to standard output");
        }
        let now = StreamTime::from_unix_nanos(now.unix_timestamp_nanos());
        let (from, to) = (self.from.from(now), self.to.from(now));
        if from >= to {
            return rejected(&format!(
                "the window ends before it begins: `--from` {} `--to` {}",
                self.from, self.to
            ));
        }
        let engine = EngineConfig {
            regions: distinct(self.region),
            // What has not been yet can't be replayed.
            window: Window::aligned(from, to.min(now.max(from)), self.step),
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
        Ok((self.process, ReplayConfig { nats, engine, mirror: self.mirror, outputs, quiet: self.quiet }))
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

impl Outputs {
    /// Begins all of them: what can't be written shows before anything is read.
    fn sinks(self, control: &Control) -> Result<Vec<Box<dyn Sink>>, SinkError> {
        let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
        if let Some(target) = self.frames {
            sinks.push(Box::new(Frames::new(target)?));
        }
        if let Some(target) = self.openmetrics {
            sinks.push(Box::new(OpenMetrics::new(target, self.replay.as_deref(), control.clone())?));
        }
        Ok(sinks)
    }
}

/// Replays until the window is over or a signal comes.
pub(crate) async fn run(config: ReplayConfig) -> Result<(), CliError> {
    let (control, quiet) = (Control::default(), config.quiet);
    let mut signal = None;
    let replayed = {
        let mut replaying = std::pin::pin!(replay(config, control.clone()));
        let mut showing = std::pin::pin!(progress::show(control.clone()));
        loop {
            tokio::select! {
                replayed = &mut replaying => break replayed,
                stopped = stop_signal(), if signal.is_none() => {
                    signal = Some(stopped?);
                    control.stop();
                }
                () = &mut showing, if !quiet => {}
            }
        }
    };
    if !quiet {
        progress::clear();
    }
    match replayed {
        Ok(replayed) => {
            if !quiet {
                // With nobody left to read it, the work still counts.
                let _ = io::stderr().write_all(summary(&replayed).as_bytes());
            }
            Ok(())
        }
        Err(ReplayError::Sink(SinkError::Stopped)) => Err(CliError::Stopped(signal.unwrap_or("itself"))),
        Err(error @ (ReplayError::Outside { .. } | ReplayError::Empty { .. })) => {
            Err(CliError::Nothing(Box::new(error)))
        }
        Err(error) => Err(CliError::other(error)),
    }
}

async fn replay(config: ReplayConfig, control: Control) -> Result<Replayed, ReplayError> {
    let sinks = config.outputs.sinks(&control)?;
    let client = nats::connect(&config.nats, "callsight replay").await?;
    let context = async_nats::jetstream::new(client);
    let looking = replay::extents(&context, &config.engine.regions, config.mirror);
    let extents = tokio::select! {
        extents = looking => extents?,
        () = control.stopped() => return Err(SinkError::Stopped.into()),
    };
    replay::run(&context, config.engine, extents, sinks, control).await
}

fn summary(Replayed { account, said }: &Replayed) -> String {
    let (messages, folded, late) = (account.messages, account.folded, account.late);
    let (repeated, passed_over, rejected) = (account.repeated, account.passed_over, account.rejected());
    let mut text = format!(
        "{messages} frames: {folded} folded ({late} of them late), {repeated} repeated, {rejected} rejected, \
         {passed_over} of other calls; at most {} sessions at a time\n",
        account.most_sessions
    );
    for line in said {
        text.push_str(line);
        text.push('\n');
    }
    text
}
