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

mod answer;
mod attach;
mod backoff;
mod burial;
mod catch_up;
mod clock;
mod freshness;
mod handover;
mod health;
mod intake;
mod progress;
mod pulse;
mod source;
mod warm;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::{Context, Message};
use futures_util::{Stream, StreamExt, stream};
use rand::RngExt;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use answer::{AskError, ConsumerState, StreamState, consumer_state, stream_state};
use attach::{Attached, Position, Wanted, attach};
use backoff::Backoff;
use burial::Burial;
use catch_up::{Behind, CatchUp};
use clock::{Reading, StreamClock};
use freshness::Freshness;
pub use freshness::MirrorLag;
pub use health::{HealthReport, RegionHealth};
use intake::{Intake, Taken};
use progress::{Mark, Progress, Verdict};
use pulse::{Pulse, stopped};
pub use source::{JetStreamApi, Reader, Source, SourceKind};

use crate::log::Bounded;
use callsight_fold::Fold;
use callsight_fold::series::aggregates::{RegionSeries, StreamSeries};

/// How often the consumer is asked how much is waiting, and the server for its time.
const POLL: Duration = Duration::from_secs(2);

/// The most frames that are folded before the loop looks around: it acknowledges them together.
const CHUNK: usize = 1024;

/// How long it may take to hand an acknowledgement to the client. It takes no time, unless the connection is
/// gone and the client's queue is full.
const ACK_WITHIN: Duration = Duration::from_secs(2);

/// How long the last acknowledgement may take when the exporter stops.
const LAST_ACK: Duration = Duration::from_secs(2);

/// What a region's consumer needs to know.
pub struct ConsumerConfig {
    /// The region, and the stream that it is read from.
    pub source: Source,
    /// Whose durable is used.
    pub reader: Reader,
    /// Makes what is missing, the stream with so many replicas.
    pub create: Option<usize>,
    /// How far back a new durable begins; the idle timeout, so that it meets every live session.
    pub lookback: Duration,
}

/// The consumer of one region.
pub struct Consumer {
    context: Context,
    wanted: Wanted,
    pulse: Pulse,
    burial: Burial,
    own: Arc<RegionSeries>,
    stream_created: Option<OffsetDateTime>,
    /// Whether the sessions that were live before the start have been restored.
    warm: bool,
    backoff: Backoff,
    /// What went wrong last, which is not worth a line each time that it is tried again.
    problem: String,
    problems: Bounded,
}

/// Why the pull loop ended.
enum End {
    Shutdown,
    Lost(String),
}

/// The last message that was taken: to acknowledge it is to acknowledge all before.
struct Last {
    message: Option<Message>,
    /// Whether its acknowledgement was sent.
    sent: bool,
    /// The sequence in the stream up to which acknowledgements were sent.
    acknowledged: u64,
}

impl Last {
    fn took(&mut self, message: Message) {
        self.message = Some(message);
        self.sent = false;
    }
}

impl Consumer {
    /// A consumer that has not been attached yet.
    #[must_use]
    pub fn new(
        context: Context,
        config: ConsumerConfig,
        fold: Fold,
        own: Arc<RegionSeries>,
        stream: StreamSeries,
    ) -> Self {
        let ConsumerConfig { source, reader, create, lookback } = config;
        let region = source.region.clone();
        own.last_folded_age.set(f64::NAN);
        let intake = Intake::new(region.clone(), fold, Arc::clone(&own));
        Self {
            burial: Burial::new(context.clone(), region.clone(), Arc::clone(&own)),
            pulse: Pulse::new(
                intake,
                Freshness::new(stream),
                Arc::new(RegionHealth::new(region)),
                context.client(),
                Arc::clone(&own),
            ),
            context,
            wanted: Wanted { source, reader, create, lookback },
            own,
            stream_created: None,
            warm: false,
            backoff: Backoff::new(),
            problem: String::new(),
            problems: Bounded::every(Duration::from_secs(60)),
        }
    }

