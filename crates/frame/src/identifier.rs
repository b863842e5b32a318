//! The identifiers of a call: newtypes, so that a meeting can't be passed for a peer.
//!
//! Invariant: an identifier needs no escaping in labels, subjects and message ids.

use std::borrow::Cow;
use std::fmt::{self, Write};

use sha2::{Digest, Sha256};

use super::quick::Blank;
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

/// Whether a text is an identifier.
pub(super) fn is_identifier(text: &str) -> bool {
    check(text).is_ok()
}

/// An identifier for any text, the same in every language.
///
/// A text that is an identifier already stays as it is. Any other, also an empty one, becomes `id-`
/// and the first 32 hexadecimal digits, in lower case, of the SHA-256 of its UTF-8 bytes: stable,
/// and irreversible unless the text can be guessed.
///
/// An e-mail address is mostly an identifier already, so it stays readable, and so do short names:
/// [`hidden_identifier_of`] shows neither.
///
/// ```
/// use callsight_frame::identifier_of;
///
/// assert_eq!(identifier_of("ana@example.com"), "ana@example.com");
/// assert_eq!(identifier_of("Ana María"), "id-8358ed271ba38466c055b29ed165b5c6");
/// ```
#[must_use]
pub fn identifier_of(text: &str) -> Cow<'_, str> {
    if is_identifier(text) { Cow::Borrowed(text) } else { Cow::Owned(hidden_identifier_of(text)) }
}

/// An identifier for a text that must not be read in labels, the same in every language.
///
/// It is `id-` and the first 32 hexadecimal digits, in lower case, of the SHA-256 of the text's
/// bytes, whatever the text is. Whoever can guess the text can verify the guess: hash an address
/// with a secret key (HMAC) first if its owner must stay unknown to those who see the labels.
///
/// ```
/// use callsight_frame::hidden_identifier_of;
///
/// assert_eq!(hidden_identifier_of("ana@example.com"), "id-8e43ca37701228e74983efdbd0cff5c1");
/// ```
#[must_use]
pub fn hidden_identifier_of(text: impl AsRef<[u8]>) -> String {
    let mut identifier = String::from("id-");
    for byte in &Sha256::digest(text)[..16] {
        // Writing to a String never fails.
        let _ = write!(identifier, "{byte:02x}");
    }
    identifier
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

        impl Blank for $name<'_> {
            fn blank() -> Self {
                Self("")
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
    fn any_text_has_an_identifier() {
        let longest = "x".repeat(MAX_IDENTIFIER_BYTES);
        for kept in ["bo", "ana@example.com", "id-x", &longest] {
            assert!(matches!(identifier_of(kept), Cow::Borrowed(text) if text == kept), "{kept}");
        }
        assert_eq!(identifier_of(""), "id-e3b0c44298fc1c149afbf4c8996fb924");
        assert_eq!(identifier_of("a b"), "id-c8687a08aa5d6ed2044328fa6a697ab8");
        for other in ["ä", "a\0", &format!("{longest}x")] {
            let identifier = identifier_of(other);
            assert!(PeerId::new(&identifier).is_ok(), "{identifier}");
            assert_eq!(identifier.len(), 35);
            assert_eq!(identifier_of(&identifier), identifier, "an identifier stays");
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
