//! The driver of a simulation: publishes a world's frames when they are due.
//!
//! Invariant: a frame is dropped only when the run is stopped. While a buffer is full, the
//! world waits. Packets of videocall.rs are published as its relays do, without an answer, so what
//! becomes of them is not known.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::Client;
use tokio::time::{Instant, interval_at};

use super::config::SimulateConfig;
use super::device::Clients;
use super::http::Requests;
use super::world::{Event, Relay, World};
use crate::http_client::AddressError;
use callsight_publish::frame::subject::publish_subject;
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
    /// Sum over all relays. The simulator waits for room in a buffer, so `overflowed` should be 0;
    /// packets of videocall.rs are only `accepted`.
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
    /// A packet was not published.
    #[error("cannot publish a packet; check the connection to NATS")]
    Packet(#[source] async_nats::PublishError),
    /// The address of an ingest can't be written as a URL.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The system has no thread left for the requests of clients.
    #[error("cannot start a thread for the requests of clients")]
    Thread(#[source] io::Error),
    /// A client has no token.
    #[error("cannot sign a token; use a secret of at least 32 bytes")]
    Token,
    /// The thread that sends the requests of clients has ended.
    #[error("the requests of clients are not sent any more; the log says why")]
    Sender,
    /// The run is over, and packets may still be in this process.
    #[error("the last packets were not sent, for NATS can't be reached; check the connection")]
    Unsent,
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
    client: Client,
    config: SimulateConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<SimulationSummary, SimulateError> {
    let wall_clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut world = World::new(&config, wall_clock.as_millis() as u64);
    let mut outlets = Vec::with_capacity(world.relays().len());
    for relay in world.relays() {
        outlets.push(Outlet::open(&client, &config, relay).await?);
    }

    let (started, sessions) = (Instant::now(), AtomicUsize::new(0));
    let over = tokio::select! {
        biased;
        () = shutdown => Over::Time,
        never = show_progress(&outlets, &sessions), if !config.quiet => match never {},
        over = drive(&config, &mut world, &outlets, &sessions, started) => over?,
    };
    let end = Instant::now() + FLUSH_TIMEOUT;
    if over == Over::Time && config.leave_at_end {
        // Without time for this there is none for the flush either, which then reports what is
        // missing.
        tokio::time::timeout_at(end, leave(&mut world, &outlets)).await.unwrap_or(Ok(()))?;
    }
    let flushed = flush(&outlets, end).await;
    if !config.quiet && io::stderr().is_terminal() {
        // Ends the line of the progress.
        let _ = writeln!(io::stderr());
    }
    let summary = SimulationSummary { stats: total(&outlets), elapsed: started.elapsed() };

    match flushed? {
        0 => Ok(summary),
        unsettled => Err(SimulateError::Unacknowledged { unsettled, summary }),
    }
}

/// The way from a relay to its stream.
enum Outlet {
    /// Frames, each until the stream has acknowledged it, and those of clients that send their own.
    Frames(Publisher, Option<Requests>),
    /// Packets as a relay of videocall.rs publishes them: without an id, and nobody answers.
    Packets { client: Client, subject: String, sent: AtomicU64 },
}

impl Outlet {
    async fn open(client: &Client, config: &SimulateConfig, relay: &Relay) -> Result<Self, SimulateError> {
        let Relay { region, service_type, server_id, .. } = relay;
        if config.clients == Clients::Videocall {
            let subject =
                publish_subject(region, service_type, server_id, None).map_err(PublishError::Subject)?;
            return Ok(Self::Packets { client: client.clone(), subject, sent: AtomicU64::new(0) });
        }
        let target = config.ingest.iter().find(|target| target.region == *region);
        let requests = target.map(|target| Requests::open(target, config.sessions)).transpose()?;
        let config = PublisherConfig::new(region.clone(), *service_type, server_id.clone());
        Ok(Self::Frames(Publisher::start(client.clone(), config).await?, requests))
    }

    /// Publishes a frame, or the packet in its place, once there is room.
    async fn publish(&self, event: Event<'_>) -> Result<(), SimulateError> {
        match self {
            Self::Frames(publisher, requests) => {
                if let Some(requests) = requests.as_ref().filter(|requests| requests.take(&event.frame)) {
                    return requests.publish(&event.frame).await;
                }
                publisher.room().await?;
                publisher.publish(&event.frame)?;
            }
            Self::Packets { client, subject, sent } => {
                let packet = event.packet.unwrap_or_default();
                client.publish(subject.clone(), packet.into()).await.map_err(SimulateError::Packet)?;
                sent.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Waits until the stream has acknowledged all frames, or until all packets are sent. Returns
    /// the number of frames that it has not acknowledged by then.
    async fn flush(&self, end: Instant) -> Result<u64, SimulateError> {
        match self {
            Self::Frames(publisher, requests) => {
                let unsettled = match publisher.flush(end.saturating_duration_since(Instant::now())).await {
                    Err(PublishError::FlushTimeout { unsettled }) => unsettled,
                    flushed => flushed.map(|_| 0)?,
                };
                Ok(match requests {
                    Some(requests) => unsettled + requests.flush(end).await,
                    None => unsettled,
                })
            }
            Self::Packets { client, .. } => match tokio::time::timeout_at(end, client.flush()).await {
                Ok(Ok(())) => Ok(0),
                Ok(Err(_)) | Err(_) => Err(SimulateError::Unsent),
            },
        }
    }

    fn stats(&self) -> PublishStats {
        match self {
            Self::Frames(publisher, None) => publisher.stats(),
            Self::Frames(publisher, Some(requests)) => sum(publisher.stats(), requests.stats()),
            Self::Packets { sent, .. } => {
                PublishStats { accepted: sent.load(Ordering::Relaxed), ..PublishStats::default() }
            }
        }
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
    outlets: &[Outlet],
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
            outlets[event.relay].publish(event).await?;
            frames += 1;
            burst += 1;
        }
    }
    Ok(Over::Count)
}

async fn leave(world: &mut World, outlets: &[Outlet]) -> Result<(), SimulateError> {
    while let Some(event) = world.leave_next() {
        outlets[event.relay].publish(event).await?;
    }
    Ok(())
}

/// Flushes all outlets, and returns the number of unsettled frames of all of them.
async fn flush(outlets: &[Outlet], end: Instant) -> Result<u64, SimulateError> {
    let mut unsettled = 0;
    for outlet in outlets {
        unsettled += outlet.flush(end).await?;
    }
    Ok(unsettled)
}

fn total(outlets: &[Outlet]) -> PublishStats {
    outlets.iter().map(Outlet::stats).fold(PublishStats::default(), sum)
}

fn sum(one: PublishStats, other: PublishStats) -> PublishStats {
    PublishStats {
        accepted: one.accepted + other.accepted,
        acknowledged: one.acknowledged + other.acknowledged,
        duplicates: one.duplicates + other.duplicates,
        retried: one.retried + other.retried,
        overflowed: one.overflowed + other.overflowed,
        failed: one.failed + other.failed,
        ..one
    }
}

/// Writes a line of progress from time to time, on a terminal over the one before.
async fn show_progress(outlets: &[Outlet], sessions: &AtomicUsize) -> Infallible {
    let terminal = io::stderr().is_terminal();
    let every = Duration::from_secs(if terminal { 1 } else { 10 });
    let mut ticks = interval_at(Instant::now() + every, every);
    let (mut before, mut since) = (0, Instant::now());
    loop {
        let now = ticks.tick().await;
        let PublishStats { accepted, acknowledged, .. } = total(outlets);
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
