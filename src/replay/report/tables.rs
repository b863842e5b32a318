//! The tables of the page: when it was bad, servers, the worst with their timelines, and messages.
//!
//! A chart shows a course, a table the figures to quote.
//!
//! Invariant: every name that clients chose is escaped.

use std::time::Duration;

use super::charts::{Axis, Chart, Line, spark, strip};
use super::collect::{Collected, Scope};
use super::figures::TOP;
use super::scores::{Point, Score, Scoreboard};
use super::settings::{By, Settings};
use super::text::{clock, escape, push};
use super::verdict::ScopeSpell;
use crate::insight::counters::ServerKey;
use crate::insight::words::{count, duration, percent, seconds};
use callsight_fold::series::detail::DetailPlane;
use callsight_fold::series::labels::Labels;

/// The number of servers that are shown.
const SERVERS: usize = 16;

/// The number of the worst that have a timeline.
const DRILLED: usize = 10;

/// A table. Its columns are separated by `|` in the head; those with `#` are numbers.
fn table(id: &str, caption: &str, head: &str, rows: &str) -> String {
    let columns = head.split('|').map(|name| match name.strip_prefix('#') {
        Some(name) => format!(r#"<th scope="col" class="number">{name}</th>"#),
        None => format!(r#"<th scope="col">{name}</th>"#),
    });
    let head: String = columns.collect();
    format!(
        "<table id=\"{id}\"><caption class=\"unseen\">{caption}</caption><thead><tr>{head}</tr></thead>\
         <tbody>{rows}</tbody></table>"
    )
}

/// By region and signal: when it was bad.
pub(super) fn when(collected: &Collected, axis: &Axis) -> String {
    let mut rows = String::new();
    for region in collected.regions() {
        for by in By::ALL {
            row(region, by, collected, axis, &mut rows);
        }
    }
    table(
        "when",
        "When it was bad, by region and signal",
        "Region|Degraded by|Over the window|#Began|#Ended|#Total time bad|#Most sessions|#Most meetings",
        &rows,
    )
}

fn row(region: &Scope, by: By, collected: &Collected, axis: &Axis, rows: &mut String) {
    let settings = &collected.settings;
    let index = by as usize;
    let is: Vec<_> = region
        .moments
        .chunks(settings.stride())
        .map(|moments| moments.iter().any(|moment| moment.is_bad(by, settings.threshold())))
        .collect();
    let spell = ScopeSpell::of(region, by, settings);
    let at = |at| clock(at, settings.window);
    let (began, ended, lasted) = match spell {
        None => ("–".to_owned(), "–".to_owned(), "never".to_owned()),
        Some(spell) => {
            let step = settings.window.step;
            let steps = u32::try_from(spell.steps.bad_looks).unwrap_or(u32::MAX);
            let ended = spell.ended(collected).map_or_else(|| "continues".to_owned(), at);
            (at(spell.began(collected)), ended, duration(step.saturating_mul(steps)))
        }
    };
    let most = |pick: &dyn Fn(usize) -> (u32, u32)| {
        let all = (0..region.moments.len()).map(pick);
        let (some, all) = all.fold((0, 0), |most, now| if now.0 > most.0 { now } else { most });
        match some {
            0 => "0".to_owned(),
            _ => format!("{some} of {all} ({})", percent(f64::from(some) / f64::from(all))),
        }
    };
    let sessions = most(&|step| (region.moments[step].degraded[index], region.moments[step].sessions));
    let meetings =
        most(&|step| (region.moments[step].meetings_degraded[index], region.moments[step].meetings));
    let quiet = if spell.is_none() { " zero" } else { "" };
    let title = format!("{} by {}: {lasted}", region.name, by.words());
    push!(
        rows,
        "<tr><th scope=\"row\">{}</th><td><span class=\"signal {}\"><i></i><span>{}</span></span></td><td class=\"wide\">{}</td>\
         <td class=\"number{quiet}\">{began}</td><td class=\"number{quiet}\">{ended}</td><td class=\"number{quiet}\">{lasted}</td>\
         <td class=\"number{quiet}\">{sessions}</td><td class=\"number{quiet}\">{meetings}</td></tr>",
        escape(&region.name),
        by.label(),
        by.words(),
        strip(axis, &is, by.label(), &title)
    );
}

/// Servers, those with the longest round trips first.
pub(super) fn servers(collected: &Collected, axis: &Axis) -> String {
    let mut servers: Vec<_> = collected.servers.iter().collect();
    // NaN, of which nothing is known, goes last.
    let most = |quantile: f32| if quantile.is_nan() { -1.0 } else { quantile };
    servers.sort_by(|(_, a), (_, b)| most(b.most(1)).total_cmp(&most(a.most(1))));
    let left = servers.len().saturating_sub(SERVERS);
    let mut rows = String::new();
    for (ServerKey { region, server_url: url, server_type: kind }, server) in
        servers.into_iter().take(SERVERS)
    {
        let values = |quantile: usize| {
            let mut values: Vec<_> = server.points.iter().map(|point| f64::from(point[quantile])).collect();
            values.resize(axis.at.len(), f64::NAN);
            values
        };
        let line = |name, quantile| Line { name, class: name, values: values(quantile), filled: false };
        let limit = collected.settings.fold.thresholds.rtt.as_secs_f64();
        let chart = spark(&[line("p50", 0), line("p95", 1)], limit, axis, &format!("p50 and p95 of {url}"));
        let [p50, p95, p99] = [0, 1, 2].map(|quantile| seconds(server.most(quantile).into()));
        push!(
            rows,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td class=\"number\">{}</td><td class=\"wide\">{chart}</td>\
             <td class=\"number\">{p50}</td><td class=\"number\">{p95}</td><td class=\"number\">{p99}</td></tr>",
            escape(url),
            escape(region),
            escape(kind),
            count(server.most_sessions as u64)
        );
    }
    let more = match left {
        0 => String::new(),
        left => format!("<p class=\"note\">And {left} more with shorter round trips.</p>"),
    };
    let table = table(
        "servers-table",
        "Servers, the longest round trips first",
        "Server|Region|Type|#Most sessions|p50 and p95 over the window|#Most p50|#Most p95|#Most p99",
        &rows,
    );
    format!("{table}{more}")
}

/// The worst sessions, each with its timeline.
pub(super) fn sessions(collected: &Collected, axis: &Axis) -> String {
    let worst = &collected.sessions;
    let rows = worst.top(TOP).into_iter().enumerate().map(|(place, (name, score))| {
        let [region, meeting, _] = &score.names;
        let told = [name, meeting, &format!("{region} · {}", score.server)].map(str::to_owned);
        let drill = if place < DRILLED { drill_session(score, collected, axis) } else { String::new() };
        entry(place, &told, score, seconds(score.most_rtt.into()), &drill, collected)
    });
    let head = ["Session", "Meeting", "Region and server", "Worst RTT"];
    listing(rows.collect(), head, worst, "session")
}

/// The worst pairs, likewise.
pub(super) fn pairs(collected: &Collected, axis: &Axis) -> String {
    let worst = &collected.pairs;
    let rows = worst.top(TOP).into_iter().enumerate().map(|(place, (labels, score))| {
        let [region, meeting, peer] = &score.names;
        let session = Labels::new(DetailPlane::Pair.labels(), labels).get("session_id").unwrap_or_default();
        let told = [format!("{session} ← {peer}"), meeting.to_string(), region.to_string()];
        let drill = if place < DRILLED { drill_pair(score, collected, axis) } else { String::new() };
        entry(place, &told, score, lasting(score.deaf, &collected.settings), &drill, collected)
    });
    listing(rows.collect(), ["Session ← participant", "Meeting", "Region", "Unheard for"], worst, "pair")
}

fn listing(rows: String, head: [&str; 4], worst: &Scoreboard, what: &str) -> String {
    if rows.is_empty() {
        return format!("<p class=\"quiet\">No {what} was degraded at any point.</p>");
    }
    let [who, meeting, place, last] = head;
    let crowded = match worst.is_crowded() {
        true => " There were too many for a timeline of each: some begin when the trouble did.",
        false => "",
    };
    let (degraded, seen) = (count(worst.degraded() as u64), count(worst.seen() as u64));
    format!(
        "<div class=\"worst-head\" aria-hidden=\"true\"><span></span><span></span><span>{who}</span><span>{meeting}</span><span>{place}</span>\
         <span>First bad</span><span>Degraded for</span><span class=\"number\">{last}</span><span class=\"number\">Concealed</span></div>{rows}\
         <p class=\"note\">The {TOP} that were degraded longest, of {degraded} that ever were and {seen} seen. The first {DRILLED} \
         open into their timelines.{crowded}</p>"
    )
}

/// The duration of a number of steps.
fn lasting(steps: u32, settings: &Settings) -> String {
    match settings.window.step.saturating_mul(steps) {
        Duration::ZERO => "–".to_owned(),
        long => duration(long),
    }
}

fn entry(
    place: usize,
    told: &[String; 3],
    score: &Score,
    last: String,
    drill: &str,
    collected: &Collected,
) -> String {
    let settings = &collected.settings;
    let [who, meeting, where_] = told;
    let by: Vec<_> =
        By::SIGNALS.into_iter().filter(|by| score.bad[*by as usize] > 0).map(By::label).collect();
    let first = score.span.map_or_else(String::new, |(first, _)| clock(collected.at[first], settings.window));
    let concealed =
        if score.most_concealed > 0.0 { percent(score.most_concealed.into()) } else { "–".to_owned() };
    let open = if place == 0 { " open" } else { "" };
    let body = match drill {
        "" => "<p class=\"quiet\">Only the first ones have a timeline.</p>",
        drill => drill,
    };
    format!(
        "<details class=\"worst\"{open}><summary><span class=\"quiet\">{}</span><span class=\"id\">{}</span><span class=\"id\">{}</span><span>{}</span>\
         <span>{first}</span><span>{} by {}</span><span class=\"number\">{last}</span><span class=\"number\">{concealed}</span></summary>\
         <div class=\"drill\">{body}</div></details>",
        place + 1,
        escape(who),
        escape(meeting),
        escape(where_),
        lasting(score.bad_steps(), settings),
        by.join(", ")
    )
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

const NO_TIMELINE: &str = "<p class=\"quiet\">Its timeline was not kept: there were too many.</p>";

fn small(
    title: &str,
    class: &'static str,
    values: Vec<f64>,
    limit: f64,
    show: fn(f64) -> String,
    axis: &Axis,
) -> String {
    let lines = vec![Line { name: title, class, values, filled: true }];
    let (size, limit) = ((560.0, 120.0), Some(limit));
    let chart = Chart { title: title.to_owned(), size, lines, limit, at_least: 0.02, show, answers: false };
    format!("<figure><figcaption><b>{title}</b></figcaption>{}</figure>", chart.draw(axis))
}

fn drill_session(score: &Score, collected: &Collected, axis: &Axis) -> String {
    if score.timeline.is_none() {
        return NO_TIMELINE.to_owned();
    }
    let thresholds = collected.settings.fold.thresholds;
    let rtt = over(score, axis, f64::NAN, |point| point.rtt.into());
    let concealed = over(score, axis, f64::NAN, |point| point.concealed.into());
    let mut html = format!(
        "<div class=\"charts\">{}{}</div><dl>",
        small("Round-trip time", "p95", rtt, thresholds.rtt.as_secs_f64(), seconds, axis),
        small("Concealed, of the peer with most", "audio", concealed, thresholds.concealment, percent, axis)
    );
    html.push_str(&band(score, axis, "live", "live", |point| point.there));
    for by in By::SIGNALS {
        html.push_str(&band(score, axis, by.words(), by.label(), |point| point.by[by as usize]));
    }
    let frames = format!("{}, participant {}", count(score.frames), score.names[2]);
    push!(html, "<dt>frames</dt><dd>{}</dd></dl>", escape(&frames));
    html
}

fn drill_pair(score: &Score, collected: &Collected, axis: &Axis) -> String {
    if score.timeline.is_none() {
        return NO_TIMELINE.to_owned();
    }
    let limit = collected.settings.fold.thresholds.concealment;
    let concealed = over(score, axis, f64::NAN, |point| point.concealed.into());
    let mut html =
        format!("<div class=\"charts\">{}<dl>", small("Concealed", "audio", concealed, limit, percent, axis));
    let mut add = |what, class, is: fn(&Point) -> bool| html.push_str(&band(score, axis, what, class, is));
    add("live", "live", |point| point.there);
    add("microphone on, not heard", "any", |point| point.deaf);
    add("camera on, not seen", "any", |point| point.blind);
    add("degraded by audio", "audio", |point| point.by[By::Audio as usize]);
    add("degraded by video", "video", |point| point.by[By::Video as usize]);
    html.push_str("</dl></div>");
    html
}

/// When something was true of a session or pair.
fn band(score: &Score, axis: &Axis, what: &str, class: &str, is: impl Fn(&Point) -> bool) -> String {
    let band = strip(axis, &over(score, axis, false, is), class, what);
    format!("<dt>{what}</dt><dd>{band}</dd>")
}

/// The outcome of each region's messages.
pub(super) fn messages(collected: &Collected) -> String {
    let mut rows = String::new();
    for (region, messages) in collected.settings.regions.iter().zip(&collected.messages) {
        let rejected: Vec<_> =
            messages.rejected.iter().map(|(reason, number)| format!("{} {reason}", count(*number))).collect();
        let rejected = if rejected.is_empty() { "none".to_owned() } else { rejected.join(", ") };
        let cell = |number: u64| {
            let class = if number == 0 { "number zero" } else { "number" };
            format!("<td class=\"{class}\">{}</td>", count(number))
        };
        push!(
            rows,
            r#"<tr><th scope="row">{}</th>{}{}{}{}<td>{}</td></tr>"#,
            escape(region.as_str()),
            cell(messages.folded),
            cell(messages.late),
            cell(messages.repeated),
            cell(messages.rejected()),
            escape(&rejected)
        );
    }
    let table = table(
        "messages-table",
        "Messages by region",
        "Region|#Folded|#Of them late|#Repeated|#Rejected|By reason",
        &rows,
    );
    format!(
        "{table}<p class=\"note\">Late: stored more than {} before it was read, by the stream’s clock; it is counted, but does not change gauges. Repeated: published twice \
         or out of order. Rejected: not a valid frame; <span class=\"id\">callsight frame check</span> shows why.</p>",
        humantime::format_duration(collected.settings.fold.idle_timeout)
    )
}
