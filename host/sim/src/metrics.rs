//! What `/metrics` counts, under vLLM's names and with its histogram limits.

use std::fmt::Write;

const TTFT_LIMITS_S: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const ITL_LIMITS_S: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
const E2E_LIMITS_S: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    Stop,
    Length,
    Abort,
    Error,
}

impl Finish {
    const ALL: [Self; 4] = [Self::Stop, Self::Length, Self::Abort, Self::Error];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
            Self::Error => "error",
        }
    }
}

/// All counters, gauges and histograms.
pub(crate) struct Metrics {
    pub(crate) running: u64,
    pub(crate) waiting: u64,
    /// Cache blocks held by running requests.
    pub(crate) held_blocks: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) generation_tokens: u64,
    /// Tokens looked up in the prefix cache.
    pub(crate) cache_queries: u64,
    /// Tokens found there.
    pub(crate) cache_hits: u64,
    finished: [u64; Finish::ALL.len()],
    ttft: Histogram,
    itl: Histogram,
    e2e: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            running: 0,
            waiting: 0,
            held_blocks: 0,
            prompt_tokens: 0,
            generation_tokens: 0,
            cache_queries: 0,
            cache_hits: 0,
            finished: [0; Finish::ALL.len()],
            ttft: Histogram::new(TTFT_LIMITS_S),
            itl: Histogram::new(ITL_LIMITS_S),
            e2e: Histogram::new(E2E_LIMITS_S),
        }
    }

    /// The first token came, so long after the request was read.
    pub(crate) fn first_token(&mut self, after_ns: u64, prompt_tokens: usize) {
        self.ttft.observe(after_ns);
        self.prompt_tokens += prompt_tokens as u64;
    }

    /// Another event with tokens came, so long after the one before.
    pub(crate) fn next_tokens(&mut self, after_ns: u64) {
        self.itl.observe(after_ns);
    }

    pub(crate) fn finish(&mut self, finish: Finish, after_ns: u64) {
        self.finished[finish as usize] += 1;
        self.e2e.observe(after_ns);
    }

    pub(crate) fn finished(&self, finish: Finish) -> u64 {
        self.finished[finish as usize]
    }

    /// The page in Prometheus' text format. `cache_blocks` is the size of the cache.
    pub(crate) fn page(&self, model: &str, cache_blocks: u32) -> String {
        let model = model.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels = format!("engine=\"0\",model_name=\"{model}\"");
        let usage = match cache_blocks {
            0 => 0.0,
            blocks => (self.held_blocks as f64 / f64::from(blocks)).min(1.0),
        };
        let values = [
            ("num_requests_running", "gauge", "Requests that generate.", self.running as f64),
            ("num_requests_waiting", "gauge", "Requests in the queue.", self.waiting as f64),
            ("kv_cache_usage_perc", "gauge", "Share of the cache in use, 0 to 1.", usage),
            ("prompt_tokens_total", "counter", "Prompt tokens.", self.prompt_tokens as f64),
            (
                "generation_tokens_total",
                "counter",
                "Generated tokens.",
                self.generation_tokens as f64,
            ),
            (
                "prefix_cache_queries_total",
                "counter",
                "Tokens looked up in the prefix cache.",
                self.cache_queries as f64,
            ),
            (
                "prefix_cache_hits_total",
                "counter",
                "Tokens found in the prefix cache.",
                self.cache_hits as f64,
            ),
        ];
        let mut page = Page(String::with_capacity(8 << 10));
        for (name, kind, help, value) in values {
            page.about(name, kind, help);
            page.line(format_args!("vllm:{name}{{{labels}}} {value:?}"));
        }
        page.about("request_success_total", "counter", "Finished requests by reason.");
        for finish in Finish::ALL {
            let (reason, count) = (finish.name(), self.finished(finish) as f64);
            page.line(format_args!(
                "vllm:request_success_total{{{labels},finished_reason=\"{reason}\"}} {count:?}"
            ));
        }
        for (name, help, histogram) in [
            ("time_to_first_token_seconds", "Time to first token in seconds.", &self.ttft),
            ("inter_token_latency_seconds", "Time between tokens in seconds.", &self.itl),
            ("e2e_request_latency_seconds", "Time of whole requests in seconds.", &self.e2e),
        ] {
            page.about(name, "histogram", help);
            histogram.write(name, &labels, &mut page);
        }
        page.0
    }
}

struct Histogram {
    limits_s: &'static [f64],
    /// Per limit and one for what is above all.
    counts: Vec<u64>,
    sum_ns: u64,
}

impl Histogram {
    fn new(limits_s: &'static [f64]) -> Self {
        Self { limits_s, counts: vec![0; limits_s.len() + 1], sum_ns: 0 }
    }

    fn observe(&mut self, ns: u64) {
        let s = ns as f64 / 1e9;
        self.counts[self.limits_s.partition_point(|&limit| limit < s)] += 1;
        self.sum_ns += ns;
    }

    fn write(&self, name: &str, labels: &str, page: &mut Page) {
        let mut total = 0;
        for (index, count) in self.counts.iter().enumerate() {
            total += count;
            let limit = match self.limits_s.get(index) {
                Some(limit) => format!("{limit:?}"),
                None => "+Inf".to_owned(),
            };
            let total = total as f64;
            page.line(format_args!("vllm:{name}_bucket{{{labels},le=\"{limit}\"}} {total:?}"));
        }
        let (total, sum) = (total as f64, self.sum_ns as f64 / 1e9);
        page.line(format_args!("vllm:{name}_count{{{labels}}} {total:?}"));
        page.line(format_args!("vllm:{name}_sum{{{labels}}} {sum:?}"));
    }
}

struct Page(String);

impl Page {
    fn about(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP vllm:{name} {help}"));
        self.line(format_args!("# TYPE vllm:{name} {kind}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("a string takes all text");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_what_was_counted() {
        let mut metrics = Metrics::new();
        metrics.running = 2;
        metrics.held_blocks = 5;
        metrics.first_token(10_000_000, 7);
        metrics.next_tokens(30_000_000);
        metrics.next_tokens(90_000_000_000);
        metrics.finish(Finish::Length, 1_000_000_000);
        let page = metrics.page("a\"b", 10);
        let labels = r#"engine="0",model_name="a\"b""#;
        for line in [
            format!("vllm:num_requests_running{{{labels}}} 2.0"),
            format!("vllm:kv_cache_usage_perc{{{labels}}} 0.5"),
            format!("vllm:prompt_tokens_total{{{labels}}} 7.0"),
            format!("vllm:request_success_total{{{labels},finished_reason=\"length\"}} 1.0"),
            format!("vllm:request_success_total{{{labels},finished_reason=\"stop\"}} 0.0"),
            // A value equal to a limit lies below it.
            format!("vllm:time_to_first_token_seconds_bucket{{{labels},le=\"0.005\"}} 0.0"),
            format!("vllm:time_to_first_token_seconds_bucket{{{labels},le=\"0.01\"}} 1.0"),
            format!("vllm:inter_token_latency_seconds_bucket{{{labels},le=\"0.05\"}} 1.0"),
            format!("vllm:inter_token_latency_seconds_bucket{{{labels},le=\"80.0\"}} 1.0"),
            format!("vllm:inter_token_latency_seconds_bucket{{{labels},le=\"+Inf\"}} 2.0"),
            format!("vllm:inter_token_latency_seconds_sum{{{labels}}} 90.03"),
            format!("vllm:e2e_request_latency_seconds_count{{{labels}}} 1.0"),
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
    }
}
