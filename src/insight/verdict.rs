//! The verdict on a moment: whether it is bad, where, for how many, since when and by what, in one
//! sentence.
//!
//! A reader has thirty seconds. So the verdict names the smallest place that holds the trouble, a
//! server if the others of its region are fine, and the numbers that show its extent.
//!
//! Invariant: the sentence says nothing that the fields of the verdict, or of the places, do not.

use serde::Serialize;
use time::OffsetDateTime;

use super::cause::{Cause, numbers};
use super::counters::ServerKey;
use super::place::{Diagnosis, JudgedRegion, JudgedServer, RegionView, rfc3339};
use super::population::Population;
use super::spell::{Clocks, Spell};
use super::state::State;
use super::words::{clock, list, percent, plural, signal};
use callsight_fold::series::aggregates::Signal;

/// The verdict on everything at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct MomentVerdict {
    pub(crate) state: State,
    pub(crate) sentence: String,
    /// Where it is bad: one region, or none if it is several.
    pub(crate) region: Option<String>,
    pub(crate) server_url: Option<String>,
    pub(crate) server_type: Option<String>,
    pub(crate) sessions: u64,
    pub(crate) sessions_degraded: u64,
    pub(crate) meetings_degraded: Option<u64>,
    /// The signals that many of the degraded sessions have, the most frequent first.
    pub(crate) signals: Vec<&'static str>,
    pub(crate) since: Option<String>,
    /// Whether it was bad already when this exporter began to look.
    pub(crate) since_before: bool,
    pub(crate) cause: Option<Cause>,
    /// The cause in words, with the numbers that speak for it.
    pub(crate) evidence: String,
}

impl MomentVerdict {
    /// The verdict on regions and servers whose states and spells are known.
    pub(crate) fn on(
        regions: &[JudgedRegion],
        servers: &[JudgedServer],
        all: &Population,
        rtt_limit_ms: f64,
    ) -> Self {
        let bad: Vec<_> = regions.iter().filter(|region| region.state == State::Bad).collect();
        let unknown: Vec<_> = regions.iter().filter(|region| region.state == State::Unknown).collect();
        let bad_server = servers.iter().find(|server| server.state == State::Bad);
        let mut verdict = if let [region] = *bad {
            match servers.iter().find(|server| holds_the_trouble(server, region)) {
                Some(server) => Self::bad_server(server),
                None => Self::bad_region(region),
            }
        } else if !bad.is_empty() {
            Self::bad_regions(&bad, regions.len(), all, rtt_limit_ms)
        } else if let Some(server) = bad_server {
            Self::bad_server(server)
        } else {
            Self::calm(regions, &unknown, all, rtt_limit_ms)
        };
        if verdict.state == State::Bad && !unknown.is_empty() {
            verdict.sentence.push_str(&format!("; can't tell for {}{}", names(&unknown), cut_off(&unknown)));
        }
        verdict
    }

    fn bad_region(region: &JudgedRegion) -> Self {
        let place = format!("in {}", region.region);
        let verdict = Self::bad(&place, &region.people, region.spell, region.diagnosis.clone());
        Self { region: Some(region.region.clone()), ..verdict }
    }

    fn bad_server(server: &JudgedServer) -> Self {
        let ServerKey { region, server_url, server_type } = server.key.clone();
        let host = server_url.split_once("://").map_or(&*server_url, |(_, host)| host);
        let place = match host {
            "none" => format!("in {region} without a server"),
            "other" => format!("in {region} on other servers"),
            host => format!("in {region} on {host}"),
        };
        let verdict = Self::bad(&place, &server.people, server.spell, server.diagnosis.clone());
        let (server_url, server_type) = (Some(server_url), Some(server_type));
        Self { region: Some(region), server_url, server_type, ..verdict }
    }

