//! The prefix cache: blocks of tokens known by the chain of everything before them, least recently
//! used out first.

use std::collections::{BTreeMap, HashMap};

/// Which blocks are cached. With a capacity of 0 it stays empty.
pub(crate) struct PrefixCache {
    capacity: usize,
    block_size: usize,
    /// Use of each block, by its chain hash.
    used: HashMap<u64, u64>,
    /// The same the other way round: oldest use first.
    by_use: BTreeMap<u64, u64>,
    uses: u64,
}

impl PrefixCache {
    /// `capacity` in blocks, `block_size` in tokens (at least 1).
    pub(crate) fn new(capacity: usize, block_size: usize) -> Self {
        let (used, by_use) = (HashMap::new(), BTreeMap::new());
        Self { capacity, block_size, used, by_use, uses: 0 }
    }

    /// How many leading tokens of `prompt` are cached: whole blocks, and never the last token,
    /// because at least one token has to be computed.
    pub(crate) fn cached_tokens(&self, prompt: &[u32]) -> usize {
        if self.used.is_empty() {
            return 0;
        }
        let usable = &prompt[..prompt.len().saturating_sub(1)];
        let hits = self.chain(usable).take_while(|hash| self.used.contains_key(hash)).count();
        hits * self.block_size
    }

    /// Marks all whole blocks of `tokens` as used now, adding those that are new.
    pub(crate) fn insert(&mut self, tokens: &[u32]) {
        if self.capacity == 0 {
            return;
        }
        let chain: Vec<u64> = self.chain(tokens).collect();
        // From the end to the start, so that the tail of a prompt leaves the cache before its head.
        for &hash in chain.iter().rev() {
            self.uses += 1;
            if let Some(before) = self.used.insert(hash, self.uses) {
                self.by_use.remove(&before);
            }
            self.by_use.insert(self.uses, hash);
        }
        while self.used.len() > self.capacity
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.used.remove(&oldest);
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.used.clear();
        self.by_use.clear();
    }

    /// The chain hash of every whole block.
    fn chain(&self, tokens: &[u32]) -> impl Iterator<Item = u64> {
        tokens.chunks_exact(self.block_size).scan(0xcbf2_9ce4_8422_2325_u64, |hash, block| {
            for &token in block {
                *hash = (*hash ^ u64::from(token)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                *hash ^= *hash >> 32;
            }
            Some(*hash)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(from: u32, to: u32) -> Vec<u32> {
        (from..to).collect()
    }

    #[test]
    fn whole_blocks_of_a_common_prefix_are_hits() {
        let mut cache = PrefixCache::new(100, 4);
        cache.insert(&range(0, 18));
        for (prompt, hits) in [
            (range(0, 18), 16),
            (range(0, 16), 12), // The last token is always computed.
            (range(0, 17), 16),
            (range(0, 3), 0),
            (range(1, 18), 0),
            ([range(0, 9), range(50, 60)].concat(), 8),
            (Vec::new(), 0),
        ] {
            assert_eq!(cache.cached_tokens(&prompt), hits, "{prompt:?}");
        }
        cache.clear();
        assert_eq!(cache.cached_tokens(&range(0, 18)), 0);
    }

    #[test]
    fn the_least_recently_used_tail_leaves_first() {
        let mut cache = PrefixCache::new(4, 1);
        cache.insert(&range(0, 3));
        cache.insert(&range(10, 12));
        // Five blocks in a cache of four: the tail of the first prompt is gone.
        assert_eq!(cache.cached_tokens(&range(0, 4)), 2);
        assert_eq!(cache.cached_tokens(&range(10, 13)), 2);
        cache.insert(&range(0, 2));
        cache.insert(&range(20, 22));
        assert_eq!(cache.cached_tokens(&range(10, 13)), 0);
        assert_eq!(cache.cached_tokens(&range(0, 4)), 2);
    }

    #[test]
    fn a_cache_without_capacity_never_hits() {
        let mut cache = PrefixCache::new(0, 1);
        cache.insert(&range(0, 8));
        assert_eq!(cache.cached_tokens(&range(0, 8)), 0);
    }
}
