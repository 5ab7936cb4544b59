//! Percentiles and how sure of them a single run can be.
//!
//! Percentiles are nearest ranks on exact values. Their intervals rest on an effective sample
//! size, because requests that follow each other share the server's moods: 2,000 of them may be
//! worth 200 independent ones. Pure functions; nothing here knows what was measured.

use statrs::distribution::{Beta, ContinuousCDF};
use std::ops::Range;

/// A percentile that is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percentile {
    /// Its name in files.
    pub(crate) name: &'static str,
    /// In thousandths, so that ranks are reckoned in integers.
    permille: u64,
    /// Fewest values for which it is given at all: 1 / (1 - p).
    pub(crate) least: u64,
    /// Fewest values for which its 95 % interval has two ends.
    pub(crate) plain: u64,
}

/// Every percentile that is reported, rising.
pub(crate) const PERCENTILES: [Percentile; 5] = [
    Percentile { name: "p50", permille: 500, least: 2, plain: 6 },
    Percentile { name: "p90", permille: 900, least: 10, plain: 36 },
    Percentile { name: "p95", permille: 950, least: 20, plain: 72 },
    Percentile { name: "p99", permille: 990, least: 100, plain: 368 },
    Percentile { name: "p99_9", permille: 999, least: 1_000, plain: 3_688 },
];

/// The median.
pub const P50: Percentile = PERCENTILES[0];
/// The 90th percentile.
pub(crate) const P90: Percentile = PERCENTILES[1];
/// The 95th percentile.
pub(crate) const P95: Percentile = PERCENTILES[2];
/// The 99th percentile.
pub const P99: Percentile = PERCENTILES[3];

impl Percentile {
    /// Its nearest rank among `n` values, from 1. 0 where there are none.
    pub(crate) fn rank(self, n: u64) -> u64 {
        (n * self.permille).div_ceil(1_000)
    }

    /// The value of its nearest rank. None: there are no values.
    #[must_use]
    pub fn of<T: Copy>(self, sorted: &[T]) -> Option<T> {
        let rank = usize::try_from(self.rank(sorted.len() as u64)).ok()?;
        sorted.get(rank.checked_sub(1)?).copied()
    }

    /// The least value such that values of enough weight lie at or below it. None: there are no values.
    pub(crate) fn of_weighted(self, mut values: Vec<(f64, f64)>) -> Option<f64> {
        values.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let all: f64 = values.iter().map(|(_, weight)| weight).sum();
        let mut below = 0.0;
        let reached = values.iter().find(|(_, weight)| {
            below += weight;
            // Sums of weights are rounded.
            below >= all * (self.share() - 1e-9)
        });
        reached.or(values.last()).map(|&(value, _)| value)
    }

    /// As a share of 1.
    pub(crate) fn share(self) -> f64 {
        self.permille as f64 / 1_000.0
    }
}

/// Values in rising order, as ranks want them.
#[must_use]
pub fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// Rounded to the sixth decimal: nanoseconds, where the unit is milliseconds.
#[must_use]
pub fn tidy(x: f64) -> f64 {
    (x * 1e6).round() / 1e6
}

/// Batches into which a run is cut to see how far its values hang together.
pub(crate) const BATCHES: usize = 10;

/// Student's t at 97.5 % with nine degrees of freedom: ten batches.
const T_9: f64 = 2.262_157;
/// The normal quantile at 97.5 %.
const Z: f64 = 1.959_964;
/// Half of what a 95 % interval leaves out.
const TAIL: f64 = 0.025;

/// The part of `n` values, in order of time, that is batch `b`.
pub(crate) fn batch(n: usize, b: usize) -> Range<usize> {
    b * n / BATCHES..(b + 1) * n / BATCHES
}

