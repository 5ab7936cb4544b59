//! [`Wire`]: the bytes of one connection, plain or encrypted, without ever blocking. An error of
//! kind `WouldBlock` says that the operating system will tell when there is more to do.

use crate::clock::Clock;
use crate::plan::Nanos;
use mio::net::TcpStream;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

/// A connection.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Wire {
    /// An unencrypted connection, or one that is coming about.
    pub(crate) fn plain(stream: TcpStream) -> Self {
        Self { stream, tls: None }
    }

    /// Begins TLS; [`Wire::shake`] goes on with it.
    pub(crate) fn secure(
        &mut self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<()> {
        let mut tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
        tls.set_buffer_limit(None);
        self.tls = Some(Box::new(tls));
        Ok(())
    }

    /// Goes on with the handshake as far as it goes. Whether it is done.
    pub(crate) fn shake(&mut self) -> io::Result<bool> {
        let Self { stream, tls: Some(tls) } = self else { return Ok(true) };
        loop {
            flush(stream, tls)?;
            if !tls.is_handshaking() {
                return Ok(true);
            }
            match fill(stream, tls) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                other => other?,
            };
        }
    }

    /// Whether a read that did not fill its buffer has emptied the socket. Under TLS bytes may be
    /// left between the two.
    pub(crate) fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// Reads what has come; 0 at the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self { stream, tls } = self;
        let Some(tls) = tls else { return again(|| stream.read(buffer)) };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // A server that closes without saying so is no more than closed.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            if fill(stream, tls)? == 0 {
                return Ok(0);
            }
        }
    }

    /// Writes as much of `bytes` as goes now. Once all has gone, the moment just before the write
    /// that took the last byte: a stamp taken after it could be later than the server's reading, by
    /// as long as this thread then waits for a processor, and the time to first token would come
    /// out too short.
    pub(crate) fn write(&mut self, bytes: &mut &[u8], clock: &Clock) -> io::Result<Option<Nanos>> {
        let Self { stream, tls } = self;
        let written = match tls {
            None => write_plain(stream, bytes, clock),
            Some(tls) => write_secure(stream, tls, bytes, clock),
        };
        match written {
            Ok(at) => Ok(Some(at)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn write_plain(stream: &mut TcpStream, bytes: &mut &[u8], clock: &Clock) -> io::Result<Nanos> {
    loop {
        let at = clock.now();
        let written = again(|| stream.write(bytes))?;
        *bytes = &bytes[written..];
        if bytes.is_empty() {
            return Ok(at);
        }
        if written == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
    }
}

/// TLS takes all bytes at once and keeps what the socket does not take.
fn write_secure(
    stream: &mut TcpStream,
    tls: &mut ClientConnection,
    bytes: &mut &[u8],
    clock: &Clock,
) -> io::Result<Nanos> {
    tls.writer().write_all(bytes)?;
    *bytes = &[];
    let mut at = clock.now();
    while tls.wants_write() {
        at = clock.now();
        again(|| tls.write_tls(stream))?;
    }
    Ok(at)
}

/// Takes encrypted bytes from the socket; 0 at the end.
fn fill(stream: &mut TcpStream, tls: &mut ClientConnection) -> io::Result<usize> {
    let read = again(|| tls.read_tls(stream))?;
    let processed = tls.process_new_packets();
    // What the protocol itself has to say to that: nobody waits for it to go out, and where the
    // packets were bad it is why the connection ends, which goes out if it can.
    let _ = flush(stream, tls);
    processed.map(|_| read).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

/// Gives the socket what TLS has to say, as far as it takes it.
fn flush(stream: &mut TcpStream, tls: &mut ClientConnection) -> io::Result<()> {
    while tls.wants_write() {
        match again(|| tls.write_tls(stream)) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            other => other?,
        };
    }
    Ok(())
}

/// Repeats what a signal has interrupted.
fn again<T>(mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match act() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
