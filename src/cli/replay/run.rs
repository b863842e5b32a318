//! Running a replay: from its settings to its outputs.

use std::io::{self, Write};
use std::path::PathBuf;

use super::super::args::joined;
use super::super::tool::find_tool;
use super::super::{CliError, stop_signal};
use super::config::{Outputs, RemoteWriteOutput, ReplayConfig, ReplayTask};
use super::heal::heal;
use crate::nats;
use crate::replay::account::Account;
use crate::replay::backtest::{Backtest, RuleSet};
use crate::replay::engine::EngineConfig;
use crate::replay::progress::{self, Control};
use crate::replay::sink::frames::Frames;
use crate::replay::sink::openmetrics::OpenMetrics;
use crate::replay::sink::output::Target;
use crate::replay::sink::remote_write::{Continuation, Plan, RemoteWrite, RemoteWriteConfig, Resume};
use crate::replay::sink::report::Report;
use crate::replay::sink::tsdb::Tsdb;
use crate::replay::sink::{Sink, SinkError};
use crate::replay::window::exact;
use crate::replay::{self, ReplayError, Replayed};
use callsight_fold::FoldSettings;

/// Replays until the window is over or a signal comes.
pub(crate) async fn run(config: ReplayConfig) -> Result<(), CliError> {
    let (control, quiet, sends) = (Control::default(), config.quiet, config.sends());
    let mut signal = None;
    let mut stop = std::pin::pin!(stop_signal()?);
    let done = {
        let mut replaying = std::pin::pin!(execute(config, control.clone()));
        let mut showing = std::pin::pin!(progress::show(control.clone()));
        loop {
            tokio::select! {
                done = &mut replaying => break done,
                stopped = &mut stop, if signal.is_none() => {
                    signal = Some(stopped);
                    control.stop();
                }
                () = &mut showing, if !quiet => {}
            }
        }
    };
    if !quiet {
        progress::clear();
    }
    match done {
        Ok(summary) => {
            if !quiet {
                // Losing standard error does not undo the replay.
                let _ = io::stderr().write_all(summary.as_bytes());
            }
            Ok(())
        }
        Err(ReplayError::Sink(SinkError::Stopped)) => {
            let left = if sends {
                "samples that were sent stay, no file was written"
            } else {
                "no file was written"
            };
            Err(CliError::Stopped { signal: signal.unwrap_or("itself"), left })
        }
        Err(error @ (ReplayError::Outside { .. } | ReplayError::Empty { .. })) => {
            Err(CliError::Nothing(Box::new(error)))
        }
        Err(error) => Err(CliError::other(error)),
    }
}

/// Does what the configuration says. Returns the summary.
async fn execute(config: ReplayConfig, control: Control) -> Result<String, ReplayError> {
    let ReplayConfig { nats, mut engine, task, .. } = config;
    let connect = async || -> Result<_, ReplayError> {
        Ok(async_nats::jetstream::new(nats::connect(&nats, "callsight replay").await?))
    };
    let mut outputs = match task {
        ReplayTask::Heal(config) => return heal(&connect().await?, &engine, config, &control).await,
        ReplayTask::Write(outputs) => outputs,
    };
    let resume = open_resume(&outputs, &engine)?;
    if let Some(resume) = &resume {
        let plan = resume.plan();
        (engine.window.from, engine.window.to) = (plan.from, plan.to);
        outputs.replay.clone_from(&plan.replay);
    }
    let sinks = sinks(outputs, &engine, resume, &control)?;
    let context = connect().await?;
    let extents = control.unless_stopped(replay::extents(&context, &engine)).await??;
    let Replayed { account, said } = replay::run(&context, engine, extents, sinks, control).await?;
    Ok(summary(&account, &said))
}

/// Opens the file of `--resume`, if there is one.
fn open_resume(outputs: &Outputs, engine: &EngineConfig) -> Result<Option<Resume>, ReplayError> {
    let Some(RemoteWriteOutput { receiver, resume: Some(path) }) = &outputs.remote_write else {
        return Ok(None);
    };
    let EngineConfig { regions, window, filter, fold, mirror } = engine;
    let (regions, address, step) = (joined(regions), &receiver.address, window.step);
    let plan = Plan {
        from: window.from,
        to: window.to,
        replay: outputs.replay.clone(),
        settings: format!(
            "regions {regions} to {address}, step {step:?}, mirror {mirror}, {filter:?}, {fold:?}"
        ),
    };
    Ok(Some(Resume::open(path.clone(), plan)?))
}

