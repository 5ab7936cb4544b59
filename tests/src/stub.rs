//! [`Stub`]: an HTTP server that answers whatever a test wants and keeps what it was asked.

use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// "GET", "POST".
    pub method: String,
    /// With the query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its bytes as text.
    pub body: String,
}

impl Request {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Whether it asks for a completion.
    #[must_use]
    pub fn is_completion(&self) -> bool {
        self.method == "POST" && self.path.ends_with("/completions")
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The content type.
    pub kind: &'static str,
    /// The body.
    pub body: String,
    /// Where it redirects to.
    pub location: Option<String>,
}

impl Reply {
    /// A body of this content type.
    #[must_use]
    pub fn new(status: u16, kind: &'static str, body: String) -> Self {
        Self { status, kind, body, location: None }
    }

    /// JSON.
    #[must_use]
    pub fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    /// A redirect of any method, without a body.
    #[must_use]
    pub fn redirect(location: String) -> Self {
        Self { location: Some(location), ..Self::new(307, "text/plain", String::new()) }
    }

    /// A stream of two tokens, in the form of the API that was asked.
    #[must_use]
    pub fn tokens(request: &Request) -> Self {
        Self::stream_of(request, &["Hello", " there"])
    }

    /// A stream of these tokens.
    #[must_use]
    pub fn stream_of(request: &Request, texts: &[&str]) -> Self {
        let chat = request.path.ends_with("/chat/completions");
        let choice = |text: &str, finish: Value| {
            if chat {
                json!({"index": 0, "delta": {"content": text}, "finish_reason": finish})
            } else {
                json!({"index": 0, "text": text, "finish_reason": finish})
            }
        };
        let mut body = String::new();
        let mut event = |value: Value| body.push_str(&format!("data: {value}\n\n"));
        for text in texts {
            event(json!({"choices": [choice(text, Value::Null)]}));
        }
        event(json!({"choices": [choice("", json!("stop"))]}));
        event(json!({"choices": [], "usage": {
            "prompt_tokens": 5, "completion_tokens": texts.len(),
            "total_tokens": 5 + texts.len()}}));
        body.push_str("data: [DONE]\n\n");
        Self::new(200, "text/event-stream", body)
    }

    /// The list of models.
    #[must_use]
    pub fn models(names: &[&str]) -> Self {
        let data: Vec<Value> =
            names.iter().map(|name| json!({"id": name, "object": "model"})).collect();
        Self::json(200, &json!({"object": "list", "data": data}))
    }
}

/// A server. It listens until the test ends.
#[derive(Debug)]
pub struct Stub {
    /// Where it answers.
    pub url: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Stub {
    /// A server that answers so.
    #[must_use]
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::over("http", Some, answer)
    }

    /// The same over TLS, with a certificate for this host that it has signed itself. That comes with
    /// it, as PEM.
    #[must_use]
    pub fn secure(
        host: &str,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> (Self, String) {
        let own = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let wrap = move |stream| {
            Some(StreamOwned::new(ServerConnection::new(Arc::clone(&config)).ok()?, stream))
        };
        (Self::over("https", wrap, answer), own.cert.pem())
    }

    fn over<S: Read + Write>(
        scheme: &str,
        wrap: impl Fn(TcpStream) -> Option<S> + Send + Sync + 'static,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let keep = Arc::clone(&seen);
        let serve = Arc::new(move |stream: TcpStream| {
            stream.set_nodelay(true)?;
            // A client that went away ends its thread, nothing else.
            wrap(stream).map_or(Ok(()), |stream| converse(stream, &answer, &keep))
        });
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // Where there is no descriptor for it, there may be one soon.
                let Ok(stream) = stream else {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                };
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(stream));
            }
        });
        Self { url, seen }
    }

    /// A server that has the model `m`, under any prefix, and gives two tokens to everybody.
    #[must_use]
    pub fn good() -> Self {
        Self::start(|request| {
            if request.is_completion() { Reply::tokens(request) } else { Reply::models(&["m"]) }
        })
    }

    /// What it was asked.
    #[must_use]
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// The completions that it was asked for.
    #[must_use]
    pub fn completions(&self) -> Vec<Request> {
        self.seen().into_iter().filter(Request::is_completion).collect()
    }
}

fn converse(
    stream: impl Read + Write,
    answer: &dyn Fn(&Request) -> Reply,
    keep: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream)? {
        let Reply { status, kind, body, location } = answer(&request);
        keep.lock().unwrap().push(request);
        let location = location.map(|url| format!("location: {url}\r\n")).unwrap_or_default();
        let length = body.len();
        write!(
            stream.get_mut(),
            "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n{location}content-length: {length}\r\n\r\n{body}",
        )?;
        stream.get_mut().flush()?;
    }
    Ok(())
}

fn read(reader: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => {
                headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
            None => break,
        }
    }
    let request = Request { method, path, headers, body: String::new() };
    let length = request.header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Request { body: String::from_utf8_lossy(&body).into_owned(), ..request }))
}

/// The body that a URL answers with.
#[track_caller]
#[must_use]
pub fn get(url: &str) -> String {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET /{path} HTTP/1.0\r\nhost: {host}\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.split_once("\r\n\r\n").unwrap().1.to_owned()
}
