//! Replay: an incident, out of the stream and back into the tools that people use.
//!
//! Live series are a bounded view: what a call was like an hour ago, pair by pair, is not in Prometheus, or not
//! any more. The stream has it. So a part of the stream is read again, folded at event time by the very fold that
//! serves, and looked at in regular steps; and each sink makes of that what somebody can use: a file of
//! OpenMetrics, blocks for Prometheus, samples for a remote-write receiver, the frames themselves.
//!
//! - [`source`] reads a region's stream or its mirror, and touches nothing;
//! - [`engine`] is the fold at event time, without NATS: records in, steps out;
//! - [`sample`] is the shape of a step;
//! - [`heal`] finds the holes that a replay can fill;
//! - [`rules`] reads alert rules, and `judge` has them judged over what was replayed;
//! - [`report`] makes a page of it for the meeting afterwards;
//! - [`sink`] has a module for each thing that a replay can become.

pub mod engine;
pub mod heal;
pub mod http;
mod judge;
pub mod progress;
pub mod report;
pub mod rules;
pub mod sample;
pub mod sink;
pub mod source;
pub mod window;

use async_nats::jetstream::Context;
use futures_util::future::try_join_all;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use engine::{Account, Engine, EngineConfig, WindowState};
use heal::HealError;
use progress::Control;
use rules::RulesError;
use sink::remote_write::ResumeError;
use sink::{Sink, SinkError};
use source::{Extent, ReadError, Record};
use window::Window;

use crate::config::one_line;
use crate::nats::NatsError;
use crate::topology::{mirror_stream_name, stream_name};
use callsight_frame::subject::Region;

/// Why a replay came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The connection's settings can't be used.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// A stream can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What was sent before can't be gone on with.
    #[error(transparent)]
    Resume(#[from] ResumeError),
    /// Holes can't be looked for.
    #[error(transparent)]
    Heal(#[from] HealError),
    /// Alert rules can't be used.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// A sink can't go on.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The streams hold nothing of the window.
    #[error("there is nothing from {window}: {}", one_line(held))]
    Outside {
        /// What was asked for.
        window: Window,
        /// What there is instead.
        held: String,
    },
    /// They do, but nothing of what was asked for.
    #[error("nothing was replayed from {window}: {} frames, none of what was asked for; {}", account.messages, one_line(held))]
    Empty {
        /// What was asked for.
        window: Window,
        /// What was gone through.
        account: Box<Account>,
        /// What the streams hold.
        held: String,
    },
    /// A defect.
    #[error("the replay failed; report what stands above")]
    Panicked,
}

/// What a replay came to.
#[derive(Debug)]
pub struct Replayed {
    /// What was gone through.
    pub account: Account,
    /// What the sinks have to say, a line each.
    pub said: Vec<String>,
}

/// The stream of a region, or its copy in the hub.
#[must_use]
pub fn source_name(region: &Region, mirror: bool) -> String {
    if mirror { mirror_stream_name(region) } else { stream_name(region) }
}

/// Looks at the streams of all regions.
///
/// # Errors
/// [`ReadError`] for the first that can't be looked at.
pub async fn extents(context: &Context, regions: &[Region], mirror: bool) -> Result<Vec<Extent>, ReadError> {
    let names = regions.iter().map(|region| source_name(region, mirror));
    try_join_all(names.map(|name| async move { Extent::look(context, &name).await })).await
}

/// Replays what the streams of the engine's regions held when they were looked at.
///
/// # Errors
/// [`ReplayError`]; nothing is left of what the sinks began.
pub async fn run(
    context: &Context,
    config: EngineConfig,
    extents: Vec<Extent>,
    sinks: Vec<Box<dyn Sink>>,
    control: Control,
) -> Result<Replayed, ReplayError> {
    let (window, since) = (config.window, config.since());
    let held = extents.iter().map(Extent::describe).collect::<Vec<_>>().join("; ");
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
                "the stream's first frames are from within the window: what was before is not there any more"
            );
        }
    }

    let mut readers = JoinSet::new();
    let mut feeds = Vec::new();
    for extent in extents {
        let (sender, receiver) = mpsc::channel(source::CHUNKS);
        readers.spawn(source::read(context.clone(), extent, since, window.to, sender));
        feeds.push(Feed { receiver, chunk: Vec::new().into_iter() });
    }
    let engine = Engine::new(config, sinks);
    let stop = control.clone();
    let mut folding = tokio::task::spawn_blocking(move || fold(engine, feeds, &control, window, since));
    let folded = tokio::select! {
        folded = &mut folding => folded,
        () = stop.stopped() => {
            // It may be waiting for them.
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

/// The records of one region, as they come.
struct Feed {
    receiver: mpsc::Receiver<Result<Vec<Record>, ReadError>>,
    chunk: std::vec::IntoIter<Record>,
}

impl Feed {
    /// The next record, waiting for it; `None` at the end.
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

/// Takes the records of all regions in the order of their time.
fn fold(
    mut engine: Engine,
    mut feeds: Vec<Feed>,
    control: &Control,
    window: Window,
    since: callsight_fold::StreamTime,
) -> Result<(Account, Vec<String>), ReplayError> {
    let whole = window.to.since(since).as_millis().max(1);
    let mut taken = 0_u64;
    loop {
        let mut earliest = None;
        for (index, feed) in feeds.iter_mut().enumerate() {
            if let Some(record) = feed.peek()?
                && earliest.is_none_or(|(_, at)| record.at < at)
            {
                earliest = Some((index, record.at));
            }
        }
        let Some((index, _)) = earliest else { break };
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
