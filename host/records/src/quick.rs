//! Reading the line of a record quickly, as long as it looks as [`crate::Writer`] writes it: without spaces, the fields in
//! their order. Whatever looks otherwise, and whatever is wrong, is left to `serde_json`.

use crate::Record;
use crate::record::summed;
use serde::de::DeserializeOwned;

/// The record in `line`. None: it is not plain, which says nothing about whether it is right.
pub(crate) fn record(line: &[u8]) -> Option<Record> {
    let mut rest = Rest(line);
    let record = Record {
        id: rest.must("{\"id\":")?.number()?,
        session: rest.must(",\"session\":")?.number()?,
        user: rest.must(",\"user\":")?.number()?,
        turn: rest.must(",\"turn\":")?.number()?,
        stage: rest.must(",\"stage\":")?.number()?,
        warmup: rest.has(",\"warmup\":true"),
        due: rest.may(",\"due\":", Rest::number)?,
        wanted: rest.may(",\"wanted\":", Rest::number)?,
        started: rest.must(",\"started\":")?.number()?,
        sent: rest.may(",\"sent\":", Rest::number)?,
        first_byte: rest.may(",\"first_byte\":", Rest::number)?,
        tokens: rest.may(",\"tokens\":", Rest::times)?.unwrap_or_default(),
        chunk_tokens: rest.may(",\"chunk_tokens\":", Rest::numbers)?.unwrap_or_default(),
        first_answer: rest.may(",\"first_answer\":", Rest::number)?,
        finished: rest.must(",\"finished\":")?.number()?,
        status: rest.must(",\"status\":")?.number()?,
        error: rest.may(",\"error\":", Rest::value)?,
        input_tokens: rest.may(",\"input_tokens\":", Rest::number)?,
        output_tokens: rest.may(",\"output_tokens\":", Rest::number)?,
        cached_tokens: rest.may(",\"cached_tokens\":", Rest::number)?,
        reasoning_tokens: rest.may(",\"reasoning_tokens\":", Rest::number)?,
        usage: rest.must(",\"usage\":")?.value()?,
        asked_input_tokens: rest.may(",\"asked_input_tokens\":", Rest::number)?,
        asked_output_tokens: rest.may(",\"asked_output_tokens\":", Rest::number)?,
        retries: rest.may(",\"retries\":", Rest::number)?.unwrap_or_default(),
        connection: rest.must(",\"connection\":")?.value()?,
        model: rest.may(",\"model\":", Rest::value)?,
        labels: rest.may(",\"labels\":", Rest::value)?.unwrap_or_default(),
    };
    (rest.0 == b"}").then_some(record)
}

