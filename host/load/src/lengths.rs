//! [`Lengths`]: how many things took how long. Counting one is done for each read of a socket, so it
//! takes a few instructions.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts lengths in buckets. Up to `2^(BITS + 1)` each length has its own; beyond, each power of two
/// has `2^BITS`, so that lengths in one differ by less than that part of them.
#[derive(Debug)]
pub(crate) struct Lengths<const BITS: u32> {
    counts: Box<[AtomicU64]>,
}

impl<const BITS: u32> Lengths<BITS> {
    /// Longer ones than `most` will fall into its bucket.
    pub(crate) fn up_to(most: u64) -> Self {
        Self { counts: (0..=bucket::<BITS>(most)).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Counts one. Only one thread may do so at a time: of two at once one may be lost.
    pub(crate) fn record(&self, length: u64) {
        let count = &self.counts[bucket::<BITS>(length).min(self.counts.len() - 1)];
        count.store(count.load(Relaxed) + 1, Relaxed);
    }

    /// Adds what was counted elsewhere, up to the same length.
    pub(crate) fn add(&self, other: &Self) {
        for (count, more) in self.counts.iter().zip(other.counts()).filter(|&(_, more)| more > 0) {
            count.store(count.load(Relaxed) + more, Relaxed);
        }
    }

    /// How many lengths each bucket has, those of the shortest first.
    pub(crate) fn counts(&self) -> impl Iterator<Item = u64> {
        self.counts.iter().map(|count| count.load(Relaxed))
    }

    /// The longest that falls into a bucket.
    pub(crate) fn longest(bucket: usize) -> u64 {
        let above = (bucket >> BITS).saturating_sub(1);
        (((bucket - (above << BITS) + 1) as u64) << above).wrapping_sub(1)
    }

    /// The length that this share of all does not exceed, up to its bucket. None: there are none.
    pub(crate) fn quantile(&self, share: f64) -> Option<u64> {
        let all: u64 = self.counts().sum();
        let wanted = ((all as f64 * share).ceil() as u64).max(1);
        let mut sum = 0;
        let reached = |count| {
            sum += count;
            sum >= wanted
        };
        self.counts().position(reached).map(Self::longest)
    }
}

/// The bucket of a length.
fn bucket<const BITS: u32>(length: u64) -> usize {
    // Each power of two above those that are exact halves what is told apart.
    let above = (length | (1 << BITS)).ilog2() - BITS;
    ((above as usize) << BITS) + (length >> above) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MOST: u64 = 3_600_000_000;

    fn counted(lengths: &[u64]) -> Lengths<7> {
        let counted = Lengths::up_to(MOST);
        lengths.iter().for_each(|&length| counted.record(length));
        counted
    }

    #[test]
    fn where_nothing_was_counted_there_is_no_quantile() {
        assert_eq!(counted(&[]).quantile(0.5), None);
    }

    #[test]
    fn what_is_too_long_falls_into_the_last_bucket() {
        let longest = counted(&[MOST]).quantile(0.5);
        assert!(longest >= Some(MOST));
        assert_eq!(counted(&[u64::MAX]).quantile(0.5), longest);
    }

    proptest! {
        #[test]
        fn a_bucket_ends_where_the_next_one_begins(length in (0..64_u32).prop_flat_map(|bits| 0..=u64::MAX >> bits)) {
            let longest = Lengths::<4>::longest(bucket::<4>(length));
            prop_assert!(longest >= length && longest - length <= length / 16, "{longest}");
            prop_assert_eq!(bucket::<4>(longest), bucket::<4>(length));
            if let Some(next) = longest.checked_add(1) {
                prop_assert_eq!(bucket::<4>(next), bucket::<4>(length) + 1);
            }
        }

        #[test]
        fn quantiles_are_those_of_sorted_lengths(
            one in prop::collection::vec(0..MOST, 1..50),
            other in prop::collection::vec(0..2_000_u64, 0..50),
            share in 0.0..1.0_f64,
        ) {
            let all = counted(&one);
            all.add(&counted(&other));
            let mut sorted = [one, other].concat();
            sorted.sort_unstable();
            let rank = ((sorted.len() as f64 * share).ceil() as usize).max(1);
            let exact = sorted[rank - 1];
            let found = all.quantile(share).unwrap();
            prop_assert!(found >= exact && found - exact <= exact / 128, "{found} for {exact}");
        }
    }
}
