//! Bootstrap and build; the only place that knows the wasm toolchain.

fn main() {}
