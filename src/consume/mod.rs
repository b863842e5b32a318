//! The durable pull loop: from a region's stream into its fold.
//!
//! A frame that was published and acknowledged must have its effect exactly once, whatever dies in
//! between: the exporter, the server or the link. So JetStream keeps the position, in a durable
//! consumer, an acknowledgement follows the fold and never precedes it, and whatever breaks ends in
//! the same place: attach again, get everything again that was not acknowledged, and pass over what
//! was folded already.
//!
//! One task per region owns its fold, so the fold waits for no lock. Its heart beats several times
//! a second also when nothing arrives: sessions have to end when their calls fall silent, and also
//! when NATS does.
//!
//! Invariant: nothing is acknowledged that was not folded, or rejected with its dead letter stored
//! or lost.

mod attach;
mod catch_up;
mod clock;
mod dead_letter_writer;
mod freshness;
mod handover;
mod health;
mod heartbeat;
mod intake;
mod progress;
mod server_state;
mod source;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::consumer::pull::{MessagesError, MessagesErrorKind};
use async_nats::jetstream::context::RequestError;
use async_nats::jetstream::{self, Context, Message};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::{Stream, StreamExt, stream};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

pub use attach::ConsumerConfig;
use attach::{AttachError, Attached, Position, attach};
use catch_up::{Behind, CatchUp};
use clock::Reading;
use dead_letter_writer::{DeadLetterWriter, Rejected};
use freshness::Freshness;
pub use freshness::MirrorLag;
pub use health::{HealthReport, RegionHealth, ViewLoss};
use heartbeat::{Heartbeat, Shutdown, stopped};
use intake::{Intake, MissedDelivery};
use progress::{Mark, Progress, Stalled};
use server_state::{ConsumerState, StreamState, consumer_state, stream_state};
pub use source::{JetStreamApi, Reader, Source, SourceKind};

use crate::jetstream_api::AskError;
use crate::log::RateLimit;
use crate::stream_reader::{Part, ReadError, StreamReader, start_at};
use callsight_fold::Fold;
use callsight_fold::series::aggregates::{RegionSeries, StreamSeries};

/// How often the consumer's state and the server's time are polled, unless less lag is allowed.
const POLL: Duration = Duration::from_secs(2);

/// The most frames that are folded before the loop looks around: one acknowledgement covers them.
const CHUNK: usize = 1024;

/// How long the client may take to queue an acknowledgement. It takes no time, unless the
/// connection is gone and the queue is full.
const ACK_WITHIN: Duration = Duration::from_secs(2);

/// How long the last acknowledgement may take when the exporter stops.
const LAST_ACK: Duration = Duration::from_secs(2);

/// How long the server may send nothing while live sessions are restored.
const RESTORE_PATIENCE: Duration = Duration::from_secs(5);

/// How often a problem that lasts is logged.
const LOG_AGAIN: Duration = Duration::from_secs(60);

/// The longest pause between two attempts to consume: whoever reads the page waits as long after
/// the stream's return.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Pauses double from 200 ms to [`LONGEST_PAUSE`], of which jitter takes up to half: a fleet that
/// lost the same server must not come back in step. `backon` adds as much as it takes here, so its
/// bounds are halved.
const PAUSES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_millis(1000))
    .with_jitter()
    .without_max_times();

/// How often a pause looks for the connection.
const RECONNECT_SEEN_WITHIN: Duration = Duration::from_millis(100);

/// The pause before the next attempt. Only what `worked` for longer than any pause starts again
/// with a short one: a server that accepts everybody and disconnects them at once is no better than
/// one that is away.
fn next_pause(pauses: &mut ExponentialBackoff, worked: Duration) -> Duration {
    if worked > LONGEST_PAUSE {
        *pauses = PAUSES.build();
    }
    pauses.next().unwrap_or(LONGEST_PAUSE)
}

/// Pauses, but not beyond the return of a lost connection: that had its own pauses.
async fn pause_or_reconnect(client: Client, pause: Duration) {
    let connected = || client.connection_state() == State::Connected;
    let lost = !connected();
    let _ = timeout(pause, async {
        while !(lost && connected()) {
            sleep(RECONNECT_SEEN_WITHIN).await;
        }
    })
    .await;
}

