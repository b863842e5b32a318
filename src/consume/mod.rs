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
mod delivery;
mod freshness;
mod handover;
mod health;
mod heartbeat;
mod intake;
mod missed;
mod partitions;
mod pauses;
mod poll;
mod progress;
mod refused;
mod server_state;
mod set_back;
mod source;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::jetstream::consumer::pull::{MessagesError, MessagesErrorKind};
use async_nats::jetstream::context::RequestError;
use async_nats::jetstream::{self, Context};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::timeout;

pub use attach::ConsumerConfig;
use attach::{AttachError, Attached, attach};
use dead_letter_writer::DeadLetterWriter;
use delivery::LAST_ACK;
use freshness::Freshness;
pub use freshness::MirrorLag;
pub use health::{HealthReport, RegionHealth, ViewLoss};
use heartbeat::{Heartbeat, Shutdown};
use intake::{BrokenOrder, Intake};
use missed::Missed;
use pauses::Pauses;
use progress::Stalled;
use refused::Refused;
pub use source::{JetStreamApi, Reader, Source, SourceKind};

use crate::jetstream_api::AskError;
use crate::log::RateLimit;
use crate::nats::Refusals;
use crate::stream_reader::{Part, ReadError, StreamReader, start_at};
use callsight_fold::Fold;
use callsight_fold::series::aggregates::{RegionSeries, StreamSeries};

/// How long the server may send nothing while live sessions are restored.
const RESTORE_PATIENCE: Duration = Duration::from_secs(5);

/// How long ago the server may have refused what is not answered: a time-out, and what notices it.
const REFUSED_WITHIN: Duration = Duration::from_secs(10);

/// How often a problem that lasts is logged.
const LOG_AGAIN: Duration = Duration::from_secs(60);

/// The consumer of one region.
pub struct Consumer {
    context: Context,
    config: ConsumerConfig,
    heartbeat: Heartbeat,
    letters: DeadLetterWriter,
    missed: Missed,
    refusals: Refusals,
    own: Arc<RegionSeries>,
    /// When the stream was created that was last attached to.
    stream_created: Option<OffsetDateTime>,
    /// Whether a filter leaves frames out, or left out some that are not counted yet.
    left_out: bool,
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
    Order(#[from] BrokenOrder),
    #[error(transparent)]
    Stalled(#[from] Stalled),
    #[error("the server does not confirm acknowledgements")]
    Unconfirmed,
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
    /// Whether it may come of pull requests to which nobody listens any more.
    const fn is_by_other_pulls(&self) -> bool {
        matches!(self, Self::Order(BrokenOrder::LostDelivery) | Self::Stalled(Stalled::Deliveries))
    }

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

impl Consumer {
    /// Creates a consumer that is not attached yet.
    #[must_use]
    pub fn new(
        context: Context,
        refusals: Refusals,
        config: ConsumerConfig,
        fold: Fold,
        own: Arc<RegionSeries>,
        stream: StreamSeries,
    ) -> Self {
        let region = || config.source.region.clone();
        let series = || Arc::clone(&own);
        own.last_folded_age.set(f64::NAN);
        let intake = Intake::new(region(), fold, series(), config.reader.shard.is_some());
        let health = Arc::new(RegionHealth::new(region(), config.source.kind));
        let refused = Refused::new(region(), config.max_sessions);
        let (client, freshness) = (context.client(), Freshness::new(stream));
        Self {
            letters: DeadLetterWriter::new(context.clone(), refusals.clone(), region(), series()),
            missed: Missed::new(region(), series()),
            heartbeat: Heartbeat::new(intake, freshness, refused, health, client, series(), config.lookback),
            context,
            refusals,
            config,
            own,
            stream_created: None,
            left_out: false,
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
        let mut pauses = Pauses::new();
        loop {
            let tried = Instant::now();
            let (context, position) = (self.context.clone(), self.position());
            let unsettled = self.letters.first_unsettled();
            let attaching = attach(context, &self.config, position, unsettled, &mut self.left_out);
            let Ok(attached) = self.heartbeat.unless_stopped(&mut shutdown, attaching).await else { break };
            let began = Instant::now();
            let ended = match attached {
                Ok(attached) => self.consume(attached, &mut shutdown).await,
                Err(error) => Err(error.into()),
            };
            let end = match ended {
                Ok(()) => return,
                Err(End::Shutdown(_)) => break,
                Err(end) => end,
            };
            self.report(&end, tried);
            let pause = pauses.wait(self.context.client(), began.elapsed(), end.is_by_other_pulls());
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

    fn report(&mut self, end: &End, tried: Instant) {
        self.heartbeat.set_attached(false);
        let loss = self.refused(tried).unwrap_or_else(|| end.loss());
        let problem = match &loss {
            ViewLoss::Problem(problem) | ViewLoss::Disconnected(Some(problem)) => problem.clone(),
            _ => end.to_string(),
        };
        if problem != self.problem {
            self.problem.clone_from(&problem);
            self.problems = RateLimit::new(LOG_AGAIN);
        }
        if let Some(suppressed) = self.problems.check(Instant::now()) {
            tracing::warn!(region = %self.config.source.region, error = problem, suppressed, "not consuming");
        }
        self.heartbeat.health.detached(loss);
    }

    /// What the server refused since a moment, and not long ago. Whoever waits for an answer does
    /// not hear of it.
    fn refused(&self, since: Instant) -> Option<ViewLoss> {
        if self.context.client().connection_state() != State::Connected {
            return Some(ViewLoss::Disconnected(self.refusals.of_connection()));
        }
        let recent = Instant::now().checked_sub(REFUSED_WITHIN).map_or(since, |recent| recent.max(since));
        let refusal = self.refusals.about(&self.config.source.stream, recent)?;
        let advice = "correct the user's permissions, see docs/security.md";
        Some(ViewLoss::Problem(format!("NATS refuses: {refusal}; {advice}")))
    }

    /// How far the stream was folded, once it was attached to.
    fn position(&self) -> Option<set_back::Position> {
        self.heartbeat.intake.position(self.stream_created?)
    }

    /// Reads the durable until the exporter stops.
    async fn consume(
        &mut self,
        mut attached: Attached,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<(), End> {
        let region = self.config.source.region.clone();
        let Attached { stream_created, delivered, taken, acknowledged, passed_over, .. } = attached;
        if self.stream_created.replace(stream_created).is_some_and(|before| before != stream_created) {
            tracing::warn!(
                stream = attached.stream,
                "the stream was created again: its sequence begins again"
            );
            self.heartbeat.intake.forget_sequence();
        }
        let handover = std::mem::take(&mut attached.handover);
        let missed = self.heartbeat.intake.resume(delivered, taken, acknowledged, handover);
        self.missed.count(missed, acknowledged);
        self.missed.count(passed_over, taken);
        self.heartbeat.intake.follow(attached.reading);
        if !self.restored {
            self.restore(&attached, shutdown).await?;
            self.restored = true;
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
}
