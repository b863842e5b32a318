//! Quantiles, of single values and of histogram buckets.
//!
//! Live sessions give single values; counted observations give only buckets. Each has one way to
//! compute a quantile, so that two views of the same data show the same number.
//!
//! Invariant: a quantile of buckets equals Prometheus's `histogram_quantile` over the same counts.

/// Returns the smallest value that at least `percent` of 100 values do not exceed; `None` if there
/// are no values. Reorders the values.
pub(crate) fn percentile(values: &mut [f64], percent: usize) -> Option<f64> {
    let rank = (values.len() * percent).div_ceil(100).saturating_sub(1);
    if values.is_empty() {
        return None;
    }
    Some(*values.select_nth_unstable_by(rank, f64::total_cmp).1)
}

/// Cumulative counts by upper bound, of one histogram or the sum of several.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Buckets(Vec<(f64, f64)>);

impl Buckets {
    /// Adds a cumulative `count` of observations up to `bound`, which is infinite in the last
    /// bucket.
    pub(crate) fn add(&mut self, bound: f64, count: f64) {
        match self.0.binary_search_by(|(known, _)| known.total_cmp(&bound)) {
            Ok(at) => self.0[at].1 += count,
            Err(at) => self.0.insert(at, (bound, count)),
        }
    }

    /// Adds the observations of another histogram with the same bounds.
    pub(crate) fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|&(bound, count)| self.add(bound, count));
    }

    /// Returns the observations between an `earlier` reading and this one; `None` if a count
    /// decreased.
    pub(crate) fn since(&self, earlier: &Self) -> Option<Self> {
        let before =
            |bound: f64| earlier.0.iter().find(|(known, _)| *known == bound).map_or(0.0, |(_, n)| *n);
        let grown: Vec<_> = self.0.iter().map(|&(bound, count)| (bound, count - before(bound))).collect();
        grown.iter().all(|(_, count)| *count >= 0.0).then_some(Self(grown))
    }

    /// The number of observations.
    pub(crate) fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }

    /// Returns a quantile between 0 and 1, interpolated within its bucket; beyond all finite
    /// bounds, the last of them. `None` without observations.
    pub(crate) fn quantile(&self, quantile: f64) -> Option<f64> {
        let rank = quantile * self.count();
        if self.count() <= 0.0 {
            return None;
        }
        let (mut lower, mut below) = (0.0, 0.0);
        for &(bound, count) in &self.0 {
            if count >= rank {
                if bound.is_infinite() {
                    return Some(lower);
                }
                let share = if count > below { (rank - below) / (count - below) } else { 1.0 };
                return Some(lower + (bound - lower) * share);
            }
            (lower, below) = (bound, count);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(
            [50, 95, 99, 100].map(|percent| percentile(&mut values, percent)),
            [Some(50.0), Some(95.0), Some(99.0), Some(100.0)]
        );
        assert_eq!(percentile(&mut [7.0], 99), Some(7.0));
        assert_eq!(percentile(&mut [2.0, 1.0], 50), Some(1.0));
        assert_eq!(percentile(&mut [], 50), None);
    }

    fn buckets(counts: [f64; 4]) -> Buckets {
        let mut buckets = Buckets::default();
        for (bound, count) in [0.1, 0.2, 0.4, f64::INFINITY].into_iter().zip(counts) {
            buckets.add(bound, count);
        }
        buckets
    }

    #[test]
    fn quantiles_of_buckets_are_interpolated() {
        assert_eq!(Buckets::default().quantile(0.5), None);
        assert_eq!(buckets([0.0; 4]).quantile(0.5), None);
        assert_eq!(buckets([10.0; 4]).quantile(0.5), Some(0.05));
        assert_eq!(buckets([5.0, 5.0, 10.0, 10.0]).quantile(0.5), Some(0.1));
        let middle = buckets([5.0, 5.0, 10.0, 10.0]).quantile(0.75).unwrap();
        assert!((middle - 0.3).abs() < 1e-12, "{middle}");
        assert_eq!(buckets([1.0, 1.0, 1.0, 10.0]).quantile(0.95), Some(0.4), "beyond the last finite bound");
    }

    #[test]
    fn growth_is_a_difference_and_a_decrease_is_a_restart() {
        let (earlier, later) = (buckets([1.0, 2.0, 3.0, 4.0]), buckets([1.0, 4.0, 5.0, 9.0]));
        let grown = later.since(&earlier).unwrap();
        assert_eq!(grown, buckets([0.0, 2.0, 2.0, 5.0]));
        assert_eq!(earlier.since(&later), None);
        let mut sum = grown.clone();
        sum.merge(&grown);
        assert_eq!((sum, later.since(&Buckets::default())), (buckets([0.0, 4.0, 4.0, 10.0]), Some(later)));
    }
}
