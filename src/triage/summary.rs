//! The summary: everything that the page shows, as `/api/triage` answers it.
//!
//! A look brings values of one moment. Rates, since when a place is bad, and whether it has become
//! silent need the looks before it too, which [`Memory`] keeps. `docs/triage.md` describes every
//! field.
//!
//! Invariant: the summary depends on the looks taken and on nothing else.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde::Serialize;
use time::OffsetDateTime;

use super::counts::{Counts, RegionCounts};
use super::history::{History, HistorySummary, is_due};
use super::sessions::{SessionSummary, Walk};
use crate::consume::HealthReport;
use crate::insight::client::{Clients, outlier};
use crate::insight::counters::{Grown, ServerKey};
use crate::insight::place::{JudgedRegion, JudgedServer, RegionView, rfc3339};
use crate::insight::population::{Part, Population, ServerCounts, tenth};
use crate::insight::spell::{Clocks, Spells};
use crate::insight::state::State;
use crate::insight::state::Threshold;
use crate::insight::verdict::MomentVerdict;
use callsight_fold::DetailLevel;

/// The version of the format. Fields may be added under the same one.
pub(super) const VERSION: u32 = 1;

/// The time over which rates are computed.
const MINUTE: Duration = Duration::from_secs(60);

/// The number of servers that are shown.
const SERVERS: usize = 12;

/// Facts that do not change while the exporter runs.
#[derive(Clone, Debug)]
pub(crate) struct Fixed {
    pub(crate) deployment: String,
    pub(crate) regions: Vec<String>,
    pub(crate) detail: DetailLevel,
    pub(crate) max_series: usize,
    pub(crate) rtt_limit_ms: f64,
    pub(crate) concealment_limit: f64,
    pub(crate) loss_limit: f64,
    /// What makes a place bad.
    pub(crate) bad: Threshold,
    pub(crate) started: OffsetDateTime,
}

/// The answer of `/api/triage`.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    version: u32,
    as_of: String,
    started_at: String,
    /// How long the look took.
    look_seconds: f64,
    callsight_version: &'static str,
    deployment: String,
    detail: &'static str,
    rtt_limit_ms: f64,
    audio_concealed_limit_ratio: f64,
    packets_lost_limit_ratio: f64,
    pub(crate) verdict: MomentVerdict,
    pub(super) all: Population,
    /// The release or platform that has most of the degraded sessions although the others are
    /// mostly fine.
    client_outlier: Option<String>,
    pub(crate) regions: Vec<JudgedRegion>,
    pub(super) servers: Vec<JudgedServer>,
    servers_total: usize,
    pub(crate) worst_sessions: Vec<SessionSummary>,
    pub(super) pipeline: Pipeline,
    pub(super) history: HistorySummary,
}

/// The health of the exporter itself.
#[derive(Debug, Serialize)]
pub(super) struct Pipeline {
    pub(super) ready: bool,
    pub(super) live_series: usize,
    pub(super) max_series: usize,
    pub(super) regions: Vec<RegionPipeline>,
}

/// The health of the way from a region's stream to its series.
#[derive(Debug, Serialize)]
pub(super) struct RegionPipeline {
    #[serde(flatten)]
    health: HealthReport,
    nats_connected: bool,
    last_folded_frame_age_seconds: Option<f64>,
    frames_per_second: Option<f64>,
    /// Of the last minute, as are the dead letters and refusals that are named so.
    rejected_last_minute: u64,
    rejected_total: u64,
    dead_letters_total: u64,
    dead_letters_lost_total: u64,
    frames_refused_last_minute: BTreeMap<String, u64>,
    frames_refused_total: BTreeMap<String, u64>,
    refused_last_minute: BTreeMap<String, u64>,
    refused_total: BTreeMap<String, u64>,
}

/// The values of one moment.
pub(super) struct Look {
    /// When it began, to show how long it took.
    pub(super) began: Instant,
    pub(super) at: Clocks,
    pub(super) counts: Counts,
    pub(super) walk: Option<Walk>,
    pub(super) reports: Vec<HealthReport>,
    pub(super) live_series: usize,
}

/// What is kept from look to look.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    readings: VecDeque<(Clocks, Counts)>,
    history: History,
    spells: Spells,
    /// The people of each region while its view was current.
    known: BTreeMap<String, Population>,
}

/// The people of all places at one look.
struct Places {
    all: Population,
    regions: Vec<JudgedRegion>,
    servers: Vec<JudgedServer>,
}

