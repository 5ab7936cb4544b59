//! How far strings and numbers of JSON go, found eight bytes at a time. Pure.

/// One in each byte.
const EACH: u64 = u64::MAX / 0xff;

/// How many bytes come before the first that ends a JSON string, begins an escape or may not stand
/// in one.
pub(crate) fn plain(bytes: &[u8]) -> usize {
    // Sets the highest bit of the first byte that is below `least`, and of none before it.
    let below = |word: u64, least: u8| word.wrapping_sub(EACH * u64::from(least)) & !word;
    let is = |word: u64, byte: u8| below(word ^ (EACH * u64::from(byte)), 1);
    length(bytes, |word| below(word, b' ') | is(word, b'"') | is(word, b'\\'))
}

/// How many bytes come before the first that is no digit.
pub(crate) fn digits(bytes: &[u8]) -> usize {
    length(bytes, |word| {
        let value = word ^ (EACH * u64::from(b'0'));
        ((value & (EACH * 0x7f)) + EACH * (0x80 - 10)) | value
    })
}

/// Whether these are UTF-8, as most are for being ASCII.
pub(crate) fn is_utf8(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |all, byte| all | byte) < 0x80 || std::str::from_utf8(bytes).is_ok()
}

/// How many bytes come before the first for which `stops` sets the highest bit; it looks at eight at
/// a time, and has to set none before that one. A quote is always one.
fn length(bytes: &[u8], stops: impl Fn(u64) -> u64) -> usize {
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        let word = rest.first_chunk().copied().unwrap_or_else(|| {
            let mut last = [b'"'; 8];
            last[..rest.len()].copy_from_slice(rest);
            last
        });
        let found = stops(u64::from_le_bytes(word)) & (EACH << 7);
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += word.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn strings_and_numbers_end_where_they_should(
            bytes in prop::collection::vec(
                prop_oneof![any::<u8>(), b' '..b'$', b'Z'..b'^', b'/'..b';', b'0'..b':'],
                0..40,
            ),
        ) {
            let before = |stops: fn(u8) -> bool| bytes.iter().take_while(|&&b| !stops(b)).count();
            prop_assert_eq!(plain(&bytes), before(|b| b < b' ' || b == b'"' || b == b'\\'));
            prop_assert_eq!(digits(&bytes), before(|b| !b.is_ascii_digit()));
        }
    }
}
