//! Judges whether two colours that were watched over the same window say the same about the same
//! calls.
//!
//! Both fold the same frames, so they differ in two ways only: at the edges of the window one may
//! have folded a frame that the other has not, and a session falls idle a moment earlier in one
//! than in the other. So the tolerances allow a share of blue's value or what a few sessions make,
//! whichever is more: a share alone would stop every rollout at night, when two of three sessions
//! are 67 %, and a number alone would let a large population drift.
//!
//! Invariant: judging is pure; the same readings always give the same judgement.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use callsight_fold::series::catalogue::{self, BUILD_INFO, Metric, Plane};
use clap::builder::TypedValueParser as _;
use semver::Version;
use serde::Serialize;

use super::exporters::{MetricsReading, shown};
use super::page::MetricsPage;
use crate::config::{ratio, whole};
use crate::insight::quantile::Buckets;
use crate::insight::words;

/// The fewest round trips whose 95th percentile is worth a comparison.
const FEWEST_ROUND_TRIPS: f64 = 20.0;

/// Events more or less that are no difference: concealment and freezes come in bursts, and a burst
/// may lie on an edge.
const EDGE_EVENTS: f64 = 5.0;

/// How far the two may differ. Shares are of blue's value.
#[derive(Clone, Copy, Debug, PartialEq, clap::Args, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Tolerances {
    /// Share by which populations and live series may differ
    #[arg(long, value_name = "SHARE", default_value_t = Self::default().tolerance, value_parser = ratio)]
    pub(crate) tolerance: f64,

    /// Share by which rates may differ: at the edges of the window, one has folded frames that the
    /// other has not
    #[arg(long, value_name = "SHARE", default_value_t = Self::default().rate_tolerance, value_parser = ratio)]
    pub(crate) rate_tolerance: f64,

    /// Share by which the 95th percentile of the round-trip time may differ
    #[arg(long, value_name = "SHARE", default_value_t = Self::default().rtt_tolerance, value_parser = ratio)]
    pub(crate) rtt_tolerance: f64,

    /// Number of sessions, with what they send, by which small populations may differ
    #[arg(
        long,
        value_name = "N",
        default_value_t = Self::default().floor,
        value_parser = whole(0..=1_000_000_u32).map(f64::from)
    )]
    pub(crate) floor: f64,

    /// Milliseconds by which the 95th percentile of the round-trip time may always differ
    #[arg(
        long = "rtt-floor",
        value_name = "MS",
        default_value_t = Self::default().rtt_floor_ms,
        value_parser = whole(0..=60_000_u32).map(f64::from)
    )]
    pub(crate) rtt_floor_ms: f64,

    /// Live sessions that each region must have: without calls there is nothing to compare
    #[arg(
        long,
        value_name = "N",
        default_value_t = Self::default().min_sessions,
        value_parser = whole(0..=1_000_000_000_u32).map(f64::from)
    )]
    pub(crate) min_sessions: f64,

    /// Allow green to have an older version than blue
    #[arg(long)]
    pub(crate) allow_older: bool,
}

impl Default for Tolerances {
    fn default() -> Self {
        Self {
            tolerance: 0.05,
            rate_tolerance: 0.1,
            rtt_tolerance: 0.1,
            floor: 2.0,
            rtt_floor_ms: 5.0,
            min_sessions: 1.0,
            allow_older: false,
        }
    }
}

/// The readings of two colours over one window.
#[derive(Clone, Debug)]
pub(crate) struct WatchedWindow {
    /// What messages call the old one and the new one.
    pub(crate) names: [String; 2],
    /// The regions that both serve.
    pub(crate) regions: BTreeSet<String>,
    /// At least two readings, the two ends of the window among them.
    pub(crate) blue: Vec<MetricsReading>,
    /// As many as of blue.
    pub(crate) green: Vec<MetricsReading>,
}

impl WatchedWindow {
    fn both<T>(&self, of: impl Fn(&[MetricsReading]) -> T) -> [T; 2] {
        [&self.blue, &self.green].map(|readings| of(readings))
    }
}

