//! Since when a place has been bad.

use std::time::{Duration, Instant};

use hashbrown::{HashMap, HashSet};
use time::OffsetDateTime;

use super::judge::State;

/// How long a place must not be bad until its next bad spell is a new one.
const OVER_AFTER: Duration = Duration::from_secs(15);

/// A place: a region, or a server in one.
pub(super) type PlaceKey = (String, Option<(String, String)>);

/// A time for which a place is bad without a break.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spell {
    pub(super) since: OffsetDateTime,
    /// It was bad when it was first looked at.
    pub(super) before: bool,
    began: Instant,
    last_bad: Instant,
}

/// The bad spells that last, and the places that were looked at while they were not bad.
#[derive(Debug, Default)]
pub(super) struct Spells {
    lasting: HashMap<PlaceKey, Spell>,
    known: HashSet<String>,
}

impl Spells {
    /// Takes a place's state, and tells the spell that it is in.
    pub(super) fn follow(
        &mut self,
        place: PlaceKey,
        state: State,
        (wall, now): (OffsetDateTime, Instant),
    ) -> Option<Spell> {
        match state {
            State::Bad => {
                let before = !self.known.contains(&place.0);
                let spell = self.lasting.entry(place).or_insert(Spell {
                    since: wall,
                    before,
                    began: now,
                    last_bad: now,
                });
                spell.last_bad = now;
                Some(*spell)
            }
            // What is not known neither begins nor ends anything.
            State::Unknown => None,
            State::Idle | State::Good | State::Watch | State::Silent => {
                if place.1.is_none() && !self.known.contains(&place.0) {
                    self.known.insert(place.0.clone());
                }
                let over = self.lasting.get(&place).is_some_and(|spell| now - spell.last_bad > OVER_AFTER);
                if over {
                    self.lasting.remove(&place);
                }
                None
            }
        }
    }
}

impl Spell {
    /// How long it has lasted.
    pub(super) fn lasted(&self) -> Duration {
        self.last_bad.saturating_duration_since(self.began)
    }

    /// One that began at a moment and has lasted so long, for tests.
    #[cfg(test)]
    pub(super) fn of(since: OffsetDateTime, lasted: Duration) -> Self {
        let began = Instant::now();
        Self { since, before: false, began, last_bad: began + lasted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spell_lasts_over_short_breaks_and_what_was_bad_before_is_said_to_be() {
        let (mut spells, start) = (Spells::default(), Instant::now());
        let mut at = |second: u64, state| {
            let passed = Duration::from_secs(second);
            spells.follow(
                ("us".to_owned(), None),
                state,
                (OffsetDateTime::UNIX_EPOCH + passed, start + passed),
            )
        };
        let since = |spell: Option<Spell>| {
            spell.map(|spell| (spell.since - OffsetDateTime::UNIX_EPOCH).whole_seconds())
        };
        // It was bad when we came.
        let first = at(0, State::Bad);
        assert!(first.unwrap().before && since(first) == Some(0));
        assert_eq!(since(at(5, State::Watch)), None);
        assert_eq!(since(at(10, State::Bad)), Some(0));
        assert_eq!(since(at(15, State::Unknown)), None);
        assert_eq!((since(at(60, State::Good)), since(at(61, State::Bad))), (None, Some(61)));
        assert!(!at(62, State::Bad).unwrap().before);
    }
}
