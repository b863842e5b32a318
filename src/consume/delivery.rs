//! Takes what an attached durable delivers, and acknowledges what was folded.
//!
//! Invariant: an acknowledgement follows the fold, and the first one is confirmed. A user without
//! the permission to acknowledge would otherwise fold the same frames again and again.

use std::pin::pin;
use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::pull::MessagesError;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::timeout;

use super::attach::{Attached, check};
use super::catch_up::{Behind, CatchUp};
use super::dead_letter_writer::Rejected;
use super::heartbeat::{Heartbeat, stopped};
use super::intake::BrokenOrder;
use super::missed::{Received, Removals};
use super::partitions::{self, Share};
use super::poll::{POLL, Poll, polls};
use super::progress::{Mark, Progress};
use super::server_state::{ConsumerState, LastMessage};
use super::{Consumer, End};

/// The most frames that are folded before the loop looks around: one acknowledgement covers them.
const CHUNK: usize = 1024;

/// How long the client may take to queue an acknowledgement, and the server to confirm the first
/// one.
const ACK_WITHIN: Duration = Duration::from_secs(2);

/// How long the last acknowledgement may take when the exporter stops.
pub(super) const LAST_ACK: Duration = Duration::from_secs(2);

/// The deliveries since the consumer was attached.
struct Deliveries {
    catch_up: CatchUp,
    progress: Progress,
    removals: Removals,
    last: LastTaken,
    /// The highest stream sequence that was taken at the poll before.
    taken_before: u64,
}

/// The last message that was taken: its acknowledgement covers all before.
struct LastTaken {
    message: Option<Message>,
    /// Whether its acknowledgement was sent.
    sent: bool,
    /// Whether the server confirmed an acknowledgement since the consumer was attached.
    confirmed: bool,
    /// The stream sequence up to which acknowledgements were sent.
    acknowledged: u64,
}

impl Consumer {
    /// Takes what is delivered until the exporter stops, and acknowledges it.
    pub(super) async fn pull(
        &mut self,
        attached: Attached,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<(), End> {
        let Attached { context, stream, durable, delivered, waiting, acknowledged, .. } = attached;
        self.heartbeat.set_attached(true);
        let mut chunks = attached.messages.ready_chunks(CHUNK);
        let mut polls = pin!(polls(context, stream, durable, POLL.min(self.config.max_lag / 4)));
        let mut deliveries = Deliveries {
            catch_up: CatchUp::new(delivered, waiting),
            progress: Progress::default(),
            removals: Removals::new(self.config.reader.shard.is_some()),
            // What was taken before and not acknowledged is delivered again, and acknowledged then.
            // An acknowledgement from before would carry a place in the former consumer sequence.
            last: LastTaken { message: None, sent: true, confirmed: false, acknowledged },
            taken_before: 0,
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
        let missed = self.heartbeat.intake.take_missed();
        self.missed.count(missed, self.heartbeat.intake.taken());
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
    /// was declared, and with what was taken and acknowledged here.
    async fn handle_poll(&mut self, poll: Poll, deliveries: &mut Deliveries) -> Result<(), End> {
        let Poll { state, reading, stream } = poll;
        self.heartbeat.intake.follow(reading);
        let share = check(&state, &self.config)?;
        // Somebody changed the filter before it left anything out.
        self.left_out &= share != Share::Whole;
        if let Some(stream) = stream {
            if state.is_current() && stream.is_current() {
                self.heartbeat.health.answered(reading.asked);
            }
            if self.config.reader.shard.is_none() {
                deliveries.catch_up.stream_polled(stream.whole_end());
            }
            self.heartbeat.freshness.update(&stream, self.heartbeat.intake.clock());
            // Readiness follows at once.
            self.heartbeat.beat();
            partitions::check(&stream, &self.config, share)?;
            self.compare(&state, &stream.state, deliveries)?;
        }
        #[expect(clippy::cast_precision_loss, reason = "no stream holds 2^53 frames")]
        {
            self.own.pending.set(state.num_pending as f64);
            self.own.ack_pending.set(state.num_ack_pending as f64);
        }
        deliveries.catch_up.polled(state.end());
        self.export_lag(&mut deliveries.catch_up);
        self.heartbeat.during(self.letters.write(Vec::new())).await;
        let warnings = [self.missed.warning(), self.letters.warning()].into_iter().flatten();
        self.heartbeat.health.warn(warnings.reduce(|one, other| format!("{one}; {other}")));
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

    /// Notices that the stream was set back, or lost frames that were not delivered.
    fn compare(
        &mut self,
        state: &ConsumerState,
        stream: &LastMessage,
        deliveries: &mut Deliveries,
    ) -> Result<(), End> {
        let intake = &mut self.heartbeat.intake;
        let received = Received { delivered: intake.delivered(), taken: intake.taken() };
        let taken_before = std::mem::replace(&mut deliveries.taken_before, received.taken);
        if stream.last_seq < taken_before && !self.config.source.is_mirror() {
            return Err(BrokenOrder::SetBack(stream.last_seq + 1).into());
        }
        if let Some((frames, last)) = deliveries.removals.polled(state, stream, received) {
            if self.config.reader.shard.is_none() {
                intake.pass_over(last);
            }
            self.missed.count(frames, last);
        }
        Ok(())
    }

    /// Acknowledges the last message that was taken, and with it all before, unless a letter about
    /// one of them is not stored yet.
    async fn acknowledge(&mut self, last: &mut LastTaken) -> Result<(), End> {
        let Some(message) = &last.message else { return Ok(()) };
        if self.letters.holds_acknowledgement() {
            return Ok(());
        }
        let confirmed = last.confirmed;
        let acknowledging =
            async { if confirmed { message.ack().await } else { message.double_ack().await } };
        match self.heartbeat.during(timeout(ACK_WITHIN, acknowledging)).await {
            Ok(Ok(())) => {
                (last.sent, last.confirmed) = (true, true);
                last.acknowledged = message.info().map_or(last.acknowledged, |info| info.stream_sequence);
                Ok(())
            }
            Ok(Err(error)) => Err(End::Acknowledgement(error)),
            Err(_) if !confirmed => Err(End::Unconfirmed),
            Err(_) => Err(End::Acknowledgement("the client's queue is full".into())),
        }
    }

    /// Makes sure that the server has the last acknowledgement before the connection closes.
    async fn acknowledge_finally(&mut self, last: LastTaken) {
        let region = &self.config.source.region;
        if self.letters.holds_acknowledgement() {
            tracing::warn!(%region, "stopped before all dead letters were stored: their frames come again");
            return;
        }
        let Some(message) = last.message else { return };
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
        match catch_up.behind(intake.delivered(), intake.taken(), intake.newest_age()) {
            Behind::Unknown(left) => health.catching_up(left),
            Behind::By(left, age) => health.lag(left, age),
        }
    }
}
