//! `callsight replay`, against real streams, and read by those for whom it is made.

mod equality;
mod outputs;
mod retention;

use std::collections::BTreeMap;
use std::process::Output;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::kit::callsight::Callsight;
use crate::kit::scrape::Scrape;

/// A moment as a flag takes it.
pub(crate) fn moment(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap()
}

/// Runs a replay to its end.
pub(crate) fn replay(nats_url: &str, args: &[&str]) -> Output {
    Callsight::run(&[&["replay", "--nats-url", nats_url, "--quiet"], args].concat())
}

/// [`replay`], which has to succeed: what it wrote to standard output.
pub(crate) fn replayed(nats_url: &str, args: &[&str]) -> String {
    let output = replay(nats_url, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The samples of a file of OpenMetrics, by their time in whole seconds.
///
/// # Panics
///
/// If the file is not complete, or has a time between seconds.
pub(crate) fn by_second(text: &str) -> BTreeMap<i64, Scrape> {
    assert!(text.ends_with("# EOF\n"), "{}", &text[text.len().saturating_sub(200)..]);
    let mut lines: BTreeMap<i64, String> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let second = line.rsplit_once(' ').unwrap().1.parse().unwrap();
        let page = lines.entry(second).or_default();
        page.push_str(line);
        page.push('\n');
    }
    lines.into_iter().map(|(second, page)| (second, Scrape::parse(&page))).collect()
}
