//! What snapshots say of a stretch of time: states over it, and differences of counts.

use super::table::Kind;
use super::{QUANTITIES, Quantity, Series, Snapshot};
use crate::StageSummary;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// The server's own view of a stretch of time. What it did not measure is missing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ServerView {
    /// The stage, or "total".
    pub stage: String,
    /// Seconds between the readings nearest to its ends; of several stages their sum.
    pub span_s: f64,
    /// States, by the quantity's name.
    pub gauges: BTreeMap<String, Gauge>,
    /// Counts, by the quantity's name.
    pub totals: BTreeMap<String, Total>,
    /// Share of looked-up prompt tokens that the prefix cache had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_cache_hit_rate: Option<f64>,
    /// Durations in milliseconds, by the quantity's name.
    pub histograms: BTreeMap<String, Histogram>,
    /// Means of durations that were measured on both sides, by the metric's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub beside: BTreeMap<String, Beside>,
    /// Counts that cannot be given, for one of their series fell from one reading to the next, by the
    /// quantity's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set_back: Vec<String>,
}

/// A state over time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gauge {
    /// Its unit.
    pub unit: String,
    /// Mean of the readings, each over all engines.
    pub mean: f64,
    /// Largest reading over all engines.
    pub max: f64,
    /// Largest value of a single engine.
    pub largest: f64,
    /// The last reading.
    pub last: f64,
    /// Series that made a reading: the engines, or processes, of the server.
    pub series: usize,
}

/// A count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Total {
    /// Its unit.
    pub unit: String,
    /// What came together in the span.
    pub value: f64,
    /// The same per second.
    pub per_second: f64,
}

/// A histogram of durations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// "ms".
    pub unit: String,
    /// How many.
    pub n: u64,
    /// Their mean.
    pub mean: f64,
    /// By percentile, interpolated within a bucket. One that lies above the last bound is missing.
    pub percentiles: BTreeMap<String, f64>,
}

/// A duration as the server measured it and as it was measured here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Beside {
    /// "ms".
    pub unit: String,
    /// The server's mean.
    pub server: f64,
    /// The mean here.
    pub here: f64,
    /// `here - server`: the network, the client, and requests that only one side counts.
    pub difference: f64,
}

const PERCENTILES: [(&str, f64); 3] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];

/// The view of the stretches of a stage, or of several, each from the readings nearest to its ends;
/// what lies between them does not count. None: of one of them there are no two readings.
#[must_use]
pub fn view(stage: &str, windows: &[(u64, u64)], snapshots: &[Snapshot]) -> Option<ServerView> {
    let nearest = |at: u64| (0..snapshots.len()).min_by_key(|&i| snapshots[i].at.abs_diff(at));
    let mut spans = Vec::new();
    let mut read = BTreeSet::new();
    for window in windows {
        let (first, last) = (nearest(window.0)?, nearest(window.1)?);
        let within = snapshots.get(first..=last).filter(|within| within.len() > 1)?;
        spans.push(Span::of(within));
        read.extend(first..=last);
    }
    // A reading may be the last of one stretch and the first of the next.
    let read: Vec<&Snapshot> = read.into_iter().map(|i| &snapshots[i]).collect();
    let spans = Spans(spans);
    let span_s = spans.seconds();
    let mut found = ServerView { stage: stage.to_owned(), span_s, ..ServerView::default() };
    for quantity in QUANTITIES {
        match quantity.kind {
            Kind::Sum | Kind::Mean => {
                if let Some(gauge) = gauge(quantity, &read) {
                    found.gauges.insert(quantity.name.to_owned(), gauge);
                }
            }
            Kind::Counter => match spans.growth(quantity, "") {
                Ok(value) => {
                    let unit = quantity.unit.to_owned();
                    let total = Total { unit, value, per_second: value / span_s };
                    found.totals.insert(quantity.name.to_owned(), total);
                }
                Err(Missing::SetBack) => found.set_back.push(quantity.name.to_owned()),
                Err(Missing::Unread) => {}
            },
            Kind::Histogram => match spans.histogram(quantity) {
                Ok(histogram) => {
                    found.histograms.insert(quantity.name.to_owned(), histogram);
                }
                Err(Missing::SetBack) => found.set_back.push(quantity.name.to_owned()),
                Err(Missing::Unread) => {}
            },
        }
    }
    let total = |name: &str| found.totals.get(name).map(|total| total.value);
    found.prefix_cache_hit_rate = match (total("prefix_cache_hits"), total("prefix_cache_queries"))
    {
        (Some(hits), Some(queries)) if queries > 0.0 => Some(hits / queries),
        _ => None,
    };
    let is_empty =
        found.gauges.is_empty() && found.totals.is_empty() && found.histograms.is_empty();
    (!is_empty || !found.set_back.is_empty()).then_some(found)
}

