//! [`QUANTITIES`]: what servers measure, and what each engine calls it. A new engine is a few names
//! here.

/// A quantity that servers measure.
#[derive(Debug)]
pub struct Quantity {
    /// Its name in `summary.json`.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// How its series make one number.
    pub kind: Kind,
    /// What engines call it, today's names before older ones: the first that a page has is read,
    /// for some pages carry both. Names with `+` between them are added up.
    pub names: &'static [&'static str],
}

/// How series make one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A state, added up over the engines or GPUs of a server.
    Sum,
    /// A state, averaged over the engines or GPUs of a server.
    Mean,
    /// A count since the server started; only differences mean something.
    Counter,
    /// A histogram in seconds, counted since the server started.
    Histogram,
}

/// llama.cpp counts the prompt tokens that it computed and those that it had apart.
const LLAMA_CPP_PROMPT_TOKENS: &str =
    "llamacpp:prompt_tokens_total+llamacpp:prompt_tokens_cached_total";

/// Every quantity. Sources: the metric tables of vLLM (`vllm:`), SGLang (`sglang:`), llama.cpp
/// (`llamacpp:`) and TGI (`tgi_`); of GPUs, NVIDIA's DCGM exporter (`DCGM_`) and `nvidia-smi`, whose
/// columns whoever reads them calls `nvidia_smi:COLUMN`.
pub const QUANTITIES: &[Quantity] = &[
    Quantity {
        name: "running",
        title: "requests running",
        unit: "requests",
        kind: Kind::Sum,
        names: &[
            "vllm:num_requests_running",
            "sglang:num_running_reqs",
            "llamacpp:requests_processing",
            "tgi_batch_current_size",
        ],
    },
    Quantity {
        name: "waiting",
        title: "requests waiting",
        unit: "requests",
        kind: Kind::Sum,
        names: &[
            "vllm:num_requests_waiting",
            "sglang:num_queue_reqs",
            "llamacpp:requests_deferred",
            "tgi_queue_size",
        ],
    },
    Quantity {
        name: "kv_cache_usage",
        title: "KV cache in use",
        unit: "share",
        kind: Kind::Mean,
        names: &[
            "vllm:kv_cache_usage_perc",
            "vllm:gpu_cache_usage_perc",
            "sglang:token_usage",
            "llamacpp:kv_cache_usage_ratio",
        ],
    },
    Quantity {
        name: "prompt_tokens",
        title: "prompt tokens",
        unit: "tokens",
        kind: Kind::Counter,
        names: &[
            "vllm:prompt_tokens_total",
            "sglang:prompt_tokens_total",
            LLAMA_CPP_PROMPT_TOKENS,
            "tgi_request_input_length_sum",
        ],
    },
    Quantity {
        name: "generation_tokens",
        title: "generated tokens",
        unit: "tokens",
        kind: Kind::Counter,
        names: &[
            "vllm:generation_tokens_total",
            "sglang:generation_tokens_total",
            "llamacpp:tokens_predicted_total",
            "tgi_request_generated_tokens_sum",
        ],
    },
    Quantity {
        name: "prefix_cache_queries",
        title: "tokens looked up in the prefix cache",
        unit: "tokens",
        kind: Kind::Counter,
        names: &[
            "vllm:prefix_cache_queries_total",
            "vllm:gpu_prefix_cache_queries_total",
            "sglang:prompt_tokens_total",
            LLAMA_CPP_PROMPT_TOKENS,
        ],
    },
    Quantity {
        name: "prefix_cache_hits",
        title: "tokens found in the prefix cache",
        unit: "tokens",
        kind: Kind::Counter,
        names: &[
            "vllm:prefix_cache_hits_total",
            "vllm:gpu_prefix_cache_hits_total",
            "sglang:cached_tokens_total",
            "llamacpp:prompt_tokens_cached_total",
        ],
    },
    Quantity {
        name: "preemptions",
        title: "preemptions",
        unit: "requests",
        kind: Kind::Counter,
        names: &["vllm:num_preemptions_total", "sglang:num_retracted_requests_total"],
    },
    Quantity {
        name: "ttft",
        title: "TTFT",
        unit: "ms",
        kind: Kind::Histogram,
        names: &["vllm:time_to_first_token_seconds", "sglang:time_to_first_token_seconds"],
    },
    Quantity {
        name: "itl",
        title: "ITL",
        unit: "ms",
        kind: Kind::Histogram,
        names: &[
            "vllm:inter_token_latency_seconds",
            "vllm:time_per_output_token_seconds",
            "sglang:inter_token_latency_seconds",
            "sglang:time_per_output_token_seconds",
        ],
    },
    Quantity {
        name: "latency",
        title: "latency",
        unit: "ms",
        kind: Kind::Histogram,
        names: &[
            "vllm:e2e_request_latency_seconds",
            "sglang:e2e_request_latency_seconds",
            "tgi_request_duration",
        ],
    },
    Quantity {
        name: "queue_time",
        title: "time in the queue",
        unit: "ms",
        kind: Kind::Histogram,
        names: &[
            "vllm:request_queue_time_seconds",
            "sglang:queue_time_seconds",
            "tgi_request_queue_duration",
        ],
    },
    Quantity {
        name: "gpu_utilization",
        title: "GPU utilisation",
        unit: "%",
        kind: Kind::Mean,
        names: &["DCGM_FI_DEV_GPU_UTIL", "nvidia_smi:utilization.gpu"],
    },
    Quantity {
        name: "gpu_memory_used",
        title: "GPU memory in use",
        unit: "MiB",
        kind: Kind::Sum,
        names: &["DCGM_FI_DEV_FB_USED", "nvidia_smi:memory.used"],
    },
    Quantity {
        name: "gpu_power",
        title: "GPU power",
        unit: "W",
        kind: Kind::Sum,
        names: &["DCGM_FI_DEV_POWER_USAGE", "nvidia_smi:power.draw"],
    },
    Quantity {
        name: "gpu_sm_clock",
        title: "GPU clock",
        unit: "MHz",
        kind: Kind::Mean,
        names: &["DCGM_FI_DEV_SM_CLOCK", "nvidia_smi:clocks.sm"],
    },
    Quantity {
        name: "gpu_temperature",
        title: "GPU temperature",
        unit: "°C",
        kind: Kind::Mean,
        names: &["DCGM_FI_DEV_GPU_TEMP", "nvidia_smi:temperature.gpu"],
    },
];

