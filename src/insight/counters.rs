//! Gauges and counters of a place, as values.
//!
//! The live page reads them from the aggregates, a replay from its steps. What is computed from them must not depend
//! on where they came from, so both bring them into this form.
//!
//! Invariant: a rate or ratio of counters uses their growth between two readings, never their absolute values.

use super::quantile::Buckets;
use callsight_fold::series::aggregates::Signal;

/// A server in a region, as series name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServerKey {
    pub(crate) region: String,
    pub(crate) server_url: String,
    pub(crate) server_type: String,
}

/// A server's gauges, and the counters of which its rates are computed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ServerCounts {
    pub(crate) meetings: u64,
    pub(crate) sessions: u64,
    pub(crate) participants: u64,
    pub(crate) hidden: u64,
    pub(crate) degraded: u64,
    /// In the order of [`Signal::ALL`].
    pub(crate) degraded_by: [u64; Signal::ALL.len()],
    pub(crate) grown: Grown,
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
    /// Of round-trip times; only where they were asked for.
    pub(crate) rtt: Buckets,
}

impl Grown {
    /// Returns the growth since an earlier reading.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            samples: self.samples.saturating_sub(earlier.samples),
            concealed: self.concealed.saturating_sub(earlier.concealed),
            silent: self.silent.saturating_sub(earlier.silent),
            received: self.received.saturating_sub(earlier.received),
            lost: self.lost.saturating_sub(earlier.lost),
            operations: self.operations.saturating_sub(earlier.operations),
            expands: self.expands.saturating_sub(earlier.expands),
            freezes: self.freezes.saturating_sub(earlier.freezes),
            rtt: self.rtt.since(&earlier.rtt).unwrap_or_default(),
        }
    }

    /// Adds the growth of another place.
    pub(crate) fn add(&mut self, other: &Self) {
        self.samples += other.samples;
        self.concealed += other.concealed;
        self.silent += other.silent;
        self.received += other.received;
        self.lost += other.lost;
        self.operations += other.operations;
        self.expands += other.expands;
        self.freezes += other.freezes;
        self.rtt.merge(&other.rtt);
    }

    /// The share of the samples played that were concealed and audible.
    pub(crate) fn concealed_ratio(&self) -> Option<f64> {
        ratio(self.concealed.saturating_sub(self.silent), self.samples)
    }

    /// The share of the audio packets that were lost on the way.
    pub(crate) fn lost_ratio(&self) -> Option<f64> {
        ratio(self.lost, self.lost + self.received)
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
        let mut sum = Grown::default();
        sum.add(&between);
        sum.add(&between);
        assert_eq!((sum.samples, sum.rtt), (40, buckets(6.0)));
        assert_eq!(Grown::default().concealed_ratio(), None);
    }
}
