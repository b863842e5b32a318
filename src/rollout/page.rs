//! A page of metrics, read back.
//!
//! Two exporters are compared by what Prometheus would read from them, so their text is parsed. A
//! page has lines of any writer, in any order of labels, and may have half a million series of
//! single sessions, of which a comparison needs none: lines are parsed as they arrive, and only
//! aggregates and the exporter's own metrics are kept, summed by what is compared. Readers of this
//! process's own series take typed values from the recorders instead.
//!
//! Invariant: memory is bounded whatever a page holds, and a line that is not a valid sample is an
//! error.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, BufRead, BufReader, Read};

use callsight_fold::series::catalogue::Metric;
use callsight_fold::series::labels::take_value;

use crate::insight::quantile::Buckets;

/// Prefixes of the metrics that have a series per session or pair.
const DETAIL: [&str; 2] = ["videocall_session_", "videocall_pair_"];

/// The longest line, in bytes: the limits of a frame bound the values of labels.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// The labels that are compared by. Values add up over all others, such as servers.
const KEPT: [&str; 4] = ["le", "plane", "region", "version"];

/// How much text the kept series may have, in bytes, and what each of them counts for at least. A
/// region has some 200 series.
const MAX_KEPT_BYTES: usize = 4 << 20;
const SERIES_BYTES: usize = 200;

/// Name, with `_bucket` and the like, and labels.
type Series = (String, BTreeMap<String, String>);

/// The aggregates of one scrape, or of one of each shard.
#[derive(Clone, Debug, Default)]
pub(crate) struct MetricsPage {
    series: BTreeMap<Series, f64>,
}

/// The text is not an exposition of an exporter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PageError {
    #[error("line {0} is not a sample of a metric")]
    Line(usize),
    #[error("line {0} is one series too many: no exporter has so many regions")]
    TooMany(usize),
}

impl MetricsPage {
    /// Reads a text to its end, or to the first line that is not a sample.
    pub(crate) fn read(text: impl Read) -> io::Result<Result<Self, PageError>> {
        let (mut text, mut page, mut line) = (BufReader::new(text), Self::default(), Vec::new());
        let mut kept = 0;
        for number in 1.. {
            line.clear();
            if (&mut text).take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let text = std::str::from_utf8(&line).ok().filter(|line| line.len() <= MAX_LINE_BYTES);
            let Some(text) = text else { return Ok(Err(PageError::Line(number))) };
            if text.starts_with('#') || text == "\n" || DETAIL.iter().any(|prefix| text.starts_with(prefix)) {
                continue;
            }
            let Some(((name, mut labels), value)) = sample(text) else {
                return Ok(Err(PageError::Line(number)));
            };
            labels.retain(|label, _| KEPT.contains(&label.as_str()));
            let bytes = SERIES_BYTES + name.len() + labels.values().map(String::len).sum::<usize>();
            match page.series.entry((name, labels)) {
                Entry::Occupied(mut entry) => *entry.get_mut() += value,
                Entry::Vacant(entry) => {
                    kept += bytes;
                    entry.insert(value);
                }
            }
            if kept > MAX_KEPT_BYTES {
                return Ok(Err(PageError::TooMany(number)));
            }
        }
        Ok(Ok(page))
    }

    /// Adds another shard's series, whose values add up.
    pub(crate) fn append(&mut self, shard: Self) {
        for (series, value) in shard.series {
            *self.series.entry(series).or_default() += value;
        }
    }

    /// The sum over all series that have these labels, among others; `None` if there are none.
    pub(crate) fn sum(&self, metric: &Metric, labels: &[(&str, &str)]) -> Option<f64> {
        self.matching(metric.name, labels).map(|(_, value)| value).reduce(|sum, value| sum + value)
    }

    /// The values of a label in the series of a metric.
    pub(crate) fn label_values(&self, metric: &Metric, label: &str) -> impl Iterator<Item = &str> {
        self.matching(metric.name, &[]).filter_map(move |(labels, _)| labels.get(label).map(String::as_str))
    }

    /// The sum over a histogram's series that have these labels, among others.
    pub(crate) fn buckets(&self, metric: &Metric, labels: &[(&str, &str)]) -> Buckets {
        let mut buckets = Buckets::default();
        for (labels, count) in self.matching(&format!("{}_bucket", metric.name), labels) {
            let bound = labels.get("le").and_then(|bound| bound.parse::<f64>().ok());
            if let Some(bound) = bound.filter(|bound| !bound.is_nan()) {
                buckets.add(bound, count);
            }
        }
        buckets
    }

    fn matching(
        &self,
        name: &str,
        labels: &[(&str, &str)],
    ) -> impl Iterator<Item = (&BTreeMap<String, String>, f64)> {
        let has = |of: &BTreeMap<String, String>, (label, value): &(&str, &str)| {
            of.get(*label).is_some_and(|found| found == value)
        };
        self.series
            .iter()
            .filter(move |((of, own), _)| of == name && labels.iter().all(|label| has(own, label)))
            .map(|((_, labels), value)| (labels, *value))
    }
}

