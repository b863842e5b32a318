//! Parsers of values: text to a typed value, or a reason that says what to write.
//!
//! Reasons are strings because nothing matches on them: clap passes them on to the error's one
//! line.
//!
//! Invariant: a parsed value is within its bounds.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

pub(crate) const MILLISECOND: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// Parses a duration such as `1h30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    use humantime::DurationError::{NumberOverflow, UnknownUnit};

    humantime::parse_duration(text).map_err(|error| {
        let wrong = match error {
            UnknownUnit { unit, .. } if unit.is_empty() => "a time unit is missing".to_owned(),
            UnknownUnit { unit, .. } => format!("unknown time unit {unit:?}"),
            NumberOverflow => "the number is too large or too precise".to_owned(),
            _ => "not a duration".to_owned(),
        };
        format!("{wrong}; write a duration such as 30s, 5m or 1h30m")
    })
}

/// Returns a parser of a [`duration`] within `bounds`.
pub(crate) fn duration_between(
    bounds: RangeInclusive<Duration>,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| {
        let value = duration(text)?;
        if bounds.contains(&value) {
            return Ok(value);
        }
        let [least, most] = [bounds.start(), bounds.end()].map(|bound| humantime::format_duration(*bound));
        Err(format!("it must be from {least} to {most}"))
    }
}

/// Parses a [`duration`] from 1s to 1h.
pub(crate) fn within_an_hour(text: &str) -> Result<Duration, String> {
    duration_between(SECOND..=HOUR)(text)
}

/// Parses a [`duration`] from 1s to 24h.
pub(crate) fn within_a_day(text: &str) -> Result<Duration, String> {
    duration_between(SECOND..=DAY)(text)
}

/// Returns a parser of a whole number within `bounds`.
pub(crate) fn whole<T>(
    bounds: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + fmt::Display + Clone + Send + Sync + 'static,
{
    move |text| {
        text.parse()
            .ok()
            .filter(|value| bounds.contains(value))
            .ok_or_else(|| format!("write a whole number from {} to {}", bounds.start(), bounds.end()))
    }
}

/// Returns a parser of a value that has a name and a help.
pub(crate) fn named<T: Copy + Send + Sync>(
    values: &'static [(&str, &str, T)],
) -> impl TypedValueParser<Value = T> {
    let names = values.iter().map(|(name, help, _)| PossibleValue::new(*name).help(*help));
    PossibleValuesParser::new(names).try_map(|text| {
        let found = values.iter().find(|(name, ..)| *name == text);
        found.map(|(.., value)| *value).ok_or("not one of the names")
    })
}

/// Parses a share, from 0 to 1.
pub(crate) fn ratio(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|value| (0.0..=1.0).contains(value))
        .ok_or_else(|| "write a share from 0 to 1, such as 0.05 for 5 %".to_owned())
}

/// Parses a finite number above zero.
pub(crate) fn positive(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|value: &f64| value.is_finite() && *value > 0.0)
        .ok_or_else(|| "write a number above zero".to_owned())
}

/// Parses an address to listen on.
pub(crate) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "write an IP address and a port, such as 127.0.0.1:9464, or 0.0.0.0:9464 for every interface"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_say_what_is_wrong_with_them() {
        let example = "write a duration such as 30s, 5m or 1h30m";
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        for (text, wrong) in [
            ("3x", "unknown time unit \"x\""),
            ("30", "a time unit is missing"),
            ("soon", "not a duration"),
            ("", "not a duration"),
            ("-3s", "not a duration"),
            ("99999999999999999999s", "the number is too large or too precise"),
        ] {
            assert_eq!(duration(text), Err(format!("{wrong}; {example}")), "{text}");
        }
    }

    #[test]
    fn bounds_are_inclusive_and_named() {
        let parse = duration_between(Duration::from_secs(1)..=Duration::from_secs(3600));
        assert_eq!(parse("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(parse("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(parse("999ms"), Err("it must be from 1s to 1h".to_owned()));
        assert_eq!(parse("61m"), Err("it must be from 1s to 1h".to_owned()));
    }

    #[test]
    fn numbers_that_mean_nothing_are_refused() {
        assert_eq!(ratio("0.05"), Ok(0.05));
        for text in ["-0.1", "1.1", "NaN", "inf", "5%"] {
            assert!(ratio(text).is_err(), "{text}");
        }
        let replicas = whole(1..=5_u8);
        assert_eq!(replicas("5"), Ok(5));
        for text in ["0", "6", "300", "-1", "2.0", ""] {
            assert_eq!(replicas(text), Err("write a whole number from 1 to 5".to_owned()), "{text}");
        }
        assert_eq!(positive("2.5"), Ok(2.5));
        for text in ["0", "-1", "NaN", "inf", ""] {
            assert!(positive(text).is_err(), "{text}");
        }
    }
}
