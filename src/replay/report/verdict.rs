//! The verdict on a window: when it was bad, and a sentence that says so.
//!
//! The first question after an incident is from when to when it lasted, and for how many. Regions
//! begin and end at different steps, so the whole is taken from the earliest to the latest.
//!
//! Invariant: a window is bad if and only if a region, or all together, met the threshold at some
//! step.

use std::time::Duration;

use super::collect::{Collected, Scope, ScopeStep};
use super::signals::By;
use super::text::clock;
use crate::insight::cause::{Cause, reason};
use crate::insight::client::Clients;
use crate::insight::counters::ratio;
use crate::insight::quantile::percentile;
use crate::insight::spell::Spell;
use crate::insight::words::{duration, list, percent, plural, seconds};
use callsight_fold::StreamTime;

/// The bad time of a scope, by the indices of its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScopeSpell {
    /// From the first bad step to the last; there may be good steps between.
    pub(super) steps: Spell<usize>,
    /// The step with the most degraded sessions, the earliest of several.
    pub(super) peak: usize,
}

impl ScopeSpell {
    /// The bad time of a scope by a signal; `None` if it was never bad.
    pub(crate) fn of(scope: &Scope, by: By, collected: &Collected) -> Option<Self> {
        let bad = |step: &usize| scope.moments[*step].is_bad(by, collected.threshold());
        let bad: Vec<usize> = (0..scope.moments.len()).filter(bad).collect();
        let (&first, &last) = (bad.first()?, bad.last()?);
        let steps = Spell { first, last, bad_looks: bad.len(), before: first == 0 };
        let peak = bad.into_iter().rev().max_by_key(|step| scope.moments[*step].degraded[by as usize])?;
        Some(Self { steps, peak })
    }

    pub(crate) fn began(&self, collected: &Collected) -> StreamTime {
        collected.at[self.steps.first]
    }

    /// The step at which it was over; none if the window ends first.
    pub(crate) fn ended(&self, collected: &Collected) -> Option<StreamTime> {
        collected.at.get(self.steps.last + 1).copied()
    }

    /// From the beginning to the end, or to the last step.
    pub(crate) fn lasted(&self, collected: &Collected) -> Duration {
        let end = self.ended(collected).unwrap_or_else(|| collected.at[self.steps.last]);
        end.since(self.began(collected))
    }
}

/// The verdict on a window.
#[derive(Clone, Debug, Default)]
pub(crate) struct WindowVerdict {
    /// `bad`, `good` or `idle`.
    pub(crate) state: &'static str,
    /// The verdict in one sentence.
    pub(crate) sentence: String,
    /// The probable cause, if it was bad.
    pub(crate) cause: Option<Cause>,
    /// The cause in words, and the numbers that support it.
    pub(crate) evidence: String,
    /// The bad time of all regions together.
    pub(crate) spell: Option<ScopeSpell>,
    /// The step with the most degraded sessions of all regions, if there was one.
    pub(crate) peak: Option<usize>,
}

impl WindowVerdict {
    /// Judges what was gathered.
    pub(crate) fn of(collected: &Collected) -> Self {
        let (whole, window) = (collected.whole(), collected.config.window);
        let most = ScopeStep::worst(&whole.moments);
        let Some(peak) = most.filter(|_| whole.moments.iter().any(|moment| moment.sessions > 0)) else {
            return Self {
                state: "idle",
                sentence: "No session was live at any point.".to_owned(),
                ..Self::default()
            };
        };
        let bad: Vec<_> = collected
            .regions()
            .iter()
            .filter_map(|region| Some((region, ScopeSpell::of(region, By::Any, collected)?)))
            .collect();
        let spell = together(bad.iter().map(|(_, spell)| spell.steps), peak)
            .or_else(|| ScopeSpell::of(whole, By::Any, collected));
        let moment = &whole.moments[peak];
        let degraded = moment.degraded[By::Any as usize];
        let [sessions, meetings] = [
            (degraded, moment.sessions, "session"),
            (moment.meetings_degraded[By::Any as usize], moment.meetings, "meeting"),
        ]
        .map(|(some, all, one)| format!("{some} of {}", plural(all.into(), one)));
        let sentence = match &spell {
            None if degraded == 0 => "All was well: no session was degraded at any point.".to_owned(),
            None => format!(
                "No region was bad: at most {sessions} were degraded at a time, at {}.",
                clock(collected.at[peak], window)
            ),
            Some(spell) => {
                let names: Vec<_> = bad.iter().map(|(region, _)| region.name.as_str()).collect();
                let who = match names.as_slice() {
                    [] => "All regions together were".to_owned(),
                    [one] => format!("Region {one} was"),
                    several => format!("Regions {} were", list(several)),
                };
                let by = signals(if bad.len() == 1 { bad[0].0 } else { whole }, collected);
                let from = clock(spell.began(collected), window);
                let lasting = duration(spell.lasted(collected));
                let until = match spell.ended(collected) {
                    Some(at) => format!("from {from} to {} ({lasting})", clock(at, window)),
                    None => format!("from {from} to the end of the window ({lasting} so far)"),
                };
                format!("{who} degraded ({}) {until}; at the peak, {sessions} in {meetings}.", list(&by))
            }
        };
        let (cause, why) = spell.and_then(|spell| diagnosis(whole, spell.steps)).unzip();
        let numbers = evidence(collected, spell);
        Self {
            state: if spell.is_some() { "bad" } else { "good" },
            sentence,
            cause,
            evidence: why.into_iter().chain([numbers]).collect::<Vec<_>>().join(" "),
            spell,
            peak: Some(peak),
        }
    }
}

