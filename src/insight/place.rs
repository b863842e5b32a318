//! Places and what is judged of each.
//!
//! A verdict names a place, a table lists them, a chart draws them. All of them need the same facts
//! of a region or a server: its people, its state, and since when it is bad.
//!
//! Invariant: a place whose numbers are not complete and current has the state unknown, whatever
//! they are.

use std::cmp::Ordering;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::cause::{Cause, SETTLED, cause};
use super::client::Clients;
use super::counters::ServerKey;
use super::population::Population;
use super::spell::{Clocks, Spell, Spells};
use super::state::{State, Threshold};

/// The sessions that a region must have had for silence to be more than the end of a call.
const MANY: u64 = 10;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct JudgedRegion {
    pub(crate) region: String,
    pub(crate) state: State,
    pub(crate) since: Option<String>,
    /// Why its state is unknown.
    pub(crate) why: Option<String>,
    #[serde(flatten)]
    pub(crate) diagnosis: Diagnosis,
    #[serde(flatten)]
    pub(crate) people: Population,
    #[serde(skip)]
    pub(crate) view: RegionView,
    /// The most sessions that it had in the last minutes.
    #[serde(skip)]
    pub(crate) sessions_before: u64,
    #[serde(skip)]
    pub(crate) spell: Option<Spell<Clocks>>,
}

/// Whether what is known of a region is current.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum RegionView {
    #[default]
    Current,
    /// It is, and nobody has stored a frame for a while, although so many sessions were live.
    Still { since: Option<OffsetDateTime>, sessions: u64 },
    /// It is not, for this reason; the numbers are those of the moment `since`, or older.
    Lost { why: String, since: Option<OffsetDateTime> },
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct JudgedServer {
    #[serde(flatten)]
    pub(crate) key: ServerKey,
    pub(crate) state: State,
    pub(crate) since: Option<String>,
    #[serde(flatten)]
    pub(crate) diagnosis: Diagnosis,
    #[serde(flatten)]
    pub(crate) people: Population,
    #[serde(skip)]
    pub(crate) spell: Option<Spell<Clocks>>,
}

/// The cause of a bad place, with the numbers that speak for it in words; nothing while it is not
/// bad.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Diagnosis {
    pub(crate) cause: Option<Cause>,
    pub(crate) evidence: Option<String>,
}

impl Diagnosis {
    /// Diagnoses a bad place by its people, and by those of all releases.
    pub(crate) fn of(
        people: &Population,
        clients: &Clients,
        spell: Option<Spell<Clocks>>,
        rtt_limit_ms: f64,
    ) -> Self {
        let young = spell.is_some_and(|spell| !spell.before && spell.lasted() < SETTLED);
        let (cause, evidence) = cause(people, clients, rtt_limit_ms, young);
        Self { cause: Some(cause), evidence: Some(evidence) }
    }
}

impl JudgedRegion {
    /// Judges a region by its people, as far as the view of them allows.
    pub(crate) fn new(region: String, people: Population, view: RegionView, bad: Threshold) -> Self {
        let (state, why) = match &view {
            RegionView::Current => (State::of(&people, bad), None),
            RegionView::Still { .. } => (State::Silent, None),
            RegionView::Lost { why, .. } => (State::Unknown, Some(why.clone())),
        };
        Self {
            region,
            state,
            since: None,
            why,
            diagnosis: Diagnosis::default(),
            people,
            view,
            sessions_before: 0,
            spell: None,
        }
    }

    /// Compares with the past: whether it has become silent, and since when it is bad and by what.
    pub(crate) fn follow(
        &mut self,
        sessions_before: u64,
        spells: &mut Spells,
        at: Clocks,
        rtt_limit_ms: f64,
    ) {
        self.sessions_before = sessions_before;
        if self.state == State::Idle && sessions_before >= MANY {
            self.state = State::Silent;
        }
        self.spell = spells.follow((self.region.clone(), None), self.state, at);
        let since = match self.view {
            RegionView::Current => self.spell.map(|spell| spell.first.wall),
            RegionView::Still { since, .. } | RegionView::Lost { since, .. } => since,
        };
        self.since = since.map(rfc3339);
        if self.state == State::Bad {
            self.diagnosis = Diagnosis::of(&self.people, &self.people.clients, self.spell, rtt_limit_ms);
        }
    }
}

impl JudgedServer {
    /// Judges a server by its people, unless the view of its region is not `current`.
    pub(crate) fn new(key: ServerKey, people: Population, current: bool, bad: Threshold) -> Self {
        let state = if current { State::of(&people, bad) } else { State::Unknown };
        Self { key, state, since: None, diagnosis: Diagnosis::default(), people, spell: None }
    }

    /// Compares with the past: since when it is bad, and by what, for which it asks the releases of
    /// its region.
    pub(crate) fn follow(&mut self, clients: &Clients, spells: &mut Spells, at: Clocks, rtt_limit_ms: f64) {
        self.spell = spells.follow((self.key.region.clone(), Some(self.key.clone())), self.state, at);
        self.since = self.spell.map(|spell| rfc3339(spell.first.wall));
        if self.state == State::Bad {
            self.diagnosis = Diagnosis::of(&self.people, clients, self.spell, rtt_limit_ms);
        }
    }

    /// Orders by severity: bad ones, then more degraded sessions, then longer round trips.
    pub(crate) fn worst_first(one: &Self, other: &Self) -> Ordering {
        let bad = |server: &Self| (server.state == State::Bad, server.people.sessions_degraded);
        let p95 = |server: &Self| server.people.rtt_p95_ms.unwrap_or(0.0);
        bad(other)
            .cmp(&bad(one))
            .then(p95(other).total_cmp(&p95(one)))
            .then_with(|| one.key.server_url.cmp(&other.key.server_url))
    }
}

/// A moment in RFC 3339, to the millisecond.
pub(crate) fn rfc3339(moment: OffsetDateTime) -> String {
    let whole = moment.replace_millisecond(moment.millisecond()).unwrap_or(moment);
    whole.format(&Rfc3339).unwrap_or_default()
}