    fn bad_regions(bad: &[&JudgedRegion], regions: usize, all: &Population, rtt_limit_ms: f64) -> Self {
        let place = match bad.len() {
            count if count == regions && count > 2 => format!("in all {count} regions"),
            count if count > 3 => format!("in {count} of {regions} regions"),
            _ => format!("in {}", names(bad)),
        };
        let mut people = if bad.len() == regions { all.clone() } else { Population::default() };
        if bad.len() < regions {
            bad.iter().for_each(|region| people.merge(&region.people));
        }
        let spell = bad.iter().filter_map(|region| region.spell).min_by_key(|spell| spell.first.wall);
        let diagnosis = Diagnosis::of(&people, &people.clients, spell, rtt_limit_ms);
        Self::bad(&place, &people, spell, diagnosis)
    }

    fn bad(place: &str, people: &Population, spell: Option<Spell<Clocks>>, diagnosis: Diagnosis) -> Self {
        let signals = frequent(people);
        let Population { sessions, sessions_degraded, sessions_degraded_ratio, meetings_degraded, .. } =
            people;
        let share = percent(*sessions_degraded_ratio);
        let sessions = plural(*sessions, "session");
        let mut sentence = format!("Bad {place}: {sessions_degraded} of {sessions} ({share})");
        match meetings_degraded {
            Some(1) => sentence.push_str(" in one meeting"),
            Some(meetings) => sentence.push_str(&format!(" in {meetings} meetings")),
            None => {}
        }
        sentence.push_str(&by_signals(&signals));
        if let Some(spell) = spell {
            let before = if spell.before { "before " } else { "" };
            sentence.push_str(&format!(", since {before}{} UTC", clock(spell.first.wall)));
        }
        Self {
            sentence,
            signals: signals.into_iter().map(Signal::label).collect(),
            since: spell.map(|spell| rfc3339(spell.first.wall)),
            since_before: spell.is_some_and(|spell| spell.before),
            cause: diagnosis.cause,
            evidence: diagnosis.evidence.unwrap_or_default(),
            ..Self::of(State::Bad, people)
        }
    }

    /// Nothing is bad, as far as one can tell.
    fn calm(
        regions: &[JudgedRegion],
        unknown: &[&JudgedRegion],
        all: &Population,
        rtt_limit_ms: f64,
    ) -> Self {
        let watched: Vec<_> = regions.iter().filter(|region| region.state == State::Watch).collect();
        let silent: Vec<_> = regions.iter().filter(|region| region.state == State::Silent).collect();
        let everywhere = names(&regions.iter().collect::<Vec<_>>());
        let Population { sessions, sessions_degraded, .. } = all;
        let (state, sentence) = if !unknown.is_empty() {
            let elsewhere = match *silent {
                _ if unknown.len() == regions.len() => String::new(),
                [] => "; nothing bad elsewhere".to_owned(),
                [..] => format!("; silent in {}", names(&silent)),
            };
            (State::Unknown, format!("Can't tell for {}{}", reasons(unknown), elsewhere))
        } else if !silent.is_empty() {
            (State::Silent, silence(&silent))
        } else if *sessions == 0 {
            (State::Idle, format!("No calls in {everywhere}"))
        } else if !watched.is_empty() {
            // Several regions need not have their signals in common.
            let (people, signals) = match *watched {
                [region] => (&region.people, frequent(&region.people)),
                _ => (all, Vec::new()),
            };
            let Population { sessions, sessions_degraded, sessions_degraded_ratio, .. } = people;
            let (places, share) = (names(&watched), percent(*sessions_degraded_ratio));
            let by = by_signals(&signals);
            let text =
                format!("Watch {places}: {sessions_degraded} of {sessions} sessions degraded ({share}){by}");
            (State::Watch, text)
        } else if *sessions_degraded == 0 {
            let sessions = match *sessions {
                1 => "the one session is".to_owned(),
                2 => "both sessions are".to_owned(),
                sessions => format!("all {sessions} sessions are"),
            };
            (State::Good, format!("Good: {sessions} fine in {everywhere}"))
        } else {
            let fine = sessions.saturating_sub(*sessions_degraded);
            (State::Good, format!("Good: {fine} of {sessions} sessions are fine in {everywhere}"))
        };
        // Old numbers are no evidence.
        let mut known = if unknown.is_empty() { all.clone() } else { Population::default() };
        if !unknown.is_empty() {
            let current = regions.iter().filter(|region| region.state != State::Unknown);
            current.for_each(|region| known.merge(&region.people));
        }
        let evidence = if known.sessions == 0 { String::new() } else { numbers(&known, rtt_limit_ms) };
        let since = match state {
            State::Unknown => began(unknown),
            State::Silent => began(&silent),
            _ => None,
        };
        Self { sentence, evidence, since: since.map(rfc3339), ..Self::of(state, all) }
    }

