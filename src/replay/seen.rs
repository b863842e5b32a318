//! A message of the window with its outcome, as the engine hands it to sinks and to the report.
//!
//! Invariant: a message that the filter excludes is not handed on.

use crate::stream_reader::Record;
use callsight_fold::Outcome;
use callsight_frame::subject::Region;
use callsight_frame::{Frame, Rejection};

/// A message of the window, and its outcome.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The region whose stream has it.
    pub region: &'a Region,
    pub record: &'a Record,
    pub fate: Fate<'a>,
}

/// The outcome of a message.
#[derive(Clone, Copy, Debug)]
pub enum Fate<'a> {
    /// A valid frame, and what the fold did with it.
    Taken(&'a Frame<'a>, Outcome),
    /// A message that is not a valid frame.
    Rejected(&'a Rejection),
}
