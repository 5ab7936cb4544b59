//! A scripted server, and a run of load against it.

use load::{
    Abort, Api, Arrival, Endpoint, Feeder, Outcome, Pacing, Plan, Prompt, Request, Run, Session,
    Stage, Stop, Target, Tls, Turn, ring, start,
};
use records::{
    Entry, Event, FORMAT, Header, Reader, Record, StageEnd, StagePhase, VERSION, Writer,
};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MS;

/// What the server does with one request, times in milliseconds after it was read.
#[derive(Clone, Default)]
pub(crate) struct Script {
    writes: Vec<(u64, Vec<u8>)>,
    end: End,
}

#[derive(Clone, Copy, Default, PartialEq)]
pub(crate) enum End {
    /// The connection stays open.
    #[default]
    Keep,
    /// The connection is closed at this time.
    Close(u64),
    /// The connection is reset at this time.
    Reset(u64),
    /// The last bytes again and again, for as long as somebody takes them.
    Flood,
}

impl Script {
    pub(crate) fn raw(text: &str) -> Self {
        Self::default().write(0, text.as_bytes())
    }

    /// A response with a body of known length.
    pub(crate) fn body(status: &str, kind: &str, body: &str) -> Self {
        Self::raw(&format!(
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
    }

    pub(crate) fn json(body: &str) -> Self {
        Self::body("200 OK", "application/json", body)
    }

    /// The head of a chunked stream.
    pub(crate) fn stream() -> Self {
        Self::raw(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        )
    }

    /// A chunk.
    pub(crate) fn chunk(self, at: u64, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
        self.write(at, &chunk)
    }

    /// A chunk with one event.
    pub(crate) fn event(self, at: u64, data: &str) -> Self {
        self.chunk(at, format!("data: {data}\n\n"))
    }

    /// A chat chunk with this delta.
    pub(crate) fn delta(self, at: u64, delta: &str) -> Self {
        self.event(at, &chat(delta))
    }

    /// A chat chunk with this text.
    pub(crate) fn content(self, at: u64, text: &str) -> Self {
        self.delta(at, &format!(r#"{{"content":"{text}"}}"#))
    }

    pub(crate) fn finish(self, at: u64) -> Self {
        self.event(at, r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#)
    }

    pub(crate) fn usage(self, at: u64, input: u32, output: u32) -> Self {
        self.event(
            at,
            &format!(
                r#"{{"choices":[],"usage":{{"prompt_tokens":{input},"completion_tokens":{output}}}}}"#
            ),
        )
    }

    pub(crate) fn done(self, at: u64) -> Self {
        self.event(at, "[DONE]").last_chunk(at)
    }

    pub(crate) fn last_chunk(self, at: u64) -> Self {
        self.write(at, b"0\r\n\r\n")
    }

    pub(crate) fn end(mut self, end: End) -> Self {
        self.end = end;
        self
    }

    pub(crate) fn write(mut self, at: u64, bytes: &[u8]) -> Self {
        self.writes.push((at, bytes.to_vec()));
        self
    }

    /// Two tokens, the first and the last at these times.
    pub(crate) fn answer(first: u64, last: u64) -> Self {
        Self::stream()
            .content(first, "a")
            .content(last, "b")
            .finish(last)
            .usage(last, 5, 2)
            .done(last)
    }
}

pub(crate) fn chat(delta: &str) -> String {
    format!(r#"{{"id":"r","choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]}}"#)
}

/// A request as the server saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) connection: usize,
    pub(crate) line: String,
    pub(crate) headers: Vec<String>,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Plays one script for each request, the last one for all that follow.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub(crate) fn start(scripts: Vec<Script>) -> Self {
        Self::over(Some, scripts)
    }

    /// A server whose connections are of another kind. None: the connection is dropped.
    pub(crate) fn over<S: Read + Write>(
        wrap: impl Fn(TcpStream) -> Option<S> + Clone + Send + 'static,
        scripts: Vec<Script>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let server = Self { address, seen: seen.clone() };
        let (scripts, turn) = (Arc::new(scripts), Arc::new(AtomicUsize::new(0)));
        thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                // Where there is no descriptor for it, there may be one soon.
                let Ok(stream) = stream else {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                };
                let (scripts, turn, seen) = (scripts.clone(), turn.clone(), seen.clone());
                let wrap = wrap.clone();
                thread::spawn(move || {
                    stream.set_nodelay(true).unwrap();
                    serve(wrap(stream)?, connection, &scripts, &turn, &seen)
                });
            }
        });
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(
    stream: impl Read + Write,
    connection: usize,
    scripts: &[Script],
    turn: &AtomicUsize,
    seen: &Mutex<Vec<Seen>>,
) -> Option<()> {
    // Small, so that a reset finds bytes that were not read: that is what makes it a reset.
    let mut reader = BufReader::with_capacity(16, stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_owned()),
            }
        }
        let number = turn.fetch_add(1, Ordering::SeqCst);
        let script = &scripts[number.min(scripts.len() - 1)];
        let length = head.iter().find_map(|h| h.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        if !matches!(script.end, End::Reset(_)) {
            reader.read_exact(&mut body).ok()?;
        }
        let at = Instant::now();
        seen.lock().unwrap().push(Seen {
            connection,
            line: head.remove(0),
            headers: head,
            body: String::from_utf8(body).unwrap(),
        });
        let wait =
            |ms| thread::sleep((at + Duration::from_millis(ms)).duration_since(Instant::now()));
        for (ms, bytes) in &script.writes {
            wait(*ms);
            reader.get_mut().write_all(bytes).ok()?;
        }
        match script.end {
            End::Keep => {}
            End::Flood => {
                let (_, last) = script.writes.last()?;
                let flood = last.repeat(1 + 65_536 / last.len().max(1));
                while reader.get_mut().write_all(&flood).is_ok() {}
                return None;
            }
            End::Close(ms) | End::Reset(ms) => {
                wait(ms);
                return None;
            }
        }
    }
}

/// A session of one streamed request.
pub(crate) fn session(id: u64) -> Session {
    session_of(id, vec![turn(request("hello"), 0)])
}

pub(crate) fn session_of(id: u64, turns: Vec<Turn>) -> Session {
    Session { id, user: id, start: None, endpoint: None, turns, labels: BTreeMap::new() }
}

pub(crate) fn turn(request: Request, think_ms: u64) -> Turn {
    Turn { request, pacing: Pacing::AfterPreviousEnd(think_ms * MS) }
}

pub(crate) fn request(text: &str) -> Request {
    Request {
        api: None,
        path: None,
        model: None,
        prompt: Prompt::Text(text.to_owned()),
        history: false,
        streamed: true,
        max_output_tokens: None,
        exact_output: false,
        cancel_after: None,
        asked_input_tokens: None,
        extra: serde_json::Map::new(),
        headers: Vec::new(),
        labels: BTreeMap::new(),
    }
}

/// A closed loop of one slot that plays this many sessions.
pub(crate) fn closed(sessions: u64) -> Stage {
    Stage {
        name: "main".into(),
        arrival: Arrival::Closed,
        concurrency: Some(1),
        max_in_flight: None,
        stop: Stop { sessions: Some(sessions), ..Stop::default() },
        warm_up: false,
        settle: 0,
        quantum: None,
        drain: None,
        cool_down: 0,
        labels: BTreeMap::new(),
    }
}

/// Evenly spaced sessions.
pub(crate) fn open(rate: f64, stop: Stop) -> Stage {
    Stage { arrival: Arrival::Constant(rate), concurrency: None, stop, ..closed(0) }
}

pub(crate) fn plan(url: &str, stages: Vec<Stage>) -> Plan {
    Plan {
        target: Target {
            endpoints: vec![Endpoint::parse(url).unwrap()],
            api: Api::Chat,
            model: "m".into(),
            run: "r".into(),
            headers: Vec::new(),
            api_key: None,
            extra_body: serde_json::Map::new(),
            tls: Tls::default(),
            exact_output: true,
        },
        stages,
        request_timeout: 20 * SECOND,
        seed: 1,
        abort: Abort { without_success: None, max_error_rate: None },
        count_tokens: None,
        threads: Some(2),
        together: None,
    }
}

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) outcome: Outcome,
    pub(crate) entries: Vec<Entry>,
}

