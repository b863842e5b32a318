//! Which part of the past is replayed, and at which moments it is looked at.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use time::OffsetDateTime;
use time::UtcOffset;
use time::format_description::well_known::Rfc3339;

use callsight_fold::StreamTime;

/// A moment as it is written: absolute, or so long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// RFC 3339.
    At(StreamTime),
    /// `2h ago`, `1h30m ago`; `now` is zero ago.
    Ago(Duration),
}

/// Text that is no moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a time such as 2026-01-31T09:30:00Z, 2h ago, 1h30m ago or now")]
pub struct MomentError;

impl Moment {
    /// The moment, seen from the present.
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

/// The moment as people and programs write it, to the millisecond, in UTC.
#[must_use]
pub fn rfc3339(at: StreamTime) -> String {
    exact(StreamTime::from_unix_nanos(at.unix_nanos().div_euclid(1_000_000) * 1_000_000))
}

/// The moment to the nanosecond, in UTC.
#[must_use]
pub fn exact(at: StreamTime) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(at.unix_nanos())
        .ok()
        .and_then(|at| at.to_offset(UtcOffset::UTC).format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{} ns", at.unix_nanos()))
}

/// From when to when, and at which moments between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first moment.
    pub from: StreamTime,
    /// The last moment.
    pub to: StreamTime,
    /// From one look to the next.
    pub step: Duration,
    /// A moment that is looked at, or would be: all others are whole steps away from it.
    pub origin: StreamTime,
}

impl Window {
    /// A window that is looked at on whole multiples of the step on the Unix clock, so that two replays of the
    /// same calls have the same moments.
    #[must_use]
    pub const fn aligned(from: StreamTime, to: StreamTime, step: Duration) -> Self {
        Self { from, to, step, origin: StreamTime::from_unix_nanos(0) }
    }

    /// The moments that are looked at, in order.
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
