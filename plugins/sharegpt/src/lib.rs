//! Workload: conversations in the ShareGPT format.
