//! Running a replay: from its settings to what it becomes.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use async_nats::jetstream::Context;

use super::super::tool::find_tool;
use super::super::{CliError, stop_signal};
use super::{Outputs, ReplayConfig};
use crate::nats;
use crate::replay::account::Account;
use crate::replay::engine::EngineConfig;
use crate::replay::heal::{Hole, Neighbour, Prometheus};
use crate::replay::http::{ANSWER_WITHIN, Address, Client};
use crate::replay::progress::{self, Control};
use crate::replay::report::Settings;
use crate::replay::rules::Rules;
use crate::replay::sink::backtest::Backtest;
use crate::replay::sink::frames::Frames;
use crate::replay::sink::openmetrics::OpenMetrics;
use crate::replay::sink::output::Target;
use crate::replay::sink::remote_write::{Plan, RemoteWrite, RemoteWriteConfig, Resume};
use crate::replay::sink::report::Report;
use crate::replay::sink::tsdb::Tsdb;
use crate::replay::sink::{Sink, SinkError};
use crate::replay::window::{exact, rfc3339};
use crate::replay::{self, ReplayError, Replayed};
use callsight_fold::FoldSettings;

/// Replays until the window is over or a signal comes.
pub(crate) async fn run(config: ReplayConfig) -> Result<(), CliError> {
    let (control, quiet) = (Control::default(), config.quiet);
    let sends = config.outputs.remote_write.is_some() || config.heal.is_some();
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
        Ok(text) => {
            if !quiet {
                // With nobody left to read it, the work still counts.
                let _ = io::stderr().write_all(text.as_bytes());
            }
            Ok(())
        }
        Err(ReplayError::Sink(SinkError::Stopped)) => {
            let left =
                if sends { "what was sent stays, and no file is written" } else { "nothing is written" };
            Err(CliError::Stopped { signal: signal.unwrap_or("itself"), left })
        }
        Err(error @ (ReplayError::Outside { .. } | ReplayError::Empty { .. })) => {
            Err(CliError::Nothing(Box::new(error)))
        }
        Err(error) => Err(CliError::other(error)),
    }
}

/// Does it, and tells what came of it.
async fn execute(mut config: ReplayConfig, control: Control) -> Result<String, ReplayError> {
    if let Some(prometheus) = config.heal.take() {
        return heal(config, prometheus, control).await;
    }
    let resume = config.open_resume()?;
    if let Some(resume) = &resume {
        let plan = resume.plan();
        (config.engine.window.from, config.engine.window.to) = (plan.from, plan.to);
        config.outputs.replay.clone_from(&plan.replay);
    }
    let sinks = config.outputs.sinks(&config.engine, config.mirror, resume, &control)?;
    let context = config.connect().await?;
    let looking = replay::extents(&context, &config.engine.regions, config.mirror);
    let extents = unless_stopped(&control, looking).await??;
    let Replayed { account, said } = replay::run(&context, config.engine, extents, sinks, control).await?;
    Ok(summary(&account, &said))
}

async fn unless_stopped<T>(control: &Control, work: impl Future<Output = T>) -> Result<T, SinkError> {
    tokio::select! {
        output = work => Ok(output),
        () = control.stopped() => Err(SinkError::Stopped),
    }
}

impl ReplayConfig {
    async fn connect(&self) -> Result<Context, ReplayError> {
        let client = nats::connect(&self.nats, "callsight replay").await?;
        Ok(async_nats::jetstream::new(client))
    }

    /// What is remembered of a former run, or will be of this one.
    fn open_resume(&self) -> Result<Option<Resume>, ReplayError> {
        let (Some(path), Some(address)) = (&self.outputs.resume, &self.outputs.remote_write) else {
            return Ok(None);
        };
        let EngineConfig { regions, window, filter, fold } = &self.engine;
        let regions = super::joined(regions);
        let (step, mirror) = (window.step, self.mirror);
        let plan = Plan {
            from: window.from,
            to: window.to,
            replay: self.outputs.replay.clone(),
            settings: format!(
                "regions {regions} to {address}, step {step:?}, mirror {mirror}, {filter:?}, {fold:?}"
            ),
        };
        Ok(Some(Resume::open(path, plan)?))
    }
}

