//! Whether a place is bad.
//!
//! Some session is always degraded somewhere. What matters is whether something is wrong with a
//! place, so its state depends on both the share and the number of its degraded sessions.
//!
//! Invariant: a place is bad if and only if it meets [`Threshold::BAD`], now as in a past window,
//! except in a demo, where a single call must do.

use serde::Serialize;

use super::population::Population;

/// The degraded sessions that a place must have to count as bad, or as worth a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Threshold {
    /// Their least share of the live sessions, in per cent.
    pub(crate) percent: u32,
    pub(crate) sessions: u32,
}

impl Threshold {
    /// Bad. It serves a reader who looks at the place already; an alert, which wakes people, waits
    /// for more.
    pub(crate) const BAD: Self = Self { percent: 10, sessions: 3 };
    const WATCH: Self = Self { percent: 3, sessions: 2 };

    /// Whether so many degraded sessions of so many live ones meet it.
    pub(crate) const fn is_met(self, degraded: u64, live: u64) -> bool {
        degraded >= self.sessions as u64 && degraded * 100 >= live * self.percent as u64
    }
}

/// The state of a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// No session is live.
    Idle,
    /// No session is degraded, or only few.
    Good,
    Watch,
    Bad,
    /// No frame comes, or no session is live, and many were a few minutes ago.
    Silent,
    /// Not known: what is served of the place is not complete and current.
    #[default]
    Unknown,
}

impl State {
    /// The state of a place with these people, which is bad from `bad` on.
    pub(crate) const fn of(people: &Population, bad: Threshold) -> Self {
        let (degraded, live) = (people.sessions_degraded, people.sessions);
        match live {
            0 => Self::Idle,
            _ if bad.is_met(degraded, live) => Self::Bad,
            _ if Threshold::WATCH.is_met(degraded, live) => Self::Watch,
            _ => Self::Good,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_needs_both_a_share_and_a_number_to_be_bad() {
        let state = |sessions, sessions_degraded| {
            State::of(&Population { sessions, sessions_degraded, ..Population::default() }, Threshold::BAD)
        };
        assert_eq!(
            [state(3, 2), state(4, 3), state(100, 9), state(100, 10)],
            [State::Watch, State::Bad, State::Watch, State::Bad]
        );
        assert_eq!([state(0, 0), state(100, 0), state(30, 1)], [State::Idle, State::Good, State::Good]);
        assert_eq!(state(10_001, 1_000), State::Watch, "no rounding makes a place bad");
    }
}
