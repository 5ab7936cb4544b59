//! The floor: a plain hyper client that drives streamed chat requests, times them, and keeps nothing.
//!
//! It is what llmdbench is compared with: one thread, one Tokio runtime, hyper's HTTP/1.1 with kept-alive
//! connections. It has no failure handling, no records and no statistics; it prints one line of JSON.

mod clock;
mod options;
mod pace;
mod stream;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clock::{Usage, now};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use options::{Load, Options};
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::rc::Rc;
use stream::Stream;
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

fn main() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let client = Rc::new(Client::new(options)?);
    let window = LocalSet::new().block_on(&runtime, drive(client.clone()))?;
    client.report(&window)
}

/// What was used, and how long it took, from the first request to the last byte.
struct Window {
    usage: Usage,
    wall_ns: u64,
}

async fn drive(client: Rc<Client>) -> Result<Window> {
    let connections = client.options.connections;
    for _ in 0..connections {
        let connection = client.connect().await?;
        client.idle.borrow_mut().push(connection);
    }
    let (usage, begin) = (Usage::now()?, now());
    match client.options.load {
        Load::Closed => closed(&client, connections).await?,
        Load::Open { rate } => open(&client, rate).await?,
    }
    Ok(Window { usage: Usage::now()? - usage, wall_ns: now() - begin })
}

/// Each connection asks again as soon as it was answered.
async fn closed(client: &Rc<Client>, connections: usize) -> Result<()> {
    let next = Rc::new(Cell::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..connections {
        let (client, next) = (client.clone(), next.clone());
        workers.spawn_local(async move {
            while next.get() < client.options.requests {
                let id = next.replace(next.get() + 1);
                client.ask(id, None).await;
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended?;
    }
    Ok(())
}

/// A thread of its own hands requests out at their times; none waits for another.
async fn open(client: &Rc<Client>, rate: f64) -> Result<()> {
    let mut due = pace::start(rate, client.options.requests)?;
    let mut requests = JoinSet::new();
    while let Some((id, due)) = due.recv().await {
        let client = client.clone();
        requests.spawn_local(async move { client.ask(id, Some(due)).await });
        while requests.try_join_next().is_some() {}
    }
    while let Some(ended) = requests.join_next().await {
        ended?;
    }
    Ok(())
}

struct Client {
    options: Options,
    body: Bytes,
    idle: RefCell<Vec<SendRequest<Full<Bytes>>>>,
    ok: Cell<u64>,
    failed: Cell<u64>,
    events: Cell<u64>,
    times: RefCell<Vec<Times>>,
}

/// When things happened to a request, in nanoseconds on `CLOCK_MONOTONIC`.
struct Times {
    id: u64,
    due: Option<u64>,
    sent: u64,
    stream: Stream,
    finished: u64,
}

impl Client {
    fn new(options: Options) -> Result<Self> {
        let body = serde_json::to_vec(&json!({
            "model": options.model,
            "messages": [{"role": "user", "content": vec!["river"; 64].join(" ")}],
            "stream": true,
            "stream_options": {"include_usage": true},
            "max_tokens": options.tokens,
            "ignore_eos": true,
            "min_tokens": options.tokens,
            "temperature": 0,
        }))?;
        Ok(Self {
            options,
            body: body.into(),
            idle: RefCell::default(),
            ok: Cell::default(),
            failed: Cell::default(),
            events: Cell::default(),
            times: RefCell::default(),
        })
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let address = &self.options.address;
        let stream =
            TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(connection);
        Ok(sender)
    }

    /// One request from its send to its last byte.
    async fn ask(&self, id: u64, due: Option<u64>) {
        match self.try_ask(id, due).await {
            Ok(times) => {
                self.ok.set(self.ok.get() + 1);
                self.events.set(self.events.get() + times.stream.events);
                if self.options.times.is_some() {
                    self.times.borrow_mut().push(times);
                }
            }
            Err(error) => {
                if self.failed.replace(self.failed.get() + 1) == 0 {
                    eprintln!("request {id}: {error:#}");
                }
            }
        }
    }

    async fn try_ask(&self, id: u64, due: Option<u64>) -> Result<Times> {
        let kept = self.idle.borrow_mut().pop();
        let mut connection = match kept {
            Some(connection) if !connection.is_closed() => connection,
            _ => self.connect().await?,
        };
        let request = hyper::Request::post("/v1/chat/completions")
            .header("host", &self.options.address)
            .header("accept", "text/event-stream")
            .header("content-type", "application/json")
            .header("x-request-id", format!("floor-{id:012}"))
            .body(Full::new(self.body.clone()))?;
        let sent = now();
        let response = connection.send_request(request).await?;
        if response.status() != 200 {
            bail!("the server answered {}", response.status());
        }
        let mut body = response.into_body();
        let mut stream = Stream::new(self.options.parse);
        while let Some(frame) = body.frame().await {
            if let Some(bytes) = frame?.data_ref() {
                stream.feed(bytes)?;
            }
        }
        let finished = now();
        connection.ready().await?;
        self.idle.borrow_mut().push(connection);
        Ok(Times { id, due, sent, stream, finished })
    }

    fn report(&self, window: &Window) -> Result<()> {
        if let Some(path) = &self.options.times {
            let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
            for times in self.times.borrow().iter() {
                let line = json!({
                    "id": times.id, "due": times.due, "sent": times.sent,
                    "first": times.stream.first, "last": times.stream.last,
                    "tokens": times.stream.tokens, "finished": times.finished,
                });
                writeln!(file, "{line}")?;
            }
            file.flush()?;
        }
        let wall_s = window.wall_ns as f64 / 1e9;
        let line = json!({
            "requests": self.options.requests, "ok": self.ok.get(), "failed": self.failed.get(),
            "events": self.events.get(), "user_s": window.usage.user_s, "system_s": window.usage.system_s,
            "wall_s": wall_s, "requests_per_s": self.ok.get() as f64 / wall_s,
            "peak_rss_kib": Usage::peak_rss_kib()?,
        });
        println!("{line}");
        Ok(())
    }
}