impl Memory {
    /// Judges a look, and puts together everything that the page shows.
    pub(super) fn take(&mut self, look: Look, fixed: &Fixed) -> Summary {
        let Look { began, at, counts, mut walk, reports, live_series } = look;
        let nothing = Counts::default();
        let (seconds, earlier) = self.minute_before(at).map_or((0.0, &nothing), |(earlier, counts)| {
            (at.steady.saturating_sub(earlier.steady).as_secs_f64(), counts)
        });
        let mut places = places(&reports, &counts, earlier, seconds, walk.as_mut(), fixed.bad);
        let pipeline = Pipeline {
            ready: reports.iter().all(|report| report.ready),
            live_series,
            max_series: fixed.max_series,
            regions: reports
                .into_iter()
                .map(|health| {
                    let none = RegionCounts::default();
                    let own = counts.regions.get(&health.region).unwrap_or(&none);
                    let before = earlier.regions.get(&health.region);
                    RegionPipeline::new(health, own, before.unwrap_or(own), seconds)
                })
                .collect(),
        };
        self.keep_known(&mut places);
        self.compare(&mut places, at, fixed.rtt_limit_ms);
        if self.readings.back().is_none_or(|(last, _)| is_due(*last, at)) {
            self.readings.push_back((at, counts));
        }
        let Places { all, regions, mut servers } = places;
        servers.retain(|server| server.people.sessions > 0);
        servers.sort_by(JudgedServer::worst_first);
        let verdict = MomentVerdict::on(&regions, &servers, &all, fixed.rtt_limit_ms);
        let servers_total = servers.len();
        servers.truncate(SERVERS);
        Summary {
            version: VERSION,
            as_of: rfc3339(at.wall),
            started_at: rfc3339(fixed.started),
            look_seconds: began.elapsed().as_secs_f64(),
            callsight_version: env!("CARGO_PKG_VERSION"),
            deployment: fixed.deployment.clone(),
            detail: fixed.detail.label(),
            rtt_limit_ms: fixed.rtt_limit_ms,
            audio_concealed_limit_ratio: fixed.concealment_limit,
            packets_lost_limit_ratio: fixed.loss_limit,
            verdict,
            client_outlier: outlier(&all.clients).map(|outlier| outlier.name),
            all,
            history: self.history.summary(&regions),
            regions,
            servers,
            servers_total,
            worst_sessions: walk.map(|walk| walk.worst).unwrap_or_default(),
            pipeline,
        }
    }

    /// The reading a minute ago, or the first one; older ones are dropped.
    fn minute_before(&mut self, at: Clocks) -> Option<&(Clocks, Counts)> {
        let old = |(then, _): &(Clocks, Counts)| at.steady.saturating_sub(then.steady) >= MINUTE;
        while self.readings.get(1).is_some_and(old) {
            self.readings.pop_front();
        }
        self.readings.front()
    }

    /// Shows the people of a region whose view is lost as they were last: its sessions go on
    /// falling idle, which says nothing about them.
    fn keep_known(&mut self, places: &mut Places) {
        for region in &mut places.regions {
            match self.known.get(&region.region) {
                Some(known) if region.state == State::Unknown => region.people = known.clone(),
                _ if region.state == State::Unknown => {}
                _ => drop(self.known.insert(region.region.clone(), region.people.clone())),
            }
        }
    }

    /// Compares places with their past, and adds them to it.
    fn compare(&mut self, places: &mut Places, at: Clocks, rtt_limit_ms: f64) {
        for (index, region) in places.regions.iter_mut().enumerate() {
            region.follow(self.history.most_sessions(index), &mut self.spells, at, rtt_limit_ms);
        }
        let nobody = Clients::new();
        for server in &mut places.servers {
            let region = places.regions.iter().find(|region| region.region == server.key.region);
            let clients = region.map_or(&nobody, |region| &region.people.clients);
            server.follow(clients, &mut self.spells, at, rtt_limit_ms);
        }
        self.spells.keep_servers(&places.servers.iter().map(|server| &server.key).collect());
        self.history.follow(at, &places.regions);
    }
}

