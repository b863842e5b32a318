//! The running exporter: its cost when idle, the memory of half a million series, how long a scrape
//! of them takes, and how fresh the page is meanwhile.
//!
//! The real binary, a real nats-server, HTTP over the loopback interface, about three minutes.
//! `./dev bench --bench live -- [SERIES]`

mod calls;
#[path = "../common/mod.rs"]
mod common;
mod rig;

use std::collections::HashMap;
use std::env;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use calls::Calls;
use callsight_testkit::nats::Nats;
use futures_util::future::join_all;
use rig::{Answer, Exporter, Failure};

/// Participants of a meeting.
const PARTIES: usize = 10;

/// The series of one session of such a meeting: its own, and those of its nine pairs.
const SERIES_PER_SESSION: usize = 4 + 9 * 21;

/// Frames per second in the parts with a rate.
const RATE: usize = 5_000;

/// How often a scrape is repeated.
const SCRAPES: usize = 5;

const MIB: f64 = 1_048_576.0;

fn main() -> Result<(), Failure> {
    // `cargo bench` adds a flag.
    let series = env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(500_000);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure(series))
}

async fn measure(series: usize) -> Result<(), Failure> {
    let nats = Nats::start();
    let flags = ["--max-series=10000000", "--max-sessions=1000000", "--idle-timeout", "10m"];
    let exporters = [Exporter::start(&nats, &flags).await?];
    let [exporter] = &exporters;
    let mut calls = Calls::start(&nats, "bench", PARTIES).await?;
    let mut out = io::stdout();

    let idle = exporter.process.resident();
    let rest = processor_share(exporter, Duration::from_secs(20), async { Ok(()) }).await?;
    writeln!(out, "at rest: {:.2} % of a processor, {:.1} MiB resident", 100.0 * rest, idle as f64 / MIB)?;
    let names: Vec<_> = (0..10).map(|session| common::Names::new(10_000_000 + session, 2)).collect();
    let smallest = async {
        for seq in 1..=4 {
            for names in &names {
                calls.say(&names.frame(seq)).await?;
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
            exporter.get("/metrics", true).await?;
        }
        Ok(())
    };
    let smallest = processor_share(exporter, Duration::ZERO, smallest).await?;
    writeln!(
        out,
        "10 sessions, a frame and a scrape every 5 s: {:.2} % of a processor, {:.1} MiB resident",
        100.0 * smallest,
        exporter.process.resident() as f64 / MIB
    )?;

    let sessions = series / SERIES_PER_SESSION;
    let before = exporter.value("callsight_frames_folded_total").await?;
    calls.join(0, sessions).await?;
    rig::folded(&exporters, before + sessions as f64).await?;
    let weight = exporter.process.resident().saturating_sub(idle);
    let live = exporter.value("callsight_live_series").await?;
    writeln!(
        out,
        "{live} series, {sessions} sessions: {:.1} bytes of memory a series",
        weight as f64 / live
    )?;
    scrapes(exporter).await?;
    together(exporter).await?;
    for (what, pause) in
        [("no scrape", None), ("a scrape every 5 s", Some(5_000)), ("one scrape after the other", Some(0))]
    {
        fresh(exporter, &mut calls, what, pause.map(Duration::from_millis)).await?;
    }
    let before = exporter.value("callsight_frames_folded_total").await?;
    calls.join(0, 2 * sessions).await?;
    rig::folded(&exporters, before + 2.0 * sessions as f64).await?;
    let live = exporter.value("callsight_live_series").await?;
    writeln!(out, "{live} series:")?;
    scrapes(exporter).await
}

/// The share of one processor that the exporter uses during an activity and for some time after it.
async fn processor_share(
    exporter: &Exporter,
    longer: Duration,
    meanwhile: impl Future<Output = Result<(), Failure>>,
) -> Result<f64, Failure> {
    let (began, before) = (Instant::now(), exporter.process.cpu_time());
    meanwhile.await?;
    tokio::time::sleep(longer).await;
    let taken = exporter.process.cpu_time().saturating_sub(before);
    Ok(taken.as_secs_f64() / began.elapsed().as_secs_f64())
}

/// Scrapes one after the other, in both encodings: the median time, and the additional memory.
async fn scrapes(exporter: &Exporter) -> Result<(), Failure> {
    for (gzip, name) in [(false, "identity"), (true, "gzip")] {
        let before = exporter.process.resident();
        exporter.process.forget_peak();
        let cpu = exporter.process.cpu_time();
        let mut answers: Vec<Answer> = Vec::new();
        for _ in 0..SCRAPES {
            answers.push(exporter.get("/metrics", gzip).await?);
        }
        let cpu = exporter.process.cpu_time().saturating_sub(cpu) / u32::try_from(SCRAPES)?;
        let grown = exporter.process.peak().saturating_sub(before);
        answers.sort_by_key(|answer| answer.took);
        let median = &answers[SCRAPES / 2];
        writeln!(
            io::stdout(),
            "  {name}: {:.3} s ({:.3} to {:.3}), {:.3} s of a processor, {:.1} MB, at most {:.1} MiB more memory",
            median.took.as_secs_f64(),
            answers[0].took.as_secs_f64(),
            answers[SCRAPES - 1].took.as_secs_f64(),
            cpu.as_secs_f64(),
            median.bytes as f64 / 1e6,
            grown as f64 / MIB
        )?;
    }
    Ok(())
}

/// The processor time of four scrapes at once, and of four one after the other.
async fn together(exporter: &Exporter) -> Result<(), Failure> {
    let before = exporter.process.cpu_time();
    for answer in join_all((0..4).map(|_| exporter.get("/metrics", true))).await {
        answer?;
    }
    let at_once = exporter.process.cpu_time().saturating_sub(before);
    for _ in 0..4 {
        exporter.get("/metrics", true).await?;
    }
    let in_turn = exporter.process.cpu_time().saturating_sub(before + at_once);
    writeln!(
        io::stdout(),
        "  4 scrapers, gzip: {:.2} s of a processor at once, {:.2} s one after the other",
        at_once.as_secs_f64(),
        in_turn.as_secs_f64()
    )?;
    Ok(())
}

/// Frames at a steady rate, with or without scrapes: how soon after its publication a scrape shows
/// a frame, and how soon after the server stored it it is folded.
async fn fresh(
    exporter: &Exporter,
    calls: &mut Calls,
    what: &str,
    pause: Option<Duration>,
) -> Result<(), Failure> {
    const SECONDS: usize = 22;
    let latency = "callsight_frame_latency_seconds";
    let before = exporter.get("/metrics", false).await?.buckets(latency);
    calls.said.clear();
    let mut pages = Vec::new();
    let scraping = async {
        let Some(pause) = pause else { return std::future::pending().await };
        loop {
            pages.push(exporter.get("/metrics", true).await?);
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        done = calls.go_on(RATE, SECONDS) => done?,
        failed = scraping => return failed,
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = exporter.get("/metrics", false).await?.buckets(latency);
    let counts: Vec<_> =
        before.iter().zip(&after).map(|(before, after)| (after.0, after.1 - before.1)).collect();
    let all = counts.last().ok_or("no latencies")?.1;
    let share = |bound: f64| {
        let within = counts.iter().find(|(at, _)| *at == bound).map_or(f64::NAN, |(_, count)| *count);
        100.0 * within / all
    };
    writeln!(
        io::stdout(),
        "{RATE} frames/s, {what}: folded within 10 ms of being stored {:.2} %, within 25 ms {:.2} %, within 100 ms {:.3} % \
         ({all} frames)",
        share(0.01),
        share(0.025),
        share(0.1),
    )?;
    shown(calls, &pages)
}

/// The share of frames that a page shows, by the time between their publication and the scrape.
fn shown(calls: &Calls, pages: &[Answer]) -> Result<(), Failure> {
    const AGES_MS: [(u64, u64); 5] = [(0, 10), (10, 25), (25, 50), (50, 100), (100, 2000)];
    let mut counts = [(0_usize, 0_usize); AGES_MS.len()];
    for page in pages {
        let newest = newest_frames(&page.head);
        for (session, seq, published) in &calls.said {
            let Some(age) = page.began.checked_duration_since(*published) else { continue };
            let band = AGES_MS.iter().position(|(least, most)| {
                (Duration::from_millis(*least)..Duration::from_millis(*most)).contains(&age)
            });
            let Some(band) = band else { continue };
            counts[band].0 += 1;
            counts[band].1 += usize::from(newest.get(session).is_some_and(|newest| newest >= seq));
        }
    }
    for ((least, most), (all, visible)) in AGES_MS.iter().zip(counts).filter(|(_, (all, _))| *all > 0) {
        writeln!(
            io::stdout(),
            "  published {least} to {most} ms before a scrape: it shows {:.2} % of {all} frames",
            100.0 * visible as f64 / all as f64
        )?;
    }
    Ok(())
}

/// The number of the newest frame of each session on a page, which [`Calls`] sends as its round
/// trip.
fn newest_frames(page: &str) -> HashMap<usize, u64> {
    let newest = |line: &str| {
        let line = line.strip_prefix("videocall_session_rtt_seconds{")?;
        // The last part of the identifier is the number of the session.
        let id = line.split("session_id=\"").nth(1)?.split('"').next()?;
        let session = usize::from_str_radix(id.rsplit('-').next()?, 16).ok()?;
        let seconds = line.rsplit(' ').next()?.parse::<f64>().ok()?;
        Some((session, (seconds * 1e3).round() as u64))
    };
    page.lines().filter_map(newest).collect()
}
