//! What continues whatever else is waited for: sessions fall idle, and the exporter shows that it
//! is alive.
//!
//! A consumer has one task, and mostly waits for NATS, which may be away for hours.
//!
//! Invariant: the consumer waits only inside [`Heartbeat::during`] or beside [`Heartbeat::due`].

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Client;
use async_nats::connection::State;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::freshness::Freshness;
use super::health::{Pulse, RegionHealth, Standstill};
use super::intake::Intake;
use super::refused::Refused;
use callsight_fold::series::aggregates::RegionSeries;

/// How often idle sessions are looked for.
const PERIOD: Duration = Duration::from_millis(250);

/// A stream stands still when it has got no frame for a third of the idle timeout, and for no less
/// than this, although so many sessions were live: they send one every few seconds.
const STILL_AFTER: Duration = Duration::from_secs(10);
const STILL_SESSIONS: usize = 10;

#[derive(Debug, thiserror::Error)]
#[error("the exporter stops")]
pub(super) struct Shutdown;

/// The part of a consumer that is kept current several times a second.
pub(super) struct Heartbeat {
    pub(super) intake: Intake,
    pub(super) freshness: Freshness,
    refused: Refused,
    pub(super) health: Arc<RegionHealth>,
    attached: bool,
    client: Client,
    own: Arc<RegionSeries>,
    ticks: Interval,
    still_after: Duration,
    /// The stream sequence of the newest frame, and how many sessions were live after it.
    newest: u64,
    live_at_newest: usize,
}

impl Heartbeat {
    pub(super) fn new(
        intake: Intake,
        freshness: Freshness,
        refused: Refused,
        health: Arc<RegionHealth>,
        client: Client,
        own: Arc<RegionSeries>,
        idle_timeout: Duration,
    ) -> Self {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let still_after = STILL_AFTER.max(idle_timeout / 3);
        let (attached, newest, live_at_newest) = (false, 0, 0);
        Self {
            intake,
            freshness,
            refused,
            health,
            attached,
            client,
            own,
            ticks,
            still_after,
            newest,
            live_at_newest,
        }
    }

    /// Waits for a future.
    pub(super) async fn during<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                biased;
                output = &mut future => return output,
                () = self.due() => self.beat(),
            }
        }
    }

    /// Waits for a future until the exporter stops.
    pub(super) async fn unless_stopped<T>(
        &mut self,
        shutdown: &mut watch::Receiver<bool>,
        future: impl Future<Output = T>,
    ) -> Result<T, Shutdown> {
        self.during(async {
            tokio::select! {
                biased;
                () = stopped(shutdown) => Err(Shutdown),
                output = future => Ok(output),
            }
        })
        .await
    }

    /// Waits until the next beat is due.
    pub(super) async fn due(&mut self) {
        self.ticks.tick().await;
    }

    /// Sets whether the durable is being read, and exports it at once.
    pub(super) fn set_attached(&mut self, attached: bool) {
        self.attached = attached;
        self.beat();
    }

    pub(super) fn beat(&mut self) {
        self.intake.tick();
        // The client notices at once what the pull would notice by a missing confirmation.
        let connected = self.client.connection_state() == State::Connected;
        self.own.connected.set(f64::from(u8::from(self.attached && connected)));
        self.export_age();
        let (clock, taken, live_sessions) =
            (self.intake.clock(), self.intake.newest_age(), self.intake.live_sessions());
        let (stored, mirror) = self.freshness.export(clock, taken);
        let at = Instant::now();
        let before = |age: Option<Duration>| age.and_then(|age| at.checked_sub(age));
        if self.newest == self.intake.taken() {
            self.live_at_newest = self.live_at_newest.max(live_sessions);
        } else {
            (self.newest, self.live_at_newest) = (self.intake.taken(), live_sessions);
        }
        let still = stored.filter(|age| *age > self.still_after && self.live_at_newest >= STILL_SESSIONS);
        let standstill = before(still).map(|since| Standstill { since, sessions: self.live_at_newest });
        let newest = before(taken);
        self.health.warn_of_refused(self.refused.look(self.intake.unfolded(), at));
        self.health.beat(Pulse { at, live_sessions, connected, clock, newest, mirror, standstill });
    }

    /// Exports the age of the newest frame that was folded. It goes on growing when NATS is away.
    pub(super) fn export_age(&self) {
        if let Some(age) = self.intake.newest_age() {
            self.own.last_folded_age.set(age);
        }
    }
}

/// Waits until the exporter stops, or nobody is left who could stop it.
pub(super) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // The guard that comes out must not live across another await.
    let _ = shutdown.wait_for(|stop| *stop).await;
}
