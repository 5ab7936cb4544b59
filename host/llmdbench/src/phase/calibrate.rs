//! The phase that measures the load generator itself: load into the simulated server, a process
//! of its own on this machine, whose log says what really happened.

use crate::error::{Error, Exit, Result};
use crate::phase::supply::AHEAD;
use crate::printer::Printer;
use crate::words::Words;
use crate::{host_facts, interrupt};
use analysis::{
    About, Calibration, Collector, Deviation, Equals, Headroom, Options, P50, P99, Summary,
    Verdict, sorted, tidy,
};
use load::{Api, Arrival, Endpoint, Pacing, Prompt, Session, Stage, Stop, Turn};
use records::{Entry, FORMAT, Header, LoopKind, Reader, Record, StageInfo, VERSION};
use sim::TruthLine;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Of the part about errors. The others follow from it.
    pub(crate) length: Duration,
    /// Equal runs.
    pub(crate) runs: u32,
}

/// What the simulated server is told to do, and what it is asked for.
const TTFT: &str = "20ms";
const ITL: &str = "5ms";
const INPUT_TOKENS: u32 = 64;
const OUTPUT_TOKENS: u32 = 32;
/// Requests per second of the parts about error and scatter.
const RATE: f64 = 50.0;
/// Rates at which headroom is looked for: 50, 100, ... 6,400 per second.
const DOUBLINGS: u32 = 8;
/// Lengths of a step of the search for headroom and of an equal run, per length of the whole.
const STEP: f64 = 0.6;
const EQUAL: f64 = 0.3;
/// The first part of each is sent and not measured.
const SETTLE: f64 = 0.1;
/// What is compared between equal runs.
const COMPARED: [(&str, &str); 7] = [
    ("ttft", "p50"),
    ("ttft", "p99"),
    ("itl", "p50"),
    ("itl", "p99"),
    ("tpot", "p50"),
    ("latency", "p50"),
    ("latency", "p99"),
];
const COMPARED_RATES: [&str; 2] = ["request_throughput", "output_token_throughput"];

/// Measures error, headroom and equal runs, one after the other. What the runs come to, those of other sessions tell as
/// well ([`Calibration::with_sessions`]).
pub(crate) fn measure(size: &Size, printer: &Printer) -> Result<Calibration> {
    let folder = tempfile::tempdir()
        .map_err(|error| Error::unexpected("cannot make a temporary folder").because(error))?;
    let machine = host_facts::machine();
    let measured = jiff::Timestamp::now().to_string();

    let log = folder.path().join("truth.jsonl");
    printer.step(&format!(
        "errors of times: {RATE} requests/s of {OUTPUT_TOKENS} tokens for {} s",
        size.length.as_secs()
    ));
    let server = Simulator::start(Some(&log))?;
    let done = drive(&server.url, RATE, size.length, 1, printer)?;
    drop(server);
    done.must_have_succeeded()?;
    let doubts: Vec<String> = done.doubts().map(|reason| reason.rule.clone()).collect();
    if !doubts.is_empty() {
        let texts: Vec<&str> = done.doubts().map(|reason| &*reason.text).collect();
        printer.warning(&format!(
            "this machine is not quiet, and its errors are those of a busy one; calibrate again \
             when nothing else runs: {}",
            texts.join("; ")
        ));
    }
    let error = errors(&done.records, &truth(&log)?);
    let lateness_p99 = lateness(&done.records);

    let server = Simulator::start(None)?;
    let headroom = headroom(&server, size, printer)?;
    let results = equals(&server, size, printer)?;
    let run_s = size.length.mul_f64(EQUAL).as_secs_f64();
    let session = Equals { measured: measured.clone(), run_s, doubts: doubts.clone(), results };
    Ok(Calibration {
        format: Calibration::FORMAT.to_owned(),
        version: Calibration::VERSION.to_owned(),
        machine,
        measured,
        length_s: size.length.as_secs_f64(),
        doubts,
        error,
        lateness_p99,
        headroom,
        floor: BTreeMap::new(),
        between: BTreeMap::new(),
        runs: size.runs,
        run_s,
        sessions: vec![session],
    })
}

