//! Times as people read them, and text that can't become markup.
//!
//! Invariant: escaped text adds neither an element nor an attribute to the page.

use std::time::Duration;

use time::OffsetDateTime;

use crate::insight::words;
use crate::replay::window::{self, Window};
use callsight_fold::StreamTime;

/// Text for the inside of an element or a quoted attribute.
pub(super) fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#39;")
}

/// Appends what is formatted.
macro_rules! push {
    ($text:expr, $($arguments:tt)+) => {
        $text.push_str(&format!($($arguments)+))
    };
}
pub(super) use push;

fn utc(at: StreamTime) -> OffsetDateTime {
    window::utc(at).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

pub(super) fn day(at: StreamTime) -> String {
    let at = utc(at);
    format!("{} {} {}", at.day(), at.month(), at.year())
}

/// `20:14:15`, with the day where the window has several.
pub(super) fn clock(at: StreamTime, window: Window) -> String {
    let time = words::clock(utc(at));
    if utc(window.from).date() == utc(window.to).date() {
        return time;
    }
    let date = utc(at).date();
    format!("{} {} {time}", date.day(), &date.month().to_string()[..3])
}

/// `20:14:15` for a moment in Unix seconds; `20:14` for an axis that has no seconds.
pub(super) fn tick(seconds: f64, with_seconds: bool) -> String {
    let at = utc(StreamTime::default() + Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let time = words::clock(at);
    if with_seconds { time } else { time[..5].to_owned() }
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
    fn a_time_has_its_day_where_there_are_several() {
        let at = |seconds: i128| StreamTime::from_unix_nanos(seconds * 1_000_000_000);
        let window = |to| Window::aligned(at(1_764_100_000), at(to), Duration::from_secs(1));
        assert_eq!(clock(at(1_764_100_001), window(1_764_100_060)), "19:46:41");
        assert_eq!(clock(at(1_764_100_001), window(1_764_200_000)), "25 Nov 19:46:41");
        assert_eq!(day(at(1_764_100_001)), "25 November 2025");
    }
}