/// The consumer of one region.
pub struct Consumer {
    context: Context,
    config: ConsumerConfig,
    heartbeat: Heartbeat,
    letters: DeadLetterWriter,
    own: Arc<RegionSeries>,
    /// When the stream was created that was last attached to.
    stream_created: Option<OffsetDateTime>,
    /// Whether the sessions that were live before the start have been restored.
    restored: bool,
    /// The last problem, and how often it is logged.
    problem: String,
    problems: RateLimit,
}

/// Why the durable is read no further.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Shutdown(#[from] Shutdown),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error("cannot restore live sessions: {0}")]
    Restore(ReadError),
    #[error("the durable consumer is gone: {0}")]
    Consumer(jetstream::Error),
    #[error("NATS does not answer: {0}")]
    Unanswered(RequestError),
    #[error("the pull failed: {0}")]
    Pull(MessagesError),
    #[error("the subscription ended")]
    Subscription,
    #[error(transparent)]
    Delivery(#[from] MissedDelivery),
    #[error(transparent)]
    Stalled(#[from] Stalled),
    #[error("cannot send an acknowledgement: {0}")]
    Acknowledgement(async_nats::Error),
}

impl From<AskError> for End {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Refused(error) => Self::Consumer(error),
            AskError::Unanswered(error) => Self::Unanswered(error),
        }
    }
}

impl End {
    /// What it does to the view of the region.
    fn loss(&self) -> ViewLoss {
        match self {
            Self::Attach(AttachError::Unreachable(error)) => {
                ViewLoss::Unanswered(Some(format!("{error}; check that JetStream is enabled there")))
            }
            Self::Unanswered(error) => ViewLoss::Unanswered(Some(error.to_string())),
            Self::Pull(error) if error.kind() == MessagesErrorKind::MissingHeartbeat => {
                ViewLoss::Unanswered(None)
            }
            other => ViewLoss::Problem(other.to_string()),
        }
    }
}

/// The server's state at a poll. The stream's is missing when it can't be had.
struct Poll {
    state: ConsumerState,
    reading: Reading,
    stream: Option<StreamState>,
}

/// The deliveries since the consumer was attached.
struct Deliveries {
    catch_up: CatchUp,
    progress: Progress,
    last: LastTaken,
}

/// The last message that was taken: its acknowledgement covers all before.
struct LastTaken {
    message: Option<Message>,
    /// Whether its acknowledgement was sent.
    sent: bool,
    /// The stream sequence up to which acknowledgements were sent.
    acknowledged: u64,
}

impl Consumer {
    /// Creates a consumer that is not attached yet.
    #[must_use]
    pub fn new(
        context: Context,
        config: ConsumerConfig,
        fold: Fold,
        own: Arc<RegionSeries>,
        stream: StreamSeries,
    ) -> Self {
        let region = config.source.region.clone();
        own.last_folded_age.set(f64::NAN);
        Self {
            letters: DeadLetterWriter::new(context.clone(), region.clone(), Arc::clone(&own)),
            heartbeat: Heartbeat::new(
                Intake::new(region.clone(), fold, Arc::clone(&own)),
                Freshness::new(stream),
                Arc::new(RegionHealth::new(region, config.source.kind)),
                context.client(),
                Arc::clone(&own),
                config.lookback,
            ),
            context,
            config,
            own,
            stream_created: None,
            restored: false,
            problem: String::new(),
            problems: RateLimit::new(LOG_AGAIN),
        }
    }

    /// The region's health, which the consumer updates while it runs.
    #[must_use]
    pub fn health(&self) -> Arc<RegionHealth> {
        Arc::clone(&self.heartbeat.health)
    }

