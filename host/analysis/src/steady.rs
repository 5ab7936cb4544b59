//! Whether a stretch of time was steady: where a transient ends, whether values drift, whether
//! requests under way pile up. Pure functions; nothing here knows what was measured.

use crate::statistics::{BATCHES, P50, batch, sorted};

/// Values of a batch of [`transient`].
const MSER_BATCH: usize = 5;
/// The last batches say too little of the rest's scatter to end a transient.
const MSER_REST: usize = 5;

/// How many of `series`' first values belong to a transient: the cut that makes the error of the
/// mean of what remains smallest (MSER-5). None: there are too few values, or the cut lies in the
/// second half, which tells nothing.
pub(crate) fn transient(series: &[f64]) -> Option<usize> {
    let means: Vec<f64> = series
        .chunks_exact(MSER_BATCH)
        .map(|batch| batch.iter().sum::<f64>() / MSER_BATCH as f64)
        .collect();
    if means.len() < 2 * MSER_REST {
        return None;
    }
    // From the end: mean and sum of squares of all batches from each one on.
    let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
    let mut best = (f64::INFINITY, means.len());
    for (first, &value) in means.iter().enumerate().rev() {
        count += 1.0;
        let before = value - mean;
        mean += before / count;
        squares += before * (value - mean);
        let error = squares / (count * count);
        // Of equal errors the earlier cut is taken: it leaves more.
        if first + MSER_REST <= means.len() && error <= best.0 {
            best = (error, first);
        }
    }
    (2 * best.1 <= means.len()).then_some(best.1 * MSER_BATCH)
}

/// A straight line through ten values, evenly spaced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Trend {
    /// By how much it rises over the whole length.
    pub(crate) rise: f64,
    /// Its slope against the error of that: Student's t with eight degrees of freedom.
    pub(crate) t: f64,
}

impl Trend {
    /// |t| that a level line exceeds in 1 of 100 cases.
    pub(crate) const TWO_SIDED: f64 = 3.355_387;
    /// t that a level line exceeds in 1 of 100 cases.
    pub(crate) const ONE_SIDED: f64 = 2.896_459;

    /// Through these by least squares.
    pub(crate) fn of(values: &[f64; BATCHES]) -> Self {
        let n = BATCHES as f64;
        let at = |i: usize| i as f64 - (n - 1.0) / 2.0;
        let mean = values.iter().sum::<f64>() / n;
        let spread: f64 = (0..BATCHES).map(|i| at(i).powi(2)).sum();
        let slope = (0..BATCHES).map(|i| at(i) * (values[i] - mean)).sum::<f64>() / spread;
        let rest: f64 = (0..BATCHES).map(|i| (values[i] - mean - slope * at(i)).powi(2)).sum();
        let error = (rest / (n - 2.0) / spread).sqrt();
        // Differences beyond what floating point can tell apart are none.
        let slope = if slope.abs() <= 1e-12 * mean.abs() { 0.0 } else { slope };
        let t = if slope == 0.0 { 0.0 } else { slope / error };
        Self { rise: slope * n, t }
    }
}

/// The line through the medians of ten batches of `series`, in order of time. None: too few.
pub(crate) fn drift(series: &[f64]) -> Option<Trend> {
    const LEAST: usize = 10 * BATCHES;
    if series.len() < LEAST {
        return None;
    }
    let medians = std::array::from_fn(|b| {
        let part = sorted(series[batch(series.len(), b)].to_vec());
        P50.of(&part).unwrap_or_default()
    });
    Some(Trend::of(&medians))
}

