//! Arbitrary bytes as a response: reading them never panics, and however they are cut into reads,
//! they say what the parser finds in them.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| load::chunking::fuzz(input));
