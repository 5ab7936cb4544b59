//! What tests and the fuzzer reach into: however the network cuts a response, its facts are the
//! same, and each has the time of the read that made it known. No part of the crate's interface.

use crate::answer::{Answer, Keep};
use crate::http::Reader;
use crate::plan::{Api, Nanos};
use crate::template::Templates;
use records::{Failure, FailureKind, Record};

/// A whole response, after which the connection is closed.
#[derive(Debug)]
pub struct Response<'a> {
    api: Api,
    streamed: bool,
    bytes: &'a [u8],
    /// What it says when each byte is a read of its own.
    by_byte: Reading,
}

/// What a response says. The time of a read is the number of bytes that have come.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Its facts.
    pub record: Record,
    /// Text of the answer.
    pub text: Option<String>,
    /// Text of the reasoning before it.
    pub reasoning: Option<String>,
}

impl<'a> Response<'a> {
    /// Reads a response byte by byte.
    #[must_use]
    pub fn new(api: Api, streamed: bool, bytes: &'a [u8]) -> Self {
        let by_byte = read(api, streamed, bytes, (1..=bytes.len()).collect());
        Self { api, streamed, bytes, by_byte }
    }

    /// What it says.
    #[must_use]
    pub fn reading(&self) -> &Reading {
        &self.by_byte
    }

    /// Panics unless it says the same when it is read in pieces that end here. Cuts may come in any
    /// order and lie anywhere.
    pub fn check(&self, cuts: &[usize]) {
        let length = self.bytes.len();
        let mut ends: Vec<usize> =
            cuts.iter().copied().filter(|&cut| cut > 0 && cut < length).collect();
        ends.push(length);
        ends.sort_unstable();
        ends.dedup();
        let expected = self.by_byte.clone().at_ends(&ends);
        let pieces = ends.len();
        let found = read(self.api, self.streamed, self.bytes, ends);
        assert_eq!(found, expected, "read in {pieces} pieces, and byte by byte");
    }
}

impl Reading {
    /// With times of reads that end here.
    fn at_ends(mut self, ends: &[usize]) -> Self {
        let end = |at: &mut Nanos| {
            let first = ends.partition_point(|&end| (end as Nanos) < *at);
            *at = ends.get(first).map_or(*at, |&end| end as Nanos);
        };
        let record = &mut self.record;
        record.first_byte.iter_mut().for_each(end);
        record.first_answer.iter_mut().for_each(end);
        record.tokens.iter_mut().for_each(end);
        end(&mut record.finished);
        self
    }
}

fn read(api: Api, streamed: bool, bytes: &[u8], ends: Vec<usize>) -> Reading {
    let mut answer = Answer::new(api, streamed, Keep::All);
    let mut record = Record::default();
    let mut reader = Reader::new();
    let outcome = converse(&mut reader, &mut answer, bytes, &ends, &mut record.finished);
    record.error = outcome.err();
    let texts = answer.into_record(&mut record);
    Reading { record, text: texts.answer, reasoning: texts.reasoning }
}

fn converse(
    reader: &mut Reader,
    answer: &mut Answer,
    bytes: &[u8],
    ends: &[usize],
    finished: &mut Nanos,
) -> Result<(), Failure> {
    let mut templates = Templates::default();
    let mut begin = 0;
    for &end in ends {
        let input = &bytes[begin..end];
        *finished = end as Nanos;
        begin = end;
        let complete = answer
            .take(reader, &mut templates, input, *finished)
            .map_err(|bad| Failure::new(FailureKind::BadStream, bad.to_string()))?;
        if complete {
            return answer.end(*finished, None);
        }
    }
    let cut = if reader.closed() { None } else { Some("the server closed the connection") };
    answer.end(*finished, cut)
}
