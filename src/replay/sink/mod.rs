//! Where a replay goes.
//!
//! A sink sees each message of the window and what became of it, and every series at each step, one after the
//! other, on one thread. What it makes of them is there when it has finished and not before: a replay that is
//! stopped, or fails, leaves no half of anything behind.

pub mod backtest;
pub mod frames;
pub mod openmetrics;
mod output;
pub mod remote_write;
pub mod report;
mod spill;
pub mod tsdb;

use std::io;
use std::path::PathBuf;

pub use output::Target;

use super::engine::Account;
use super::sample::Step;
use crate::config::one_line;
use crate::stream_reader::Record;
use callsight_fold::Outcome;
use callsight_frame::subject::Region;
use callsight_frame::{Frame, Rejection};

/// A message of the window.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The region whose stream has it.
    pub region: &'a Region,
    /// The message.
    pub record: &'a Record,
    /// What became of it.
    pub fate: Fate<'a>,
}

/// What became of a message.
#[derive(Clone, Copy, Debug)]
pub enum Fate<'a> {
    /// A frame, and what the fold made of it.
    Taken(&'a Frame<'a>, Outcome),
    /// No frame.
    Rejected(&'a Rejection),
}

/// What a replay goes into.
pub trait Sink: Send {
    /// A message of the window, of what was asked for.
    ///
    /// # Errors
    /// When it can't be kept, which ends the replay.
    fn frame(&mut self, seen: &Seen<'_>) -> Result<(), SinkError> {
        let _ = seen;
        Ok(())
    }

    /// Whether [`Self::step`] is of use: looking at half a million series takes a while.
    fn looks_at_steps(&self) -> bool {
        true
    }

    /// All series at the next step.
    ///
    /// # Errors
    /// When they can't be kept, which ends the replay.
    fn step(&mut self, step: &Step) -> Result<(), SinkError> {
        let _ = step;
        Ok(())
    }

    /// The window is over. Tells what there is now, a line each, for people.
    ///
    /// # Errors
    /// When it can't be completed.
    fn finish(self: Box<Self>, account: &Account) -> Result<Vec<String>, SinkError>;
}

/// Why a sink can't go on.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// A file can't be written.
    #[error("cannot write `{}`{}; nothing is left of it", one_line(&path.display().to_string()), hint(source))]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Standard output can't be written.
    #[error("cannot write to standard output")]
    Stdout(#[source] io::Error),
    /// Another program failed.
    #[error("{program} failed: {}", one_line(reason))]
    Program {
        /// Which.
        program: &'static str,
        /// What it said.
        reason: String,
    },
    /// A receiver refuses the samples, or is not there.
    #[error("{0}")]
    Receiver(String),
    /// It was told to stop.
    #[error("stopped")]
    Stopped,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": the disk is full; a shorter window, a longer --step or --meeting takes less"
        }
        _ => "",
    }
}
