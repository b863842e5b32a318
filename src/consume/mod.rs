//! The durable pull loop: from a region's stream into its fold.
//!
//! A frame that was published and acknowledged must have its effect exactly once, whatever dies in between:
//! the exporter, the server or the link. So the position is kept by JetStream in a durable consumer, an
//! acknowledgement follows the fold and never precedes it, and whatever breaks ends in the same place: attach
//! again, have delivered again what was not acknowledged, and pass over what was folded all the same.
//!
//! One task a region owns its fold, so nothing here takes a lock that the fold waits for. The task comes
//! round several times a second also when nothing arrives: sessions have to go when their calls went silent,
//! and most of all when NATS did.

mod attach;
mod burial;
mod clock;
mod health;
mod intake;
mod warm;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::{Context, Message};
use futures_util::{Stream, StreamExt, stream};
use rand::RngExt;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use attach::{Attached, ConsumerState, Wanted, attach, consumer_state};
use burial::Burial;
use clock::StreamClock;
pub use health::{HealthReport, RegionHealth};
use intake::{Intake, Taken};

use crate::fold::Fold;
use crate::log::Bounded;
use crate::series::aggregates::RegionSeries;
use crate::subject::Region;
use crate::topology::Deployment;

/// How often idle sessions are looked for.
const TICK: Duration = Duration::from_millis(250);

/// How often the consumer is asked how much is waiting, and the server for its time.
const POLL: Duration = Duration::from_secs(2);

/// The most frames that are folded before the loop looks around: it acknowledges them together.
const CHUNK: usize = 1024;

/// The first and the longest pause before attaching is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// How long the last acknowledgement may take when the exporter stops.
const LAST_ACK: Duration = Duration::from_secs(2);

/// What a region's consumer needs to know.
pub struct ConsumerConfig {
    /// The region whose stream is read.
    pub region: Region,
    /// The deployment whose durable is used.
    pub deployment: Deployment,
    /// Makes what is missing, the stream with so many replicas.
    pub create: Option<usize>,
    /// How far back a new durable begins; the idle timeout, so that it meets every live session.
    pub lookback: Duration,
}

/// The consumer of one region.
pub struct Consumer {
    context: Context,
    wanted: Wanted,
    intake: Intake,
    burial: Burial,
    own: Arc<RegionSeries>,
    health: Arc<RegionHealth>,
    clock: Option<StreamClock>,
    stream_created: Option<OffsetDateTime>,
    /// Whether the sessions that were live before the start have been restored.
    warm: bool,
    tick: Interval,
    backoff: Duration,
    /// What went wrong last, which is not worth a line each time that it is tried again.
    problem: String,
    problems: Bounded,
}

/// Why the pull loop ended.
enum End {
    Shutdown,
    Lost(String),
}

