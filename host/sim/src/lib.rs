//! A simulated inference server with vLLM's API.
//!
//! It generates nothing and computes nothing: it writes words at the times it was told to, so that a
//! client's figures can be compared with known ones. It shares no code with the load generator,
//! because one checks the other.
//!
//! | | Here | A real vLLM |
//! |---|---|---|
//! | Time to first token | a base plus so much per uncached input token | scheduling, chunked prefill, load |
//! | Between tokens | constant, plus so much per running request, with jitter | the batch of each step |
//! | Being late | never adds up: due times are absolute | each step begins when the last has ended |
//! | Queue | `max_running` places, first come, first served | also memory, preemption, priorities |
//! | Prefix cache | whole blocks, least recently used out first, also when in use | blocks in use stay |
//! | Forgetting the prefix cache | `POST /reset_prefix_cache` or SGLang's `/flush_cache`; may be missing, or do nothing | vLLM's in development mode only |
//! | `kv_cache_usage_perc` | blocks running requests will need of `cache_blocks`; 0 without cache | blocks in use |
//! | Tokenizer | a word is a token, long words several; three per message, two for the answer | the model's |
//! | Answers | words drawn from the seed and the prompt | the model's |
//! | Length of answers | uniform around a mean; with `ignore_eos` the limit | until an end token |
//! | `usage` details | `cached_tokens` whenever the cache is on | only with a flag |
//! | `x-request-id` | echoed when sent | only with a flag |
//! | Key | for paths below `/v1` | the same |
//! | Sampling parameters, `stop`, tools, logprobs | ignored | honoured |
//! | `n`, several prompts, images | refused | answered |
//! | End of a stream | in one write with the last event | in a write of its own |
//!
//! - [`serve`] runs a server on a listener until told to stop.
//! - [`Behavior`] says how it behaves, [`FAULTS`] what can go wrong, [`QUIRKS`] what is right
//!   and odd.
//! - [`TruthLine`] is what it writes down about each request.

mod answer;
mod api;
mod behavior;
mod cache;
mod clock;
mod engine;
mod events;
mod fault;
mod http;
mod metrics;
mod quirk;
mod script;
mod server;
mod tokens;
mod truth;

pub use behavior::{ApiKey, Behavior, BehaviorError, BehaviorErrorKind, CacheReset};
pub use engine::Stats;
pub use fault::{FAULTS, Fault, FaultError, FaultKind, FaultRule};
pub use quirk::{QUIRKS, Quirk, QuirkError, QuirkKind};
pub use server::serve;
pub use truth::{TruthHeader, TruthLine};
