//! What continues whatever else is waited for: sessions fall idle, and the exporter shows that it
//! is alive.
//!
//! A consumer has one task, and mostly waits for NATS, which may be away for hours.
//!
//! Invariant: the consumer waits only inside [`Heartbeat::during`] or beside [`Heartbeat::due`].

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::freshness::Freshness;
use super::health::RegionHealth;
use super::intake::Intake;
use callsight_fold::series::aggregates::RegionSeries;

/// How often idle sessions are looked for.
const PERIOD: Duration = Duration::from_millis(250);

#[derive(Debug, thiserror::Error)]
#[error("the exporter stops")]
pub(super) struct Shutdown;

/// The part of a consumer that is kept current several times a second.
pub(super) struct Heartbeat {
    pub(super) intake: Intake,
    pub(super) freshness: Freshness,
    pub(super) health: Arc<RegionHealth>,
    attached: bool,
    client: Client,
    own: Arc<RegionSeries>,
    ticks: Interval,
}

impl Heartbeat {
    pub(super) fn new(
        intake: Intake,
        freshness: Freshness,
        health: Arc<RegionHealth>,
        client: Client,
        own: Arc<RegionSeries>,
    ) -> Self {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { intake, freshness, health, attached: false, client, own, ticks }
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
        let clock = self.intake.clock();
        let mirror = self.freshness.export(clock, self.intake.newest_age());
        self.health.beat(self.intake.live_sessions(), clock, mirror, connected);
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
