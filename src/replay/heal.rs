//! Finding the gaps in Prometheus that a replay can fill.
//!
//! While the exporter or Prometheus is down, the graphs get a gap, though the stream has every
//! frame. Replayed samples fill it if they carry the labels of the live series, follow the rhythm
//! of its scrapes, and continue its counters. All three are read from the samples beside the gap.
//!
//! Invariant: no moment of a gap has a sample of any target.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::InputError;
use super::prometheus::{FoundSeries, Labels, PrometheusApi, label_text};
use super::sample::Table;
use super::sink::remote_write::{Continuation, series_key};
use super::window::{Window, from_unix_millis, unix_millis};
use crate::config::one_line;
use callsight_fold::StreamTime;
use callsight_fold::series::catalogue::{Plane, SESSIONS};
use callsight_frame::subject::Region;

/// How much of the window one query covers: raw samples are many.
const PORTION: Duration = Duration::from_secs(3600);

/// By how many milliseconds the moments of a gap are later than the rhythm. A scrape that fails
/// marks all series as ended at its own moment: a sample at the same moment would contradict the
/// marker, and one before it would be hidden by it.
const BEHIND: i64 = 10;

/// Labels that the series of the exporter have. All others come from the scrape, and identify the
/// target.
const OURS: &[&str] = &["__name__", "region", "server_url", "server_type", "operation", "signal", "le"];

/// When each target has samples, in Unix milliseconds.
type Targets = BTreeMap<Labels, BTreeSet<i64>>;

/// How to continue the series of one target.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Neighbour {
    /// The target's labels: `job`, `instance` and whatever else comes from the scrape.
    pub labels: Labels,
    /// The state of its series.
    pub continuation: Continuation,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Gap {
    /// The missing moments, as the steps of a window.
    pub window: Window,
    /// The targets with samples beside it.
    pub neighbours: Vec<Neighbour>,
}

/// Finds the gaps in a region's series within a window, in order.
///
/// # Errors
/// Prometheus does not answer as it should, or has too few samples beside a gap.
pub fn gaps(prometheus: &PrometheusApi, region: &Region, window: Window) -> Result<Vec<Gap>, InputError> {
    let targets = targets(prometheus, region, window)?;
    let Some((gaps, interval)) = raw_gaps(&targets, window) else {
        let (address, metric) = (prometheus.address(), SESSIONS.name);
        return Err(InputError::new(format!(
            "{address} has fewer than two samples of {metric}{{region=\"{region}\"}} from {window}, too few to find \
             labels and scrape interval; widen the window until it has some"
        )));
    };
    let with_neighbours = |gap: RawGap| {
        let beside = gap.before.or(gap.after).unwrap_or(gap.first);
        let near = |at: &i64| (at - beside).abs() <= interval / 2;
        let near = targets.iter().filter(|(_, moments)| moments.iter().any(near));
        let neighbours =
            near.map(|(target, _)| neighbour(prometheus, region, target, beside, gap.before.is_some()));
        let behind = if gap.before.is_some() { BEHIND } else { 0 };
        let (from, to) = (from_unix_millis(gap.first + behind), from_unix_millis(gap.last + behind));
        let step = Duration::from_millis(interval.unsigned_abs());
        let window = Window { from, to, step, origin: from };
        Ok(Gap { window, neighbours: neighbours.collect::<Result<_, _>>()? })
    };
    gaps.into_iter().map(with_neighbours).collect()
}

fn query(prometheus: &PrometheusApi, query: &str, at: StreamTime) -> Result<Vec<FoundSeries>, InputError> {
    let time = format!("{:.3}", at.unix_seconds());
    prometheus.ask("query", &[("query", query), ("time", &time)]).map_err(|problem| {
        let (address, problem) = (prometheus.address(), one_line(&problem));
        InputError::new(format!("{address} can't be queried: {problem}; check --prometheus"))
    })
}

fn targets(prometheus: &PrometheusApi, region: &Region, window: Window) -> Result<Targets, InputError> {
    let mut targets = Targets::new();
    let mut from = window.from;
    while from < window.to {
        let to = window.to.min(from + PORTION);
        let millis = to.since(from).as_millis();
        let samples = format!("{}{{region=\"{region}\",replay=\"\"}}[{millis}ms]", SESSIONS.name);
        for mut found in query(prometheus, &samples, to)? {
            let moments: Vec<_> = found.samples().map(|(at, _)| at).collect();
            found.metric.retain(|name, _| !OURS.contains(&name.as_str()));
            targets.entry(found.metric).or_default().extend(moments);
        }
        from = to;
    }
    Ok(targets)
}

