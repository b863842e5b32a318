//! What syncing costs: frames per second that the publisher gets acknowledged, by how often the
//! servers sync.
//!
//! `always` waits for the disk before each acknowledgement, the others do not. What that costs
//! depends on the disk, and on what else the machine does, so all settings take turns, and the
//! ratios of one round are compared. It prints the table in `docs/performance.md`.
//! `./dev bench --bench sync -- [ROUNDS]`

mod rig;

use std::env;
use std::io::{self, Write};
use std::time::Instant;

use bytes::Bytes;
use callsight::topology::stream_config;
use callsight_frame::{Form, MeetingId, Seq, SessionId};
use callsight_publish::{Publisher, PublisherConfig};
use callsight_testkit::region::{REGION, RegionServers};
use rig::{DEADLINE, Failure};

/// Values of `CALLSIGHT_STORE_SYNC`; the last is the server's own default.
const SETTINGS: [&str; 3] = ["always", "1s", "2m"];

/// Replicas of the stream, each on a server of its own.
const REPLICAS: [usize; 2] = [1, 3];

const ROUNDS: usize = 5;

/// Frames of each measurement, and of its beginning, which is not counted.
const FRAMES: usize = 40_000;
const WARM_UP: usize = 5_000;

/// When the simulated calls begin, in milliseconds since the Unix epoch.
const STARTS_MS: u64 = 1_767_225_600_000;

/// An encoded frame of a simulated meeting of four.
struct Encoded {
    meeting_id: String,
    session_id: String,
    seq: Seq,
    payload: Bytes,
}

fn main() -> Result<(), Failure> {
    // `cargo bench` adds a flag.
    let rounds = env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(ROUNDS);
    let frames = simulated()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut out = io::stdout();
    writeln!(out, "| replicas | `sync_interval` | frames/s | compared with `always` |\n|---|---|---|---|")?;
    for replicas in REPLICAS {
        let mut rates = [const { Vec::new() }; SETTINGS.len()];
        for _ in 0..rounds {
            for (sync, rates) in SETTINGS.iter().zip(&mut rates) {
                rates.push(runtime.block_on(measure(replicas, sync, &frames))?);
            }
        }
        for (sync, of_setting) in SETTINGS.iter().zip(&rates) {
            let ratios = of_setting.iter().zip(&rates[0]).map(|(rate, always)| rate / always);
            let [rate, ratio] = [of_setting.clone(), ratios.collect()].map(Spread::of);
            writeln!(
                out,
                "| {replicas} | `{sync}` | {:.0} ({:.0} to {:.0}) | {:.2} ({:.2} to {:.2}) |",
                rate.median, rate.least, rate.most, ratio.median, ratio.least, ratio.most
            )?;
        }
    }
    Ok(())
}

/// Encoded beforehand, so that simulating them costs the servers nothing.
fn simulated() -> Result<Vec<Encoded>, Failure> {
    let mut world = rig::world(&REGION.parse()?, 4, STARTS_MS);
    let mut frames = Vec::with_capacity(WARM_UP + FRAMES);
    while frames.len() < WARM_UP + FRAMES {
        if let Some(event) = world.advance() {
            frames.push(Encoded {
                meeting_id: event.frame.meeting_id.to_string(),
                session_id: event.frame.session_id.to_string(),
                seq: event.frame.seq,
                payload: event.frame.encode(Form::Compact).into(),
            });
        }
    }
    Ok(frames)
}

/// Publishes the frames to fresh servers, and returns how many were acknowledged per second.
async fn measure(replicas: usize, sync: &str, frames: &[Encoded]) -> Result<f64, Failure> {
    let servers = RegionServers::start(replicas, sync).await;
    servers.jetstream().await.create_stream(stream_config(&REGION.parse()?, replicas)).await?;
    servers.settled().await;
    let config = PublisherConfig::new(REGION.parse()?, "relay", "bench");
    let publisher = Publisher::start(servers.client().await, config).await?;
    let (first, rest) = frames.split_at(WARM_UP);
    publish(&publisher, first).await?;
    let began = Instant::now();
    publish(&publisher, rest).await?;
    Ok(rest.len() as f64 / began.elapsed().as_secs_f64())
}

async fn publish(publisher: &Publisher, frames: &[Encoded]) -> Result<(), Failure> {
    for frame in frames {
        publisher.room().await?;
        let (meeting, session) = (MeetingId::new(&frame.meeting_id)?, SessionId::new(&frame.session_id)?);
        publisher.publish_encoded(meeting, session, frame.seq, frame.payload.clone())?;
    }
    let stats = publisher.flush(DEADLINE).await?;
    if stats.acknowledged == stats.accepted {
        Ok(())
    } else {
        Err(format!("not all are stored: {stats:?}").into())
    }
}

struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { least: values[0], median: values[values.len() / 2], most: values[values.len() - 1] }
    }
}
