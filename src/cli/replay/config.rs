//! What a replay is to do, once its flags are validated.
//!
//! Invariant: a configuration has something to do, and no two parts of it contradict each other.

use std::fmt;
use std::path::PathBuf;

use super::super::args::joined;
use crate::config::NatsConfig;
use crate::http_client::{Address, Header};
use crate::replay::engine::EngineConfig;
use crate::replay::sink::output::Target;
use crate::replay::sink::remote_write::ReceiverConfig;

#[derive(Clone, Debug)]
pub(crate) struct ReplayConfig {
    pub(super) nats: NatsConfig,
    pub(super) engine: EngineConfig,
    pub(super) task: ReplayTask,
    pub(super) quiet: bool,
}

#[derive(Clone, Debug)]
pub(super) enum ReplayTask {
    Write(Outputs),
    Heal(HealConfig),
}

/// What a replay becomes. At least one is there.
#[derive(Clone, Debug)]
pub(super) struct Outputs {
    /// The value of the label `replay`.
    pub(super) replay: Option<String>,
    pub(super) openmetrics: Option<Target>,
    pub(super) tsdb: Option<PathBuf>,
    pub(super) frames: Option<Target>,
    pub(super) report: Option<Target>,
    /// Rule files; empty for no backtest.
    pub(super) rules: Vec<PathBuf>,
    pub(super) remote_write: Option<RemoteWriteOutput>,
}

#[derive(Clone, Debug)]
pub(super) struct RemoteWriteOutput {
    pub(super) receiver: ReceiverConfig,
    /// The file of `--resume`.
    pub(super) resume: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub(super) struct HealConfig {
    /// The Prometheus that has the gaps.
    pub(super) prometheus: Address,
    /// Headers of each query.
    pub(super) headers: Vec<Header>,
    /// What takes the missing samples.
    pub(super) receiver: ReceiverConfig,
}

impl Outputs {
    /// Whether any of them uses the series at each step.
    pub(super) const fn use_steps(&self) -> bool {
        self.openmetrics.is_some()
            || self.tsdb.is_some()
            || self.report.is_some()
            || !self.rules.is_empty()
            || self.remote_write.is_some()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.frames.is_none() && !self.use_steps()
    }

    /// How many of them go to standard output.
    pub(super) fn to_stdout(&self) -> usize {
        let files = [&self.openmetrics, &self.frames, &self.report];
        let stdout = files.iter().filter(|target| ***target == Some(Target::Stdout)).count();
        stdout + usize::from(!self.rules.is_empty())
    }
}

impl ReplayConfig {
    /// Whether samples leave the process for a receiver.
    pub(super) const fn sends(&self) -> bool {
        match &self.task {
            ReplayTask::Write(outputs) => outputs.remote_write.is_some(),
            ReplayTask::Heal(_) => true,
        }
    }
}

impl fmt::Display for ReplayConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nats, engine, .. } = self;
        let step = humantime::format_duration(engine.window.step);
        write!(f, "regions {}; {}; step {step}; NATS {nats}", joined(&engine.regions), engine.window)
    }
}
