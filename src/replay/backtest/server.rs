//! A Prometheus that evaluates expressions over blocks.
//!
//! Live, Prometheus evaluates an expression at one moment after the other. A range query does so
//! for all of them at once, but for at most 11,000 per query, so a window is queried in portions.
//!
//! Invariant: the process ends with its [`PrometheusServer`].

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::replay::progress::Control;
use crate::replay::prometheus::{Labels, PrometheusApi};
use crate::replay::sink::SinkError;
use crate::replay::window::{Window, unix_millis};

const START_WITHIN: Duration = Duration::from_secs(60);

/// How often to check whether it has started.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The most moments of one query.
const MAX_MOMENTS: i64 = 10_000;

/// A running Prometheus. Dropping it kills the process.
pub(super) struct PrometheusServer {
    child: Child,
    api: PrometheusApi,
    control: Control,
}

impl Drop for PrometheusServer {
    fn drop(&mut self) {
        // Fails only if it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl PrometheusServer {
    /// Starts one on the blocks in `work/data`, in which a sample is valid for `lookback`.
    pub(super) fn start(
        program: &Path,
        work: &Path,
        lookback: Duration,
        control: &Control,
    ) -> Result<Self, SinkError> {
        let log = work.join("prometheus.log");
        let started = spawn(program, work, &log, lookback);
        let (child, address) = started.map_err(|error| failed(error.to_string()))?;
        let address = format!("http://{address}").parse().map_err(|_| failed("no address".to_owned()))?;
        let mut server =
            Self { child, api: PrometheusApi::new(address, Vec::new()), control: control.clone() };
        let deadline = Instant::now() + START_WITHIN;
        // It refuses queries until it has loaded its blocks.
        while server.api.ask("query", &[("query", "vector(1)")]).is_err() {
            control.check()?;
            let ended = server.child.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(&log).unwrap_or_default();
                return Err(failed(log.trim().lines().last().unwrap_or("it did not start").to_owned()));
            }
            thread::sleep(CHECK_INTERVAL);
        }
        Ok(server)
    }

    /// Evaluates the expression of a rule at every moment of a grid. Returns Unix milliseconds,
    /// ascending, and values, by labels without the name.
    pub(super) fn evaluate(
        &self,
        rule: &str,
        expression: &str,
        grid: EvaluationGrid,
    ) -> Result<BTreeMap<Labels, Vec<(i64, f64)>>, SinkError> {
        let mut series: BTreeMap<Labels, Vec<(i64, f64)>> = BTreeMap::new();
        for portion in grid.portions() {
            let [start, end, step] = [portion.first, portion.last, portion.interval].map(seconds);
            let (api, query) = (self.api.clone(), expression.to_owned());
            let ask = move || {
                let parameters = [("query", &*query), ("start", &start), ("end", &end), ("step", &step)];
                api.ask("query_range", &parameters)
            };
            let found = self.control.unless_stopped_blocking(ask)?;
            let found = found.unwrap_or_else(|error| Err(error.to_string()));
            for mut found in
                found.map_err(|problem| failed(format!("rule {rule} can't be evaluated: {problem}")))?
            {
                found.metric.remove("__name__");
                let samples = found.samples().collect::<Vec<_>>();
                series.entry(found.metric).or_default().extend(samples);
            }
        }
        Ok(series)
    }
}

fn failed(reason: String) -> SinkError {
    SinkError::Program { program: "prometheus", reason }
}

fn spawn(program: &Path, work: &Path, log: &Path, lookback: Duration) -> io::Result<(Child, String)> {
    let config = work.join("prometheus.yml");
    fs::write(&config, "global: {}\n")?;
    let output = File::create(log)?;
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.to_string();
    let child = Command::new(program)
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", work.join("data").display()))
        // Blocks must not be removed for their age.
        .arg("--storage.tsdb.retention.time=100y")
        .arg(format!("--query.lookback-delta={}ms", lookback.as_millis()))
        .arg(format!("--web.listen-address={address}"))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        // Ctrl-C goes to a whole process group, but this process is stopped by its
        // `PrometheusServer`.
        .process_group(0)
        .spawn()?;
    Ok((child, address))
}

/// The moments at which an expression is evaluated, in Unix milliseconds: whole multiples of an
/// interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EvaluationGrid {
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) interval: i64,
}

impl EvaluationGrid {
    pub(super) fn new(window: Window, interval: Duration) -> Self {
        let interval = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1);
        let [from, to] = [window.from, window.to].map(unix_millis);
        Self { first: from + (-from).rem_euclid(interval), last: to - to.rem_euclid(interval), interval }
    }

    /// A duration in milliseconds, rounded up to whole intervals.
    pub(super) fn span(self, duration: Duration) -> i64 {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4);
        millis + (-millis).rem_euclid(self.interval)
    }

    /// Splits the grid into as many moments at a time as one query may have.
    fn portions(self) -> impl Iterator<Item = Self> {
        let span = self.interval.saturating_mul(MAX_MOMENTS);
        std::iter::successors(Some(self.first), move |first| first.checked_add(span))
            .take_while(move |first| *first <= self.last)
            .map(move |first| Self { first, last: self.last.min(first + span - self.interval), ..self })
    }
}

/// Unix milliseconds in seconds, as Prometheus reads them.
#[expect(clippy::cast_precision_loss, reason = "exact to the millisecond until the year 287,396")]
pub(super) fn seconds(millis: i64) -> String {
    format!("{:.3}", millis as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::window::from_unix_millis;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_grid_has_whole_multiples_and_is_asked_for_in_portions() {
        let window = Window::aligned(from_unix_millis(1_500), from_unix_millis(61_400), SECOND);
        let grid = EvaluationGrid::new(window, 5 * SECOND);
        assert_eq!(grid, EvaluationGrid { first: 5_000, last: 60_000, interval: 5_000 });
        assert_eq!(grid.span(12 * SECOND), 15_000);
        let day = EvaluationGrid { first: 0, last: 86_399_000, interval: 1_000 };
        let portions: Vec<_> = day.portions().collect();
        assert_eq!(portions.len(), 9);
        assert_eq!(portions[0].last + day.interval, portions[1].first);
        assert_eq!(portions[8].last, day.last);
    }
}