/// Reads the state of a target's series at a moment. Counters continue only if that is `before` the
/// gap.
fn neighbour(
    prometheus: &PrometheusApi,
    region: &Region,
    target: &Labels,
    at: i64,
    before: bool,
) -> Result<Neighbour, InputError> {
    let at = from_unix_millis(at);
    let matchers = label_text(target);
    let select = |names: &str, more: &str| {
        format!("{{__name__=~\"{names}\",region=\"{region}\",replay=\"\"{more},{matchers}}}")
    };
    let mut continuation = Continuation { without: vec![Plane::Own], ..Continuation::default() };
    let counters = select("videocall_.+_(total|bucket|sum|count)", ",session_id=\"\"");
    for mut found in query(prometheus, &counters, at)? {
        let Some((_, value)) = found.samples().next() else { continue };
        let metric = &mut found.metric;
        metric.retain(|name, _| !target.contains_key(name));
        let Some(name) = metric.remove("__name__") else { continue };
        if let Some(theirs) = metric.get_mut("le")
            && let Some(ours) = our_edge(&name, theirs)
            && ours != *theirs
        {
            continuation.edges.insert(ours.clone(), std::mem::replace(theirs, ours));
        }
        if before {
            let labels = metric.iter().map(|(name, value)| (Cow::from(name), Cow::from(value)));
            let key = series_key(&name, &mut labels.collect::<Vec<_>>());
            continuation.counted.insert(key, value);
        }
    }
    let detail = select("videocall_session_last_seen_age_seconds|videocall_pair_can_listen", "");
    let found = query(prometheus, &format!("count by (__name__) ({detail})"), at)?;
    for (plane, prefix) in [(Plane::Session, "videocall_session_"), (Plane::Pair, "videocall_pair_")] {
        let has =
            |found: &FoundSeries| found.metric.get("__name__").is_some_and(|name| name.starts_with(prefix));
        if !found.iter().any(has) {
            continuation.without.push(plane);
        }
    }
    Ok(Neighbour { labels: target.clone(), continuation })
}

/// Finds this program's spelling of a bucket's edge.
fn our_edge(name: &str, theirs: &str) -> Option<String> {
    let theirs: f64 = theirs.parse().ok()?;
    let columns = Table::all().iter().flat_map(|table| &table.columns).filter(|column| column.name == name);
    let mut edges = columns.filter_map(|column| column.label.as_ref().map(|(_, edge)| edge));
    edges.find(|edge| edge.parse() == Ok(theirs)).cloned()
}

/// Moments at which no target has a sample, in Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RawGap {
    first: i64,
    last: i64,
    /// The samples before and after them.
    before: Option<i64>,
    after: Option<i64>,
}

/// Finds gaps alone, and the scrape interval. `None` if there are too few samples.
fn raw_gaps(targets: &Targets, window: Window) -> Option<(Vec<RawGap>, i64)> {
    let mut distances: Vec<i64> = targets
        .values()
        .flat_map(|moments| moments.iter().zip(moments.iter().skip(1)).map(|(a, b)| b - a))
        .collect();
    distances.sort_unstable();
    let interval = *distances.get(distances.len() / 2)?;
    let all: BTreeSet<i64> = targets.values().flatten().copied().collect();
    let (first, last) = (*all.first()?, *all.last()?);
    let [from, to] = [window.from, window.to].map(unix_millis);

    let mut gaps = Vec::new();
    let mut add = |first: i64, last: i64, before, after| {
        if first <= last {
            gaps.push(RawGap { first, last, before, after });
        }
    };
    // A scrape may be late, so a sample is missing only after one and a half intervals.
    let missing = |a: i64, b: i64| (b - a - interval / 2 - 1).max(0) / interval * interval;
    add(first - missing(from, first), first - interval, None, Some(first));
    for (a, b) in all.iter().zip(all.iter().skip(1)) {
        add(a + interval, a + missing(*a, *b), Some(*a), Some(*b));
    }
    add(last + interval, last + missing(last, to), Some(last), None);
    Some((gaps, interval))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(from: i64, to: i64) -> Window {
        let at = |seconds: i64| StreamTime::from_unix_nanos(seconds as i128 * 1_000_000_000);
        Window::aligned(at(from), at(to), Duration::from_secs(15))
    }

    fn targets(all: &[(&str, &[i64])]) -> Targets {
        let target = |name: &str| Labels::from([("instance".to_owned(), name.to_owned())]);
        let moments = |seconds: &[i64]| seconds.iter().map(|second| second * 1000).collect();
        all.iter().map(|(name, seconds)| (target(name), moments(seconds))).collect()
    }

    fn found(all: &[(&str, &[i64])], window: Window) -> Vec<(i64, i64)> {
        let (gaps, _) = raw_gaps(&targets(all), window).unwrap();
        gaps.iter().map(|gap| (gap.first / 1000, gap.last / 1000)).collect()
    }

    #[test]
    fn a_gap_is_where_samples_are_missing() {
        let samples: &[i64] = &[100, 110, 120, 160, 170, 181, 190];
        assert_eq!(found(&[("a", samples)], window(95, 199)), [(130, 150)]);
        assert_eq!(found(&[("a", samples)], window(74, 216)), [(80, 90), (130, 150), (200, 210)]);
    }

    #[test]
    fn another_target_fills_a_gap() {
        let (a, b): (&[i64], &[i64]) = (&[100, 110, 120, 160], &[101, 111, 121, 131, 141, 151]);
        assert_eq!(found(&[("a", a), ("b", b)], window(99, 162)), []);
        // One that was replaced by another with a new name.
        assert_eq!(found(&[("a", &[100, 110, 120]), ("b", &[150, 160])], window(99, 162)), [(130, 140)]);
    }

    #[test]
    fn too_few_samples_have_no_rhythm() {
        assert_eq!(raw_gaps(&targets(&[("a", &[100])]), window(90, 200)), None);
        assert_eq!(raw_gaps(&targets(&[]), window(90, 200)), None);
    }

    #[test]
    fn edges_are_the_same_however_they_are_written() {
        let edge = |theirs| our_edge("videocall_rtt_seconds_bucket", theirs);
        assert_eq!(edge("1.0").as_deref(), Some("1"));
        assert_eq!(edge("+Inf").as_deref(), Some("+Inf"));
        assert_eq!(edge("7"), None);
    }
}