/// The mean number of `spans`, each from a beginning to an end, that are under way in each tenth
/// of the time from `from` to `to`.
pub(crate) fn under_way(
    spans: impl Iterator<Item = (u64, u64)>,
    from: u64,
    to: u64,
) -> [f64; BATCHES] {
    let tenth = (to.saturating_sub(from) as f64 / BATCHES as f64).max(1.0);
    let mut sums = [0.0; BATCHES];
    for (begin, end) in spans.filter(|span| span.1 > from && span.0 < to) {
        let begin = begin.saturating_sub(from) as f64 / tenth;
        let end = ((end - from) as f64 / tenth).min(BATCHES as f64);
        for (b, sum) in sums.iter_mut().enumerate().skip(begin as usize) {
            let slice = (b as f64).max(begin)..((b + 1) as f64).min(end);
            if slice.is_empty() {
                break;
            }
            *sum += slice.end - slice.start;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, StandardNormal};

    /// Logarithms of latencies: a correlated mood of standard deviation 0.2, and noise of 0.4.
    fn latencies(random: &mut ChaCha8Rng, n: usize, phi: f64) -> Vec<f64> {
        let mut normal = || -> f64 { StandardNormal.sample(random) };
        let mut mood = 0.2 * normal();
        let mut next = || {
            mood = phi * mood + 0.2 * (1.0 - phi * phi).sqrt() * normal();
            mood + 0.4 * normal()
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn a_transient_ends_where_the_level_begins() {
        let level = |i: usize| (i * 7 % 5) as f64 * 0.01;
        let stepped: Vec<f64> = (0..500).map(|i| level(i) + f64::from(u8::from(i < 60))).collect();
        assert_eq!(transient(&stepped), Some(60));
        assert_eq!(transient(&(0..500).map(level).collect::<Vec<_>>()), Some(0));
        assert_eq!(transient(&[3.0; 100]), Some(0));
        // By hand: batch means 9 9 1 2 1 2 1 2 1 2 1 2 are best cut after the second.
        let by_hand = [9.0, 9.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0];
        let series: Vec<f64> = by_hand.iter().flat_map(|&mean| [mean; 5]).collect();
        assert_eq!(transient(&series), Some(10));
    }

    #[test]
    fn a_transient_of_most_of_the_run_or_of_a_few_values_is_none() {
        let late: Vec<f64> = (0..500).map(|i| f64::from(u8::from(i < 300))).collect();
        assert_eq!(transient(&late), None);
        assert_eq!(transient(&[1.0; 49]), None);
    }

    #[test]
    fn the_trend_is_the_line_of_least_squares() {
        let line = Trend::of(&std::array::from_fn(|i| 2.0 + 0.5 * i as f64));
        assert!((line.rise - 5.0).abs() < 1e-12 && line.t > 1e6, "{line:?}");
        assert_eq!(Trend::of(&[7.0; 10]), Trend { rise: 0.0, t: 0.0 });
        // By hand: the slope is 30 / 82.5, the rest 285 / 11 - 30^2 / 82.5, ...
        let values = [1.0, 3.0, 2.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 4.0];
        let trend = Trend::of(&values);
        let slope: f64 =
            values.iter().zip(0..).map(|(v, i)| v * (f64::from(i) - 4.5)).sum::<f64>() / 82.5;
        let mean = 3.1;
        let all: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
        let error = ((all - slope * slope * 82.5) / 8.0 / 82.5).sqrt();
        assert!((trend.rise - 10.0 * slope).abs() < 1e-12);
        assert!((trend.t - slope / error).abs() < 1e-9);
    }

    #[test]
    fn what_is_under_way_is_a_mean_over_time() {
        let tenths = under_way([(0, 100), (50, 60), (95, 300), (200, 300)].into_iter(), 0, 100);
        assert_eq!(tenths, [1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 1.5]);
        assert_eq!(under_way(std::iter::empty(), 5, 5), [0.0; 10]);
    }

    /// The share of `sets` seeded streams for which something fires.
    fn share(sets: u64, fires: impl Fn(&mut ChaCha8Rng) -> bool) -> f64 {
        (0..sets).filter(|&set| fires(&mut ChaCha8Rng::seed_from_u64(set))).count() as f64
            / sets as f64
    }

    fn drifts(series: &[f64]) -> bool {
        drift(series).is_some_and(|t| t.t.abs() > Trend::TWO_SIDED && t.rise.abs() > 0.05)
    }

    #[test]
    fn level_streams_seldom_seem_to_drift_and_drifting_ones_mostly_do() {
        let quiet = |phi: f64| share(500, |random| drifts(&latencies(random, 2_000, phi)));
        for (phi, most) in [(0.0, 0.025), (0.95, 0.035), (0.99, 0.08)] {
            let fired = quiet(phi);
            assert!(fired <= most, "phi {phi}: {fired}");
        }
        let rising = share(200, |random| {
            let mut series = latencies(random, 2_000, 0.0);
            let rise = 1.3_f64.ln() / 2_000.0;
            series.iter_mut().zip(0..).for_each(|(x, i)| *x += rise * f64::from(i));
            drifts(&series)
        });
        assert!(rising >= 0.9, "{rising}");
    }

    #[test]
    fn streams_without_a_transient_are_seldom_cut_and_those_with_one_mostly_are() {
        let cut = |series: &[f64]| transient(series).is_some_and(|cut| cut * 10 > series.len());
        for (n, phi, most) in [(1_000, 0.0, 0.01), (1_000, 0.95, 0.04), (2_000, 0.95, 0.01)] {
            let fired = share(300, |random| cut(&latencies(random, n, phi)));
            assert!(fired <= most, "{n} with phi {phi}: {fired}");
        }
        let stepped = share(200, |random| {
            let mut series = latencies(random, 2_000, 0.0);
            series[..400].iter_mut().for_each(|x| *x += 1.0);
            cut(&series)
        });
        assert!(stepped >= 0.95, "{stepped}");
    }
}