/// One measure of one region.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ComparisonRow {
    /// Empty for a measure of the exporter as a whole.
    pub(crate) region: String,
    pub(crate) what: &'static str,
    /// Empty for a count.
    pub(crate) unit: &'static str,
    pub(crate) blue: Option<f64>,
    pub(crate) green: Option<f64>,
    /// How far green may be from blue.
    pub(crate) allowed: f64,
    pub(crate) verdict: RowVerdict,
}

/// How green's value compares with blue's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RowVerdict {
    /// Within what is allowed.
    Agree,
    Less,
    More,
    /// Too few observations on either side to judge.
    TooFew,
    /// A counter decreased: an exporter restarted within the window.
    Restarted,
    /// A value is not finite, which agrees with nothing.
    Unusable,
}

/// How green's version compares with blue's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum VersionVerdict {
    Same,
    Newer,
    Older,
    /// A colour has several versions, or none.
    Unclear,
}

/// The result of one window.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct WindowJudgement {
    pub(crate) blue_version: String,
    pub(crate) green_version: String,
    pub(crate) version: VersionVerdict,
    /// One per region and measure.
    pub(crate) rows: Vec<ComparisonRow>,
    /// Why green must not take over; empty if it may.
    pub(crate) reasons: Vec<String>,
    /// Whether waiting can't change the result.
    #[serde(skip)]
    pub(crate) is_final: bool,
}

const POPULATION: [(&str, &Metric); 5] = [
    ("sessions", &catalogue::SESSIONS),
    ("meetings", &catalogue::MEETINGS),
    ("participants", &catalogue::PARTICIPANTS),
    ("peer connections", &catalogue::PEER_CONNECTIONS),
    ("degraded sessions", &catalogue::SESSIONS_DEGRADED),
];

const RATES: [(&str, &Metric); 10] = [
    ("frames folded", &catalogue::FRAMES_FOLDED),
    ("frames repeated", &catalogue::FRAMES_REPEATED),
    ("frames refused", &catalogue::FRAMES_REFUSED),
    ("frames rejected", &catalogue::FRAMES_REJECTED),
    ("NetEQ operations", &catalogue::NETEQ_OPERATIONS),
    ("audio samples", &catalogue::SAMPLES),
    ("concealed samples", &catalogue::CONCEALED_SAMPLES),
    ("packets received", &catalogue::PACKETS_RECEIVED),
    ("packets lost", &catalogue::PACKETS_LOST),
    ("video freezes", &catalogue::FREEZES),
];

pub(crate) fn judge(watched: &WatchedWindow, tolerances: &Tolerances) -> WindowJudgement {
    let [old, new] = &watched.names;
    let mut reasons = Vec::new();
    let (blue_version, green_version, version) = versions(watched);
    let mut is_final = false;
    match version {
        VersionVerdict::Same | VersionVerdict::Newer => {}
        VersionVerdict::Older if tolerances.allow_older => {}
        VersionVerdict::Older => {
            is_final = true;
            reasons.push(format!(
                "{new} runs {green_version}, which is older than {old}'s {blue_version}; \
                 if that is intended, --allow-older"
            ));
        }
        VersionVerdict::Unclear => {
            reasons.push(format!("versions are mixed: {old} runs {blue_version}, {new} {green_version}"));
        }
    }

    let mut rows: Vec<_> =
        watched.regions.iter().flat_map(|region| region_rows(watched, region, tolerances)).collect();
    rows.extend(live_series_rows(watched, tolerances));
    reasons.extend(rows.iter().filter_map(|row| row.reason(old, new)));

    for region in &watched.regions {
        let live = sessions(watched, region);
        if live < tolerances.min_sessions {
            let [live, needed] = [live, tolerances.min_sessions].map(number);
            reasons.push(format!(
                "region {region} has {live} live sessions, and a comparison needs {needed}: \
                 wait for calls, or compare without calls with --min-sessions 0"
            ));
        }
    }
    WindowJudgement { blue_version, green_version, version, rows, reasons, is_final }
}

