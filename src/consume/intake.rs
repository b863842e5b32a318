//! From a delivered message to the fold: each message of the stream has its effect exactly once.
//!
//! JetStream delivers at least once, and one acknowledgement covers everything up to it. Two things follow.
//! A message at or under the highest stream sequence that was taken has been taken: it is a redelivery. And a
//! hole in the consumer's own sequence is a delivery that got lost on the way, on a connection that broke,
//! say: nothing after it may be taken, or the next acknowledgement would cover the hole.
//!
//! The stream itself may be set back: a disk that lost its last seconds with the power, or one that comes from a
//! backup, gives sequences out a second time. What tells such a message from a redelivery is its time: it is
//! later than that of everything that was taken.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::Message;

use super::burial::Rejected;
use super::clock::StreamClock;
use super::handover::Handover;
use crate::log::Bounded;
use callsight_fold::series::aggregates::RegionSeries;
use callsight_fold::{Fold, Outcome, StreamTime};
use callsight_frame::subject::{Region, Subject};
use callsight_frame::{Decoder, Frame, Reason, Rejection};

/// Takes messages of one region in order.
pub(super) struct Intake {
    region: Region,
    pub(super) fold: Fold,
    decoder: Decoder,
    own: Arc<RegionSeries>,
    /// The highest stream sequence that was taken, by this process or by the ones before it.
    taken: u64,
    /// The latest moment at which the server says to have stored something that was taken.
    latest: Option<StreamTime>,
    /// What was counted by the shards before.
    handover: Handover,
    /// The last message's place in the consumer's sequence.
    delivered: u64,
    /// The stream time of the newest frame that was taken.
    pub(super) newest: Option<StreamTime>,
    rejections: Bounded,
}

/// What a message was to the intake.
pub(super) enum Taken {
    /// It was taken, now or before, and may be acknowledged.
    Yes,
    /// It was refused: to be acknowledged once its dead letter is written.
    Rejected(Rejected),
    /// A delivery before it got lost: read again from what was acknowledged.
    AfterHole,
}

impl Intake {
    pub(super) fn new(region: Region, fold: Fold, own: Arc<RegionSeries>) -> Self {
        Self {
            region,
            fold,
            decoder: Decoder::default(),
            own,
            taken: 0,
            latest: None,
            handover: Handover::default(),
            delivered: 0,
            newest: None,
            rejections: Bounded::every(Duration::from_secs(1)),
        }
    }

    /// Deliveries begin anew after this place in the consumer's sequence; in the stream's sequence, everything
    /// up to `acknowledged` needs no folding any more, nor does what a handover covers.
    pub(super) fn resume(&mut self, delivered: u64, acknowledged: u64, handover: Handover) {
        self.delivered = delivered;
        self.handover = handover;
        self.taken = self.taken.max(acknowledged);
    }

    /// The stream is another one than before: its sequence begins anew.
    pub(super) fn forget_sequence(&mut self) {
        self.taken = 0;
        self.latest = None;
    }

    /// The highest stream sequence that was taken.
    pub(super) const fn taken(&self) -> u64 {
        self.taken
    }

    /// The last message's place in the consumer's sequence.
    pub(super) const fn delivered(&self) -> u64 {
        self.delivered
    }

    pub(super) fn take(&mut self, message: &Message, clock: &mut StreamClock) -> Taken {
        let info = match message.info() {
            Ok(info) => info,
            Err(error) => {
                // The server wrote the reply subject; a message without one was not delivered by a consumer.
                tracing::error!(%error, subject = %message.subject, "message without delivery information");
                return Taken::AfterHole;
            }
        };
        if info.consumer_sequence != self.delivered + 1 {
            return Taken::AfterHole;
        }
        self.delivered = info.consumer_sequence;
        self.own.received.increment(1);
        let stored = StreamTime::from_unix_nanos(info.published.unix_timestamp_nanos());
        if info.stream_sequence <= self.taken {
            if self.latest.is_none_or(|latest| stored <= latest) {
                self.own.redelivered.increment(1);
                return Taken::Yes;
            }
            tracing::warn!(
                region = %self.region,
                taken = self.taken,
                sequence = info.stream_sequence,
                "the stream was set back: it gives out sequences that it gave out before"
            );
        }
        self.taken = info.stream_sequence;
        self.latest = self.latest.max(Some(stored));

        let now = Instant::now();
        let at = clock.stored(stored, now);
        self.newest = self.newest.max(Some(at));
        let present = clock.at(now);
        if self.handover.covers(&message.subject, info.stream_sequence) {
            self.own.redelivered.increment(1);
            // What can't be read was rejected and counted by the other one.
            let _ =
                self.read(&message.subject, &message.payload, |fold, frame| fold.warm(frame, at, present));
            return Taken::Yes;
        }
        let read =
            self.read(&message.subject, &message.payload, |fold, frame| fold.frame(frame, at, present));
        let Err(rejection) = read else { return Taken::Yes };
        self.own.rejected(rejection.reason).increment(1);
        if let Some(unlogged) = self.rejections.allow(now) {
            tracing::warn!(
                reason = rejection.reason.label(),
                detail = rejection.detail,
                subject = %message.subject,
                sequence = info.stream_sequence,
                unlogged,
                "frame rejected"
            );
        }
        Taken::Rejected(Rejected {
            subject: message.subject.clone(),
            payload: message.payload.clone(),
            sequence: info.stream_sequence,
            received: stored,
            rejection,
        })
    }

    /// Restores what a message had brought before, unless it lies beyond what was acknowledged. Tells its
    /// place in the stream, and how many follow it.
    pub(super) fn restore(
        &mut self,
        message: &Message,
        clock: &mut StreamClock,
        acknowledged: u64,
    ) -> Option<(u64, u64)> {
        let info = message.info().ok()?;
        if info.stream_sequence > acknowledged {
            return None;
        }
        let now = Instant::now();
        let at = clock.stored(StreamTime::from_unix_nanos(info.published.unix_timestamp_nanos()), now);
        let present = clock.at(now);
        // What can't be read was rejected and counted before.
        let _ = self.read(&message.subject, &message.payload, |fold, frame| fold.warm(frame, at, present));
        Some((info.stream_sequence, info.pending))
    }

    /// Reads a message and gives its frame to the fold.
    fn read(
        &mut self,
        subject: &str,
        payload: &[u8],
        fold: impl FnOnce(&mut Fold, &Frame<'_>) -> Outcome,
    ) -> Result<Outcome, Rejection> {
        let region = Subject::parse(subject)?.region;
        if region != self.region.as_str() {
            let detail = format!("region {region} in the stream of region {}", self.region);
            return Err(Rejection::new(Reason::BadSubject, detail));
        }
        self.decoder.with(payload, |frame| fold(&mut self.fold, frame))
    }
}