    fn of(state: State, people: &Population) -> Self {
        Self {
            state,
            sessions: people.sessions,
            sessions_degraded: people.sessions_degraded,
            meetings_degraded: people.meetings_degraded,
            ..Self::default()
        }
    }
}

/// When the view of the first of these regions was lost, or its stream began to stand still.
fn began(regions: &[&JudgedRegion]) -> Option<OffsetDateTime> {
    let began = |region: &&JudgedRegion| match region.view {
        RegionView::Current => None,
        RegionView::Still { since, .. } | RegionView::Lost { since, .. } => since,
    };
    regions.iter().filter_map(began).min()
}

/// Since when the view is lost, to be appended to the names of the regions.
fn cut_off(regions: &[&JudgedRegion]) -> String {
    began(regions).map(|since| format!(" since {} UTC", clock(since))).unwrap_or_default()
}

/// The regions of which nothing current is known, with the reasons: `us and apac since 14:03:10
/// UTC: NATS does not answer`.
fn reasons(unknown: &[&JudgedRegion]) -> String {
    let why = |region: &JudgedRegion| region.why.clone().unwrap_or_else(|| "it is not ready".to_owned());
    let mut groups: Vec<(String, Vec<&JudgedRegion>)> = Vec::new();
    for region in unknown {
        let why = why(region);
        match groups.iter_mut().find(|(other, _)| *other == why) {
            Some((_, regions)) => regions.push(region),
            None => groups.push((why, vec![region])),
        }
    }
    let parts = groups.iter().map(|(why, group)| format!("{}{}: {why}", names(group), cut_off(group)));
    parts.collect::<Vec<_>>().join("; for ")
}

/// What is known of regions without a sign of life.
fn silence(silent: &[&JudgedRegion]) -> String {
    let places = names(silent);
    let live = |region: &&JudgedRegion| match region.view {
        RegionView::Still { sessions, .. } => Some(sessions),
        RegionView::Current | RegionView::Lost { .. } => None,
    };
    if let (Some(since), Some(live)) = (began(silent), silent.iter().map(live).sum::<Option<u64>>()) {
        return format!(
            "Silent: no frame from {places} since {} UTC, when {live} sessions were live: \
             calls ended all at once, or nothing is stored",
            clock(since)
        );
    }
    let before: u64 = silent.iter().map(|region| region.sessions_before).sum();
    format!("Silent: no sessions in {places}, where {before} were within the last 5 minutes")
}

/// Whether a region's trouble is that of one of its servers.
fn holds_the_trouble(server: &JudgedServer, region: &JudgedRegion) -> bool {
    server.key.region == region.region
        && server.state == State::Bad
        && server.people.sessions_degraded * 10 >= region.people.sessions_degraded * 9
        && server.people.sessions * 10 <= region.people.sessions * 7
}

/// The signals that at least a third of the degraded sessions have, the most frequent first.
fn frequent(people: &Population) -> Vec<Signal> {
    let by = |signal: Signal| people.sessions_degraded_by[signal as usize];
    let mut signals = Signal::ALL.to_vec();
    signals.retain(|signal| by(*signal) > 0 && by(*signal) * 3 >= people.sessions_degraded);
    signals.sort_by_key(|signal| std::cmp::Reverse(by(*signal)));
    signals
}

/// The signals in words, to be appended to a sentence.
fn by_signals(signals: &[Signal]) -> String {
    let names: Vec<_> = signals.iter().map(|one| signal(*one)).collect();
    if names.is_empty() { String::new() } else { format!(", {}", list(&names)) }
}

