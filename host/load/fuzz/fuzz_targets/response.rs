//! Arbitrary bytes as a response: reading them never panics, and however they are cut into reads,
//! they say the same.
//!
//! The first byte of the input decides the API, whether a stream was asked for, and whether a head
//! is put before the rest, so that all of it is a body. It also seeds the cuts.

#![no_main]

use libfuzzer_sys::fuzz_target;
use load::Api;
use load::chunking::Response;

const HEADS: [&[u8]; 3] = [
    b"",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
];

fuzz_target!(|input: &[u8]| {
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
});

fn mix(number: u64) -> u64 {
    number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}
