//! The rows of the page's tables: when it was bad, servers, the worst with their timelines, and
//! messages.
//!
//! A chart shows a course, a table the figures to quote.
//!
//! Invariant: what a row has as markup is a chart or escaped.

use std::time::Duration;

use super::charts::{Axis, Chart, Line, spark, strip};
use super::collect::{Collected, Scope, ScopeStep};
use super::figures::TOP;
use super::scores::{Point, Score, Scoreboard};
use super::signals::{By, PerSignal};
use super::text::{clock, escape};
use super::verdict::ScopeSpell;
use crate::insight::counters::ServerKey;
use crate::insight::words::{count, duration, percent, seconds};
use crate::replay::account::Account;
use callsight_fold::series::detail::DetailPlane;
use callsight_fold::series::labels::Labels;
use callsight_frame::{CandidateType, Protocol};

/// The number of servers that are shown.
pub(super) const SERVERS: usize = 16;

/// The number of the worst that have a timeline.
pub(super) const DRILLED: usize = 10;

/// By region and signal: when it was bad.
pub(super) struct SpellRow<'a> {
    pub(super) region: &'a str,
    pub(super) by: By,
    pub(super) strip: String,
    pub(super) is_bad: bool,
    /// When it began and ended, how long it was bad, and the most sessions and meetings.
    pub(super) cells: [String; 5],
}

pub(super) fn spells<'a>(collected: &'a Collected, axis: &Axis) -> Vec<SpellRow<'a>> {
    let row = |region: &'a Scope| {
        By::shown(region.most_degraded()).map(move |by| spell_row(region, by, collected, axis))
    };
    collected.regions().iter().flat_map(row).collect()
}

fn spell_row<'a>(region: &'a Scope, by: By, collected: &Collected, axis: &Axis) -> SpellRow<'a> {
    let window = collected.config.window;
    let is_bad = |moment: &ScopeStep| moment.is_bad(by, collected.threshold());
    let is: Vec<_> =
        region.moments.chunks(collected.stride()).map(|moments| moments.iter().any(is_bad)).collect();
    let spell = ScopeSpell::of(region, by, collected);
    let at = |at| clock(at, window);
    let (began, ended, lasted) = match spell {
        None => ("–".to_owned(), "–".to_owned(), "never".to_owned()),
        Some(spell) => {
            let steps = u32::try_from(spell.steps.bad_looks).unwrap_or(u32::MAX);
            let ended = spell.ended(collected).map_or_else(|| "continues".to_owned(), at);
            (at(spell.began(collected)), ended, duration(window.step.saturating_mul(steps)))
        }
    };
    let most = |pick: fn(&ScopeStep) -> (PerSignal<u32>, u32)| {
        let all = region.moments.iter().map(pick).map(|(some, all)| (some[by as usize], all));
        let (some, all) = all.fold((0, 0), |most, now| if now.0 > most.0 { now } else { most });
        match some {
            0 => "0".to_owned(),
            _ => format!("{some} of {all} ({})", percent(f64::from(some) / f64::from(all))),
        }
    };
    let sessions = most(|moment| (moment.degraded, moment.sessions));
    let meetings = most(|moment| (moment.meetings_degraded, moment.meetings));
    let title = format!("{} by {}: {lasted}", region.name, by.words());
    SpellRow {
        region: &region.name,
        by,
        strip: strip(axis, &is, by.label(), &title),
        is_bad: spell.is_some(),
        cells: [began, ended, lasted, sessions, meetings],
    }
}

/// Servers, those with the longest round trips first: the most sessions, a chart, and the longest
/// times by quantile.
pub(super) fn servers<'a>(
    collected: &'a Collected,
    axis: &Axis,
) -> Vec<(&'a ServerKey, String, String, [String; 3])> {
    let mut servers: Vec<_> = collected.servers.iter().collect();
    // NaN, of which nothing is known, goes last.
    let most = |quantile: f32| if quantile.is_nan() { -1.0 } else { quantile };
    servers.sort_by(|(_, a), (_, b)| most(b.most(1)).total_cmp(&most(a.most(1))));
    let limit = collected.config.fold.thresholds.rtt.as_secs_f64();
    let rows = servers.into_iter().take(SERVERS).map(|(key, server)| {
        let line = |name, quantile: usize| {
            let mut values: Vec<_> = server.points.iter().map(|point| f64::from(point[quantile])).collect();
            values.resize(axis.at.len(), f64::NAN);
            Line { name, class: name, values, filled: false }
        };
        let title = format!("p50 and p95 of {}", key.server_url);
        let chart = spark(&[line("p50", 0), line("p95", 1)], limit, axis, &title);
        let times = [0, 1, 2].map(|quantile| seconds(server.most(quantile).into()));
        (key, count(server.most_sessions as u64), chart, times)
    });
    rows.collect()
}

