//! [`Wire`]: the bytes of one connection, plain or encrypted, and when they came, without ever
//! blocking. An error of kind `WouldBlock` says that the operating system will tell when there is
//! more to do.
//!
//! When bytes came, the kernel says: it stamps each packet as it takes it in (`SO_TIMESTAMPNS`), and
//! a read gives the stamp of the last one that it took bytes of. So a token that is read by itself
//! has the time at which it came, however long the load thread waited for a processor or was busy
//! with other connections; of several that one read brings, all have that of the last. Where the
//! kernel gives no stamp, or its clock was set meanwhile, it is the moment at which the read has
//! returned.

use crate::clock::{Clock, Wall};
use crate::plan::Nanos;
use mio::net::TcpStream;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::io::{self, ErrorKind, IoSliceMut, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;

const READ_SIZE: usize = 64 * 1024;

/// A connection.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// When something last came or went; nothing later can have come before.
    last: Nanos,
    /// The kernel said when what was read last came.
    stamped: bool,
}

/// What all connections of a load thread read into.
pub(crate) struct Basin {
    clock: Clock,
    /// The clock of the kernel's stamps.
    wall: Wall,
    bytes: Box<[u8]>,
    /// Room for what the kernel says beside the bytes.
    control: Vec<u8>,
}

/// What a read brought.
pub(crate) struct Catch<'a> {
    pub(crate) bytes: &'a [u8],
    /// When the last of it came.
    pub(crate) at: Nanos,
    /// The kernel said so: how long it waited to be read is not in it.
    pub(crate) stamped: bool,
    /// There may be more.
    pub(crate) full: bool,
}

impl Basin {
    pub(crate) fn new(clock: Clock) -> Self {
        let (bytes, control) = (vec![0; READ_SIZE].into(), nix::cmsg_space!(TimeSpec));
        Self { clock, wall: Wall::new(clock), bytes, control }
    }
}

impl Wire {
    /// An unencrypted connection, or one that is coming about.
    pub(crate) fn plain(stream: TcpStream) -> Self {
        Self { stream, tls: None, last: 0, stamped: false }
    }

    /// Whether the connection has come about.
    pub(crate) fn connected(&mut self) -> io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => {
                // Without it reads are stamped when they have returned.
                let _ = setsockopt(&self.stream, sockopt::ReceiveTimestampns, &true);
                self.stream.set_nodelay(true).map(|()| true)
            }
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
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
        let Self { stream, tls: Some(tls), .. } = self else { return Ok(true) };
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

