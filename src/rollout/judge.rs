//! Whether two colours that were watched over the same window say the same of the same calls.
//!
//! Both fold the same frames, so they agree but for two things: at the edges of the window one may have folded a frame
//! that the other has not, and a session falls idle a moment earlier here than there. What the tolerances allow is
//! therefore a share of blue's value or what a few sessions make, whichever is more: a share alone would stop every
//! rollout at night, when two of three sessions are 67 %, and a number alone would let a large population drift.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde::Serialize;

use super::colour::Reading;
use super::page::Buckets;

/// Fewer round trips than these have no 95th percentile worth a comparison.
const FEWEST_ROUND_TRIPS: f64 = 20.0;

/// How many events more or less are none: concealment and freezes come in bursts, and a burst may lie on an edge.
const EDGE_EVENTS: f64 = 5.0;

/// How far the two may be apart.
#[derive(Clone, Copy, Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Tolerances {
    /// Of populations and live series, as a share of blue's.
    pub(crate) tolerance: f64,
    /// Of rates, as a share of blue's.
    pub(crate) rate_tolerance: f64,
    /// Of the round trips' 95th percentile, as a share of blue's.
    pub(crate) rtt_tolerance: f64,
    /// Sessions more or less that are none, and with them what so many sessions send.
    pub(crate) floor: f64,
    /// Milliseconds more or less of the 95th percentile that are none.
    pub(crate) rtt_floor_ms: f64,
    /// Live sessions that blue must have: without calls there is nothing to compare.
    pub(crate) min_sessions: f64,
    /// Whether green may be of an older version than blue.
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

/// What two colours were seen to say over one window.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    /// What the old one and the new one are called.
    pub(crate) names: [String; 2],
    /// The regions that both serve.
    pub(crate) regions: BTreeSet<String>,
    /// At least two readings, the window's two ends among them.
    pub(crate) blue: Vec<Reading>,
    /// As many.
    pub(crate) green: Vec<Reading>,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    /// The region, or nothing for what belongs to the exporter as a whole.
    pub(crate) region: String,
    /// What is compared.
    pub(crate) what: &'static str,
    /// Its unit, if it has one.
    pub(crate) unit: &'static str,
    /// What blue says.
    pub(crate) blue: Option<f64>,
    /// What green says.
    pub(crate) green: Option<f64>,
    /// How far green may be from blue.
    pub(crate) allowed: f64,
    /// What follows.
    pub(crate) verdict: RowVerdict,
}

/// What follows from one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RowVerdict {
    /// Within what is allowed.
    Agree,
    /// Green is too low.
    Less,
    /// Green is too high.
    More,
    /// Too little on both sides to say anything.
    TooFew,
    /// A counter went back: an exporter was started again meanwhile.
    Restarted,
}

/// How green's version stands to blue's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum VersionVerdict {
    /// The same.
    Same,
    /// Green's is later.
    Newer,
    /// Green's is earlier.
    Older,
    /// A colour is of several versions, or of none.
    Unclear,
}

/// What one window said.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Judgement {
    /// Blue's version.
    pub(crate) blue_version: String,
    /// Green's version.
    pub(crate) green_version: String,
    /// How they stand to each other.
    pub(crate) version: VersionVerdict,
    /// A row a region and measure.
    pub(crate) rows: Vec<Row>,
    /// Why green may not take over; none if it may.
    pub(crate) reasons: Vec<String>,
    /// Whether waiting can't change it.
    #[serde(skip)]
    pub(crate) is_final: bool,
}