    /// How it is doing, for those who ask from outside.
    #[must_use]
    pub fn health(&self) -> Arc<RegionHealth> {
        Arc::clone(&self.pulse.health)
    }

    /// Reads and folds until `shutdown` turns true, then acknowledges what was folded. Whatever breaks is
    /// tried again, after pauses that grow to a few seconds.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let region = self.wanted.source.region.clone();
        loop {
            let attaching = attach(self.context.clone(), &self.wanted, self.position());
            let attached = self.pulse.during_unless(&mut shutdown, attaching).await;
            let began = Instant::now();
            let problem = match attached {
                None => break,
                Some(Err(error)) => error.to_string(),
                Some(Ok(attached)) => match self.consume(attached, &mut shutdown).await {
                    End::Shutdown => return,
                    End::Lost(why) => why,
                },
            };
            self.pulse.attached(false);
            if self.problems.allow(Instant::now()).is_some() || problem != self.problem {
                tracing::warn!(%region, problem, "not consuming");
            }
            self.problem.clone_from(&problem);
            self.pulse.health.detached(problem);
            let pause = self.backoff.pause(began.elapsed(), rand::rng().random());
            if self.pulse.during_unless(&mut shutdown, tokio::time::sleep(pause)).await.is_none() {
                break;
            }
        }
        // What was acknowledged may still be in the client, which goes with the process.
        let flushed = timeout(LAST_ACK, self.context.client().flush()).await;
        tracing::info!(%region, flushed = matches!(flushed, Ok(Ok(()))), "stopped while not consuming");
    }

    /// How far the stream was folded, once it was attached to.
    fn position(&self) -> Option<Position> {
        let taken = self.pulse.intake.taken();
        self.stream_created.map(|stream_created| Position { stream_created, taken })
    }

    async fn consume(&mut self, attached: Attached, shutdown: &mut watch::Receiver<bool>) -> End {
        if self
            .stream_created
            .replace(attached.stream_created)
            .is_some_and(|before| before != attached.stream_created)
        {
            tracing::warn!(stream = attached.stream, "the stream was made anew: its sequence begins again");
            self.pulse.intake.forget_sequence();
        }
        self.read_clock(attached.reading);
        if !self.warm {
            match self.warm(&attached, shutdown).await {
                None => return End::Shutdown,
                Some(Err(problem)) => return End::Lost(problem),
                Some(Ok(())) => self.warm = true,
            }
        }
        let taken = self.pulse.intake.taken();
        if self.position().is_some() && taken > 0 && attached.acknowledged > taken {
            // Purged or expired, if it was not read by another exporter of the same deployment.
            let (from, to) = (taken + 1, attached.acknowledged);
            tracing::warn!(region = %self.wanted.source.region, from, to, "the durable was moved past frames");
        }
        tracing::info!(
            region = %self.wanted.source.region,
            durable = attached.durable,
            after = attached.acknowledged,
            "consuming"
        );
        self.pull(attached, shutdown).await
    }

    fn read_clock(&mut self, reading: Reading) {
        let clock = self.pulse.clock.get_or_insert_with(|| StreamClock::new(reading));
        if let Some(nanos) = clock.follow(reading) {
            let milliseconds = nanos / 1_000_000;
            tracing::warn!(region = %self.wanted.source.region, milliseconds, "the clock of the stream's server jumped");
        }
    }

    /// Restores the sessions that were live before the exporter started; nothing comes of it on shutdown.
    async fn warm(
        &mut self,
        attached: &Attached,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Option<Result<(), String>> {
        let Attached { context, stream, reading, acknowledged, .. } = attached;
        let mut clock = self.pulse.clock.unwrap_or_else(|| StreamClock::new(*reading));
        let since = clock.server_time(Instant::now()) - self.wanted.lookback;
        let subjects = self.wanted.reader.subjects(&self.wanted.source.region);
        let opening = warm::frames_since(context, stream, subjects, since);
        let (mut messages, mut left) = match self.pulse.during_unless(shutdown, opening).await? {
            Ok(opened) => opened,
            Err(problem) => return Some(Err(problem)),
        };
        let mut restored = 0_u64;
        let mut place = 0;
        while left > 0 && place < *acknowledged {
            let next = timeout(warm::NEXT_WITHIN, messages.next());
            let message = match self.pulse.during_unless(shutdown, next).await? {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(error))) => {
                    return Some(Err(format!("live sessions can't be restored: {error}")));
                }
                Ok(None) | Err(_) => {
                    return Some(Err("live sessions can't be restored: no answer".to_owned()));
                }
            };
            let restoring = self.pulse.intake.restore(&message, &mut clock, *acknowledged);
            let Some((at, follow)) = restoring else { break };
            restored += 1;
            (place, left) = (at, follow);
        }
        self.pulse.clock = Some(clock);
        let sessions = self.pulse.intake.fold.live_sessions();
        tracing::info!(region = %self.wanted.source.region, frames = restored, sessions, "live sessions restored");
        Some(Ok(()))
    }

    async fn pull(&mut self, attached: Attached, shutdown: &mut watch::Receiver<bool>) -> End {
        let Attached {
            context,
            stream,
            durable,
            reading,
            delivered,
            waiting,
            acknowledged,
            handover,
            messages,
            ..
        } = attached;
        self.pulse.intake.resume(delivered, acknowledged, handover);
        let mut catch_up = CatchUp::new(delivered, waiting);
        self.pulse.attached(true);
        let mut chunks = messages.ready_chunks(CHUNK);
        let mut polls = pin!(polls(context, stream, durable));
        let mut progress = Progress::default();
        // What was taken before and not acknowledged is delivered again, and acknowledged then. An
        // acknowledgement from before would come with a place in the consumer's former sequence.
        let mut last = Last { message: None, sent: true, acknowledged };
        loop {
            tokio::select! {
                biased;
                () = stopped(shutdown) => {
                    self.acknowledge_last(last).await;
                    return End::Shutdown;
                }
                () = self.pulse.next() => self.pulse.beat(),
                Some(poll) = polls.next() => match poll {
                    Ok((state, reading, stream)) => {
                        self.read_clock(reading);
                        if let Some(stream) = stream {
                            self.pulse.freshness.told(&stream);
                        }
                        catch_up.asked(state.end());
                        self.show(&state);
                        self.tell_lag(&mut catch_up);
                        self.pulse.during(self.burial.write(Vec::new())).await;
                        if let Err(problem) = self.compare(&state, &mut progress, &mut last).await {
                            return End::Lost(problem);
                        }
                    }
                    Err(problem) => return End::Lost(problem),
                },
                chunk = chunks.next() => {
                    let Some(chunk) = chunk else { return End::Lost("the subscription ended".to_owned()) };
                    let mut lost = None;
                    let mut rejected = Vec::new();
                    let mut clock = self.pulse.clock.unwrap_or_else(|| StreamClock::new(reading));
                    for message in chunk {
                        match message {
                            Ok(message) => match self.pulse.intake.take(&message, &mut clock) {
                                Taken::Yes => last.took(message),
                                Taken::Rejected(frame) => {
                                    rejected.push(frame);
                                    last.took(message);
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
                    self.pulse.clock = Some(clock);
                    if !rejected.is_empty() {
                        self.pulse.during(self.burial.write(rejected)).await;
                    }
                    if let Err(problem) = self.acknowledge(&mut last).await {
                        lost.get_or_insert(problem);
                    }
                    if let Some(problem) = lost {
                        return End::Lost(problem);
                    }
                    self.tell_lag(&mut catch_up);
                    // A stream that is always ready must leave the others their turn.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Acknowledges the last message that was taken, and with it all before, unless a letter about one of them
    /// is not stored yet.
    async fn acknowledge(&mut self, last: &mut Last) -> Result<(), String> {
        let Some(message) = &last.message else { return Ok(()) };
        if self.burial.is_waiting() {
            return Ok(());
        }
        let failed = match self.pulse.during(timeout(ACK_WITHIN, message.ack())).await {
            Ok(Ok(())) => {
                last.sent = true;
                last.acknowledged = message.info().map_or(last.acknowledged, |info| info.stream_sequence);
                return Ok(());
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the client's queue is full".to_owned(),
        };
        Err(format!("an acknowledgement can't be sent: {failed}"))
    }

    /// Compares what the server knows with what was taken and acknowledged here, and repairs what it can.
    async fn compare(
        &mut self,
        state: &ConsumerState,
        progress: &mut Progress,
        last: &mut Last,
    ) -> Result<(), String> {
        let verdict = progress.judge(Mark {
            sent: state.delivered.consumer_seq,
            taken: self.pulse.intake.delivered(),
            acknowledged: last.acknowledged,
            floor: state.ack_floor.stream_seq,
        });
        match verdict {
            // Letters that had to wait may be stored by now.
            Verdict::Fine if last.sent => Ok(()),
            Verdict::Fine | Verdict::AcknowledgeAgain => self.acknowledge(last).await,
            Verdict::Lost(why) => Err(why.to_owned()),
        }
    }

    /// Makes sure that the server has the last acknowledgement before the connection closes.
    async fn acknowledge_last(&mut self, last: Last) {
        let region = &self.wanted.source.region;
        let Some(message) = last.message else { return };
        if self.burial.is_waiting() {
            tracing::warn!(%region, "stopped before all dead letters were stored: their frames come again");
            return;
        }
        match timeout(LAST_ACK, message.double_ack()).await {
            Ok(Ok(())) => tracing::info!(%region, "drained"),
            Ok(Err(error)) => tracing::warn!(%region, %error, "last acknowledgement failed"),
            Err(_) => tracing::warn!(%region, "last acknowledgement took too long"),
        }
    }

    fn show(&self, state: &ConsumerState) {
        #[expect(clippy::cast_precision_loss, reason = "no stream holds 2^53 frames")]
        {
            self.own.pending.set(state.num_pending as f64);
            self.own.ack_pending.set(state.num_ack_pending as f64);
        }
        self.pulse.warn(self.burial.problem());
    }

    fn tell_lag(&self, catch_up: &mut CatchUp) {
        // Whoever reads that it is ready finds the age that says so beside it.
        self.pulse.tell_age();
        match catch_up.behind(self.pulse.intake.delivered(), self.pulse.newest_age()) {
            Behind::Unknown(left) => self.pulse.health.catching_up(left),
            Behind::By(left, age) => self.pulse.health.lag(left, age),
        }
    }
}

/// The consumer's state and, where that can be had too, the stream's: at once and then every few seconds.
fn polls(
    context: Context,
    stream: String,
    durable: String,
) -> impl Stream<Item = Result<(ConsumerState, Reading, Option<StreamState>), String>> {
    let mut every = interval(POLL);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    stream::unfold((context, stream, durable, every), |(context, stream, durable, mut every)| async move {
        every.tick().await;
        let (state, told) =
            tokio::join!(consumer_state(&context, &stream, &durable), stream_state(&context, &stream));
        let mut told = told.ok();
        if let Some(told) = &mut told {
            told.ask_origin(&context).await;
        }
        let state = match state {
            Ok((state, reading)) => Ok((state, reading, told)),
            Err(AskError::Refused { reason, .. }) => Err(format!("the durable consumer is gone: {reason}")),
            Err(AskError::Unanswered(error)) => Err(format!("NATS does not answer: {error}")),
        };
        Some((state, (context, stream, durable, every)))
    })
}
