//! Replay: reading a part of a stream again, and making of it what people's tools can read.
//!
//! Live series are a bounded view: what a call was like an hour ago, pair by pair, is not in
//! Prometheus. The stream has it. So a replay reads a part of the stream, folds it at event time
//! with the fold of `serve`, and reads all series in regular steps. Each sink makes something of
//! them: a file of OpenMetrics, blocks for Prometheus, samples for a remote-write receiver, the
//! frames themselves.
//!
//! - [`source`] reads a region's stream or its mirror, and leaves nothing behind;
//! - [`engine`] is the fold at event time, without NATS: records in, steps out;
//! - [`sample`] is the shape of a step, [`seen`] that of a message;
//! - [`sink`] has a module for each output, [`report`] and [`backtest`] are larger ones;
//! - [`heal`] finds the gaps in Prometheus that a replay can fill.
//!
//! Invariant: the folded records of all regions are in the order of their time, and a step is what
//! a scrape at that moment would have shown.

pub mod account;
pub mod backtest;
pub mod engine;
pub mod heal;
pub mod progress;
pub mod prometheus;
pub mod report;
pub mod sample;
pub mod seen;
pub mod sink;
pub mod source;
pub mod window;

use std::error::Error;
use std::time::Duration;

use async_nats::jetstream::Context;
use futures_util::future::try_join_all;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use account::Account;
use engine::{Engine, EngineConfig, WindowState};
use progress::Control;
use sink::{Sink, SinkError};
use window::Window;

use crate::config::one_line;
use crate::nats::NatsError;
use crate::stream_reader::{Extent, ReadError, Record};
use crate::topology::{mirror_stream_name, stream_name};
use callsight_fold::StreamTime;
use callsight_frame::subject::Region;

/// How long before the first frame a replay begins at most: expressions that look back find zeros
/// there, as they would have live.
const BEFORE: Duration = Duration::from_secs(3600);

/// How long after the last frame a replay ends at most: a day of silence is an incident of its own.
const AFTER: Duration = Duration::from_secs(24 * 3600);

/// Why a replay failed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(transparent)]
    Nats(#[from] NatsError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error("the streams hold no frame from {window}: {}", one_line(held))]
    Outside {
        window: Window,
        /// What the streams hold.
        held: String,
    },
    /// The streams hold frames of the window, but the filter excludes them all.
    #[error("nothing was replayed from {window}: {} frames, none of what was asked for; {}", account.messages, one_line(held))]
    Empty {
        window: Window,
        account: Box<Account>,
        /// What the streams hold.
        held: String,
    },
    #[error("the replay panicked; report the message above")]
    Panicked,
}

/// Why something that a replay needs besides the streams can't be used: a file of `--rules` or
/// `--resume`, or the Prometheus whose gaps are filled.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub struct InputError {
    problem: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl InputError {
    fn new(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), source: None }
    }

    fn caused(problem: String, source: impl Error + Send + Sync + 'static) -> Self {
        Self { problem, source: Some(Box::new(source)) }
    }
}

/// The result of a replay.
#[derive(Debug)]
pub struct Replayed {
    pub account: Account,
    /// Lines of the sinks for the summary.
    pub said: Vec<String>,
}

/// The name of a region's stream, or of its mirror in the hub.
#[must_use]
pub fn source_name(region: &Region, mirror: bool) -> String {
    if mirror { mirror_stream_name(region) } else { stream_name(region) }
}

/// Asks what the streams of all regions hold.
///
/// # Errors
/// [`ReadError`] for the first that can't be read.
pub async fn extents(context: &Context, config: &EngineConfig) -> Result<Vec<Extent>, ReadError> {
    let names = config.regions.iter().map(|region| source_name(region, config.mirror));
    try_join_all(names.map(|name| async move { Extent::look(context, &name).await })).await
}

/// The part of a window in which the streams have frames, with some time before and after.
///
/// Long before its first frame a stream has nothing to show, and long after its last one nothing
/// changes, but a step costs as much as any other.
#[must_use]
pub fn part_with_frames(window: Window, extents: &[Extent]) -> Window {
    let held = || extents.iter().filter_map(|extent| extent.held);
    let (Some(first), Some(last)) = (held().map(|held| held.0).min(), held().map(|held| held.1).max()) else {
        return window;
    };
    let part = Window { from: window.from.max(first - BEFORE), to: window.to.min(last + AFTER), ..window };
    if part.from < part.to && part.steps().next().is_some() { part } else { window }
}

