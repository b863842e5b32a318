//! Judging the past by alert rules.
//!
//! Which alerts would have fired is a question to Prometheus, not to us: so it is asked. A Prometheus of our own
//! sits on blocks of what was replayed and evaluates every expression itself. Live, its clock does that one moment
//! after the other; here a range query does it for all moments at once. Three things follow.
//!
//! - What is recorded is evaluated first, at every step, and put beside the replayed samples.
//! - `for` is part of the question: an alert fires where its expression held at every evaluation since that long ago,
//!   which a subquery counts.
//! - The past has no stale markers, so a sample counts until the next step and no longer.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fmt, thread};

use serde::Deserialize;
use url::form_urlencoded;

use super::http::{ANSWER_WITHIN, Address, Answer, Client};
use super::progress::Control;
use super::rules::{Alert, Recording, Rules};
use super::sink::SinkError;
use super::window::{Window, rfc3339};
use callsight_fold::StreamTime;

const PROMETHEUS: &str = "prometheus";

/// How long it may take to start.
const START_WITHIN: Duration = Duration::from_secs(60);

/// How often it is looked after.
const LOOK: Duration = Duration::from_millis(50);

/// The most moments that Prometheus evaluates in one query, and some to spare.
const MOMENTS: u64 = 10_000;

type Labels = BTreeMap<String, String>;

/// A Prometheus of our own. Dropped, it is killed.
pub(super) struct Server {
    child: Child,
    address: Address,
    client: Client,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It ends now, or has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Values of a series in Unix milliseconds, ascending.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) labels: Labels,
    pub(super) values: Vec<(i64, f64)>,
}

#[derive(Deserialize)]
struct Response {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Series>,
}

#[derive(Deserialize)]
struct Series {
    metric: Labels,
    values: Vec<(f64, String)>,
}