    /// Reads what has come; nothing at the end.
    pub(crate) fn read<'a>(&mut self, basin: &'a mut Basin) -> io::Result<Catch<'a>> {
        let Self { stream, tls, last, stamped } = self;
        let Basin { clock, wall, bytes, control } = basin;
        let mut tap = Tap { stream, clock, wall, control, last, stamped };
        let length = match tls {
            None => again(|| tap.read(bytes))?,
            Some(tls) => read_secure(&mut tap, tls, bytes)?,
        };
        // Under TLS bytes may be left between the socket and the reader.
        let full = tls.is_some() || length == bytes.len();
        Ok(Catch { bytes: &bytes[..length], at: *last, stamped: *stamped, full })
    }

    /// Writes as much of `bytes` as goes now. Once all has gone, the moment just before the write
    /// that took the last byte: a stamp taken after it could be later than the server's reading, by
    /// as long as this thread then waits for a processor, and the time to first token would come
    /// out too short.
    pub(crate) fn write(&mut self, bytes: &mut &[u8], clock: &Clock) -> io::Result<Option<Nanos>> {
        let Self { stream, tls, last, .. } = self;
        *last = clock.now().max(*last);
        let written = match tls {
            None => write_plain(stream, bytes, clock),
            Some(tls) => write_secure(stream, tls, bytes, clock),
        };
        match written {
            Ok(at) => {
                *last = at;
                Ok(Some(at))
            }
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

fn read_secure(
    tap: &mut Tap<'_>,
    tls: &mut ClientConnection,
    bytes: &mut [u8],
) -> io::Result<usize> {
    loop {
        match tls.reader().read(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // A server that closes without saying so is no more than closed.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
            other => return other,
        }
        if again(|| tls.read_tls(tap))? == 0 {
            return Ok(0);
        }
        processed(tap.stream, tls)?;
    }
}

/// Takes encrypted bytes from the socket; 0 at the end.
fn fill(stream: &mut TcpStream, tls: &mut ClientConnection) -> io::Result<usize> {
    let read = again(|| tls.read_tls(stream))?;
    processed(stream, tls).map(|()| read)
}

/// Takes in the packets that have come.
fn processed(stream: &mut TcpStream, tls: &mut ClientConnection) -> io::Result<()> {
    let processed = tls.process_new_packets();
    // What the protocol itself has to say to that: nobody waits for it to go out, and where the
    // packets were bad it is why the connection ends, which goes out if it can.
    let _ = flush(stream, tls);
    processed.map(drop).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

/// Reads from a socket and asks the kernel when the bytes came.
struct Tap<'a> {
    stream: &'a mut TcpStream,
    clock: &'a Clock,
    wall: &'a mut Wall,
    control: &'a mut [u8],
    last: &'a mut Nanos,
    stamped: &'a mut bool,
}

impl Read for Tap<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (socket, mut parts) = (self.stream.as_raw_fd(), [IoSliceMut::new(buffer)]);
        let read = recvmsg::<()>(socket, &mut parts, Some(self.control), MsgFlags::empty())?;
        let stamp = read.cmsgs().ok().and_then(|mut messages| {
            messages.find_map(|message| match message {
                ControlMessageOwned::ScmTimestampns(at) => Some(at),
                _ => None,
            })
        });
        let told = stamp.and_then(|stamp| self.wall.time_of(stamp));
        let at = told.unwrap_or_else(|| self.clock.now());
        (*self.last, *self.stamped) = (at.max(*self.last), told.is_some());
        Ok(read.bytes)
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread::sleep;
    use std::time::Duration;

    const MS: Nanos = 1_000_000;

    /// A connection, and its other end.
    fn pair() -> (Wire, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let other = listener.accept().unwrap().0;
        let mut wire = Wire::plain(stream);
        while !wire.connected().unwrap() {
            sleep(Duration::from_millis(1));
        }
        (wire, other)
    }

    #[test]
    fn how_long_bytes_wait_to_be_read_is_not_in_the_time_of_their_arrival() {
        let (mut wire, mut other) = pair();
        let clock = Clock::start();
        let mut basin = Basin::new(clock);
        // The kernel begins to stamp a moment after the first socket has asked for it.
        for _ in 0..100 {
            let before = clock.now();
            other.write_all(b"token").unwrap();
            let after = clock.now();
            sleep(Duration::from_millis(20));
            let read = wire.read(&mut basin).unwrap();
            assert_eq!((read.bytes, read.full), (&b"token"[..], false));
            assert!(before <= read.at && read.at <= clock.now());
            if read.stamped {
                assert!(clock.now() - read.at >= 20 * MS - (after - before), "{}", read.at);
                return;
            }
        }
        panic!("the kernel gave no stamp");
    }

    #[test]
    fn nothing_arrives_before_what_it_answers_was_sent() {
        let (mut wire, mut other) = pair();
        let clock = Clock::start();
        let mut basin = Basin::new(clock);
        for _ in 0..100 {
            other.write_all(b"too early").unwrap();
            sleep(Duration::from_millis(20));
            let sent = wire.write(&mut &b"question"[..], &clock).unwrap().unwrap();
            let read = wire.read(&mut basin).unwrap();
            if read.stamped {
                return assert_eq!(read.at, sent);
            }
        }
        panic!("the kernel gave no stamp");
    }

    #[test]
    fn the_end_of_a_connection_is_an_empty_read_and_an_empty_socket_would_block() {
        let (mut wire, other) = pair();
        let mut basin = Basin::new(Clock::start());
        let early = wire.read(&mut basin).err().map(|error| error.kind());
        assert_eq!(early, Some(ErrorKind::WouldBlock));
        drop(other);
        loop {
            match wire.read(&mut basin) {
                Ok(read) => return assert_eq!(read.bytes, b""),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            sleep(Duration::from_millis(1));
        }
    }
}
