//! Gauges and counters of a place, as values.
//!
//! The live page reads them from the aggregates, a replay from its steps. What is computed from
//! them must not depend on where they came from, so both bring them into this form.
//!
//! Invariant: a rate or ratio of counters uses their growth between two readings, never their
//! absolute values.

use std::borrow::Cow;

use serde::Serialize;

use super::quantile::Buckets;

/// A server in a region, as series name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct ServerKey {
    pub(crate) region: String,
    pub(crate) server_url: String,
    pub(crate) server_type: String,
}

impl From<[Cow<'_, str>; 3]> for ServerKey {
    fn from(labels: [Cow<'_, str>; 3]) -> Self {
        let [region, server_url, server_type] = labels.map(Cow::into_owned);
        Self { region, server_url, server_type }
    }
}

/// The values of counters at one reading, or their growth between two.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Grown {
    pub(crate) samples: u64,
    pub(crate) concealed: u64,
    pub(crate) silent: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    pub(crate) operations: u64,
    pub(crate) expands: u64,
    pub(crate) freezes: u64,
    pub(crate) video_received: u64,
    pub(crate) video_lost: u64,
    /// Packets of audio and video.
    pub(crate) sent: u64,
    pub(crate) sent_lost: u64,
    /// Of round-trip times; only where they were asked for.
    pub(crate) rtt: Buckets,
}

impl Grown {
    /// Returns the growth since an earlier reading. A smaller value is one that began again at
    /// zero, of a server that had been removed, and counts whole.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let rtt = self.rtt.since(&earlier.rtt).unwrap_or_else(|| self.rtt.clone());
        let mut grown = Self { rtt, ..self.clone() };
        grown.each(earlier, |now, before| now.checked_sub(before).unwrap_or(now));
        grown
    }

    /// Adds the growth of another place.
    pub(crate) fn add(&mut self, other: &Self) {
        self.each(other, |own, other| own + other);
        self.rtt.merge(&other.rtt);
    }

    /// Combines each counter with the other's.
    fn each(&mut self, other: &Self, combine: fn(u64, u64) -> u64) {
        for (own, other) in [
            (&mut self.samples, other.samples),
            (&mut self.concealed, other.concealed),
            (&mut self.silent, other.silent),
            (&mut self.received, other.received),
            (&mut self.lost, other.lost),
            (&mut self.operations, other.operations),
            (&mut self.expands, other.expands),
            (&mut self.freezes, other.freezes),
            (&mut self.video_received, other.video_received),
            (&mut self.video_lost, other.video_lost),
            (&mut self.sent, other.sent),
            (&mut self.sent_lost, other.sent_lost),
        ] {
            *own = combine(*own, other);
        }
    }

    /// The share of the samples played that were concealed and audible.
    pub(crate) fn concealed_ratio(&self) -> Option<f64> {
        ratio(self.concealed.saturating_sub(self.silent), self.samples)
    }

    /// The share of the audio packets that were lost on the way.
    pub(crate) fn lost_ratio(&self) -> Option<f64> {
        ratio(self.lost, self.lost + self.received)
    }

    /// The share of the video packets that were lost on the way.
    pub(crate) fn video_lost_ratio(&self) -> Option<f64> {
        ratio(self.video_lost, self.video_lost + self.video_received)
    }

    /// The share of the sent packets that the far end lacks.
    pub(crate) fn sent_lost_ratio(&self) -> Option<f64> {
        ratio(self.sent_lost.min(self.sent), self.sent)
    }

    /// The share of NetEQ's decisions that stretched audio because packets were missing.
    pub(crate) fn expand_ratio(&self) -> Option<f64> {
        ratio(self.expands, self.operations)
    }
}

/// A part of a whole; `None` of an empty whole.
#[expect(clippy::cast_precision_loss, reason = "a ratio needs no more than 53 bits")]
pub(crate) fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_in_between_is_a_difference() {
        let buckets = |count| {
            let mut buckets = Buckets::default();
            buckets.add(f64::INFINITY, count);
            buckets
        };
        let earlier = Grown { samples: 10, lost: 1, rtt: buckets(2.0), ..Grown::default() };
        let later = Grown { samples: 30, lost: 1, rtt: buckets(5.0), ..Grown::default() };
        let between = later.since(&earlier);
        assert_eq!(between, Grown { samples: 20, rtt: buckets(3.0), ..Grown::default() });
        let again = Grown { samples: 7, rtt: buckets(1.0), ..Grown::default() };
        assert_eq!(again.since(&earlier), again, "it began again");
        let mut sum = Grown::default();
        sum.add(&between);
        sum.add(&between);
        assert_eq!((sum.samples, sum.rtt), (40, buckets(6.0)));
        assert_eq!(Grown::default().concealed_ratio(), None);
    }
}
