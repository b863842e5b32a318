//! Backtesting alert rules: which alerts would have fired, and when.
//!
//! Only Prometheus itself can say what its expressions are worth, so a Prometheus of the replay's
//! own evaluates them over blocks of what was replayed. Two things differ from evaluating live.
//!
//! - Recording rules come first, each after those that it depends on. They are evaluated at every
//!   step, and become blocks beside the replayed samples.
//! - Blocks have no stale markers, so a sample is valid until the next step and no longer.
//!
//! Invariant: an alert that needs a metric that the stream does not have is reported as not
//! evaluated, never as silent.

mod alerts;
mod rules;
mod server;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use self::alerts::{BacktestResult, firings};
use self::rules::RecordingRule;
pub use self::rules::RuleSet;
use self::server::{EvaluationGrid, PrometheusServer, seconds};
use super::account::Account;
use super::progress::Control;
use super::prometheus::{Labels, label_text};
use super::sample::Step;
use super::sink::openmetrics::OpenMetrics;
use super::sink::output::Target;
use super::sink::tsdb::BlockMaker;
use super::sink::{Sink, SinkError};
use super::window::Window;

/// The sink of `--rules`.
pub struct Backtest {
    sink: OpenMetrics,
    evaluator: Evaluator,
}

/// Evaluates rules over the blocks in `work/data`.
struct Evaluator {
    rules: RuleSet,
    window: Window,
    prometheus: PathBuf,
    maker: BlockMaker,
    work: TempDir,
}

impl Backtest {
    /// Begins, with the programs that make blocks and evaluate rules.
    ///
    /// # Errors
    /// When the temporary files can't be made.
    pub fn new(
        rules: RuleSet,
        window: Window,
        prometheus: PathBuf,
        promtool: PathBuf,
        control: Control,
    ) -> Result<Self, SinkError> {
        let made = tempfile::Builder::new().prefix("callsight-rules-").tempdir();
        let work = made.map_err(|source| SinkError::Write { path: std::env::temp_dir(), source })?;
        let evaluator = Evaluator {
            rules,
            window,
            prometheus,
            maker: BlockMaker { promtool, control: control.clone() },
            work,
        };
        let (target, tables) = (Target::File(evaluator.replayed()), evaluator.rules.tables());
        Ok(Self { sink: OpenMetrics::with_tables(target, None, control, tables)?, evaluator })
    }
}

impl Sink for Backtest {
    fn narrow(&mut self, window: Window) {
        self.evaluator.window = window;
    }

    fn step(&mut self, step: &Step) -> Result<(), SinkError> {
        self.sink.step(step)
    }

    fn finish(self: Box<Self>, account: &Account) -> Result<Vec<String>, SinkError> {
        let Self { sink, evaluator } = *self;
        Box::new(sink).finish(account)?;
        evaluator.maker.control.phase("evaluating rules");
        evaluator.make_blocks(&evaluator.replayed())?;
        let text = evaluator.evaluate()?.to_string();
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(SinkError::Stdout)?;
        Ok(Vec::new())
    }
}

impl Evaluator {
    /// The file of replayed samples.
    fn replayed(&self) -> PathBuf {
        self.work.path().join("replay.om")
    }

    fn evaluate(&self) -> Result<BacktestResult, SinkError> {
        let Self { rules, window, work, .. } = self;
        for (place, level) in rules.levels().into_iter().enumerate() {
            let text = self.record(&level)?;
            if !text.is_empty() {
                let path = work.path().join(format!("recorded-{place}.om"));
                let written = fs::write(&path, text + "# EOF\n");
                written.map_err(|source| SinkError::Write { path: path.clone(), source })?;
                self.make_blocks(&path)?;
            }
        }
        let server = self.start()?;
        let mut result =
            BacktestResult { window: *window, firings: Vec::new(), silent: Vec::new(), skipped: Vec::new() };
        for alert in &rules.alerts {
            let missing = rules.missing(&alert.expression);
            if !missing.is_empty() {
                result.skipped.push((alert.name.clone(), missing.into_iter().collect()));
                continue;
            }
            let firings = firings(&server, alert, *window)?;
            if firings.is_empty() {
                result.silent.push(alert.name.clone());
            }
            result.firings.extend(firings);
        }
        Ok(result)
    }

    /// Evaluates recording rules at every step. Returns lines of OpenMetrics.
    fn record(&self, level: &[&RecordingRule]) -> Result<String, SinkError> {
        let server = self.start()?;
        let grid = EvaluationGrid::new(self.window, self.window.step);
        let mut text = String::new();
        for RecordingRule { name, expression, labels } in level {
            if !self.rules.missing(expression).is_empty() {
                continue;
            }
            for (found, values) in server.evaluate(name, expression, grid)? {
                let all: Labels = found.into_iter().chain(labels.clone()).collect();
                let head = format!("{name}{{{}}}", label_text(&all));
                let line = |(at, value)| format!("{head} {value} {}\n", seconds(at));
                text.extend(values.into_iter().map(line));
            }
        }
        Ok(text)
    }

    fn start(&self) -> Result<PrometheusServer, SinkError> {
        let lookback =
            self.window.step.saturating_sub(Duration::from_millis(1)).max(Duration::from_millis(1));
        PrometheusServer::start(&self.prometheus, self.work.path(), lookback, &self.maker.control)
    }

    fn make_blocks(&self, text: &Path) -> Result<(), SinkError> {
        self.maker.make(text, &self.work.path().join("data"))
    }
}
