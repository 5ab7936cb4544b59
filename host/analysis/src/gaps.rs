//! [`Gaps`]: the pooled gaps between output tokens, of which a long run has too many to keep.

use hdrhistogram::Histogram;

/// Gaps between output tokens, in the order in which requests ended.
///
/// Exact as long as the run has fewer than [`Gaps::EXACT`]; beyond, a histogram whose buckets are
/// 0.1 % wide.
#[derive(Debug, Clone)]
pub(crate) enum Gaps {
    /// In milliseconds. Single precision keeps a gap of 16 ms to the nanosecond at half the size.
    Exact(Vec<f32>),
    /// In nanoseconds.
    Counted(Box<Counted>),
}

/// Many gaps, counted in buckets; their moments are exact.
#[derive(Debug, Clone)]
pub(crate) struct Counted {
    pub(crate) buckets: Histogram<u64>,
    pub(crate) sum: f64,
    pub(crate) squares: f64,
}

impl Default for Gaps {
    fn default() -> Self {
        Self::Exact(Vec::new())
    }
}

impl Gaps {
    /// Most gaps of a run that are kept as they are: 80 MB, and as much twice more while they are sorted.
    pub(crate) const EXACT: usize = 20_000_000;

    /// Adds `count` gaps of so many nanoseconds each.
    pub(crate) fn push(&mut self, nanos: f64, count: u32) {
        match self {
            // A server may claim any number of tokens in a chunk.
            Self::Exact(values) if values.len() + count as usize > Self::EXACT => {
                self.count();
                self.push(nanos, count);
            }
            Self::Exact(values) => {
                values.extend(std::iter::repeat_n(in_ms(nanos), count as usize));
            }
            Self::Counted(counted) => counted.push(nanos, count),
        }
    }

    /// Adds gaps of so many nanoseconds.
    pub(crate) fn extend(&mut self, nanos: impl ExactSizeIterator<Item = u64>) {
        match self {
            Self::Exact(values) if values.len() + nanos.len() <= Self::EXACT => {
                values.extend(nanos.map(|nanos| in_ms(nanos as f64)));
            }
            _ => nanos.for_each(|nanos| self.push(nanos as f64, 1)),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Exact(values) => values.len(),
            Self::Counted(counted) => usize::try_from(counted.buckets.len()).unwrap_or(usize::MAX),
        }
    }

    /// Goes over to counting.
    pub(crate) fn count(&mut self) {
        if let Self::Exact(values) = self {
            let mut counted = Counted::new();
            for ms in values {
                counted.push(f64::from(*ms) * 1e6, 1);
            }
            *self = Self::Counted(Box::new(counted));
        }
    }

    /// All gaps of several stages, in their order.
    pub(crate) fn pooled<'a>(stages: impl Iterator<Item = &'a Gaps>) -> Gaps {
        let mut all = Gaps::default();
        for stage in stages {
            match (&mut all, stage) {
                (Self::Exact(all), Self::Exact(values)) => all.extend_from_slice(values),
                (_, Self::Exact(values)) => {
                    for ms in values {
                        all.push(f64::from(*ms) * 1e6, 1);
                    }
                }
                (_, Self::Counted(counted)) => {
                    all.count();
                    if let Self::Counted(all) = &mut all {
                        all.add(counted);
                    }
                }
            }
        }
        all
    }
}

fn in_ms(nanos: f64) -> f32 {
    (nanos / 1e6) as f32
}