fn region_rows(watched: &WatchedWindow, region: &str, tolerances: &Tolerances) -> Vec<ComparisonRow> {
    let (sessions, labels) = (sessions(watched, region), [("region", region)]);
    let mut rows = Vec::new();
    for (what, metric) in POPULATION {
        let both = watched.both(|readings| Ok(mean(readings, metric, &labels)));
        let row = ComparisonRow::new(region, what, "", both);
        // Each session that is on one side only brings its peer connections along.
        let floor = tolerances.floor * per_session(row.blue, sessions).max(1.0);
        rows.push(row.judged(tolerances.tolerance, floor));
    }
    rows.push(round_trips(watched, region, tolerances));
    for (what, metric) in RATES {
        let both = watched.both(|readings| rate(readings, metric, &labels));
        let row = ComparisonRow::new(region, what, "/s", both);
        let a_few_sessions = tolerances.floor * per_session(row.blue, sessions);
        let floor = a_few_sessions.max(EDGE_EVENTS / seconds(&watched.blue).max(1.0));
        rows.push(row.judged(tolerances.rate_tolerance, floor));
    }
    rows
}

fn live_series_rows(watched: &WatchedWindow, tolerances: &Tolerances) -> [ComparisonRow; 2] {
    let all_sessions: f64 = watched.regions.iter().map(|region| sessions(watched, region)).sum();
    [(Plane::Session, "live session series"), (Plane::Pair, "live pair series")].map(|(plane, what)| {
        let labels = [("plane", plane.label())];
        let both = watched.both(|readings| Ok(mean(readings, &catalogue::LIVE_SERIES, &labels)));
        let row = ComparisonRow::new("", what, "", both);
        // A session that starts or ends a moment apart takes its series and those of its pairs
        // along.
        let floor = per_session(row.blue, all_sessions) * tolerances.floor;
        row.judged(tolerances.tolerance, floor)
    })
}

/// The 95th percentile of the round trips observed within the window.
fn round_trips(watched: &WatchedWindow, region: &str, tolerances: &Tolerances) -> ComparisonRow {
    let window = |readings: &[MetricsReading]| {
        let buckets = |reading: &MetricsReading| reading.page.buckets(&catalogue::RTT, &[("region", region)]);
        match (readings.first(), readings.last()) {
            (Some(first), Some(last)) => buckets(last).since(&buckets(first)).ok_or(CounterDecreased),
            _ => Ok(Buckets::default()),
        }
    };
    let both = [window(&watched.blue), window(&watched.green)];
    let fewest = both.iter().flatten().map(Buckets::count).fold(f64::INFINITY, f64::min);
    let p95 = both.map(|window| window.map(|buckets| buckets.quantile(0.95).map(|seconds| seconds * 1e3)));
    let row = ComparisonRow::new(region, "RTT p95", "ms", p95);
    let mut row = row.judged(tolerances.rtt_tolerance, tolerances.rtt_floor_ms);
    let is_judged = !matches!(row.verdict, RowVerdict::Restarted | RowVerdict::Unusable);
    if is_judged && fewest < FEWEST_ROUND_TRIPS {
        // The rates show whether one side has far fewer.
        row.verdict = RowVerdict::TooFew;
    }
    row
}

/// A counter is lower at the end of the window than at its beginning.
#[derive(Clone, Copy)]
struct CounterDecreased;

/// The value of a measure on one side; `None` if there is no such series.
type SideValue = Result<Option<f64>, CounterDecreased>;

/// The growth of a counter per second.
fn rate(readings: &[MetricsReading], metric: &Metric, labels: &[(&str, &str)]) -> SideValue {
    let [Some(first), Some(last)] = [readings.first(), readings.last()] else { return Ok(None) };
    let Some(after) = last.page.sum(metric, labels) else { return Ok(None) };
    // A series that did not exist counts from zero.
    let growth = after - first.page.sum(metric, labels).unwrap_or(0.0);
    if growth < 0.0 { Err(CounterDecreased) } else { Ok(Some(growth / seconds(readings))) }
}

impl ComparisonRow {
    /// A row of blue's and green's value, to be judged.
    fn new(region: &str, what: &'static str, unit: &'static str, [blue, green]: [SideValue; 2]) -> Self {
        let restarted = blue.is_err() || green.is_err();
        let verdict = if restarted { RowVerdict::Restarted } else { RowVerdict::Agree };
        let [blue, green] = [blue, green].map(|value| value.ok().flatten());
        Self { region: region.to_owned(), what, unit, blue, green, allowed: 0.0, verdict }
    }

