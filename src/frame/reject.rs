//! Why a frame is refused.
//!
//! The reason is a label value on a counter, a header on a dead letter and a word in a log line, so it comes
//! from a closed vocabulary. serde hands a visitor's own error on as text alone: inside the decoder a
//! rejection therefore travels as `reason: detail`, written by [`Rejection::into_serde`] and read back by
//! [`Rejection::from_decoder`].

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

            /// What the reason means, as one sentence for the documentation.
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
    /// Not MessagePack, cut short, followed by other bytes, or a value of the wrong type.
    Malformed = "malformed";
    /// `v` is not 1.
    UnsupportedVersion = "unsupported_version";
    /// A required key is absent or nil.
    MissingField = "missing_field";
    /// An identifier is not 1 to 128 bytes of `[A-Za-z0-9._:@-]`.
    BadIdentifier = "bad_identifier";
    /// `server.url` has no scheme or host, or its origin is longer than 256 bytes.
    BadUrl = "bad_url";
    /// More than 256 peers.
    TooManyPeers = "too_many_peers";
    /// A number is NaN or infinite.
    NotFinite = "not_finite";
    /// A number is negative, a count is not whole, or `seq` is 0.
    OutOfRange = "out_of_range";
    /// The subject is not `health.diagnostics.{region}.{service_type}.{server_id}`, or names another region.
    BadSubject = "bad_subject";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A frame was refused: the reason for the counter, the detail for the person who reads the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Rejection {
    /// The reason, from the closed vocabulary.
    pub reason: Reason,
    /// What exactly was wrong, without the frame's own text beyond a bounded excerpt.
    pub detail: String,
}

impl Rejection {
    /// A rejection with this reason and detail.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    pub(super) fn into_serde<E: serde::de::Error>(self) -> E {
        E::custom(self)
    }

    /// Reads the rejection back from a decoder's error; what carries no reason of ours is malformed.
    pub(super) fn from_decoder(error: &dyn fmt::Display) -> Self {
        let text = error.to_string();
        let ours = text.split_once(": ").and_then(|(label, detail)| {
            let reason = Reason::ALL.iter().find(|reason| reason.label() == label)?;
            Some(Self::new(*reason, detail))
        });
        ours.unwrap_or_else(|| Self::new(Reason::Malformed, text))
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
    fn any_other_error_is_malformed() {
        let rejection = Rejection::from_decoder(&"invalid type: integer `3`, expected a string");
        assert_eq!(rejection.reason, Reason::Malformed);
        assert_eq!(rejection.detail, "invalid type: integer `3`, expected a string");
    }
}
