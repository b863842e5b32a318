//! From a delivered message to the fold.
//!
//! JetStream delivers at least once, and one acknowledgement covers everything before it. Two
//! things follow. A message at or under the highest stream sequence that was taken has been taken:
//! it is a redelivery. And a hole in the consumer's own sequence is a delivery that was lost on the
//! way, such as on a connection that broke: nothing after it may be taken, or the next
//! acknowledgement would cover the hole.
//!
//! The stream itself may be set back, and gives sequences out a second time ([`super::set_back`]).
//! Such a message differs from a redelivery by its time: it is later than that of everything that
//! was taken. Others may have been passed over before it, so it is not taken either.
//!
//! Invariant: each message of the stream has its effect exactly once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::Message;
use time::OffsetDateTime;

use super::clock::{Reading, StreamClock};
use super::dead_letter_writer::Rejected;
use super::handover::Handover;
use super::set_back::Position;
use crate::log::RateLimit;
use crate::stream_reader::Record;
use callsight_fold::series::aggregates::RegionSeries;
use callsight_fold::{Fold, Outcome, Refusal, StreamTime, Unfolded};
use callsight_frame::subject::{Region, Subject};
use callsight_frame::{Decoder, Frame, Reason, Rejection};

/// Takes the messages of one region in order.
pub(super) struct Intake {
    region: Region,
    fold: Fold,
    decoder: Decoder,
    own: Arc<RegionSeries>,
    /// Known from the first attachment on.
    clock: Option<StreamClock>,
    /// The highest stream sequence that was taken, by this process or by its predecessors.
    taken: u64,
    /// The stream sequence after which this process began to read, once it did.
    began: Option<u64>,
    /// How many messages were missing between those that were taken, and not counted yet.
    missed: u64,
    /// Whether the durable delivers only some of the stream's messages.
    filtered: bool,
    /// A sequence that the stream gave out again.
    reassigned: Option<u64>,
    /// The latest time at which a message that was taken was stored, by the server's clock.
    latest: Option<StreamTime>,
    handover: Handover,
    /// The consumer sequence of the last message.
    delivered: u64,
    /// The stream time of the newest frame that was taken.
    newest: Option<StreamTime>,
    rejections: RateLimit,
    /// For each reason: a flood for one must not hide another.
    refusals: [RateLimit; Refusal::ALL.len()],
}

/// Why a message can't be taken: deliveries have to begin again.
#[derive(Debug, thiserror::Error)]
pub(super) enum BrokenOrder {
    #[error("a delivery was lost on the way")]
    LostDelivery,
    #[error("the stream was set back: it gives sequence {0} out again")]
    SetBack(u64),
}

impl Intake {
    pub(super) fn new(region: Region, fold: Fold, own: Arc<RegionSeries>, filtered: bool) -> Self {
        Self {
            region,
            fold,
            decoder: Decoder::default(),
            own,
            clock: None,
            taken: 0,
            began: None,
            missed: 0,
            filtered,
            reassigned: None,
            latest: None,
            handover: Handover::default(),
            delivered: 0,
            newest: None,
            rejections: RateLimit::new(Duration::from_secs(1)),
            refusals: Refusal::ALL.map(|_| RateLimit::new(Duration::from_secs(1))),
        }
    }

    /// Restarts deliveries after the consumer sequence `delivered`. Messages up to the stream
    /// sequence `taken` need no folding any more, nor do those that a handover covers, and those up
    /// to `acknowledged` are not delivered. Returns how many of them were missed.
    pub(super) fn resume(
        &mut self,
        delivered: u64,
        taken: u64,
        acknowledged: u64,
        handover: Handover,
    ) -> u64 {
        self.delivered = delivered;
        self.handover = handover;
        self.began = Some(self.began.map_or(taken, |began| began.min(taken)));
        self.reassigned = None;
        self.taken = taken;
        self.pass_over(acknowledged)
    }

    /// Regards messages up to a stream sequence as taken, and returns how many of them were not.
    pub(super) fn pass_over(&mut self, sequence: u64) -> u64 {
        let missed = sequence.saturating_sub(self.taken);
        self.taken += missed;
        if self.filtered { 0 } else { missed }
    }

