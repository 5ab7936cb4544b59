//! A server on a thread of its own and a client on a bare socket.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use sim::{Behavior, Stats, TruthHeader, TruthLine};
use tempfile::TempDir;

/// Nobody waits longer than this for a byte.
const PATIENCE: Duration = Duration::from_secs(20);

/// A behaviour without delays.
pub(crate) fn instant() -> Behavior {
    Behavior { ttft_ms: 0.0, prefill_us_per_token: 0.0, itl_ms: 0.0, ..Behavior::default() }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<Stats>>,
    dir: TempDir,
}

impl Server {
    /// Starts a server that keeps a truth log.
    pub(crate) fn start(mut behavior: Behavior) -> Self {
        let dir = TempDir::new().unwrap();
        behavior.truth_log = Some(dir.path().join("truth.jsonl"));
        let (addresses, address) = std::sync::mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
            runtime.unwrap().block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                addresses.send(listener.local_addr().unwrap()).unwrap();
                sim::serve(listener, behavior, async { drop(stopped.await) }).await.unwrap()
            })
        });
        let address = address.recv().unwrap();
        Self { address, stop: Some(stop), thread: Some(thread), dir }
    }

    pub(crate) fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream, received: Vec::new() }
    }

    /// One request on a connection of its own.
    pub(crate) fn post(&self, path: &str, headers: &str, body: &Value) -> Response {
        self.connect().post(path, headers, body)
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        let mut client = self.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nhost: sim\r\n\r\n").as_bytes());
        client.read()
    }

    /// The value of a line of `/metrics` that has all of `parts`.
    pub(crate) fn metric(&self, parts: &[&str]) -> f64 {
        let page = String::from_utf8(self.get("/metrics").body).unwrap();
        let mut lines = page.lines().filter(|line| !line.starts_with('#'));
        let line = lines.find(|line| parts.iter().all(|part| line.contains(part)));
        line.unwrap_or_else(|| panic!("no line with {parts:?}"))
            .rsplit_once(' ')
            .unwrap()
            .1
            .parse()
            .unwrap()
    }

    /// Waits until a metric has this value.
    pub(crate) fn await_metric(&self, parts: &[&str], value: f64) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while self.metric(parts) != value {
            assert!(std::time::Instant::now() < deadline, "{parts:?} never was {value}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for the server to end by itself.
    pub(crate) fn join(mut self) -> (Stats, Vec<TruthLine>) {
        self.ended()
    }

    /// Stops the server; returns what it did and its truth log.
    pub(crate) fn stop(mut self) -> (Stats, Vec<TruthLine>) {
        self.stop.take().unwrap().send(()).unwrap();
        self.ended()
    }

    fn ended(&mut self) -> (Stats, Vec<TruthLine>) {
        let stats = self.thread.take().unwrap().join().unwrap();
        let text = std::fs::read_to_string(self.dir.path().join("truth.jsonl")).unwrap();
        let mut lines = text.lines();
        let header: TruthHeader = serde_json::from_str(lines.next().unwrap()).unwrap();
        assert_eq!(header.truth_log, 1);
        (stats, lines.map(|line| serde_json::from_str(line).unwrap()).collect())
    }
}

pub(crate) struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    pub(crate) fn post(&mut self, path: &str, headers: &str, body: &Value) -> Response {
        self.send_post(path, headers, body);
        self.read()
    }

    pub(crate) fn send_post(&mut self, path: &str, headers: &str, body: &Value) {
        let body = body.to_string();
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nhost: sim\r\ncontent-length: {length}\r\n");
        self.send(format!("{head}{headers}\r\n{body}").as_bytes());
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Reads one response, or as much of it as comes.
    pub(crate) fn read(&mut self) -> Response {
        let mut response = Response::default();
        response.head = match self.read_head() {
            Ok(head) => head.to_ascii_lowercase(),
            Err(end) => {
                response.end = end;
                return response;
            }
        };
        response.head_ns = monotonic_ns();
        response.status = response.head.split(' ').nth(1).unwrap().parse().unwrap();
        response.end = match response.header("content-length") {
            Some(length) => self.read_sized(length.parse().unwrap(), &mut response),
            None if response.header("transfer-encoding").is_none() => {
                self.read_sized(usize::MAX, &mut response)
            }
            None => self.read_chunks(&mut response),
        };
        response
    }

    /// Reads up to the first empty line.
    pub(crate) fn read_head(&mut self) -> Result<String, End> {
        loop {
            if let Some(at) = find(&self.received, b"\r\n\r\n") {
                return Ok(String::from_utf8(self.received.drain(..at + 4).collect()).unwrap());
            }
            self.receive()?;
        }
    }

    /// Whether the server has closed the connection, and how.
    pub(crate) fn read_end(&mut self) -> End {
        self.receive().expect_err("more bytes came")
    }

    fn read_sized(&mut self, length: usize, response: &mut Response) -> End {
        while self.received.len() < length {
            if let Err(end) = self.receive() {
                response.body = std::mem::take(&mut self.received);
                return end;
            }
        }
        response.body = self.received.drain(..length).collect();
        End::Clean
    }

    fn read_chunks(&mut self, response: &mut Response) -> End {
        loop {
            let parsed = httparse::parse_chunk_size(&self.received).unwrap();
            if let httparse::Status::Complete((line, size)) = parsed
                && self.received.len() >= line + size as usize + 2
            {
                let chunk = self.received[line..line + size as usize].to_vec();
                self.received.drain(..line + size as usize + 2);
                if size == 0 {
                    return End::Clean;
                }
                response.chunks_ns.push(monotonic_ns());
                response.body.extend(chunk);
                continue;
            }
            if let Err(end) = self.receive() {
                return end;
            }
        }
    }

    fn receive(&mut self) -> Result<(), End> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(End::Closed),
            Ok(count) => {
                self.received.extend_from_slice(&buffer[..count]);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(End::Reset),
            Err(error) => panic!("{error}"),
        }
    }
}

/// How a response ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum End {
    #[default]
    Clean,
    Closed,
    Reset,
}

#[derive(Default)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// In small letters.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    pub(crate) end: End,
    pub(crate) head_ns: u64,
    /// When each chunk was read.
    pub(crate) chunks_ns: Vec<u64>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(found, _)| *found == name).map(|(_, value)| value).next()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The JSON of all events; `[DONE]` as a string.
    pub(crate) fn events(&self) -> Vec<Value> {
        let text = std::str::from_utf8(&self.body).unwrap();
        let events =
            text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap());
        events
            .map(|data| match data {
                "[DONE]" => json!("[DONE]"),
                data => serde_json::from_str(data).unwrap(),
            })
            .collect()
    }

    /// The texts of all events that have one, of either API.
    pub(crate) fn texts(&self) -> Vec<String> {
        let events = self.events();
        let texts = events.iter().filter_map(|event| {
            let text = event.pointer("/choices/0/delta/content");
            text.or(event.pointer("/choices/0/text")).and_then(Value::as_str)
        });
        texts.filter(|text| !text.is_empty()).map(str::to_owned).collect()
    }
}

/// A streamed chat request with this prompt and these further fields.
pub(crate) fn chat(prompt: &str, fields: Value) -> Value {
    let mut body = json!({
        "model": "sim",
        "messages": [{"role": "user", "content": prompt}],
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

/// The clock of the truth log.
pub(crate) fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}