impl ServerView {
    /// Over how many series a state is averaged: engines, GPUs, or processes of which some may be
    /// idle. None: it is no mean, or one of a single series.
    pub(crate) fn averaged_over(&self, name: &str) -> Option<usize> {
        let is_mean = |quantity: &&Quantity| quantity.name == name && quantity.kind == Kind::Mean;
        QUANTITIES.iter().find(is_mean)?;
        self.gauges.get(name).map(|gauge| gauge.series).filter(|series| *series > 1)
    }

    /// Puts what was measured here beside the server's own durations.
    pub(crate) fn compare(&mut self, here: &StageSummary) {
        // Where chunks carry several tokens, we count by token what servers count by chunk.
        let is_by_chunk = here.several_token_chunks.is_some_and(|share| share > 0.0);
        for (name, there) in &self.histograms {
            if name == "itl" && is_by_chunk {
                continue;
            }
            if let Some(ours) = here.distribution(name) {
                let beside = Beside {
                    unit: there.unit.clone(),
                    server: there.mean,
                    here: ours.mean,
                    difference: ours.mean - there.mean,
                };
                self.beside.insert(name.clone(), beside);
            }
        }
    }
}

/// The series of a quantity: those of the first of its names that the reading has any of.
fn series<'a>(quantity: &Quantity, snapshot: &'a Snapshot, ending: &str) -> Vec<&'a Series> {
    quantity
        .names
        .iter()
        .map(|name| {
            let is_named = |series: &&Series| {
                let stem = series.name.strip_suffix(ending);
                stem.is_some_and(|stem| name.split('+').any(|name| name == stem))
            };
            snapshot.series.iter().filter(is_named).collect::<Vec<_>>()
        })
        .find(|series| !series.is_empty())
        .unwrap_or_default()
}

fn gauge(quantity: &Quantity, within: &[&Snapshot]) -> Option<Gauge> {
    let mut readings = Vec::new();
    let mut largest = f64::MIN;
    let mut count = 0;
    for snapshot in within {
        let values: Vec<f64> =
            series(quantity, snapshot, "").iter().map(|series| series.value).collect();
        if values.is_empty() {
            continue;
        }
        let sum: f64 = values.iter().sum();
        readings.push(if quantity.kind == Kind::Mean { sum / values.len() as f64 } else { sum });
        largest = values.iter().copied().fold(largest, f64::max);
        count = values.len();
    }
    Some(Gauge {
        unit: quantity.unit.to_owned(),
        mean: readings.iter().sum::<f64>() / readings.len() as f64,
        max: readings.iter().copied().reduce(f64::max)?,
        largest,
        last: *readings.last()?,
        series: count,
    })
}

/// A series by its name and labels.
type Key<'a> = (&'a str, &'a [(String, String)]);

fn key(series: &Series) -> Key<'_> {
    (&series.name, &series.labels)
}