impl Server {
    /// Starts one on blocks, where a sample counts for so long.
    pub(super) fn start(
        program: &Path,
        work: &Path,
        counts_for: Duration,
        control: &Control,
    ) -> Result<Self, SinkError> {
        let failed = |reason: String| SinkError::Program { program: PROMETHEUS, reason };
        let cannot = |error: io::Error| failed(error.to_string());
        let (config, log) = (work.join("prometheus.yml"), work.join("prometheus.log"));
        fs::write(&config, "global: {}\n").map_err(cannot)?;
        let output = File::create(&log).map_err(cannot)?;
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let address = free.map_err(cannot)?;
        let child = Command::new(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", work.join("data").display()))
            // As old as it may be, it must not be cleared away.
            .arg("--storage.tsdb.retention.time=100y")
            .arg(format!("--query.lookback-delta={}ms", counts_for.as_millis()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(cannot)?)
            .stderr(output)
            // Ctrl-C goes to a whole process group; it is stopped by whoever uses it.
            .process_group(0)
            .spawn()
            .map_err(cannot)?;
        let address = format!("http://{address}").parse().map_err(|_| failed("no address".to_owned()))?;
        let mut server = Self { child, address, client: Client::new(Vec::new(), ANSWER_WITHIN) };
        let deadline = Instant::now() + START_WITHIN;
        // It refuses queries until it has read its blocks.
        while server.ask("query", &[("query", "1")]).is_err() {
            control.check()?;
            let ended = server.child.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(&log).unwrap_or_default();
                return Err(failed(log.trim().lines().last().unwrap_or("it did not start").to_owned()));
            }
            thread::sleep(LOOK);
        }
        Ok(server)
    }

    fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Result<String, String> {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        let form = [("Content-Type", "application/x-www-form-urlencoded")];
        let to = self.address.below(&format!("api/v1/{path}"));
        match self.client.post(&to, &form, body.as_bytes())? {
            Answer { status: 200, body, .. } => Ok(body),
            answer => Err(answer.excerpt()),
        }
    }

    /// Evaluates an expression at every moment of a grid; `rule` is whose it is.
    fn range(
        &self,
        rule: &str,
        expression: &str,
        grid: Grid,
        control: &Control,
    ) -> Result<Vec<Found>, SinkError> {
        let failed = |problem: String| SinkError::Program {
            program: PROMETHEUS,
            reason: format!("rule {rule} can't be evaluated: {problem}"),
        };
        let mut series: BTreeMap<Labels, Vec<(i64, f64)>> = BTreeMap::new();
        for portion in grid.portions() {
            control.check()?;
            let [start, end, step] =
                [portion.first, portion.last, portion.every].map(|millis| format!("{:.3}", seconds(millis)));
            let parameters = [("query", expression), ("start", &start), ("end", &end), ("step", &step)];
            let answer = self.ask("query_range", &parameters).map_err(failed)?;
            let answer: Response =
                serde_json::from_str(&answer).map_err(|error| failed(error.to_string()))?;
            for Series { mut metric, values } in answer.data.result {
                metric.remove("__name__");
                let values = values.iter().filter_map(|(at, value)| Some((millis(*at), value.parse().ok()?)));
                series.entry(metric).or_default().extend(values);
            }
        }
        Ok(series.into_iter().map(|(labels, values)| Found { labels, values }).collect())
    }

    /// What a recording rule makes of the window, as lines of OpenMetrics.
    pub(super) fn record(
        &self,
        recording: &Recording,
        window: Window,
        control: &Control,
        text: &mut String,
    ) -> Result<(), SinkError> {
        let Recording { name, expression, labels } = recording;
        for found in self.range(name, expression, Grid::new(window, window.step), control)? {
            let all: Labels = found.labels.into_iter().chain(labels.clone()).collect();
            let head = format!("{name}{{{}}}", shown(&all));
            for (at, value) in found.values {
                text.push_str(&format!("{head} {value} {:.3}\n", seconds(at)));
            }
        }
        Ok(())
    }

    /// When an alert would have fired.
    pub(super) fn judge(
        &self,
        alert: &Alert,
        window: Window,
        control: &Control,
    ) -> Result<Vec<Firing>, SinkError> {
        let every = alert.every.unwrap_or(window.step);
        let grid = Grid::new(window, every);
        let fires = self.range(&alert.name, &question(alert, every), grid, control)?;
        if fires.is_empty() {
            return Ok(Vec::new());
        }
        let holds = self.range(&alert.name, &alert.expression, grid, control)?;
        let mut firings = Vec::new();
        for Found { labels, values } in fires {
            let moments = values.into_iter().map(|(at, _)| at).collect::<Vec<_>>();
            let peaks = holds.iter().find(|held| held.labels == labels);
            for run in moments.chunk_by(|before, after| after - before <= grid.every) {
                let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
                let within = |at: &i64| (*first - grid.span(alert.after)..=*last).contains(at);
                let values = peaks.iter().flat_map(|held| &held.values).filter(|(at, _)| within(at));
                firings.push(Firing {
                    alert: alert.name.clone(),
                    labels: labels.clone().into_iter().chain(alert.labels.clone()).collect(),
                    from: moment(*first),
                    to: (*last < grid.last).then(|| moment(*last + grid.every)),
                    peak: values.map(|(_, value)| *value).max_by(f64::total_cmp),
                });
            }
        }
        Ok(firings)
    }
}

/// What to ask Prometheus, to be answered where the alert fires when it is looked at every so often.
fn question(alert: &Alert, every: Duration) -> String {
    let (expression, every) = (&alert.expression, every.as_millis().max(1));
    let times = alert.after.as_millis().div_ceil(every);
    let mut question = if times == 0 {
        format!("({expression})")
    } else {
        // Half an interval more takes the first evaluation in, whether or not a range includes its beginning.
        let range = times * every + every / 2;
        format!("(count_over_time(({expression})[{range}ms:{every}ms]) >= {})", times + 1)
    };
    if !alert.keep.is_zero() {
        question = format!("last_over_time({question}[{}ms:{every}ms])", alert.keep.as_millis() + every / 2);
    }
    question
}

/// The moments at which something is evaluated, in Unix milliseconds: whole multiples of an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grid {
    first: i64,
    last: i64,
    every: i64,
}

