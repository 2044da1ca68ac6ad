//! What many times of one thing come to.

/// Times in microseconds.
pub(crate) type Sample = Vec<f64>;

/// A sample without its slowest tenth.
pub(crate) struct Summary {
    pub(crate) count: usize,
    pub(crate) median: f64,
    /// The median of the distances from the median.
    pub(crate) mad: f64,
    mean: f64,
    /// The variance of the mean.
    error: f64,
}

impl Summary {
    pub(crate) fn new(sample: &Sample) -> Self {
        let mut kept = sample.clone();
        kept.sort_by(f64::total_cmp);
        kept.truncate(kept.len() * 9 / 10);
        let middle = median(&kept);
        let mut distances: Vec<f64> = kept.iter().map(|time| (time - middle).abs()).collect();
        distances.sort_by(f64::total_cmp);
        #[expect(clippy::cast_precision_loss, reason = "there are thousands")]
        let count = kept.len().max(2) as f64;
        let mean = kept.iter().sum::<f64>() / count;
        let variance = kept.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        Self { count: kept.len(), median: middle, mad: median(&distances), mean, error: variance / count }
    }
}

/// The middle of what is sorted.
fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Welch's t of two means.
pub(crate) fn welch(one: &Summary, other: &Summary) -> f64 {
    (one.mean - other.mean) / (one.error + other.error).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_found_and_none_is_not() {
        let sample = |shift: f64| (0..1000_u32).map(|n| f64::from(n * 7 % 101) + shift).collect::<Sample>();
        let (one, same, other) = (Summary::new(&sample(0.0)), Summary::new(&sample(0.0)), Summary::new(&sample(10.0)));
        assert!(welch(&one, &same).abs() < 1e-9 && welch(&one, &other) < -4.5);
        assert_eq!((one.count, one.median.round()), (900, 45.0));
    }
}
