//! [`METRICS`]: everything that is measured, defined once. Reports and `docs/metrics.md` are made
//! from this table; a new metric is one entry here.

use crate::collector::Request;
use crate::summarise::Tally;
use serde::{Deserialize, Serialize};

/// Something that is measured.
#[derive(Debug)]
pub struct Metric {
    /// Its name in files: stable.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// Unit of its values.
    pub unit: &'static str,
    /// Which way is good.
    pub better: Better,
    /// What it says, in a few words.
    pub short: &'static str,
    /// How it is reckoned, exactly.
    pub definition: &'static str,
    /// Where its values come from.
    pub(crate) measure: Measure,
}

/// Which way of a metric is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// Small values.
    Lower,
    /// Large values.
    Higher,
    /// It describes; it is neither good nor bad.
    Neither,
}

/// Where a metric's values come from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Measure {
    /// Each request that ended well gives one, or none where it was not measured.
    Request(fn(&Request) -> Option<f64>),
    /// Each request that was sent gives one, failed ones too: it is about the client.
    Sent(fn(&Request) -> Option<f64>),
    /// The pooled gaps between output tokens.
    Gaps,
    /// The whole stage gives one: a rate per second.
    Rate(fn(&Tally) -> Option<u64>),
}

/// Every metric, in the order of reports.
pub const METRICS: &[Metric] = &[
    Metric {
        name: "ttft",
        title: "TTFT",
        unit: "ms",
        better: Better::Lower,
        short: "time to first token",
        definition: "First output token arrived - sent. Output tokens are text in content, \
            reasoning or tool-call deltas; chunks with a role only, null or empty text, or usage \
            are not.",
        measure: Measure::Request(|r| Some(ms(r.sent?, r.tokens?.first))),
    },
    Metric {
        name: "scheduled_ttft",
        title: "scheduled TTFT",
        unit: "ms",
        better: Better::Lower,
        short: "time to first token, waiting in the client included",
        definition: "First output token arrived - due: what a user of an open-loop service saw. \
            A closed loop has no due times and so no value.",
        measure: Measure::Request(|r| Some(ms(r.due?, r.tokens?.first))),
    },
    Metric {
        name: "answer_ttft",
        title: "answer TTFT",
        unit: "ms",
        better: Better::Lower,
        short: "time to the first token of the answer itself",
        definition: "First output token that is not reasoning arrived - sent.",
        measure: Measure::Request(|r| Some(ms(r.sent?, r.first_answer?))),
    },
    Metric {
        name: "itl",
        title: "ITL",
        unit: "ms",
        better: Better::Lower,
        short: "inter-token latency",
        definition: "Gaps between arrivals of output chunks, all requests pooled. A chunk that \
            carries k tokens, by the server's count, gives k samples of gap / k.",
        measure: Measure::Gaps,
    },
    Metric {
        name: "tpot",
        title: "TPOT",
        unit: "ms",
        better: Better::Lower,
        short: "time per output token after the first",
        definition: "(Last output token arrived - first) / (output tokens - 1). Undefined for one \
            token, and where all tokens came in one chunk.",
        measure: Measure::Request(tpot),
    },
    Metric {
        name: "ntpot",
        title: "NTPOT",
        unit: "ms",
        better: Better::Lower,
        short: "latency normalised by output tokens",
        definition: "Latency / output tokens.",
        measure: Measure::Request(|r| {
            let tokens = r.output_tokens.filter(|&n| n > 0)?;
            Some(latency(r)? / f64::from(tokens))
        }),
    },
    Metric {
        name: "latency",
        title: "latency (E2E)",
        unit: "ms",
        better: Better::Lower,
        short: "end-to-end latency",
        definition: "Last byte of the answer arrived - sent.",
        measure: Measure::Request(latency),
    },
    Metric {
        name: "scheduled_latency",
        title: "scheduled latency",
        unit: "ms",
        better: Better::Lower,
        short: "end-to-end latency, waiting in the client included",
        definition: "Last byte of the answer arrived - due. A closed loop has no value.",
        measure: Measure::Request(|r| Some(ms(r.due?, r.finished))),
    },
    Metric {
        name: "lateness",
        title: "lateness",
        unit: "ms",
        better: Better::Lower,
        short: "the load generator's own error",
        definition: "Sent - due, of every request that was sent. A closed loop has no value.",
        measure: Measure::Sent(|r| Some(ms(r.due?, r.sent?))),
    },
    Metric {
        name: "input_tokens",
        title: "input tokens",
        unit: "tokens",
        better: Better::Neither,
        short: "tokens of the prompt",
        definition: "The server's usage; without it the tokenizer's count, marked so.",
        measure: Measure::Request(|r| r.input_tokens.map(f64::from)),
    },
    Metric {
        name: "output_tokens",
        title: "output tokens",
        unit: "tokens",
        better: Better::Neither,
        short: "tokens of the answer, reasoning included",
        definition: "The server's usage; without it the tokenizer's count, marked so.",
        measure: Measure::Request(|r| r.output_tokens.map(f64::from)),
    },
    Metric {
        name: "request_throughput",
        title: "requests",
        unit: "1/s",
        better: Better::Higher,
        short: "requests that ended well, per second",
        definition: "Requests that ended well within the measured window / the window's length. \
            The window of a total is the sum of its stages' windows.",
        measure: Measure::Rate(|t| Some(t.finished)),
    },
    Metric {
        name: "output_token_throughput",
        title: "output tokens",
        unit: "tokens/s",
        better: Better::Higher,
        short: "output tokens per second",
        definition: "Output tokens of the requests that ended well within the measured window / \
            the window's length; never a sum of rates of single requests.",
        measure: Measure::Rate(|t| t.output_tokens),
    },
    Metric {
        name: "total_token_throughput",
        title: "total tokens",
        unit: "tokens/s",
        better: Better::Higher,
        short: "input and output tokens per second",
        definition: "Input and output tokens of the requests that ended well within the measured \
            window / the window's length.",
        measure: Measure::Rate(|t| Some(t.input_tokens? + t.output_tokens?)),
    },
    Metric {
        name: "goodput",
        title: "goodput",
        unit: "1/s",
        better: Better::Higher,
        short: "requests per second that met every objective",
        definition: "Requests that ended well within the measured window and met every \
            service-level objective / the window's length; also as a share of all requests sent, \
            failures included. A limit is met when equal. An undefined TPOT (one token) breaks no \
            limit; a TTFT that was not measured meets none. Without objectives there is no value.",
        measure: Measure::Rate(|t| t.good),
    },
];