    /// Reads and folds until `shutdown` turns true, then acknowledges what was folded. Whatever
    /// breaks is tried again, after pauses that grow to a few seconds.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let mut pauses = PAUSES.build();
        loop {
            let attaching = attach(self.context.clone(), &self.config, self.position());
            let Ok(attached) = self.heartbeat.unless_stopped(&mut shutdown, attaching).await else { break };
            let began = Instant::now();
            let ended = match attached {
                Ok(attached) => self.consume(attached, &mut shutdown).await,
                Err(error) => Err(error.into()),
            };
            match ended {
                Ok(()) => return,
                Err(End::Shutdown(_)) => break,
                Err(end) => self.report(&end),
            }
            let pause = pause_or_reconnect(self.context.client(), next_pause(&mut pauses, began.elapsed()));
            if self.heartbeat.unless_stopped(&mut shutdown, pause).await.is_err() {
                break;
            }
        }
        // What was acknowledged may still be in the client, which ends with the process.
        let flushed = timeout(LAST_ACK, self.context.client().flush()).await;
        tracing::info!(
            region = %self.config.source.region,
            flushed = matches!(flushed, Ok(Ok(()))),
            "stopped while not consuming"
        );
    }

    fn report(&mut self, end: &End) {
        self.heartbeat.set_attached(false);
        let problem = end.to_string();
        if problem != self.problem {
            self.problem.clone_from(&problem);
            self.problems = RateLimit::new(LOG_AGAIN);
        }
        if let Some(suppressed) = self.problems.check(Instant::now()) {
            tracing::warn!(region = %self.config.source.region, error = problem, suppressed, "not consuming");
        }
        self.heartbeat.health.detached(end.loss());
    }

    /// How far the stream was folded, once it was attached to.
    fn position(&self) -> Option<Position> {
        let taken = self.heartbeat.intake.taken();
        self.stream_created.map(|stream_created| Position { stream_created, taken })
    }

    /// Reads the durable until the exporter stops.
    async fn consume(&mut self, attached: Attached, shutdown: &mut watch::Receiver<bool>) -> Result<(), End> {
        let region = self.config.source.region.clone();
        let Attached { stream_created, acknowledged, .. } = attached;
        if self.stream_created.replace(stream_created).is_some_and(|before| before != stream_created) {
            tracing::warn!(
                stream = attached.stream,
                "the stream was created again: its sequence begins again"
            );
            self.heartbeat.intake.forget_sequence();
        }
        self.heartbeat.intake.follow(attached.reading);
        if !self.restored {
            self.restore(&attached, shutdown).await?;
            self.restored = true;
        }
        let taken = self.heartbeat.intake.taken();
        if taken > 0 && acknowledged > taken {
            // They were purged or expired, or another exporter of the same deployment took them.
            let (from, to) = (taken + 1, acknowledged);
            tracing::warn!(%region, from, to, "the durable was moved past frames");
        }
        tracing::info!(%region, durable = attached.durable, after = acknowledged, "consuming");
        self.pull(attached, shutdown).await
    }

    /// Restores the sessions that were live before the exporter started. A restart forgets them,
    /// and each would be missing until its client's next frame. So the frames of the last idle
    /// timeout are read again for their gauges and watermarks alone, up to the acknowledgement
    /// floor: they have been counted.
    async fn restore(
        &mut self,
        attached: &Attached,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<(), End> {
        let ConsumerConfig { source, reader, lookback, .. } = &self.config;
        let part = Part {
            stream: attached.stream.clone(),
            subjects: reader.subjects(&source.region),
            start: start_at(attached.reading.server_time - *lookback),
            last_sequence: attached.acknowledged,
            until: None,
            gapless: false,
            description: "Callsight exporter, restoring live sessions",
            patience: RESTORE_PATIENCE,
        };
        let mut frames = StreamReader::new(attached.context.clone(), part);
        let mut restored = 0;
        while let Some(chunk) =
            self.heartbeat.unless_stopped(shutdown, frames.next()).await?.map_err(End::Restore)?
        {
            chunk.iter().for_each(|frame| self.heartbeat.intake.restore(frame));
            restored += chunk.len();
        }
        let sessions = self.heartbeat.intake.live_sessions();
        tracing::info!(region = %source.region, frames = restored, sessions, "live sessions restored");
        Ok(())
    }

    /// Takes what is delivered until the exporter stops, and acknowledges it.
    async fn pull(&mut self, attached: Attached, shutdown: &mut watch::Receiver<bool>) -> Result<(), End> {
        let Attached { context, stream, durable, delivered, waiting, acknowledged, .. } = attached;
        self.heartbeat.intake.resume(delivered, acknowledged, attached.handover);
        self.heartbeat.set_attached(true);
        let mut chunks = attached.messages.ready_chunks(CHUNK);
        let mut polls = pin!(polls(context, stream, durable, POLL.min(self.config.max_lag / 4)));
        let mut deliveries = Deliveries {
            catch_up: CatchUp::new(delivered, waiting),
            progress: Progress::default(),
            // What was taken before and not acknowledged is delivered again, and acknowledged then.
            // An acknowledgement from before would carry a place in the former consumer sequence.
            last: LastTaken { message: None, sent: true, acknowledged },
        };
        loop {
            tokio::select! {
                biased;
                () = stopped(shutdown) => {
                    self.acknowledge_finally(deliveries.last).await;
                    return Ok(());
                }
                () = self.heartbeat.due() => self.heartbeat.beat(),
                Some(poll) = polls.next() => self.handle_poll(poll?, &mut deliveries).await?,
                chunk = chunks.next() => {
                    self.handle_chunk(chunk.ok_or(End::Subscription)?, &mut deliveries).await?;
                }
            }
        }
    }

    /// Folds a chunk of deliveries, writes its dead letters and acknowledges it, up to what is
    /// lost.
    async fn handle_chunk(
        &mut self,
        chunk: Vec<Result<Message, MessagesError>>,
        deliveries: &mut Deliveries,
    ) -> Result<(), End> {
        let mut rejected = Vec::new();
        let taken = self.take(chunk, &mut deliveries.last, &mut rejected);
        if !rejected.is_empty() {
            self.heartbeat.during(self.letters.write(rejected)).await;
        }
        let acknowledged = self.acknowledge(&mut deliveries.last).await;
        taken.and(acknowledged)?;
        self.export_lag(&mut deliveries.catch_up);
        // A stream that is always ready must leave the others their turn.
        tokio::task::yield_now().await;
        Ok(())
    }

    fn take(
        &mut self,
        chunk: Vec<Result<Message, MessagesError>>,
        last: &mut LastTaken,
        rejected: &mut Vec<Rejected>,
    ) -> Result<(), End> {
        for message in chunk {
            let message = message.map_err(End::Pull)?;
            rejected.extend(self.heartbeat.intake.take(&message)?);
            (last.message, last.sent) = (Some(message), false);
        }
        Ok(())
    }

    /// Exports the state at a poll, sends dead letters that wait, and compares the state with what
    /// was taken and acknowledged here.
    async fn handle_poll(&mut self, poll: Poll, deliveries: &mut Deliveries) -> Result<(), End> {
        let Poll { state, reading, stream } = poll;
        self.heartbeat.intake.follow(reading);
        self.heartbeat.health.answered(reading.asked);
        if let Some(stream) = stream {
            self.heartbeat.freshness.update(&stream, self.heartbeat.intake.clock());
            // Readiness follows at once.
            self.heartbeat.beat();
        }
        #[expect(clippy::cast_precision_loss, reason = "no stream holds 2^53 frames")]
        {
            self.own.pending.set(state.num_pending as f64);
            self.own.ack_pending.set(state.num_ack_pending as f64);
        }
        deliveries.catch_up.polled(state.end());
        self.export_lag(&mut deliveries.catch_up);
        self.heartbeat.health.warn(self.letters.warning());
        self.heartbeat.during(self.letters.write(Vec::new())).await;
        let mark = Mark {
            sent: state.delivered.consumer_seq,
            taken: self.heartbeat.intake.delivered(),
            acknowledged: deliveries.last.acknowledged,
            floor: state.ack_floor.stream_seq,
        };
        // One that was not sent had to wait for letters, which may be stored by now.
        if deliveries.progress.check(mark)? || !deliveries.last.sent {
            self.acknowledge(&mut deliveries.last).await?;
        }
        Ok(())
    }

    /// Acknowledges the last message that was taken, and with it all before, unless a letter about
    /// one of them is not stored yet.
    async fn acknowledge(&mut self, last: &mut LastTaken) -> Result<(), End> {
        let Some(message) = &last.message else { return Ok(()) };
        if self.letters.is_waiting() {
            return Ok(());
        }
        match self.heartbeat.during(timeout(ACK_WITHIN, message.ack())).await {
            Ok(Ok(())) => {
                last.sent = true;
                last.acknowledged = message.info().map_or(last.acknowledged, |info| info.stream_sequence);
                Ok(())
            }
            Ok(Err(error)) => Err(End::Acknowledgement(error)),
            Err(_) => Err(End::Acknowledgement("the client's queue is full".into())),
        }
    }

    /// Makes sure that the server has the last acknowledgement before the connection closes.
    async fn acknowledge_finally(&self, last: LastTaken) {
        let region = &self.config.source.region;
        let Some(message) = last.message else { return };
        if self.letters.is_waiting() {
            tracing::warn!(%region, "stopped before all dead letters were stored: their frames come again");
            return;
        }
        match timeout(LAST_ACK, message.double_ack()).await {
            Ok(Ok(())) => tracing::info!(%region, "drained"),
            Ok(Err(error)) => tracing::warn!(%region, %error, "last acknowledgement failed"),
            Err(_) => tracing::warn!(%region, "last acknowledgement took too long"),
        }
    }

    fn export_lag(&self, catch_up: &mut CatchUp) {
        // Whoever reads that the region is ready finds the age that agrees with it.
        self.heartbeat.export_age();
        let Heartbeat { intake, health, .. } = &self.heartbeat;
        match catch_up.behind(intake.delivered(), intake.newest_age()) {
            Behind::Unknown(left) => health.catching_up(left),
            Behind::By(left, age) => health.lag(left, age),
        }
    }
}