/// The series of which some reading has less than one before it. A restart may be overtaken until
/// the end, and behind one address several servers may answer in turn: first and last reading do not
/// show it.
fn fallen(within: &[Snapshot]) -> HashSet<Key<'_>> {
    let mut latest: HashMap<Key, f64> = HashMap::new();
    let mut fallen = HashSet::new();
    for series in within.iter().flat_map(|snapshot| &snapshot.series) {
        let earlier = latest.insert(key(series), series.value);
        if earlier.is_some_and(|earlier| series.value < earlier) {
            fallen.insert(key(series));
        }
    }
    fallen
}

/// Counts between two readings.
struct Span<'a> {
    before: &'a Snapshot,
    after: &'a Snapshot,
    /// Series that fell in between.
    fallen: HashSet<Key<'a>>,
}

/// Why nobody knows how much a count grew.
enum Missing {
    /// It was set back in between, and with it what it had counted until then.
    SetBack,
    /// It is not there or counted nothing, or one of the two readings lacks a page that the other has.
    Unread,
}

impl<'a> Span<'a> {
    /// From the first reading to the last.
    fn of(within: &'a [Snapshot]) -> Self {
        let (before, after) = (&within[0], &within[within.len() - 1]);
        Self { before, after, fallen: fallen(within) }
    }

    /// How much a count grew.
    fn growth(&self, quantity: &Quantity, ending: &str) -> Result<f64, Missing> {
        let (old, new) =
            (series(quantity, self.before, ending), series(quantity, self.after, ending));
        if new.is_empty() && old.is_empty() {
            return Err(Missing::Unread);
        }
        if old.iter().chain(&new).any(|series| self.fallen.contains(&key(series))) {
            return Err(Missing::SetBack);
        }
        let same = |of: &[&Series], series: &Series| -> Option<f64> {
            of.iter().find(|other| key(other) == key(series)).map(|other| other.value)
        };
        // A page that answers and has forgotten a count is that of a server which began anew.
        if let Some(lost) = old.iter().find(|series| same(&new, series).is_none()) {
            let answered = self.after.has_page_of(lost);
            return Err(if answered { Missing::SetBack } else { Missing::Unread });
        }
        let mut sum = 0.0;
        for series in new {
            let earlier = match same(&old, series) {
                Some(earlier) => earlier,
                // A count that a page did not have yet began at 0; that of a page which did not
                // answer had begun long before.
                None if self.before.has_page_of(series) => 0.0,
                None => return Err(Missing::Unread),
            };
            sum += series.value - earlier;
        }
        Ok(sum)
    }

    /// How much the cumulative count up to a bound grew, over all engines.
    fn bucket(&self, quantity: &Quantity, at: f64) -> f64 {
        let upto = |snapshot: &Snapshot| -> f64 {
            let buckets = series(quantity, snapshot, "_bucket");
            buckets.iter().filter(|s| bound(s) == Some(at)).map(|s| s.value).sum()
        };
        upto(self.after) - upto(self.before)
    }
}

/// Counts over one stretch or several.
struct Spans<'a>(Vec<Span<'a>>);

impl Spans<'_> {
    fn seconds(&self) -> f64 {
        self.0.iter().map(|span| (span.after.at - span.before.at) as f64 / 1e9).sum()
    }

    /// How much a count grew.
    fn growth(&self, quantity: &Quantity, ending: &str) -> Result<f64, Missing> {
        self.0.iter().map(|span| span.growth(quantity, ending)).sum()
    }

    /// What came together of a histogram.
    fn histogram(&self, quantity: &Quantity) -> Result<Histogram, Missing> {
        let (n, sum) = (self.growth(quantity, "_count")?, self.growth(quantity, "_sum")?);
        if n <= 0.0 {
            return Err(Missing::Unread);
        }
        let buckets = self.0.iter().flat_map(|span| series(quantity, span.after, "_bucket"));
        let mut bounds: Vec<f64> = buckets.filter_map(bound).collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        // Cumulative counts over all engines, in the order of the bounds.
        let upto = |at: f64| self.0.iter().map(|span| span.bucket(quantity, at)).sum();
        let buckets: Vec<(f64, f64)> = bounds.into_iter().map(|at| (at, upto(at))).collect();
        let percentiles = PERCENTILES
            .iter()
            .filter_map(|(name, share)| {
                Some(((*name).to_owned(), quantile(&buckets, *share)? * 1e3))
            })
            .collect();
        Ok(Histogram {
            unit: quantity.unit.to_owned(),
            n: n as u64,
            mean: sum / n * 1e3,
            percentiles,
        })
    }
}

