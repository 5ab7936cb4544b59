//! [`Times`]: the arrival times of an answer's chunks, kept small while the answer is under way. Pure.

use crate::plan::Nanos;

/// Times in the order in which they were taken.
///
/// Chunks come at an even pace, so what is kept of each is by how much its gap differs from the one
/// before, in as few bytes as that takes: three where the pace varies by up to a millisecond.
#[derive(Debug, Default)]
pub(crate) struct Times {
    bytes: Vec<u8>,
    last: Nanos,
    gap: i64,
    count: u32,
}

/// Room is made for so many bytes at least, more than any time takes: doubling would leave half of them empty.
const ROOM: usize = 24;

impl Times {
    pub(crate) fn push(&mut self, at: Nanos) {
        let gap = at.wrapping_sub(self.last) as i64;
        let change = gap.wrapping_sub(self.gap);
        (self.last, self.gap, self.count) = (at, gap, self.count.saturating_add(1));
        // Small numbers of either sign have their high bits clear.
        let mut rest = (change << 1 ^ change >> 63) as u64;
        let needed = (rest | 1).ilog2() as usize / 7 + 1;
        if self.bytes.capacity() - self.bytes.len() < needed {
            self.bytes.reserve_exact(ROOM.max(self.bytes.len() / 8));
        }
        while rest >= 0x80 {
            self.bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.bytes.push(rest as u8);
    }

    pub(crate) fn len(&self) -> usize {
        self.count as usize
    }

    pub(crate) fn to_vec(&self) -> Vec<Nanos> {
        let mut times = Vec::with_capacity(self.len());
        let (mut at, mut gap, mut rest, mut shift) = (0_u64, 0_i64, 0_u64, 0);
        for &byte in &self.bytes {
            rest |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                gap = gap.wrapping_add((rest >> 1) as i64 ^ -((rest & 1) as i64));
                at = at.wrapping_add(gap as u64);
                times.push(at);
                (rest, shift) = (0, 0);
            }
        }
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kept(times: &[Nanos]) -> Times {
        let mut kept = Times::default();
        times.iter().for_each(|&at| kept.push(at));
        kept
    }

    #[test]
    fn an_even_stream_takes_three_bytes_a_chunk() {
        let times: Vec<Nanos> =
            (0..64).map(|i| 60_000_000_000 + i * 200_000_000 + (i * 7919) % 400_000).collect();
        let kept = kept(&times);
        assert_eq!(kept.to_vec(), times);
        assert!(kept.bytes.capacity() <= 3 * 64 + ROOM, "{}", kept.bytes.capacity());
    }

    proptest! {
        #[test]
        fn times_come_back_as_they_were(
            times in prop::collection::vec(prop_oneof![any::<u64>(), 0..1_000_000_u64], 0..50),
        ) {
            let kept = kept(&times);
            prop_assert_eq!(kept.len(), times.len());
            prop_assert_eq!(kept.to_vec(), times);
        }
    }
}
