//! Measures what load costs: CPU seconds per 1,000 requests of this process, and how punctual it is.
//!
//! `cargo run --release -p load --example load_cost -- URL RATE|cCONCURRENCY SECONDS|nREQUESTS`
//! drives chat requests of 64 tokens into a server that is already there: RATE per second, or so
//! many at a time. The sessions of nREQUESTS are a list that is ready before load starts.
#![expect(clippy::print_stdout, reason = "a program that prints its findings")]

use load::{
    Abort, Api, Arrival, Endpoint, Pacing, Plan, Prompt, Request, Session, Stage, Stop, Target,
    Tls, Turn,
};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use records::{FORMAT, Header, VERSION, Writer};
use std::collections::BTreeMap;
use std::io::BufWriter;
use std::time::Instant;

const TOKENS: u32 = 64;
/// As long as those that the program makes up: servers put it into each event of an answer.
const RUN: &str = "experiment-20260101-000000-0000";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, pace, length] = &arguments[..] else {
        println!("usage: load_cost URL RATE|cCONCURRENCY SECONDS|nREQUESTS");
        return;
    };
    let (stop, list) = match length.strip_prefix('n') {
        Some(requests) => {
            let requests: u64 = requests.parse().expect("a number follows the n");
            (Stop { requests: Some(requests), ..Stop::default() }, requests)
        }
        None => {
            let seconds: u64 = length.parse().expect("SECONDS is a whole number");
            (Stop { after: Some(seconds * 1_000_000_000), ..Stop::default() }, 0)
        }
    };
    let (arrival, concurrency) = match pace.strip_prefix('c') {
        Some(slots) => (Arrival::Closed, Some(slots.parse().expect("a number follows the c"))),
        None => (Arrival::Constant(pace.parse().expect("RATE is a number")), None),
    };
    let stage = Stage {
        name: "cost".into(),
        arrival,
        concurrency,
        max_in_flight: None,
        stop,
        warm_up: false,
        settle: 0,
        quantum: None,
        drain: None,
        cool_down: 0,
        labels: BTreeMap::new(),
    };
    let (feeder, supply) = load::ring(1024);
    let ready: Vec<Session> = (0..list).map(session).collect();
    let feeding = std::thread::spawn(move || {
        for session in ready.into_iter().chain((list..).map(session)) {
            if feeder.push(session).is_err() {
                return;
            }
        }
    });
    // As a run writes them, but to where they cost no disk.
    let nowhere = std::fs::File::create("/dev/null").expect("every Linux has /dev/null");
    let buffered = BufWriter::with_capacity(256 * 1024, nowhere);
    let writer = Writer::new(buffered, &header()).expect("/dev/null takes everything");
    let (begin, before) = (Instant::now(), usage());
    let run = load::start(plan(url, stage), vec![supply], writer).expect("load starts");
    let mut progress = run.progress();
    while !run.is_finished() {
        std::thread::sleep(std::time::Duration::from_millis(100));
        progress = run.progress();
    }
    let outcome = run.finish();
    let (wall, after) = (begin.elapsed().as_secs_f64(), usage());
    feeding.join().expect("the feeder ends");
    let thousands = outcome.succeeded as f64 / 1e3;
    let cost = |after: f64, before: f64| (after - before) / thousands;
    println!(
        "{pace:>6} {:>7} ok {:>4} failed {:>7.0} req/s  CPU s per 1,000: {:.3} user {:.3} system  \
         {:.0} switches per request",
        outcome.succeeded,
        outcome.failed,
        outcome.succeeded as f64 / wall,
        cost(after.user, before.user),
        cost(after.system, before.system),
        cost(after.switches, before.switches) / 1e3,
    );
    let show = |name: &str, found: Option<load::Percentiles>| {
        if let Some(found) = found {
            println!("       {name} p50 {:.2} ms, p99 {:.2} ms", found.p50, found.p99);
        }
    };
    show("lateness", progress.lateness);
    show("TTFT", progress.ttft);
    show("ITL", progress.itl);
}

struct Cost {
    user: f64,
    system: f64,
    switches: f64,
}

fn usage() -> Cost {
    let usage: Usage = getrusage(UsageWho::RUSAGE_SELF).expect("a process may ask for its usage");
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Cost {
        user: seconds(usage.user_time()),
        system: seconds(usage.system_time()),
        switches: usage.voluntary_context_switches() as f64,
    }
}

fn plan(url: &str, stage: Stage) -> Plan {
    Plan {
        target: Target {
            endpoints: vec![Endpoint::parse(url).expect("URL is the address of a server")],
            api: Api::Chat,
            model: "sim".into(),
            run: RUN.into(),
            headers: Vec::new(),
            api_key: None,
            extra_body: serde_json::Map::new(),
            tls: Tls::default(),
            exact_output: true,
        },
        stages: vec![stage],
        request_timeout: 60_000_000_000,
        seed: 1,
        abort: Abort { without_success: None, max_error_rate: None },
        count_tokens: None,
        threads: None,
        together: None,
    }
}

fn session(id: u64) -> Session {
    let request = Request {
        api: None,
        path: None,
        model: None,
        prompt: Prompt::Text("river ".repeat(64)),
        history: false,
        streamed: true,
        max_output_tokens: Some(TOKENS),
        exact_output: true,
        cancel_after: None,
        asked_input_tokens: Some(64),
        extra: serde_json::Map::from_iter([("temperature".into(), 0.into())]),
        headers: Vec::new(),
        labels: BTreeMap::new(),
    };
    let turns = vec![Turn { request, pacing: Pacing::AfterPreviousEnd(0) }];
    Session { id, user: id, start: None, endpoint: None, turns, labels: BTreeMap::new() }
}

fn header() -> Header {
    Header {
        format: FORMAT.into(),
        version: VERSION.into(),
        run: RUN.into(),
        started: "1970-01-01T00:00:00Z".into(),
        clock: "ns since run start".into(),
        model: "sim".into(),
        endpoint: String::new(),
        seed: 1,
        stages: Vec::new(),
        slo: BTreeMap::new(),
    }
}
