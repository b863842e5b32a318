//! What goes on whatever else is waited for: sessions fall idle, and the exporter shows that it is alive.
//!
//! The consumer has one task, and much of what it does is waiting for NATS, which may be away for hours. Nothing
//! may be waited for but through here.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Client;
use async_nats::connection::State;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::clock::StreamClock;
use super::freshness::{Freshness, MirrorLag};
use super::health::RegionHealth;
use super::intake::Intake;
use callsight_fold::series::aggregates::RegionSeries;

/// How often idle sessions are looked for.
const TICK: Duration = Duration::from_millis(250);

/// The part of a consumer that never waits.
pub(super) struct Pulse {
    pub(super) intake: Intake,
    pub(super) clock: Option<StreamClock>,
    pub(super) freshness: Freshness,
    pub(super) health: Arc<RegionHealth>,
    /// Whether the durable is being read, as far as one knows.
    attached: bool,
    client: Client,
    own: Arc<RegionSeries>,
    tick: Interval,
}

impl Pulse {
    pub(super) fn new(
        intake: Intake,
        freshness: Freshness,
        health: Arc<RegionHealth>,
        client: Client,
        own: Arc<RegionSeries>,
    ) -> Self {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { intake, clock: None, freshness, health, attached: false, client, own, tick }
    }

    /// Waits for something.
    pub(super) async fn during<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                biased;
                output = &mut future => return output,
                () = self.next() => self.beat(),
            }
        }
    }

    /// Waits for something; nothing comes of it on shutdown.
    pub(super) async fn during_unless<T>(
        &mut self,
        shutdown: &mut watch::Receiver<bool>,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        self.during(async {
            tokio::select! {
                biased;
                () = stopped(shutdown) => None,
                output = future => Some(output),
            }
        })
        .await
    }

    /// Waits until it is time for a beat.
    pub(super) async fn next(&mut self) {
        self.tick.tick().await;
    }

    /// The durable is being read from now on, or no more; that shows at once.
    pub(super) fn attached(&mut self, attached: bool) {
        self.attached = attached;
        self.beat();
    }

    pub(super) fn beat(&mut self) {
        if let Some(clock) = self.clock {
            self.intake.fold.tick(clock.at(Instant::now()));
        }
        // The client notices at once what the pull would notice by a missing heartbeat.
        let connected = self.client.connection_state() == State::Connected;
        self.own.connected.set(f64::from(u8::from(self.attached && connected)));
        self.tell_age();
        self.health.mirror(self.freshness.show(self.clock, self.newest_age()));
        self.health.beat(self.intake.fold.live_sessions(), self.clock, connected);
    }

    /// How old the newest frame is that was taken, once there is one.
    pub(super) fn newest_age(&self) -> Option<Duration> {
        Some(self.clock?.at(Instant::now()).since(self.intake.newest?))
    }

    /// Says what is wrong without keeping anyone from relying on what is served.
    pub(super) fn warn(&self, problem: Option<&str>) {
        let lag = self.freshness.show(self.clock, self.newest_age());
        let bridge = lag.and_then(MirrorLag::problem);
        self.health.warn(problem.or(bridge.as_deref()));
    }

    /// Shows how old it is. The age goes on growing also when NATS is away.
    pub(super) fn tell_age(&self) {
        if let Some(age) = self.newest_age() {
            self.own.last_folded_age.set(age);
        }
    }
}

/// Waits until it is time to stop; so it is too when nobody is left to say so.
pub(super) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // The guard that comes out must not live across another await.
    let _ = shutdown.wait_for(|stop| *stop).await;
}
