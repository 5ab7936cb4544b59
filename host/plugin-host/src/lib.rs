//! Finds, checks, limits and calls plugins: WebAssembly components behind the WIT contract.
