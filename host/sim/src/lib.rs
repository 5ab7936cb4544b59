//! A simulated inference server with vLLM's API.
