//! What the benchmarks reach into: reading one streamed answer. No part of the crate's interface.

use crate::answer::{Answer, Keep};
use crate::http::Reader;
use crate::plan::Api;
use crate::sse::Splitter;
use crate::template::Templates;
use records::Record;

/// Splits a stream into events and counts them.
pub fn count_events(stream: &[u8]) -> usize {
    let mut events = 0;
    Splitter::default().feed(stream, |_| events += 1);
    events
}

/// Reads a response that comes in these pieces and gives what the record says of it.
pub fn read_response(pieces: &[&[u8]]) -> Record {
    let mut reader = Reader::new();
    let mut answer = Answer::new(Api::Chat, true, Keep::Nothing);
    let mut templates = Templates::default();
    let mut record = Record::default();
    for (piece, at) in pieces.iter().zip(1..) {
        if let Ok(true) = answer.take(&mut reader, &mut templates, piece, at) {
            record.error = answer.end(at, None).err();
            answer.into_record(&mut record);
            return record;
        }
    }
    record
}
