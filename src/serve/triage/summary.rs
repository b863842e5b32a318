//! The summary: everything that the page shows, as `/api/triage` answers it. `docs/triage.md` tells every field.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::counts::{Counts, RegionCounts, ServerCounts, ServerKey};
use super::history::{History, HistorySummary, STEP};
use super::judge::{State, Verdict};
use super::population::{Minute, Population};
use super::sessions::{SessionSummary, Walk};
use super::spells::{Spell, Spells};
use crate::consume::HealthReport;
use callsight_fold::DetailLevel;
use callsight_fold::series::aggregates::Limit;

/// The version of the format. Fields may be added under the same one.
pub(super) const VERSION: u32 = 1;

/// How long counters are looked back for their rates.
const MINUTE: Duration = Duration::from_secs(60);

/// How many sessions a region must have had for nobody there to be more than the end of a call.
const MANY: u64 = 10;

/// How many of the servers are told.
const SERVERS: usize = 12;

/// What does not change while the exporter runs.
#[derive(Clone, Debug)]
pub(in crate::serve) struct Fixed {
    pub(in crate::serve) deployment: String,
    pub(in crate::serve) regions: Vec<String>,
    pub(in crate::serve) detail: DetailLevel,
    pub(in crate::serve) max_series: usize,
    pub(in crate::serve) rtt_limit_ms: f64,
    pub(in crate::serve) concealment_limit: f64,
    pub(in crate::serve) started: OffsetDateTime,
}

/// The whole answer.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    version: u32,
    as_of: String,
    started_at: String,
    /// How long it took to look at everything.
    look_seconds: f64,
    callsight_version: &'static str,
    deployment: String,
    detail: &'static str,
    rtt_limit_ms: f64,
    audio_concealed_limit_ratio: f64,
    pub(super) verdict: Verdict,
    pub(super) all: Totals,
    pub(super) regions: Vec<RegionSummary>,
    pub(super) servers: Vec<ServerSummary>,
    servers_total: usize,
    pub(super) worst_sessions: Vec<SessionSummary>,
    pub(super) pipeline: Pipeline,
    pub(super) history: HistorySummary,
}

/// Everybody.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Totals {
    #[serde(flatten)]
    pub(super) people: Population,
}

/// A region and its people.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RegionSummary {
    pub(super) region: String,
    pub(super) state: State,
    pub(super) since: Option<String>,
    /// Why its state is not known.
    pub(super) why: Option<String>,
    #[serde(flatten)]
    pub(super) people: Population,
    /// The most sessions that it had in the last minutes.
    #[serde(skip)]
    pub(super) sessions_before: u64,
    #[serde(skip)]
    pub(super) spell: Option<Spell>,
}

/// A server and its people.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ServerSummary {
    pub(super) region: String,
    pub(super) server_url: String,
    pub(super) server_type: String,
    pub(super) state: State,
    pub(super) since: Option<String>,
    #[serde(flatten)]
    pub(super) people: Population,
    #[serde(skip)]
    pub(super) spell: Option<Spell>,
}

/// How the exporter itself is doing.
#[derive(Debug, Serialize)]
pub(super) struct Pipeline {
    pub(super) ready: bool,
    pub(super) live_series: usize,
    pub(super) max_series: usize,
    pub(super) regions: Vec<RegionPipeline>,
}

/// How the way from a region's stream is.
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
    refused_last_minute: BTreeMap<&'static str, u64>,
    refused_total: BTreeMap<&'static str, u64>,
}

/// What has been read at one look.
pub(super) struct Look {
    pub(super) wall: OffsetDateTime,
    pub(super) now: Instant,
    pub(super) counts: Counts,
    /// Without detail there are no rows to walk through.
    pub(super) walk: Option<Walk>,
    pub(super) reports: Vec<HealthReport>,
    pub(super) live_series: usize,
}

/// What is remembered from look to look.
#[derive(Debug, Default)]
pub(super) struct Memory {
    readings: VecDeque<(Instant, Counts)>,
    history: History,
    spells: Spells,
}