impl Grid {
    fn new(window: Window, every: Duration) -> Self {
        let every = i64::try_from(every.as_millis()).unwrap_or(i64::MAX).max(1);
        let [from, to] = [window.from, window.to]
            .map(|at| i64::try_from(at.unix_nanos().div_euclid(1_000_000)).unwrap_or(i64::MAX - every));
        Self { first: from + (-from).rem_euclid(every), last: to - to.rem_euclid(every), every }
    }

    /// A duration in whole intervals.
    fn span(self, duration: Duration) -> i64 {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4);
        millis + (-millis).rem_euclid(self.every)
    }

    /// As many moments at a time as one query may have.
    fn portions(self) -> impl Iterator<Item = Self> {
        let span = self.every.saturating_mul(i64::try_from(MOMENTS).unwrap_or(i64::MAX));
        let next = move |first: &i64| first.checked_add(span);
        std::iter::successors(Some(self.first), next)
            .take_while(move |first| *first <= self.last)
            .map(move |first| Self { first, last: self.last.min(first + span - self.every), ..self })
    }
}

/// A time during which an alert would have fired.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Firing {
    alert: String,
    labels: Labels,
    from: StreamTime,
    /// When it would have been resolved, unless that is after the window.
    to: Option<StreamTime>,
    /// The largest value of its expression, since it began to hold.
    peak: Option<f64>,
}

impl fmt::Display for Firing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{{{}}} fired {}", self.alert, shown(&self.labels), rfc3339(self.from))?;
        match self.to {
            Some(to) => {
                let lasted = humantime::format_duration(to.since(self.from));
                write!(f, ", resolved {} after {lasted}", rfc3339(to))?;
            }
            None => f.write_str(", and still did at the end")?,
        }
        self.peak.map_or(Ok(()), |peak| write!(f, "; at most {peak:.3}"))
    }
}

/// What came of judging all alerts.
pub(super) struct Verdict {
    pub(super) window: Window,
    pub(super) firings: Vec<Firing>,
    /// Names of alerts.
    pub(super) quiet: Vec<String>,
    /// Names of alerts, and what they ask for that a replay has not.
    pub(super) unjudged: Vec<(String, Vec<String>)>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = humantime::format_duration(self.window.step);
        writeln!(f, "alerts, {}, with samples every {step}:", self.window)?;
        let mut firings: Vec<_> = self.firings.iter().collect();
        firings.sort_by_key(|firing| firing.from);
        for firing in &firings {
            writeln!(f, "  {firing}")?;
        }
        if firings.is_empty() {
            writeln!(f, "  none fired")?;
        }
        if !self.quiet.is_empty() {
            writeln!(f, "  did not fire: {}", self.quiet.join(", "))?;
        }
        for (name, missing) in &self.unjudged {
            writeln!(
                f,
                "  not judged: {name} asks for {}, which the stream does not have",
                missing.join(", ")
            )?;
        }
        Ok(())
    }
}

/// Judges all alerts over blocks in `work/data`. `make` makes blocks there, of a file of OpenMetrics.
pub(super) fn judge(
    program: &Path,
    work: &Path,
    rules: &Rules,
    window: Window,
    control: &Control,
    make: impl Fn(&Path, &Path) -> Result<(), SinkError>,
) -> Result<Verdict, SinkError> {
    let data = work.join("data");
    let counts_for = window.step.saturating_sub(Duration::from_millis(1)).max(Duration::from_millis(1));
    let start = || Server::start(program, work, counts_for, control);
    let judged = |expression: &str| rules.missing(expression).is_empty();
    for (place, level) in rules.levels().into_iter().enumerate() {
        let mut text = String::new();
        let server = start()?;
        for recording in level.iter().filter(|recording| judged(&recording.expression)) {
            server.record(recording, window, control, &mut text)?;
        }
        drop(server);
        if !text.is_empty() {
            text.push_str("# EOF\n");
            let path: PathBuf = work.join(format!("recorded-{place}.om"));
            let failed = |source| SinkError::Write { path: path.clone(), source };
            File::create(&path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed)?;
            make(&path, &data)?;
        }
    }
    let server = start()?;
    let mut verdict = Verdict { window, firings: Vec::new(), quiet: Vec::new(), unjudged: Vec::new() };
    for alert in &rules.alerts {
        let missing = rules.missing(&alert.expression);
        if !missing.is_empty() {
            verdict.unjudged.push((alert.name.clone(), missing.into_iter().collect()));
            continue;
        }
        let firings = server.judge(alert, window, control)?;
        if firings.is_empty() {
            verdict.quiet.push(alert.name.clone());
        }
        verdict.firings.extend(firings);
    }
    Ok(verdict)
}