/// Counts the people of each place, and judges regions and servers.
fn places(
    reports: &[HealthReport],
    counts: &Counts,
    earlier: &Counts,
    seconds: f64,
    mut walk: Option<&mut Walk>,
    bad: Threshold,
) -> Places {
    let mut places = Places { all: Population::default(), regions: Vec::new(), servers: Vec::new() };
    let mut all_grown = Grown::default();
    let mut everybody = Part::default();
    for report in reports {
        let view = region_view(report);
        let mut people = Population::default();
        let mut region_grown = Grown::default();
        for (key, server) in counts.servers.iter().filter(|(key, _)| key.region == report.region) {
            let grown = grown(key, server, earlier, seconds);
            region_grown.add(&grown);
            people.merge(&server.people);
            let mut on_it = Population::default();
            on_it.merge(&server.people);
            on_it.take_minute(&grown, seconds);
            if let Some(walk) = &mut walk {
                on_it.take_part(walk.servers.entry(key.clone()).or_default());
            }
            places.servers.push(JudgedServer::new(key.clone(), on_it, view == RegionView::Current, bad));
        }
        people.clients = counts.clients.get(&report.region).cloned().unwrap_or_default();
        people.clients.retain(|_, client| client.sessions > 0);
        people.take_minute(&region_grown, seconds);
        if let Some(walk) = &mut walk {
            let part = walk.regions.entry(report.region.clone()).or_default();
            everybody.rtts_ms.extend_from_slice(&part.rtts_ms);
            if walk.rows > 0 {
                people.meetings = part.meetings;
            }
            people.take_part(part);
        }
        all_grown.add(&region_grown);
        places.all.merge(&people);
        places.regions.push(JudgedRegion::new(report.region.clone(), people, view, bad));
    }
    places.all.take_minute(&all_grown, seconds);
    if let Some(walk) = walk {
        (everybody.meetings, everybody.meetings_degraded) = (walk.meetings, walk.meetings_degraded);
        places.all.take_part(&mut everybody);
        if walk.rows > 0 {
            places.all.meetings = walk.meetings;
        }
    }
    places
}

/// What a region's health says about its numbers.
fn region_view(report: &HealthReport) -> RegionView {
    if !report.ready {
        return RegionView::Lost { why: report.why.clone().unwrap_or_default(), since: report.since };
    }
    match report.still_sessions {
        Some(sessions) => RegionView::Still { since: report.still_since, sessions },
        None => RegionView::Current,
    }
}

/// The growth of a server's counters since an earlier reading.
fn grown(key: &ServerKey, server: &ServerCounts, earlier: &Counts, seconds: f64) -> Grown {
    match earlier.servers.get(key) {
        Some(before) => server.grown.since(&before.grown),
        // A new server began at zero, unless this is the first reading of all.
        None if seconds > 0.0 => server.grown.clone(),
        None => Grown::default(),
    }
}

impl RegionPipeline {
    fn new(health: HealthReport, own: &RegionCounts, before: &RegionCounts, seconds: f64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "no minute has 2^53 frames")]
        let folded = own.folded.saturating_sub(before.folded) as f64;
        Self {
            health,
            nats_connected: own.connected,
            last_folded_frame_age_seconds: own.last_folded_age.map(tenth),
            frames_per_second: (seconds > 0.0).then(|| tenth(folded / seconds)),
            rejected_last_minute: own.rejected.saturating_sub(before.rejected),
            rejected_total: own.rejected,
            dead_letters_total: own.dead_letters,
            dead_letters_lost_total: own.dead_letters_lost,
            frames_refused_last_minute: since(&own.frames_refused, &before.frames_refused),
            frames_refused_total: since(&own.frames_refused, &BTreeMap::new()),
            refused_last_minute: since(&own.refused, &before.refused),
            refused_total: since(&own.refused, &BTreeMap::new()),
        }
    }
}

/// The counts that have grown, and by how much.
fn since(counts: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let grown = |(name, count): (&String, &u64)| {
        let grown = count.saturating_sub(before.get(name).copied().unwrap_or(0));
        (grown > 0).then(|| (name.clone(), grown))
    };
    counts.iter().filter_map(grown).collect()
}

#[cfg(test)]
mod tests {
    use super::super::history::STEP;
    use super::*;

    #[test]
    fn readings_are_dropped_once_they_are_a_minute_old() {
        let mut memory = Memory::default();
        for step in 0..1000 {
            let at = Clocks { wall: OffsetDateTime::UNIX_EPOCH, steady: STEP * step };
            let before = memory.minute_before(at).map(|(before, _)| at.steady - before.steady);
            assert_eq!(before, (step > 0).then_some((STEP * step).min(MINUTE)));
            memory.readings.push_back((at, Counts::default()));
            assert!(memory.readings.len() <= 13, "{step}");
        }
    }
}
