//! Why a frame is rejected.
//!
//! The reason is a label value on a counter, a header on a dead letter and a field of a log line,
//! so it comes from a closed vocabulary. serde passes a visitor's error on as text only, so within
//! the decoder a rejection travels as `reason at path: detail`: [`Rejection::into_serde`] writes
//! it, [`locate`] prepends a step of the path at each level that the error leaves, and
//! [`Rejection::from_decoder`] parses it.
//!
//! Invariant: a rejection never quotes more of a frame than a bounded excerpt, and accepted frames
//! cost nothing here.

use std::borrow::Cow;
use std::fmt;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal;)+) => {
        /// The closed vocabulary of rejection reasons.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// Every reason, in the order in which it is documented.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)+];

            /// The reason as a label value.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Reason::$name => $label,)+ }
            }

            /// One sentence that explains the reason, for a test that compares it with the
            /// specification.
            #[doc(hidden)]
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Reason::$name => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// The message is longer than 64 KiB.
    TooLarge = "too_large";
    /// Not MessagePack nor a packet, cut short, followed by other bytes, or a value of the wrong
    /// type.
    Malformed = "malformed";
    /// `v` is not 1.
    UnsupportedVersion = "unsupported_version";
    /// A required key is absent or nil.
    MissingField = "missing_field";
    /// An identifier is not 1 to 128 bytes of `[A-Za-z0-9._:@-]`.
    BadIdentifier = "bad_identifier";
    /// `server.url` has no scheme or host, a control character, a forbidden character in the host,
    /// or an origin longer than 256 bytes.
    BadUrl = "bad_url";
    /// More than 256 peers.
    TooManyPeers = "too_many_peers";
    /// A number is NaN or infinite.
    NotFinite = "not_finite";
    /// A number is negative or above its range, a count is not whole, or `seq` is 0.
    OutOfRange = "out_of_range";
    /// The subject is not `health.diagnostics.{region}.{service_type}.{server_id}`, ends with what
    /// is no partition, or names another region.
    BadSubject = "bad_subject";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Why a frame is rejected: the reason is for counters, the detail for people who read logs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Rejection {
    /// The reason, from the closed vocabulary.
    pub reason: Reason,
    /// The path of the value and what is wrong with it, quoting at most a bounded excerpt of the
    /// frame.
    pub detail: String,
}

impl Rejection {
    /// Rejects for this reason; `detail` quotes at most a bounded excerpt of the frame.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    pub(super) fn into_serde<E: serde::de::Error>(self) -> E {
        E::custom(self)
    }

    /// Recovers the rejection from a decoder's error, where serde carries it as text. An error
    /// without one is [`Reason::Malformed`].
    pub fn from_decoder(error: &dyn fmt::Display) -> Self {
        let text = error.to_string();
        let (reason, path, detail) = parts(&text, None);
        if path.is_empty() {
            Self::new(reason, detail)
        } else {
            Self::new(reason, format!("{path}: {detail}"))
        }
    }
}

/// Prepends a step to the path of the rejected value: a key, or a position in an array as `[3]`.
///
/// `expected` is the type of the specification, for errors that do not name it.
#[cold]
pub(super) fn locate<E: serde::de::Error>(error: E, step: impl fmt::Display, expected: &str) -> E {
    let text = error.to_string();
    let (reason, path, detail) = parts(&text, Some(expected));
    let dot = if path.is_empty() || path.starts_with('[') { "" } else { "." };
    E::custom(format_args!("{reason} at {step}{dot}{path}: {detail}"))
}

/// Splits a decoder's error into reason, path and detail.
fn parts<'a>(text: &'a str, expected: Option<&str>) -> (Reason, &'a str, Cow<'a, str>) {
    let ours = text.split_once(": ").and_then(|(head, detail)| {
        let (label, path) = head.split_once(" at ").unwrap_or((head, ""));
        let reason = Reason::ALL.iter().find(|reason| reason.label() == label)?;
        Some((*reason, path, Cow::Borrowed(detail)))
    });
    ours.unwrap_or_else(|| (Reason::Malformed, "", Cow::Owned(in_our_words(text, expected))))
}

/// Rewrites a library's error in the words of the specification, without text from the frame: a
/// string in the wrong place may be 60 KB long, or an address with a token in it.
fn in_our_words(text: &str, expected: Option<&str>) -> String {
    if text.starts_with("IO error while reading") {
        return "the message is cut short".to_owned();
    }
    let (found, otherwise) = if let Some(marker) = text.strip_prefix("wrong msgpack marker ") {
        let marker = marker.trim_start_matches("Fix").to_ascii_lowercase();
        let family = ["str", "array", "map", "bin", "ext"].into_iter().find(|name| marker.starts_with(name));
        (family.unwrap_or("the unused byte 0xc1"), None)
    } else if let Some(rest) = text.strip_prefix("invalid type: ") {
        let (found, otherwise) = rest.rsplit_once(", expected ").unwrap_or((rest, "another type"));
        let found = match found {
            "sequence" => "array",
            "byte array" => "bin",
            "newtype struct" => "ext",
            other if other.starts_with("string") => "str",
            other => other,
        };
        (found, Some(otherwise))
    } else {
        return text.chars().take(200).collect();
    };
    match expected.or(otherwise) {
        Some(expected) => format!("found {found}, expected {expected}"),
        None => format!("found {found}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_survives_the_trip_through_a_decoders_error() {
        for reason in Reason::ALL {
            let rejection = Rejection::new(*reason, "peers: 300, the limit is 256");
            let error: rmp_serde::decode::Error = rejection.clone().into_serde();
            assert_eq!(Rejection::from_decoder(&error), rejection);
        }
    }

    #[test]
    fn a_rejection_gathers_the_path_on_its_way_out() {
        let rejection = Rejection::new(Reason::OutOfRange, "-1 is negative");
        let mut error: rmp_serde::decode::Error = rejection.into_serde();
        for step in ["expand", "neteq", "audio", "[3]", "peers"] {
            error = locate(error, step, "map");
        }
        let expected = Rejection::new(Reason::OutOfRange, "peers[3].audio.neteq.expand: -1 is negative");
        assert_eq!(Rejection::from_decoder(&error), expected);
    }

    #[test]
    fn any_other_error_is_malformed_and_repeats_no_text() {
        for (text, expected) in [
            ("invalid type: integer `3`, expected a borrowed string", "found integer `3`, expected uint"),
            (r#"invalid type: string "a, expected secret", expected f64"#, "found str, expected uint"),
            ("invalid type: newtype struct, expected f64", "found ext, expected uint"),
            ("wrong msgpack marker FixArray(3)", "found array, expected uint"),
            ("wrong msgpack marker Reserved", "found the unused byte 0xc1, expected uint"),
            ("IO error while reading marker: failed to fill whole buffer", "the message is cut short"),
        ] {
            let error: rmp_serde::decode::Error = serde::de::Error::custom(text);
            let rejection = Rejection::from_decoder(&locate(error, "seq", "uint"));
            assert_eq!(rejection, Rejection::new(Reason::Malformed, format!("seq: {expected}")));
        }
        let long = Rejection::from_decoder(&"x".repeat(60_000));
        assert_eq!((long.reason, long.detail.len()), (Reason::Malformed, 200));
    }
}
