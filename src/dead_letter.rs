//! The dead letter: a copy of a rejected frame, with the reason.
//!
//! A frame that is refused must neither be lost nor be redelivered for ever. So it is copied into the region's
//! dead-letter stream before it is acknowledged, as it came, with headers that say why it was refused and where
//! it stands in the health stream.

use async_nats::HeaderMap;

use callsight_fold::StreamTime;
use callsight_frame::Rejection;
use callsight_frame::subject::Region;

/// Header: the reason, from the closed vocabulary of `docs/frame.md`.
const REASON: &str = "Callsight-Reason";
/// Header: what exactly was wrong.
const DETAIL: &str = "Callsight-Detail";
/// Header: the subject under which the frame stands in its stream.
const SUBJECT: &str = "Callsight-Subject";
/// Header: the frame's sequence in its stream.
const SEQUENCE: &str = "Callsight-Sequence";

/// The subject of a dead letter: `health.deadletter.{region}.{reason}`.
#[must_use]
pub fn subject(region: &Region, rejection: &Rejection) -> String {
    format!("health.deadletter.{region}.{}", rejection.reason)
}

/// The headers of a dead letter. Its message id makes a letter that is written twice one letter; the moment at
/// which the stream received the frame is part of it, because a stream made anew gives its sequences out again.
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
    // A header is one line of text.
    headers.insert(DETAIL, rejection.detail.replace(|character: char| character.is_control(), " "));
    headers.insert(SUBJECT, frame_subject);
    headers.insert(SEQUENCE, sequence.to_string());
    headers
}

/// A dead letter, read: why the frame was refused, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetter<'a> {
    /// The reason's label.
    pub reason: &'a str,
    /// What exactly was wrong.
    pub detail: &'a str,
    /// The subject under which the frame stands in its stream.
    pub subject: &'a str,
    /// The frame's sequence in its stream.
    pub sequence: &'a str,
}

impl<'a> DeadLetter<'a> {
    /// Reads the headers of a message; what a header doesn't say is `unknown`.
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