/// Whether a series belongs to any quantity.
#[must_use]
pub fn is_known(name: &str) -> bool {
    QUANTITIES.iter().any(|quantity| quantity.has(name))
}

/// Whether a series belongs to a quantity that engines measure, and no GPU.
#[must_use]
pub fn is_of_engine(name: &str) -> bool {
    QUANTITIES.iter().any(|quantity| !quantity.name.starts_with("gpu_") && quantity.has(name))
}

impl Quantity {
    /// Whether a series of this name is one of its.
    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|known| match self.kind {
            Kind::Histogram => name
                .strip_prefix(known)
                .is_some_and(|rest| ["_bucket", "_sum", "_count"].contains(&rest)),
            _ => known.split('+').any(|known| name == known),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_gpus_are_told_from_those_of_engines() {
        let check = |name: &str, known: bool, of_engine: bool| {
            assert_eq!((is_known(name), is_of_engine(name)), (known, of_engine), "{name}");
        };
        check("vllm:gpu_cache_usage_perc", true, true);
        check("vllm:time_to_first_token_seconds_bucket", true, true);
        check("llamacpp:prompt_tokens_cached_total", true, true);
        check("DCGM_FI_DEV_GPU_UTIL", true, false);
        check("nvidia_smi:power.draw", true, false);
        check("process_cpu_seconds_total", false, false);
        check("vllm:time_to_first_token_seconds", false, false);
    }
}
