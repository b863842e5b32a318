//! The driver of a simulation: publishes a world's frames when they are due.
//!
//! Invariant: a frame is dropped only when the run is stopped. While a buffer is full, the
//! world waits.

use std::fmt;
use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::pin::{Pin, pin};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use tokio::time::Instant;

use super::config::{SimulateConfig, SimulateConfigError};
use super::world::{Event, World};
use callsight_publish::{PublishError, PublishStats, Publisher, PublisherConfig};

/// Time to wait for the last acks.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(15);

/// Maximum delay of a run's end when the machine or the stream can't keep up with the world.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Frames between two yields to other work while the world is behind.
const BURST: u32 = 256;

/// The counts of a finished run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimulationSummary {
    /// Sum over all publishers. The simulator waits for room in a buffer, so `overflowed` should be
    /// 0.
    pub stats: PublishStats,
    /// Time until the last ack.
    pub elapsed: Duration,
}

/// Writes one line of `key=value` in a fixed order, for scripts.
impl fmt::Display for SimulationSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PublishStats { accepted, acknowledged, duplicates, retried, failed, overflowed, .. } = self.stats;
        write!(f, "published={accepted} acknowledged={acknowledged} duplicates={duplicates} ")?;
        write!(f, "retried={retried} failed={failed} overflowed={overflowed}")
    }
}

/// The error of a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimulateError {
    #[error(transparent)]
    Config(#[from] SimulateConfigError),
    /// A relay's publisher did not start, or its client was closed.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The run is over, and the streams have not acknowledged everything.
    #[error(
        "{unsettled} of {} frames were not acknowledged; check that every region has a stream",
        summary.stats.accepted
    )]
    Unacknowledged {
        /// Frames that are neither acknowledged nor failed.
        unsettled: u64,
        /// The counts so far.
        summary: SimulationSummary,
    },
}

/// Publishes the frames of a simulated world until its end, or until `shutdown` completes.
///
/// Frames wait until their streams exist. Progress goes to stderr, every second on a terminal and
/// every 10 s otherwise. At the end everything is flushed.
///
/// # Errors
/// [`SimulateError`]; [`SimulateError::Unacknowledged`] has the summary too.
pub async fn run(
    client: async_nats::Client,
    config: SimulateConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<SimulationSummary, SimulateError> {
    config.check()?;
    let wall_clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut world = World::new(&config, wall_clock.as_millis() as u64);
    let mut publishers = Vec::with_capacity(world.relays().len());
    for relay in world.relays() {
        let config = PublisherConfig::new(relay.region.clone(), "relay", relay.server_id.clone());
        publishers.push(Publisher::start(client.clone(), config).await?);
    }

    let started = Instant::now();
    let shutdown = pin!(shutdown);
    let mut outlet = Outlet { publishers, pace: Pace::new(shutdown, config.quiet) };
    let over = drive(&config, &mut world, &mut outlet, started).await?;
    let end = Instant::now() + FLUSH_TIMEOUT;
    if over == Over::Time && config.leave_at_end {
        // Without time for this there is none for the flush either, which then reports what is
        // missing.
        tokio::time::timeout_at(end, leave(&mut world, &mut outlet)).await.unwrap_or(Ok(()))?;
    }
    let unflushed = flush(&outlet.publishers, end).await;
    outlet.pace.close();
    let summary = SimulationSummary { stats: total(&outlet.publishers), elapsed: started.elapsed() };

    match unflushed {
        Some(PublishError::FlushTimeout { unsettled }) => {
            Err(SimulateError::Unacknowledged { unsettled, summary })
        }
        Some(error) => Err(error.into()),
        None => Ok(summary),
    }
}

/// The reason why a run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// The number of frames is reached.
    Count,
    /// The duration has passed, or the run is stopped.
    Time,
}

async fn drive<S: Future<Output = ()>>(
    config: &SimulateConfig,
    world: &mut World,
    outlet: &mut Outlet<'_, S>,
    started: Instant,
) -> Result<Over, SimulateError> {
    let end = config.duration.unwrap_or(Duration::MAX);
    let (mut frames, mut burst) = (0, 0);
    while config.frames.is_none_or(|wanted| frames < wanted) {
        let (due, now) = (world.next_due(), started.elapsed());
        if due >= end || now >= end.saturating_add(CATCH_UP) {
            return Ok(Over::Time);
        }
        outlet.pace.sessions = world.sessions();
        if due > now {
            // Takes at least a millisecond; what falls due meanwhile is then published at once.
            burst = 0;
            outlet.pace.wait(&outlet.publishers, tokio::time::sleep_until(started + due)).await;
        } else if burst >= BURST {
            burst = 0;
            outlet.pace.wait(&outlet.publishers, tokio::task::yield_now()).await;
        }
        if outlet.pace.stopped {
            return Ok(Over::Time);
        }
        if let Some(event) = world.advance() {
            outlet.publish(&event).await?;
            frames += 1;
            burst += 1;
        }
    }
    Ok(Over::Count)
}