/// One of the worst sessions or pairs.
pub(super) struct WorstRow {
    /// Who, in which meeting, and where.
    pub(super) names: [String; 3],
    pub(super) first: String,
    pub(super) lasted: String,
    pub(super) by: String,
    /// The figure that a session or a pair has of its own.
    pub(super) own: String,
    pub(super) concealed: String,
    /// Its timeline, if it has one.
    pub(super) charts: Vec<Chart<'static>>,
    pub(super) details: Vec<(&'static str, String)>,
}

pub(super) fn sessions(collected: &Collected, axis: &Axis) -> Vec<WorstRow> {
    let thresholds = collected.config.fold.thresholds;
    let row = |name: &str, score: &Score| {
        let [region, meeting, participant] = &score.names;
        let names = [name, meeting, &format!("{region} · {}", score.server)].map(str::to_owned);
        let mut row = WorstRow::new(names, seconds(score.most_rtt.into()), score, collected);
        let rtt = over(score, axis, f64::NAN, |point| point.rtt.into());
        let (limit, title) = (thresholds.rtt.as_secs_f64(), "Concealed, of the peer with most");
        row.charts.push(small("Round-trip time", "p95", rtt, limit, seconds));
        row.charts.push(concealed(title, score, collected, axis));
        row.details.push(band(score, axis, "live", "live", |point| point.there));
        for by in By::shown(score.bad).filter(|by| *by != By::Any) {
            row.details.push(band(score, axis, by.words(), by.label(), |point| point.by[by as usize]));
        }
        let frames = format!("{}, participant {participant}", count(score.frames));
        row.details.push(("frames", escape(&frames)));
        row.details.extend(lost(score));
        if !score.client.is_empty() {
            row.details.push(("client", escape(&score.client)));
        }
        let path = (score.path.0.map(CandidateType::label), score.path.1.map(Protocol::label));
        let path: Vec<_> = [path.0, path.1].into_iter().flatten().collect();
        if !path.is_empty() {
            row.details.push(("path", path.join(" over ")));
        }
        row
    };
    worst(&collected.sessions, row)
}

pub(super) fn pairs(collected: &Collected, axis: &Axis) -> Vec<WorstRow> {
    let row = |labels: &str, score: &Score| {
        let [region, meeting, peer] = &score.names;
        let session = Labels::new(DetailPlane::Pair.labels(), labels).get("session_id").unwrap_or_default();
        let names = [format!("{session} ← {peer}"), meeting.to_string(), region.to_string()];
        let mut row = WorstRow::new(names, lasting(score.deaf, collected), score, collected);
        row.charts.push(concealed("Concealed", score, collected, axis));
        let mut add = |what, class, is: fn(&Point) -> bool| {
            row.details.push(band(score, axis, what, class, is));
        };
        add("live", "live", |point| point.there);
        add("microphone on, not heard", "any", |point| point.deaf);
        add("camera on, not seen", "any", |point| point.blind);
        add("degraded by audio", "audio", |point| point.by[By::Audio as usize]);
        add("degraded by video", "video", |point| point.by[By::Video as usize]);
        row.details.extend(lost(score));
        row
    };
    worst(&collected.pairs, row)
}

/// The rows of the worst, of which the first have timelines.
fn worst(board: &Scoreboard, row: impl Fn(&str, &Score) -> WorstRow) -> Vec<WorstRow> {
    let rows = board.top(TOP).into_iter().enumerate().map(|(place, (name, score))| {
        let row = row(name, score);
        match place < DRILLED && score.timeline.is_some() {
            true => row,
            false => WorstRow { charts: Vec::new(), ..row },
        }
    });
    rows.collect()
}

impl WorstRow {
    fn new(names: [String; 3], own: String, score: &Score, collected: &Collected) -> Self {
        let by: Vec<_> =
            By::SIGNALS.into_iter().filter(|by| score.bad[*by as usize] > 0).map(By::label).collect();
        let first = |(first, _): (usize, usize)| clock(collected.at[first], collected.config.window);
        Self {
            names,
            first: score.span.map(first).unwrap_or_default(),
            lasted: lasting(score.bad_steps(), collected),
            by: by.join(", "),
            own,
            concealed: share(score.most_concealed),
            charts: Vec::new(),
            details: Vec::new(),
        }
    }
}

/// The largest share of packets that were lost on the way here, if any was.
fn lost(score: &Score) -> Option<(&'static str, String)> {
    (score.most_lost > 0.0).then(|| ("packets lost", format!("up to {}", share(score.most_lost))))
}

/// The largest share of something; a dash if there was none.
fn share(most: f32) -> String {
    if most > 0.0 { percent(most.into()) } else { "–".to_owned() }
}

/// The duration of a number of steps.
fn lasting(steps: u32, collected: &Collected) -> String {
    match collected.config.window.step.saturating_mul(steps) {
        Duration::ZERO => "–".to_owned(),
        long => duration(long),
    }
}

/// A value of each point of the window.
fn over<T: Copy>(score: &Score, axis: &Axis, none: T, value: impl Fn(&Point) -> T) -> Vec<T> {
    let mut values = vec![none; axis.at.len()];
    if let Some((begin, points)) = &score.timeline {
        for (place, point) in values.iter_mut().skip(*begin).zip(points) {
            *place = value(point);
        }
    }
    values
}

fn small(
    title: &'static str,
    class: &'static str,
    values: Vec<f64>,
    limit: f64,
    show: fn(f64) -> String,
) -> Chart<'static> {
    let lines = vec![Line { name: title, class, values, filled: true }];
    let (size, limit) = ((560.0, 120.0), Some(limit));
    Chart { title: title.to_owned(), size, lines, limit, at_least: 0.02, show, answers: false }
}

fn concealed(title: &'static str, score: &Score, collected: &Collected, axis: &Axis) -> Chart<'static> {
    let values = over(score, axis, f64::NAN, |point| point.concealed.into());
    small(title, "audio", values, collected.config.fold.thresholds.concealment, percent)
}

/// When something was true of a session or pair.
fn band(
    score: &Score,
    axis: &Axis,
    what: &'static str,
    class: &str,
    is: impl Fn(&Point) -> bool,
) -> (&'static str, String) {
    (what, strip(axis, &over(score, axis, false, is), class, what))
}

/// Of a region's messages, the numbers folded, late, repeated, refused and rejected.
pub(super) fn outcomes(messages: &Account) -> [u64; 5] {
    [messages.folded, messages.late, messages.repeated, messages.refused, messages.rejected()]
}
