//! [`RULES`]: every rule of health. Reports and the reference page are made from this table; a new
//! rule is one entry here and its measure in `evidence`.

use super::About::{self, Client, Load, Server};
use super::evidence::{self, Evidence, Whole};
use super::overload;
use crate::cache::{self, CacheView, CacheWish};
use Measure::{Run, Stage};
use Shown::{Count, Fact, Percent, Times};
use records::LoopKind;

/// A rule of health.
pub(super) struct Rule {
    pub(super) name: &'static str,
    pub(super) about: About,
    /// What is measured, as the beginning of a sentence.
    pub(super) what: &'static str,
    /// More than this is worth a note.
    pub(super) note: f64,
    /// More than this is suspect.
    pub(super) suspect: f64,
    /// More than this is invalid.
    pub(super) invalid: f64,
    /// Fewest requests or samples on which it judges.
    pub(super) least: usize,
    /// What `least` counts.
    pub(super) of: &'static str,
    /// The metrics that it touches. Empty: the whole run.
    pub(super) touches: &'static [&'static str],
    /// Its value is the share of requests whose metric is something else: percentiles beyond it
    /// are not given.
    pub(super) withholds: bool,
    pub(super) shown: Shown,
    pub(super) measure: Measure,
    pub(super) cure: &'static str,
}

/// How a rule finds its value.
pub(super) enum Measure {
    /// In each measured stage: the value, and on how many requests or samples it rests.
    Stage(fn(&Evidence) -> Option<(f64, usize)>),
    /// In the run.
    Run(fn(&Whole) -> Option<(f64, usize)>),
}

/// How a rule's value is written.
#[derive(Clone, Copy)]
pub(super) enum Shown {
    Percent,
    Count,
    /// A multiple of something.
    Times,
    /// Something is so or is not: there is no value.
    Fact,
}

pub(super) const NEVER: f64 = f64::INFINITY;
/// The rule that says that there is nothing to judge.
pub(super) const NOTHING_MEASURED: &str = "nothing_measured";
/// The rule that names where it first found what it counts.
pub(super) const DAMAGED: &str = "damaged_records";
const FEWER_REQUESTS: &str = "lower the rate, give the load generator more cores, or leave it a \
    machine with nothing else on it";
const OVERLOADED: &str = "the server, not the client, is overloaded: its latencies depend on the \
    length of the stage; lower the rate";
/// As much of a stage may belong to a transient.
const TRANSIENT: f64 = 0.10;
const FILL_FIRST: &str = "the server was still filling up: a stage begins with nothing under way, \
    behind a warm-up, too; make it longer";
/// What counts from the moment of sending, and what a user with a queue before the server sees.
const FROM_SENT: &[&str] = &["ttft", "answer_ttft", "itl", "tpot", "ntpot", "latency"];
const FROM_DUE: &[&str] = &["scheduled_ttft", "scheduled_latency", "lateness"];
const LATENCIES: &[&str] = &[
    "ttft",
    "scheduled_ttft",
    "answer_ttft",
    "itl",
    "tpot",
    "ntpot",
    "latency",
    "scheduled_latency",
];

/// What most rules have in common.
const RULE: Rule = Rule {
    name: "",
    about: Client,
    what: "",
    note: NEVER,
    suspect: NEVER,
    invalid: NEVER,
    least: 10,
    of: "requests",
    touches: &[],
    withholds: false,
    shown: Percent,
    measure: Run(|_| None),
    cure: "",
};