async fn leave<S: Future<Output = ()>>(
    world: &mut World,
    outlet: &mut Outlet<'_, S>,
) -> Result<(), SimulateError> {
    outlet.pace.stopped = true;
    while let Some(event) = world.leave_next() {
        outlet.publish(&event).await?;
    }
    Ok(())
}

struct Outlet<'a, S> {
    /// One per relay of the world.
    publishers: Vec<Publisher>,
    pace: Pace<'a, S>,
}

impl<S: Future<Output = ()>> Outlet<'_, S> {
    /// Publishes a frame once there is room. Drops it if the run is stopped before.
    async fn publish(&mut self, event: &Event<'_>) -> Result<(), SimulateError> {
        let publisher = &self.publishers[event.relay];
        let room = match publisher.room().now_or_never() {
            Some(room) => Some(room),
            None => self.pace.wait(&self.publishers, publisher.room()).await,
        };
        match room {
            Some(room) => room.and_then(|()| publisher.publish(&event.frame)).map_err(SimulateError::from),
            None => Ok(()),
        }
    }
}

/// Flushes all publishers and returns the first error, or a timeout with the unsettled frames of
/// all.
async fn flush(publishers: &[Publisher], end: Instant) -> Option<PublishError> {
    let mut missing = 0;
    for publisher in publishers {
        match publisher.flush(end.saturating_duration_since(Instant::now())).await {
            Ok(_) => {}
            Err(PublishError::FlushTimeout { unsettled }) => missing += unsettled,
            Err(error) => return Some(error),
        }
    }
    (missing > 0).then_some(PublishError::FlushTimeout { unsettled: missing })
}

fn total(publishers: &[Publisher]) -> PublishStats {
    publishers.iter().map(Publisher::stats).fold(PublishStats::default(), |sum, stats| PublishStats {
        accepted: sum.accepted + stats.accepted,
        acknowledged: sum.acknowledged + stats.acknowledged,
        duplicates: sum.duplicates + stats.duplicates,
        retried: sum.retried + stats.retried,
        overflowed: sum.overflowed + stats.overflowed,
        failed: sum.failed + stats.failed,
        in_flight: sum.in_flight + stats.in_flight,
        buffered: sum.buffered + stats.buffered,
    })
}

/// What happens beside publishing: the shutdown and the progress line.
struct Pace<'a, S> {
    shutdown: Pin<&'a mut S>,
    /// Whether the shutdown has completed; it must not be polled again.
    stopped: bool,
    sessions: usize,
    quiet: bool,
    terminal: bool,
    every: Duration,
    next_line: Instant,
    /// Frames published at the last progress line, and its time.
    last: (u64, Instant),
}

impl<'a, S: Future<Output = ()>> Pace<'a, S> {
    fn new(shutdown: Pin<&'a mut S>, quiet: bool) -> Self {
        let terminal = io::stderr().is_terminal();
        let every = Duration::from_secs(if terminal { 1 } else { 10 });
        let now = Instant::now();
        Self {
            shutdown,
            stopped: false,
            sessions: 0,
            quiet,
            terminal,
            every,
            next_line: now + every,
            last: (0, now),
        }
    }

    /// Waits for something; `None` if the run is stopped before.
    async fn wait<T>(&mut self, publishers: &[Publisher], what: impl Future<Output = T>) -> Option<T> {
        let mut what = pin!(what);
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.as_mut(), if !self.stopped => {
                    self.stopped = true;
                    return None;
                }
                () = tokio::time::sleep_until(self.next_line) => self.write_line(&total(publishers)),
                done = what.as_mut() => return Some(done),
            }
        }
    }

    fn write_line(&mut self, stats: &PublishStats) {
        let now = Instant::now();
        self.next_line = now + self.every;
        if self.quiet {
            return;
        }
        let (before, since) = std::mem::replace(&mut self.last, (stats.accepted, now));
        let seconds = now.duration_since(since).as_secs_f64().max(0.001);
        let rate = (stats.accepted - before) as f64 / seconds;
        let (start, end) = if self.terminal { ("\r\x1b[2K", "") } else { ("", "\n") };
        let mut stderr = io::stderr().lock();
        // A closed stderr is no reason to stop.
        let _ = write!(
            stderr,
            "{start}{} sessions, {rate:.0} frames/s, {} published, {} acknowledged{end}",
            self.sessions, stats.accepted, stats.acknowledged,
        );
        let _ = stderr.flush();
    }

    /// Ends the terminal's progress line.
    fn close(&self) {
        if self.terminal && !self.quiet {
            let _ = writeln!(io::stderr());
        }
    }
}
