//! What tests and the fuzzer reach into: however the network cuts a response, and whatever events
//! were seen before it, its facts are those that the parser finds, and each has the time of the
//! read that made it known. No part of the crate's interface.

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
    /// What it says when each byte is a read of its own and each event is parsed.
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
        let ends: Vec<usize> = (1..=bytes.len()).collect();
        let by_byte = read(api, streamed, bytes, &ends, Keep::All, None);
        Self { api, streamed, bytes, by_byte }
    }

    /// What it says.
    #[must_use]
    pub fn reading(&self) -> &Reading {
        &self.by_byte
    }

    /// Panics unless it says the same when it is read in pieces that end here, both by a load thread
    /// that knows none of its events and by one that knows all of them. Cuts may come in any order
    /// and lie anywhere.
    pub fn check(&self, cuts: &[usize]) {
        let length = self.bytes.len();
        let mut ends: Vec<usize> =
            cuts.iter().copied().filter(|&cut| cut > 0 && cut < length).collect();
        ends.push(length);
        ends.sort_unstable();
        ends.dedup();
        let expected = self.by_byte.clone().at_ends(&ends);
        let pieces = ends.len();
        let mut templates = Templates::default();
        for time in ["first", "second"] {
            let mut found =
                |keep| read(self.api, self.streamed, self.bytes, &ends, keep, Some(&mut templates));
            let read = format!("read for the {time} time in {pieces} pieces");
            assert_eq!(found(Keep::All), expected, "{read}, and parsed byte by byte");
            let without_texts = found(Keep::Nothing).record;
            assert_eq!(without_texts, expected.record, "{read}, and with its texts kept");
        }
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

/// Heads that the fuzzer puts before what it made, so that all of that is a body.
const HEADS: [&[u8]; 3] =
    [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"];

/// Checks arbitrary bytes as a response: in one read, and cut at random. The first byte decides the
/// API, whether a stream was asked for, and the head before the rest. It also seeds the cuts.
pub fn fuzz(input: &[u8]) {
    let Some((&first, rest)) = input.split_first() else { return };
    let api = if first & 1 == 0 { Api::Chat } else { Api::Completions };
    let streamed = first & 2 == 0;
    let head = HEADS[usize::from(first >> 2) % HEADS.len()];
    let bytes = [head, rest].concat();
    let response = Response::new(api, streamed, &bytes);
    response.check(&[]);
    let mut random = rest.iter().fold(u64::from(first), |sum, &byte| mix(sum ^ u64::from(byte)));
    for pieces in [2, 3, 8] {
        let mut cuts = Vec::new();
        for _ in 1..pieces {
            random = mix(random);
            cuts.push((random >> 33) as usize % (bytes.len() + 1));
        }
        response.check(&cuts);
    }
}

fn mix(number: u64) -> u64 {
    number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}

/// Reads in pieces. Without templates each event is parsed.
fn read(
    api: Api,
    streamed: bool,
    bytes: &[u8],
    ends: &[usize],
    keep: Keep,
    templates: Option<&mut Templates>,
) -> Reading {
    let mut answer = Answer::new(api, streamed, keep);
    let mut record = Record::default();
    let mut reader = Reader::new();
    let outcome = converse(&mut reader, &mut answer, bytes, ends, templates, &mut record.finished);
    record.error = outcome.err();
    let texts = answer.into_record(&mut record);
    Reading { record, text: texts.answer, reasoning: texts.reasoning }
}

fn converse(
    reader: &mut Reader,
    answer: &mut Answer,
    bytes: &[u8],
    ends: &[usize],
    mut templates: Option<&mut Templates>,
    finished: &mut Nanos,
) -> Result<(), Failure> {
    let mut begin = 0;
    for &end in ends {
        let input = &bytes[begin..end];
        *finished = end as Nanos;
        begin = end;
        // A read of one byte ends one event at most: new templates know nothing of it.
        let mut none = Templates::default();
        let templates = templates.as_deref_mut().unwrap_or(&mut none);
        let complete = answer
            .take(reader, templates, input, *finished)
            .map_err(|bad| Failure::new(FailureKind::BadStream, bad.to_string()))?;
        if complete {
            return answer.end(*finished, None);
        }
    }
    let cut = if reader.closed() { None } else { Some("the server closed the connection") };
    answer.end(*finished, cut)
}