/// Every rule.
pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "lateness",
        what: "lateness (p99; p90 below 100 requests; connecting apart) against the TTFT p50",
        suspect: 0.05,
        invalid: 0.20,
        measure: Stage(evidence::lateness),
        cure: FEWER_REQUESTS,
        ..RULE
    },
    Rule {
        name: "closed_loop_gap",
        what: "time from the end of an answer, and the pause after it, to the next sending of a closed \
            loop (p99; p90 below 100 requests; connecting apart) against the TTFT p50",
        suspect: 0.05,
        invalid: 0.20,
        measure: Stage(evidence::closed_loop_gap),
        cure: "the load generator was slow to ask again, so that fewer requests were under way than \
            the concurrency says: give it more cores, a faster workload plugin, or a machine with \
            nothing else on it",
        ..RULE
    },
    Rule {
        name: "lateness_growing",
        what: "growth of the median lateness from the first tenth to the last against the TTFT p50",
        suspect: 0.05,
        invalid: 0.20,
        least: 100,
        measure: Stage(evidence::lateness_growth),
        cure: "the load generator cannot hold this rate and falls behind further the longer the \
            stage is: lower the rate or give it more cores",
        ..RULE
    },
    Rule {
        name: "unsent",
        what: "requests due in the window that did not leave in it (two are free)",
        suspect: 0.005,
        invalid: 0.02,
        measure: Stage(evidence::unsent),
        cure: FEWER_REQUESTS,
        ..RULE
    },
    Rule {
        name: "realised_rate",
        about: Load,
        what: "difference of the arrivals that the schedule drew from the nominal rate",
        note: 0.05,
        measure: Stage(evidence::realised_rate),
        cure: "the offered rate is what counts; a Poisson count varies by one in the root of its \
            number: take a longer stage to come closer",
        ..RULE
    },
    Rule {
        name: "limit_in_flight",
        about: Load,
        what: "arrivals that waited for the limit of requests in flight",
        suspect: 0.01,
        least: 1,
        touches: FROM_SENT,
        measure: Stage(|e| Some((e.part.capped_share(), e.part.measured().count()))),
        cure: "the limit in flight made them late, not a slow client: raise the limit, lower the \
            rate, or read the stage as a closed loop",
        ..RULE
    },
    Rule {
        name: "stamp_lag",
        what: "time by which arrivals may have been stamped late (p99) against the ITL p50",
        suspect: 0.10,
        invalid: 0.30,
        least: 100,
        of: "arrivals",
        touches: &["itl"],
        measure: Stage(evidence::stamp_lag),
        cure: "the tail of the ITL is partly the load generator's: spread the load over more \
            threads or machines, or lower the rate",
        ..RULE
    },
    Rule {
        name: "thread_cpu",
        what: "CPU use of the busiest load thread (p95 of the time, by samples of one second)",
        suspect: 0.70,
        invalid: 0.90,
        of: "samples",
        measure: Stage(evidence::thread_cpu),
        cure: "spread the load over more threads, lower the rate, or shorten the answers",
        ..RULE
    },
    Rule {
        name: "thread_waiting",
        what: "time in which a load thread could have run and did not",
        suspect: 0.01,
        invalid: 0.05,
        of: "samples",
        measure: Stage(evidence::thread_waiting),
        cure: "other work takes its processors: move that away, or give the load generator a \
            machine of its own",
        ..RULE
    },
    Rule {
        name: "throttled",
        what: "time in which the limit of the control group kept the load generator from running",
        suspect: 0.0,
        invalid: 0.01,
        least: 1,
        of: "samples",
        measure: Stage(|e| e.mean_of(|sample| sample.throttled)),
        cure: "raise the processor limit of its container, or take it away",
        ..RULE
    },
    Rule {
        name: "stopped",
        what: "measured time in which the load generator stood still (a sleep of 50 ms took 150 ms or more)",
        suspect: 0.001,
        invalid: 0.01,
        least: 1,
        of: "samples",
        touches: LATENCIES,
        measure: Stage(evidence::stopped),
        cure: "what arrived meanwhile was read together, and may have been stamped late: find what held the process or its machine up, \
            if no other reason names it (a debugger, a suspended container, a migration)",
        ..RULE
    },
    Rule {
        name: "steal",
        what: "processor time of this virtual machine that its host gave to others",
        suspect: 0.02,
        invalid: 0.10,
        of: "samples",
        measure: Stage(|e| e.mean_of(|sample| sample.steal)),
        cure: "use a machine whose processors are not shared",
        ..RULE
    },
    Rule {
        name: "starved",
        what: "due sessions for which the workload had nothing ready",
        suspect: 0.0,
        invalid: 0.0,
        least: 0,
        shown: Count,
        measure: Stage(|e| Some((e.starved as f64, 0))),
        cure: "the load was not the load asked for: use a faster workload plugin, or a lower rate",
        ..RULE
    },
    Rule {
        name: "client_failed",
        what: "requests that failed because the load generator lacked open files, ports or memory",
        suspect: 0.0,
        invalid: 0.01,
        least: 1,
        measure: Stage(evidence::client_failed),
        cure: "the load generator, not the server, failed them: raise its limit of open files (`ulimit -n`), or spread \
            the load over more machines",
        ..RULE
    },
    Rule {
        name: "workload_ended",
        about: Load,
        what: "the workload had no further session, though the stage was to go on",
        suspect: 0.0,
        least: 0,
        shown: Fact,
        measure: Stage(evidence::workload_ended),
        cure: "fewer requests were sent than were asked for: take a longer data set or repeat it, or ask for fewer",
        ..RULE
    },
    Rule {
        name: "not_as_planned",
        about: Load,
        what: "parts of the planned load, one for each stage and load generator, of generators that \
            were lost or began stages by themselves",
        suspect: 0.0,
        invalid: 0.0,
        least: 0,
        measure: Run(evidence::not_as_planned),
        cure: "the load was not the load asked for: see why in what was told of the generators, and \
            run it again",
        ..RULE
    },
    Rule {
        name: "broken_down",
        what: "a thread of the load generator broke down, and what it had under way is missing",
        suspect: 0.0,
        invalid: 0.0,
        least: 0,
        shown: Fact,
        measure: Run(evidence::broken_down),
        cure: "this is a fault of llmdbench: run it again, and tell of it with what the terminal said",
        ..RULE
    },
    Rule {
        name: NOTHING_MEASURED,
        about: Load,
        what: "no request was measured",
        suspect: 0.0,
        invalid: 0.0,
        least: 0,
        shown: Fact,
        measure: Run(evidence::nothing_measured),
        cure: "nothing was sent, or nothing but a warm-up: see how the run ended, or make its stages \
            longer",
        ..RULE
    },
    Rule {
        name: "stray_entries",
        about: Load,
        what: "entries of the records whose stage their header does not know",
        suspect: 0.0,
        invalid: 0.0,
        least: 0,
        shown: Count,
        measure: Run(evidence::strays),
        cure: "requests are missing from every number: use the file as the run left it",
        ..RULE
    },
    Rule {
        name: DAMAGED,
        about: Load,
        what: "records whose times cannot be, for something ends before it begins",
        suspect: 0.0,
        invalid: 0.0,
        least: 0,
        shown: Count,
        measure: Run(evidence::damaged),
        cure: "they are left out of every number, and others may be damaged so that it does not show: use the file as \
            the run left it, or run it again",
        ..RULE
    },
    Rule {
        name: "new_connections",
        about: Server,
        what: "requests of an open loop that opened a connection, where that takes more than 5 % \
            of the TTFT p50",
        suspect: 0.005,
        invalid: 0.05,
        touches: FROM_DUE,
        withholds: true,
        measure: Stage(|e| evidence::new_connections(e, LoopKind::Open)),
        cure: "percentiles beyond this share are the time to connect and are not given: let the \
            server keep connections, make the stage longer, or put a warm-up before it",
        ..RULE
    },
    Rule {
        name: "new_connections_closed",
        about: Server,
        what: "requests of a closed loop that opened a connection, where that takes more than 5 % \
            of the TTFT p50",
        note: 0.05,
        measure: Stage(|e| evidence::new_connections(e, LoopKind::Closed)),
        cure: "fewer requests were under way than the concurrency says, for some were connecting: let \
            the server keep connections",
        ..RULE
    },
    Rule {
        name: "overloaded",
        about: Server,
        what: "share of the arrivals that were left behind when the window ended",
        suspect: overload::BACKLOG,
        least: 50,
        touches: LATENCIES,
        measure: Stage(|e| overload::backlog(e.part)),
        cure: OVERLOADED,
        ..RULE
    },
    Rule {
        name: "overload_growing",
        about: Server,
        what: "growth of the requests under way over the window (a line through ten means, beyond \
            chance at 1 %) against their mean",
        suspect: overload::GROWTH,
        least: 50,
        touches: LATENCIES,
        measure: Stage(|e| overload::growth(e.part)),
        cure: OVERLOADED,
        ..RULE
    },
    Rule {
        name: "not_steady",
        about: Server,
        what: "change of the TTFT over the window (a line through the logarithms of ten medians, \
            beyond chance at 1 %)",
        suspect: 0.05,
        least: 100,
        touches: LATENCIES,
        measure: Stage(evidence::drift),
        cure: "the stage was not in a steady state: see the charts over time; warm up longer, or \
            find what changed",
        ..RULE
    },
    Rule {
        name: "warm_up",
        about: Load,
        what: "first part of the measured requests that belongs to a transient (MSER-5 of the TTFT's \
            logarithms)",
        suspect: TRANSIENT,
        least: 1_000,
        touches: LATENCIES,
        measure: Stage(evidence::transient),
        cure: "warm up longer: `--warmup` puts a stage that is not measured before the others",
        ..RULE
    },
    Rule {
        name: "filling_up",
        about: Load,
        what: "part of the measured time of an open loop, in a stage of 120 s and more, that lies \
            within twice the latency p95 of the stage's begin",
        suspect: TRANSIENT,
        touches: LATENCIES,
        measure: Stage(|e| evidence::filling_up(e).filter(|_| evidence::is_long(e))),
        cure: FILL_FIRST,
        ..RULE
    },
    Rule {
        name: "filling_up_short",
        about: Load,
        what: "part of the measured time of an open loop, in a stage of less than 120 s, that lies \
            within twice the latency p95 of the stage's begin",
        note: TRANSIENT,
        measure: Stage(|e| evidence::filling_up(e).filter(|_| !evidence::is_long(e))),
        cure: FILL_FIRST,
        ..RULE
    },
    Rule {
        name: "cache_not_cold",
        about: Server,
        what: "prompt tokens that the server had cached and nothing sent in this run explains",
        suspect: cache::UNEXPLAINED,
        least: 1,
        touches: LATENCIES,
        measure: Stage(|e| e.cache(CacheWish::Cold, CacheView::unexplained)),
        cure: "`cache: cold` was asked for and the server's cache was not: keep others away from the \
            server, start it anew, or ask for `cache: as-is`",
        ..RULE
    },
    Rule {
        name: "cache_not_warm",
        about: Server,
        what: "hits that the prompts explain and the server's prefix cache did not have",
        suspect: cache::MISSING,
        least: 1,
        touches: LATENCIES,
        measure: Stage(|e| e.cache(CacheWish::Warm, CacheView::missing)),
        cure: "`cache: warm` was asked for: give the server a larger cache and switch it on, or ask for \
            `cache: as-is`",
        ..RULE
    },
    Rule {
        name: "same_host",
        about: Load,
        what: "the load generator and the endpoint share a machine and its processors",
        note: 0.0,
        least: 0,
        shown: Fact,
        measure: Run(evidence::same_host),
        cure: "use a machine of its own for the load generator where that matters",
        ..RULE
    },
    Rule {
        name: "headroom",
        what: "load of the heaviest stage against the most that this machine sent without doubt",
        note: 0.5,
        least: 0,
        measure: Run(evidence::headroom),
        cure: "expect errors beyond those of the calibration: use a larger machine, or several",
        ..RULE
    },
    Rule {
        name: "no_headroom",
        what: "the calibration found no rate that this machine sends without doubt",
        note: 0.0,
        least: 0,
        shown: Fact,
        measure: Run(evidence::no_headroom),
        cure: "leave it to the load generator alone and calibrate again, or use another machine",
        ..RULE
    },
    Rule {
        name: "lateness_calibrated",
        what: "lateness p99 (connecting and stages with capped arrivals apart) against that of the \
            calibration",
        note: 3.0,
        least: 0,
        shown: Times,
        measure: Run(evidence::lateness_calibrated),
        cure: "the errors of the calibration do not hold for this run: `llmdbench calibrate` \
            measures them again",
        ..RULE
    },
];

