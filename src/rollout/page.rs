//! A page of metrics, read back.
//!
//! What two exporters say is compared as Prometheus would read it, so it is read from the same text. A page may have
//! half a million series of single sessions, of which a comparison needs none: lines are looked at as they come in, and
//! only aggregates and the exporter's own are kept.

use std::collections::BTreeMap;
use std::io;

use callsight_fold::series::reading;

/// Beginnings of the names that are passed over: a series a session or pair.
const DETAIL: [&str; 2] = ["videocall_session_", "videocall_pair_"];

/// The longest line: a label's value is bounded by the frame's limits.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// What one scrape said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl From<reading::Sample<'_>> for Sample {
    fn from(sample: reading::Sample<'_>) -> Self {
        let labels = reading::labels(sample.labels);
        Self {
            name: sample.name.to_owned(),
            labels: labels.map(|(name, value)| (name.to_owned(), value.into_owned())).collect(),
            value: sample.value,
        }
    }
}

/// The text is no exposition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is no sample of a metric; is this the address of an exporter?")]
pub(crate) struct PageError {
    line: usize,
}

/// A page under way.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    page: Page,
    /// What has come of a line that is not whole yet.
    rest: Vec<u8>,
    line: usize,
    error: Option<PageError>,
}

impl io::Write for Reader {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.take(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Reader {
    /// Takes the next piece of the text.
    pub(crate) fn take(&mut self, piece: &[u8]) {
        let mut lines = piece.split(|byte| *byte == b'\n');
        let Some(mut current) = lines.next() else { return };
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
            return;
        }
        self.rest.extend_from_slice(current);
    }

    /// The page, once the text has ended.
    ///
    /// # Errors
    /// The first line that is no sample.
    pub(crate) fn finish(mut self) -> Result<Page, PageError> {
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
            Some(sample) => self.page.samples.push(Sample::from(sample)),
            None => self.error = Some(PageError { line: self.line }),
        }
    }
}

impl Page {
    /// The sum over all series that have these labels, among others perhaps; `None` if there are none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.matching(name, labels).map(|sample| sample.value).reduce(|sum, value| sum + value)
    }

    /// The values that a label has in the series of a name.
    pub(crate) fn label_values(&self, name: &str, label: &str) -> impl Iterator<Item = &str> {
        self.matching(name, &[]).filter_map(move |sample| sample.labels.get(label).map(String::as_str))
    }

    /// Adds the buckets of a histogram to `buckets`, by their upper bounds; counts are cumulative.
    pub(crate) fn add_buckets(&self, name: &str, labels: &[(&str, &str)], buckets: &mut Buckets) {
        let name = format!("{name}_bucket");
        for sample in self.matching(&name, labels) {
            let bound = sample.labels.get("le").and_then(|bound| bound.parse::<f64>().ok());
            if let Some(bound) = bound.filter(|bound| !bound.is_nan()) {
                buckets.add(bound, sample.value);
            }
        }
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|&(label, value)| sample.labels.get(label).map(String::as_str) == Some(value))
        })
    }
}

/// Cumulative counts by upper bound, of one histogram or the sum of several.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Buckets(Vec<(f64, f64)>);

impl Buckets {
    fn add(&mut self, bound: f64, count: f64) {
        match self.0.binary_search_by(|(known, _)| known.total_cmp(&bound)) {
            Ok(at) => self.0[at].1 += count,
            Err(at) => self.0.insert(at, (bound, count)),
        }
    }

    /// What was observed between an `earlier` reading and this one; `None` if counts went down.
    pub(crate) fn since(&self, earlier: &Self) -> Option<Self> {
        let before =
            |bound: f64| earlier.0.iter().find(|(known, _)| *known == bound).map_or(0.0, |(_, n)| *n);
        let grown: Vec<_> = self.0.iter().map(|&(bound, count)| (bound, count - before(bound))).collect();
        grown.iter().all(|(_, count)| *count >= 0.0).then_some(Self(grown))
    }

    /// All observations.
    pub(crate) fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }

    /// The quantile as Prometheus reckons it: linear within its bucket; the last finite bound beyond it.
    pub(crate) fn quantile(&self, quantile: f64) -> Option<f64> {
        let rank = quantile * self.count();
        if self.count() <= 0.0 {
            return None;
        }
        let (mut lower, mut below) = (0.0, 0.0);
        for &(bound, count) in &self.0 {
            if count >= rank {
                if bound.is_infinite() {
                    return Some(lower);
                }
                let share = if count > below { (rank - below) / (count - below) } else { 1.0 };
                return Some(lower + (bound - lower) * share);
            }
            (lower, below) = (bound, count);
        }
        None
    }
}

#[cfg(test)]
mod tests {
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

    fn read(text: &str, piece: usize) -> Result<Page, PageError> {
        let mut reader = Reader::default();
        text.as_bytes().chunks(piece).for_each(|piece| reader.take(piece));
        reader.finish()
    }

    #[test]
    fn a_page_is_the_same_in_whatever_pieces_it_comes() {
        for piece in [1, 7, 64, 10_000] {
            let page = read(TEXT, piece).unwrap();
            assert_eq!(page.samples.len(), 8, "no session's series is kept");
            assert_eq!(page.sum("videocall_sessions", &[("region", "us")]), Some(7.0));
            assert_eq!(page.sum("videocall_sessions", &[("region", "apac")]), None);
            let regions: Vec<_> = page.label_values("videocall_sessions", "region").collect();
            assert_eq!(regions, ["us", "us"]);
        }
    }

    #[test]
    fn quantiles_are_those_of_prometheus() {
        let page = read(TEXT, 100).unwrap();
        let of = |labels: &[(&str, &str)]| {
            let mut buckets = Buckets::default();
            page.add_buckets("videocall_rtt_seconds", labels, &mut buckets);
            buckets
        };
        let us = of(&[("region", "us")]);
        assert_eq!((us.count(), us.quantile(0.3), us.quantile(0.6)), (100.0, Some(0.05), Some(0.1)));
        assert_eq!(of(&[("region", "apac")]).quantile(0.95), Some(0.1), "beyond the last finite bound");
        assert_eq!(of(&[("region", "eu")]).quantile(0.95), None);
        // All of one server's growth, none of what both had before.
        let both = of(&[]);
        assert_eq!(both.since(&us).unwrap().count(), 7.0);
        assert_eq!(us.since(&both), None, "counts that went down are a restart");
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