/// A line that is a sample: `name{label="value",…} value [timestamp]`.
fn sample(line: &str) -> Option<(Series, f64)> {
    let end = line.find(|c: char| c == '{' || c.is_ascii_whitespace())?;
    let (name, mut rest) = line.split_at(end);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':');
    if name.is_empty() || !name.bytes().all(plain) {
        return None;
    }
    let mut labels = BTreeMap::new();
    if let Some(mut inside) = rest.strip_prefix('{') {
        rest = loop {
            inside = inside.trim_start_matches([' ', ',']);
            if let Some(after) = inside.strip_prefix('}') {
                break after;
            }
            let (label, after) = inside.split_once("=\"")?;
            let (value, after) = take_value(after)?;
            labels.insert(label.trim_end().to_owned(), value.into_owned());
            inside = after;
        };
    }
    let mut fields = rest.split_ascii_whitespace();
    let value = fields.next()?.parse().ok()?;
    let timestamp_or_end = fields.next().is_none_or(|timestamp| timestamp.parse::<f64>().is_ok());
    let sample = ((name.to_owned(), labels), value);
    (timestamp_or_end && fields.next().is_none()).then_some(sample)
}

#[cfg(test)]
mod tests {
    use callsight_fold::series::catalogue::{RTT, SESSIONS};

    use super::*;

    const TEXT: &str = r#"# HELP videocall_rtt_seconds How long.
# TYPE videocall_rtt_seconds histogram
videocall_rtt_seconds_bucket{region="us",server_url="a \"b\", c}",le="0.1"} 60
videocall_rtt_seconds_bucket{region="us",server_url="a \"b\", c}",le="0.2"} 100
videocall_rtt_seconds_bucket{region="us",server_url="a \"b\", c}",le="+Inf"} 100
videocall_rtt_seconds_bucket{region="apac",server_url="x",le="0.1"} 0
videocall_rtt_seconds_bucket{region="apac",server_url="x",le="+Inf"} 7
videocall_session_rtt_seconds{region="us",session_id="s1"} 1
videocall_sessions{region="us",server_url="x"} 3
videocall_sessions{region="us",server_url="y"} 4 1700000000000
callsight_last_folded_frame_age_seconds{region="us"} NaN
"#;

    /// Reads a text that arrives in pieces.
    fn read(text: &str, piece: usize) -> Result<MetricsPage, PageError> {
        struct Pieces<'a>(std::slice::Chunks<'a, u8>);
        impl Read for Pieces<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0.next().map_or(Ok(0), |mut piece| piece.read(buffer))
            }
        }
        MetricsPage::read(Pieces(text.as_bytes().chunks(piece))).unwrap()
    }

    #[test]
    fn a_page_is_the_same_in_whatever_pieces_it_comes() {
        for piece in [1, 7, 64, 8_000] {
            let page = read(TEXT, piece).unwrap();
            assert_eq!(page.series.len(), 7, "no session's series is kept, nor one for each server");
            assert_eq!(page.sum(&SESSIONS, &[("region", "us")]), Some(7.0));
            assert_eq!(page.sum(&SESSIONS, &[("region", "apac")]), None);
            let regions: Vec<_> = page.label_values(&SESSIONS, "region").collect();
            assert_eq!(regions, ["us"]);
        }
    }

    #[test]
    fn a_sample_is_read_with_all_that_it_may_have() {
        let text = r#"a:b{brace="}", odd="a \"quote\", a \\ and a\nline",empty="",} -1.5e3 1700000000000"#;
        let odd = sample(text).unwrap();
        let ((name, labels), value) = odd;
        assert_eq!((&*name, value), ("a:b", -1500.0));
        let labels: Vec<_> = labels.iter().map(|(name, value)| (&**name, &**value)).collect();
        let expected = [("brace", "}"), ("empty", ""), ("odd", "a \"quote\", a \\ and a\nline")];
        assert_eq!(labels, expected);
        assert!(sample("c{} NaN").unwrap().1.is_nan());
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
    fn buckets_add_up_over_the_servers_that_match() {
        let page = read(TEXT, 100).unwrap();
        let of = |labels: &[(&str, &str)]| page.buckets(&RTT, labels);
        let us = of(&[("region", "us")]);
        assert_eq!((us.count(), us.quantile(0.3)), (100.0, Some(0.05)));
        assert_eq!(of(&[]).since(&us).unwrap().count(), 7.0);
        assert_eq!(of(&[("region", "eu")]).quantile(0.95), None);
    }

    #[test]
    fn what_is_no_page_is_refused_by_its_line() {
        for (text, line) in [
            ("<html>\n", 1),
            ("a 1\n\nb\n", 3),
            ("a{b=\"c} 1", 1),
            ("a 1 2 3", 1),
            ("a one", 1),
            (&"x".repeat(MAX_LINE_BYTES + 1), 1),
        ] {
            assert_eq!(read(text, 50).unwrap_err(), PageError::Line(line), "{text:.20}");
        }
        assert!(read("", 1).is_ok());
    }

    #[test]
    fn a_million_series_cost_no_more_than_is_kept() {
        let lines = |of: fn(u32) -> String| (0..1_000_000).map(of).collect::<String>();
        let servers =
            lines(|number| format!("videocall_sessions{{region=\"us\",server_url=\"{number}\"}} 1\n"));
        let page = read(&servers, 8_000).unwrap();
        assert_eq!((page.series.len(), page.sum(&SESSIONS, &[("region", "us")])), (1, Some(1e6)));
        let regions = lines(|number| format!("videocall_sessions{{region=\"{number}\"}} 1\n"));
        let names = lines(|number| format!("name_{number} 1\n"));
        for text in [regions, names] {
            let error = read(&text, 8_000).unwrap_err();
            assert!(matches!(error, PageError::TooMany(10_000..100_000)), "{error}");
        }
    }
}
