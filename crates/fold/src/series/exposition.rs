//! The page that Prometheus reads, in text format 0.0.4 or OpenMetrics 1.0.
//!
//! Half a million series are about a hundred megabytes of text, so the detail planes are written
//! into a sink as they are read and never held whole. Neither are the aggregates: clients can make
//! them several megabytes, by servers with long names. The exporter library writes the few metrics
//! of the process in format 0.0.4 and in no order, so this module sorts the families and adapts
//! their headers to OpenMetrics.
//!
//! Invariant: a family is written once, with its header before its samples; without samples it has
//! no header.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use super::aggregates::{AggregateSeries, Aggregates};
use super::catalogue::Column;
use super::detail::{DetailPlane, DetailStore, Value};

/// How many bytes are handed to the sink at a time: one line would be too little for a compressor.
const BLOCK: usize = 16 * 1024;

/// The two text formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text format 0.0.4.
    Text,
    /// OpenMetrics 1.0: a counter's family has no `_total`, and `# EOF` ends the page.
    OpenMetrics,
}

impl Format {
    /// The content type of a page in this format.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The name of the family that a metric belongs to: OpenMetrics drops a counter's `_total`.
    #[must_use]
    pub fn family(self, name: &str) -> &str {
        match self {
            Self::Text => name,
            Self::OpenMetrics => name.strip_suffix("_total").unwrap_or(name),
        }
    }
}

