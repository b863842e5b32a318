//! Quantiles: of values that are there, and of a histogram's buckets.

/// The smallest of some values that at least so many percent of them don't exceed; nothing of nothing. Puts the
/// values into another order.
pub(in crate::serve) fn percentile(values: &mut [f64], percent: usize) -> Option<f64> {
    let rank = (values.len() * percent).div_ceil(100).saturating_sub(1);
    if values.is_empty() {
        return None;
    }
    Some(*values.select_nth_unstable_by(rank, f64::total_cmp).1)
}

/// The quantile of observations that were counted in buckets, each alone and at the end those beyond all bounds: by
/// interpolation in the bucket, as Prometheus's `histogram_quantile` does it.
#[expect(clippy::cast_precision_loss, reason = "nobody observes 2^53 times in a minute")]
pub(super) fn of_buckets(bounds: &[f64], counts: &[u64], percent: u32) -> Option<f64> {
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return None;
    }
    let rank = total as f64 * f64::from(percent) / 100.0;
    let mut below = 0;
    for (index, count) in counts.iter().enumerate() {
        if (below + count) as f64 >= rank && *count > 0 {
            let Some(upper) = bounds.get(index) else { break };
            let lower = index.checked_sub(1).map_or(0.0, |index| bounds[index]);
            return Some(lower + (upper - lower) * (rank - below as f64) / *count as f64);
        }
        below += count;
    }
    bounds.last().copied()
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

    #[test]
    fn quantiles_of_buckets_are_interpolated() {
        let bounds = [0.1, 0.2, 0.4];
        assert_eq!(of_buckets(&bounds, &[0, 0, 0, 0], 50), None);
        assert_eq!(of_buckets(&bounds, &[10, 0, 0, 0], 50), Some(0.05));
        assert_eq!(of_buckets(&bounds, &[5, 0, 5, 0], 50), Some(0.1));
        let middle = of_buckets(&bounds, &[5, 0, 5, 0], 75).unwrap();
        assert!((middle - 0.3).abs() < 1e-12, "{middle}");
        // What is beyond all bounds is at least the last of them.
        assert_eq!(of_buckets(&bounds, &[1, 0, 0, 9], 95), Some(0.4));
    }
}
