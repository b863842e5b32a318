//! Numbers, durations and lists in words.
//!
//! The page, the report and the terminal show the same values. One function for each keeps them
//! from rounding or abbreviating differently.
//!
//! Invariant: a value that is not known is shown as a dash, never as zero.

use std::time::Duration;

use time::OffsetDateTime;

use callsight_fold::series::aggregates::Signal;

/// Stands for a value that is not known.
pub(crate) const UNKNOWN: &str = "–";

/// The name of a signal for people.
pub(crate) const fn signal(signal: Signal) -> &'static str {
    match signal {
        Signal::Rtt => "RTT",
        Signal::Audio => "audio",
        Signal::Video => "video",
        Signal::Join => "joins",
        Signal::Uplink => "uplinks",
    }
}

/// Formats a ratio, such as `4.2 %`, `50 %`; a dash for NaN.
pub(crate) fn percent(ratio: f64) -> String {
    // The page rounds in the same way: halves go up.
    match (ratio * 1000.0).round() {
        tenths if tenths.is_nan() => UNKNOWN.to_owned(),
        tenths if tenths == 0.0 || tenths >= 100.0 => format!("{:.0} %", (ratio * 100.0).round()),
        tenths => format!("{:.1} %", tenths / 10.0),
    }
}

/// Formats a measured time in seconds, such as `62 ms`, `1.24 s`; a dash for NaN.
pub(crate) fn seconds(value: f64) -> String {
    match value {
        value if value.is_nan() => UNKNOWN.to_owned(),
        value if value < 0.0005 => "0 ms".to_owned(),
        value if value < 0.00995 => format!("{:.1} ms", value * 1e3),
        value if value < 0.9995 => format!("{:.0} ms", value * 1e3),
        value if value < 99.5 => format!("{value:.2} s"),
        value => format!("{value:.0} s"),
    }
}

/// Formats how long something lasted, such as `2m 15s`; to the millisecond below ten seconds.
pub(crate) fn duration(duration: Duration) -> String {
    let whole = match duration {
        long if long >= Duration::from_secs(10) => Duration::from_secs(long.as_secs()),
        short => Duration::from_millis(u64::try_from(short.as_millis()).unwrap_or(u64::MAX)),
    };
    humantime::format_duration(whole).to_string()
}

/// Formats the time of day, such as `14:03:10`.
pub(crate) fn clock(moment: OffsetDateTime) -> String {
    let (hour, minute, second) = moment.to_hms();
    format!("{hour:02}:{minute:02}:{second:02}")
}

/// Formats a number with separators, such as `12,345`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a number of things, such as `1 meeting`, `12 meetings`.
pub(crate) fn plural(number: u64, one: &str) -> String {
    format!("{} {one}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Joins items: `a`, `a and b`, `a, b and c`.
pub(crate) fn list<T: AsRef<str>>(items: &[T]) -> String {
    match items {
        [] => String::new(),
        [one] => one.as_ref().to_owned(),
        [most @ .., last] => {
            let most: Vec<_> = most.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", most.join(", "), last.as_ref())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_as_many_digits_as_matter() {
        assert_eq!(
            [0.0, 0.0042, 0.0624, 1.2345, f64::NAN].map(seconds),
            ["0 ms", "4.2 ms", "62 ms", "1.23 s", "–"]
        );
        assert_eq!(
            [0.0, 0.0003, 0.0421, 0.225, 0.5, f64::NAN].map(percent),
            ["0 %", "0 %", "4.2 %", "23 %", "50 %", "–"]
        );
        assert_eq!([7, 1_234, 1_234_567].map(count), ["7", "1,234", "1,234,567"]);
        assert_eq!([plural(1, "meeting"), plural(2_000, "meeting")], ["1 meeting", "2,000 meetings"]);
        assert_eq!(duration(Duration::from_millis(135_400)), "2m 15s");
        assert_eq!([list::<&str>(&[]), list(&["a"]), list(&["a", "b", "c"])], ["", "a", "a, b and c"]);
    }
}