impl Consumer {
    /// A consumer that has not been attached yet.
    #[must_use]
    pub fn new(context: Context, config: ConsumerConfig, fold: Fold, own: Arc<RegionSeries>) -> Self {
        let ConsumerConfig { region, deployment, create, lookback } = config;
        own.last_folded_age.set(f64::NAN);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            burial: Burial::new(context.clone(), region.clone(), Arc::clone(&own)),
            context,
            health: Arc::new(RegionHealth::new(region.clone())),
            intake: Intake::new(region.clone(), fold, Arc::clone(&own)),
            wanted: Wanted { region, deployment, create, lookback },
            own,
            clock: None,
            stream_created: None,
            warm: false,
            tick,
            backoff: BACKOFF.0,
            problem: String::new(),
            problems: Bounded::every(Duration::from_secs(60)),
        }
    }

    /// How it is doing, for those who ask from outside.
    #[must_use]
    pub fn health(&self) -> Arc<RegionHealth> {
        Arc::clone(&self.health)
    }

    /// Reads and folds until `shutdown` turns true, then acknowledges what was folded. Whatever breaks is
    /// tried again, after pauses that grow to a few seconds.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let region = self.wanted.region.clone();
        loop {
            let wanted = self.wanted.clone();
            let attaching = attach(self.context.clone(), &wanted);
            let problem = match self.ticking(attaching, &mut shutdown).await {
                None => return,
                Some(Err(error)) => error.to_string(),
                Some(Ok(attached)) => match self.consume(attached, &mut shutdown).await {
                    End::Shutdown => return,
                    End::Lost(why) => why,
                },
            };
            self.own.connected.set(0.0);
            if self.problems.allow(Instant::now()).is_some() || problem != self.problem {
                tracing::warn!(%region, problem, "not consuming");
            }
            self.problem.clone_from(&problem);
            self.health.detached(problem);
            // A fleet that lost the same server must not come back to it in step.
            let pause = self.backoff.mul_f64(rand::rng().random_range(0.5..1.0));
            self.backoff = (self.backoff * 2).min(BACKOFF.1);
            if self.ticking(tokio::time::sleep(pause), &mut shutdown).await.is_none() {
                return;
            }
        }
    }

    /// Waits for something while idle sessions go on being removed; nothing comes of it on shutdown.
    async fn ticking<T>(
        &mut self,
        future: impl Future<Output = T>,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Option<T> {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                biased;
                () = stopped(shutdown) => return None,
                output = &mut future => return Some(output),
                _ = self.tick.tick() => self.remove_idle(),
            }
        }
    }

    async fn consume(&mut self, attached: Attached, shutdown: &mut watch::Receiver<bool>) -> End {
        if self
            .stream_created
            .replace(attached.stream_created)
            .is_some_and(|before| before != attached.stream_created)
        {
            tracing::warn!(stream = attached.stream, "the stream was made anew: its sequence begins again");
            self.intake.forget_sequence();
        }
        self.clock = Some(attached.clock);
        if !self.warm {
            match self.warm(&attached, shutdown).await {
                None => return End::Shutdown,
                Some(Err(problem)) => return End::Lost(problem),
                Some(Ok(())) => self.warm = true,
            }
        }
        tracing::info!(region = %self.wanted.region, durable = attached.durable, "consuming");
        self.pull(attached, shutdown).await
    }

    /// Restores the sessions that were live before the exporter started; nothing comes of it on shutdown.
    async fn warm(
        &mut self,
        attached: &Attached,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Option<Result<(), String>> {
        let Attached { context, stream, clock, acknowledged, .. } = attached;
        let since = clock.at(Instant::now()) - self.wanted.lookback;
        let opening = warm::frames_since(context, stream, since);
        let (mut messages, mut left) = match self.ticking(opening, shutdown).await? {
            Ok(opened) => opened,
            Err(problem) => return Some(Err(problem)),
        };
        let mut restored = 0_u64;
        let mut place = 0;
        while left > 0 && place < *acknowledged {
            let message = match self.ticking(timeout(warm::NEXT_WITHIN, messages.next()), shutdown).await? {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(error))) => {
                    return Some(Err(format!("live sessions can't be restored: {error}")));
                }
                Ok(None) | Err(_) => {
                    return Some(Err("live sessions can't be restored: no answer".to_owned()));
                }
            };
            let Some((at, follow)) = self.intake.restore(&message, clock, *acknowledged) else { break };
            restored += 1;
            (place, left) = (at, follow);
        }
        let sessions = self.intake.fold.live_sessions();
        tracing::info!(region = %self.wanted.region, frames = restored, sessions, "live sessions restored");
        Some(Ok(()))
    }

    async fn pull(&mut self, attached: Attached, shutdown: &mut watch::Receiver<bool>) -> End {
        let Attached { context, stream, durable, mut clock, delivered, messages, .. } = attached;
        self.intake.resume(delivered);
        self.own.connected.set(1.0);
        let mut chunks = messages.ready_chunks(CHUNK);
        let mut polls = pin!(polls(context, stream, durable));
        let mut last_taken: Option<Message> = None;
        loop {
            tokio::select! {
                biased;
                () = stopped(shutdown) => {
                    self.acknowledge_last(last_taken).await;
                    return End::Shutdown;
                }
                _ = self.tick.tick() => self.remove_idle(),
                Some(poll) = polls.next() => match poll {
                    Ok((state, read)) => {
                        clock = read;
                        self.clock = Some(clock);
                        self.caught_up(&state);
                    }
                    Err(problem) => return End::Lost(problem),
                },
                chunk = chunks.next() => {
                    let Some(chunk) = chunk else { return End::Lost("the subscription ended".to_owned()) };
                    let mut lost = None;
                    let mut taken = None;
                    let mut rejected = Vec::new();
                    for message in chunk {
                        match message {
                            Ok(message) => match self.intake.take(&message, &mut clock) {
                                Taken::Yes => taken = Some(message),
                                Taken::Rejected(frame) => {
                                    rejected.push(frame);
                                    taken = Some(message);
                                }
                                Taken::AfterHole => {
                                    lost = Some("a delivery got lost on the way".to_owned());
                                    break;
                                }
                            },
                            Err(error) => {
                                lost = Some(format!("the pull failed: {error}"));
                                break;
                            }
                        }
                    }
                    self.clock = Some(clock);
                    self.burial.write(rejected).await;
                    if let Some(message) = taken {
                        if let Err(error) = message.ack().await {
                            lost.get_or_insert_with(|| format!("an acknowledgement can't be sent: {error}"));
                        }
                        last_taken = Some(message);
                    }
                    if let Some(problem) = lost {
                        return End::Lost(problem);
                    }
                    // A stream that is always ready must leave the others their turn.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Makes sure that the server has the last acknowledgement before the connection closes.
    async fn acknowledge_last(&self, message: Option<Message>) {
        let Some(message) = message else { return };
        match timeout(LAST_ACK, message.double_ack()).await {
            Ok(Ok(())) => tracing::info!(region = %self.wanted.region, "drained"),
            Ok(Err(error)) => {
                tracing::warn!(region = %self.wanted.region, %error, "last acknowledgement failed")
            }
            Err(_) => tracing::warn!(region = %self.wanted.region, "last acknowledgement took too long"),
        }
    }

    fn remove_idle(&mut self) {
        if let Some(clock) = self.clock {
            self.intake.fold.tick(clock.at(Instant::now()));
        }
        self.health.beat(self.intake.fold.live_sessions(), self.clock);
    }

    fn caught_up(&mut self, state: &ConsumerState) {
        let behind = state.num_pending + state.num_ack_pending;
        #[expect(clippy::cast_precision_loss, reason = "no stream holds 2^53 frames")]
        {
            self.own.pending.set(state.num_pending as f64);
            self.own.ack_pending.set(state.num_ack_pending as f64);
        }
        let age = match (self.clock, self.intake.newest) {
            (Some(clock), Some(newest)) => clock.at(Instant::now()).since(newest),
            _ => Duration::ZERO,
        };
        if self.intake.newest.is_some() {
            self.own.last_folded_age.set(age);
        }
        self.health.warn(self.burial.problem());
        self.health.lag(behind, if behind == 0 { Duration::ZERO } else { age });
        self.health.attached();
        self.backoff = BACKOFF.0;
    }
}

/// Waits until it is time to stop; so it is too when nobody is left to say so.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // The guard that comes out must not live across another await.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// The consumer's state, at once and then every few seconds.
fn polls(
    context: Context,
    stream: String,
    durable: String,
) -> impl Stream<Item = Result<(ConsumerState, StreamClock), String>> {
    let mut every = interval(POLL);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    stream::unfold((context, stream, durable, every), |(context, stream, durable, mut every)| async move {
        every.tick().await;
        let state = consumer_state(&context, &stream, &durable).await;
        let state = state.map_err(|error| format!("the consumer can't be asked for its state: {error}"));
        Some((state, (context, stream, durable, every)))
    })
}
