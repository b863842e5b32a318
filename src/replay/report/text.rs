//! Numbers, times and lists as people read them, and text that can't become markup.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

use time::{OffsetDateTime, UtcOffset};

use crate::replay::window::Window;
use callsight_fold::StreamTime;

/// Text for the inside of an element or a quoted attribute.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    Cow::Owned(safe)
}

/// Appends what is formatted.
pub(super) fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // A `String` takes everything.
    let _ = text.write_fmt(arguments);
}

/// `62 ms`, `1.24 s`; a dash for nothing.
pub(super) fn seconds(value: f64) -> String {
    match value {
        value if value.is_nan() => "–".to_owned(),
        value if value < 0.0005 => "0 ms".to_owned(),
        value if value < 0.00995 => format!("{:.1} ms", value * 1e3),
        value if value < 0.9995 => format!("{:.0} ms", value * 1e3),
        value if value < 99.5 => format!("{value:.2} s"),
        value => format!("{value:.0} s"),
    }
}

/// `4.2 %`; a dash for nothing.
pub(super) fn percent(ratio: f64) -> String {
    match ratio * 100.0 {
        percent if percent.is_nan() => "–".to_owned(),
        percent if percent > 0.0 && percent < 9.95 => format!("{percent:.1} %"),
        percent => format!("{percent:.0} %"),
    }
}

/// `12,345`.
pub(super) fn count(number: u64) -> String {
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

/// `1 meeting`, `12 meetings`.
pub(super) fn plural(number: u64, one: &str) -> String {
    format!("{} {one}{}", count(number), if number == 1 { "" } else { "s" })
}

/// `2m 15s`.
pub(super) fn span(duration: Duration) -> String {
    let whole = match duration {
        long if long >= Duration::from_secs(10) => Duration::from_secs(long.as_secs()),
        short => Duration::from_millis(u64::try_from(short.as_millis()).unwrap_or(u64::MAX)),
    };
    humantime::format_duration(whole).to_string()
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn listed<T: AsRef<str>>(items: &[T]) -> String {
    match items {
        [] => String::new(),
        [one] => one.as_ref().to_owned(),
        [most @ .., last] => {
            let most: Vec<_> = most.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", most.join(", "), last.as_ref())
        }
    }
}

fn utc(at: StreamTime) -> OffsetDateTime {
    let at = OffsetDateTime::from_unix_timestamp_nanos(at.unix_nanos());
    at.map_or(OffsetDateTime::UNIX_EPOCH, |at| at.to_offset(UtcOffset::UTC))
}

/// `31 January 2026`.
pub(super) fn day(at: StreamTime) -> String {
    let at = utc(at);
    format!("{} {} {}", at.day(), at.month(), at.year())
}

/// `20:14:15`, with the day where the window has several.
pub(super) fn clock(at: StreamTime, window: Window) -> String {
    let (hour, minute, second) = utc(at).to_hms();
    let time = format!("{hour:02}:{minute:02}:{second:02}");
    if utc(window.from).date() == utc(window.to).date() {
        return time;
    }
    let date = utc(at).date();
    format!("{} {} {time}", date.day(), &date.month().to_string()[..3])
}

/// `20:14` for an axis.
pub(super) fn tick(seconds: i64, with_seconds: bool) -> String {
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (hour, minute, second) = at.to_hms();
    match with_seconds {
        true => format!("{hour:02}:{minute:02}:{second:02}"),
        false => format!("{hour:02}:{minute:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_stays_text() {
        assert_eq!(escape("m1"), "m1");
        assert_eq!(escape("<b a='1' c=\"2\">&"), "&lt;b a=&#39;1&#39; c=&quot;2&quot;&gt;&amp;");
    }

    #[test]
    fn numbers_have_as_many_digits_as_matter() {
        assert_eq!(
            [0.0, 0.0042, 0.0624, 1.2345, f64::NAN].map(seconds),
            ["0 ms", "4.2 ms", "62 ms", "1.23 s", "–"]
        );
        assert_eq!([0.0, 0.0421, 0.5].map(percent), ["0 %", "4.2 %", "50 %"]);
        assert_eq!([7, 1_234, 1_234_567].map(count), ["7", "1,234", "1,234,567"]);
        assert_eq!([plural(1, "meeting"), plural(2_000, "meeting")], ["1 meeting", "2,000 meetings"]);
        assert_eq!(span(Duration::from_millis(135_400)), "2m 15s");
        assert_eq!([listed(&["a"]), listed(&["a", "b", "c"])], ["a", "a, b and c"]);
    }

    #[test]
    fn a_time_has_its_day_where_there_are_several() {
        let at = |seconds: i128| StreamTime::from_unix_nanos(seconds * 1_000_000_000);
        let window = |to| Window::aligned(at(1_764_100_000), at(to), Duration::from_secs(1));
        assert_eq!(clock(at(1_764_100_001), window(1_764_100_060)), "19:46:41");
        assert_eq!(clock(at(1_764_100_001), window(1_764_200_000)), "25 Nov 19:46:41");
        assert_eq!(day(at(1_764_100_001)), "25 November 2025");
    }
}
