//! What the programs use of the machine, then and now.

use std::fmt::Write;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use crate::kit::process::Process;

/// From this length on, what programs take at their beginning is behind them after the warm-up.
const LONG: Duration = Duration::from_secs(600);

const MIB: f64 = 1_048_576.0;

/// A process at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    pub(super) resident: f64,
    /// Since the sample before.
    pub(super) peak: f64,
    pub(super) descriptors: f64,
    pub(super) threads: f64,
    pub(super) cpu: Duration,
}

impl Usage {
    pub(super) fn of(process: &Process) -> Self {
        let peak = process.peak();
        process.forget_peak();
        Self {
            resident: process.resident() as f64,
            peak: peak as f64,
            descriptors: process.descriptors() as f64,
            threads: process.threads() as f64,
            cpu: process.cpu_time(),
        }
    }
}

/// The size of everything in a folder that a running server changes.
pub(super) fn disk(folder: &Path) -> f64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some(if metadata.is_dir() { disk(&entry.path()) } else { metadata.len() as f64 })
        })
        .sum()
}

/// Everything at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Duration,
    pub(super) exporter: Usage,
    /// Series on the page, and those of servers among them.
    pub(super) series: f64,
    pub(super) server_series: f64,
    pub(super) sessions: f64,
    /// Frames that had their effect so far.
    pub(super) frames: u64,
    /// What the exporter has written, which is its log.
    pub(super) log: f64,
    /// `None` while the server is away.
    pub(super) nats: Option<(Usage, f64)>,
}

/// An exporter that was replaced, at its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retired {
    pub(super) at: Duration,
    pub(super) usage: Usage,
}

/// The two times that are compared.
#[derive(Clone, Debug)]
pub(super) struct Spans {
    first: Range<Duration>,
    last: Range<Duration>,
    long: bool,
}

impl Spans {
    /// Compares the first hour after the warm-up with the last, and of a shorter run the quarters.
    pub(super) fn of(lasts: Duration) -> Self {
        let warm = (lasts / 5).min(Duration::from_secs(300));
        let span = ((lasts - warm) / 4).min(Duration::from_secs(3600));
        Self { first: warm..warm + span, last: lasts - span..lasts, long: lasts >= LONG }
    }

    fn names(&self) -> [String; 2] {
        [("first", &self.first), ("last", &self.last)].map(|(name, span)| {
            let seconds = span.start.as_secs()..span.end.as_secs();
            format!("{name}, {} to {} s", seconds.start, seconds.end)
        })
    }
}

/// How much something may grow.
#[derive(Clone, Copy, Debug)]
enum Allowed {
    Any,
    /// A share and an amount.
    By(f64, f64),
}

/// One figure, then and now, as medians.
#[derive(Clone, Debug)]
pub(super) struct Row {
    what: &'static str,
    first: f64,
    last: f64,
    allowed: Allowed,
}

impl Row {
    fn most(&self) -> f64 {
        match self.allowed {
            Allowed::Any => f64::INFINITY,
            Allowed::By(share, amount) => self.first * (1.0 + share) + amount,
        }
    }

    /// Something that was not measured has not held either.
    fn holds(&self) -> bool {
        let measured = self.first.is_finite() && self.last.is_finite();
        matches!(self.allowed, Allowed::Any) || (measured && self.last <= self.most())
    }
}