/// The cause of most of the bad time, where each step counts by its degraded sessions, in the words
/// of its worst step. The peak alone may tell otherwise: when a path becomes long, audio is late
/// before any round trip is measured.
fn diagnosis(whole: &Scope, steps: Spell<usize>) -> Option<(Cause, String)> {
    /// What one cause explains.
    struct Explained {
        cause: Cause,
        sessions: u64,
        worst: u64,
        words: String,
    }
    let mut causes: Vec<Explained> = Vec::new();
    for moment in &whole.moments[steps.first..=steps.last] {
        let people = moment.people(Clients::new());
        let sessions = people.sessions_degraded;
        if sessions == 0 {
            continue;
        }
        let (cause, words) = reason(&people, &whole.clients, false);
        match causes.iter_mut().find(|explained| explained.cause == cause) {
            None => causes.push(Explained { cause, sessions, worst: sessions, words }),
            Some(explained) => {
                explained.sessions += sessions;
                if sessions > explained.worst {
                    (explained.worst, explained.words) = (sessions, words);
                }
            }
        }
    }
    // The earliest of several.
    let most = causes.into_iter().rev().max_by_key(|explained| explained.sessions)?;
    Some((most.cause, most.words))
}

/// The page's main facts for a terminal, a line each.
pub(crate) fn summary(collected: &Collected, verdict: &WindowVerdict) -> Vec<String> {
    let window = collected.config.window;
    let mut said = vec![verdict.sentence.clone()];
    if !verdict.evidence.is_empty() {
        said.push(verdict.evidence.clone());
    }
    for region in collected.regions() {
        for by in By::SIGNALS {
            let Some(spell) = ScopeSpell::of(region, by, collected) else { continue };
            let peak = &region.moments[spell.peak];
            let until = match spell.ended(collected) {
                Some(at) => format!("to {}", clock(at, window)),
                None => "and continues".to_owned(),
            };
            said.push(format!(
                "  {} by {}: from {} {until}, at most {} of {}",
                region.name,
                by.words(),
                clock(spell.began(collected), window),
                peak.degraded[by as usize],
                plural(peak.sessions.into(), "session")
            ));
        }
    }
    for (name, score) in collected.sessions.top(3) {
        let [region, meeting, _] = &score.names;
        let lasting = duration(window.step.saturating_mul(score.bad_steps()));
        let rtt = seconds(score.most_rtt.into());
        said.push(format!(
            "  worst session {name} in meeting {meeting}, {region}: degraded for {lasting}, RTT up to {rtt}"
        ));
    }
    said
}

/// One spell from the beginning of the earliest to the end of the latest.
fn together(spells: impl Iterator<Item = Spell<usize>>, peak: usize) -> Option<ScopeSpell> {
    let steps = spells.reduce(|a, b| Spell {
        first: a.first.min(b.first),
        last: a.last.max(b.last),
        bad_looks: a.bad_looks.max(b.bad_looks),
        before: a.before || b.before,
    })?;
    Some(ScopeSpell { steps, peak })
}

