//! The page that Prometheus reads, in text format 0.0.4 or OpenMetrics 1.0.
//!
//! Half a million series are about a hundred megabytes of text, so the detail planes are written
//! into a sink as they are read and never held whole. The exporter library writes the aggregates in
//! format 0.0.4 and in no order; they are few, so this module sorts their families and adapts their
//! headers to OpenMetrics.
//!
//! Invariant: a family is written once, with its header before its samples; without samples it has
//! no header.

use std::io::{self, Write};

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

/// Writes a whole page: `aggregates`, which
/// [`Aggregates::render`](super::aggregates::Aggregates::render) wrote, then the detail planes,
/// with ages at `now` in Unix seconds.
///
/// # Errors
/// Returns the errors of the sink.
pub fn write_page(
    aggregates: &str,
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

fn write_aggregates(text: &str, format: Format, sink: &mut impl Write) -> io::Result<()> {
    // The library ends every family with an empty line.
    let mut families: Vec<&str> = text.split("\n\n").map(str::trim).filter(|f| !f.is_empty()).collect();
    families.sort_unstable();
    for line in families.iter().flat_map(|family| family.lines()) {
        let header = line.strip_prefix("# ").and_then(|rest| {
            let (keyword, rest) = rest.split_once(' ')?;
            let (name, rest) = rest.split_once(' ')?;
            Some((keyword, name, rest))
        });
        match header {
            Some((keyword, name, rest)) => writeln!(sink, "# {keyword} {} {rest}", format.family(name))?,
            None => writeln!(sink, "{line}")?,
        }
    }
    Ok(())
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
    use metrics::{counter, gauge, with_local_recorder};

    use super::super::catalogue::{PAIR_NETEQ_OPERATIONS, PAIR_SAMPLES, SESSION_LAST_SEEN_AGE, SESSION_RTT};
    use super::*;

    fn page(aggregates: &str, detail: &DetailStore, format: Format) -> String {
        let mut bytes = Vec::new();
        write_page(aggregates, detail, 1_000.5, format, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_page_in_both_formats() {
        let store = DetailStore::new(1000);
        let session = store.open(DetailPlane::Session, &["us", "m", "s1", "p", "none", "none"]).unwrap();
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
        let aggregates = "# HELP b_total Help of b.\n# TYPE b_total counter\nb_total{x=\"1\"} 2\n\n\
                          # TYPE a gauge\na 1.5\n\n";
        let text = r#"# HELP b_total Help of b.
# TYPE b_total counter
b_total{x="1"} 2
# TYPE a gauge
a 1.5
# HELP videocall_session_rtt_seconds Round-trip time from the session's client to its elected server, as the client measures it.
# TYPE videocall_session_rtt_seconds gauge
videocall_session_rtt_seconds{region="us",meeting_id="m",session_id="s1",peer_id="p",server_url="none",server_type="none"} 0.0425
# HELP videocall_session_last_seen_age_seconds Time since the stream received the session's last frame.
# TYPE videocall_session_last_seen_age_seconds gauge
videocall_session_last_seen_age_seconds{region="us",meeting_id="m",session_id="s1",peer_id="p",server_url="none",server_type="none"} 2.5
# HELP videocall_pair_audio_samples_total Samples played of the peer's audio, since the session began.
# TYPE videocall_pair_audio_samples_total counter
videocall_pair_audio_samples_total{region="us",meeting_id="m",session_id="s1",peer_id="p"} 48000
# HELP videocall_pair_neteq_operations_total NetEQ decisions for the peer's audio by operation, since the session began.
# TYPE videocall_pair_neteq_operations_total counter
videocall_pair_neteq_operations_total{region="us",meeting_id="m",session_id="s1",peer_id="p",operation="normal"} 100
videocall_pair_neteq_operations_total{region="us",meeting_id="m",session_id="s1",peer_id="p",operation="expand"} 0
"#;
        assert_eq!(page(aggregates, &store, Format::Text), text);
        let mut open_metrics = text.to_owned();
        for family in ["b", "videocall_pair_audio_samples", "videocall_pair_neteq_operations"] {
            for keyword in ["HELP", "TYPE"] {
                open_metrics = open_metrics
                    .replace(&format!("# {keyword} {family}_total "), &format!("# {keyword} {family} "));
            }
        }
        assert_eq!(page(aggregates, &store, Format::OpenMetrics), open_metrics + "# EOF\n");
    }

    #[test]
    fn a_family_without_samples_has_no_header() {
        let store = DetailStore::new(1000);
        let _empty = store.open(DetailPlane::Pair, &["us", "m", "s1", "p"]).unwrap();
        assert_eq!(page("", &store, Format::Text), "");
        assert_eq!(page("", &store, Format::OpenMetrics), "# EOF\n");
    }
}
