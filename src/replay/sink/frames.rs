//! The frames themselves, one JSON object per line.
//!
//! A question that no series answers needs what the clients reported. Each line has the region,
//! subject, sequence and stream time of a message, its outcome, and the frame in its named form. A
//! refused frame has the reason too; a rejected message has the reason and its bytes in base64
//! instead.
//!
//! Invariant: every message of the window that the filter includes is one line.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::output::{Output, Target};
use super::{Sink, SinkError};
use crate::replay::account::Account;
use crate::replay::seen::{Fate, Seen};
use crate::replay::window::exact;
use callsight_fold::Outcome;
use callsight_frame::Frame;

/// The sink of `--frames`.
pub struct Frames {
    output: Output,
    line: Vec<u8>,
}

#[derive(Default, Serialize)]
struct FrameLine<'a> {
    region: &'a str,
    subject: &'a str,
    sequence: u64,
    time: String,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    frame: Option<&'a Frame<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

impl Frames {
    /// Opens the output.
    ///
    /// # Errors
    /// When the file can't be made.
    pub fn new(target: Target) -> Result<Self, SinkError> {
        Ok(Self { output: Output::create(target)?, line: Vec::new() })
    }
}

impl Sink for Frames {
    fn frame(&mut self, seen: &Seen<'_>) -> Result<(), SinkError> {
        let record = seen.record;
        let mut line = FrameLine {
            region: seen.region.as_str(),
            subject: &record.subject,
            sequence: record.sequence,
            time: exact(record.at),
            outcome: "rejected",
            ..FrameLine::default()
        };
        match seen.fate {
            Fate::Taken(frame, outcome) => {
                line.frame = Some(frame);
                line.outcome = match outcome {
                    Outcome::Folded => "folded",
                    Outcome::Late => "late",
                    Outcome::Repeated => "repeated",
                    Outcome::Refused(refusal) => {
                        line.reason = Some(refusal.label());
                        "refused"
                    }
                };
            }
            Fate::Rejected(rejection) => {
                line.reason = Some(rejection.reason.label());
                line.detail = Some(&rejection.detail);
                line.payload_base64 = Some(STANDARD.encode(&record.payload));
            }
        }
        self.line.clear();
        serde_json::to_writer(&mut self.line, &line)
            .map_err(|error| self.output.target.error(error.into()))?;
        self.line.push(b'\n');
        self.output.write(&self.line)
    }

    fn looks_at_steps(&self) -> bool {
        false
    }

    fn finish(self: Box<Self>, account: &Account) -> Result<Vec<String>, SinkError> {
        let frames = account.folded + account.repeated + account.refused + account.rejected();
        Ok(self.output.complete()?.said(&format!("{frames} frames")))
    }
}
