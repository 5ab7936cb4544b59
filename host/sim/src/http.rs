//! HTTP/1.1 as the server needs it: reading requests off a connection and writing bytes to it.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use tokio::net::TcpStream;

use crate::clock::monotonic_ns;

const MAX_HEADERS: usize = 96;
const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_BODY_BYTES: usize = 256 << 20;
const READ_BYTES: usize = 16 << 10;

/// One request, whole.
pub(crate) struct Request {
    pub(crate) method: String,
    /// Without the query.
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    /// `x-request-id`.
    pub(crate) request_id: Option<String>,
    /// `x-sim-fault`.
    pub(crate) fault: Option<String>,
    pub(crate) keep_alive: bool,
    pub(crate) body: Vec<u8>,
    /// When the last byte was read, on the monotonic clock.
    pub(crate) read_ns: u64,
}

/// The client has gone away; there is nobody to answer.
#[derive(Clone, Copy)]
pub(crate) struct Gone;

/// Why no request came.
#[derive(Clone, Copy)]
pub(crate) enum NoRequest {
    Gone,
    /// What came is not a request the server takes; answer with this status and close.
    Bad(u16, &'static str),
}

impl From<Gone> for NoRequest {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

/// A connection with one client.
pub(crate) struct Connection {
    stream: TcpStream,
    /// Bytes received beyond the last request.
    received: Vec<u8>,
    /// Bytes to send next; [`send`](Self::send) empties it with one write.
    pub(crate) out: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream) -> Self {
        // Best effort: a socket that refuses still works, only later.
        let _ = stream.set_nodelay(true);
        Self { stream, received: Vec::with_capacity(READ_BYTES), out: Vec::with_capacity(1024) }
    }

    /// Waits for the next request and reads it whole.
    pub(crate) async fn read_request(&mut self) -> Result<Request, NoRequest> {
        let (mut request, framing, head_bytes) = loop {
            match parse_head(&self.received)? {
                Some(head) if head.2 <= MAX_HEAD_BYTES => break head,
                None if self.received.len() <= MAX_HEAD_BYTES => self.receive().await?,
                _ => return Err(NoRequest::Bad(431, "Request Header Fields Too Large")),
            }
        };
        self.received.drain(..head_bytes);
        if framing.expects_continue {
            self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            self.send().await?;
        }
        request.body = match framing.length {
            Some(length) => self.take(length).await?,
            None => self.read_chunks().await?,
        };
        request.read_ns = monotonic_ns();
        Ok(request)
    }

    /// Sends and empties `out`, with one write unless the client is slow to read.
    pub(crate) async fn send(&mut self) -> Result<(), Gone> {
        let mut sent = 0;
        while sent < self.out.len() {
            match self.stream.try_write(&self.out[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stream.writable().await.map_err(|_| Gone)?;
                }
                Err(_) => return Err(Gone),
            }
        }
        self.out.clear();
        Ok(())
    }