impl Shown {
    pub(super) fn write(self, value: f64) -> String {
        self.with_decimals(value, self.decimals(value))
    }

    /// A value that is over a limit, with as many digits as it takes to tell them apart.
    pub(super) fn write_over(self, value: f64, limit: f64) -> String {
        const MOST_DECIMALS: usize = 4;
        (self.decimals(value)..=MOST_DECIMALS)
            .map(|decimals| [value, limit].map(|x| self.with_decimals(x, decimals)))
            .find(|[value, limit]| value != limit)
            .map_or_else(|| format!("just over {}", self.write(limit)), |[value, _]| value)
    }

    fn decimals(self, value: f64) -> usize {
        match self {
            Self::Percent if value >= 0.1 => 0,
            Self::Percent | Self::Times => 1,
            Self::Count | Self::Fact => 0,
        }
    }

    fn with_decimals(self, value: f64, decimals: usize) -> String {
        match self {
            Self::Percent => format!("{:.decimals$} %", value * 100.0),
            Self::Count => format!("{value:.decimals$}"),
            Self::Times => format!("{value:.decimals$} times"),
            Self::Fact => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::metric;

    #[test]
    fn names_are_unique_limits_rise_and_touched_metrics_exist() {
        for (i, rule) in RULES.iter().enumerate() {
            assert!(RULES[..i].iter().all(|other| other.name != rule.name), "{}", rule.name);
            assert!(rule.suspect <= rule.invalid, "{}", rule.name);
            assert!(rule.note == NEVER || rule.suspect == NEVER, "{}", rule.name);
            assert!(rule.note.min(rule.suspect) < NEVER, "{}", rule.name);
            assert!(rule.touches.iter().all(|name| metric(name).is_some()), "{}", rule.name);
            assert!(!rule.what.is_empty() && !rule.cure.is_empty(), "{}", rule.name);
        }
    }

    #[test]
    fn a_value_over_its_limit_is_never_written_like_it() {
        let check = |shown: Shown, value, limit, text: &str| {
            assert_eq!(shown.write_over(value, limit), text, "{value} over {limit}");
        };
        check(Percent, 0.21, 0.2, "21 %");
        check(Percent, 0.101, 0.1, "10.1 %");
        check(Percent, 0.1004, 0.1, "10.04 %");
        check(Percent, 0.0501, 0.05, "5.01 %");
        check(Percent, 0.000_2, 0.0, "0.02 %");
        check(Percent, 0.1_f64.next_up(), 0.1, "just over 10 %");
        check(Times, 3.04, 3.0, "3.04 times");
        check(Times, 7.26, 3.0, "7.3 times");
        check(Count, 1.0, 0.0, "1");
        for rule in RULES.iter().filter(|rule| !matches!(rule.shown, Fact)) {
            for limit in [rule.note, rule.suspect, rule.invalid] {
                for value in [limit + 1e-6, limit + 1e-4, limit * 1.004, limit.next_up()] {
                    let shown = rule.shown;
                    let written = shown.write_over(value, limit);
                    assert!(limit == NEVER || written != shown.write(limit), "{}", rule.name);
                }
            }
        }
    }
}