/// How many independent values `series`, in order of time, is worth for percentile `p` whose
/// value is `at`.
pub(crate) fn effective_size<T: PartialOrd>(series: &[T], p: Percentile, at: &T) -> f64 {
    let n = series.len();
    if n < BATCHES {
        return n as f64;
    }
    let means = std::array::from_fn(|b| {
        let part = &series[batch(n, b)];
        // Counted in 32 bits, which takes several at a time.
        part.iter().map(|x| u32::from(x > at)).sum::<u32>() as f64 / part.len() as f64
    });
    let v = variance_of_mean(&means);
    if v == 0.0 {
        return n as f64;
    }
    let p = p.share();
    (p * (1.0 - p) / v * (Z / T_9).powi(2)).min(n as f64)
}

/// The ranks, from 1, between which the true percentile lies with 95 %, when `n` values are worth
/// `n_eff` independent ones. None: that end is open.
pub(crate) fn interval_ranks(n: u64, n_eff: f64, p: Percentile) -> (Option<u64>, Option<u64>) {
    let q = p.share();
    let (above, below) = (n_eff * q, n_eff * (1.0 - q));
    let quantile = |x, a, b| Beta::new(a, b).map(|beta| beta.inverse_cdf(x)).ok();
    let low = quantile(TAIL, above, below + 1.0).map(|x| (n as f64 * x).floor());
    let high = quantile(1.0 - TAIL, above + 1.0, below).map(|x| (n as f64 * x).ceil());
    let rank = |x: Option<f64>| x.filter(|&x| x >= 1.0 && x <= n as f64).map(|x| x as u64);
    (rank(low), rank(high))
}

/// By what factor a run would have to be longer before it can know the error of percentile `p`.
/// None: it is long enough. `n_eff_p50` and `n_eff` are the effective sizes for the median and for
/// `p`.
pub(crate) fn too_short_by(n_eff_p50: f64, n_eff: f64, p: Percentile) -> Option<f64> {
    const LEAST_FOR_MEDIAN: f64 = 100.0;
    const LEAST_IN_TAIL: f64 = 10.0;
    let tail = n_eff * (1_000 - p.permille) as f64 / 1_000.0;
    let factor = (LEAST_FOR_MEDIAN / n_eff_p50).max(LEAST_IN_TAIL / tail);
    (factor > 1.0).then_some(factor)
}

/// The mean of ten batch means and the half-width of its 95 % interval.
pub(crate) fn mean_interval(means: &[f64; BATCHES]) -> [f64; 2] {
    let mean = means.iter().sum::<f64>() / BATCHES as f64;
    let half = T_9 * variance_of_mean(means).sqrt();
    [mean - half, mean + half]
}

