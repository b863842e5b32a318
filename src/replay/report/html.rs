//! Writes the page.
//!
//! The page shows names that clients chose, and is opened from disk, where no server sends headers
//! for it. So it contains its own policy, which names the style by digest.
//!
//! Invariant: the page fetches nothing and runs nothing, and every name in it is escaped.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};

use super::charts::{Axis, Chart, Line};
use super::collect::{Collected, Scope, ScopeStep};
use super::figures::{self, block};
use super::settings::{By, Settings, float};
use super::tables;
use super::text::{clock, day, escape, push};
use super::verdict::WindowVerdict;
use crate::insight::words::{count, duration, list, percent, plural, seconds};
use crate::replay::engine::Account;

const MARKUP: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");

/// The size of a chart that has half of the page's width.
const HALF: (f64, f64) = (600.0, 190.0);

pub(crate) fn render(collected: &Collected, account: &Account, verdict: &WindowVerdict) -> String {
    let settings = &collected.settings;
    let axis = axis(collected, verdict);
    let title = format!("Incident report, {}", scope(settings));
    let each = |draw: &dyn Fn(&Scope) -> String| collected.regions().iter().map(draw).collect::<String>();
    fill(MARKUP, |name| match name {
        "digest" => format!("sha256-{}", STANDARD.encode(digest(&SHA256, STYLE.as_bytes()))),
        "style" => STYLE.to_owned(),
        "title" => escape(&title),
        "scope" => escape(&scope(settings)),
        "state" => verdict.state.to_owned(),
        "sentence" => escape(&verdict.sentence),
        "evidence" => escape(&verdict.evidence),
        "tiles" => tiles(collected, account, verdict),
        "blast" => blast(collected, &axis),
        "when" => tables::when(collected, &axis),
        "floor" => floor(collected),
        "rtt" => each(&|region| rtt(region, settings, &axis)),
        "servers" => tables::servers(collected, &axis),
        "sound" => each(&|region| sound(region, settings, &axis)),
        "population" => each(&|region| population(region, settings, &axis)),
        "sessions" => tables::sessions(collected, &axis),
        "pairs" => tables::pairs(collected, &axis),
        "messages" => tables::messages(collected),
        "made" => made(collected, account),
        "figures" => block(&figures::figures(collected, account, verdict)),
        _ => String::new(),
    })
}

/// Fills the places that a template names. Text that is put in is not searched for places.
fn fill(template: &str, text: impl Fn(&str) -> String) -> String {
    let mut pieces = template.split("{{");
    let mut page = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (name, rest) = piece.split_once("}}").unwrap_or(("", piece));
        page.push_str(&text(name));
        page.push_str(rest);
    }
    page
}

/// The regions and the window in words.
fn scope(settings: &Settings) -> String {
    let window = settings.window;
    let names: Vec<_> = settings.regions.iter().map(|region| region.as_str()).collect();
    let word = if names.len() == 1 { "region" } else { "regions" };
    let [from, to] = [window.from, window.to].map(|at| clock(at, window));
    format!("{word} {}, {}, {from} to {to} UTC", list(&names), day(window.from))
}

fn axis(collected: &Collected, verdict: &WindowVerdict) -> Axis {
    let window = collected.settings.window;
    let end = window.to.unix_seconds();
    let bad = verdict.spell.map(|spell| {
        let ended = spell.ended(collected).map_or(end, |at| at.unix_seconds());
        (spell.began(collected).unix_seconds(), ended)
    });
    Axis {
        at: collected.at.iter().step_by(collected.settings.stride()).map(|at| at.unix_seconds()).collect(),
        ends: (window.from.unix_seconds(), end),
        bad,
    }
}

/// A line of a value of each step; a point is the largest of its steps.
fn line<'a>(
    (name, class): (&'a str, &'static str),
    region: &Scope,
    settings: &Settings,
    value: impl Fn(&ScopeStep) -> f64,
) -> Line<'a> {
    let points = region.moments.chunks(settings.stride());
    let values = points.map(|moments| moments.iter().map(&value).fold(f64::NAN, f64::max)).collect();
    Line { name, class, values, filled: false }
}

