//! Benchmarks LLM inference: stand up, load, analyse, tear down, repeat.

fn main() {}