impl Outputs {
    /// Begins all of them: what can't be written shows before anything is read.
    fn sinks(
        &self,
        engine: &EngineConfig,
        mirror: bool,
        resume: Option<Resume>,
        control: &Control,
    ) -> Result<Vec<Box<dyn Sink>>, ReplayError> {
        let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
        let id = self.replay.as_deref();
        if let Some(target) = &self.frames {
            sinks.push(Box::new(Frames::new(target.clone())?));
        }
        if let Some(target) = &self.openmetrics {
            sinks.push(Box::new(OpenMetrics::new(target.clone(), id, control.clone())?));
        }
        if let Some(folder) = &self.tsdb {
            let promtool = program(
                "promtool",
                "it makes blocks of what --openmetrics writes on any machine that has it",
            )?;
            sinks.push(Box::new(Tsdb::new(folder.clone(), promtool, id, control.clone())?));
        }
        if let Some(target) = &self.report {
            let settings = Settings {
                regions: engine.regions.clone(),
                window: engine.window,
                filter: engine.filter.clone(),
                fold: engine.fold,
                mirror,
                command: command(engine, mirror, target),
            };
            sinks.push(Box::new(Report::new(target.clone(), settings)?));
        }
        if !self.rules.is_empty() {
            let rules = Rules::read(&self.rules)?;
            let why = "alerts are judged by Prometheus itself";
            let (prometheus, promtool) = (program("prometheus", why)?, program("promtool", why)?);
            sinks.push(Box::new(Backtest::new(rules, engine.window, prometheus, promtool, control.clone())?));
        }
        if let Some(address) = &self.remote_write {
            let config = RemoteWriteConfig {
                labels: self.replay.iter().map(|id| ("replay".to_owned(), id.clone())).collect(),
                ends: self.replay.is_some(),
                counted: HashMap::new(),
                edges: HashMap::new(),
                without: Vec::new(),
                ..self.remote_write_config(address.clone())
            };
            let step = engine.window.step;
            sinks.push(Box::new(RemoteWrite::new(config, step, resume, control.clone())));
        }
        Ok(sinks)
    }

    fn remote_write_config(&self, address: Address) -> RemoteWriteConfig {
        RemoteWriteConfig {
            address,
            headers: self.headers.clone(),
            give_up_after: self.patience,
            labels: Vec::new(),
            ends: false,
            counted: HashMap::new(),
            edges: HashMap::new(),
            without: Vec::new(),
        }
    }
}

/// What would make the report again: its own words, as how to connect is nobody's business, and times that stay.
fn command(engine: &EngineConfig, mirror: bool, target: &Target) -> String {
    let EngineConfig { regions, window, filter, fold } = engine;
    let usual = FoldSettings::default();
    let mut words = vec!["callsight replay".to_owned(), format!("--region {}", super::joined(regions))];
    let mut flag = |name: &str, value: String| words.push(format!("{name} {value}"));
    flag("--from", exact(window.from));
    flag("--to", exact(window.to));
    flag("--step", humantime::format_duration(window.step).to_string().replace(' ', ""));
    for (name, ids) in [("--meeting", &filter.meetings), ("--session", &filter.sessions)] {
        ids.iter().for_each(|id| flag(name, id.clone()));
    }
    let [idle, rtt] = [fold.idle_timeout, fold.thresholds.rtt]
        .map(|duration| humantime::format_duration(duration).to_string().replace(' ', ""));
    let [usual_thresholds, thresholds] = [usual.thresholds, fold.thresholds];
    let unusual = [
        ("--idle-timeout", idle, fold.idle_timeout != usual.idle_timeout),
        ("--degraded-rtt", rtt, thresholds.rtt != usual_thresholds.rtt),
        (
            "--degraded-concealment",
            thresholds.concealment.to_string(),
            thresholds.concealment.total_cmp(&usual_thresholds.concealment).is_ne(),
        ),
        (
            "--max-server-urls",
            fold.limits.server_urls.to_string(),
            fold.limits.server_urls != usual.limits.server_urls,
        ),
    ];
    unusual.into_iter().filter(|(_, _, unusual)| *unusual).for_each(|(name, value, _)| flag(name, value));
    if mirror {
        words.push("--mirror".to_owned());
    }
    words.push(match target {
        Target::File(path) => format!("--report {}", path.display()),
        Target::Stdout => "--report -".to_owned(),
    });
    words.join(" ")
}