/// The signals by which a scope was bad, the one with the most degraded sessions first.
fn signals(scope: &Scope, collected: &Collected) -> Vec<&'static str> {
    let mut by: Vec<_> = By::SIGNALS
        .iter()
        .filter_map(|by| {
            let spell = ScopeSpell::of(scope, *by, collected)?;
            Some((scope.moments[spell.peak].degraded[*by as usize], *by))
        })
        .collect();
    by.sort_by_key(|(sessions, _)| std::cmp::Reverse(*sessions));
    if by.is_empty() {
        return vec!["several signals together"];
    }
    by.into_iter().map(|(_, by)| by.words()).collect()
}

/// The highest values, and the usual ones beside them.
fn evidence(collected: &Collected, spell: Option<ScopeSpell>) -> String {
    let moments = &collected.whole().moments;
    let mut parts = Vec::new();
    let within =
        |step: usize| spell.is_some_and(|spell| (spell.steps.first..=spell.steps.last).contains(&step));
    type Measure = (&'static str, fn(f64) -> String, fn(&ScopeStep) -> Option<f64>);
    let measures: [Measure; 5] = [
        ("RTT p95", seconds, |moment| moment.rtt.map(|[_, p95, _]| p95)),
        ("audio concealed", percent, |moment| moment.concealed),
        ("audio packets lost", percent, |moment| moment.lost),
        ("video packets lost", percent, |moment| moment.video_lost),
        ("sent packets lost", percent, |moment| moment.sent_lost),
    ];
    for (what, show, value) in measures {
        let most = moments.iter().filter_map(value).fold(f64::NAN, f64::max);
        let outside = moments.iter().enumerate().filter(|(step, _)| !within(*step));
        let mut usual: Vec<_> = outside.filter_map(|(_, moment)| value(moment)).collect();
        let usual = percentile(&mut usual, 50).map(|usual| format!(", {} usually", show(usual)));
        if !most.is_nan() {
            parts.push(format!("{what} up to {}{}", show(most), usual.unwrap_or_default()));
        }
    }
    let (seen, degraded) = (collected.sessions.seen(), collected.sessions.degraded());
    let share = percent(ratio(degraded as u64, seen as u64).unwrap_or_default());
    parts.push(format!(
        "{degraded} of {} ({share}) were degraded at some point",
        plural(seen as u64, "session")
    ));
    format!("{}.", parts.join("; "))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::replay::engine::{EngineConfig, Filter};
    use crate::replay::window::Window;
    use callsight_fold::FoldSettings;

    /// Regions, and of each the sessions and degraded sessions by RTT, a step a second from
    /// 20:00:00 on.
    pub(in crate::replay::report) fn collected(regions: &[(&str, &[(u32, u32)])]) -> Collected {
        let at = |second: usize| {
            StreamTime::from_unix_nanos(1_764_100_800_000_000_000) + Duration::from_secs(second as u64)
        };
        let steps = regions[0].1.len();
        let config = EngineConfig {
            regions: regions.iter().map(|(name, _)| name.parse().unwrap()).collect(),
            window: Window::aligned(at(0), at(steps - 1), Duration::from_secs(1)),
            filter: Filter::default(),
            fold: FoldSettings::default(),
            mirror: false,
        };
        let mut collected = Collected::new(config, "callsight replay --report x.html".to_owned());
        collected.at = (0..steps).map(at).collect();
        let moment = |sessions: u32, degraded: u32| ScopeStep {
            sessions,
            participants: sessions,
            meetings: sessions.div_ceil(4),
            degraded: [degraded, 0, 0, 0, 0, degraded],
            meetings_degraded: [degraded.div_ceil(4), 0, 0, 0, 0, degraded.div_ceil(4)],
            rtt: (sessions > 0).then_some(if degraded > 0 { [0.1, 0.5, 0.6] } else { [0.05, 0.06, 0.07] }),
            expand: Some(0.01),
            concealed: Some(0.02),
            evidence: [degraded, 0, 0, 0, 0, 0],
            ..ScopeStep::default()
        };
        let several = usize::from(regions.len() > 1);
        let mut all = vec![Vec::new(); regions.len() + several];
        for step in 0..steps {
            for (index, (_, steps)) in regions.iter().enumerate() {
                all[index + several].push(moment(steps[step].0, steps[step].1));
            }
            if several == 1 {
                let sum =
                    |part: fn(&(u32, u32)) -> u32| regions.iter().map(|(_, all)| part(&all[step])).sum();
                all[0].push(moment(sum(|(all, _)| *all), sum(|(_, degraded)| *degraded)));
            }
        }
        collected.fill(all);
        collected
    }

    const CALM: (u32, u32) = (40, 1);

    #[test]
    fn it_begins_and_ends_with_the_floor() {
        // 3 of 40 are enough sessions, but not one in ten; 4 are.
        let steps = [CALM, (40, 3), (40, 4), (40, 20), CALM, (40, 20), (40, 4), (40, 3), CALM];
        let collected = collected(&[("us", &steps)]);
        let spell = ScopeSpell::of(collected.whole(), By::Rtt, &collected).unwrap();
        let steps = Spell { first: 2, last: 6, bad_looks: 4, before: false };
        assert_eq!(spell, ScopeSpell { steps, peak: 3 });
        assert_eq!(ScopeSpell::of(collected.whole(), By::Audio, &collected), None);
        let verdict = WindowVerdict::of(&collected);
        assert_eq!(
            verdict.sentence,
            "Region us was degraded (RTT) from 20:00:02 to 20:00:07 (5s); at the peak, 20 of 40 sessions in 5 of \
             10 meetings."
        );
        assert_eq!(
            verdict.evidence,
            "Network: round trips are long in all of the 20. RTT p95 up to 500 ms, 500 ms usually; audio concealed up to 2.0 %, 2.0 % usually; 0 of 0 sessions \
             (0 %) were degraded at some point."
        );
    }

    #[test]
    fn it_may_go_on() {
        let collected = collected(&[("us", &[CALM, (40, 20), (40, 30)]), ("apac", &[CALM, CALM, (10, 10)])]);
        let verdict = WindowVerdict::of(&collected);
        assert_eq!(
            verdict.sentence,
            "Regions us and apac were degraded (RTT) from 20:00:01 to the end of the window (1s so far); at the \
             peak, 40 of 50 sessions in 10 of 13 meetings."
        );
        assert_eq!((verdict.state, verdict.peak, verdict.cause), ("bad", Some(2), Some(Cause::Network)));
    }

    #[test]
    fn its_cause_is_that_of_most_of_the_bad_time() {
        let mut collected = collected(&[("us", &[CALM, (40, 20), (40, 20), (40, 18), (40, 19), CALM])]);
        let mut moments = collected.whole().moments.clone();
        for (step, client) in [(1, 20), (2, 20)] {
            moments[step].evidence = [0, 0, 0, 0, client, 0];
        }
        collected.fill(vec![moments]);
        let early = WindowVerdict::of(&collected);
        assert_eq!((early.peak, early.cause), (Some(1), Some(Cause::Client)), "40 before, 37 after");
        let mut moments = collected.whole().moments.clone();
        moments[2].evidence = [20, 0, 0, 0, 0, 0];
        collected.fill(vec![moments]);
        let verdict = WindowVerdict::of(&collected);
        assert_eq!((verdict.peak, verdict.cause), (Some(1), Some(Cause::Network)));
        let words = "Network: round trips are long in all of the 20.";
        assert!(verdict.evidence.starts_with(words), "{}", verdict.evidence);
    }

    #[test]
    fn it_may_take_all_regions_together() {
        let collected = collected(&[("us", &[(5, 0), (5, 2)]), ("apac", &[(5, 0), (5, 2)])]);
        let sentence = WindowVerdict::of(&collected).sentence;
        assert!(sentence.starts_with("All regions together were degraded (RTT) from 20:00:01"), "{sentence}");
    }

    #[test]
    fn it_may_have_been_nothing() {
        let few = WindowVerdict::of(&collected(&[("us", &[CALM, (40, 2), CALM])]));
        assert_eq!((few.state, few.spell, few.cause), ("good", None, None));
        assert_eq!(
            few.sentence,
            "No region was bad: at most 2 of 40 sessions were degraded at a time, at 20:00:01."
        );
        assert!(WindowVerdict::of(&collected(&[("us", &[(4, 0)])])).sentence.starts_with("All was well"));
        assert_eq!(WindowVerdict::of(&collected(&[("us", &[(0, 0)])])).state, "idle");
    }
}