pub(super) fn rows(samples: &[Sample], retired: &[Retired], spans: &Spans) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |what, allowed, value: &dyn Fn(&Range<Duration>) -> f64| {
        rows.push(Row { what, first: value(&spans.first), last: value(&spans.last), allowed });
    };

    let exporter = |value: fn(&Usage) -> f64| {
        move |span: &Range<Duration>| median(within(samples, span).map(|sample| value(&sample.exporter)))
    };
    let nats = |value: fn(&Usage, f64) -> f64| {
        move |span: &Range<Duration>| {
            median(
                within(samples, span)
                    .filter_map(|sample| sample.nats.map(|(usage, disk)| value(&usage, disk))),
            )
        }
    };
    let replaced = |value: fn(&Usage) -> f64| {
        move |span: &Range<Duration>| {
            let ended = retired.iter().filter(|retired| span.contains(&retired.at));
            median(ended.map(|retired| value(&retired.usage)))
        }
    };
    let long = spans.long;
    // In one quarter of a short run is a flood and in another the exporter is cut off, and
    // everything grows at its beginning: allocators fill their pools, streams their limits.
    let allow = |share, amount, short| if long { Allowed::By(share, amount) } else { short };
    let memory = allow(0.10, 1.0, Allowed::By(0.10, 16.0));
    let live = |short| allow(0.25, 0.0, Allowed::By(1.0, short));
    let cost = allow(0.5, 0.0, Allowed::Any);
    let disk = allow(0.5, 1.0, Allowed::By(0.5, 8.0));
    // Some connections are made or ended just now, and some hang.
    let few = Allowed::By(0.0, 6.0);

    add("exporter: RSS (VmRSS), MiB", memory, &exporter(|usage| usage.resident / MIB));
    add("exporter: peak RSS (VmHWM) between two samples, MiB", memory, &exporter(|usage| usage.peak / MIB));
    add("exporter: open descriptors", few, &exporter(|usage| usage.descriptors));
    add("exporter: threads", few, &exporter(|usage| usage.threads));
    add("exporter: CPU seconds per million frames, scrapes included", cost, &|span| {
        cpu_per_million(within(samples, span))
    });
    add("exporter: its log, KiB a minute", Allowed::Any, &|span| log_per_minute(within(samples, span)));
    add("series on `/metrics`", live(10_000.0), &|span| {
        median(within(samples, span).map(|sample| sample.series))
    });
    add("of these, of servers", live(5_000.0), &|span| {
        median(within(samples, span).map(|sample| sample.server_series))
    });
    add("live sessions", live(500.0), &|span| median(within(samples, span).map(|sample| sample.sessions)));
    if long {
        add("replaced exporters at their end: RSS, MiB", memory, &replaced(|usage| usage.resident / MIB));
        add("replaced exporters at their end: descriptors", few, &replaced(|usage| usage.descriptors));
        add("replaced exporters at their end: threads", few, &replaced(|usage| usage.threads));
    }
    add("nats-server: RSS, MiB", Allowed::By(0.5, 16.0), &nats(|usage, _| usage.resident / MIB));
    add("nats-server: open descriptors", Allowed::By(0.5, 8.0), &nats(|usage, _| usage.descriptors));
    add("nats-server: disk of the streams, MiB", disk, &nats(|_, disk| disk / MIB));
    rows
}

fn within<'a>(samples: &'a [Sample], span: &'a Range<Duration>) -> impl Iterator<Item = &'a Sample> {
    samples.iter().filter(|sample| span.contains(&sample.at))
}

/// The table, and what grew by more than it may.
pub(super) fn table(rows: &[Row], spans: &Spans) -> (String, Vec<String>) {
    let [first, last] = spans.names();
    let mut text = format!("| median | {first} | {last} | grew by | allowed |\n|---|---|---|---|---|\n");
    let mut broken = Vec::new();
    for row in rows {
        let grew = 100.0 * (row.last / row.first - 1.0);
        let allowed = match row.allowed {
            Allowed::Any => "not judged".to_owned(),
            Allowed::By(..) => format!("up to {:.1}", row.most()),
        };
        writeln!(text, "| {} | {:.1} | {:.1} | {grew:+.1} % | {allowed} |", row.what, row.first, row.last)
            .unwrap();
        if !row.holds() {
            let (what, first, last) = (row.what, row.first, row.last);
            broken.push(format!("{what} grew from {first:.1} to {last:.1}, allowed is {allowed}"));
        }
    }
    (text, broken)
}

