//! Analyses a made-up run: how long it takes and how much memory, and what its report looks like.
//!
//! `cargo run --release -p analysis --example synthetic -- 1000000 [FOLDER]` makes so many
//! requests of 64 tokens in three stages and, with a folder, writes report and charts into it.

#![expect(clippy::print_stdout, reason = "an example prints what it measured")]

use analysis::{Collector, Note, Options, Severity, Slo, charts, report};
use records::{
    ClientSample, Connection, EndReason, Entry, Event, Failure, FailureKind, Header, LoopKind,
    Record, StageBegin, StageEnd, StageInfo, StagePhase, ThreadSample, UsageSource,
};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

const MS: u64 = 1_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let requests: u64 = arguments.next().unwrap_or_else(|| "1000000".to_owned()).parse()?;
    let folder = arguments.next();

    let header = header(requests);
    let mut collector = Collector::new(&header);
    let mut making = Duration::ZERO;
    let start = SystemTime::now();
    for (index, stage) in header.stages.iter().enumerate() {
        let (begin, end) = span(&header, index);
        let at = Event::Stage(StagePhase::Begin(StageBegin { at: begin, stage: index as u32 }));
        collector.add(Entry::Event(at));
        let mut second = begin;
        let rate = stage.rate.unwrap_or(1.0);
        let n = (rate * (end - begin) as f64 / 1e9) as u64;
        for i in 0..n {
            let before = SystemTime::now();
            let due = begin + (i as f64 / rate * 1e9) as u64;
            let record = record(i, index as u32, stage.warmup, due, rate / header_peak(&header));
            making += before.elapsed()?;
            while second + 1_000 * MS <= due {
                second += 1_000 * MS;
                collector.add(Entry::Event(Event::Client(sample(second))));
            }
            collector.add(Entry::Record(Box::new(record)));
        }
        let end = StageEnd {
            at: end + 3_000 * MS,
            stage: index as u32,
            window_end: end,
            scheduled: Some(n),
            unsent: 0,
            capped: 0,
            exhausted: false,
        };
        collector.add(Entry::Event(Event::Stage(StagePhase::End(end))));
    }
    let at = span(&header, header.stages.len() - 1).1 + 3_000 * MS;
    let end = Event::End { at, reason: EndReason::Completed, message: String::new() };
    collector.add(Entry::Event(end));
    let took = start.elapsed()?.saturating_sub(making);
    println!("taking {requests} requests in: {took:.2?} (making them: {making:.2?})");

    let start = SystemTime::now();
    let analysis = collector.finish(&options(&header)?);
    println!("reckoning: {:.2?}", start.elapsed()?);
    let start = SystemTime::now();
    let page = report::html(&analysis);
    println!("report of {} KiB: {:.2?}", page.len() / 1024, start.elapsed()?);
    println!("peak memory: {} MiB", peak_memory_mib());
    println!("{}", report::terminal(&analysis, 140, false));

    if let Some(folder) = folder {
        std::fs::create_dir_all(&folder)?;
        std::fs::write(format!("{folder}/report.html"), page)?;
        std::fs::write(format!("{folder}/summary.json"), report::json(&analysis.summary))?;
        std::fs::write(format!("{folder}/summary.csv"), report::csv(&analysis.summary))?;
        for chart in charts::CHARTS {
            let png = charts::png(chart, &analysis, 1_000, 560);
            std::fs::write(format!("{folder}/{}.png", chart.name), png)?;
            let svg = charts::svg(chart, &analysis, 1_000, 560);
            std::fs::write(format!("{folder}/{}.svg", chart.name), svg)?;
        }
    }
    Ok(())
}

