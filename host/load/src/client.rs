//! One HTTP exchange over a socket: connections kept and opened, the request written, the answer
//! read where the bytes lie. The only place that stamps times of the network.

use crate::answer::Answer;
use crate::clock::Clock;
use crate::http::{Malformed, Part, Reader};
use crate::plan::Nanos;
use crate::run::Shared;
use crate::tls;
use records::{Connection, Failure, FailureKind, Record};
use rustls::pki_types::ServerName;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const READ_SIZE: usize = 64 * 1024;

thread_local! {
    /// All connections of a thread read into this: it is used only while a read is polled.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_SIZE]);
}

/// The connections of a load thread.
pub(crate) struct Client {
    shared: Arc<Shared>,
    /// Idle connections of each endpoint, the one used last at the end.
    idle: Vec<RefCell<Vec<Wire>>>,
}

/// Why an answer did not come to its end.
enum Broken {
    /// The connection is gone.
    Cut(String),
    Malformed(Malformed),
}

impl Client {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let idle = shared.plan.target.endpoints.iter().map(|_| RefCell::default()).collect();
        Self { shared, idle }
    }

    /// Sends a request and reads its answer. Facts go into `record` and `answer` as they happen,
    /// so that they are there when this future is dropped in the middle.
    pub(crate) async fn exchange(
        &self,
        endpoint: usize,
        bytes: &[u8],
        record: &mut Record,
        answer: &mut Answer,
    ) -> Result<(), Failure> {
        loop {
            let kept = if record.retries == 0 { self.take_idle(endpoint) } else { None };
            let reused = kept.is_some();
            record.connection = if reused { Connection::Reused } else { Connection::New };
            let mut wire = match kept {
                Some(wire) => wire,
                None => self.connect(endpoint).await?,
            };
            let mut reader = Reader::new();
            let outcome = self.converse(&mut wire, bytes, &mut reader, record, answer).await;
            record.finished = self.shared.clock.now();
            match outcome {
                Ok(at) => {
                    record.finished = at;
                    if reader.keep_alive() {
                        self.idle[endpoint].borrow_mut().push(wire);
                    }
                    return answer.end(at, None);
                }
                Err(Broken::Malformed(malformed)) => {
                    return Err(Failure::new(FailureKind::BadStream, malformed.to_string()));
                }
                // The server closed a kept connection before it saw this request.
                Err(Broken::Cut(_)) if reused && !reader.begun() => record.retries += 1,
                Err(Broken::Cut(reason)) => return answer.end(record.finished, Some(&reason)),
            }
        }
    }

    /// When the answer's last byte arrived.
    async fn converse(
        &self,
        wire: &mut Wire,
        bytes: &[u8],
        reader: &mut Reader,
        record: &mut Record,
        answer: &mut Answer,
    ) -> Result<Nanos, Broken> {
        let sent = wire
            .write_all(bytes, &self.shared.clock)
            .await
            .map_err(|error| Broken::Cut(format!("the request could not be sent: {error}")))?;
        record.sent = Some(sent);
        loop {
            let read = poll_fn(|context| {
                SCRATCH.with_borrow_mut(|scratch| {
                    let mut buffer = ReadBuf::new(scratch);
                    let read = ready!(wire.poll_read(context, &mut buffer));
                    let at = self.shared.clock.now();
                    Poll::Ready(self.heard(read.map(|()| buffer.filled()), at, reader, answer))
                })
            });
            if let Some(end) = read.await? {
                return Ok(end);
            }
        }
    }

    /// Takes what a read brought. When the answer ended, if it did.
    fn heard(
        &self,
        read: io::Result<&[u8]>,
        at: Nanos,
        reader: &mut Reader,
        answer: &mut Answer,
    ) -> Result<Option<Nanos>, Broken> {
        let place = if reader.begun() { "in the middle of" } else { "before" };
        let cut = |reason: &str| Broken::Cut(format!("{reason} {place} the answer"));
        let mut input = match read {
            Ok(bytes) if !bytes.is_empty() => bytes,
            // A TLS server that closes without saying so is no more than closed.
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                return Err(cut(&format!("the connection broke ({error})")));
            }
            _ if reader.closed() => return Ok(Some(at)),
            _ => return Err(cut("the server closed the connection")),
        };
        let before = answer.chunks();
        let end = loop {
            match reader.next(&mut input).map_err(Broken::Malformed)? {
                Part::Head(head) => answer.head(&head),
                Part::Body(bytes) => answer.body(bytes, at),
                Part::End => break Some(at),
                Part::More => break None,
            }
        };
        let new = answer.chunks() - before;
        if new > 0 {
            self.shared.live.output_tokens.fetch_add(new as u64, Relaxed);
        }
        Ok(end)
    }

    fn take_idle(&self, endpoint: usize) -> Option<Wire> {
        let mut idle = self.idle[endpoint].borrow_mut();
        while let Some(mut wire) = idle.pop() {
            if wire.is_usable() {
                return Some(wire);
            }
        }
        None
    }

    async fn connect(&self, endpoint: usize) -> Result<Wire, Failure> {
        let endpoint = &self.shared.plan.target.endpoints[endpoint];
        let (host, port) = (endpoint.host(), endpoint.port());
        let fail = |kind, reason: String| {
            Failure::new(kind, format!("{}: {reason}", endpoint.authority()))
        };
        let late = || format!("no connection within {} s", CONNECT_TIMEOUT.as_secs());
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect((host.as_str(), port)))
            .await
            .map_err(|_| fail(FailureKind::Connect, late()))?
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            .map_err(|error| fail(FailureKind::Connect, error.to_string()))?;
        self.shared.live.connections.fetch_add(1, Relaxed);
        let Some(config) = self.shared.tls.as_ref().filter(|_| endpoint.secure()) else {
            return Ok(Wire::Plain(stream));
        };
        let name = ServerName::try_from(host)
            .map_err(|error| fail(FailureKind::Tls, error.to_string()))?;
        let connecting = TlsConnector::from(config.clone()).connect(name, stream);
        let stream = timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| fail(FailureKind::Tls, late()))?
            .map_err(|error| fail(FailureKind::Tls, tls::explain(&error)))?;
        Ok(Wire::Secure(Box::new(stream)))
    }
}