/// How a measure is had from the readings.
#[derive(Clone, Copy)]
enum Kind {
    /// A gauge's mean over the window.
    Mean(&'static str),
    /// A counter's growth a second.
    Rate(&'static str),
}

const POPULATION: [(&str, Kind); 5] = [
    ("sessions", Kind::Mean("videocall_sessions")),
    ("meetings", Kind::Mean("videocall_meetings")),
    ("participants", Kind::Mean("videocall_participants")),
    ("peer connections", Kind::Mean("videocall_peer_connections")),
    ("degraded sessions", Kind::Mean("videocall_sessions_degraded")),
];

const RATES: [(&str, Kind); 9] = [
    ("frames folded", Kind::Rate("callsight_frames_folded_total")),
    ("frames repeated", Kind::Rate("callsight_frames_repeated_total")),
    ("frames rejected", Kind::Rate("callsight_frames_rejected_total")),
    ("NetEQ operations", Kind::Rate("videocall_neteq_operations_total")),
    ("audio samples", Kind::Rate("videocall_audio_samples_total")),
    ("concealed samples", Kind::Rate("videocall_audio_concealed_samples_total")),
    ("packets received", Kind::Rate("videocall_audio_packets_received_total")),
    ("packets lost", Kind::Rate("videocall_audio_packets_lost_total")),
    ("video freezes", Kind::Rate("videocall_video_freezes_total")),
];

/// Judges one window.
pub(crate) fn judge(watched: &Watched, tolerances: &Tolerances) -> Judgement {
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
                 if that is meant, --allow-older"
            ));
        }
        VersionVerdict::Unclear => {
            reasons.push(format!("versions are mixed: {old} runs {blue_version}, {new} {green_version}"));
        }
    }

    let mut rows = Vec::new();
    for region in &watched.regions {
        region_rows(watched, region, tolerances, &mut rows);
    }
    for plane in ["session", "pair"] {
        let value = |readings: &[Reading]| mean(readings, "callsight_live_series", &[("plane", plane)]);
        let (blue, green) = (value(&watched.blue), value(&watched.green));
        // A session that comes or goes a moment apart takes its series and those of its pairs with it.
        let sessions: f64 = watched.regions.iter().filter_map(|region| sessions(&watched.blue, region)).sum();
        let floor = per_session(blue.unwrap_or(0.0), sessions) * tolerances.floor;
        let what = if plane == "session" { "live session series" } else { "live pair series" };
        rows.push(row("", what, "", blue, green, tolerances.tolerance, floor));
    }
    reasons.extend(rows.iter().filter_map(|row| row.reason(old, new)));

    for region in &watched.regions {
        let live = sessions(&watched.blue, region).unwrap_or(0.0);
        if live < tolerances.min_sessions {
            reasons.push(format!(
                "region {region} has {live:.1} live sessions, and a comparison needs {:.0}: \
                 wait for calls, or --min-sessions 0 to go without",
                tolerances.min_sessions
            ));
        }
    }
    Judgement { blue_version, green_version, version, rows, reasons, is_final }
}

fn region_rows(watched: &Watched, region: &str, tolerances: &Tolerances, rows: &mut Vec<Row>) {
    let of = |kind| value(&watched.blue, region, kind).zip_with(value(&watched.green, region, kind));
    for (what, kind) in POPULATION {
        let Both { blue, green, .. } = of(kind);
        // Each session that is on one side alone brings its peer connections along.
        let sessions = sessions(&watched.blue, region).unwrap_or(0.0);
        let floor = tolerances.floor * per_session(blue.unwrap_or(0.0), sessions).max(1.0);
        rows.push(row(region, what, "", blue, green, tolerances.tolerance, floor));
    }
    rows.push(round_trips(watched, region, tolerances));
    for (what, kind) in RATES {
        let Both { blue, green, restarted } = of(kind);
        let sessions = sessions(&watched.blue, region).unwrap_or(0.0);
        let a_few_sessions = tolerances.floor * per_session(blue.unwrap_or(0.0), sessions);
        let floor = a_few_sessions.max(EDGE_EVENTS / seconds(&watched.blue).max(1.0));
        let mut row = row(region, what, "/s", blue, green, tolerances.rate_tolerance, floor);
        if restarted {
            row.verdict = RowVerdict::Restarted;
        }
        rows.push(row);
    }
}

/// What both sides say of one measure.
struct Both {
    blue: Option<f64>,
    green: Option<f64>,
    restarted: bool,
}

/// A measure of one side: absent, there, or void because a counter went back.
enum Value {
    Absent,
    There(f64),
    Restarted,
}

impl Value {
    fn zip_with(self, green: Self) -> Both {
        let restarted = matches!((&self, &green), (Self::Restarted, _) | (_, Self::Restarted));
        let number = |value| match value {
            Self::There(value) => Some(value),
            Self::Absent | Self::Restarted => None,
        };
        Both { blue: number(self), green: number(green), restarted }
    }
}

fn value(readings: &[Reading], region: &str, kind: Kind) -> Value {
    let labels = [("region", region)];
    match kind {
        Kind::Mean(name) => mean(readings, name, &labels).map_or(Value::Absent, Value::There),
        Kind::Rate(name) => {
            let [Some(first), Some(last)] = [readings.first(), readings.last()] else { return Value::Absent };
            let Some(after) = last.sum(name, &labels) else { return Value::Absent };
            // A series that was not there counts from zero.
            let grown = after - first.sum(name, &labels).unwrap_or(0.0);
            if grown < 0.0 { Value::Restarted } else { Value::There(grown / seconds(readings)) }
        }
    }
}

/// The 95th percentile of what was measured within the window.
fn round_trips(watched: &Watched, region: &str, tolerances: &Tolerances) -> Row {
    let window = |readings: &[Reading]| {
        let buckets = |reading: &Reading| reading.buckets("videocall_rtt_seconds", &[("region", region)]);
        buckets(readings.last()?).since(&buckets(readings.first()?))
    };
    let (blue, green) = (window(&watched.blue), window(&watched.green));
    let restarted = blue.is_none() || green.is_none();
    let (blue, green) = (blue.unwrap_or_default(), green.unwrap_or_default());
    let p95 = |buckets: &Buckets| buckets.quantile(0.95).map(|seconds| seconds * 1e3);
    let (share, floor) = (tolerances.rtt_tolerance, tolerances.rtt_floor_ms);
    let mut row = row(region, "RTT p95", "ms", p95(&blue), p95(&green), share, floor);
    if restarted {
        row.verdict = RowVerdict::Restarted;
    } else if blue.count().min(green.count()) < FEWEST_ROUND_TRIPS {
        // Whether one of them has far fewer is what the rates tell.
        row.verdict = RowVerdict::TooFew;
    }
    row
}