fn header(requests: u64) -> Header {
    // A warm-up and three rates, a minute each: 1 + 1 + 2 + 4 parts of the requests.
    let unit = requests as f64 / 8.0 / 60.0;
    let stage = |name: &str, warmup, parts: f64| StageInfo {
        name: name.to_owned(),
        warmup,
        kind: LoopKind::Open,
        rate: Some(unit * parts),
        concurrency: None,
        max_in_flight: None,
        length: Some(60_000 * MS),
        settle: 0,
        labels: BTreeMap::new(),
    };
    Header {
        format: records::FORMAT.to_owned(),
        version: records::VERSION.to_owned(),
        run: "synthetic-1".to_owned(),
        started: "2026-01-01T00:00:00Z".to_owned(),
        clock: "ns since run start".to_owned(),
        model: "example/llama-3b".to_owned(),
        endpoint: "http://127.0.0.1:8000".to_owned(),
        seed: 1,
        stages: vec![
            stage("warm-up", true, 1.0),
            stage("low", false, 1.0),
            stage("middle", false, 2.0),
            stage("high", false, 4.0),
        ],
        slo: BTreeMap::from([("ttft".to_owned(), 400.0), ("tpot".to_owned(), 30.0)]),
    }
}

fn header_peak(header: &Header) -> f64 {
    header.stages.iter().filter_map(|stage| stage.rate).fold(0.0, f64::max)
}

fn span(header: &Header, stage: usize) -> (u64, u64) {
    let length = |stage: &StageInfo| stage.length.unwrap_or(0) + 3_000 * MS;
    let begin: u64 = header.stages[..stage].iter().map(length).sum();
    (begin, begin + header.stages[stage].length.unwrap_or(0))
}

fn record(i: u64, stage: u32, warmup: bool, due: u64, load: f64) -> Record {
    let random = |k: u64| {
        let nth = i * 200 + k + u64::from(stage) * 7_777_777_777;
        let mut z = nth.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as f64 / u64::MAX as f64
    };
    let sent = due + (0.1e6 - 0.4e6 * random(0).ln()) as u64;
    let ttft = 90.0 + 160.0 * load * load - 40.0 * random(1).ln() * (0.3 + load);
    let pace = 14.0 + 8.0 * load;
    let mut at = sent + (ttft * 1e6) as u64;
    let mut tokens = Vec::with_capacity(64);
    for k in 0..64 {
        tokens.push(at);
        at += ((pace - 2.0 * random(k + 2).ln()) * 1e6) as u64;
    }
    let failed = random(99) < 0.01 * load;
    let last = tokens[63] + MS;
    let failure = if i.is_multiple_of(2) {
        Failure::new(FailureKind::HttpStatus, "503: {\"error\":\"<overloaded> & busy\"}")
    } else {
        Failure::new(FailureKind::Timeout, "no answer within 60 s")
    };
    Record {
        id: i,
        session: i,
        stage,
        warmup,
        due: Some(due),
        started: sent - 50_000,
        sent: Some(sent),
        first_byte: Some(tokens[0]),
        first_answer: Some(tokens[0]).filter(|_| !failed),
        tokens: if failed { Vec::new() } else { tokens },
        finished: last,
        status: 200,
        error: failed.then_some(failure),
        input_tokens: Some(256),
        output_tokens: (!failed).then_some(64),
        usage: UsageSource::Server,
        asked_input_tokens: Some(256),
        asked_output_tokens: Some(64),
        connection: if i < 20 { Connection::New } else { Connection::Reused },
        ..Record::default()
    }
}

fn sample(at: u64) -> ClientSample {
    let thread = |name: &str, cpu| ThreadSample { name: name.to_owned(), cpu, waiting: 0.002 };
    let threads = vec![thread("pacer", 0.02), thread("load-0", 0.3)];
    ClientSample { at, threads, ..ClientSample::default() }
}

fn options(header: &Header) -> Result<Options, analysis::SloError> {
    Ok(Options {
        slo: Slo::from_header(header)?,
        truncated: false,
        notes: vec![Note {
            severity: Severity::Info,
            source: "sharegpt".to_owned(),
            text: "3 of 1,000 conversations were left out: empty prompt".to_owned(),
        }],
        plugins: Vec::new(),
        calibration: None,
        same_host: false,
        server: Vec::new(),
        cache: None,
        title: "A made-up run".to_owned(),
        facts: vec![
            ("run".to_owned(), header.run.clone()),
            ("model".to_owned(), header.model.clone()),
            ("endpoint".to_owned(), header.endpoint.clone()),
            ("harness".to_owned(), "stages 0.1.0".to_owned()),
            ("workload".to_owned(), "synthetic 0.1.0, 256 in, 64 out".to_owned()),
            ("started".to_owned(), header.started.clone()),
        ],
    })
}

fn peak_memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}