/// `name="value",…`.
fn shown(labels: &Labels) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect::<Vec<_>>().join(",")
}

#[expect(clippy::cast_precision_loss, reason = "to the millisecond until the year 287,396")]
fn seconds(millis: i64) -> f64 {
    millis as f64 / 1e3
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "Prometheus's own times are whole milliseconds in 64 bits"
)]
fn millis(seconds: f64) -> i64 {
    (seconds * 1e3).round() as i64
}

fn moment(millis: i64) -> StreamTime {
    StreamTime::from_unix_nanos(i128::from(millis) * 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn alert(after: Duration, keep: Duration) -> Alert {
        let (name, expression) = ("A".to_owned(), "x > 1".to_owned());
        Alert { name, expression, labels: Labels::new(), after, keep, every: None }
    }

    #[test]
    fn the_question_counts_the_evaluations_in_a_row() {
        let asked = |after: u32, keep: u32, every: u32| {
            question(&alert(after * SECOND, keep * SECOND), every * SECOND)
        };
        assert_eq!(asked(0, 0, 5), "(x > 1)");
        assert_eq!(asked(10, 0, 5), "(count_over_time((x > 1)[12500ms:5000ms]) >= 3)");
        assert_eq!(asked(12, 0, 5), "(count_over_time((x > 1)[17500ms:5000ms]) >= 4)");
        assert_eq!(asked(0, 20, 5), "last_over_time((x > 1)[22500ms:5000ms])");
    }

    #[test]
    fn a_grid_has_whole_multiples_and_is_asked_for_in_portions() {
        let window = Window::aligned(moment(1_500), moment(61_400), SECOND);
        let grid = Grid::new(window, 5 * SECOND);
        assert_eq!(grid, Grid { first: 5_000, last: 60_000, every: 5_000 });
        assert_eq!(grid.span(12 * SECOND), 15_000);
        let day = Grid { first: 0, last: 86_399_000, every: 1_000 };
        let portions: Vec<_> = day.portions().collect();
        assert_eq!(portions.len(), 9);
        assert_eq!(portions[0].last + day.every, portions[1].first);
        assert_eq!(portions[8].last, day.last);
    }

    #[test]
    fn a_verdict_is_in_words() {
        let labels = |name: &str, value: &str| Labels::from([(name.to_owned(), value.to_owned())]);
        let firing = |from, to: Option<i64>| Firing {
            alert: "Bad".to_owned(),
            labels: labels("region", "us"),
            from: moment(from),
            to: to.map(moment),
            peak: Some(0.5),
        };
        let verdict = Verdict {
            window: Window::aligned(moment(0), moment(600_000), 15 * SECOND),
            firings: vec![firing(60_000, None), firing(30_000, Some(45_000))],
            quiet: vec!["Calm".to_owned()],
            unjudged: vec![("Gone".to_owned(), vec!["up".to_owned()])],
        };
        assert_eq!(
            verdict.to_string(),
            "alerts, 1970-01-01T00:00:00Z to 1970-01-01T00:10:00Z, with samples every 15s:\n  \
             Bad{region=\"us\"} fired 1970-01-01T00:00:30Z, resolved 1970-01-01T00:00:45Z after 15s; at most 0.500\n  \
             Bad{region=\"us\"} fired 1970-01-01T00:01:00Z, and still did at the end; at most 0.500\n  \
             did not fire: Calm\n  \
             not judged: Gone asks for up, which the stream does not have\n"
        );
    }
}