/// How much load is sent without doubt.
fn headroom(server: &Simulator, size: &Size, printer: &Printer) -> Result<Headroom> {
    search(|rate| {
        printer.step(&format!("headroom: {rate} requests/s"));
        let done = drive(&server.url, rate, size.length.mul_f64(STEP), 2, printer)?;
        let limit = limit(&done.summary);
        let reasons = done.summary.health.reasons.iter();
        let text = reasons.filter(|reason| Some(&reason.rule) == limit.as_ref());
        text.for_each(|reason| printer.detail(&reason.text));
        Ok(Headroom {
            requests_per_s: done.summary.total.achieved_rate.unwrap_or(0.0),
            tokens_per_s: rate_of(&done.summary, "output_token_throughput").unwrap_or(0.0),
            limit,
        })
    })
}

/// Doubles the rate until a rule of health about the client fires, or the server is at its end: at
/// the same rate twice, for once may have been a neighbour. `step` sends at a rate and gives what
/// was sent, and the limit if there was one.
fn search(mut step: impl FnMut(f64) -> Result<Headroom>) -> Result<Headroom> {
    let mut found = Headroom { requests_per_s: 0.0, tokens_per_s: 0.0, limit: None };
    for doubling in 0..DOUBLINGS {
        let rate = RATE * f64::from(1u32 << doubling);
        let mut sent = step(rate)?;
        if sent.limit.is_some() {
            sent = step(rate)?;
        }
        if sent.limit.is_some() {
            return Ok(Headroom { limit: sent.limit, ..found });
        }
        found = sent;
    }
    Ok(found)
}

/// What says that this was too much. None: nothing does.
fn limit(summary: &Summary) -> Option<String> {
    let reasons = || summary.health.reasons.iter().filter(|r| r.verdict > Verdict::Note);
    let client = reasons().find(|reason| reason.about == About::Client);
    let overload = || reasons().find(|reason| reason.rule.starts_with("overload"));
    let reason = client.or_else(overload).map(|reason| reason.rule.clone());
    reason.or_else(|| (summary.total.failed > 0).then(|| "failed requests".to_owned()))
}

/// What runs find that are all the same, their schedule included.
fn equals(
    server: &Simulator,
    size: &Size,
    printer: &Printer,
) -> Result<BTreeMap<String, Vec<f64>>> {
    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for run in 0..size.runs {
        printer.step(&format!("scatter: run {} of {}", run + 1, size.runs));
        let done = drive(&server.url, RATE, size.length.mul_f64(EQUAL), 3, printer)?;
        done.must_have_succeeded()?;
        for (metric, percentile) in COMPARED {
            let found = done.summary.total.distribution(metric);
            if let Some(value) = found.and_then(|d| d.percentile(percentile)) {
                values.entry(format!("{metric}.{percentile}")).or_default().push(value);
            }
        }
        for metric in COMPARED_RATES {
            let value = rate_of(&done.summary, metric);
            values.entry(metric.to_owned()).or_default().extend(value);
        }
    }
    values.retain(|_, values| values.len() == size.runs as usize);
    Ok(values)
}

fn rate_of(summary: &Summary, metric: &str) -> Option<f64> {
    summary.total.single(metric).map(|single| single.value)
}