fn row(
    region: &str,
    what: &'static str,
    unit: &'static str,
    blue: Option<f64>,
    green: Option<f64>,
    share: f64,
    floor: f64,
) -> Row {
    let (ours, theirs) = (blue.unwrap_or(0.0), green.unwrap_or(0.0));
    let allowed = (ours * share).max(floor);
    let verdict = match (theirs - ours).partial_cmp(&0.0) {
        _ if (theirs - ours).abs() <= allowed => RowVerdict::Agree,
        Some(Ordering::Less) => RowVerdict::Less,
        _ => RowVerdict::More,
    };
    Row { region: region.to_owned(), what, unit, blue, green, allowed, verdict }
}

impl Row {
    /// Why green may not take over, if this row says so.
    fn reason(&self, old: &str, new: &str) -> Option<String> {
        let Self { what, unit, allowed, .. } = self;
        let (blue, green) = (self.blue.unwrap_or(0.0), self.green.unwrap_or(0.0));
        let place = if self.region.is_empty() { String::new() } else { format!("region {}: ", self.region) };
        match self.verdict {
            RowVerdict::Agree | RowVerdict::TooFew => None,
            RowVerdict::Restarted => {
                Some(format!("{place}{what} went back: an exporter was started again meanwhile"))
            }
            RowVerdict::Less | RowVerdict::More => {
                let than = if self.verdict == RowVerdict::Less { "less" } else { "more" };
                let (ours, theirs, allowed) = (number(blue), number(green), number(*allowed));
                Some(format!(
                    "{place}{what}: {new} has {theirs}{unit}, {than} than {old}'s {ours}{unit} by over {allowed}"
                ))
            }
        }
    }
}

/// As many digits as one reads.
pub(super) fn number(value: f64) -> String {
    if value.abs() >= 1_000.0 || value == value.trunc() {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    }
}

fn sessions(readings: &[Reading], region: &str) -> Option<f64> {
    mean(readings, "videocall_sessions", &[("region", region)])
}

fn per_session(value: f64, sessions: f64) -> f64 {
    if sessions > 0.0 { value / sessions } else { 0.0 }
}

fn mean(readings: &[Reading], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let values: Vec<_> = readings.iter().filter_map(|reading| reading.sum(name, labels)).collect();
    #[expect(clippy::cast_precision_loss, reason = "a window has a handful of readings")]
    let count = readings.len() as f64;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / count)
}

fn seconds(readings: &[Reading]) -> f64 {
    match (readings.first(), readings.last()) {
        (Some(first), Some(last)) => last.at.duration_since(first.at).as_secs_f64().max(f64::MIN_POSITIVE),
        _ => f64::MIN_POSITIVE,
    }
}

fn versions(watched: &Watched) -> (String, String, VersionVerdict) {
    let of = |readings: &[Reading]| {
        let versions: BTreeSet<String> = readings.iter().flat_map(Reading::versions).collect();
        versions.into_iter().collect::<Vec<_>>().join(" and ")
    };
    let (blue, green) = (of(&watched.blue), of(&watched.green));
    let verdict = match (parts(&blue), parts(&green)) {
        (Some(ours), Some(theirs)) => match theirs.cmp(&ours) {
            Ordering::Less => VersionVerdict::Older,
            Ordering::Equal => VersionVerdict::Same,
            Ordering::Greater => VersionVerdict::Newer,
        },
        _ => VersionVerdict::Unclear,
    };
    (blue, green, verdict)
}

/// A version so that it sorts as semver says: the numbers, then candidates before the release. Of a candidate's
/// identifiers the numbers come before words.
type Precedence = ([u64; 3], bool, Vec<(bool, u64, String)>);

/// `1.2.3` or `1.2.3-rc.1`.
fn parts(version: &str) -> Option<Precedence> {
    let version = version.split('+').next().unwrap_or_default();
    let (numbers, candidate) = version.split_once('-').map_or((version, ""), |split| split);
    let numbers: Option<Vec<u64>> = numbers.split('.').map(|number| number.parse().ok()).collect();
    let numbers = <[u64; 3]>::try_from(numbers?).ok()?;
    let identifier = |text: &str| (text.parse::<u64>().is_err(), text.parse().unwrap_or(0), text.to_owned());
    Some((numbers, candidate.is_empty(), candidate.split('.').map(identifier).collect()))
}

#[cfg(test)]
mod tests;