enum Wire {
    Plain(TcpStream),
    Secure(Box<TlsStream<TcpStream>>),
}

impl Wire {
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Secure(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Secure(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    /// Writes everything; gives the moment just before the write that took the last byte. A stamp
    /// taken after it could be later than the server's reading, by as long as this thread then
    /// waits for a processor, and the time to first token would come out too short.
    async fn write_all(&mut self, mut bytes: &[u8], clock: &Clock) -> io::Result<Nanos> {
        loop {
            let (at, written) = poll_fn(|context| {
                let at = clock.now();
                self.poll_write(context, bytes).map_ok(|written| (at, written))
            })
            .await?;
            bytes = &bytes[written..];
            if bytes.is_empty() {
                if let Self::Secure(stream) = self {
                    stream.flush().await?;
                }
                return Ok(at);
            }
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
    }

    /// Whether an idle connection is, as far as is known, still open.
    fn is_usable(&mut self) -> bool {
        let (stream, silent) = match self {
            Self::Plain(stream) => (stream, true),
            // TLS may have messages of its own, such as session tickets.
            Self::Secure(stream) => (stream.get_mut().0, false),
        };
        let mut byte = [0];
        let mut context = Context::from_waker(Waker::noop());
        match stream.poll_peek(&mut context, &mut ReadBuf::new(&mut byte)) {
            Poll::Pending => true,
            Poll::Ready(Ok(0) | Err(_)) => false,
            Poll::Ready(Ok(_)) => !silent,
        }
    }
}
