//! The part of the past that is replayed, and the steps at which its series are read.
//!
//! Invariant: two replays with the same step read the series at the same moments, wherever their
//! windows begin.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use callsight_fold::StreamTime;

/// A moment as people write it: absolute, or relative to the present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Written as RFC 3339.
    At(StreamTime),
    /// Written as `2h ago`, `1h30m ago`; `now` is zero ago.
    Ago(Duration),
}

/// The text is not a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a time such as 2026-01-31T09:30:00Z, 2h ago, 1h30m ago or now")]
pub struct MomentError;

impl Moment {
    /// The moment as a time, given the present.
    #[must_use]
    pub fn from(self, now: StreamTime) -> StreamTime {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => now - ago,
        }
    }
}

impl FromStr for Moment {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Self, MomentError> {
        let text = text.trim();
        if text == "now" {
            return Ok(Self::Ago(Duration::ZERO));
        }
        if let Some(ago) = text.strip_suffix("ago") {
            return humantime::parse_duration(ago.trim()).map(Self::Ago).map_err(|_| MomentError);
        }
        let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| MomentError)?;
        Ok(Self::At(StreamTime::from_unix_nanos(at.unix_timestamp_nanos())))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(at) => f.write_str(&rfc3339(*at)),
            Self::Ago(Duration::ZERO) => f.write_str("now"),
            Self::Ago(ago) => write!(f, "{} ago", humantime::format_duration(*ago)),
        }
    }
}

/// Formats a moment as RFC 3339 in UTC, to the millisecond.
#[must_use]
pub fn rfc3339(at: StreamTime) -> String {
    exact(from_unix_millis(unix_millis(at)))
}

/// A moment in whole Unix milliseconds, rounded down, as Prometheus keeps it.
#[must_use]
pub fn unix_millis(at: StreamTime) -> i64 {
    i64::try_from(at.unix_nanos().div_euclid(1_000_000)).unwrap_or(i64::MAX)
}

/// The inverse of [`unix_millis`].
#[must_use]
pub fn from_unix_millis(millis: i64) -> StreamTime {
    StreamTime::from_unix_nanos(i128::from(millis) * 1_000_000)
}

/// Formats a moment as RFC 3339 in UTC, to the nanosecond.
#[must_use]
pub fn exact(at: StreamTime) -> String {
    utc(at).and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_else(|| format!("{} ns", at.unix_nanos()))
}

/// The moment as a date and a time; `None` before the year -9999 or after 9999.
pub(super) fn utc(at: StreamTime) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(at.unix_nanos()).ok()
}

/// What is replayed: from when to when, and in which steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub from: StreamTime,
    pub to: StreamTime,
    /// The time from one step to the next.
    pub step: Duration,
    /// Every step is a whole multiple of `step` away from this moment, which may be outside the
    /// window.
    pub origin: StreamTime,
}

impl Window {
    /// A window whose steps are whole multiples of `step` on the Unix clock.
    #[must_use]
    pub const fn aligned(from: StreamTime, to: StreamTime, step: Duration) -> Self {
        Self { from, to, step, origin: StreamTime::from_unix_nanos(0) }
    }

    /// The moments of the steps, in order.
    pub fn steps(self) -> impl Iterator<Item = StreamTime> + Send {
        let step = i128::try_from(self.step.as_nanos()).unwrap_or(i128::MAX).max(1);
        let offset = self.from.unix_nanos() - self.origin.unix_nanos();
        let first = self.from.unix_nanos() + (step - offset.rem_euclid(step)) % step;
        let next = move |at: &i128| Some(at + step);
        let to = self.to.unix_nanos();
        std::iter::successors(Some(first), next)
            .take_while(move |at| *at <= to)
            .map(StreamTime::from_unix_nanos)
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", rfc3339(self.from), rfc3339(self.to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: i128) -> StreamTime {
        StreamTime::from_unix_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn moments_are_absolute_or_ago() {
        let now = at(1_000_000);
        let parse = |text: &str| text.parse::<Moment>().map(|moment| moment.from(now));
        assert_eq!(parse("now"), Ok(now));
        assert_eq!(parse("2h ago"), Ok(at(1_000_000 - 7200)));
        assert_eq!(parse("1h30m ago"), Ok(at(1_000_000 - 5400)));
        assert_eq!(parse("90s  ago"), Ok(at(1_000_000 - 90)));
        assert_eq!(parse("1970-01-01T01:00:00+01:00"), Ok(at(0)));
        for bad in ["", "2h", "ago", "-2h ago", "yesterday", "1970-01-01", "1970-01-01 00:00"] {
            assert_eq!(parse(bad), Err(MomentError), "{bad}");
        }
        for text in ["now", "1h 30m ago", "2026-01-31T09:30:00Z"] {
            assert_eq!(text.parse::<Moment>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn steps_are_multiples_of_the_step() {
        let steps = |from, to| {
            let window = Window::aligned(at(from), at(to), Duration::from_secs(15));
            window.steps().map(|at| at.unix_nanos() / 1_000_000_000).collect::<Vec<_>>()
        };
        assert_eq!(steps(30, 60), [30, 45, 60]);
        assert_eq!(steps(31, 59), [45]);
        assert_eq!(steps(31, 44), [0_i128; 0]);
    }

    #[test]
    fn steps_keep_the_phase_that_they_are_given() {
        let window = Window { from: at(31), to: at(60), step: Duration::from_secs(10), origin: at(1003) };
        let steps: Vec<_> = window.steps().map(|at| at.unix_nanos() / 1_000_000_000).collect();
        assert_eq!(steps, [33, 43, 53]);
    }
}
