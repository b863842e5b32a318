//! A page of metrics, read back.
//!
//! Two exporters are compared by what Prometheus would read from them, so their text is parsed. A
//! page may have half a million series of single sessions, of which a comparison needs none: lines
//! are parsed as they arrive, and only aggregates and the exporter's own metrics are kept.
//!
//! Invariant: memory is bounded by the aggregates of a page, not by its length.

use std::collections::BTreeMap;
use std::io;

use callsight_fold::series::catalogue::Metric;

use super::reading;
use crate::insight::quantile::Buckets;

/// Prefixes of the metrics that have a series per session or pair.
const DETAIL: [&str; 2] = ["videocall_session_", "videocall_pair_"];

/// The longest line, in bytes: the limits of a frame bound the values of labels.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// The aggregates of one scrape.
#[derive(Clone, Debug, Default)]
pub(crate) struct MetricsPage {
    samples: Vec<PageSample>,
}

#[derive(Clone, Debug)]
struct PageSample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl From<reading::Sample<'_>> for PageSample {
    fn from(sample: reading::Sample<'_>) -> Self {
        let labels = reading::labels(sample.labels);
        Self {
            name: sample.name.to_owned(),
            labels: labels.map(|(name, value)| (name.to_owned(), value.into_owned())).collect(),
            value: sample.value,
        }
    }
}

/// The text is not an exposition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not a sample of a metric; is this the address of an exporter?")]
pub(crate) struct PageError {
    line: usize,
}

/// Parses a page that is written to it in pieces.
#[derive(Debug, Default)]
pub(crate) struct PageReader {
    page: MetricsPage,
    /// The beginning of a line whose end has not arrived yet.
    rest: Vec<u8>,
    line: usize,
    error: Option<PageError>,
}

impl io::Write for PageReader {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let mut lines = piece.split(|byte| *byte == b'\n');
        let mut current = lines.next().unwrap_or_default();
        for next in lines {
            if self.rest.is_empty() {
                self.line(current);
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend_from_slice(current);
                self.line(&whole);
            }
            current = next;
        }
        if self.rest.len() + current.len() > MAX_LINE_BYTES {
            self.error.get_or_insert(PageError { line: self.line + 1 });
        } else {
            self.rest.extend_from_slice(current);
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl PageReader {
    /// The page, once the text has ended.
    ///
    /// # Errors
    /// The first line that is not a sample.
    pub(crate) fn finish(mut self) -> Result<MetricsPage, PageError> {
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() {
            self.line(&rest);
        }
        self.error.map_or(Ok(self.page), Err)
    }

    fn line(&mut self, line: &[u8]) {
        self.line += 1;
        if self.error.is_some() {
            return;
        }
        let detail = |name: &&str| line.starts_with(name.as_bytes());
        if line.is_empty() || line.starts_with(b"#") || DETAIL.iter().any(detail) {
            return;
        }
        match std::str::from_utf8(line).ok().map(str::trim).and_then(reading::sample) {
            Some(sample) => self.page.samples.push(PageSample::from(sample)),
            None => self.error = Some(PageError { line: self.line }),
        }
    }
}

impl MetricsPage {
    /// The sum over all series that have these labels, among others; `None` if there are none.
    pub(crate) fn sum(&self, metric: &Metric, labels: &[(&str, &str)]) -> Option<f64> {
        self.matching(metric.name, labels).map(|sample| sample.value).reduce(|sum, value| sum + value)
    }

    /// The values of a label in the series of a metric.
    pub(crate) fn label_values(&self, metric: &Metric, label: &str) -> impl Iterator<Item = &str> {
        self.matching(metric.name, &[]).filter_map(move |sample| sample.labels.get(label).map(String::as_str))
    }

    /// Adds the cumulative buckets of a histogram to `buckets`.
    pub(crate) fn add_buckets(&self, metric: &Metric, labels: &[(&str, &str)], buckets: &mut Buckets) {
        for sample in self.matching(&format!("{}_bucket", metric.name), labels) {
            let bound = sample.labels.get("le").and_then(|bound| bound.parse::<f64>().ok());
            if let Some(bound) = bound.filter(|bound| !bound.is_nan()) {
                buckets.add(bound, sample.value);
            }
        }
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &PageSample> {
        let has = |sample: &PageSample, (label, value): &(&str, &str)| {
            sample.labels.get(*label).is_some_and(|found| found == value)
        };
        self.samples
            .iter()
            .filter(move |sample| sample.name == name && labels.iter().all(|label| has(sample, label)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

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

    fn read(text: &str, piece: usize) -> Result<MetricsPage, PageError> {
        let mut reader = PageReader::default();
        text.as_bytes().chunks(piece).for_each(|piece| reader.write_all(piece).unwrap());
        reader.finish()
    }

    #[test]
    fn a_page_is_the_same_in_whatever_pieces_it_comes() {
        for piece in [1, 7, 64, 10_000] {
            let page = read(TEXT, piece).unwrap();
            assert_eq!(page.samples.len(), 8, "no session's series is kept");
            assert_eq!(page.sum(&SESSIONS, &[("region", "us")]), Some(7.0));
            assert_eq!(page.sum(&SESSIONS, &[("region", "apac")]), None);
            let regions: Vec<_> = page.label_values(&SESSIONS, "region").collect();
            assert_eq!(regions, ["us", "us"]);
        }
    }

    #[test]
    fn buckets_add_up_over_the_servers_that_match() {
        let page = read(TEXT, 100).unwrap();
        let of = |labels: &[(&str, &str)]| {
            let mut buckets = Buckets::default();
            page.add_buckets(&RTT, labels, &mut buckets);
            buckets
        };
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
            assert_eq!(read(text, 50).unwrap_err(), PageError { line }, "{text:.20}");
        }
        assert!(read("", 1).is_ok());
    }
}
