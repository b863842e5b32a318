//! The texts of a frame that its packet does not have: identifiers of people that do not show them,
//! and addresses that are made.
//!
//! Invariant: neither memory nor identifiers depend on how many people there have been.

use std::collections::HashMap;

use super::super::MAX_IDENTIFIER_BYTES;
use super::super::identifier::hidden_identifier_of;

/// A text of the frame.
#[derive(Clone, Copy)]
pub(super) enum Text<'a> {
    OfMessage(&'a str),
    /// From one position of [`PacketReader::texts`] to another.
    Made(usize, usize),
}

impl<'a> Text<'a> {
    pub(super) fn of(self, texts: &'a str) -> &'a str {
        match self {
            Self::OfMessage(text) => text,
            Self::Made(from, to) => texts.get(from..to).unwrap_or_default(),
        }
    }
}

/// Makes identifiers that do not show their text.
///
/// A hash takes longer than all the rest of a peer, and the same few people are in packet after
/// packet. So the identifiers of the last people are kept, in two generations: when the recent one
/// is full, it becomes the old one, and those who are met again return from there.
#[derive(Default)]
pub(super) struct HiddenIdentifiers {
    recent: HashMap<Box<[u8]>, Box<str>>,
    old: HashMap<Box<[u8]>, Box<str>>,
}

impl HiddenIdentifiers {
    /// How many identifiers a generation has at most: some 100 bytes each.
    const GENERATION: usize = 8192;

    /// A longer text is hashed each time, so that a stranger can't fill the memory.
    const LONGEST: usize = MAX_IDENTIFIER_BYTES;

    /// An identifier of a person, from an e-mail address, a name or a number.
    pub(super) fn person<'a>(&mut self, text: &'a [u8], texts: &mut String) -> Text<'a> {
        match std::str::from_utf8(text) {
            Ok(number) if is_session_number(number) => Text::OfMessage(number),
            _ => self.hide(text, texts),
        }
    }

    /// An identifier of a session. Until its relay gives it a number, a client calls its session
    /// `session_{seconds}`, as do all that come in the same second: with the participant it is
    /// unique. Anything else is a name.
    pub(super) fn session<'a>(&mut self, text: &'a str, peer_id: &Text<'_>, texts: &mut String) -> Text<'a> {
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && text.len() <= 20;
        if is_number(text) {
            return Text::OfMessage(text);
        }
        if !text.strip_prefix("session_").is_some_and(|seconds| !seconds.is_empty() && is_number(seconds)) {
            return self.hide(text.as_bytes(), texts);
        }
        let from = texts.len();
        texts.push_str(text);
        texts.push(':');
        match *peer_id {
            Text::OfMessage(number) => texts.push_str(number),
            Text::Made(from, to) => texts.extend_from_within(from..to),
        }
        Text::Made(from, texts.len())
    }

    /// [`hidden_identifier_of`] the text, written to the end of `texts`.
    pub(super) fn hide<'a>(&mut self, text: &[u8], texts: &mut String) -> Text<'a> {
        let from = texts.len();
        if let Some(identifier) = self.recent.get(text) {
            texts.push_str(identifier);
        } else if text.len() > Self::LONGEST {
            texts.push_str(&hidden_identifier_of(text));
        } else {
            let (text, identifier) = self
                .old
                .remove_entry(text)
                .unwrap_or_else(|| (text.into(), hidden_identifier_of(text).into()));
            texts.push_str(&identifier);
            if self.recent.len() == Self::GENERATION {
                self.old = std::mem::take(&mut self.recent);
            }
            self.recent.insert(text, identifier);
        }
        Text::Made(from, texts.len())
    }
}

/// Whether a text is the number that a relay gives a session: 64 random bits. It need not be
/// hidden, and a telephone number, which must be, has at most 15 digits.
fn is_session_number(text: &str) -> bool {
    (16..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_of_a_crowd_are_forgotten_and_those_in_use_are_not() {
        let mut hidden = HiddenIdentifiers::default();
        let mut texts = String::new();
        let long = "x".repeat(HiddenIdentifiers::LONGEST + 1);
        for number in 0..5 * HiddenIdentifiers::GENERATION {
            texts.clear();
            for text in ["ana@example.com", &long, &format!("user-{number}")] {
                let identifier = hidden.hide(text.as_bytes(), &mut texts);
                assert_eq!(identifier.of(&texts), hidden_identifier_of(text));
            }
            let HiddenIdentifiers { recent, old } = &hidden;
            assert!(recent.len().max(old.len()) <= HiddenIdentifiers::GENERATION);
            let keeps = |text: &str| [recent, old].iter().any(|kept| kept.contains_key(text.as_bytes()));
            assert!(keeps("ana@example.com") && !keeps(&long));
        }
    }
}
