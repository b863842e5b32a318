//! Healing: finding the holes in what Prometheus has of a region, and what is needed to fill them.
//!
//! When the exporter or Prometheus was down, the graphs have a hole, though the stream has every frame. A replay can
//! fill it, if its samples carry the labels of the live series, fall on their rhythm, and go on with their counters
//! where these were left. All three are read from the samples on both sides of the hole.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde::Deserialize;
use url::form_urlencoded;

use super::http::{Address, Answer, Client};
use super::sample::Table;
use super::sink::remote_write::series_key;
use super::window::Window;
use crate::config::one_line;
use callsight_fold::StreamTime;
use callsight_fold::series::catalogue::{Plane, SESSIONS};
use callsight_frame::subject::Region;

/// How much of the window is asked for at a time: raw samples are many.
const PORTION: Duration = Duration::from_secs(3600);

/// The labels of a series that are the target's: whatever else it has came with the scrape.
type Target = BTreeMap<String, String>;

/// How far the moments of a hole are behind the rhythm. A scrape that fails marks all series as ended at its own
/// moment: a sample at the very same one would contradict the mark, and one before it would be hidden by it.
const BEHIND: i64 = 10;

/// Labels of the live series that are not the target's.
const OURS: &[&str] = &["__name__", "region", "server_url", "server_type", "operation", "signal", "le"];

/// Why holes can't be looked for.
#[derive(Debug, thiserror::Error)]
pub enum HealError {
    /// Prometheus does not answer, or not as it should.
    #[error("{address} can't be asked: {}; check --prometheus", one_line(problem))]
    Unreachable {
        /// Prometheus.
        address: String,
        /// What went wrong.
        problem: String,
    },
    /// There is nothing beside which there could be a hole.
    #[error(
        "{address} has fewer than two samples of {metric}{{region=\"{region}\"}} from {window}: there is nothing to take \
         labels and rhythm from; widen the window until it has some"
    )]
    Nothing {
        /// Prometheus.
        address: String,
        /// What was asked for.
        metric: &'static str,
        /// The region.
        region: Region,
        /// From when to when.
        window: String,
    },
}

/// What the series of one target need to be gone on with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Neighbour {
    /// Its labels: `job`, `instance` and whatever else came with the scrape.
    pub labels: Vec<(String, String)>,
    /// What its counters had counted before the hole, by [`series_key`].
    pub counted: HashMap<String, f64>,
    /// The edges of buckets as they are written here, where they are written in another way there.
    pub edges: HashMap<String, String>,
    /// The planes that it has no series of.
    pub without: Vec<Plane>,
}

/// Samples that are missing.
#[derive(Clone, Debug, PartialEq)]
pub struct Hole {
    /// The missing moments, as the steps of a window.
    pub window: Window,
    /// Whose samples are beside it.
    pub neighbours: Vec<Neighbour>,
}

/// Asks Prometheus.
pub struct Prometheus {
    address: Address,
    client: Client,
}

#[derive(Deserialize)]
struct Response {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Found>,
}

#[derive(Deserialize)]
struct Found {
    metric: BTreeMap<String, String>,
    #[serde(default)]
    values: Vec<(f64, String)>,
    value: Option<(f64, String)>,
}

impl Prometheus {
    /// Asks the Prometheus at an address.
    #[must_use]
    pub const fn new(address: Address, client: Client) -> Self {
        Self { address, client }
    }

    fn query(&self, query: &str, at: StreamTime) -> Result<Vec<Found>, HealError> {
        let time = format!("{:.3}", at.unix_seconds());
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("query", query)
            .append_pair("time", &time)
            .finish();
        let unreachable = |problem| HealError::Unreachable { address: self.address.to_string(), problem };
        let form = [("Content-Type", "application/x-www-form-urlencoded")];
        let answer = self.client.post(&self.address.below("api/v1/query"), &form, body.as_bytes());
        let answer = answer.map_err(unreachable)?;
        let Answer { status: 200, body, .. } = &answer else { return Err(unreachable(answer.excerpt())) };
        let response: Response =
            serde_json::from_str(body).map_err(|error| unreachable(error.to_string()))?;
        Ok(response.data.result)
    }