    /// How many messages were missing between those that were taken since the last call.
    pub(super) fn take_missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }

    /// Restarts the stream sequence, which belongs to another stream from now on.
    pub(super) fn forget_sequence(&mut self) {
        self.taken = 0;
        self.began = None;
        self.reassigned = None;
        self.latest = None;
    }

    /// How far the stream was folded that was created at a time, once this process began to read.
    pub(super) fn position(&self, stream_created: OffsetDateTime) -> Option<Position> {
        let Self { taken, began, latest, reassigned, .. } = *self;
        Some(Position { stream_created, taken, began: began?, latest, reassigned })
    }

    /// The highest stream sequence that was taken.
    pub(super) const fn taken(&self) -> u64 {
        self.taken
    }

    /// The consumer sequence of the last message.
    pub(super) const fn delivered(&self) -> u64 {
        self.delivered
    }

    pub(super) const fn clock(&self) -> Option<StreamClock> {
        self.clock
    }

    /// Follows the clock of the stream's server.
    pub(super) fn follow(&mut self, reading: Reading) {
        let clock = self.clock.get_or_insert_with(|| StreamClock::new(reading));
        if let Some(nanos) = clock.follow(reading) {
            let milliseconds = nanos / 1_000_000;
            tracing::warn!(region = %self.region, milliseconds, "the clock of the stream's server jumped");
        }
    }

    /// Lets sessions fall idle.
    pub(super) fn tick(&mut self) {
        if let Some(clock) = self.clock {
            self.fold.tick(clock.at(Instant::now()));
        }
    }

    pub(super) fn live_sessions(&self) -> usize {
        self.fold.live_sessions()
    }

    /// What the budget for sessions has refused.
    pub(super) const fn unfolded(&self) -> Unfolded {
        self.fold.unfolded()
    }

    /// The age of the newest frame that was taken.
    pub(super) fn newest_age(&self) -> Option<Duration> {
        Some(self.clock?.at(Instant::now()).since(self.newest?))
    }

    /// Takes a message, which may be acknowledged then; a rejected frame once its dead letter is
    /// stored.
    pub(super) fn take(&mut self, message: &Message) -> Result<Option<Rejected>, BrokenOrder> {
        let info = match message.info() {
            Ok(info) => info,
            Err(error) => {
                // The server writes the reply subject; a message without one is not a delivery.
                tracing::error!(%error, subject = %message.subject, "message without delivery information");
                return Err(BrokenOrder::LostDelivery);
            }
        };
        if info.consumer_sequence != self.delivered + 1 {
            let (expected, found) = (self.delivered + 1, info.consumer_sequence);
            tracing::debug!(
                region = %self.region,
                expected,
                found,
                sequence = info.stream_sequence,
                deliveries = info.delivered,
                "a delivery is missing"
            );
            return Err(BrokenOrder::LostDelivery);
        }
        self.delivered = info.consumer_sequence;
        self.own.received.increment(1);
        let stored = StreamTime::from_unix_nanos(info.published.unix_timestamp_nanos());
        if info.stream_sequence <= self.taken {
            if self.latest.is_none_or(|latest| stored <= latest) {
                self.own.redelivered.increment(1);
                return Ok(None);
            }
            self.reassigned = Some(info.stream_sequence);
            return Err(BrokenOrder::SetBack(info.stream_sequence));
        }
        if !self.filtered {
            self.missed += info.stream_sequence - self.taken - 1;
        }
        self.taken = info.stream_sequence;
        self.latest = self.latest.max(Some(stored));

        let (at, now) = self.times(stored);
        self.newest = self.newest.max(Some(at));
        if self.handover.covers(&message.subject, info.stream_sequence) {
            self.own.redelivered.increment(1);
            // What can't be read was rejected and counted by the old shard.
            let _ = self.read(&message.subject, &message.payload, |fold, frame| fold.warm(frame, at, now));
            return Ok(None);
        }
        let read = self.read(&message.subject, &message.payload, |fold, frame| fold.frame(frame, at, now));
        let rejection = match read {
            Ok(Outcome::Refused(refusal)) => {
                if let Some(suppressed) = self.refusals[refusal as usize].check(Instant::now()) {
                    tracing::warn!(
                        reason = refusal.label(),
                        subject = %message.subject,
                        sequence = info.stream_sequence,
                        suppressed,
                        "frame refused"
                    );
                }
                return Ok(None);
            }
            Ok(_) => return Ok(None),
            Err(rejection) => rejection,
        };
        self.own.rejected(rejection.reason).increment(1);
        if let Some(suppressed) = self.rejections.check(Instant::now()) {
            tracing::warn!(
                reason = rejection.reason.label(),
                detail = rejection.detail,
                subject = %message.subject,
                sequence = info.stream_sequence,
                suppressed,
                "frame rejected"
            );
        }
        Ok(Some(Rejected {
            subject: message.subject.clone(),
            payload: message.payload.clone(),
            sequence: info.stream_sequence,
            received: stored,
            rejection,
        }))
    }

    /// Restores the session of a frame that was counted before the exporter started.
    pub(super) fn restore(&mut self, record: &Record) {
        let (at, now) = self.times(record.at);
        // What can't be read was rejected and counted before.
        let _ = self.read(&record.subject, &record.payload, |fold, frame| fold.warm(frame, at, now));
    }

    /// Translates the server's time at which a message was stored into stream time, and returns it
    /// with the stream time now.
    fn times(&mut self, stored: StreamTime) -> (StreamTime, StreamTime) {
        let now = Instant::now();
        let here = || StreamClock::new(Reading { server_time: stored, asked: now, took: Duration::ZERO });
        let clock = self.clock.get_or_insert_with(here);
        (clock.stored(stored, now), clock.at(now))
    }

    /// Reads a message and gives its frame to the fold.
    fn read(
        &mut self,
        subject: &str,
        payload: &[u8],
        fold: impl FnOnce(&mut Fold, &Frame<'_>) -> Outcome,
    ) -> Result<Outcome, Rejection> {
        let Subject { region, server_id, .. } = Subject::parse(subject)?;
        if region != self.region.as_str() {
            let detail = format!("region {region} in the stream of region {}", self.region);
            return Err(Rejection::new(Reason::BadSubject, detail));
        }
        self.decoder.with(payload, Some(server_id), |frame| fold(&mut self.fold, frame))
    }
}