/// What was not read yet of a line.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    /// Goes beyond `text`, if that is what comes.
    #[inline]
    fn has(&mut self, text: &str) -> bool {
        let after = self.0.strip_prefix(text.as_bytes());
        self.0 = after.unwrap_or(self.0);
        after.is_some()
    }

    /// Goes beyond `text`, which has to come.
    #[inline]
    fn must(&mut self, text: &str) -> Option<&mut Self> {
        self.has(text).then_some(self)
    }

    /// What comes after `text`, if `text` does.
    #[inline]
    fn may<T>(
        &mut self,
        text: &str,
        read: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<Option<T>> {
        if self.has(text) { read(self).map(Some) } else { Some(None) }
    }

    /// A whole number of up to nineteen digits. What may follow in a line ends it: a point or an exponent may not.
    fn number<T: TryFrom<u64>>(&mut self) -> Option<T> {
        let mut number = 0_u64;
        let mut after = self.0;
        while let [digit @ b'0'..=b'9', rest @ ..] = after {
            number = number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            after = rest;
        }
        // JSON has no zeros in front, and nineteen digits always fit.
        let length = self.0.len() - after.len();
        if !(length == 1 || (2..=19).contains(&length) && self.0[0] != b'0') {
            return None;
        }
        self.0 = after;
        T::try_from(number).ok()
    }

    /// An array of whole numbers.
    fn numbers<T: TryFrom<u64>>(&mut self) -> Option<Vec<T>> {
        if self.must("[")?.has("]") {
            return Some(Vec::new());
        }
        // Most answers are long enough for growing from nothing to cost more than this.
        let mut numbers = Vec::with_capacity(64);
        loop {
            numbers.push(self.number()?);
            if !self.has(",") {
                return self.has("]").then_some(numbers);
            }
        }
    }

    /// Times: the first, and for each later one how much later it is.
    fn times(&mut self) -> Option<Vec<u64>> {
        self.numbers().map(summed)
    }

    /// Anything else that has an end of its own: neither a number nor a word.
    fn value<T: DeserializeOwned>(&mut self) -> Option<T> {
        let mut values = serde_json::Deserializer::from_slice(self.0).into_iter();
        let value = values.next()?.ok()?;
        self.0 = self.0.get(values.byte_offset()..)?;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Connection, Failure, FailureKind, UsageSource};
    use proptest::prelude::*;

    /// Whatever is read quickly is read otherwise, too, and as the same.
    fn check(line: &[u8]) {
        if let Some(record) = record(line) {
            let text = String::from_utf8_lossy(line);
            assert_eq!(serde_json::from_slice::<Record>(line).unwrap(), record, "{text}");
        }
    }

    /// What may be missing is there as the bits of `which` say.
    fn a_record(which: u32, tokens: &[u64], n: u64, text: &str) -> Record {
        let mut bits = (0..).map(|bit| which >> bit & 1 == 1);
        let mut there = || bits.next().unwrap();
        let small = n as u32;
        Record {
            id: n,
            session: n / 2,
            user: n / 5,
            turn: small / 7,
            stage: small,
            warmup: there(),
            due: there().then_some(n),
            wanted: there().then_some(0),
            started: n / 3,
            sent: there().then_some(n),
            first_byte: there().then_some(n),
            tokens: summed(if there() { tokens.to_vec() } else { Vec::new() }),
            chunk_tokens: if there() { vec![small, 0, 7] } else { Vec::new() },
            first_answer: there().then_some(n),
            finished: n,
            status: n as u16,
            error: there().then(|| Failure::new(FailureKind::Timeout, text)),
            input_tokens: there().then_some(small),
            output_tokens: there().then_some(small),
            cached_tokens: there().then_some(small),
            reasoning_tokens: there().then_some(small),
            usage: if there() { UsageSource::Server } else { UsageSource::None },
            asked_input_tokens: there().then_some(small),
            asked_output_tokens: there().then_some(small),
            retries: if there() { small } else { 0 },
            connection: if there() { Connection::Reused } else { Connection::New },
            model: there().then(|| text.to_owned()),
            labels: there().then(|| (text.to_owned(), text.to_owned())).into_iter().collect(),
        }
    }

    fn line(record: &Record) -> Vec<u8> {
        serde_json::to_vec(record).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_written_is_plain(
            which in any::<u32>(), tokens in prop::collection::vec(0..1_u64 << 50, 0..100),
            n in 0..10_u64.pow(19), text in any::<String>(),
        ) {
            let written = a_record(which, &tokens, n, &text);
            prop_assert_eq!(record(&line(&written)), Some(written));
        }

        #[test]
        fn arrays_of_any_text_are_read_as_by_serde_json_or_left_to_it(
            parts in prop::collection::vec(prop::sample::select(vec![
                "0", "00", "01", "7", "120", "18446744073709551615", "18446744073709551616",
                "9999999999999999999", "10000000000000000000", "99999999999999999999",
                "-1", "-0", "1.0", "1e2", " ", "\t", ",", ",", ",", ",", "[", "]", "[]",
                "{}", "null", "true", "\"1\"", "é", "],\"tokens\":[",
            ]), 0..6),
            name in prop::sample::select(vec!["tokens", "chunk_tokens"]),
        ) {
            let record = a_record(0b110_0000, &[987], 1, "");
            let text = String::from_utf8(line(&record)).unwrap();
            let before = text.find(&format!("\"{name}\":[")).unwrap() + name.len() + 4;
            let after = before + text[before..].find(']').unwrap();
            check(format!("{}{}{}", &text[..before], parts.concat(), &text[after..]).as_bytes());
        }

        #[test]
        fn what_is_broken_is_not_read_quickly(
            which in any::<u32>(), tokens in prop::collection::vec(0..200_u64, 0..5),
            at in any::<prop::sample::Index>(), cut in 0..3_usize,
            more in prop::sample::select(vec![
                "", "0", "9", "-", ".", ",", " ", "}", "]", "\"", "\\", "\r", ",\"id\":1",
            ]),
        ) {
            let mut line = line(&a_record(which, &tokens, 10, "a \"b\" é"));
            let at = at.index(line.len());
            let to = (at + cut).min(line.len());
            line.splice(at..to, more.bytes());
            check(&line);
            check(&line[..at]);
        }
    }
}