    /// Awaits `future` unless the client closes the connection before.
    pub(crate) async fn unless_gone<T>(
        &mut self,
        future: impl Future<Output = T>,
    ) -> Result<T, Gone> {
        let mut future = pin!(future);
        std::future::poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Ok(value)),
            Poll::Pending => self.poll_gone(context).map(Err),
        })
        .await
    }

    /// Sends the first `count` bytes of `out`.
    pub(crate) async fn send_first(&mut self, count: usize) -> Result<(), Gone> {
        let rest = self.out.split_off(count);
        self.send().await?;
        self.out = rest;
        Ok(())
    }

    /// Makes closing this connection a reset.
    pub(crate) fn reset_on_close(&self) {
        // If the system refuses, the client sees a plain close, which is also a fault.
        let _ = self.stream.set_zero_linger();
    }

    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<Gone> {
        // A client that sends ahead is read no further than this; it cannot be seen leaving then.
        while self.received.len() < MAX_HEAD_BYTES {
            match self.stream.poll_read_ready(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(Gone),
                Poll::Ready(Ok(())) => {}
            }
            self.received.reserve(READ_BYTES);
            match self.stream.try_read_buf(&mut self.received) {
                Ok(0) => return Poll::Ready(Gone),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(Gone),
            }
        }
        Poll::Pending
    }

    async fn receive(&mut self) -> Result<(), Gone> {
        loop {
            self.received.reserve(READ_BYTES);
            match self.stream.try_read_buf(&mut self.received) {
                Ok(0) => return Err(Gone),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stream.readable().await.map_err(|_| Gone)?;
                }
                Err(_) => return Err(Gone),
            }
        }
    }

    async fn take(&mut self, count: usize) -> Result<Vec<u8>, NoRequest> {
        if count > MAX_BODY_BYTES {
            return Err(NoRequest::Bad(413, "Content Too Large"));
        }
        while self.received.len() < count {
            self.receive().await?;
        }
        let rest = self.received.split_off(count);
        Ok(std::mem::replace(&mut self.received, rest))
    }

    async fn read_chunks(&mut self) -> Result<Vec<u8>, NoRequest> {
        let mut body = Vec::new();
        loop {
            let bad = NoRequest::Bad(400, "Bad Request");
            let size = match httparse::parse_chunk_size(&self.received) {
                Ok(httparse::Status::Complete((line, size))) => {
                    self.received.drain(..line);
                    usize::try_from(size).map_err(|_| bad)?
                }
                Ok(httparse::Status::Partial) if self.received.len() < MAX_HEAD_BYTES => {
                    self.receive().await?;
                    continue;
                }
                _ => return Err(bad),
            };
            if size > MAX_BODY_BYTES - body.len() {
                return Err(NoRequest::Bad(413, "Content Too Large"));
            }
            if size == 0 {
                // Trailers, up to an empty line.
                while self.take_line().await? != b"\r\n" {}
                return Ok(body);
            }
            body.extend(self.take(size).await?);
            if self.take(2).await? != b"\r\n" {
                return Err(bad);
            }
        }
    }

    async fn take_line(&mut self) -> Result<Vec<u8>, NoRequest> {
        loop {
            if let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                return self.take(end + 1).await;
            }
            if self.received.len() > MAX_HEAD_BYTES {
                return Err(NoRequest::Bad(400, "Bad Request"));
            }
            self.receive().await?;
        }
    }
}

struct Framing {
    /// The body's length in bytes; `None` if it comes in chunks.
    length: Option<usize>,
    expects_continue: bool,
}

/// The request without its body, how the body comes, and the bytes of the head; `None` if more bytes
/// are needed.
fn parse_head(received: &[u8]) -> Result<Option<(Request, Framing, usize)>, NoRequest> {
    let bad = NoRequest::Bad(400, "Bad Request");
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let head_bytes = match head.parse(received) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(NoRequest::Bad(431, "Request Header Fields Too Large"));
        }
        Err(_) => return Err(bad),
    };
    let (Some(method), Some(target)) = (head.method, head.path) else { return Err(bad) };
    let mut request = Request {
        method: method.to_owned(),
        path: target.split('?').next().unwrap_or_default().to_owned(),
        authorization: None,
        request_id: None,
        fault: None,
        keep_alive: head.version == Some(1),
        body: Vec::new(),
        read_ns: 0,
    };
    let mut framing = Framing { length: Some(0), expects_continue: false };
    for header in head.headers {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        let text = || String::from_utf8_lossy(header.value).trim().to_owned();
        if is("content-length") {
            framing.length = Some(text().parse().map_err(|_| NoRequest::Bad(400, "Bad Request"))?);
        } else if is("transfer-encoding") {
            framing.length = None;
        } else if is("expect") {
            framing.expects_continue = text().eq_ignore_ascii_case("100-continue");
        } else if is("connection") {
            let value = text().to_ascii_lowercase();
            request.keep_alive &= !value.contains("close");
            request.keep_alive |= value.contains("keep-alive");
        } else if is("authorization") {
            request.authorization = Some(text());
        } else if is("x-request-id") {
            request.request_id = Some(text());
        } else if is("x-sim-fault") {
            request.fault = Some(text());
        }
    }
    // No route answers HEAD; closing after the refusal spares a second way to frame responses.
    request.keep_alive &= request.method != "HEAD";
    Ok(Some((request, framing, head_bytes)))
}

/// A whole response, ready to be sent. `headers` are whole lines.
pub(crate) fn response(
    out: &mut Vec<u8>,
    status: u16,
    content_type: &str,
    headers: &str,
    body: &[u8],
) {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} {}\r\nserver: sim\r\ncontent-type: {content_type}\r\n\
         content-length: {length}\r\n{headers}\r\n",
        reason(status)
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(body);
}

/// The head of a streamed response. `headers` are whole lines.
pub(crate) fn stream_head(out: &mut Vec<u8>, content_type: &str, headers: &str) {
    let head =
        format!("HTTP/1.1 200 OK\r\nserver: sim\r\ncontent-type: {content_type}\r\n{headers}\r\n");
    out.extend_from_slice(head.as_bytes());
}

/// The words that go with a status, as in vLLM's error types.
pub(crate) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}
