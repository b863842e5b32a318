//! Which alerts would have fired: blocks of what was replayed, judged by a Prometheus of our own.

use std::io::{self, Write};
use std::path::PathBuf;

use tempfile::TempDir;

use super::openmetrics::OpenMetrics;
use super::output::Target;
use super::tsdb::Maker;
use super::{Sink, SinkError};
use crate::replay::account::Account;
use crate::replay::judge;
use crate::replay::progress::Control;
use crate::replay::rules::Rules;
use crate::replay::sample::Step;
use crate::replay::window::Window;

/// Gathers what the rules ask for, and has them judged when the window is over.
pub struct Backtest {
    rules: Rules,
    window: Window,
    prometheus: PathBuf,
    maker: Maker,
    work: TempDir,
    text: PathBuf,
    sink: OpenMetrics,
}

impl Backtest {
    /// Begins, with the programs that make blocks and judge.
    ///
    /// # Errors
    /// When there is no room for the samples.
    pub fn new(
        rules: Rules,
        window: Window,
        prometheus: PathBuf,
        promtool: PathBuf,
        control: Control,
    ) -> Result<Self, SinkError> {
        let made = tempfile::Builder::new().prefix("callsight-rules-").tempdir();
        let work = made.map_err(|source| SinkError::Write { path: std::env::temp_dir(), source })?;
        let text = work.path().join("replay.om");
        let sink = OpenMetrics::new(Target::File(text.clone()), None, control.clone())?.only(rules.tables());
        Ok(Self { rules, window, prometheus, maker: Maker { promtool, control }, work, text, sink })
    }
}

impl Sink for Backtest {
    fn step(&mut self, step: &Step) -> Result<(), SinkError> {
        self.sink.step(step)
    }

    fn finish(self: Box<Self>, account: &Account) -> Result<Vec<String>, SinkError> {
        let Self { rules, window, prometheus, maker, work, text, sink } = *self;
        Box::new(sink).finish(account)?;
        maker.control.phase("judging");
        maker.make(&text, &work.path().join("data"))?;
        let make = |text: &std::path::Path, blocks: &std::path::Path| maker.make(text, blocks);
        let verdict = judge::judge(&prometheus, work.path(), &rules, window, &maker.control, make)?;
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(verdict.to_string().as_bytes())
            .and_then(|()| stdout.flush())
            .map_err(SinkError::Stdout)?;
        Ok(Vec::new())
    }
}