fn names(regions: &[&JudgedRegion]) -> String {
    list(&regions.iter().map(|region| region.region.as_str()).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::state::Threshold;
    use super::*;

    fn people(sessions: u64, rtt: u64, audio: u64) -> Population {
        let degraded = rtt.max(audio);
        #[expect(clippy::cast_precision_loss, reason = "a handful of sessions")]
        Population {
            meetings: sessions / 4,
            meetings_degraded: Some(degraded.div_ceil(4)),
            sessions,
            sessions_degraded: degraded,
            sessions_degraded_ratio: if sessions == 0 { 0.0 } else { degraded as f64 / sessions as f64 },
            sessions_degraded_by: [rtt, audio, 0, 0, 0],
            sessions_degraded_evidence: [rtt, 0, 0, 0, 0, degraded - rtt],
            rtt_p95_ms: Some(if rtt > 0 { 452.4 } else { 78.0 }),
            audio_packets_lost_ratio: Some(0.041),
            audio_concealed_ratio: Some(0.0),
            ..Population::default()
        }
    }

    fn moment() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_795_615_390).unwrap()
    }

    fn region(name: &str, people: Population) -> JudgedRegion {
        let mut region = JudgedRegion::new(name.to_owned(), people, RegionView::Current, Threshold::BAD);
        if region.state == State::Bad {
            region.spell = Some(Spell {
                first: Clocks { wall: moment(), steady: Duration::ZERO },
                last: Clocks { wall: moment(), steady: Duration::from_secs(60) },
                bad_looks: 61,
                before: false,
            });
            region.diagnosis = Diagnosis::of(&region.people, &region.people.clients, region.spell, 300.0);
        }
        region
    }

    fn server(region: &str, url: &str, people: Population) -> JudgedServer {
        let JudgedRegion { state, people, spell, diagnosis, .. } = self::region(region, people);
        let key = ServerKey::from([region, url, "webrtc"].map(Into::into));
        JudgedServer { key, state, since: None, diagnosis, people, spell }
    }

    fn on(regions: &[JudgedRegion], servers: &[JudgedServer]) -> MomentVerdict {
        let mut all = Population::default();
        regions.iter().for_each(|region| all.merge(&region.people));
        MomentVerdict::on(regions, servers, &all, 300.0)
    }

    fn unknown(name: &str, why: &str) -> JudgedRegion {
        let view = RegionView::Lost { why: why.to_owned(), since: Some(moment()) };
        JudgedRegion::new(name.to_owned(), people(100, 40, 0), view, Threshold::BAD)
    }

    #[test]
    fn the_verdict_is_one_plain_sentence() {
        let (us, apac) = (
            |rtt, audio| region("us", people(120, rtt, audio)),
            |rtt, audio| region("apac", people(120, rtt, audio)),
        );
        let away = "NATS does not answer: the connection is lost";
        let still = RegionView::Still { since: Some(moment()), sessions: 120 };
        let still = JudgedRegion::new("apac".to_owned(), people(30, 0, 0), still, Threshold::BAD);
        let silent =
            JudgedRegion { state: State::Silent, sessions_before: 40, ..region("eu", people(0, 0, 0)) };
        for (regions, sentence) in [
            (
                vec![us(0, 0), apac(38, 0)],
                "Bad in apac: 38 of 120 sessions (32 %) in 10 meetings, RTT, since 14:03:10 UTC",
            ),
            (
                vec![us(0, 0), apac(38, 20)],
                "Bad in apac: 38 of 120 sessions (32 %) in 10 meetings, RTT and audio, since 14:03:10 UTC",
            ),
            (
                vec![us(0, 60), apac(12, 12)],
                "Bad in us and apac: 72 of 240 sessions (30 %) in 18 meetings, audio, since 14:03:10 UTC",
            ),
            (
                vec![us(0, 0), apac(38, 0), unknown("eu", away)],
                "Bad in apac: 38 of 120 sessions (32 %) in 10 meetings, RTT, since 14:03:10 UTC; \
                 can't tell for eu since 14:03:10 UTC",
            ),
            (
                vec![us(12, 0), apac(12, 0), region("eu", people(9, 4, 0))],
                "Bad in all 3 regions: 28 of 249 sessions (11 %) in 7 meetings, RTT, since 14:03:10 UTC",
            ),
            (vec![us(0, 0), apac(0, 0)], "Good: all 240 sessions are fine in us and apac"),
            (vec![us(1, 0), apac(0, 1)], "Good: 238 of 240 sessions are fine in us and apac"),
            (vec![us(0, 0), apac(6, 0)], "Watch apac: 6 of 120 sessions degraded (5.0 %), RTT"),
            (vec![us(7, 0), apac(6, 0)], "Watch us and apac: 13 of 240 sessions degraded (5.4 %)"),
            (
                vec![unknown("us", away), unknown("apac", away)],
                "Can't tell for us and apac since 14:03:10 UTC: NATS does not answer: the connection is lost",
            ),
            (
                vec![us(0, 0), unknown("eu", "no contact")],
                "Can't tell for eu since 14:03:10 UTC: no contact; nothing bad elsewhere",
            ),
            (
                vec![still.clone(), unknown("eu", "no contact"), unknown("us", away)],
                "Can't tell for eu since 14:03:10 UTC: no contact; for us since 14:03:10 UTC: \
                 NATS does not answer: the connection is lost; silent in apac",
            ),
            (
                vec![us(0, 0), still],
                "Silent: no frame from apac since 14:03:10 UTC, when 120 sessions were live: \
                 calls ended all at once, or nothing is stored",
            ),
            (vec![us(0, 0), silent], "Silent: no sessions in eu, where 40 were within the last 5 minutes"),
            (vec![region("us", people(0, 0, 0))], "No calls in us"),
            // Two of a call of three are nobody's outage.
            (vec![region("us", people(1, 0, 0))], "Good: the one session is fine in us"),
        ] {
            assert_eq!(on(&regions, &[]).sentence, sentence);
        }
    }

    #[test]
    fn old_numbers_are_no_evidence() {
        let alone = on(&[unknown("us", "no contact")], &[]);
        assert_eq!((alone.state, alone.evidence.as_str()), (State::Unknown, ""));
        assert_eq!(alone.since.as_deref(), Some("2026-11-25T14:03:10Z"));
        let fine = on(&[unknown("us", "no contact"), region("apac", people(120, 0, 0))], &[]);
        assert!(fine.evidence.starts_with("RTT p95 78 ms"), "{}", fine.evidence);
    }

    #[test]
    fn a_server_is_named_when_it_holds_the_trouble() {
        let regions = [region("us", people(120, 0, 0)), region("apac", people(120, 40, 0))];
        let narrow = server("apac", "https://relay-7.example:4433", people(42, 40, 0));
        let verdict = on(&regions, &[narrow]);
        let begin = "Bad in apac on relay-7.example:4433: 40 of 42 sessions (95 %)";
        assert!(verdict.sentence.starts_with(begin), "{}", verdict.sentence);
        assert_eq!(verdict.server_url.as_deref(), Some("https://relay-7.example:4433"));

        let wide = server("apac", "https://relay-7.example:4433", people(60, 20, 0));
        assert!(on(&regions, &[wide]).sentence.starts_with("Bad in apac: 40 of 120"));

        // One server of a large region.
        let regions = [region("us", people(1000, 20, 0))];
        let verdict = on(&regions, &[server("us", "https://relay-3.example", people(20, 20, 0))]);
        assert!(
            verdict.sentence.starts_with("Bad in us on relay-3.example: 20 of 20"),
            "{}",
            verdict.sentence
        );
    }

    #[test]
    fn the_verdict_has_the_cause_of_its_place() {
        let verdict = on(&[region("us", people(120, 38, 0))], &[]);
        assert_eq!(verdict.cause, Some(Cause::Network));
        let text = "Network: round trips are long in all of the 38. RTT p95 452 ms (limit 300), \
            4.1 % of audio packets lost, 0 % of audio concealed";
        assert_eq!(verdict.evidence, text);
        assert_eq!(on(&[region("us", people(120, 0, 0))], &[]).cause, None);
        let both = on(&[region("us", people(120, 38, 0)), region("apac", people(120, 30, 0))], &[]);
        assert!(both.evidence.starts_with("Network: round trips are long in all of the 68."), "{both:?}");
    }
}