/// A family of the aggregates, all of whose series are there.
enum Family<'a> {
    Own(&'a [Arc<AggregateSeries>]),
    /// As the exporter library wrote it.
    Library(&'a str),
}

/// Writes a whole page: the aggregates, then the detail planes, with ages at `now` in Unix seconds.
///
/// # Errors
/// Returns the errors of the sink.
pub fn write_page(
    aggregates: &Aggregates,
    detail: &DetailStore,
    now: f64,
    format: Format,
    sink: &mut impl Write,
) -> io::Result<()> {
    write_aggregates(aggregates, format, sink)?;
    for plane in DetailPlane::ALL {
        write_plane(detail, plane, now, format, sink)?;
    }
    if format == Format::OpenMetrics {
        sink.write_all(b"# EOF\n")?;
    }
    Ok(())
}

fn write_aggregates(aggregates: &Aggregates, format: Format, sink: &mut impl Write) -> io::Result<()> {
    let (series, library) = (aggregates.series(), aggregates.library());
    let own = series.chunk_by(|a, b| a.metric().name == b.metric().name);
    let own = own.map(|series| (series[0].metric().name, Family::Own(series)));
    // The library ends every family with an empty line.
    let library = library.split("\n\n").map(str::trim_start);
    let library = library.filter_map(|family| Some((header(family)?.1, Family::Library(family))));
    let mut families: Vec<_> = own.chain(library).collect();
    families.sort_unstable_by_key(|(name, _)| *name);
    let mut sink = BufWriter::with_capacity(BLOCK, sink);
    for (name, family) in families {
        let name = format.family(name);
        match family {
            Family::Own(series) => {
                let metric = series[0].metric();
                writeln!(sink, "# HELP {name} {}\n# TYPE {name} {}", metric.help, metric.kind.name())?;
                series.iter().try_for_each(|series| series.write(&mut sink))?;
            }
            Family::Library(text) => {
                for line in text.lines() {
                    match header(line) {
                        Some((keyword, _, rest)) => writeln!(sink, "# {keyword} {name} {rest}")?,
                        None => writeln!(sink, "{line}")?,
                    }
                }
            }
        }
    }
    sink.into_inner()?;
    Ok(())
}

/// Keyword, name, and what follows in a text whose first line is a header.
fn header(text: &str) -> Option<(&str, &str, &str)> {
    let (keyword, rest) = text.strip_prefix("# ")?.split_once(' ')?;
    let (name, rest) = rest.split_once(' ')?;
    Some((keyword, name, rest))
}

fn write_plane(
    detail: &DetailStore,
    plane: DetailPlane,
    now: f64,
    format: Format,
    sink: &mut impl Write,
) -> io::Result<()> {
    let rows = detail.snapshot(plane);
    let mut lines = Vec::with_capacity(BLOCK + 1024);
    let mut first = 0;
    // A family's columns stand side by side: one for most, one for each operation where there are
    // several.
    for family in plane.columns().chunk_by(|a, b| a.metric.name == b.metric.name) {
        let metric = family[0].metric;
        let prefix = [metric.name, "{"].concat();
        let suffixes: Vec<String> = family.iter().map(line_suffix).collect();
        let mut headed = false;
        for row in &rows {
            for (offset, suffix) in suffixes.iter().enumerate() {
                let Some(value) = row.value(first + offset, metric.kind, now) else { continue };
                if !headed {
                    let name = format.family(metric.name);
                    writeln!(lines, "# HELP {name} {}\n# TYPE {name} {}", metric.help, metric.kind.name())?;
                    headed = true;
                }
                lines.extend_from_slice(prefix.as_bytes());
                lines.extend_from_slice(row.labels().text().as_bytes());
                lines.extend_from_slice(suffix.as_bytes());
                push_value(&mut lines, value);
                lines.push(b'\n');
            }
            if lines.len() >= BLOCK {
                sink.write_all(&lines)?;
                lines.clear();
            }
        }
        first += family.len();
    }
    sink.write_all(&lines)
}

fn line_suffix(column: &Column) -> String {
    match column.operation {
        Some(operation) => format!(",operation=\"{}\"}} ", operation.label()),
        None => "} ".to_owned(),
    }
}

fn push_value(line: &mut Vec<u8>, value: Value) {
    match value {
        Value::Count(count) => line.extend_from_slice(itoa::Buffer::new().format(count).as_bytes()),
        Value::Measure(measure) => push_measure(line, measure),
    }
}

/// Appends the shortest text that reads back as the same number.
pub fn push_measure(line: &mut Vec<u8>, measure: f64) {
    /// 2^53: below it a float represents every whole number.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if measure.fract() == 0.0 && measure.abs() < EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "whole and in the range of exact integers")]
        line.extend_from_slice(itoa::Buffer::new().format(measure as i64).as_bytes());
    } else {
        line.extend_from_slice(zmij::Buffer::new().format(measure).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use metrics::{counter, describe_counter, gauge, with_local_recorder};

    use super::super::catalogue::{
        FRAMES_FOLDED, PAIR_NETEQ_OPERATIONS, PAIR_SAMPLES, SESSION_LAST_SEEN_AGE, SESSION_RTT,
    };
    use super::*;

    fn page(aggregates: &Aggregates, detail: &DetailStore, format: Format) -> String {
        let mut bytes = Vec::new();
        write_page(aggregates, detail, 1_000.5, format, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_page_in_both_formats() {
        let store = DetailStore::new(1000);
        let session = store
            .open(DetailPlane::Session, &["us", "m", "s1", "p", "none", "none", "web-1", "chrome"])
            .unwrap();
        let pair = store.open(DetailPlane::Pair, &["us", "m", "s1", "p"]).unwrap();
        with_local_recorder(&session, || {
            gauge!(SESSION_RTT.name).set(0.0425);
            gauge!(SESSION_LAST_SEEN_AGE.name).set(998.0);
        });
        with_local_recorder(&pair, || {
            counter!(PAIR_SAMPLES.name).absolute(48_000);
            counter!(PAIR_NETEQ_OPERATIONS.name, "operation" => "normal").absolute(100);
            counter!(PAIR_NETEQ_OPERATIONS.name, "operation" => "expand").absolute(0);
        });
        // Two of the library, and one of the catalogue between them.
        let aggregates = Aggregates::new();
        with_local_recorder(aggregates.recorder(), || {
            describe_counter!("process_b_total", "Help of b.");
            counter!("process_b_total", "x" => "1").increment(2);
            gauge!("a").set(1.5);
            counter!(FRAMES_FOLDED.name, "region" => "us").increment(3);
        });
        let text = r#"# TYPE a gauge
a 1.5
# HELP callsight_frames_folded_total Frames folded, late ones included.
# TYPE callsight_frames_folded_total counter
callsight_frames_folded_total{region="us"} 3
# HELP process_b_total Help of b.
# TYPE process_b_total counter
process_b_total{x="1"} 2
# HELP videocall_session_rtt_seconds Round-trip time from the session's client to its elected server, as the client measures it.
# TYPE videocall_session_rtt_seconds gauge
videocall_session_rtt_seconds{region="us",meeting_id="m",session_id="s1",peer_id="p",server_url="none",server_type="none",app="web-1",platform="chrome"} 0.0425
# HELP videocall_session_last_seen_age_seconds Time since the stream received the session's last frame.
# TYPE videocall_session_last_seen_age_seconds gauge
videocall_session_last_seen_age_seconds{region="us",meeting_id="m",session_id="s1",peer_id="p",server_url="none",server_type="none",app="web-1",platform="chrome"} 2.5
# HELP videocall_pair_audio_samples_total Samples played of the peer's audio, since the session began.
# TYPE videocall_pair_audio_samples_total counter
videocall_pair_audio_samples_total{region="us",meeting_id="m",session_id="s1",peer_id="p"} 48000
# HELP videocall_pair_neteq_operations_total NetEQ decisions for the peer's audio by operation, since the session began.
# TYPE videocall_pair_neteq_operations_total counter
videocall_pair_neteq_operations_total{region="us",meeting_id="m",session_id="s1",peer_id="p",operation="normal"} 100
videocall_pair_neteq_operations_total{region="us",meeting_id="m",session_id="s1",peer_id="p",operation="expand"} 0
"#;
        assert_eq!(page(&aggregates, &store, Format::Text), text);
        let mut open_metrics = text.to_owned();
        for family in [
            "process_b",
            "callsight_frames_folded",
            "videocall_pair_audio_samples",
            "videocall_pair_neteq_operations",
        ] {
            for keyword in ["HELP", "TYPE"] {
                open_metrics = open_metrics
                    .replace(&format!("# {keyword} {family}_total "), &format!("# {keyword} {family} "));
            }
        }
        assert_eq!(page(&aggregates, &store, Format::OpenMetrics), open_metrics + "# EOF\n");
    }

    #[test]
    fn a_family_without_samples_has_no_header() {
        let store = DetailStore::new(1000);
        let _empty = store.open(DetailPlane::Pair, &["us", "m", "s1", "p"]).unwrap();
        assert_eq!(page(&Aggregates::new(), &store, Format::Text), "");
        assert_eq!(page(&Aggregates::new(), &store, Format::OpenMetrics), "# EOF\n");
    }
}
