//! A page for the meeting after the incident, and the same in a few lines for the terminal.

use super::output::{Output, Target};
use super::{Seen, Sink, SinkError};
use crate::replay::engine::Account;
use crate::replay::report::collect::Collected;
use crate::replay::report::verdict::Verdict;
use crate::replay::report::{Settings, render, summary};
use crate::replay::sample::Step;

/// Gathers, and writes the page when the window is over.
pub struct Report {
    target: Target,
    output: Output,
    collected: Collected,
}

impl Report {
    /// Begins.
    ///
    /// # Errors
    /// When the file can't be made.
    pub fn new(target: Target, settings: Settings) -> Result<Self, SinkError> {
        Ok(Self { output: Output::create(target.clone())?, target, collected: Collected::new(settings) })
    }
}

impl Sink for Report {
    fn frame(&mut self, seen: &Seen<'_>) -> Result<(), SinkError> {
        self.collected.frame(seen);
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), SinkError> {
        self.collected.step(step);
        Ok(())
    }

    fn finish(self: Box<Self>, account: &Account) -> Result<Vec<String>, SinkError> {
        let Self { target, mut output, collected } = *self;
        let verdict = Verdict::of(&collected);
        output.write(render(&collected, account, &verdict).as_bytes())?;
        output.complete()?;
        let mut said = summary(&collected, &verdict);
        if let Target::File(path) = target {
            said.push(format!("{}: the report", path.display()));
        }
        Ok(said)
    }
}
