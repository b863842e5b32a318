//! Histograms with the buckets of the catalogue, counted where they are observed.
//!
//! A frame of ten parties brings some twenty observations. The exporter library keeps each of them,
//! with its moment, until somebody scrapes or an upkeep task comes by, and only then sorts it into
//! a bucket: four operations between processors and 24 bytes apiece, and a heap that grows with the
//! rate of frames. Here the buckets are known beforehand, so an observation is counted in its
//! bucket at once, which costs two relaxed additions and needs no upkeep.
//!
//! Invariant: recording neither allocates nor locks, and concurrent observations are all counted.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use metrics::HistogramFn;

/// The observations of one label set.
pub(super) struct Buckets {
    bounds: &'static [f64],
    /// The observations in each bucket alone, and at the end those beyond all bounds.
    counts: Box<[AtomicU64]>,
    /// The bits of the sum.
    sum: AtomicU64,
}

/// What a histogram has observed up to one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Observations {
    /// The observations in each bucket alone, in the order of the bounds, and at the end those
    /// beyond all bounds.
    pub(super) counts: Vec<u64>,
    /// The sum of the observed values, in the unit of the metric.
    pub sum: f64,
}

impl Observations {
    /// The observations up to each bound, as a page shows them; the last is [`Self::count`].
    pub fn cumulative(&self) -> impl Iterator<Item = u64> {
        self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        })
    }

    /// The number of observations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

impl Buckets {
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0.0_f64.to_bits()) }
    }

    pub(super) fn observations(&self) -> Observations {
        let counts = self.counts.iter().map(|count| count.load(Relaxed)).collect();
        Observations { counts, sum: f64::from_bits(self.sum.load(Relaxed)) }
    }

    /// Writes the lines of a series with these labels, in format 0.0.4.
    pub(super) fn write(&self, name: &str, labels: &str, sink: &mut impl Write) -> io::Result<()> {
        let (comma, braced) = match labels {
            "" => ("", String::new()),
            labels => (",", format!("{{{labels}}}")),
        };
        let observations = self.observations();
        let bounds = self.bounds.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(observations.cumulative()) {
            writeln!(sink, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}")?;
        }
        let (sum, count) = (observations.sum, observations.count());
        writeln!(sink, "{name}_sum{braced} {sum}\n{name}_count{braced} {count}")
    }
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        self.record_many(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        // Comparing with all of a dozen bounds takes less than guessing wrong where to stop.
        let place = self.bounds.iter().map(|bound| usize::from(value > *bound)).sum::<usize>();
        self.counts[place].fetch_add(count as u64, Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "nobody observes 2^53 times at once")]
        let more = value * count as f64;
        let mut before = self.sum.load(Relaxed);
        loop {
            let after = (f64::from_bits(before) + more).to_bits();
            match self.sum.compare_exchange_weak(before, after, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => before = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: &[f64] = &[0.001, 0.1, 0.3, 1.0];

    #[test]
    fn an_observation_is_in_every_bucket_that_it_does_not_exceed() {
        let ratio = Buckets::new(BOUNDS);
        for value in [0.0, 0.001, 0.0011, 1.0, 7.5] {
            ratio.record(value);
        }
        ratio.record_many(0.25, 2);
        let mut text = Vec::new();
        ratio.write("ratio", "region=\"u\\\"s\"", &mut text).unwrap();
        let expected = "ratio_bucket{region=\"u\\\"s\",le=\"0.001\"} 2\n\
             ratio_bucket{region=\"u\\\"s\",le=\"0.1\"} 3\n\
             ratio_bucket{region=\"u\\\"s\",le=\"0.3\"} 5\n\
             ratio_bucket{region=\"u\\\"s\",le=\"1\"} 6\n\
             ratio_bucket{region=\"u\\\"s\",le=\"+Inf\"} 7\n\
             ratio_sum{region=\"u\\\"s\"} 9.0021\n\
             ratio_count{region=\"u\\\"s\"} 7\n";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
        assert_eq!(ratio.observations().counts, [2, 1, 2, 1, 1]);
    }

    #[test]
    fn without_labels_there_are_no_empty_braces() {
        let seconds = Buckets::new(&[10.0]);
        seconds.record(3600.0);
        let mut text = Vec::new();
        seconds.write("seconds", "", &mut text).unwrap();
        let expected = "seconds_bucket{le=\"10\"} 0\nseconds_bucket{le=\"+Inf\"} 1\n\
             seconds_sum 3600\nseconds_count 1\n";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn threads_lose_nothing() {
        let seconds = Buckets::new(BOUNDS);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| seconds.record(0.5)));
            }
        });
        let observations = seconds.observations();
        assert_eq!((observations.count(), observations.sum), (40_000, 20_000.0));
    }
}