/// How far what records say lies from what the server did.
fn errors(records: &[Record], truth: &HashMap<u64, TruthLine>) -> BTreeMap<String, Deviation> {
    let (mut ttft, mut itl) = (Vec::new(), Vec::new());
    let ms = |from: u64, to: u64| (to as f64 - from as f64) / 1e6;
    for record in records.iter().filter(|record| record.error.is_none() && !record.warmup) {
        let (Some(line), Some(sent)) = (truth.get(&record.id), record.sent) else { continue };
        if record.tokens.is_empty() || record.tokens.len() != line.tokens_ns.len() {
            continue;
        }
        let (seen, real) = (&record.tokens, &line.tokens_ns);
        ttft.push((ms(sent, seen[0]) - ms(line.read_ns, real[0])).abs());
        let gaps = seen.windows(2).zip(real.windows(2));
        itl.extend(gaps.map(|(seen, real)| (ms(seen[0], seen[1]) - ms(real[0], real[1])).abs()));
    }
    let deviation = |values: Vec<f64>| {
        let values = sorted(values);
        Some(Deviation { e50: tidy(P50.of(&values)?), e99: tidy(P99.of(&values)?) })
    };
    let found = [("ttft", ttft), ("itl", itl)];
    found
        .into_iter()
        .filter_map(|(metric, values)| Some((metric.to_owned(), deviation(values)?)))
        .collect()
}

/// The 99th percentile in milliseconds; the time to open a connection is none of it, as in the rules
/// of health.
fn lateness(records: &[Record]) -> f64 {
    let measured = records.iter().filter(|record| !record.warmup);
    let late = measured.filter_map(|r| {
        let asked = r.connection.asked_at(r.started, r.sent)?;
        Some((asked as f64 - r.due? as f64) / 1e6)
    });
    P99.of(&sorted(late.collect())).map_or(0.0, tidy)
}

/// What the server says it did, by the number of the record.
fn truth(log: &Path) -> Result<HashMap<u64, TruthLine>> {
    let text = std::fs::read_to_string(log).map_err(|error| {
        Error::unexpected(format!("cannot read `{}`", log.display())).because(error)
    })?;
    let line = |line: &str| {
        let line: TruthLine = serde_json::from_str(line).ok()?;
        let number = line.x_request_id.as_ref()?.rsplit_once('-')?.1.parse().ok()?;
        Some((number, line))
    };
    Ok(text.lines().skip(1).filter_map(line).collect())
}

/// A simulated server as a process of its own. It ends when it is dropped.
struct Simulator {
    child: Child,
    url: String,
}