fn cpu_per_million<'a>(samples: impl Iterator<Item = &'a Sample>) -> f64 {
    between(samples, |first, last| {
        let cpu = last.exporter.cpu.saturating_sub(first.exporter.cpu);
        1e6 * cpu.as_secs_f64() / (last.frames - first.frames) as f64
    })
}

fn log_per_minute<'a>(samples: impl Iterator<Item = &'a Sample>) -> f64 {
    between(samples, |first, last| {
        60.0 * (last.log - first.log) / 1024.0 / (last.at - first.at).as_secs_f64()
    })
}

/// NaN if there are no two samples.
fn between<'a>(
    mut samples: impl Iterator<Item = &'a Sample>,
    value: impl Fn(&Sample, &Sample) -> f64,
) -> f64 {
    let first = samples.next();
    first.zip(samples.last()).map_or(f64::NAN, |(first, last)| value(first, last))
}

/// NaN if there is nothing.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Duration = Duration::from_secs(3600);

    type Change = fn(f64, &mut Sample);

    /// A run in which one figure is changed over time.
    fn run(change: impl Fn(f64, &mut Sample)) -> Vec<String> {
        let usage = Usage {
            resident: 30.0 * MIB,
            peak: 32.0 * MIB,
            descriptors: 20.0,
            threads: 5.0,
            cpu: Duration::ZERO,
        };
        let samples: Vec<_> = (0..3600_u32)
            .step_by(5)
            .map(|second| {
                let usage = Usage { cpu: Duration::from_millis(10) * second, ..usage };
                let mut sample = Sample {
                    at: Duration::from_secs(second.into()),
                    exporter: usage,
                    series: 5_000.0,
                    server_series: 2_000.0,
                    sessions: 60.0,
                    frames: 100 * u64::from(second),
                    log: 10.0 * f64::from(second),
                    nats: (second % 60 != 0).then_some((usage, 2.0 * MIB)),
                };
                change(f64::from(second) / RUN.as_secs_f64(), &mut sample);
                sample
            })
            .collect();
        let retired = |sample: &Sample| Retired { at: sample.at, usage: sample.exporter };
        let retired: Vec<_> = samples.iter().step_by(6).map(retired).collect();
        let spans = Spans::of(RUN);
        table(&rows(&samples, &retired, &spans), &spans).1
    }

    #[test]
    fn what_is_steady_passes() {
        assert!(run(|_, _| {}).is_empty());
        assert!(run(|passed, sample| sample.exporter.resident += passed * 2.0 * MIB).is_empty());
    }

    #[test]
    fn each_thing_that_grows_is_found_by_name() {
        let grows: [(&str, Change); 10] = [
            ("exporter: RSS", |passed, sample| sample.exporter.resident += passed * 9.0 * MIB),
            ("exporter: peak", |passed, sample| sample.exporter.peak += passed * 9.0 * MIB),
            ("exporter: open descriptors", |passed, sample| sample.exporter.descriptors += 10.0 * passed),
            ("exporter: threads", |passed, sample| sample.exporter.threads += 10.0 * passed),
            ("exporter: CPU", |passed, sample| {
                sample.exporter.cpu += Duration::from_secs(90).mul_f64(passed.powi(4))
            }),
            ("series on", |passed, sample| sample.series *= 1.0 + passed),
            ("of these, of servers", |passed, sample| sample.server_series *= 1.0 + passed),
            ("live sessions", |passed, sample| sample.sessions *= 1.0 + passed),
            ("nats-server: disk", |passed, sample| {
                if let Some((_, disk)) = &mut sample.nats {
                    *disk *= 1.0 + 3.0 * passed;
                }
            }),
            ("exporter: RSS", |passed, sample| {
                if passed > 0.7 {
                    sample.exporter.resident = f64::NAN;
                }
            }),
        ];
        for (name, grow) in grows {
            let broken = run(grow);
            assert!(broken.iter().any(|line| line.starts_with(name)), "{name}: {broken:?}");
        }
    }
}