/// The upper bound of a histogram's bucket.
fn bound(bucket: &Series) -> Option<f64> {
    match bucket.label("le")? {
        "+Inf" => Some(f64::INFINITY),
        text => text.parse().ok(),
    }
}

/// Linear within the bucket that holds the rank, as Prometheus' `histogram_quantile` has it.
fn quantile(buckets: &[(f64, f64)], share: f64) -> Option<f64> {
    let rank = share * buckets.last()?.1;
    let at = buckets.iter().position(|(_, count)| *count >= rank)?;
    let (upper, count) = buckets[at];
    let (lower, below) = if at == 0 { (0.0, 0.0) } else { buckets[at - 1] };
    if !upper.is_finite() || count <= below {
        return None;
    }
    Some(lower + (upper - lower) * (rank - below) / (count - below))
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn view(stage: &str, window: (u64, u64), snapshots: &[Snapshot]) -> Option<ServerView> {
        super::view(stage, &[window], snapshots)
    }

    fn case(name: &str, at: u64) -> Snapshot {
        let path = format!("{}/../../tests/cases/{name}", env!("CARGO_MANIFEST_DIR"));
        Snapshot { at: at * 1_000_000_000, series: parse(&std::fs::read_to_string(path).unwrap()) }
    }

    #[test]
    fn c35_engines_are_added_up_or_averaged_and_counts_are_differences() {
        let snapshots = [case("C35-vllm-t0.prom", 0), case("C35-vllm-t10.prom", 10)];
        let found = view("s", (0, 10_000_000_000), &snapshots).unwrap();
        assert_eq!(found.span_s, 10.0);
        let gauge = |name: &str| &found.gauges[name];
        assert_eq!((gauge("running").last, gauge("running").series), (10.0, 2));
        assert_eq!(gauge("waiting").last, 4.0);
        let usage = gauge("kv_cache_usage");
        assert!((usage.last - 0.5).abs() < 1e-12 && usage.largest == 0.7, "{usage:?}");
        let tokens = &found.totals["generation_tokens"];
        assert_eq!((tokens.value, tokens.per_second), (2000.0, 200.0));
        assert!((found.prefix_cache_hit_rate.unwrap() - 400.0 / 1500.0).abs() < 1e-12);
        let ttft = &found.histograms["ttft"];
        assert_eq!(ttft.n, 50);
        assert!((ttft.mean - 180.0).abs() < 1e-9, "{ttft:?}");
        assert!((ttft.percentiles["p50"] - 137.5).abs() < 1e-9, "{ttft:?}");
        assert!(!ttft.percentiles.contains_key("p90"), "above the last bound: {ttft:?}");
        assert_eq!(found.averaged_over("kv_cache_usage"), Some(2));
        assert_eq!(found.averaged_over("running"), None, "it is a sum");
    }

    #[test]
    fn c35_processes_of_one_engine_are_series_of_their_own() {
        // Two processes serve the API of one engine; one of them has had nothing to do.
        let page = |tokens: u32, at: u64| {
            let label = |pid: u32| format!("{{engine=\"0\",model_name=\"m\",pid=\"{pid}\"}}");
            let (busy, idle) = (label(71), label(72));
            let text = format!(
                "vllm:kv_cache_usage_perc{busy} 0.6\nvllm:kv_cache_usage_perc{idle} 0\n\
                 vllm:num_requests_running{busy} 4\nvllm:num_requests_running{idle} 0\n\
                 vllm:generation_tokens_total{busy} {tokens}\nvllm:generation_tokens_total{idle} 7\n"
            );
            Snapshot { at, series: parse(&text) }
        };
        let found = view("s", (0, 2), &[page(10, 0), page(30, 2)]).unwrap();
        let usage = &found.gauges["kv_cache_usage"];
        assert_eq!((usage.mean, usage.largest), (0.3, 0.6));
        assert_eq!(found.averaged_over("kv_cache_usage"), Some(2), "so the mean is told with it");
        assert_eq!(found.gauges["running"].mean, 4.0);
        assert_eq!(found.totals["generation_tokens"].value, 20.0);
    }

    #[test]
    fn older_names_mean_the_same_and_are_not_counted_beside_the_new_ones() {
        let page = |text: &str, at: u64| Snapshot { at, series: parse(text) };
        let old = "vllm:gpu_cache_usage_perc{engine=\"0\"} 0.4\n";
        let both = format!("{old}vllm:kv_cache_usage_perc{{engine=\"0\"}} 0.5\n");
        for (text, expected) in [(old, 0.4), (both.as_str(), 0.5)] {
            let found = view("s", (0, 2), &[page(text, 0), page(text, 2)]).unwrap();
            assert_eq!(found.gauges["kv_cache_usage"].mean, expected);
            assert_eq!(found.gauges["kv_cache_usage"].series, 1);
        }
    }

    #[test]
    fn a_page_that_did_not_answer_before_gives_no_count_since_its_servers_start() {
        let page = |text: &str, at: u64| Snapshot { at, series: parse(text) };
        let name = "vllm:prompt_tokens_total";
        let one = format!("{name}{{page=\"a\"}} 5\n");
        let both = format!("{name}{{page=\"a\"}} 7\n{name}{{page=\"b\"}} 9000\n");
        let total = |before: &str| {
            let found = view("s", (0, 9), &[page(before, 0), page(&both, 9)]);
            found.map(|found| found.totals["prompt_tokens"].value)
        };
        assert_eq!(total(&one), None);
        // One that answered and had not counted yet began at 0.
        assert_eq!(
            total(&format!("{one}vllm:num_requests_running{{page=\"b\"}} 0\n")),
            Some(9002.0)
        );
    }

    #[test]
    fn llama_cpp_counts_what_it_computed_and_what_it_had_apart() {
        let page = |computed: u32, had: u32, at: u64| Snapshot {
            at,
            series: parse(&format!(
                "llamacpp:prompt_tokens_total {computed}\nllamacpp:prompt_tokens_cached_total {had}\n"
            )),
        };
        let found = view("s", (0, 9), &[page(10, 5, 0), page(40, 75, 9)]).unwrap();
        assert_eq!(found.totals["prompt_tokens"].value, 100.0);
        assert_eq!(found.prefix_cache_hit_rate, Some(0.7));
    }

    #[test]
    fn gpus_are_read_from_the_exporter_or_from_the_program() {
        let dcgm = "DCGM_FI_DEV_GPU_UTIL{gpu=\"0\",UUID=\"GPU-1\"} 90\n\
             DCGM_FI_DEV_GPU_UTIL{gpu=\"1\",UUID=\"GPU-2\"} 50\n\
             DCGM_FI_DEV_POWER_USAGE{gpu=\"0\",UUID=\"GPU-1\"} 310.5\n\
             DCGM_FI_DEV_POWER_USAGE{gpu=\"1\",UUID=\"GPU-2\"} 300\n";
        let program = "nvidia_smi:utilization.gpu{gpu=\"0\"} 90\n\
             nvidia_smi:utilization.gpu{gpu=\"1\"} 50\n\
             nvidia_smi:power.draw{gpu=\"0\"} 310.5\nnvidia_smi:power.draw{gpu=\"1\"} 300\n";
        for text in [dcgm.to_owned(), program.to_owned(), format!("{dcgm}{program}")] {
            let page = |at: u64| Snapshot { at, series: parse(&text) };
            let found = view("s", (0, 2), &[page(0), page(2)]).unwrap();
            let usage = &found.gauges["gpu_utilization"];
            assert_eq!((usage.mean, usage.largest, usage.series), (70.0, 90.0, 2), "{text}");
            assert_eq!(found.gauges["gpu_power"].max, 610.5, "{text}");
        }
    }

    #[test]
    fn a_restart_and_too_few_readings_give_nothing_rather_than_a_wrong_number() {
        let page = |value: f64, at: u64| Snapshot {
            at,
            series: parse(&format!("vllm:prompt_tokens_total {value}\n")),
        };
        let set_back = ["prompt_tokens".to_owned()];
        let restarted = view("s", (0, 9), &[page(5.0, 0), page(3.0, 9)]).unwrap();
        assert_eq!((restarted.totals.len(), restarted.set_back.as_slice()), (0, &set_back[..]));
        assert_eq!(view("s", (0, 9), &[page(5.0, 0)]), None);
        assert_eq!(view("s", (0, 9), &[]), None);
        // The readings nearest to its ends, and no others.
        let all = [page(1.0, 0), page(5.0, 10), page(7.0, 20), page(50.0, 30)];
        let found = view("s", (11, 19), &all).unwrap();
        assert_eq!(found.totals["prompt_tokens"].value, 2.0);
    }

    #[test]
    fn a_count_that_falls_between_two_readings_is_not_given_wherever_it_ends() {
        let page = |text: &str, at: u64| Snapshot { at, series: parse(text) };
        let counter = |value: u32| format!("vllm:prompt_tokens_total {value}\n");
        let histogram = |n: u32| {
            let name = "vllm:time_to_first_token_seconds";
            format!(
                "{name}_count {n}\n{name}_sum {n}\n{name}_bucket{{le=\"1\"}} {n}\n\
                 {name}_bucket{{le=\"+Inf\"}} {n}\nvllm:num_requests_running 1\n"
            )
        };
        let read = |pages: [String; 3]| {
            let at = (0..).map(|i| 5 * i);
            let all: Vec<Snapshot> = pages.iter().zip(at).map(|(p, at)| page(p, at)).collect();
            view("s", (0, 10), &all).unwrap()
        };
        // A restart, after which it counts further than before; servers that answer in turn.
        for values in [[5, 1, 9], [50, 20, 60]] {
            let found = read(values.map(counter));
            assert_eq!(
                (found.totals.len(), &found.set_back[..]),
                (0, &["prompt_tokens".into()][..])
            );
            let found = read(values.map(histogram));
            assert_eq!((found.histograms.len(), &found.set_back[..]), (0, &["ttft".into()][..]));
            // A state may fall.
            assert_eq!(found.gauges["running"].series, 1);
        }
        let found = read([1, 5, 9].map(counter));
        assert_eq!((found.totals["prompt_tokens"].value, found.set_back.len()), (8.0, 0));
        assert_eq!(read([1, 5, 9].map(histogram)).histograms["ttft"].n, 8);
        // It answers and has forgotten what it had counted.
        let found = read([counter(5), counter(7), "vllm:num_requests_running 0\n".to_owned()]);
        assert_eq!((found.totals.len(), &found.set_back[..]), (0, &["prompt_tokens".into()][..]));
    }

    #[test]
    fn a_page_that_does_not_answer_at_the_end_leaves_no_sum_of_the_others() {
        let page = |text: &str, at: u64| Snapshot { at, series: parse(text) };
        let name = "vllm:prompt_tokens_total";
        let one = |value: u32| format!("{name}{{page=\"a\"}} {value}\n");
        let both = format!("{}{name}{{page=\"b\"}} 5\n", one(5));
        let running = "vllm:num_requests_running{page=\"a\"} 1\n";
        let end = format!("{}{running}", one(9));
        let found = view("s", (0, 9), &[page(&both, 0), page(&end, 9)]).unwrap();
        assert_eq!((found.totals.len(), found.set_back.len()), (0, 0));
    }
}