    /// The holes in a region's series within a window, in order.
    ///
    /// # Errors
    /// [`HealError`].
    pub fn holes(&self, region: &Region, window: Window) -> Result<Vec<Hole>, HealError> {
        let targets = self.moments(region, window)?;
        let Some((gaps, interval)) = gaps(&targets, window) else {
            let (address, region, window) = (self.address.to_string(), region.clone(), window.to_string());
            return Err(HealError::Nothing { address, metric: SESSIONS.name, region, window });
        };
        let hole = |gap: Gap| {
            let beside = gap.before.or(gap.after).unwrap_or(gap.first);
            let near = |at: &i64| (at - beside).abs() <= interval / 2;
            let targets = targets.iter().filter(|(_, moments)| moments.iter().any(near));
            let neighbours =
                targets.map(|(target, _)| self.neighbour(region, target, beside, gap.before.is_some()));
            let behind = if gap.before.is_some() { BEHIND } else { 0 };
            let (from, to) = (moment(gap.first + behind), moment(gap.last + behind));
            let step = Duration::from_millis(interval.unsigned_abs());
            let window = Window { from, to, step, origin: from };
            Ok(Hole { window, neighbours: neighbours.collect::<Result<_, _>>()? })
        };
        gaps.into_iter().map(hole).collect()
    }

    /// When there are samples, by target, in Unix milliseconds.
    fn moments(&self, region: &Region, window: Window) -> Result<BTreeMap<Target, BTreeSet<i64>>, HealError> {
        let mut targets: BTreeMap<Target, BTreeSet<i64>> = BTreeMap::new();
        let mut from = window.from;
        while from < window.to {
            let to = window.to.min(from + PORTION);
            let seconds = to.since(from).as_millis();
            let query = format!("{}{{region=\"{region}\",replay=\"\"}}[{seconds}ms]", SESSIONS.name);
            for found in self.query(&query, to)? {
                let moments = targets.entry(target(found.metric)).or_default();
                moments.extend(found.values.into_iter().map(|(seconds, _)| millis(seconds)));
            }
            from = to;
        }
        Ok(targets)
    }

    /// What the series of a target are at a moment.
    fn neighbour(
        &self,
        region: &Region,
        target: &Target,
        at: i64,
        before: bool,
    ) -> Result<Neighbour, HealError> {
        let matchers: String =
            target.iter().map(|(name, value)| format!(",{name}=\"{}\"", escaped(value))).collect();
        let select = |names: &str, more: &str| {
            format!("{{__name__=~\"{names}\",region=\"{region}\",replay=\"\"{more}{matchers}}}")
        };
        let mut neighbour = Neighbour {
            labels: target.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            without: vec![Plane::Own],
            ..Neighbour::default()
        };
        let counters = select("videocall_.+_(total|bucket|sum|count)", ",session_id=\"\"");
        for Found { mut metric, value, .. } in self.query(&counters, moment(at))? {
            let Some(value) = value.and_then(|(_, value)| value.parse::<f64>().ok()) else { continue };
            metric.retain(|name, _| !target.contains_key(name));
            let Some(name) = metric.remove("__name__") else { continue };
            if let Some(theirs) = metric.get_mut("le")
                && let Some(ours) = our_edge(&name, theirs)
                && ours != *theirs
            {
                neighbour.edges.insert(ours.clone(), std::mem::replace(theirs, ours));
            }
            // What comes before all counting begins at zero.
            if before {
                let mut labels: Vec<(Cow<'_, str>, Cow<'_, str>)> = metric
                    .iter()
                    .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
                    .collect();
                neighbour.counted.insert(series_key(&name, &mut labels), value);
            }
        }
        let detail = select("videocall_session_last_seen_age_seconds|videocall_pair_can_listen", "");
        let found = self.query(&format!("count by (__name__) ({detail})"), moment(at))?;
        for (plane, prefix) in [(Plane::Session, "videocall_session_"), (Plane::Pair, "videocall_pair_")] {
            let has =
                |found: &Found| found.metric.get("__name__").is_some_and(|name| name.starts_with(prefix));
            if !found.iter().any(has) {
                neighbour.without.push(plane);
            }
        }
        Ok(neighbour)
    }
}