impl Memory {
    /// Takes a look and tells all about it.
    pub(super) fn take(&mut self, look: Look, fixed: &Fixed) -> Summary {
        let Look { wall, now, counts, mut walk, reports, live_series } = look;
        while self.readings.get(1).is_some_and(|(at, _)| now - *at >= MINUTE) {
            self.readings.pop_front();
        }
        let earlier = self.readings.front();
        let seconds = earlier.map_or(0.0, |(at, _)| (now - *at).as_secs_f64());
        let nothing = Counts::default();
        let earlier = earlier.map_or(&nothing, |(_, counts)| counts);
        let minute = |key: &ServerKey, server: &ServerCounts| {
            let known = earlier.servers.get(key).map(|server| &server.grown);
            // A server that is new began at zero, unless all is new to us.
            let grown = match known {
                Some(before) => server.grown.since(before),
                None if seconds > 0.0 => server.grown.clone(),
                None => Default::default(),
            };
            Minute { grown, seconds }
        };

        let mut all = Totals::default();
        let mut all_minute = Minute { seconds, ..Minute::default() };
        let mut rtts_ms = Vec::new();
        let mut regions = Vec::new();
        let mut servers = Vec::new();
        for report in &reports {
            let mut people = Population::default();
            let mut region_minute = Minute { seconds, ..Minute::default() };
            for (key, server) in counts.servers.iter().filter(|(key, _)| key.region == report.region) {
                let minute = minute(key, server);
                region_minute.grown.add(&minute.grown);
                people.add(server);
                let mut on_it = Population::default();
                on_it.add(server);
                on_it.take_minute(&minute);
                if let Some(walk) = &mut walk {
                    on_it.take_part(walk.servers.entry(key.clone()).or_default());
                }
                servers.push(ServerSummary::new(key, on_it, report.ready));
            }
            people.take_minute(&region_minute);
            if let Some(walk) = &mut walk {
                let part = walk.regions.entry(report.region.clone()).or_default();
                rtts_ms.extend_from_slice(&part.rtts_ms);
                if walk.rows > 0 {
                    people.meetings = part.meetings;
                }
                people.take_part(part);
            }
            all_minute.grown.add(&region_minute.grown);
            all.people.merge(&people);
            regions.push(RegionSummary::new(report, people));
        }
        all.people.take_minute(&all_minute);
        if let Some(walk) = &mut walk {
            let mut part = super::sessions::Part {
                rtts_ms,
                meetings: walk.meetings,
                meetings_degraded: walk.meetings_degraded,
            };
            all.people.take_part(&mut part);
            if walk.rows > 0 {
                all.people.meetings = walk.meetings;
            }
        }

        for (index, region) in regions.iter_mut().enumerate() {
            region.sessions_before = self.history.most_sessions(index);
            if region.state == State::Idle && region.sessions_before >= MANY {
                region.state = State::Silent;
            }
            region.spell = self.spells.follow((region.region.clone(), None), region.state, (wall, now));
            region.since = region.spell.map(|spell| rfc3339(spell.since));
        }
        for server in &mut servers {
            let names = (server.server_url.clone(), server.server_type.clone());
            server.spell =
                self.spells.follow((server.region.clone(), Some(names)), server.state, (wall, now));
            server.since = server.spell.map(|spell| rfc3339(spell.since));
        }
        servers.retain(|server| server.people.sessions > 0);
        servers.sort_by(ServerSummary::worst_first);
        let verdict = Verdict::on(&regions, &servers, &all, fixed.rtt_limit_ms);
        let servers_total = servers.len();
        servers.truncate(SERVERS);

        self.history.follow((wall, now), &regions);
        let history = self.history.summary(&regions);
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
        if self.readings.back().is_none_or(|(at, _)| now - *at + STEP / 10 >= STEP) {
            self.readings.push_back((now, counts));
        }
        Summary {
            version: VERSION,
            as_of: rfc3339(wall),
            started_at: rfc3339(fixed.started),
            look_seconds: now.elapsed().as_secs_f64(),
            callsight_version: env!("CARGO_PKG_VERSION"),
            deployment: fixed.deployment.clone(),
            detail: fixed.detail.label(),
            rtt_limit_ms: fixed.rtt_limit_ms,
            audio_concealed_limit_ratio: fixed.concealment_limit,
            verdict,
            all,
            regions,
            servers,
            servers_total,
            worst_sessions: walk.map(|walk| walk.worst).unwrap_or_default(),
            pipeline,
            history,
        }
    }
}

impl RegionSummary {
    fn new(report: &HealthReport, people: Population) -> Self {
        let state = if report.ready { State::of(&people) } else { State::Unknown };
        let (region, why) = (report.region.clone(), report.why.clone());
        Self { region, state, since: None, why, people, sessions_before: 0, spell: None }
    }

    /// One that is ready, for tests.
    #[cfg(test)]
    pub(super) fn with(name: &str, people: Population) -> Self {
        let (region, state) = (name.to_owned(), State::of(&people));
        Self { region, state, since: None, why: None, people, sessions_before: 0, spell: None }
    }
}

impl ServerSummary {
    fn new(key: &ServerKey, people: Population, ready: bool) -> Self {
        let ServerKey { region, server_url, server_type } = key.clone();
        let state = if ready { State::of(&people) } else { State::Unknown };
        Self { region, server_url, server_type, state, since: None, people, spell: None }
    }

    fn worst_first(one: &Self, other: &Self) -> std::cmp::Ordering {
        let bad = |server: &Self| (server.state == State::Bad, server.people.sessions_degraded);
        bad(other)
            .cmp(&bad(one))
            .then(other.people.rtt_p95_ms.unwrap_or(0.0).total_cmp(&one.people.rtt_p95_ms.unwrap_or(0.0)))
            .then_with(|| one.server_url.cmp(&other.server_url))
    }
}

impl RegionPipeline {
    fn new(health: HealthReport, own: &RegionCounts, before: &RegionCounts, seconds: f64) -> Self {
        let named = |count: &dyn Fn(Limit) -> u64| {
            Limit::ALL
                .map(|limit| (limit.label(), count(limit)))
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .collect()
        };
        let at = |counts: &RegionCounts, limit: Limit| counts.refused[limit as usize];
        #[expect(clippy::cast_precision_loss, reason = "no minute has 2^53 frames")]
        let folded = own.folded.saturating_sub(before.folded) as f64;
        Self {
            health,
            nats_connected: own.connected,
            last_folded_frame_age_seconds: own.last_folded_age.map(super::sessions::tenth),
            frames_per_second: (seconds > 0.0).then(|| super::sessions::tenth(folded / seconds)),
            rejected_last_minute: own.rejected.saturating_sub(before.rejected),
            rejected_total: own.rejected,
            dead_letters_total: own.dead_letters,
            dead_letters_lost_total: own.dead_letters_lost,
            refused_last_minute: named(&|limit| at(own, limit).saturating_sub(at(before, limit))),
            refused_total: named(&|limit| at(own, limit)),
        }
    }
}

/// A moment to the millisecond.
pub(super) fn rfc3339(moment: OffsetDateTime) -> String {
    let whole = moment.replace_millisecond(moment.millisecond()).unwrap_or(moment);
    whole.format(&Rfc3339).unwrap_or_default()
}
