//! The driver of a simulation: publishes a world's frames when they are due.
//!
//! Invariant: a frame is dropped only when the run is stopped. While a buffer is full, the
//! world waits.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, interval_at};

use super::config::SimulateConfig;
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
    let wall_clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut world = World::new(&config, wall_clock.as_millis() as u64);
    let mut publishers = Vec::with_capacity(world.relays().len());
    for relay in world.relays() {
        let config = PublisherConfig::new(relay.region.clone(), "relay", relay.server_id.clone());
        publishers.push(Publisher::start(client.clone(), config).await?);
    }

    let (started, sessions) = (Instant::now(), AtomicUsize::new(0));
    let over = tokio::select! {
        biased;
        () = shutdown => Over::Time,
        never = show_progress(&publishers, &sessions), if !config.quiet => match never {},
        over = drive(&config, &mut world, &publishers, &sessions, started) => over?,
    };
    let end = Instant::now() + FLUSH_TIMEOUT;
    if over == Over::Time && config.leave_at_end {
        // Without time for this there is none for the flush either, which then reports what is
        // missing.
        tokio::time::timeout_at(end, leave(&mut world, &publishers)).await.unwrap_or(Ok(()))?;
    }
    let flushed = flush(&publishers, end).await;
    if !config.quiet && io::stderr().is_terminal() {
        // Ends the line of the progress.
        let _ = writeln!(io::stderr());
    }
    let summary = SimulationSummary { stats: total(&publishers), elapsed: started.elapsed() };

    match flushed {
        Ok(()) => Ok(summary),
        Err(PublishError::FlushTimeout { unsettled }) => {
            Err(SimulateError::Unacknowledged { unsettled, summary })
        }
        Err(error) => Err(error.into()),
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

/// Publishes what falls due, and says in `sessions` how many are in calls.
async fn drive(
    config: &SimulateConfig,
    world: &mut World,
    publishers: &[Publisher],
    sessions: &AtomicUsize,
    started: Instant,
) -> Result<Over, SimulateError> {
    let end = config.duration.unwrap_or(Duration::MAX);
    let (mut frames, mut burst) = (0, 0);
    while config.frames.is_none_or(|wanted| frames < wanted) {
        let (due, now) = (world.next_due(), started.elapsed());
        if due >= end || now >= end.saturating_add(CATCH_UP) {
            return Ok(Over::Time);
        }
        sessions.store(world.sessions(), Ordering::Relaxed);
        if due > now {
            // Takes at least a millisecond; what falls due meanwhile is then published at once.
            burst = 0;
            tokio::time::sleep_until(started + due).await;
        } else if burst >= BURST {
            burst = 0;
            tokio::task::yield_now().await;
        }
        if let Some(event) = world.advance() {
            publish(publishers, &event).await?;
            frames += 1;
            burst += 1;
        }
    }
    Ok(Over::Count)
}

async fn leave(world: &mut World, publishers: &[Publisher]) -> Result<(), SimulateError> {
    while let Some(event) = world.leave_next() {
        publish(publishers, &event).await?;
    }
    Ok(())
}

/// Publishes a frame through the publisher of its relay, once there is room.
async fn publish(publishers: &[Publisher], event: &Event<'_>) -> Result<(), SimulateError> {
    let publisher = &publishers[event.relay];
    publisher.room().await?;
    Ok(publisher.publish(&event.frame)?)
}

/// Flushes all publishers. A timeout has the unsettled frames of all of them.
async fn flush(publishers: &[Publisher], end: Instant) -> Result<(), PublishError> {
    let mut unsettled = 0;
    for publisher in publishers {
        match publisher.flush(end.saturating_duration_since(Instant::now())).await {
            Err(PublishError::FlushTimeout { unsettled: more }) => unsettled += more,
            flushed => drop(flushed?),
        }
    }
    if unsettled > 0 { Err(PublishError::FlushTimeout { unsettled }) } else { Ok(()) }
}

fn total(publishers: &[Publisher]) -> PublishStats {
    publishers.iter().map(Publisher::stats).fold(PublishStats::default(), |sum, stats| PublishStats {
        accepted: sum.accepted + stats.accepted,
        acknowledged: sum.acknowledged + stats.acknowledged,
        duplicates: sum.duplicates + stats.duplicates,
        retried: sum.retried + stats.retried,
        overflowed: sum.overflowed + stats.overflowed,
        failed: sum.failed + stats.failed,
        ..sum
    })
}

/// Writes a line of progress from time to time, on a terminal over the one before.
async fn show_progress(publishers: &[Publisher], sessions: &AtomicUsize) -> Infallible {
    let terminal = io::stderr().is_terminal();
    let every = Duration::from_secs(if terminal { 1 } else { 10 });
    let mut ticks = interval_at(Instant::now() + every, every);
    let (mut before, mut since) = (0, Instant::now());
    loop {
        let now = ticks.tick().await;
        let PublishStats { accepted, acknowledged, .. } = total(publishers);
        let seconds = now.duration_since(since).as_secs_f64().max(0.001);
        let rate = (accepted - before) as f64 / seconds;
        (before, since) = (accepted, now);
        let (start, end) = if terminal { ("\r\x1b[2K", "") } else { ("", "\n") };
        let sessions = sessions.load(Ordering::Relaxed);
        // A closed stderr is no reason to stop.
        let _ = write!(
            io::stderr(),
            "{start}{sessions} sessions, {rate:.0} frames/s, {accepted} published, {acknowledged} acknowledged{end}"
        );
    }
}
