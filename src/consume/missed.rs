//! Counts frames that were removed from the stream before they were received.
//!
//! A full stream removes its oldest frames, a stream whose frames are old enough too, and a purge
//! all of them, read or not. The server says nothing: deliveries simply go on after the gap.
//!
//! A durable without a filter receives every sequence, so what is missing between two deliveries
//! was removed, and the count is exact ([`super::intake`]). If no delivery follows, the stream's
//! first sequence shows it at the next poll. A shard's durable skips the sequences of the others.
//! Its part of what was removed is computed from its share of the frames that waited at the poll
//! before.
//!
//! A shard's durable from before meetings had partitions passes their frames over. Once its filter
//! is changed, these are counted exactly ([`super::partitions`]).
//!
//! What was removed while no exporter ran is counted from the durable's acknowledgement floor. A
//! purge moves that too, and so remains unknown then.
//!
//! Invariant: what can still be delivered is not counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::server_state::{ConsumerState, LastMessage};
use crate::log::RateLimit;
use callsight_fold::series::aggregates::RegionSeries;
use callsight_frame::subject::Region;

/// How long `/readyz` warns after the last loss.
const WARNED: Duration = Duration::from_secs(15 * 60);

/// How often losses that go on are logged.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Counts and reports what was missed.
pub(super) struct Missed {
    region: Region,
    own: Arc<RegionSeries>,
    log: RateLimit,
    /// How many were missed since the last time that there was no warning, and when the last ones.
    recent: Option<(u64, Instant)>,
}

impl Missed {
    pub(super) fn new(region: Region, own: Arc<RegionSeries>) -> Self {
        Self { region, own, log: RateLimit::new(LOG_EVERY), recent: None }
    }

    /// Counts frames, the last of which had this sequence.
    pub(super) fn count(&mut self, frames: u64, last: u64) {
        if frames == 0 {
            return;
        }
        self.own.missed.increment(frames);
        let now = Instant::now();
        let recent = self.recent(now).map_or(0, |(frames, _)| frames);
        self.recent = Some((recent + frames, now));
        if let Some(suppressed) = self.log.check(now) {
            tracing::error!(
                region = %self.region,
                frames,
                up_to_sequence = last,
                recently = recent + frames,
                suppressed,
                "frames were removed from the stream or passed over before they were read"
            );
        }
    }

    fn recent(&self, now: Instant) -> Option<(u64, Duration)> {
        let (frames, last) = self.recent?;
        let ago = now.saturating_duration_since(last);
        (ago < WARNED).then_some((frames, ago))
    }

    /// What `/readyz` says for a quarter of an hour after the last loss.
    pub(super) fn warning(&self) -> Option<String> {
        let (frames, ago) = self.recent(Instant::now())?;
        Some(format!(
            "{frames} frames were removed from the stream or passed over before they were read, the last {} s ago; no series \
             has them (this warning stays for {} min)",
            ago.as_secs(),
            WARNED.as_secs() / 60
        ))
    }
}

/// Compares each poll with the one before, while a durable is attached.
pub(super) struct Removals {
    /// Whether the durable skips sequences that are not its reader's.
    filtered: bool,
    before: Option<Extent>,
    /// The part of a frame that was missed by computation and not yet counted.
    rest: f64,
}

/// What was where at a poll.
#[derive(Clone, Copy, Debug)]
struct Extent {
    first: u64,
    last: u64,
    /// The sequence up to which nothing waits for the durable.
    done: u64,
    /// How many frames wait for the durable, and how many it delivered.
    waiting: u64,
    delivered: u64,
}

/// How far the deliveries are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    /// The consumer sequence of the last one.
    pub(super) delivered: u64,
    /// The highest stream sequence.
    pub(super) taken: u64,
}

impl Removals {
    pub(super) const fn new(filtered: bool) -> Self {
        Self { filtered, before: None, rest: 0.0 }
    }