    /// The row with a verdict: green may differ by a share of blue's value, or by `floor` if that
    /// is more.
    fn judged(mut self, share: f64, floor: f64) -> Self {
        let (ours, theirs) = (self.blue.unwrap_or(0.0), self.green.unwrap_or(0.0));
        self.allowed = (ours * share).max(floor);
        if self.verdict == RowVerdict::Restarted {
            return self;
        }
        if !(ours.is_finite() && theirs.is_finite()) {
            self.verdict = RowVerdict::Unusable;
        } else if (theirs - ours).abs() > self.allowed {
            self.verdict = if theirs < ours { RowVerdict::Less } else { RowVerdict::More };
        }
        self
    }

    /// Why green must not take over, if this row says so.
    fn reason(&self, old: &str, new: &str) -> Option<String> {
        let what = self.what;
        let place = if self.region.is_empty() { String::new() } else { format!("region {}: ", self.region) };
        let [ours, theirs] = [self.blue, self.green].map(|value| self.shown(value.or(Some(0.0))));
        let than = match self.verdict {
            RowVerdict::Agree | RowVerdict::TooFew => return None,
            RowVerdict::Restarted => {
                return Some(format!("{place}{what} decreased: an exporter restarted meanwhile"));
            }
            RowVerdict::Unusable => {
                return Some(format!(
                    "{place}{what}: {old} has {ours}, {new} {theirs}: they can't be compared"
                ));
            }
            RowVerdict::Less => "less",
            RowVerdict::More => "more",
        };
        let allowed = self.shown(Some(self.allowed));
        Some(format!("{place}{what}: {new} has {theirs}, {than} than {old}'s {ours} by over {allowed}"))
    }

    /// A value of this row with its unit.
    pub(super) fn shown(&self, value: Option<f64>) -> String {
        match (value, self.unit) {
            (None, _) => words::UNKNOWN.to_owned(),
            (Some(value), _) if !value.is_finite() => value.to_string(),
            (Some(value), "ms") => words::seconds(value / 1e3),
            (Some(value), unit) => format!("{}{unit}", number(value)),
        }
    }
}

/// A count or a mean of counts, which a fraction of matters only while it is small.
fn number(value: f64) -> String {
    if value >= 1_000.0 || value == value.trunc() {
        words::count(value.round() as u64)
    } else {
        format!("{value:.1}")
    }
}

/// Blue's live sessions in a region.
fn sessions(watched: &WatchedWindow, region: &str) -> f64 {
    mean(&watched.blue, &catalogue::SESSIONS, &[("region", region)]).unwrap_or(0.0)
}

fn per_session(value: Option<f64>, sessions: f64) -> f64 {
    if sessions > 0.0 { value.unwrap_or(0.0) / sessions } else { 0.0 }
}

/// The mean of a gauge over the window.
fn mean(readings: &[MetricsReading], metric: &Metric, labels: &[(&str, &str)]) -> Option<f64> {
    let values: Vec<_> = readings.iter().filter_map(|reading| reading.page.sum(metric, labels)).collect();
    #[expect(clippy::cast_precision_loss, reason = "a window has a handful of readings")]
    let count = readings.len() as f64;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / count)
}

fn seconds(readings: &[MetricsReading]) -> f64 {
    match (readings.first(), readings.last()) {
        (Some(first), Some(last)) => last.at.duration_since(first.at).as_secs_f64().max(f64::MIN_POSITIVE),
        _ => f64::MIN_POSITIVE,
    }
}

fn versions(watched: &WatchedWindow) -> (String, String, VersionVerdict) {
    let [blue, green] = watched.both(|readings| {
        let of = |reading| MetricsPage::label_values(reading, &BUILD_INFO, "version");
        let versions: BTreeSet<&str> = readings.iter().flat_map(|reading| of(&reading.page)).collect();
        words::list(&versions.into_iter().map(shown).collect::<Vec<_>>())
    });
    let verdict = match (Version::parse(&blue), Version::parse(&green)) {
        (Ok(ours), Ok(theirs)) => match theirs.cmp_precedence(&ours) {
            Ordering::Less => VersionVerdict::Older,
            Ordering::Equal => VersionVerdict::Same,
            Ordering::Greater => VersionVerdict::Newer,
        },
        _ => VersionVerdict::Unclear,
    };
    (blue, green, verdict)
}

#[cfg(test)]
mod tests;