/// The metric of this name.
#[must_use]
pub fn metric(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}

/// The reference page of all metrics, `docs/metrics.md`.
#[must_use]
pub fn metrics_markdown() -> String {
    let mut page = String::from(PAGE_HEAD);
    for metric in METRICS {
        let better = match metric.better {
            Better::Lower => "lower",
            Better::Higher => "higher",
            Better::Neither => "-",
        };
        page.push_str(&format!(
            "| `{}` | {} | {better} | {} | {} |\n",
            metric.name, metric.unit, metric.short, metric.definition
        ));
    }
    page
}

const PAGE_HEAD: &str = "\
# Metrics

Time is counted on one monotonic clock. *Due* is when the schedule wanted the request out; *sent* \
is just before the write that hands its last byte to the socket; a token *arrives* when the read that carried it \
returned. Failed requests never enter latencies and always enter rates; requests of a warm-up are \
left out and counted. Where requests failed, the latencies of requests have their percentiles \
over all that were sent beside them (`all_sent`), in which a failed request is infinitely late: \
with 2 % failed, the p99 is `failed`. Percentiles are nearest ranks. One is given from n = \
1/(1-p) values on (2, 10, 20, 100, 1,000 for p50, p90, p95, p99, p99.9), and marked `few` below \
the n at which its 95 % interval has two ends (6, 36, 72, 368, 3,688). What was not measured is \
missing, never 0.

| name | unit | better | what | definition |
| --- | --- | --- | --- | --- |
";

/// Milliseconds from one time to another, both in nanoseconds. Negative if it lies before.
pub(crate) fn ms(from: u64, to: u64) -> f64 {
    let nanos = if from <= to { (to - from) as f64 } else { -((from - to) as f64) };
    nanos / 1e6
}

fn latency(r: &Request) -> Option<f64> {
    Some(ms(r.sent?, r.finished))
}

fn tpot(r: &Request) -> Option<f64> {
    let tokens = r.tokens.filter(|tokens| tokens.chunks > 1)?;
    let after_the_first = r.output_tokens?.checked_sub(1).filter(|&n| n > 0)?;
    Some(ms(tokens.first, tokens.last) / f64::from(after_the_first))
}