impl Simulator {
    fn start(log: Option<&Path>) -> Result<Self> {
        let failed = |error: io::Error| {
            Error::unexpected("cannot start the simulated server").because(error)
        };
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.args(["sim", "--port", "0", "--ttft", TTFT, "--itl", ITL]);
        command.args(["--max-running", "1000000"]);
        if let Some(log) = log {
            command.arg("--truth-log").arg(log);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let said = child.stderr.take().map(BufReader::new);
        let mut server = Self { child, url: String::new() };
        let mut lines = said.into_iter().flat_map(BufRead::lines).map_while(io::Result::ok);
        let at = lines.find_map(|line| Some(line.rsplit_once(" at ")?.1.to_owned()));
        server.url = at.ok_or_else(|| Error::unexpected("the simulated server did not come up"))?;
        Ok(server)
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        // It has nothing to lose.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What came of a load.
struct Done {
    records: Vec<Record>,
    summary: Summary,
}

impl Done {
    /// Rules about the client that fired.
    fn doubts(&self) -> impl Iterator<Item = &analysis::Reason> {
        let reasons = self.summary.health.reasons.iter();
        reasons.filter(|r| r.about == About::Client && r.verdict > Verdict::Note)
    }

    fn must_have_succeeded(&self) -> Result<()> {
        let total = &self.summary.total;
        if total.failed == 0 && total.succeeded > 0 {
            return Ok(());
        }
        let first = self.records.iter().find_map(|record| record.error.as_ref());
        let error = Error::new(
            Exit::Run,
            format!(
                "the calibration failed: {} of {} requests to the simulated server failed",
                total.failed, total.sent
            ),
        );
        Err(match first {
            Some(failure) => error.cause(failure.message.clone()),
            None => error,
        })
    }
}

/// Drives Poisson arrivals into the server.
fn drive(url: &str, rate: f64, length: Duration, seed: u64, printer: &Printer) -> Result<Done> {
    interrupt::check()?;
    let nanos = |length: Duration| u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
    let stage = Stage {
        name: "calibration".into(),
        arrival: Arrival::Poisson(rate),
        concurrency: None,
        max_in_flight: None,
        stop: Stop { after: Some(nanos(length)), ..Stop::default() },
        warm_up: false,
        settle: nanos(length.mul_f64(SETTLE)),
        quantum: None,
        drain: Some(nanos(Duration::from_secs(5))),
        cool_down: 0,
        labels: BTreeMap::new(),
    };
    let header = header(url, seed, &stage, rate);
    let journal = Memory::default();
    let unexpected = |what: &str| Error::unexpected(format!("cannot {what}"));
    let writer = records::Writer::new(journal.clone(), &header)
        .map_err(|error| unexpected("keep records").because(error))?;
    let endpoint = Endpoint::parse(url)
        .map_err(|error| unexpected("use the simulated server's address").because(error))?;
    let plan = load::Plan {
        target: load::Target {
            endpoints: vec![endpoint],
            api: Api::Chat,
            model: "sim".into(),
            run: "calibration".into(),
            headers: Vec::new(),
            api_key: None,
            extra_body: serde_json::Map::new(),
            tls: load::Tls::default(),
            exact_output: true,
        },
        stages: vec![stage],
        request_timeout: nanos(Duration::from_secs(30)),
        seed,
        abort: load::Abort {
            without_success: Some(nanos(Duration::from_secs(10))),
            max_error_rate: None,
        },
        count_tokens: None,
        threads: None,
        together: None,
    };
    let (feeder, supply) = load::ring(AHEAD);
    let feeding = std::thread::spawn(move || {
        let words = Words::unmeasured();
        for id in 0.. {
            if feeder.push(session(id, &words)).is_err() {
                break;
            }
        }
    });
    let running = load::start(plan, vec![supply], writer)
        .map_err(|error| unexpected("start the load").because(error))?;
    let mut progress = printer.progress();
    while !running.is_finished() {
        std::thread::sleep(Duration::from_millis(50));
        if interrupt::count() > 0 {
            running.stop_now();
        }
        progress.show(|| {
            let p = running.progress();
            let left = length.saturating_sub(p.stage_elapsed).as_secs();
            format!("{rate} requests/s, {left} s left: in flight {}, sent {}", p.in_flight, p.sent)
        });
    }
    progress.end();
    let outcome = running.finish();
    let _ = feeding.join();
    interrupt::check()?;
    if outcome.reason != records::EndReason::Completed {
        let what = format!("the calibration's load was aborted: {}", outcome.message);
        return Err(Error::new(Exit::Run, what));
    }
    let bytes = std::mem::take(&mut *journal.0.lock().unwrap_or_else(PoisonError::into_inner));
    read(&header, &bytes)
}

/// The records of a load and what they add up to.
fn read(header: &Header, bytes: &[u8]) -> Result<Done> {
    let unreadable = |error| Error::unexpected("cannot read the records").because(error);
    let mut collector = Collector::new(header);
    let mut records = Vec::new();
    for entry in Reader::new(bytes).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if let Entry::Record(record) = &entry {
            records.push((**record).clone());
        }
        collector.add(entry);
    }
    Ok(Done { records, summary: collector.finish(&Options::default()).summary })
}

fn header(url: &str, seed: u64, stage: &Stage, rate: f64) -> Header {
    Header {
        format: FORMAT.into(),
        version: VERSION.into(),
        run: "calibration".into(),
        started: String::new(),
        clock: "ns since run start".into(),
        model: "sim".into(),
        endpoint: url.to_owned(),
        seed,
        stages: vec![StageInfo {
            name: stage.name.clone(),
            warmup: false,
            kind: LoopKind::Open,
            rate: Some(rate),
            concurrency: None,
            max_in_flight: None,
            length: stage.stop.after,
            settle: stage.settle,
            labels: BTreeMap::new(),
        }],
        slo: BTreeMap::new(),
    }
}

fn session(id: u64, words: &Words) -> Session {
    let request = load::Request {
        api: None,
        path: None,
        model: None,
        prompt: Prompt::Text(words.text(INPUT_TOKENS, id)),
        history: false,
        streamed: true,
        max_output_tokens: Some(OUTPUT_TOKENS),
        exact_output: true,
        cancel_after: None,
        asked_input_tokens: None,
        extra: serde_json::Map::new(),
        headers: Vec::new(),
        labels: BTreeMap::new(),
    };
    let turns = vec![Turn { request, pacing: Pacing::AfterPreviousEnd(0) }];
    Session { id, user: id, start: None, endpoint: None, turns, labels: BTreeMap::new() }
}

/// Records that are not worth a file.
#[derive(Debug, Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use records::Connection;

    const MS: u64 = 1_000_000;

    fn line(read: u64, tokens: &[u64]) -> TruthLine {
        TruthLine {
            id: String::new(),
            x_request_id: None,
            path: String::new(),
            connection: 1,
            read_ns: read * MS,
            tokens_ns: tokens.iter().map(|at| at * MS).collect(),
            finished_ns: None,
            status: 200,
            input_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            fault: None,
            script: None,
        }
    }

    #[test]
    fn an_error_is_the_difference_of_differences_on_two_clocks() {
        let record = |id: u64, sent: u64, tokens: &[u64]| Record {
            id,
            due: Some(sent * MS),
            sent: Some((sent + id) * MS),
            tokens: tokens.iter().map(|at| at * MS).collect(),
            connection: Connection::Reused,
            ..Record::default()
        };
        let records = [record(1, 0, &[23, 28, 35]), record(2, 100, &[120]), record(3, 0, &[1, 2])];
        let truth = HashMap::from([
            (1, line(1_000, &[1_020, 1_025, 1_030])),
            (2, line(5_000, &[5_019])),
            // It saw another number of tokens.
            (3, line(0, &[9])),
        ]);
        let errors = errors(&records, &truth);
        // TTFT: 22 - 20 and 18 - 19; ITL: 5 - 5 and 7 - 5.
        assert_eq!(errors["ttft"], Deviation { e50: 1.0, e99: 2.0 });
        assert_eq!(errors["itl"], Deviation { e50: 0.0, e99: 2.0 });
        assert_eq!(lateness(&records), 3.0);
        // Of the third request's time the last 2 ms went into its connection.
        let [one, two, three] = records;
        let started = three.sent.unwrap() - 2 * MS;
        let three = Record { connection: Connection::New, started, ..three };
        assert_eq!(lateness(&[one, two, three]), 2.0);
    }

    #[test]
    fn the_search_for_headroom_repeats_every_rate_that_fails_once() {
        // What is sent at each rate, a minus standing for a step that a rule objected to.
        let search_through = |outcomes: &[f64]| {
            let mut left = outcomes.iter();
            let found = search(|rate| {
                let outcome = *left.next().expect("it ends before the outcomes do");
                assert_eq!(rate, outcome.abs(), "of {outcomes:?}");
                let limit = outcome.is_sign_negative().then(|| "steal".to_owned());
                Ok(Headroom { requests_per_s: rate - 1.0, tokens_per_s: rate * 32.0, limit })
            });
            assert_eq!(left.next(), None, "of {outcomes:?}");
            let found = found.expect("no step fails");
            (found.requests_per_s, found.limit.is_some())
        };
        let all = [50.0, 100.0, 200.0, 400.0, 800.0, 1_600.0, 3_200.0, 6_400.0];
        assert_eq!(search_through(&all), (6_399.0, false));
        assert_eq!(search_through(&[-50.0, -50.0]), (0.0, true));
        assert_eq!(search_through(&[50.0, 100.0, -200.0, -200.0]), (99.0, true));
        // A neighbour that comes again and again at other rates.
        assert_eq!(
            search_through(&[-50.0, 50.0, -100.0, 100.0, 200.0, -400.0, -400.0]),
            (199.0, true)
        );
    }
}
