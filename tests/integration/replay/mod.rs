//! `callsight replay`, against real streams, and read by those for whom it is made.

mod backtest;
mod equality;
mod heal;
mod outputs;
mod remote_write;
mod report;
mod retention;

pub(crate) use report::figures;

use std::collections::BTreeMap;
use std::process::Output;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::kit::callsight::Callsight;
use crate::kit::prometheus::Prometheus;
use crate::kit::scrape::Scrape;

/// A moment as a flag takes it.
pub(crate) fn moment(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap()
}

/// Waits until a whole second has passed since what was stored: the moment of a step that shows it.
pub(crate) async fn until_the_next_step() {
    let now = OffsetDateTime::now_utc();
    let step = OffsetDateTime::from_unix_timestamp(now.unix_timestamp() + 1).unwrap();
    tokio::time::sleep((step - now).unsigned_abs() + Duration::from_millis(20)).await;
}

/// A Prometheus that takes samples of the past and scrapes these targets every second.
pub(crate) fn prometheus(targets: &[&str]) -> Prometheus {
    let targets = targets.iter().map(|target| format!("'{target}'")).collect::<Vec<_>>().join(",");
    let config = format!(
        "global: {{scrape_interval: 1s}}\nstorage: {{tsdb: {{out_of_order_time_window: 2h}}}}\n\
         scrape_configs: [{{job_name: callsight, static_configs: [{{targets: [{targets}]}}]}}]\n"
    );
    Prometheus::start_with(&config)
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