impl Done {
    /// In the order in which they were started.
    pub(crate) fn records(&self) -> Vec<&Record> {
        let mut records: Vec<_> = self
            .entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Record(record) => Some(&**record),
                Entry::Event(_) => None,
            })
            .collect();
        records.sort_by_key(|record| record.id);
        records
    }

    pub(crate) fn stage_end(&self, index: u32) -> &StageEnd {
        self.entries
            .iter()
            .find_map(|entry| match entry {
                Entry::Event(Event::Stage(StagePhase::End(end))) if end.stage == index => Some(end),
                _ => None,
            })
            .expect("the stage has ended")
    }

    pub(crate) fn stage_begin(&self, index: u32) -> u64 {
        self.entries
            .iter()
            .find_map(|entry| match entry {
                Entry::Event(Event::Stage(StagePhase::Begin(begin))) if begin.stage == index => {
                    Some(begin.at)
                }
                _ => None,
            })
            .expect("the stage has begun")
    }
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A run under way and its journal.
pub(crate) struct Going {
    pub(crate) run: Run,
    journal: Shared,
}

impl Going {
    pub(crate) fn finish(self) -> Done {
        let outcome = self.run.finish();
        let bytes = self.journal.0.lock().unwrap().clone();
        let entries = Reader::new(&bytes[..]).unwrap().map(Result::unwrap).collect();
        Done { outcome, entries }
    }
}

