//! Why a frame is not stored, and how that is answered.
//!
//! Clients are written by others, in any language, and must tell what to repair, what to send again
//! and what to give up. So each refusal has a status, a word from a closed set, and a sentence that
//! says what to do.
//!
//! Invariant: a refusal's word is the same in its answer and in its metric.

use std::time::Duration;

use callsight_frame::{Reason, Rejection};
use serde_json::json;
use warp::http::{HeaderValue, StatusCode, header};
use warp::reply::{Reply, Response};

use super::tokens::TokenRefusal;
use super::words::words;

/// When to send a frame again that could not be stored.
const RETRY_AFTER: Duration = Duration::from_secs(2);

words! {
    /// What is wrong with a request, apart from its frame.
    pub(crate) BadRequest {
        UnsupportedType = "unsupported_type",
        UnsupportedEncoding = "unsupported_encoding",
        BadEncoding = "bad_encoding",
        Incomplete = "incomplete",
    }
}

words! {
    /// Whose frames come too fast.
    pub(crate) RateLimited {
        Participant = "participant",
        Address = "address",
    }
}

words! {
    /// Why a good frame can't be stored now.
    pub(crate) Unavailable {
        BufferFull = "buffer_full",
        AckLate = "ack_late",
        StreamRejected = "stream_rejected",
        Stopping = "stopping",
    }
}

/// Why a frame is not stored.
#[derive(Debug, PartialEq)]
pub(crate) enum Refusal {
    Request(BadRequest),
    Frame(Rejection),
    Token(TokenRefusal),
    Rate(RateLimited, Duration),
    Unavailable(Unavailable),
}

impl From<TokenRefusal> for Refusal {
    fn from(refusal: TokenRefusal) -> Self {
        Self::Token(refusal)
    }
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Self::Frame(rejection)
    }
}

impl Refusal {
    /// The outcome and the reason in `callsight_ingest_frames_total`.
    pub(super) const fn labels(&self) -> (Outcome, &'static str) {
        match self {
            Self::Request(problem) => (Outcome::Rejected, problem.label()),
            Self::Frame(rejection) => (Outcome::Rejected, rejection.reason.label()),
            Self::Token(refusal) => (Outcome::Unauthorized, refusal.label()),
            Self::Rate(by, _) => (Outcome::RateLimited, by.label()),
            Self::Unavailable(problem) => (Outcome::Unavailable, problem.label()),
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Request(BadRequest::UnsupportedType | BadRequest::UnsupportedEncoding) => {
                StatusCode::UNSUPPORTED_MEDIA_TYPE
            }
            Self::Frame(Rejection { reason: Reason::TooLarge, .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Request(_) | Self::Frame(_) => StatusCode::BAD_REQUEST,
            Self::Token(refusal) if refusal.forbids() => StatusCode::FORBIDDEN,
            Self::Token(_) => StatusCode::UNAUTHORIZED,
            Self::Rate(..) => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn detail(&self) -> String {
        let text = match self {
            Self::Request(problem) => match problem {
                BadRequest::UnsupportedType => {
                    "send the frame as application/msgpack or application/json, and say so in Content-Type"
                }
                BadRequest::UnsupportedEncoding => "send the body as it is, or as Content-Encoding: gzip",
                BadRequest::BadEncoding => "the body is no gzip; send it as it is, or omit Content-Encoding",
                BadRequest::Incomplete => {
                    "the body ended early or took longer than 10 s; send it again at once"
                }
            },
            Self::Frame(rejection) => return rejection.detail.clone(),
            Self::Token(refusal) => refusal.advice(),
            Self::Rate(RateLimited::Participant, _) => {
                "this participant sends too many frames; send one every 1 to 5 seconds"
            }
            Self::Rate(RateLimited::Address, _) => {
                "this address sends too many requests; wait, then send one frame every 1 to 5 seconds"
            }
            Self::Unavailable(problem) => match problem {
                Unavailable::BufferFull => {
                    "the stream is away or slow, and the buffer is full; send the frame again later"
                }
                Unavailable::AckLate => {
                    "the stream has not confirmed the frame in time and may still store it; sending it again is safe"
                }
                Unavailable::StreamRejected => {
                    "the stream refuses this frame, and the log here says why; go on with the next one"
                }
                Unavailable::Stopping => {
                    "this instance stops; send the frame again, sending it twice is safe"
                }
            },
        };
        text.to_owned()
    }

    /// Renders the answer.
    pub(crate) fn answer(&self) -> Response {
        let status = self.status();
        let (_, reason) = self.labels();
        let mut response = error(status, Some(reason), &self.detail());
        let headers = response.headers_mut();
        match self {
            Self::Rate(_, wait) => set_retry_after(headers, *wait),
            Self::Unavailable(_) => set_retry_after(headers, RETRY_AFTER),
            Self::Token(TokenRefusal::Missing) => {
                headers.insert(
                    header::WWW_AUTHENTICATE,
                    HeaderValue::from_static(r#"Bearer realm="callsight""#),
                );
            }
            Self::Token(refusal) if !refusal.forbids() => {
                let value = format!(
                    r#"Bearer realm="callsight", error="invalid_token", error_description="{reason}""#
                );
                if let Ok(value) = HeaderValue::from_str(&value) {
                    headers.insert(header::WWW_AUTHENTICATE, value);
                }
            }
            _ => {}
        }
        response
    }
}

/// Renders an error in JSON: its word, by its status, a reason, and what to do.
pub(crate) fn error(status: StatusCode, reason: Option<&str>, detail: &str) -> Response {
    let word = match status {
        StatusCode::BAD_REQUEST => "rejected",
        StatusCode::UNAUTHORIZED => "unauthorized",
        StatusCode::FORBIDDEN => "forbidden",
        StatusCode::NOT_FOUND => "not_found",
        StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
        StatusCode::PAYLOAD_TOO_LARGE => "too_large",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "unsupported",
        StatusCode::TOO_MANY_REQUESTS => "rate_limited",
        _ => "unavailable",
    };
    let mut body = json!({ "error": word, "detail": detail });
    if let Some(reason) = reason {
        body["reason"] = reason.into();
    }
    warp::reply::with_status(warp::reply::json(&body), status).into_response()
}

/// Whole seconds, at least one: a client that comes back at once would be refused again.
fn set_retry_after(headers: &mut warp::http::HeaderMap, wait: Duration) {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
}

words! {
    /// What became of a request with a frame: the values of the label `outcome`.
    pub(crate) Outcome {
        Stored = "stored",
        Duplicate = "duplicate",
        Rejected = "rejected",
        Unauthorized = "unauthorized",
        RateLimited = "rate_limited",
        Unavailable = "unavailable",
        Abandoned = "abandoned",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_told_in_whole_seconds_and_never_as_none() {
        for (wait, expected) in [(0, "1"), (1, "1"), (1_000, "1"), (1_001, "2"), (59_999, "60")] {
            let answer = Refusal::Rate(RateLimited::Address, Duration::from_millis(wait)).answer();
            assert_eq!(answer.headers()[header::RETRY_AFTER], expected, "{wait} ms");
        }
    }
}
