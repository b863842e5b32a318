//! Reading back what the exposition writes: samples by line, labels by name.
//!
//! The aggregates are kept by a library that hands them out as text alone, and a detail row keeps
//! its labels as the text that a scrape needs. Who wants numbers of them inside this process reads
//! that text again, without copying it.

use std::borrow::Cow;

/// A line of the exposition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample<'a> {
    /// The name of the series, with `_bucket` and the like.
    pub name: &'a str,
    /// Its labels, escaped, without braces.
    pub labels: &'a str,
    /// Its value.
    pub value: f64,
}

/// The samples of a text in format 0.0.4, which is what this process writes. Other lines are passed
/// over.
pub fn samples(text: &str) -> impl Iterator<Item = Sample<'_>> {
    text.lines().filter_map(sample)
}

/// A line that is a sample: `name{label="value",…} value [timestamp]`.
#[must_use]
pub fn sample(line: &str) -> Option<Sample<'_>> {
    let end = line.find(|c: char| c == '{' || c.is_ascii_whitespace())?;
    let (name, rest) = line.split_at(end);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':');
    if name.is_empty() || !name.bytes().all(plain) {
        return None;
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => rest.split_at_checked(closing_brace(rest)?)?,
        None => ("", rest),
    };
    let mut fields = rest.strip_prefix('}').unwrap_or(rest).split_ascii_whitespace();
    let value = fields.next()?.parse().ok()?;
    let timestamp_or_end = fields.next().is_none_or(|timestamp| timestamp.parse::<f64>().is_ok());
    (timestamp_or_end && fields.next().is_none()).then_some(Sample { name, labels, value })
}

/// The labels of a series, in their order, unescaped.
pub fn labels(text: &str) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (name, value, after) = next_label(rest)?;
        rest = after;
        Some((name, unescape(value)))
    })
}

/// The name and the value of the first label, escaped, and what follows it.
fn next_label(text: &str) -> Option<(&str, &str, &str)> {
    let (name, after) = text.trim_start_matches([' ', ',']).split_once("=\"")?;
    let end = closing_quote(after)?;
    Some((name.trim_end(), &after[..end], &after[end + 1..]))
}

/// Where the labels end: a brace in a value does not count.
fn closing_brace(text: &str) -> Option<usize> {
    let mut rest = text;
    while !rest.trim_start_matches([' ', ',']).starts_with('}') {
        (_, _, rest) = next_label(rest)?;
    }
    Some(text.len() - rest.trim_start_matches([' ', ',']).len())
}

/// The value of one label.
#[must_use]
pub fn label<'a>(text: &'a str, name: &str) -> Option<Cow<'a, str>> {
    labels(text).find(|(known, _)| *known == name).map(|(_, value)| value)
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closing = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closing
    })
}

fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
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
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_and_the_rest_is_passed_over() {
        let text = "# HELP a Help.\n# TYPE a gauge\na 1.5\n\nb_bucket{region=\"us\",le=\"+Inf\"} 3\nc{} NaN\nbroken\n";
        let found: Vec<_> = samples(text).collect();
        assert_eq!(
            found[..2],
            [
                Sample { name: "a", labels: "", value: 1.5 },
                Sample { name: "b_bucket", labels: "region=\"us\",le=\"+Inf\"", value: 3.0 },
            ]
        );
        assert!(found.len() == 3 && found[2].value.is_nan());
    }

    #[test]
    fn a_sample_is_read_with_all_that_it_may_have() {
        let odd = sample(r#"a:b{brace="}", odd="\"",} -1.5e3 1700000000000"#).unwrap();
        assert_eq!((odd.name, odd.value), ("a:b", -1500.0));
        assert_eq!(labels(odd.labels).map(|(name, _)| name).collect::<Vec<_>>(), ["brace", "odd"]);
        for broken in [
            "",
            "a",
            "{} 1",
            "a-b 1",
            "a one",
            "a 1 2 3",
            "a 1 then",
            "a{b=\"c} 1",
            "a{b=c} 1",
            "a{b=\"c\" 1",
        ] {
            assert_eq!(sample(broken), None, "{broken}");
        }
    }

    #[test]
    fn labels_come_back_as_they_went_in() {
        let text = r#"region="us",odd="a \"quote\", a \\ and a\nline",empty="",brace="}""#;
        let found: Vec<_> = labels(text).map(|(name, value)| (name, value.into_owned())).collect();
        let expected =
            [("region", "us"), ("odd", "a \"quote\", a \\ and a\nline"), ("empty", ""), ("brace", "}")];
        assert_eq!(found, expected.map(|(name, value)| (name, value.to_owned())));
        assert_eq!(label(text, "brace").as_deref(), Some("}"));
        assert_eq!(label(text, "none"), None);
        assert!(matches!(label(text, "region"), Some(Cow::Borrowed("us"))));
    }
}