/// An edge as it is written here.
fn our_edge(name: &str, theirs: &str) -> Option<String> {
    let theirs: f64 = theirs.parse().ok()?;
    let columns = Table::all().iter().flat_map(|table| &table.columns).filter(|column| column.name == name);
    let mut edges = columns.filter_map(|column| column.label.as_ref().map(|(_, edge)| edge));
    edges.find(|edge| edge.parse() == Ok(theirs)).cloned()
}

fn target(mut metric: BTreeMap<String, String>) -> Target {
    metric.retain(|name, _| !OURS.contains(&name.as_str()));
    metric
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[expect(clippy::cast_possible_truncation, reason = "no time is beyond 2^63 milliseconds")]
fn millis(seconds: f64) -> i64 {
    (seconds * 1e3).round() as i64
}

fn moment(millis: i64) -> StreamTime {
    StreamTime::from_unix_nanos(i128::from(millis) * 1_000_000)
}

/// Moments at which no target has a sample, in Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gap {
    first: i64,
    last: i64,
    /// The sample before them, and the one after.
    before: Option<i64>,
    after: Option<i64>,
}

/// The gaps, and the time from one sample to the next where there is none. Nothing if there are too few samples.
fn gaps(targets: &BTreeMap<Target, BTreeSet<i64>>, window: Window) -> Option<(Vec<Gap>, i64)> {
    let mut distances: Vec<i64> = targets
        .values()
        .flat_map(|moments| moments.iter().zip(moments.iter().skip(1)).map(|(a, b)| b - a))
        .collect();
    distances.sort_unstable();
    let interval = *distances.get(distances.len() / 2)?;
    let all: BTreeSet<i64> = targets.values().flatten().copied().collect();
    let (first, last) = (*all.first()?, *all.last()?);
    let bounds = [window.from, window.to].map(|at| i64::try_from(at.unix_nanos() / 1_000_000).ok());
    let [Some(from), Some(to)] = bounds else { return None };

    let mut gaps = Vec::new();
    let mut add = |first: i64, last: i64, before, after| {
        if first <= last {
            gaps.push(Gap { first, last, before, after });
        }
    };
    // A scrape may be late: what is less than half of the time between two is not missing.
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

    fn targets(all: &[(&str, &[i64])]) -> BTreeMap<Target, BTreeSet<i64>> {
        let target = |name: &str| Target::from([("instance".to_owned(), name.to_owned())]);
        let moments = |seconds: &[i64]| seconds.iter().map(|second| second * 1000).collect();
        all.iter().map(|(name, seconds)| (target(name), moments(seconds))).collect()
    }

    fn found(all: &[(&str, &[i64])], window: Window) -> Vec<(i64, i64)> {
        let (gaps, _) = gaps(&targets(all), window).unwrap();
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
        assert_eq!(gaps(&targets(&[("a", &[100])]), window(90, 200)), None);
        assert_eq!(gaps(&targets(&[]), window(90, 200)), None);
    }

    #[test]
    fn edges_are_the_same_however_they_are_written() {
        let edge = |theirs| our_edge("videocall_rtt_seconds_bucket", theirs);
        assert_eq!(edge("1.0").as_deref(), Some("1"));
        assert_eq!(edge("+Inf").as_deref(), Some("+Inf"));
        assert_eq!(edge("7"), None);
    }
}
