//! Fills the page's template.
//!
//! The page shows names that clients chose, and is opened from disk, where no server sends headers
//! for it. So it contains its own policy, which names the style by digest, and the template escapes
//! all that it is not told to trust.
//!
//! Invariant: the page fetches nothing and runs nothing, and every name in it is escaped.

use askama::Template;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};

use super::charts::{Axis, Chart, Line};
use super::collect::{Collected, Scope, ScopeStep};
use super::figures::{self, TOP};
use super::signals::{By, PerSignal};
use super::tables::{self, DRILLED};
use super::text::{self, clock, day};
use super::verdict::WindowVerdict;
use crate::insight::counters::ratio;
use crate::insight::words::{self, count, list, percent, plural, seconds};
use crate::replay;
use crate::replay::account::Account;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const STYLE: &str = include_str!("page.css");

/// The width of a chart that has half of the page's.
const HALF: f64 = 600.0;

/// The name and the class of a line, and its value at a step.
type Measure = ((&'static str, &'static str), fn(&ScopeStep) -> f64);

/// What the template shows. Of its own methods, those that return charts are called for each
/// region.
#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    collected: &'a Collected,
    account: &'a Account,
    verdict: &'a WindowVerdict,
    axis: Axis,
}

pub(crate) fn render(
    collected: &Collected,
    account: &Account,
    verdict: &WindowVerdict,
) -> askama::Result<String> {
    Page { collected, account, verdict, axis: axis(collected, verdict) }.render()
}

fn axis(collected: &Collected, verdict: &WindowVerdict) -> Axis {
    let window = collected.config.window;
    let end = window.to.unix_seconds();
    let bad = verdict.spell.map(|spell| {
        let ended = spell.ended(collected).map_or(end, |at| at.unix_seconds());
        (spell.began(collected).unix_seconds(), ended)
    });
    Axis {
        at: collected.at.iter().step_by(collected.stride()).map(|at| at.unix_seconds()).collect(),
        ends: (window.from.unix_seconds(), end),
        bad,
    }
}

/// Returns what the policy calls the style.
fn style_digest() -> String {
    format!("sha256-{}", STANDARD.encode(digest(&SHA256, STYLE.as_bytes())))
}

/// The share of some of all; none of none.
fn share(some: u64, all: u64) -> String {
    percent(ratio(some, all).unwrap_or_default())
}

fn whole(value: f64) -> String {
    format!("{value:.0}")
}