/// Polls at once and then at this interval.
fn polls(
    context: Context,
    stream: String,
    durable: String,
    every: Duration,
) -> impl Stream<Item = Result<Poll, AskError>> {
    let mut every = interval(every);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    stream::unfold((context, stream, durable, every), |(context, stream, durable, mut every)| async move {
        every.tick().await;
        let (consumer, found) =
            tokio::join!(consumer_state(&context, &stream, &durable), stream_state(&context, &stream));
        let mut found = found.ok();
        if let Some(found) = &mut found {
            found.ask_origin(&context).await;
        }
        let poll = consumer.map(|(state, reading)| Poll { state, reading, stream: found });
        Some((poll, (context, stream, durable, every)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than `backon` is off, which computes with 24 bits.
    const ROUNDING: Duration = Duration::from_micros(10);

    #[test]
    fn pauses_double_to_the_longest_and_jitter_takes_up_to_half() {
        let mut pauses = PAUSES.build();
        for milliseconds in [200, 400, 800, 1600, 2000, 2000] {
            let longest = Duration::from_millis(milliseconds);
            let pause = next_pause(&mut pauses, LONGEST_PAUSE);
            assert!((longest / 2 - ROUNDING..=longest + ROUNDING).contains(&pause), "{pause:?}");
        }
        let drawn = || next_pause(&mut PAUSES.build(), Duration::ZERO);
        assert!((0..10).any(|_| drawn() != drawn()), "fleets must not come back in step");
    }

    #[test]
    fn only_what_worked_longer_than_any_pause_starts_anew() {
        let mut pauses = PAUSES.build();
        for _ in 0..10 {
            next_pause(&mut pauses, LONGEST_PAUSE);
        }
        assert!(next_pause(&mut pauses, LONGEST_PAUSE) >= LONGEST_PAUSE / 2 - ROUNDING);
        assert!(next_pause(&mut pauses, LONGEST_PAUSE * 2) <= Duration::from_millis(200) + ROUNDING);
    }
}