    /// Returns how many frames were removed that can't be delivered any more, and the last sequence
    /// of these.
    pub(super) fn polled(
        &mut self,
        consumer: &ConsumerState,
        stream: &LastMessage,
        received: Received,
    ) -> Option<(u64, u64)> {
        let (waiting, sequence) = (consumer.num_pending, consumer.delivered.stream_seq);
        let done = match self.before {
            // Nothing waits of what the stream had at the poll before.
            Some(before) if waiting == 0 => before.last.max(sequence),
            Some(before) => before.done.max(sequence),
            None => received.taken,
        };
        let delivered = consumer.delivered.consumer_seq;
        let now = Extent { first: stream.first_seq, last: stream.last_seq, done, waiting, delivered };
        let before = self.before.replace(now)?;
        if self.filtered {
            return self.share(before, now, sequence);
        }
        // Until everything that the server sent is here, frames may be under way that were removed
        // since. The stream's state is that of the poll before: the consumer's is older than now.
        let removed = before.first.saturating_sub(1);
        let is_here = received.delivered >= consumer.delivered.consumer_seq;
        (is_here && removed > received.taken).then(|| (removed - received.taken, removed))
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "no stream holds 2^53 frames, and none of the numbers is negative"
    )]
    fn share(&mut self, before: Extent, now: Extent, sequence: u64) -> Option<(u64, u64)> {
        let removed = now.first.saturating_sub(1);
        let from = before.done.max(before.first.saturating_sub(1)).max(sequence);
        let own = before.waiting.saturating_sub(now.delivered.saturating_sub(before.delivered));
        let all = before.last.saturating_sub(from).max(own).max(1);
        self.rest += removed.saturating_sub(from) as f64 * (own as f64 / all as f64);
        let whole = self.rest as u64;
        self.rest -= whole as f64;
        (whole > 0).then_some((whole, removed))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The state after the last delivery, by its consumer and stream sequence.
    fn consumer(delivered: u64, sequence: u64, waiting: u64) -> ConsumerState {
        let last = json!({ "consumer_seq": delivered, "stream_seq": sequence });
        let state = json!({
            "ts": "2026-11-25T14:03:10Z",
            "num_pending": waiting,
            "num_ack_pending": 0,
            "num_waiting": 1,
            "delivered": last,
            "ack_floor": last,
            "config": { "deliver_policy": "all", "ack_policy": "all" },
        });
        serde_json::from_value(state).unwrap()
    }

    fn stream(first: u64, last: u64) -> LastMessage {
        let messages = (last + 1).saturating_sub(first);
        let state = json!({
            "messages": messages, "first_seq": first, "last_seq": last, "last_ts": "2026-11-25T14:03:10Z",
        });
        serde_json::from_value(state).unwrap()
    }

    fn received(delivered: u64, taken: u64) -> Received {
        Received { delivered, taken }
    }

    #[test]
    fn what_was_removed_and_is_not_followed_by_a_delivery_is_missed_at_the_next_poll() {
        let mut removals = Removals::new(false);
        assert_eq!(removals.polled(&consumer(10, 10, 0), &stream(1, 10), received(10, 10)), None);
        assert_eq!(removals.polled(&consumer(10, 10, 10), &stream(21, 20), received(10, 10)), None);
        let now = removals.polled(&consumer(10, 10, 0), &stream(21, 20), received(10, 10));
        assert_eq!(now, Some((10, 20)));
        assert_eq!(removals.polled(&consumer(10, 10, 0), &stream(21, 20), received(10, 20)), None);
    }

    #[test]
    fn what_was_removed_after_it_was_sent_is_not_missed() {
        let mut removals = Removals::new(false);
        for _ in 0..3 {
            let now = removals.polled(&consumer(20, 20, 0), &stream(21, 20), received(10, 10));
            assert_eq!(now, None, "ten are under way");
        }
        assert_eq!(removals.polled(&consumer(20, 20, 0), &stream(21, 20), received(20, 20)), None);
    }

    #[test]
    fn a_shard_missed_its_share_of_what_waited() {
        let mut removals = Removals::new(true);
        assert_eq!(removals.polled(&consumer(9, 100, 25), &stream(1, 200), received(9, 100)), None);
        let half = removals.polled(&consumer(9, 100, 13), &stream(151, 200), received(9, 100));
        assert_eq!(half, Some((12, 150)));
        let all = removals.polled(&consumer(9, 100, 0), &stream(201, 200), received(9, 100));
        assert_eq!(all, Some((13, 200)), "with the half before");
    }

    #[test]
    fn a_shard_without_frames_misses_none_of_the_others() {
        let mut removals = Removals::new(true);
        for first in (1..5000).step_by(500) {
            let now = removals.polled(&consumer(9, 100, 0), &stream(first, first + 1000), received(9, 100));
            assert_eq!(now, None, "{first}");
        }
        // One has just arrived, at the end.
        let last = stream(5001, 6000);
        assert_eq!(removals.polled(&consumer(9, 100, 1), &last, received(9, 100)), None);
        assert_eq!(removals.polled(&consumer(10, 6000, 0), &stream(5501, 6500), received(10, 6000)), None);
    }
}