fn variance_of_mean(means: &[f64; BATCHES]) -> f64 {
    let batches = BATCHES as f64;
    let mean = means.iter().sum::<f64>() / batches;
    let squares: f64 = means.iter().map(|m| (m - mean).powi(2)).sum();
    squares / (batches - 1.0) / batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_rank_is_the_nearest_one_and_not_one_above() {
        let check = |p: Percentile, n, rank| assert_eq!(p.rank(n), rank, "{} of {n}", p.name);
        check(P50, 8, 4);
        check(P50, 7, 4);
        check(P95, 20, 19);
        check(P99, 100, 99);
        check(P99, 101, 100);
        check(PERCENTILES[4], 1_000, 999);
        check(P50, 0, 0);
    }

    #[test]
    fn a_weighted_percentile_is_that_of_values_repeated_by_their_weight() {
        for n in 1..200_usize {
            let values: Vec<(f64, f64)> =
                (0..n).map(|i| ((i * 7_919 % n) as f64, (i % 3) as f64 / 4.0)).collect();
            let repeat = |&(value, weight): &(f64, f64)| vec![value; (weight * 4.0) as usize];
            let repeated = sorted(values.iter().flat_map(repeat).collect());
            for p in PERCENTILES {
                let wanted = p.of(&repeated);
                if wanted.is_some() {
                    assert_eq!(p.of_weighted(values.clone()), wanted, "{} of {n}", p.name);
                }
            }
        }
        assert_eq!(P95.of_weighted(Vec::new()), None);
    }

    proptest! {
        #[test]
        fn a_percentile_is_the_smallest_value_that_enough_do_not_exceed(
            mut values in prop::collection::vec(0u32..50, 1..400), which in 0..PERCENTILES.len(),
        ) {
            let p = PERCENTILES[which];
            values.sort_unstable();
            let at_most = |x: u32| values.iter().filter(|&&v| v <= x).count() as u64;
            let wanted = values.iter().copied()
                .find(|&x| at_most(x) * 1_000 >= values.len() as u64 * p.permille);
            prop_assert_eq!(p.of(&values), wanted);
        }
    }

    /// Against published Clopper-Pearson limits: 50, 90 and 95 of 100 lie within 0.3983 to 0.6017,
    /// 0.8238 to 0.9510 and 0.8872 to 0.9836.
    #[test]
    fn ranks_are_clopper_pearson_limits_rounded_outwards() {
        let check = |n: u64, n_eff: f64, p: Percentile, low, high| {
            let ranks = interval_ranks(n, n_eff, p);
            assert_eq!(ranks, (Some(low), Some(high)), "{} of {n}", p.name);
        };
        check(100, 100.0, P50, 39, 61);
        check(100, 100.0, P90, 82, 96);
        check(100, 100.0, P95, 88, 99);
        // Worth a tenth: as wide as a tenth of the values would make it.
        check(1_000, 100.0, P50, 398, 602);
        check(10, 10.0, P50, 1, 9);
    }

    #[test]
    fn a_percentile_is_plain_from_the_size_at_which_its_interval_has_two_ends() {
        for p in PERCENTILES {
            assert_eq!(p.plain, (TAIL.ln() / p.share().ln()).ceil() as u64, "{}", p.name);
            assert_eq!(p.least, 1_000 / (1_000 - p.permille), "{}", p.name);
        }
    }

    #[test]
    fn intervals_of_independent_streams_cover_the_truth() {
        const SETS: usize = 2_000;
        let mut random = 1u64;
        // Splitmix64: uniform, so that the true percentile is the share itself.
        let mut uniform = || {
            random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = random;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) as f64 / u64::MAX as f64
        };
        let mut covered = [0usize; 3];
        for _ in 0..SETS {
            let series: Vec<f64> = (0..1_500).map(|_| uniform()).collect();
            let sorted = sorted(series.clone());
            for (p, covered) in [P50, P90, P95].into_iter().zip(&mut covered) {
                let n_eff = effective_size(&series, p, &p.of(&sorted).unwrap());
                let (low, high) = interval_ranks(1_500, n_eff, p);
                let end = |rank: Option<u64>, open| rank.map_or(open, |r| sorted[r as usize - 1]);
                let inside = end(low, 0.0)..=end(high, 1.0);
                *covered += usize::from(inside.contains(&p.share()));
            }
        }
        for (share, p) in covered.map(|c| c as f64 / SETS as f64).into_iter().zip([P50, P90, P95]) {
            assert!((0.94..=0.99).contains(&share), "{}: {share}", p.name);
        }
    }

    #[test]
    fn values_that_hang_together_are_worth_fewer() {
        let alone: Vec<u32> = (0..1_000u32).map(|i| i * 7_919 % 1_000).collect();
        let rising: Vec<u32> = (0..1_000).collect();
        assert!(effective_size(&alone, P50, &499) > 900.0);
        assert!(effective_size(&rising, P50, &499) < 10.0);
        assert_eq!(effective_size(&[5; 100], P50, &5), 100.0);
    }

    #[test]
    fn a_run_too_short_for_its_own_error_says_by_how_much() {
        assert_eq!(too_short_by(1_000.0, 1_000.0, P99), None);
        assert_eq!(too_short_by(50.0, 1_000.0, P99), Some(2.0));
        assert_eq!(too_short_by(1_000.0, 250.0, P99), Some(4.0));
    }

    #[test]
    fn the_interval_of_a_mean_is_students() {
        let [low, high] = mean_interval(&[1., 2., 3., 4., 5., 6., 7., 8., 9., 10.]);
        // Standard error sqrt(82.5 / 9 / 10) = 0.957427.
        assert!((low - (5.5 - 2.262_157 * 0.957_427)).abs() < 1e-5);
        assert!((high - (5.5 + 2.262_157 * 0.957_427)).abs() < 1e-5);
    }
}
