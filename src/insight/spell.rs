//! Since when a place is bad.
//!
//! A place on the threshold is bad at one look and not at the next. To the reader that is one time
//! of trouble, so short breaks belong to it.
//!
//! Invariant: a spell begins and ends with a moment at which its place was bad.

use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use time::OffsetDateTime;

use super::counters::ServerKey;
use super::state::State;

/// How long a place must not be bad before its next bad moment begins a new spell.
const OVER_AFTER: Duration = Duration::from_secs(15);

/// A moment at which places are judged, on two clocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Clocks {
    /// The time of day, which is shown.
    pub(crate) wall: OffsetDateTime,
    /// The time since any origin on a clock that never jumps, by which intervals are measured.
    pub(crate) steady: Duration,
}

/// A time for which a place is bad, from the first bad moment to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spell<M> {
    /// The first bad moment.
    pub(crate) first: M,
    /// The last bad moment so far.
    pub(crate) last: M,
    /// The number of looks at which it was bad, of those from the first to the last.
    pub(crate) bad_looks: usize,
    /// Whether it was bad when it was first looked at, so that it may have begun earlier.
    pub(crate) before: bool,
}

impl Spell<Clocks> {
    /// The time from the first bad moment to the last.
    pub(crate) const fn lasted(&self) -> Duration {
        self.last.steady.saturating_sub(self.first.steady)
    }
}

/// A place: a region, or a server in it.
pub(crate) type PlaceKey = (String, Option<ServerKey>);

/// The spells that last, and the regions that were seen not to be bad.
#[derive(Debug, Default)]
pub(crate) struct Spells {
    lasting: HashMap<PlaceKey, Spell<Clocks>>,
    seen_well: HashSet<String>,
}

impl Spells {
    /// Forgets the servers that are not `there` any more.
    pub(crate) fn keep_servers(&mut self, there: &HashSet<&ServerKey>) {
        self.lasting.retain(|(_, server), _| server.as_ref().is_none_or(|server| there.contains(server)));
    }

    /// Takes a place's state at a moment, and returns the spell that it is in.
    pub(crate) fn follow(&mut self, place: PlaceKey, state: State, at: Clocks) -> Option<Spell<Clocks>> {
        match state {
            State::Bad => {
                let before = !self.seen_well.contains(&place.0);
                let begun = Spell { first: at, last: at, bad_looks: 0, before };
                let spell = self.lasting.entry(place).or_insert(begun);
                (spell.last, spell.bad_looks) = (at, spell.bad_looks + 1);
                Some(*spell)
            }
            // An unknown state neither begins nor ends anything.
            State::Unknown => None,
            State::Idle | State::Good | State::Watch | State::Silent => {
                if place.1.is_none() && !self.seen_well.contains(&place.0) {
                    self.seen_well.insert(place.0.clone());
                }
                let over = |spell: &Spell<Clocks>| at.steady.saturating_sub(spell.last.steady) > OVER_AFTER;
                if self.lasting.get(&place).is_some_and(over) {
                    self.lasting.remove(&place);
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_gone_is_forgotten() {
        let mut spells = Spells::default();
        let at = Clocks { wall: OffsetDateTime::UNIX_EPOCH, steady: Duration::ZERO };
        let server = |url: &str| ServerKey { server_url: url.to_owned(), ..ServerKey::default() };
        let (gone, stays) = (server("gone"), server("stays"));
        for place in [None, Some(gone), Some(stays.clone())] {
            spells.follow(("us".to_owned(), place), State::Bad, at);
        }
        spells.keep_servers(&HashSet::from([&stays]));
        assert_eq!(spells.lasting.len(), 2);
    }

    #[test]
    fn a_spell_lasts_over_short_breaks_and_what_was_bad_before_is_said_to_be() {
        let mut spells = Spells::default();
        let mut at = |second: u64, state| {
            let steady = Duration::from_secs(second);
            let clocks = Clocks { wall: OffsetDateTime::UNIX_EPOCH + steady, steady };
            spells.follow(("us".to_owned(), None), state, clocks)
        };
        let since = |spell: Option<Spell<Clocks>>| {
            spell.map(|spell| (spell.first.wall - OffsetDateTime::UNIX_EPOCH).whole_seconds())
        };
        // It was bad at the first look.
        let first = at(0, State::Bad);
        assert!(first.unwrap().before && since(first) == Some(0));
        assert_eq!(since(at(5, State::Watch)), None);
        assert_eq!(since(at(10, State::Bad)), Some(0));
        assert_eq!(since(at(15, State::Unknown)), None);
        assert_eq!((since(at(60, State::Good)), since(at(61, State::Bad))), (None, Some(61)));
        assert!(!at(62, State::Bad).unwrap().before);
    }
}