/// One of Prometheus's programs.
fn program(name: &'static str, why: &str) -> Result<PathBuf, SinkError> {
    find_tool(name).ok_or_else(|| SinkError::Program {
        program: name,
        reason: format!("it is not on the PATH; it comes with Prometheus, and {why}"),
    })
}

/// Fills the holes of each region.
async fn heal(config: ReplayConfig, prometheus: Address, control: Control) -> Result<String, ReplayError> {
    let receiver = config.outputs.remote_write.clone().unwrap_or_else(|| prometheus.below("api/v1/write"));
    let asked =
        Arc::new(Prometheus::new(prometheus, Client::new(config.outputs.headers.clone(), ANSWER_WITHIN)));
    let context = config.connect().await?;
    let mut text = String::new();
    for region in &config.engine.regions {
        control.phase("looking for holes");
        let (asking, of, window) = (Arc::clone(&asked), region.clone(), config.engine.window);
        let looking = tokio::task::spawn_blocking(move || asking.holes(&of, window));
        let holes = unless_stopped(&control, looking).await?.map_err(|_| ReplayError::Panicked)??;
        if holes.is_empty() {
            text.push_str(&format!("{region}: no hole from {window}\n"));
        }
        for Hole { window, neighbours } in holes {
            let [first, last] = [window.from, window.to].map(rfc3339);
            let step = humantime::format_duration(window.step);
            let place = format!("{region}: {first} to {last}, every {step}");
            let engine = EngineConfig { regions: vec![region.clone()], window, ..config.engine.clone() };
            let shown: Vec<_> = neighbours.iter().map(|neighbour| shown(&neighbour.labels)).collect();
            let sinks = neighbours.into_iter().map(|neighbour| {
                let Neighbour { labels, counted, edges, without } = neighbour;
                let receiver = config.outputs.remote_write_config(receiver.clone());
                let config = RemoteWriteConfig { labels, counted, edges, without, ..receiver };
                Box::new(RemoteWrite::new(config, window.step, None, control.clone())) as Box<dyn Sink>
            });
            let sinks = sinks.collect();
            control.phase("filling");
            let looking = replay::extents(&context, &engine.regions, config.mirror);
            let extents = unless_stopped(&control, looking).await??;
            match replay::run(&context, engine, extents, sinks, control.clone()).await {
                Ok(Replayed { account, .. }) => {
                    let Account { folded, steps, .. } = account;
                    let shown = shown.join(" and ");
                    text.push_str(&format!(
                        "{place}: filled {steps} steps from {folded} frames, as {shown}\n"
                    ));
                }
                Err(ReplayError::Outside { .. } | ReplayError::Empty { .. }) => {
                    text.push_str(&format!(
                        "{place}: nothing to fill it with, the stream has no frame of then\n"
                    ));
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(text)
}

/// `{instance="…",job="…"}`.
fn shown(labels: &[(String, String)]) -> String {
    let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{{{}}}", labels.join(","))
}

fn summary(account: &Account, said: &[String]) -> String {
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