/// Begins all outputs, so that what can't be written shows before anything is read.
fn sinks(
    outputs: Outputs,
    engine: &EngineConfig,
    resume: Option<Resume>,
    control: &Control,
) -> Result<Vec<Box<dyn Sink>>, ReplayError> {
    let Outputs { replay, openmetrics, tsdb, frames, report, rules, remote_write } = outputs;
    let (id, control) = (replay.as_deref(), || control.clone());
    let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
    if let Some(target) = frames {
        sinks.push(Box::new(Frames::new(target)?));
    }
    if let Some(target) = openmetrics {
        sinks.push(Box::new(OpenMetrics::new(target, id, control())?));
    }
    if let Some(folder) = tsdb {
        let promtool =
            program("promtool", "on another machine, it makes blocks of what --openmetrics writes")?;
        sinks.push(Box::new(Tsdb::new(folder, promtool, id, control())?));
    }
    if let Some(target) = report {
        let command = report_command(engine, &target);
        sinks.push(Box::new(Report::new(target, engine.clone(), command)?));
    }
    if !rules.is_empty() {
        let rules = RuleSet::read(&rules)?;
        let why = "Prometheus itself evaluates the rules";
        let (prometheus, promtool) = (program("prometheus", why)?, program("promtool", why)?);
        sinks.push(Box::new(Backtest::new(rules, engine.window, prometheus, promtool, control())?));
    }
    if let Some(RemoteWriteOutput { receiver, .. }) = remote_write {
        let config = RemoteWriteConfig {
            receiver,
            ends: replay.is_some(),
            labels: replay.into_iter().map(|id| ("replay".to_owned(), id)).collect(),
            continuation: Continuation::default(),
        };
        sinks.push(Box::new(RemoteWrite::new(config, engine.window.step, resume, control())));
    }
    Ok(sinks)
}

/// Finds one of Prometheus's programs.
fn program(name: &'static str, why: &str) -> Result<PathBuf, SinkError> {
    find_tool(name).ok_or_else(|| SinkError::Program {
        program: name,
        reason: format!("it is not on the PATH; it comes with Prometheus, and {why}"),
    })
}

/// The command that makes the report again: with absolute times, without the flags that are at
/// their default, and without those of the connection, which may be secret.
fn report_command(engine: &EngineConfig, target: &Target) -> String {
    let EngineConfig { regions, window, filter, fold, mirror } = engine;
    let duration = |duration| humantime::format_duration(duration).to_string().replace(' ', "");
    let mut words = vec!["callsight replay".to_owned()];
    let mut flag = |name: &str, value: String| words.push(format!("{name} {value}"));
    flag("--region", joined(regions));
    flag("--from", exact(window.from));
    flag("--to", exact(window.to));
    flag("--step", duration(window.step));
    filter.meetings.iter().for_each(|id| flag("--meeting", id.clone()));
    filter.sessions.iter().for_each(|id| flag("--session", id.clone()));
    let settings = |fold: &FoldSettings| {
        [
            ("--idle-timeout", duration(fold.idle_timeout)),
            ("--degraded-rtt", duration(fold.thresholds.rtt)),
            ("--degraded-concealment", fold.thresholds.concealment.to_string()),
            ("--degraded-loss", fold.thresholds.loss.to_string()),
            ("--degraded-join", duration(fold.thresholds.join)),
            ("--max-server-urls", fold.limits.server_urls.to_string()),
            ("--max-apps", fold.limits.apps.to_string()),
            ("--server-idle", duration(fold.server_idle)),
        ]
    };
    for ((name, value), default) in settings(fold).into_iter().zip(settings(&FoldSettings::default())) {
        if value != default.1 {
            flag(name, value);
        }
    }
    if *mirror {
        words.push("--mirror".to_owned());
    }
    words.push(match target {
        Target::File(path) => format!("--report {}", path.display()),
        Target::Stdout => "--report -".to_owned(),
    });
    words.join(" ")
}

fn summary(account: &Account, said: &[String]) -> String {
    let Account { messages, folded, late, repeated, refused, passed_over, most_sessions, .. } = account;
    let rejected = account.rejected();
    let frames = format!(
        "{messages} frames: {folded} folded ({late} of them late), {repeated} repeated, {refused} refused, \
         {rejected} rejected, {passed_over} of other calls; at most {most_sessions} sessions at a time"
    );
    [&[frames], said].concat().join("\n") + "\n"
}
