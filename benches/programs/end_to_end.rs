//! How fast the exporter drains a stream, compared with the same pull loop that only acknowledges.
//!
//! Both read the same frames from the same nats-server by turns, so that other work on the machine
//! hardly changes the ratio. `./dev bench --bench end_to_end -- [FRAMES [MEETING_SIZE]]`

mod rig;

use std::env;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::Client;
use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::jetstream::{self, Context};
use callsight::consume::{Source, SourceKind};
use callsight::nats::Refusals;
use callsight::serve::{Exporter, ExporterConfig, Feed, PageConfig};
use callsight::topology::{Deployment, consumer_config, ensure_streams, stream_name};
use callsight_fold::FoldSettings;
use callsight_frame::subject::Region;
use callsight_testkit::nats::Nats;
use callsight_testkit::process::cpu_time;
use futures_util::StreamExt;
use rig::{DEADLINE, Failure, connect, fill};
use time::OffsetDateTime;

/// How often each of the two is measured.
const ROUNDS: usize = 5;

fn main() -> Result<(), Failure> {
    // `cargo bench` adds a flag.
    let numbers: Vec<_> = env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok()).collect();
    let sizes = match numbers[..] {
        [frames, meeting_size] => vec![(frames, meeting_size)],
        [frames] => vec![(frames, 10), (frames, 2)],
        _ => vec![(200_000, 10), (400_000, 2)],
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    for (frames, meeting_size) in sizes {
        runtime.block_on(measure(frames, meeting_size))?;
    }
    Ok(())
}

async fn measure(frames: usize, meeting_size: usize) -> Result<(), Failure> {
    let nats = Nats::start();
    let client = connect(&nats.url()).await?;
    let region: Region = "us".parse()?;
    let context = jetstream::new(client.clone());
    ensure_streams(&context, &region, 1).await?;
    let started = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let bytes = fill(client.clone(), &region, frames, meeting_size, started).await?;
    let mut out = io::stdout();
    writeln!(out, "{frames} frames of {meeting_size} parties, {bytes} bytes each on average")?;

    let mut ratios = Vec::new();
    for round in 1..=ROUNDS {
        let only = acknowledge_only(&context, &region, frames).await?;
        let fold = drain(&client, &context, &region, frames).await?;
        ratios.push(fold.rate / only.rate);
        writeln!(
            out,
            "round {round}: acknowledge only {only}; serve {fold}; ratio {:.2}",
            fold.rate / only.rate
        )?;
    }
    ratios.sort_by(f64::total_cmp);
    writeln!(out, "median ratio {:.2}", ratios[ratios.len() / 2])?;
    Ok(())
}

/// The cost of a round.
struct Measured {
    rate: f64,
    cpu_micros: f64,
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} frames/s at {:.1} µs of CPU a frame", self.rate, self.cpu_micros)
    }
}

/// The clocks of a round, which ends once the durable consumer has acknowledged all frames.
struct Clocks {
    wall: Instant,
    cpu: Duration,
}

impl Clocks {
    fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu_time("self") }
    }

    fn stop(&self, frames: usize) -> Measured {
        let cpu = cpu_time("self").saturating_sub(self.cpu);
        let rate = frames as f64 / self.wall.elapsed().as_secs_f64();
        Measured { rate, cpu_micros: cpu.as_secs_f64() * 1e6 / frames as f64 }
    }
}

async fn acknowledge_only(context: &Context, region: &Region, frames: usize) -> Result<Measured, Failure> {
    let stream = context.get_stream(stream_name(region)).await?;
    let deployment: Deployment = "acknowledge-only".parse()?;
    let config = consumer_config(&deployment, OffsetDateTime::UNIX_EPOCH);
    let consumer: Consumer<pull::Config> = stream.create_consumer(config).await?;
    let clocks = Clocks::start();
    let messages = consumer.stream().max_messages_per_batch(8192).messages().await?;
    let mut chunks = messages.ready_chunks(1024);
    let mut taken = 0;
    while taken < frames {
        let chunk = chunks.next().await.ok_or("the subscription ended")?;
        taken += chunk.len();
        if let Some(last) = chunk.into_iter().next_back() {
            last?.ack().await?;
        }
        tokio::task::yield_now().await;
    }
    let measured = clocks.stop(frames);
    stream.delete_consumer(&deployment.durable()).await?;
    Ok(measured)
}

async fn drain(
    client: &Client,
    context: &Context,
    region: &Region,
    frames: usize,
) -> Result<Measured, Failure> {
    let stream = context.get_stream(stream_name(region)).await?;
    let deployment: Deployment = "bench".parse()?;
    stream.create_consumer(consumer_config(&deployment, OffsetDateTime::UNIX_EPOCH)).await?;
    let config = ExporterConfig {
        web_config: None,
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        reader: deployment.clone().into(),
        create: None,
        ready_max_lag: Duration::from_secs(10),
        max_series: 10_000_000,
        max_sessions: 1_000_000,
        // Keeps every session live, however long the stream took to fill.
        fold: FoldSettings { idle_timeout: Duration::from_secs(3600), ..FoldSettings::default() },
        page: PageConfig::default(),
    };
    let feed = Feed {
        source: Source::new(region.clone(), SourceKind::Own),
        client: client.clone(),
        refusals: Refusals::default(),
    };
    let clocks = Clocks::start();
    let exporter = Exporter::start(vec![feed], config).await?;
    while stream.consumer_info(&deployment.durable()).await?.ack_floor.stream_sequence < frames as u64 {
        if clocks.wall.elapsed() > DEADLINE {
            return Err("the exporter did not drain the stream in time".into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let measured = clocks.stop(frames);
    exporter.stop().await;
    stream.delete_consumer(&deployment.durable()).await?;
    Ok(measured)
}
