//! Labels, kept as the text that a page shows and read back by value.
//!
//! A scrape writes the labels of a row once for each of its series, so a row keeps them as text.
//! Readers inside the process want their values. The names and their order are those of the
//! catalogue, so a value is found by walking over names that are known, and borrowed from the text
//! unless it had to be escaped.
//!
//! Invariant: [`Labels`] yields the values that the text was written from.

use std::borrow::Cow;

/// Declares closed sets of words, each with the text that it has as a label and in settings.
macro_rules! vocabulary {
    ($($(#[$doc:meta])+ $vis:vis $name:ident { $($(#[$meaning:meta])+ $word:ident = $text:literal,)+ })+) => {$(
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        $vis enum $name { $($(#[$meaning])+ $word,)+ }

        impl $name {
            /// All of them, in their order.

            $vis const ALL: [Self; [$($text),+].len()] = [$(Self::$word),+];

            /// The text of a label or of a setting.
            #[must_use]
            $vis const fn label(self) -> &'static str {
                match self { $(Self::$word => $text,)+ }
            }
        }
    )+};
}
pub(crate) use vocabulary;

/// The labels of one series, or of all series of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labels<'a> {
    names: &'static [&'static str],
    text: &'a str,
}

impl<'a> Labels<'a> {
    /// Labels with these names in this order, from the text that [`Self::text`] returned.
    #[must_use]
    pub const fn new(names: &'static [&'static str], text: &'a str) -> Self {
        Self { names, text }
    }

    /// `name="value",…`, escaped, without braces.
    #[must_use]
    pub const fn text(self) -> &'a str {
        self.text
    }

    /// The names and values, in the order of the catalogue.
    pub fn iter(self) -> impl Iterator<Item = (&'static str, Cow<'a, str>)> {
        let mut rest = self.text;
        self.names.iter().map_while(move |name| {
            let value = rest.strip_prefix(',').unwrap_or(rest).get(name.len() + "=\"".len()..)?;
            let (value, after) = take_value(value)?;
            rest = after;
            Some((*name, value))
        })
    }

    /// The values, in the order of the catalogue. Labels beyond the last name are empty.
    #[must_use]
    pub fn values<const N: usize>(self) -> [Cow<'a, str>; N] {
        let mut values = self.iter().map(|(_, value)| value);
        std::array::from_fn(|_| values.next().unwrap_or_default())
    }

    /// The value of one label.
    #[must_use]
    pub fn get(self, name: &str) -> Option<Cow<'a, str>> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

/// Writes labels as `name="value",…`, escaped, without braces.
pub(super) fn render<'a>(labels: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Box<str> {
    let length: usize = labels.clone().map(|(name, value)| name.len() + value.len() + 4).sum();
    let mut text = String::with_capacity(length);
    for (name, value) in labels {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        // Identifiers never need escaping, and most values are identifiers.
        if value.bytes().any(|byte| matches!(byte, b'\\' | b'"' | b'\n')) {
            for character in value.chars() {
                match character {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    other => text.push(other),
                }
            }
        } else {
            text.push_str(value);
        }
        text.push('"');
    }
    text.into_boxed_str()
}

/// Splits an escaped value at its closing quote: the value unescaped, and the text after the quote.
/// `None` without a closing quote.
#[must_use]
pub fn take_value(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let (mut escaped, mut plain) = (false, true);
    let end = text.bytes().position(|byte| {
        let closing = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        plain &= byte != b'\\';
        closing
    })?;
    let value = &text[..end];
    let value = if plain { Cow::Borrowed(value) } else { Cow::Owned(unescape(value)) };
    Some((value, &text[end + 1..]))
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '\\' => match characters.next() {
                Some('n') => '\n',
                Some(other) => other,
                None => '\\',
            },
            other => other,
        });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[&str] = &["region", "odd", "empty", "brace"];

    #[test]
    fn labels_come_back_as_they_went_in() {
        let values = ["us", "a \"quote\", a \\ and a\nline", "", "}"];
        let text = render(NAMES.iter().copied().zip(values));
        assert_eq!(&*text, r#"region="us",odd="a \"quote\", a \\ and a\nline",empty="",brace="}""#);
        let labels = Labels::new(NAMES, &text);
        assert_eq!(labels.values(), values.map(Cow::Borrowed));
        assert_eq!(labels.iter().map(|(name, _)| name).collect::<Vec<_>>(), NAMES);
        assert_eq!(labels.get("brace").as_deref(), Some("}"));
        assert_eq!(labels.get("none"), None);
        assert!(matches!(labels.get("region"), Some(Cow::Borrowed("us"))));
        assert_eq!(Labels::new(&[], "").values::<1>(), [""]);
    }
}