impl Page<'_> {
    /// The regions and the window in words.
    fn scope(&self) -> String {
        let (window, regions) = (self.collected.config.window, &self.collected.config.regions);
        let names: Vec<_> = regions.iter().map(|region| region.as_str()).collect();
        let word = if names.len() == 1 { "region" } else { "regions" };
        let [from, to] = [window.from, window.to].map(|at| clock(at, window));
        format!("{word} {}, {}, {from} to {to} UTC", list(&names), day(window.from))
    }

    /// A line of a value of each step; a point is the largest of its steps.
    fn line<'a>(
        &self,
        scope: &Scope,
        (name, class): (&'a str, &'static str),
        value: impl Fn(&ScopeStep) -> f64,
    ) -> Line<'a> {
        let points = scope.moments.chunks(self.collected.stride());
        let values = points.map(|moments| moments.iter().map(&value).fold(f64::NAN, f64::max)).collect();
        Line { name, class, values, filled: false }
    }

    /// A chart for each region.
    fn by_region(
        &self,
        measures: &[Measure],
        (height, at_least, show): (f64, f64, fn(f64) -> String),
        limit: Option<f64>,
    ) -> Vec<Chart<'_>> {
        let chart = |region: &Scope| Chart {
            title: region.name.clone(),
            size: (HALF, height),
            lines: measures.iter().map(|(name, value)| self.line(region, *name, value)).collect(),
            limit,
            at_least,
            show,
            answers: true,
        };
        self.collected.regions().iter().map(chart).collect()
    }

    fn blast(&self) -> Vec<Chart<'_>> {
        let scope = self.collected.whole();
        type Part = (fn(&ScopeStep) -> u32, fn(&ScopeStep) -> PerSignal<u32>);
        let parts: [(&str, Part); 2] = [
            ("sessions", (|moment| moment.sessions, |moment| moment.degraded)),
            ("meetings", (|moment| moment.meetings, |moment| moment.meetings_degraded)),
        ];
        let chart = |(what, (all, degraded)): (&str, Part)| {
            let live = self.line(scope, ("live", "live"), |moment| all(moment).into());
            let by = By::shown(scope.most_degraded()).map(|by| {
                let name = if by == By::Any { by.label() } else { by.words() };
                self.line(scope, (name, by.label()), |moment| degraded(moment)[by as usize].into())
            });
            let title = format!("Degraded {what}, {}", scope.name);
            let lines = [Line { filled: true, ..live }].into_iter().chain(by).collect();
            Chart {
                title,
                size: (HALF, 190.0),
                lines,
                limit: None,
                at_least: 3.0,
                show: whole,
                answers: true,
            }
        };
        parts.map(chart).into()
    }

    fn rtt(&self) -> Vec<Chart<'_>> {
        let limit = self.collected.config.fold.thresholds.rtt.as_secs_f64();
        // The peak of the last line is labelled: the one that the verdict cites.
        self.by_region(
            &[
                (("p99", "p99"), |moment| moment.rtt.map_or(f64::NAN, |rtt| rtt[2])),
                (("p50", "p50"), |moment| moment.rtt.map_or(f64::NAN, |rtt| rtt[0])),
                (("p95", "p95"), |moment| moment.rtt.map_or(f64::NAN, |rtt| rtt[1])),
            ],
            (190.0, 0.05, seconds),
            Some(limit),
        )
    }

    fn sound(&self) -> Vec<Chart<'_>> {
        self.by_region(
            &[
                (("expand", "video"), |moment| moment.expand.unwrap_or(f64::NAN)),
                (("lost", "audio"), |moment| moment.lost.unwrap_or(f64::NAN)),
                (("concealed", "p95"), |moment| moment.concealed.unwrap_or(f64::NAN)),
            ],
            (190.0, 0.01, percent),
            None,
        )
    }

    fn population(&self) -> Vec<Chart<'_>> {
        self.by_region(
            &[
                (("meetings", "video"), |moment| moment.meetings.into()),
                (("participants", "audio"), |moment| moment.participants.into()),
                (("sessions", "p95"), |moment| moment.sessions.into()),
            ],
            (150.0, 3.0, whole),
            None,
        )
    }

    /// At the step with the most degraded sessions, these and their meetings: how many, and which
    /// share of the live ones.
    fn peak(&self) -> [(String, String); 2] {
        let peak = self.verdict.peak.map(|peak| self.collected.whole().moments[peak]).unwrap_or_default();
        [("session", peak.degraded, peak.sessions), ("meeting", peak.meetings_degraded, peak.meetings)].map(
            |(one, degraded, live)| {
                let (some, live) = (degraded[By::Any as usize].into(), live.into());
                (plural(some, one), format!("{} of {} live", share(some, live), count(live)))
            },
        )
    }

    /// The sessions that were degraded at some step, and their share of all.
    fn ever_degraded(&self) -> (String, String) {
        let sessions = &self.collected.sessions;
        let (degraded, seen) = (sessions.degraded() as u64, sessions.seen() as u64);
        (plural(degraded, "session"), format!("{} of {} seen", share(degraded, seen), count(seen)))
    }

    fn highest_p95(&self) -> f64 {
        let quantiles = self.collected.whole().moments.iter().filter_map(|moment| moment.rtt);
        quantiles.map(|[_, p95, _]| p95).fold(f64::NAN, f64::max)
    }

    /// The meetings and sessions to which the replay was limited.
    fn filters(&self) -> String {
        let filter = &self.collected.config.filter;
        let only = [("meeting", &filter.meetings), ("session", &filter.sessions)];
        let only = only.iter().filter(|(_, ids)| !ids.is_empty());
        let only: Vec<_> = only.map(|(what, ids)| format!("{what} {}", ids.join(", "))).collect();
        if only.is_empty() { "none: all calls".to_owned() } else { only.join("; ") }
    }
}

#[cfg(test)]
mod tests {
    use super::super::verdict::tests::collected;
    use super::*;

    #[test]
    fn the_page_needs_nothing_else() {
        let mut collected =
            collected(&[("us", &[(40, 1), (40, 20), (40, 20), (40, 0)]), ("eu", &[(4, 0); 4])]);
        "callsight replay --meeting '</pre><b>'".clone_into(&mut collected.command);
        let verdict = WindowVerdict::of(&collected);
        let page = render(&collected, &Account::default(), &verdict).unwrap();
        for outside in ["http://", "https://", "src=", "url(", "@import", "style=\"", "{{", "{%", "<b>'"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("&#60;/pre&#62;&#60;b&#62;") && page.contains("data-state=\"bad\""));
        assert!(
            page.matches("<svg class=\"chart\"").count() >= 8,
            "two of the whole and three of each region"
        );
    }
}
