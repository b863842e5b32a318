//! The stream's answer to a frame.
//!
//! JetStream, a server without the stream and any other subscriber of the subject may answer, in
//! different shapes. [`Answer`] reduces them to what to do with the frame.
//!
//! Invariant: only an ack with a sequence counts as stored, and only a permanent error as rejected.

use async_nats::StatusCode;
use serde::Deserialize;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The stream stores the frame; `duplicate` if it did before this sending.
    Stored { duplicate: bool },
    /// Not stored, for a reason that passes: retry.
    Later(&'static str),
    /// Rejected permanently, with the reason.
    Never(String),
    /// Not from a stream: another subscriber replied, and the stream's answer is still to come.
    Foreign,
}

#[derive(Deserialize)]
struct Ack {
    seq: Option<u64>,
    #[serde(default)]
    duplicate: bool,
    error: Option<AckError>,
}

#[derive(Deserialize)]
struct AckError {
    code: u16,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// Errors with a 4xx code that pass: the stream is still busy with the first copy of this frame
/// (`STREAM_DUPLICATE_MESSAGE_CONFLICT`), or with too many others (`STREAM_TOO_MANY_REQUESTS`).
const TEMPORARY: [u64; 2] = [10158, 10167];

/// A stream that was declared before its subjects had the meeting's partition is none for them.
const NO_STREAM: &str = "no stream takes the subject, or its stream has no leader; if it lasts, create or update the \
     stream with `callsight streams apply`";

impl Answer {
    pub(super) fn read(status: Option<StatusCode>, payload: &[u8]) -> Self {
        if status.is_some_and(|status| status == StatusCode::NO_RESPONDERS) {
            return Self::Later(NO_STREAM);
        }
        match serde_json::from_slice(payload) {
            Ok(Ack { error: Some(error), .. }) => {
                // As in HTTP: 4xx is the frame's fault and permanent, 5xx is the server's and may
                // pass.
                if (400..500).contains(&error.code) && !TEMPORARY.contains(&error.err_code) {
                    Self::Never(format!("{} ({})", error.description, error.err_code))
                } else {
                    Self::Later("the stream cannot store it now")
                }
            }
            Ok(Ack { seq: Some(_), duplicate, .. }) => Self::Stored { duplicate },
            Ok(Ack { seq: None, .. }) | Err(_) => Self::Foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_a_server_are_understood() {
        let read = |payload: &str| Answer::read(None, payload.as_bytes());
        assert_eq!(read(r#"{"stream":"HEALTH_US","seq":7}"#), Answer::Stored { duplicate: false });
        assert_eq!(
            read(r#"{"stream":"HEALTH_US","domain":"hub","seq":7,"duplicate":true}"#),
            Answer::Stored { duplicate: true }
        );
        assert_eq!(
            read(
                r#"{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum allowed"}}"#
            ),
            Answer::Never("message size exceeds maximum allowed (10054)".into())
        );
        assert_eq!(
            read(r#"{"error":{"code":503,"err_code":10077,"description":"no space left"}}"#),
            Answer::Later("the stream cannot store it now")
        );
        assert_eq!(
            read(r#"{"error":{"code":409,"err_code":10158,"description":"duplicate in process"}}"#),
            Answer::Later("the stream cannot store it now")
        );
        assert!(matches!(Answer::read(Some(StatusCode::NO_RESPONDERS), b""), Answer::Later(_)));
        for foreign in ["", "+OK", "{}", "[]"] {
            assert_eq!(read(foreign), Answer::Foreign, "{foreign:?}");
        }
    }
}
