//! What a replay can become.
//!
//! A replay is of use in whatever form its reader's tools take, and its outputs have only their
//! input in common: each message of the window with its outcome, and every series at each step. A
//! sink takes these one after the other, on one thread.
//!
//! Invariant: a sink's output is there when the sink has finished, and not before. A replay that is
//! stopped or fails leaves no partial file. What a receiver accepted can't be taken back.

pub mod frames;
pub mod openmetrics;
pub mod output;
pub mod remote_write;
pub mod report;
mod spill;
pub mod tsdb;

use std::io;
use std::path::PathBuf;

use super::account::Account;
use super::engine::Moment;
use super::sample::Step;
use super::seen::Seen;
use super::window::Window;
use crate::config::one_line;

/// An output of a replay.
pub trait Sink: Send {
    /// Takes the part of the window that is replayed, before anything else.
    fn narrow(&mut self, window: Window) {
        let _ = window;
    }

    /// Takes a message of the window that the filter includes.
    ///
    /// # Errors
    /// When it can't be kept, which ends the replay.
    fn frame(&mut self, seen: &Seen<'_>) -> Result<(), SinkError> {
        let _ = seen;
        Ok(())
    }

    /// Looks at the series of the next step itself.
    ///
    /// # Errors
    /// When what it sees can't be kept, which ends the replay.
    fn look(&mut self, moment: &Moment<'_>) -> Result<(), SinkError> {
        let _ = moment;
        Ok(())
    }

    /// Whether the sink uses [`Self::step`]; reading half a million series takes a while.
    fn looks_at_steps(&self) -> bool {
        true
    }

    /// Takes all series at the next step.
    ///
    /// # Errors
    /// When they can't be kept, which ends the replay.
    fn step(&mut self, step: &Step) -> Result<(), SinkError> {
        let _ = step;
        Ok(())
    }

    /// Completes the output. Returns lines for the summary.
    ///
    /// # Errors
    /// When it can't be completed.
    fn finish(self: Box<Self>, account: &Account) -> Result<Vec<String>, SinkError>;
}

/// Why a sink failed.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error("cannot write `{}`{}; no partial file is left", one_line(&path.display().to_string()), hint(source))]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot write to standard output")]
    Stdout(#[source] io::Error),
    #[error("{program} failed: {}", one_line(reason))]
    Program { program: &'static str, reason: String },
    /// A receiver refused the samples, or did not accept any for too long.
    #[error("{0}")]
    Receiver(String),
    /// An output would grow beyond what it may have.
    #[error("{0}")]
    Bound(String),
    #[error("stopped")]
    Stopped,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": the disk is full; use a shorter window, a longer --step or --meeting"
        }
        _ => "",
    }
}
