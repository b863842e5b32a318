//! Reads the page of another exporter: samples by line, labels by name.
//!
//! A rollout compares two exporters, of which it has the pages alone. A page has lines of any
//! writer, in any order of labels, so this is a general parser; readers of this process's own
//! series take typed values from the recorders instead.
//!
//! Invariant: a line that is not a valid sample yields nothing, and never a wrong one.

use std::borrow::Cow;

use callsight_fold::series::labels::take_value;

/// A line of the exposition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample<'a> {
    /// The name of the series, with `_bucket` and the like.
    pub(super) name: &'a str,
    /// Its labels, escaped, without braces.
    pub(super) labels: &'a str,
    pub(super) value: f64,
}

/// A line that is a sample: `name{label="value",…} value [timestamp]`.
pub(super) fn sample(line: &str) -> Option<Sample<'_>> {
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
pub(super) fn labels(text: &str) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (name, value, after) = next_label(rest)?;
        rest = after;
        Some((name, value))
    })
}

/// The name and the value of the first label, and the text after it.
fn next_label(text: &str) -> Option<(&str, Cow<'_, str>, &str)> {
    let (name, after) = text.trim_start_matches([' ', ',']).split_once("=\"")?;
    let (value, after) = take_value(after)?;
    Some((name.trim_end(), value, after))
}

/// The offset of the brace that ends the labels; a brace in a value does not count.
fn closing_brace(text: &str) -> Option<usize> {
    let mut rest = text;
    while !rest.trim_start_matches([' ', ',']).starts_with('}') {
        (_, _, rest) = next_label(rest)?;
    }
    Some(text.len() - rest.trim_start_matches([' ', ',']).len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_and_the_rest_is_passed_over() {
        let text = "# HELP a Help.\n# TYPE a gauge\na 1.5\n\nb_bucket{region=\"us\",le=\"+Inf\"} 3\nc{} NaN\nbroken\n";
        let found: Vec<_> = text.lines().filter_map(sample).collect();
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
    }
}