/// Gaps in rising order. There are millions of them, and none is negative or not a number, so that their bits rise as
/// they do: sorting them by one byte after the other takes half as long as comparing them.
pub(crate) fn sorted(gaps: &[f32]) -> Vec<f32> {
    // Tokens that one read brought have none between them: often most gaps, and in their places from the start.
    let positive = || gaps.iter().copied().filter(|gap| *gap > 0.0);
    let mut counts = [[0_usize; 256]; 4];
    for gap in positive() {
        for (counts, byte) in counts.iter_mut().zip(gap.to_bits().to_le_bytes()) {
            counts[usize::from(byte)] += 1;
        }
    }
    let n = counts[0].iter().sum();
    let mut sorted = vec![0.0; gaps.len()];
    let mut room = vec![0.0; n];
    let (mut from, mut to) = (&mut room[..], &mut sorted[gaps.len() - n..]);
    let mut is_in_place = false;
    for (i, places) in counts.iter_mut().enumerate() {
        // All have the same byte.
        if i > 0 && places.contains(&n) {
            continue;
        }
        let mut place = 0;
        for count in &mut *places {
            place += std::mem::replace(count, place);
        }
        let put = |gap: f32| {
            let place = &mut places[usize::from(gap.to_bits().to_le_bytes()[i])];
            to[*place] = gap;
            *place += 1;
        };
        if i == 0 {
            positive().for_each(put)
        } else {
            from.iter().copied().for_each(put)
        }
        std::mem::swap(&mut from, &mut to);
        is_in_place = !is_in_place;
    }
    if !is_in_place {
        to.copy_from_slice(from);
    }
    sorted
}

impl Counted {
    fn new() -> Self {
        // From a microsecond to an hour, three digits: 24,576 buckets, 192 KiB.
        let buckets = Histogram::new_with_bounds(1_000, 3_600_000_000_000, 3)
            .expect("the bounds are constant and allowed");
        Self { buckets, sum: 0.0, squares: 0.0 }
    }

    fn push(&mut self, nanos: f64, count: u32) {
        self.buckets.saturating_record_n(nanos.round() as u64, u64::from(count));
        let ms = nanos / 1e6;
        self.sum += ms * f64::from(count);
        self.squares += ms * ms * f64::from(count);
    }

    fn add(&mut self, other: &Counted) {
        self.buckets.add(&other.buckets).expect("all buckets have the same bounds");
        self.sum += other.sum;
        self.squares += other.squares;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sorting_by_bytes_is_sorting(
            nanos in prop::collection::vec(
                prop_oneof![Just(0), 0..300_u64, 0..10_000_000_u64, any::<u64>()], 0..300,
            ),
        ) {
            let gaps: Vec<f32> = nanos.into_iter().map(|nanos| in_ms(nanos as f64)).collect();
            let mut wanted = gaps.clone();
            wanted.sort_by(f32::total_cmp);
            prop_assert_eq!(sorted(&gaps), wanted);
        }
    }

    #[test]
    fn gaps_are_the_same_added_together_or_one_by_one() {
        for before in [0, Gaps::EXACT - 1] {
            let mut one_by_one = Gaps::default();
            one_by_one.push(5e6, before as u32);
            let mut together = one_by_one.clone();
            let nanos = [0, 1, 5_000_001];
            nanos.iter().for_each(|nanos| one_by_one.push(*nanos as f64, 1));
            together.extend(nanos.into_iter());
            match (one_by_one, together) {
                (Gaps::Exact(a), Gaps::Exact(b)) => assert_eq!(a, b),
                (Gaps::Counted(a), Gaps::Counted(b)) => {
                    assert_eq!((a.sum, a.buckets), (b.sum, b.buckets))
                }
                _ => panic!("one of them was counted"),
            }
        }
    }

    #[test]
    fn counting_keeps_number_and_sum_and_values_to_a_thousandth() {
        let mut exact = Gaps::default();
        exact.push(20e6, 3);
        exact.push(7.5e6, 1);
        let mut counted = exact.clone();
        counted.count();
        counted.push(1e6, 1);
        let pooled = Gaps::pooled([&exact, &counted].into_iter());
        let Gaps::Counted(all) = &pooled else { panic!("one of them was counted") };
        assert_eq!(pooled.len(), 9);
        assert!((all.sum - 136.0).abs() < 1e-6, "{}", all.sum);
        let p50 = all.buckets.median_equivalent(all.buckets.value_at_quantile(0.5));
        assert!((p50 as f64 / 20e6 - 1.0).abs() < 0.001, "{p50}");
    }

    #[test]
    fn a_chunk_that_claims_billions_of_tokens_takes_no_memory() {
        let mut gaps = Gaps::default();
        gaps.push(1.0, u32::MAX);
        assert!(matches!(gaps, Gaps::Counted(_)));
        assert_eq!(gaps.len(), u32::MAX as usize);
    }
}