pub(crate) fn header() -> Header {
    Header {
        format: FORMAT.into(),
        version: VERSION.into(),
        run: "r".into(),
        started: "2025-01-01T00:00:00Z".into(),
        clock: "ns since run start".into(),
        model: "m".into(),
        endpoint: "http://h".into(),
        seed: 1,
        stages: Vec::new(),
        slo: BTreeMap::new(),
    }
}

/// Starts a run whose stages are fed on threads of their own.
pub(crate) fn begin(plan: Plan, feeds: Vec<Box<dyn FnOnce(Feeder) + Send>>) -> Going {
    let journal = Shared::default();
    let mut supplies = Vec::new();
    for feed in feeds {
        let (feeder, supply) = ring(64);
        supplies.push(supply);
        thread::spawn(move || feed(feeder));
    }
    let writer = Writer::new(journal.clone(), &header()).unwrap();
    Going { run: start(plan, supplies, writer).unwrap(), journal }
}

/// Feeds these sessions.
pub(crate) fn feed(
    sessions: impl IntoIterator<Item = Session> + Send + 'static,
) -> Box<dyn FnOnce(Feeder) + Send> {
    Box::new(move |feeder| {
        for session in sessions {
            if feeder.push(session).is_err() {
                break;
            }
        }
    })
}

/// Plays sessions without end through each of the plan's stages.
pub(crate) fn run(plan: Plan) -> Done {
    let feeds = plan.stages.iter().map(|_| feed((0..).map(session))).collect();
    begin(plan, feeds).finish()
}

/// Rules that hold in every run.
pub(crate) fn assert_sound(done: &Done) {
    let records = done.records();
    assert_eq!(done.outcome.sent, records.len() as u64);
    assert_eq!(done.outcome.sent, done.outcome.succeeded + done.outcome.failed);
    for (record, id) in records.iter().zip(0..) {
        assert_eq!(record.id, id);
        assert!(record.due.is_none_or(|due| record.started >= due), "early: {record:?}");
        let mut times = vec![record.started];
        times.extend(record.sent);
        times.extend(record.first_byte);
        times.extend(&record.tokens);
        times.push(record.finished);
        assert!(times.is_sorted(), "{record:?}");
    }
    assert!(matches!(done.entries.last(), Some(Entry::Event(Event::End { .. }))));
}
