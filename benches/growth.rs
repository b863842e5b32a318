//! How costs grow with sessions, the size of meetings, the length of identifiers and shards, as
//! CSV.
//!
//! A figure for one size does not tell what the next size costs. Each point runs in a process of
//! its own, so that its memory can be told apart. `./dev bench --bench growth >docs/growth.csv`,
//! then `python3 docs/growth.py` draws it.

mod common;

use std::env;
use std::io::{self, Write};
use std::process::Command;
use std::time::Duration;

use callsight_frame::{Decoder, Form};
use common::{Counting, CpuTime, Failure};
use criterion::measurement::Measurement;

/// Measured rounds of frames, after the one with which the sessions join, and measured scrapes. The
/// shortest time counts, because other work on the machine only adds to it.
const ROUNDS: usize = 8;

/// How often all points are measured, because a disturbance may last longer than one of them.
const PASSES: usize = 3;

/// The measurements of each point, and their decimal places.
const COLUMNS: [(&str, usize); 8] = [
    ("sessions", 0),
    ("series", 0),
    ("bytes_a_series", 1),
    ("resident_mib", 1),
    ("fold_us_a_frame", 2),
    ("fold_ns_a_series", 1),
    ("scrape_s", 4),
    ("page_mb", 2),
];

/// A value on the axis, and what it stands for: sessions, parties of a meeting, bytes of an
/// identifier.
type Point = (usize, [usize; 3]);

/// The curves: the name of the axis, and the points.
const CURVES: &[(&str, &[Point])] = &[
    (
        "sessions",
        &[
            (500, [500, 4, 0]),
            (1_000, [1_000, 4, 0]),
            (2_000, [2_000, 4, 0]),
            (5_000, [5_000, 4, 0]),
            (10_000, [10_000, 4, 0]),
            (20_000, [20_000, 4, 0]),
        ],
    ),
    (
        "parties",
        &[
            (2, [1_000, 2, 0]),
            (5, [1_000, 5, 0]),
            (10, [1_000, 10, 0]),
            (20, [1_000, 20, 0]),
            (50, [1_000, 50, 0]),
        ],
    ),
    (
        "identifier_bytes",
        &[(36, [1_000, 10, 36]), (64, [1_000, 10, 64]), (96, [1_000, 10, 96]), (128, [1_000, 10, 128])],
    ),
    // One of N shards, with its part of 20,000 sessions.
    ("shards", &[(1, [20_000, 4, 0]), (2, [10_000, 4, 0]), (4, [5_000, 4, 0]), (8, [2_500, 4, 0])]),
];

fn main() -> Result<(), Failure> {
    // `cargo bench` adds a flag.
    let point: Vec<usize> = env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    if let [sessions, parties, bytes] = point[..] {
        return measure(sessions, parties, bytes);
    }
    let points: Vec<_> =
        CURVES.iter().flat_map(|(curve, points)| points.iter().map(move |point| (curve, point))).collect();
    let mut least = vec![[f64::INFINITY; COLUMNS.len()]; points.len()];
    for _ in 0..PASSES {
        for ((_, (_, point)), least) in points.iter().zip(&mut least) {
            let output =
                Command::new(env::current_exe()?).args(point.map(|number| number.to_string())).output()?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into());
            }
            let output = String::from_utf8(output.stdout)?;
            for (least, found) in least.iter_mut().zip(output.split_whitespace()) {
                *least = least.min(found.parse()?);
            }
        }
    }
    let mut out = io::stdout();
    writeln!(out, "curve,x,{}", COLUMNS.map(|(name, _)| name).join(","))?;
    for ((curve, (x, _)), least) in points.iter().zip(least) {
        write!(out, "{curve},{x}")?;
        for (value, (_, digits)) in least.iter().zip(COLUMNS) {
            write!(out, ",{value:.digits$}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn measure(sessions: usize, parties: usize, bytes: usize) -> Result<(), Failure> {
    let names: Vec<_> = (0..sessions).map(|session| common::Names::filled(session, parties, bytes)).collect();
    let encode =
        |seq| names.iter().map(move |names| names.frame(seq).encode(Form::Compact)).collect::<Vec<_>>();
    let mut messages = encode(1);
    let mut decoder = Decoder::default();
    let before = common::resident();
    let mut world = common::World::new();
    let mut rounds = Vec::new();
    for seq in 1..=ROUNDS as u64 + 1 {
        // Reuses their memory, so that the messages' own growth is not counted.
        messages.iter_mut().zip(encode(seq)).for_each(|(message, next)| message.clone_from(&next));
        let start = CpuTime.start();
        for message in &messages {
            decoder
                .with(message, None, |frame| world.fold(frame))
                .map_err(|rejection| rejection.to_string())?;
        }
        rounds.push(CpuTime.end(start));
        world.pass(1000);
    }
    let series = world.live_series();
    let grown = common::resident().saturating_sub(before);
    let mut scrapes = Vec::new();
    let mut page = Counting::default();
    for _ in 0..ROUNDS {
        page = Counting::default();
        let start = CpuTime.start();
        world.page(&mut page)?;
        scrapes.push(CpuTime.end(start));
    }
    let (frame, scrape) = (quickest(&rounds[1..]).as_secs_f64() / sessions as f64, quickest(&scrapes));
    writeln!(
        io::stdout(),
        "{sessions} {series} {} {} {} {} {} {}",
        grown as f64 / series as f64,
        grown as f64 / 1_048_576.0,
        frame * 1e6,
        frame * 1e9 * sessions as f64 / series as f64,
        scrape.as_secs_f64(),
        page.0 as f64 / 1e6
    )?;
    Ok(())
}

fn quickest(times: &[Duration]) -> Duration {
    times.iter().min().copied().unwrap_or_default()
}
