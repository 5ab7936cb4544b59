//! Drives traffic into an inference endpoint and times it.
