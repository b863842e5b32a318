//! The text exposition (0.0.4), parsed: names, labels, values.

use std::collections::{BTreeMap, BTreeSet};

/// The labels of one series.
pub(crate) type Labels = BTreeMap<String, String>;

/// One page of `/metrics`, in the order of its lines.
#[derive(Debug)]
pub(crate) struct Scrape {
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    name: String,
    labels: Labels,
    value: f64,
}

impl Scrape {
    /// # Panics
    ///
    /// On a line that is neither sample nor comment nor blank, with the line.
    pub(crate) fn parse(text: &str) -> Self {
        let samples = text
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
            .map(|line| sample(line).unwrap_or_else(|| panic!("not a sample: {line:?}")))
            .collect();
        Self { samples }
    }

    /// The value of the series that has these labels, and perhaps others.
    ///
    /// # Panics
    ///
    /// If there is more than one: use [`Self::sum`] or more labels.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let found: Vec<_> = self.matching(name, labels).collect();
        assert!(found.len() <= 1, "{name}{labels:?} is ambiguous: {found:#?}");
        found.first().map(|sample| sample.value)
    }

    /// The sum over all series that have these labels; zero if there are none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|sample| sample.value).sum()
    }

    /// Whether any series has these labels, and perhaps others.
    pub(crate) fn any(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.matching(name, labels).next().is_some()
    }

    /// All series of a name, with their labels.
    pub(crate) fn series(&self, name: &str) -> Vec<(Labels, f64)> {
        self.matching(name, &[]).map(|sample| (sample.labels.clone(), sample.value)).collect()
    }

    /// The number of series.
    pub(crate) fn len(&self) -> usize {
        self.samples.len()
    }

    /// The values of a label, with the number of series of each.
    pub(crate) fn values_of(&self, label: &str) -> BTreeMap<&str, usize> {
        let mut values = BTreeMap::new();
        for value in self.samples.iter().filter_map(|sample| sample.labels.get(label)) {
            *values.entry(value.as_str()).or_default() += 1;
        }
        values
    }

    /// The names that have at least one series (of a histogram: with `_bucket`, `_sum`, `_count`).
    pub(crate) fn names(&self) -> BTreeSet<&str> {
        self.samples.iter().map(|sample| sample.name.as_str()).collect()
    }

    fn matching<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|&(label, value)| sample.labels.get(label).map(String::as_str) == Some(value))
        })
    }
}

/// `name{label="value",…} value [timestamp]`.
fn sample(line: &str) -> Option<Sample> {
    let end = line.find(|c: char| c == '{' || c.is_ascii_whitespace())?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Labels::new(), rest),
    };
    let mut fields = rest.split_ascii_whitespace();
    let value = fields.next()?.parse().ok()?;
    let timestamp_or_end = fields.next().is_none_or(|timestamp| timestamp.parse::<i64>().is_ok());
    (timestamp_or_end && fields.next().is_none() && !name.is_empty()).then(|| Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// The labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(Labels, &str)> {
    let mut labels = Labels::new();
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (label, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        labels.insert(label.trim().to_owned(), value).is_none().then_some(())?;
        rest = after;
    }
}

/// A label's value up to its closing quote, unescaped, and what follows the quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    loop {
        match characters.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => value.push(match characters.next()?.1 {
                'n' => '\n',
                escaped @ ('\\' | '"') => escaped,
                _ => return None,
            }),
            (_, character) => value.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
# HELP rtt How long.
# TYPE rtt histogram
rtt_bucket{region="us",le="0.1"} 3
rtt_bucket{region="us",le="+Inf"} 4
rtt_sum{region="us"} 0.75
up 1 1700000000000
age{region="us",} NaN
limit{} +Inf
odd{text="a \"quote\", a \\ and a\nline",brace="}"} -1.5e3
frames_total{region="us",reason="late"} 2
frames_total{region="apac",reason="late"} 5
"#;

    #[test]
    fn finds_a_value_by_some_of_its_labels() {
        let scrape = Scrape::parse(TEXT);
        assert_eq!(scrape.value("frames_total", &[("region", "apac")]), Some(5.0));
        assert_eq!(scrape.value("frames_total", &[("region", "eu")]), None);
        assert_eq!(scrape.value("up", &[]), Some(1.0));
        assert_eq!(scrape.value("up", &[("region", "us")]), None);
        assert_eq!(scrape.value("rtt_bucket", &[("le", "+Inf")]), Some(4.0));
        assert_eq!(scrape.value("limit", &[]), Some(f64::INFINITY));
        assert!(scrape.value("age", &[]).unwrap().is_nan());
    }

    #[test]
    fn sums_and_lists() {
        let scrape = Scrape::parse(TEXT);
        assert!((scrape.sum("frames_total", &[("reason", "late")]) - 7.0).abs() < f64::EPSILON);
        assert!(scrape.sum("frames_total", &[("reason", "early")]).abs() < f64::EPSILON);
        let regions: Vec<_> =
            scrape.series("frames_total").into_iter().map(|(labels, _)| labels["region"].clone()).collect();
        assert_eq!(regions, ["us", "apac"]);
        let names = ["age", "frames_total", "limit", "odd", "rtt_bucket", "rtt_sum", "up"];
        assert!(scrape.names().into_iter().eq(names));
        assert_eq!(scrape.len(), 9);
        assert_eq!(scrape.values_of("region"), BTreeMap::from([("us", 5), ("apac", 1)]));
    }

    #[test]
    fn unescapes_label_values() {
        let (labels, value) = Scrape::parse(TEXT).series("odd").remove(0);
        assert_eq!(labels["text"], "a \"quote\", a \\ and a\nline");
        assert_eq!(labels["brace"], "}");
        assert!((value + 1500.0).abs() < f64::EPSILON);
    }

    #[test]
    #[should_panic(expected = "is ambiguous")]
    fn refuses_to_choose() {
        Scrape::parse(TEXT).value("frames_total", &[("reason", "late")]);
    }

    #[test]
    fn refuses_what_is_no_sample() {
        for line in [
            "up",
            "up one",
            "{} 1",
            "up{a=\"1\" 1",
            "up{a=1} 1",
            "up{a=\"\\t\"} 1",
            "up 1 2 3",
            "up{a=\"1\",a=\"2\"} 1",
        ] {
            assert!(sample(line).is_none(), "{line}");
        }
    }
}