/// A chart with its title and its key.
fn figure(chart: &Chart<'_>, axis: &Axis) -> String {
    let mut html = format!("<figure><figcaption><b>{}</b>", escape(&chart.title));
    for line in &chart.lines {
        push!(html, r#"<span class="key"><i class="{}"></i>{}</span>"#, line.class, escape(line.name));
    }
    push!(html, "</figcaption>{}</figure>", chart.draw(axis));
    html
}

fn whole(value: f64) -> String {
    format!("{value:.0}")
}

fn blast(collected: &Collected, axis: &Axis) -> String {
    let (scope, settings) = (collected.whole(), &collected.settings);
    type Part = (fn(&ScopeStep) -> u32, fn(&ScopeStep) -> [u32; 4]);
    let parts: [(&str, Part); 2] = [
        ("sessions", (|moment| moment.sessions, |moment| moment.degraded)),
        ("meetings", (|moment| moment.meetings, |moment| moment.meetings_degraded)),
    ];
    let charts = parts.map(|(what, (all, degraded))| {
        let live = line(("live", "live"), scope, settings, |moment| all(moment).into());
        let mut lines = vec![Line { filled: true, ..live }];
        lines.extend(By::ALL.map(|by| {
            let name = if by == By::Any { by.label() } else { by.words() };
            line((name, by.label()), scope, settings, |moment| degraded(moment)[by as usize].into())
        }));
        let title = format!("Degraded {what}, {}", scope.name);
        let chart =
            Chart { title, size: HALF, lines, limit: None, at_least: 3.0, show: whole, answers: true };
        figure(&chart, axis)
    });
    charts.concat()
}

fn rtt(region: &Scope, settings: &Settings, axis: &Axis) -> String {
    // The peak of the last line is labelled: the one that the verdict cites.
    let lines = [("p99", 2), ("p50", 0), ("p95", 1)].map(|(name, quantile)| {
        let value = |moment: &ScopeStep| moment.rtt.map_or(f64::NAN, |rtt| rtt[quantile]);
        line((name, name), region, settings, value)
    });
    let title = region.name.clone();
    let limit = Some(settings.fold.thresholds.rtt.as_secs_f64());
    let (lines, at_least) = (lines.into(), 0.05);
    figure(&Chart { title, size: HALF, lines, limit, at_least, show: seconds, answers: true }, axis)
}

fn sound(region: &Scope, settings: &Settings, axis: &Axis) -> String {
    let lines = vec![
        line(("expand", "video"), region, settings, |moment| moment.expand.unwrap_or(f64::NAN)),
        line(("concealed", "p95"), region, settings, |moment| moment.concealed.unwrap_or(f64::NAN)),
    ];
    let title = region.name.clone();
    figure(
        &Chart { title, size: HALF, lines, limit: None, at_least: 0.01, show: percent, answers: true },
        axis,
    )
}

fn population(region: &Scope, settings: &Settings, axis: &Axis) -> String {
    let lines = vec![
        line(("meetings", "video"), region, settings, |moment| moment.meetings.into()),
        line(("participants", "audio"), region, settings, |moment| moment.participants.into()),
        line(("sessions", "p95"), region, settings, |moment| moment.sessions.into()),
    ];
    let (title, size) = (region.name.clone(), (HALF.0, 150.0));
    figure(&Chart { title, size, lines, limit: None, at_least: 3.0, show: whole, answers: true }, axis)
}

fn tiles(collected: &Collected, account: &Account, verdict: &WindowVerdict) -> String {
    let settings = &collected.settings;
    let bad = verdict.spell.is_some();
    let moment = verdict.peak.map(|peak| collected.whole().moments[peak]).unwrap_or_default();
    let any = By::Any as usize;
    let p95 = collected.whole().moments.iter().filter_map(|moment| moment.rtt).map(|rtt| rtt[1]);
    let p95 = p95.fold(f64::NAN, f64::max);
    let limit = settings.fold.thresholds.rtt.as_secs_f64();
    let (seen, degraded) = (collected.sessions.seen(), collected.sessions.degraded());
    let share = |some: u32, all: u32| percent(f64::from(some) / f64::from(all.max(1)));
    let at = |at| clock(at, settings.window);
    let (lasted, when) = match verdict.spell {
        None => ("–".to_owned(), "never bad".to_owned()),
        Some(spell) => {
            let ended = spell.ended(collected).map_or_else(|| "…".to_owned(), at);
            (duration(spell.lasted(collected)), format!("{} – {ended}", at(spell.began(collected))))
        }
    };
    let degraded_now = moment.degraded[any];
    let meetings_now = moment.meetings_degraded[any];
    let tiles = [
        ("Bad for", lasted, when, bad),
        (
            "Degraded at the peak",
            plural(degraded_now.into(), "session"),
            format!("{} of {} live", share(degraded_now, moment.sessions), count(moment.sessions.into())),
            bad,
        ),
        (
            "In",
            plural(meetings_now.into(), "meeting"),
            format!("{} of {} live", share(meetings_now, moment.meetings), count(moment.meetings.into())),
            bad,
        ),
        (
            "Degraded at some step",
            plural(degraded as u64, "session"),
            format!("{} of {} seen", percent(float(degraded) / float(seen.max(1))), count(seen as u64)),
            false,
        ),
        ("Highest RTT p95", seconds(p95), format!("limit {}", seconds(limit)), p95 > limit),
        (
            "Frames",
            count(account.messages),
            format!("{} rejected, {} late", count(account.rejected()), count(account.late)),
            false,
        ),
    ];
    let mut html = String::new();
    for (what, value, more, bad) in tiles {
        let class = if bad { "tile is-bad" } else { "tile" };
        push!(html, r#"<div class="{class}"><span>{what}</span><b>{value}</b><span>{more}</span></div>"#);
    }
    html
}

/// The definitions: when a session, a meeting and a region are bad.
fn floor(collected: &Collected) -> String {
    let settings = &collected.settings;
    let thresholds = settings.fold.thresholds;
    let stride = settings.stride();
    let reduced = match stride {
        1 => String::new(),
        _ => format!(" Each point of a chart is the largest value of {stride} steps."),
    };
    format!(
        "A session is degraded while its last frame shows it: by RTT beyond {}; by audio if a peer’s microphone is on and can’t be \
         heard, or more than {} of its audio was concealed; by video if a camera is on and can’t be seen, or the picture froze. A \
         session whose tab is hidden is never degraded. A meeting is degraded while one of its sessions is. A region is bad at a step \
         if at least {}, and at least 10 % of the live sessions, are degraded. The bad time begins at the first such step and ends \
         at the step after the last; it may include good steps. The tinted part of each chart is that time.{reduced}",
        seconds(thresholds.rtt.as_secs_f64()),
        percent(thresholds.concealment),
        plural(settings.threshold().sessions.into(), "session"),
    )
}

fn made(collected: &Collected, account: &Account) -> String {
    let settings = &collected.settings;
    let window = settings.window;
    let streams: Vec<_> =
        settings.regions.iter().map(|region| crate::replay::source_name(region, settings.mirror)).collect();
    let filter = &settings.filter;
    let only = |what: &str, ids: &[String]| (!ids.is_empty()).then(|| format!("{what} {}", ids.join(", ")));
    let filters: Vec<_> = [only("meeting", &filter.meetings), only("session", &filter.sessions)]
        .into_iter()
        .flatten()
        .collect();
    let filters = if filters.is_empty() { "none: all calls".to_owned() } else { filters.join("; ") };
    let frames = format!(
        "{} within the window: {} folded ({} of them late), {} repeated, {} rejected, {} of other calls; {} from before it, \
         to find out who was live",
        count(account.messages),
        count(account.folded),
        count(account.late),
        count(account.repeated),
        count(account.rejected()),
        count(account.passed_over),
        count(account.warm_up)
    );
    let steps =
        format!("{}, every {}", plural(account.steps, "step"), humantime::format_duration(window.step));
    let version = format!("Callsight {}", env!("CARGO_PKG_VERSION"));
    let mut html = String::from("<dl>");
    for (what, value) in [
        ("Window", window.to_string()),
        ("Steps", steps),
        ("Streams", streams.join(", ")),
        ("Filter", filters),
        ("Frames", frames),
        ("Version", version),
    ] {
        push!(html, "<dt>{what}</dt><dd>{}</dd>", escape(&value));
    }
    push!(html, "</dl><h3>The command</h3><pre>{}</pre>", escape(&settings.command));
    html
}

#[cfg(test)]
mod tests {
    use super::super::verdict::tests::collected;
    use super::*;

    #[test]
    fn text_is_put_where_the_template_says_and_nowhere_else() {
        let text = |name: &str| if name == "a" { "{{b}}".to_owned() } else { "B".to_owned() };
        assert_eq!(fill("x{{a}}y{{b}}z", text), "x{{b}}yBz");
    }

    #[test]
    fn the_page_needs_nothing_else() {
        let mut collected =
            collected(&[("us", &[(40, 1), (40, 20), (40, 20), (40, 0)]), ("eu", &[(4, 0); 4])]);
        "callsight replay --meeting '</pre><b>'".clone_into(&mut collected.settings.command);
        let verdict = WindowVerdict::of(&collected);
        let page = render(&collected, &Account::default(), &verdict);
        for outside in ["http://", "https://", "src=", "url(", "@import", "style=\"", "{{", "<b>'"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("&lt;/pre&gt;&lt;b&gt;") && page.contains("data-state=\"bad\""));
        assert!(
            page.matches("<svg class=\"chart\"").count() >= 8,
            "two of the whole and three of each region"
        );
    }
}
