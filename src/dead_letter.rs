//! The dead letter: a copy of a rejected frame, with the reason.
//!
//! A rejected frame must neither be lost nor be redelivered for ever. So it is copied unchanged
//! into the region's dead-letter stream before it is acknowledged, with headers that say why it was
//! rejected and where it is in the health stream.
//!
//! Invariant: two letters about one message of a stream have the same message id.

use async_nats::HeaderMap;

use callsight_fold::StreamTime;
use callsight_frame::Rejection;
use callsight_frame::subject::Region;

/// Header: the reason, from the closed vocabulary of `docs/frame.md`.
const REASON: &str = "Callsight-Reason";
/// Header: what exactly is wrong with the frame.
const DETAIL: &str = "Callsight-Detail";
/// Header: the frame's subject in its stream.
const SUBJECT: &str = "Callsight-Subject";
/// Header: the frame's sequence in its stream.
const SEQUENCE: &str = "Callsight-Sequence";

/// The subject of a dead letter: `health.deadletter.{region}.{reason}`.
#[must_use]
pub fn subject(region: &Region, rejection: &Rejection) -> String {
    format!("health.deadletter.{region}.{}", rejection.reason)
}

/// The headers of a dead letter. Its message id makes a letter that is written twice one letter.
/// The time at which the stream stored the frame is part of it, because a new stream gives the same
/// sequences out again.
#[must_use]
pub fn headers(
    stream: &str,
    frame_subject: &str,
    sequence: u64,
    received: StreamTime,
    rejection: &Rejection,
) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(
        async_nats::header::NATS_MESSAGE_ID,
        format!("{stream}:{sequence}:{}", received.unix_nanos()),
    );
    headers.insert(REASON, rejection.reason.label());
    // A header is a single line of text.
    headers.insert(DETAIL, rejection.detail.replace(|character: char| character.is_control(), " "));
    headers.insert(SUBJECT, frame_subject);
    headers.insert(SEQUENCE, sequence.to_string());
    headers
}

/// A dead letter as it is read: why the frame was rejected, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetter<'a> {
    /// The label of the reason, from the closed vocabulary of `docs/frame.md`.
    pub reason: &'a str,
    /// What exactly is wrong with the frame.
    pub detail: &'a str,
    /// The frame's subject in its stream.
    pub subject: &'a str,
    /// The frame's sequence in its stream.
    pub sequence: &'a str,
}

impl<'a> DeadLetter<'a> {
    /// Reads the headers of a message. Missing headers are `unknown`.
    #[must_use]
    pub fn read(headers: Option<&'a HeaderMap>) -> Self {
        let get =
            |name| headers.and_then(|headers| headers.get(name)).map_or("unknown", |value| value.as_str());
        Self { reason: get(REASON), detail: get(DETAIL), subject: get(SUBJECT), sequence: get(SEQUENCE) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use callsight_frame::Reason;

    #[test]
    fn what_is_written_can_be_read() {
        let rejection = Rejection::new(Reason::NotFinite, "peers[0].audio.buffer_ms:\r\nNaN");
        let region: Region = "us".parse().unwrap();
        assert_eq!(subject(&region, &rejection), "health.deadletter.us.not_finite");
        let headers =
            headers("HEALTH_US", "health.diagnostics.us.relay.r1.7", 42, StreamTime::default(), &rejection);
        let expected = DeadLetter {
            reason: "not_finite",
            detail: "peers[0].audio.buffer_ms:  NaN",
            subject: "health.diagnostics.us.relay.r1.7",
            sequence: "42",
        };
        assert_eq!(DeadLetter::read(Some(&headers)), expected);
        assert_eq!(DeadLetter::read(None).reason, "unknown");
    }
}
