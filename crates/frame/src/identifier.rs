//! The identifiers of a call and of who takes part: newtypes, so that a meeting can't be passed for a peer.
//!
//! Invariant: an identifier needs no escaping in labels, subjects and message ids.

use std::fmt;

use super::reject::{Reason, Rejection};

/// Maximum length of an identifier, in bytes.
pub const MAX_IDENTIFIER_BYTES: usize = 128;

fn check(text: &str) -> Result<(), Rejection> {
    if text.is_empty() || text.len() > MAX_IDENTIFIER_BYTES {
        let detail = format!("{} bytes, an identifier has 1 to {MAX_IDENTIFIER_BYTES}", text.len());
        return Err(Rejection::new(Reason::BadIdentifier, detail));
    }
    // Without an early exit the compiler checks many bytes at a time.
    if text.bytes().fold(true, |all, byte| all & is_allowed(byte)) {
        return Ok(());
    }
    let odd = text.bytes().find(|byte| !is_allowed(*byte)).unwrap_or_default().escape_ascii();
    let detail = format!("`{odd}` is not allowed, an identifier has only A-Z a-z 0-9 . _ : @ -");
    Err(Rejection::new(Reason::BadIdentifier, detail))
}

/// `[A-Za-z0-9._:@-]`, without a branch.
const fn is_allowed(byte: u8) -> bool {
    let letter = (byte | 0x20).wrapping_sub(b'a') < 26;
    let digit_or_colon = byte.wrapping_sub(b'0') <= b':' - b'0';
    let hyphen_or_stop = byte.wrapping_sub(b'-') <= b'.' - b'-';
    letter | digit_or_colon | hyphen_or_stop | (byte == b'_') | (byte == b'@')
}

macro_rules! identifiers {
    ($($(#[$doc:meta])+ $name:ident;)+) => {$(
        $(#[$doc])+
        ///
        /// 1 to 128 bytes of `[A-Za-z0-9._:@-]`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
        pub struct $name<'a>(&'a str);

        impl<'a> $name<'a> {
            /// Checks and wraps a text.
            ///
            /// # Errors
            /// [`Reason::BadIdentifier`] when the text is empty, too long or contains another
            /// character.
            pub fn new(text: &'a str) -> Result<Self, Rejection> {
                check(text).map(|()| Self(text))
            }

            /// The text as the client wrote it, which outlives this value.
            #[must_use]
            pub const fn as_str(self) -> &'a str {
                self.0
            }
        }

        impl fmt::Display for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.0)
            }
        }
    )+};
}

identifiers! {
    /// Identifies a call.
    MeetingId;
    /// Identifies one connection of one participant to a call: globally unique, new at each join.
    SessionId;
    /// Identifies a participant, whose connections each have a session of their own.
    PeerId;
    /// Identifies a release of an application.
    App;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_characters_are_those_of_the_specification() {
        for byte in 0..=u8::MAX {
            let allowed = byte.is_ascii_alphanumeric() || b"._:@-".contains(&byte);
            assert_eq!(is_allowed(byte), allowed, "{}", byte.escape_ascii());
        }
    }

    #[test]
    fn the_limits_are_exact() {
        let longest = "x".repeat(MAX_IDENTIFIER_BYTES);
        assert!(PeerId::new(&longest).is_ok());
        assert!(PeerId::new("a.Z_0:@-").is_ok());
        for bad in ["", &format!("{longest}x"), "a b", "a\"b", "a\nb", "ä", "a/b", "a{b", "a*"] {
            let rejection = PeerId::new(bad).unwrap_err();
            assert_eq!(rejection.reason, Reason::BadIdentifier, "{bad:?}");
        }
    }
}
