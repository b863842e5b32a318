//! How long it takes, and how much memory, to replay an hour of 2,000 sessions into OpenMetrics and
//! a report, and one meeting of them.
//!
//! The frames are read from a stream of a real nats-server, as `callsight replay` reads them.
//! JetStream stamps a message when it receives it, and filling the stream takes far less than an
//! hour, so the benchmark replaces each frame's time by what it would have been, from its sequence
//! number. Everything else is what the command does. Each replay runs in a process of its own, so
//! that its memory can be told apart. `./dev bench --bench replay -- [FRAMES [MEETING_SIZE]]`

mod rig;

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, Context};
use callsight::replay::engine::{Engine, EngineConfig, Filter, WindowState};
use callsight::replay::progress::Control;
use callsight::replay::sink::Sink;
use callsight::replay::sink::openmetrics::OpenMetrics;
use callsight::replay::sink::output::Target;
use callsight::replay::sink::report::Report;
use callsight::replay::source;
use callsight::replay::window::Window;
use callsight::stream_reader::Extent;
use callsight::topology::{ensure_streams, stream_name};
use callsight_fold::{FoldSettings, StreamTime};
use callsight_frame::Frame;
use callsight_frame::subject::Region;
use callsight_testkit::nats::Nats;
use callsight_testkit::process::{cpu_time, memory};
use rig::{Failure, INTERVAL, SESSIONS, connect, fill};
use tokio::sync::mpsc;

const STEP: Duration = Duration::from_secs(15);

/// When the calls begin, in milliseconds since the Unix epoch.
const BEGIN_MS: u64 = 1_764_000_000_000;
const BEGIN: StreamTime = StreamTime::from_unix_nanos(BEGIN_MS as i128 * 1_000_000);

/// The outputs of the replays: of everything, and a report of one meeting that is looked for in the
/// whole stream, or in the parts that may have it.
const OPENMETRICS: &str = "openmetrics";
const REPORT: &str = "report";
const MEETING_OF_ALL: &str = "one meeting, all read";
const MEETING: &str = "one meeting";

fn main() -> Result<(), Failure> {
    // `cargo bench` adds a flag.
    let arguments: Vec<_> = env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let [what, url, frames, file] = arguments.as_slice() {
        return runtime.block_on(replay(what, url, frames.parse()?, Path::new(file)));
    }
    let mut numbers = arguments.iter().filter_map(|argument| argument.parse::<usize>().ok());
    let frames = numbers.next().unwrap_or(1_440_000);
    let meeting_size = numbers.next().unwrap_or(4);
    runtime.block_on(measure(frames, meeting_size))
}

async fn measure(frames: usize, meeting_size: usize) -> Result<(), Failure> {
    let nats = Nats::start();
    let client = connect(&nats.url()).await?;
    let region: Region = "us".parse()?;
    ensure_streams(&jetstream::new(client.clone()), &region, 1).await?;
    let began = Instant::now();
    fill(client, &region, frames, meeting_size, BEGIN_MS).await?;
    let mut out = io::stdout();
    writeln!(out, "{frames} frames stored in {:.0} s", began.elapsed().as_secs_f64())?;
    let folder = tempfile::tempdir()?;
    for what in [OPENMETRICS, REPORT, MEETING_OF_ALL, MEETING] {
        let file = folder.path().join(what);
        let replay = [what, &nats.url(), &frames.to_string()];
        if !Command::new(env::current_exe()?).args(replay).arg(&file).status()?.success() {
            return Err(format!("the replay into {what} failed").into());
        }
        writeln!(out, "{what}: {:.1} MB", fs::metadata(&file)?.len() as f64 / 1e6)?;
    }
    Ok(())
}

/// When a frame would have been received: one per session and interval, evenly spread.
fn stretched(sequence: u64) -> StreamTime {
    let each = INTERVAL.as_nanos() / SESSIONS as u128;
    BEGIN + Duration::from_nanos(u64::try_from(each).unwrap_or_default() * sequence)
}

/// The meeting of the first frame.
async fn first_meeting(context: &Context, extent: &Extent) -> Result<String, Failure> {
    let stream = context.get_stream(&extent.stream).await?;
    let message = stream.get_raw_message(extent.first_sequence).await?;
    Ok(Frame::decode(&message.payload)?.meeting_id.to_string())
}

async fn replay(what: &str, url: &str, frames: u64, file: &Path) -> Result<(), Failure> {
    let began = Instant::now();
    let context: Context = jetstream::new(connect(url).await?);
    let region: Region = "us".parse()?;
    let extent = Extent::look(&context, &stream_name(&region)).await?;
    let (first, last) = extent.held.ok_or("the stream is empty")?;
    let (sender, mut receiver) = mpsc::channel(8);
    let meetings =
        if what.starts_with(MEETING) { vec![first_meeting(&context, &extent).await?] } else { Vec::new() };
    let subjects = match what {
        MEETING => source::subjects(&context, &extent.stream, &region, &meetings).await,
        _ => None,
    };
    tokio::spawn(source::read(context, extent, subjects, first, last, sender));

    let config = EngineConfig {
        regions: vec![region],
        window: Window::aligned(BEGIN, stretched(frames), STEP),
        filter: Filter { meetings, sessions: Vec::new() },
        fold: FoldSettings { pair_max_sessions: usize::MAX, ..FoldSettings::default() },
        mirror: false,
    };
    let target = Target::File(file.to_owned());
    let sink: Box<dyn Sink> = if what == OPENMETRICS {
        Box::new(OpenMetrics::new(target, Some("bench"), Control::default())?)
    } else {
        Box::new(Report::new(target, config.clone(), "callsight replay".to_owned())?)
    };
    let mut engine = Engine::new(config, vec![sink], Control::default());
    let (account, folded) = tokio::task::spawn_blocking(move || -> Result<_, Failure> {
        while let Some(records) = receiver.blocking_recv() {
            for mut record in records? {
                record.at = stretched(record.sequence);
                if engine.take(0, &record)? == WindowState::Over {
                    break;
                }
            }
        }
        let folded = began.elapsed();
        Ok((engine.finish()?.0, folded))
    })
    .await??;
    let took = began.elapsed().as_secs_f64();
    let mut out = io::stdout();
    writeln!(
        out,
        "{what}: {} frames at {} steps, {} samples, at most {} sessions: read and folded in {:.1} s, written after {took:.1} s, \
         {:.0} s of processor time, {} MiB of memory at most",
        account.folded,
        account.steps,
        account.samples,
        account.most_sessions,
        folded.as_secs_f64(),
        cpu_time("self").as_secs_f64(),
        memory("self", "VmHWM:") >> 20,
    )?;
    Ok(())
}