/// Replays what the streams of the engine's regions held when their extents were taken.
///
/// # Errors
/// [`ReplayError`]; the sinks leave no partial file.
pub async fn run(
    context: &Context,
    mut config: EngineConfig,
    extents: Vec<Extent>,
    mut sinks: Vec<Box<dyn Sink>>,
    control: Control,
) -> Result<Replayed, ReplayError> {
    config.window = part_with_frames(config.window, &extents);
    sinks.iter_mut().for_each(|sink| sink.narrow(config.window));
    let (window, since) = (config.window, config.since());
    let held = extents.iter().map(source::describe).collect::<Vec<_>>().join("; ");
    let overlaps =
        |extent: &Extent| extent.held.is_some_and(|(first, last)| first <= window.to && last >= since);
    if !extents.iter().any(overlaps) {
        return Err(ReplayError::Outside { window, held });
    }
    for extent in extents.iter().filter(|extent| extent.first_sequence > 1) {
        if let Some((first, _)) = extent.held.filter(|(first, _)| *first > window.from) {
            let (stream, first) = (&extent.stream, window::rfc3339(first));
            tracing::warn!(
                stream,
                first,
                "the stream begins within the window: earlier frames are no longer there"
            );
        }
    }

    let mut readers = JoinSet::new();
    let mut feeds = Vec::new();
    for (extent, region) in extents.into_iter().zip(&config.regions) {
        let asking = source::subjects(context, &extent.stream, region, &config.filter.meetings);
        let subjects = control.unless_stopped(asking).await?;
        let (sender, receiver) = mpsc::channel(source::CHUNKS);
        readers.spawn(source::read(context.clone(), extent, subjects, since, window.to, sender));
        feeds.push(Feed { receiver, chunk: Vec::new().into_iter() });
    }
    let engine = Engine::new(config, sinks, control.clone());
    let stop = control.clone();
    let mut folding = tokio::task::spawn_blocking(move || fold(engine, feeds, &control, window, since));
    let folded = tokio::select! {
        folded = &mut folding => folded,
        () = stop.stopped() => {
            // The fold may be waiting for a reader.
            readers.abort_all();
            folding.await
        }
    };
    let (account, said) = folded.map_err(|_| ReplayError::Panicked)??;
    if account.is_empty() {
        return Err(ReplayError::Empty { window, account: Box::new(account), held });
    }
    Ok(Replayed { account, said })
}

/// The records of one region.
struct Feed {
    receiver: mpsc::Receiver<Result<Vec<Record>, ReadError>>,
    chunk: std::vec::IntoIter<Record>,
}

impl Feed {
    /// Waits for the next record, and leaves it here; `None` at the end.
    fn peek(&mut self) -> Result<Option<&Record>, ReadError> {
        while self.chunk.as_slice().is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk?.into_iter(),
                None => return Ok(None),
            }
        }
        Ok(self.chunk.as_slice().first())
    }
}

/// Folds the records of all regions in the order of their time.
fn fold(
    mut engine: Engine,
    mut feeds: Vec<Feed>,
    control: &Control,
    window: Window,
    since: StreamTime,
) -> Result<(Account, Vec<String>), ReplayError> {
    let whole = window.to.since(since).as_millis().max(1);
    let mut taken = 0_u64;
    loop {
        let mut earliest: Option<(StreamTime, usize)> = None;
        for (index, feed) in feeds.iter_mut().enumerate() {
            let next = feed.peek()?.map(|record| (record.at, index));
            earliest = earliest.into_iter().chain(next).min();
        }
        let Some((_, index)) = earliest else { break };
        let Some(record) = feeds[index].chunk.next() else { break };
        if engine.take(index, &record)? == WindowState::Over {
            break;
        }
        taken += 1;
        if taken.is_multiple_of(1024) {
            control.check()?;
            let share = engine.now().since(since).as_millis() * 1_000_000 / whole;
            control.share(u64::try_from(share).unwrap_or(u64::MAX));
            control.note(format!("{taken} frames, {}", window::rfc3339(engine.now())));
        }
    }
    control.check()?;
    Ok(engine.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_before_and_after_the_frames_nothing_is_replayed() {
        let at = |seconds: i128| StreamTime::from_unix_nanos(seconds * 1_000_000_000);
        let window = |from, to| Window::aligned(at(from), at(to), Duration::from_secs(15));
        let extent = |held: Option<(i128, i128)>| Extent {
            stream: "HEALTH_US".to_owned(),
            messages: 0,
            held: held.map(|(first, last)| (at(first), at(last))),
            first_sequence: 1,
            last_sequence: 0,
        };
        let held = [extent(Some((100_000, 101_000))), extent(None), extent(Some((200_000, 200_010)))];
        for (asked, replayed) in [
            ((0, 1_000_000), (96_400, 286_410)),
            ((99_000, 200_000), (99_000, 200_000)),
            ((150_000, 1_000_000), (150_000, 286_410)),
            // Windows without a frame stay as they are, for the error to name them.
            ((0, 50_000), (0, 50_000)),
            ((500_000, 600_000), (500_000, 600_000)),
        ] {
            let part = part_with_frames(window(asked.0, asked.1), &held);
            assert_eq!(part, window(replayed.0, replayed.1), "{asked:?}");
        }
        assert_eq!(part_with_frames(window(0, 1_000_000), &[extent(None)]), window(0, 1_000_000));
    }
}
