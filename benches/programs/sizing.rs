//! What an exporter needs for a number of sessions, measured as far as two cores go.
//!
//! Meetings of four, a frame per session and a scrape every five seconds, and the shipped binary:
//! its share of a processor, its memory, how long a scrape takes, and the size of a frame in the
//! stream. It prints the table of sizes in `docs/performance.md`. `./dev bench --bench sizing --
//! [MOST_SESSIONS]`

mod calls;
#[path = "../common/mod.rs"]
mod common;
mod rig;

use std::env;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use calls::Calls;
use callsight::topology::stream_name;
use callsight_frame::subject::Region;
use callsight_testkit::nats::Nats;
use futures_util::future::try_join_all;
use rig::{Exporter, Failure};

/// Participants of a meeting, and how often each sends a frame.
const PARTIES: usize = 4;
const INTERVAL_SECONDS: usize = 5;

/// How long the measurement lasts once all have joined.
const SECONDS: usize = 20;

/// How long the stream keeps frames, in seconds.
const KEPT: f64 = 72.0 * 3600.0;

/// A size of deployment.
struct Size {
    sessions: usize,
    detail: &'static str,
    shards: usize,
}

const SIZES: &[Size] = &[
    Size { sessions: 1_000, detail: "off", shards: 1 },
    Size { sessions: 1_000, detail: "session", shards: 1 },
    Size { sessions: 1_000, detail: "pair", shards: 1 },
    Size { sessions: 10_000, detail: "session", shards: 1 },
    Size { sessions: 10_000, detail: "pair", shards: 1 },
    Size { sessions: 10_000, detail: "pair", shards: 2 },
    Size { sessions: 100_000, detail: "session", shards: 1 },
];

fn main() -> Result<(), Failure> {
    // `cargo bench` adds a flag.
    let most = env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(usize::MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut out = io::stdout();
    writeln!(
        out,
        "| sessions | detail | shards | frames/s | series | processor, each exporter | memory, each | scrape, gzip | \
         processor, nats-server | bytes a frame in the stream | stream in 72 h |"
    )?;
    writeln!(out, "|{}", " --- |".repeat(11))?;
    for size in SIZES.iter().filter(|size| size.sessions <= most) {
        runtime.block_on(measure(size))?;
    }
    Ok(())
}

async fn measure(size: &Size) -> Result<(), Failure> {
    let nats = Nats::start();
    let region: Region = "us".parse()?;
    let mut exporters = Vec::new();
    for shard in 1..=size.shards {
        let shard = format!("{shard}/{}", size.shards);
        let mut flags = vec!["--max-series=10000000", "--max-sessions=1000000", "--detail", size.detail];
        if size.shards > 1 {
            flags.extend(["--shard", &shard]);
        }
        exporters.push(Exporter::start(&nats, &flags).await?);
    }
    // Shards divide the relays, so there are more relays than shards.
    let relays = 5 * size.shards;
    let each = size.sessions / relays / PARTIES * PARTIES;
    let mut calls = Vec::new();
    for relay in 0..relays {
        let mut these = Calls::start(&nats, &format!("relay-{relay}"), PARTIES).await?;
        these.join(relay * each, each).await?;
        calls.push(these);
    }
    let sessions = each * relays;
    rig::folded(&exporters, sessions as f64).await?;

    let (began, nats_before) = (Instant::now(), nats.process().cpu_time());
    let before: Vec<_> = exporters.iter().map(|exporter| exporter.process.cpu_time()).collect();
    let rate = each / INTERVAL_SECONDS;
    let publishing = try_join_all(calls.iter_mut().map(|calls| calls.go_on(rate, SECONDS)));
    let mut took = Vec::new();
    let scraping = async {
        loop {
            for exporter in &exporters {
                took.push(exporter.get("/metrics", true).await?.took);
            }
            tokio::time::sleep(Duration::from_secs(INTERVAL_SECONDS as u64)).await;
        }
    };
    tokio::select! {
        done = publishing => drop(done?),
        failed = scraping => return failed,
    }
    let passed = began.elapsed().as_secs_f64();
    let nats_share = nats.process().cpu_time().saturating_sub(nats_before).as_secs_f64() / passed;
    let mut shares = Vec::new();
    let mut resident = Vec::new();
    let mut series = 0.0;
    for (exporter, before) in exporters.iter().zip(before) {
        shares.push(exporter.process.cpu_time().saturating_sub(before).as_secs_f64() / passed);
        resident.push(exporter.process.resident() >> 20);
        series += exporter.value("callsight_live_series").await?;
    }
    rig::folded(&exporters, (sessions + relays * rate * SECONDS) as f64).await?;
    let context = nats.jetstream().await;
    let state = context.get_stream(stream_name(&region)).await?.get_info().await?.state;
    let bytes = state.bytes as f64 / state.messages as f64;
    took.sort_unstable();
    let list = |values: Vec<String>| values.join(", ");
    writeln!(
        io::stdout(),
        "| {sessions} | {} | {} | {} | {series} | {} | {} | {:.3} s | {:.1} % | {bytes:.0} | {:.0} GB |",
        size.detail,
        size.shards,
        relays * rate,
        list(shares.iter().map(|share| format!("{:.1} %", 100.0 * share)).collect()),
        list(resident.iter().map(|mib| format!("{mib} MiB")).collect()),
        took[took.len() / 2].as_secs_f64(),
        100.0 * nats_share,
        (relays * rate) as f64 * bytes * KEPT / 1e9,
    )?;
    Ok(())
}
