//! Writes the report: a page, and its main facts as lines for the terminal.
//!
//! Invariant: the page is written when the window is complete, and not before.

use super::output::{Output, Target};
use super::{Sink, SinkError};
use crate::replay::account::Account;
use crate::replay::engine::EngineConfig;
use crate::replay::report::collect::Collected;
use crate::replay::report::render;
use crate::replay::report::verdict::{WindowVerdict, summary};
use crate::replay::sample::Step;
use crate::replay::seen::Seen;
use crate::replay::window::Window;

/// Gathers steps, and writes the page at the end.
pub struct Report {
    output: Output,
    collected: Collected,
}

impl Report {
    /// Creates the output.
    ///
    /// # Errors
    /// Returns an error if the file can't be created.
    pub fn new(target: Target, config: EngineConfig, command: String) -> Result<Self, SinkError> {
        Ok(Self { output: Output::create(target)?, collected: Collected::new(config, command) })
    }
}

impl Sink for Report {
    fn narrow(&mut self, window: Window) {
        let config = EngineConfig { window, ..self.collected.config.clone() };
        self.collected = Collected::new(config, std::mem::take(&mut self.collected.command));
    }

    fn frame(&mut self, seen: &Seen<'_>) -> Result<(), SinkError> {
        self.collected.frame(seen);
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), SinkError> {
        self.collected.step(step);
        Ok(())
    }

    fn finish(self: Box<Self>, account: &Account) -> Result<Vec<String>, SinkError> {
        let Self { mut output, collected } = *self;
        let verdict = WindowVerdict::of(&collected);
        let page =
            render(&collected, account, &verdict).map_err(|error| output.target.error(error.into()))?;
        output.write(page.as_bytes())?;
        let said = output.complete()?.said("the report");
        Ok([summary(&collected, &verdict), said].concat())
    }
}
