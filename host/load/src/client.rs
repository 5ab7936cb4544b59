//! The connections of a load thread: opened ahead of need, kept, and used for one HTTP exchange
//! after the other. With `wire`, the only place that stamps times of the network.
//!
//! The thread's loop hands in every event of a socket ([`Client::ready`]). What an answer brings is
//! read and understood right there; the session that waits for it is woken once, at its end.

use crate::alarm::Alarm;
use crate::exchange::{Broken, Talk};
use crate::health::StampLag;
use crate::plan::Nanos;
use crate::resolve::Addresses;
use crate::run::Shared;
use crate::session::before_close;
use crate::tasks::Tasks;
use crate::template::Templates;
use crate::tls;
use crate::wire::{Basin, Catch, Wire};
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use records::{Failure, FailureKind};
use rustls::pki_types::ServerName;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Poll, Waker};
use tokio::sync::{Semaphore, watch};

/// A connection that takes longer to come about has failed.
const CONNECT_TIMEOUT: Nanos = 10_000_000_000;
/// One of several addresses gets so long at least: a first packet that is lost is repeated after 1 s.
const ADDRESS_TIMEOUT: Nanos = 2_500_000_000;
/// Bytes of one connection before the others have their turn: more than a model says at a time.
const TURN: usize = 256 * 1024;
/// Pauses of closed loops after a connection that could not be opened.
const SHORTEST_PAUSE: Nanos = 5_000_000;
const LONGEST_PAUSE: Nanos = 1_000_000_000;
/// Connections that a load thread opens at the same time; servers drop what comes in a storm.
const OPENING: usize = 64;

/// The connections of a load thread.
pub(crate) struct Client {
    pub(crate) shared: Arc<Shared>,
    pub(crate) alarm: Rc<Alarm>,
    tasks: Rc<Tasks>,
    registry: Registry,
    sockets: RefCell<Slab<Socket>>,
    /// One for each endpoint.
    pools: Vec<Pool>,
    opening: Semaphore,
    /// When what is read now may have become readable, at the earliest.
    readable: Cell<Nanos>,
    stamp_lag: Arc<StampLag>,
    /// When the time of an exchange is up, at the earliest.
    until: Cell<Nanos>,
    /// Connections that have more to read than was their turn, and since when.
    unfinished: RefCell<Vec<(usize, Nanos)>>,
    /// No further request will come.
    over: watch::Sender<bool>,
    /// All connections read into this.
    basin: RefCell<Basin>,
    /// What the events of all answers are compared with.
    templates: RefCell<Templates>,
    /// Output tokens that came and are not counted yet.
    tokens: Cell<u64>,
}

/// The connections of a load thread to one endpoint.
struct Pool {
    addresses: Addresses,
    /// Keys of those that nothing happens on, the one used last at the end.
    idle: RefCell<Vec<usize>>,
    /// How many carry a request.
    used: Cell<usize>,
    /// How many are being opened ahead of need.
    coming: Cell<usize>,
    /// Since when none could be opened.
    failing_since: Cell<Option<Nanos>>,
}

struct Socket {
    wire: Wire,
    task: Task,
    /// The server will say nothing more, or has said something that nobody asked for.
    spent: bool,
    /// It has more to read than was its turn, which comes again.
    unfinished: bool,
}

/// What a connection is busy with.
enum Task {
    /// Somebody waits until it is open.
    Open(Option<Waker>),
    /// Nothing, in the pool of this endpoint.
    Idle(usize),
    Talk(Rc<RefCell<Talk>>),
}

/// A connection that somebody has taken; it is closed where it is dropped without being let go.
pub(crate) struct Held {
    client: Rc<Client>,
    key: usize,
    kept: bool,
}

impl Held {
    /// Gives its key, for whoever closes it or puts it back.
    pub(crate) fn let_go(mut self) -> usize {
        self.kept = true;
        self.key
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.kept {
            self.client.close(self.key);
        }
    }
}

impl Pool {
    /// Connections that wait for requests, or will.
    fn ready(&self) -> usize {
        self.idle.borrow().len() + self.coming.get()
    }
}

impl Client {
    pub(crate) fn new(
        shared: Arc<Shared>,
        alarm: Rc<Alarm>,
        tasks: Rc<Tasks>,
        registry: Registry,
    ) -> Self {
        let pool = |endpoint| Pool {
            addresses: Addresses::of(endpoint),
            idle: RefCell::default(),
            used: Cell::new(0),
            coming: Cell::new(0),
            failing_since: Cell::new(None),
        };
        Self {
            pools: shared.plan.target.endpoints.iter().map(pool).collect(),
            sockets: RefCell::default(),
            opening: Semaphore::new(OPENING),
            readable: Cell::new(0),
            stamp_lag: shared.threads.stamp_lag(),
            until: Cell::new(Nanos::MAX),
            unfinished: RefCell::default(),
            over: watch::Sender::new(false),
            basin: RefCell::new(Basin::new(shared.clock)),
            templates: RefCell::default(),
            tokens: Cell::new(0),
            shared,
            alarm,
            tasks,
            registry,
        }
    }

    /// Opens connections until so many wait for requests at each endpoint. `done` is dropped when
    /// all of them are open, or cannot be.
    pub(crate) fn open_ahead(
        self: &Rc<Self>,
        wanted: usize,
        done: &Arc<impl Send + Sync + 'static>,
    ) {
        for (endpoint, pool) in self.pools.iter().enumerate() {
            for _ in pool.ready()..wanted {
                self.open_one_ahead(endpoint, done.clone());
            }
        }
    }

    /// Events follow that may have waited since this time.
    pub(crate) fn readable_since(&self, at: Nanos) {
        self.readable.set(at);
    }

    /// Takes in what happened to a socket.
    pub(crate) fn ready(&self, event: &Event) {
        let key = event.token().0;
        if let Some(socket) = self.sockets.borrow_mut().get_mut(key)
            && socket.unfinished
        {
            socket.spent |= event.is_read_closed();
            return;
        }
        self.go_on(key, event.is_readable(), event.is_read_closed());
    }

    /// Goes on with the connections that had more to read than was their turn. Whether there are any left.
    pub(crate) fn read_on(&self) -> bool {
        let readable = self.readable.get();
        for (key, since) in self.unfinished.take() {
            let mut sockets = self.sockets.borrow_mut();
            // It may have been closed since, and its place taken by another.
            let Some(socket) = sockets.get_mut(key).filter(|socket| socket.unfinished) else {
                continue;
            };
            socket.unfinished = false;
            drop(sockets);
            self.readable.set(since);
            self.go_on(key, true, false);
        }
        self.readable.set(readable);
        self.count();
        !self.unfinished.borrow().is_empty()
    }

    /// Counts the chunks of output that have come since: for many events at once, for other threads count, too.
    pub(crate) fn count(&self) -> u64 {
        let chunks = self.tokens.take();
        if chunks > 0 {
            self.shared.live.output_tokens.fetch_add(chunks, Relaxed);
        }
        chunks
    }

    /// How many requests are under way.
    pub(crate) fn under_way(&self) -> usize {
        self.pools.iter().map(|pool| pool.used.get()).sum()
    }

    /// No further request will come: connections are not opened ahead any more.
    pub(crate) fn finish(&self) {
        self.over.send_replace(true);
    }

    fn go_on(&self, key: usize, is_readable: bool, is_closed: bool) {
        let mut sockets = self.sockets.borrow_mut();
        let Some(socket) = sockets.get_mut(key) else { return };
        socket.spent |= is_closed;
        match &mut socket.task {
            Task::Open(waiting) => {
                if let Some(waker) = waiting.take() {
                    waker.wake();
                }
            }
            &mut Task::Idle(endpoint) => {
                // TLS may have messages of its own, such as session tickets; whatever else comes
                // where no request was sent makes the connection unusable, and so does its end.
                let mut basin = self.basin.borrow_mut();
                if !matches!(socket.wire.read(&mut basin), Err(error) if error.kind() == ErrorKind::WouldBlock)
                {
                    sockets.remove(key);
                    self.pools[endpoint].idle.borrow_mut().retain(|&idle| idle != key);
                }
            }
            Task::Talk(talk) => {
                let talk = talk.clone();
                let mut talk = talk.borrow_mut();
                if talk.outcome.is_some() {
                    // Its session has not gone on yet.
                    socket.spent |= is_readable;
                } else if let Some(outcome) = self.hear(socket, &mut talk, key) {
                    talk.outcome = Some(outcome.map_err(Box::new));
                    talk.wake();
                }
            }
        }
    }

    /// Begins an exchange on a connection. With `more_may_come` further requests may start while it
    /// is under way, and connections are kept ready for them.
    pub(crate) fn send(
        self: &Rc<Self>,
        endpoint: usize,
        key: usize,
        more_may_come: bool,
        talk: &Rc<RefCell<Talk>>,
    ) {
        let pool = &self.pools[endpoint];
        pool.used.set(pool.used.get() + 1);
        if more_may_come {
            self.keep_spare(endpoint);
        }
        let mut sockets = self.sockets.borrow_mut();
        let socket = &mut sockets[key];
        socket.task = Task::Talk(talk.clone());
        let mut talk = talk.borrow_mut();
        if talk.until < self.until.get() {
            self.until.set(talk.until);
            self.alarm.expire_by(talk.until);
        }
        if let Err(unsent) = talk.begin(&mut socket.wire, &self.shared.clock) {
            let outcome = self.listen(socket, &mut talk, key, Some(unsent));
            talk.outcome = outcome.map(|outcome| outcome.map_err(Box::new));
        }
    }

    /// The connection of an exchange that is over, or is broken off, can be used again, or cannot.
    pub(crate) fn done(&self, endpoint: usize, key: usize, reusable: bool) {
        let pool = &self.pools[endpoint];
        pool.used.set(pool.used.get() - 1);
        if reusable {
            self.put_back(key, endpoint);
        } else {
            self.close(key);
        }
    }

    /// The timer has expired: wakes the exchanges whose time is up.
    pub(crate) fn ring(&self) {
        let now = self.shared.clock.now();
        if now >= self.until.get() {
            // All are looked at, which is rare: not before the time of one was up, ended or not. Where a
            // workload breaks many off, it is once for each.
            let mut next = Nanos::MAX;
            self.each_talk(|talk| {
                if talk.until <= now {
                    talk.wake();
                } else {
                    next = next.min(talk.until);
                }
            });
            self.until.set(next);
        }
        self.alarm.expire_by(self.until.get());
    }

    /// Wakes all exchanges: they may have been broken off.
    pub(crate) fn wake_all(&self) {
        self.each_talk(Talk::wake);
    }

    fn each_talk(&self, mut act: impl FnMut(&mut Talk)) {
        for (_, socket) in self.sockets.borrow().iter() {
            if let Task::Talk(talk) = &socket.task {
                act(&mut talk.borrow_mut());
            }
        }
    }

    /// Goes on with an exchange. Some: it is over.
    fn hear(
        &self,
        socket: &mut Socket,
        talk: &mut Talk,
        key: usize,
    ) -> Option<Result<Nanos, Broken>> {
        let unsent = match talk.is_written {
            false => talk.write(&mut socket.wire, &self.shared.clock).err(),
            true => None,
        };
        self.listen(socket, talk, key, unsent)
    }

    /// Reads what has come. Some: the exchange is over. A server that takes no more of a request, which is `unsent` for
    /// that reason, may have said why.
    fn listen(
        &self,
        socket: &mut Socket,
        talk: &mut Talk,
        key: usize,
        unsent: Option<Broken>,
    ) -> Option<Result<Nanos, Broken>> {
        let wire = &mut socket.wire;
        let goes_on = socket.spent || unsent.is_some();
        let mut basin = self.basin.borrow_mut();
        let mut taken = 0;
        while taken < TURN {
            let read = match wire.read(&mut basin) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return unsent.map(Err),
                other => other,
            };
            taken += read.as_ref().map_or(0, |catch| catch.bytes.len());
            let full = read.as_ref().map_or(true, |catch| catch.full);
            match self.heard(read, talk) {
                Ok(None) if !full && !goes_on => return None,
                Ok(None) => {}
                Ok(Some(end)) => return Some(Ok(end)),
                Err(broken) if talk.reader.begun() => return Some(Err(broken)),
                Err(broken) => return Some(Err(unsent.unwrap_or(broken))),
            }
        }
        socket.unfinished = true;
        self.unfinished.borrow_mut().push((key, self.readable.get()));
        if self.shared.clock.now() >= talk.until {
            talk.wake();
        }
        None
    }

    /// Takes what a read brought. When the answer ended, if it did.
    fn heard(&self, read: io::Result<Catch<'_>>, talk: &mut Talk) -> Result<Option<Nanos>, Broken> {
        let Talk { reader, answer, request, is_written, .. } = talk;
        let place = if reader.begun() { "in the middle of" } else { "before" };
        let cut = |reason: &str| Broken::Cut(format!("{reason} {place} the answer"));
        let Catch { bytes, at, stamped, .. } =
            read.map_err(|error| cut(&format!("the connection broke ({error})")))?;
        if bytes.is_empty() {
            let complete = reader.closed().then_some(Some(at));
            return complete.ok_or_else(|| cut("the server closed the connection"));
        }
        if *is_written {
            *request = Vec::new();
        }
        let before = answer.chunks();
        let mut templates = self.templates.borrow_mut();
        let taken = answer.take(reader, &mut templates, bytes, at);
        let complete = taken.map_err(Broken::Malformed)?;
        let new = answer.chunks() - before;
        self.tokens.set(self.tokens.get() + new as u64);
        // A single one came when the kernel says; of several the first may have come before.
        let lag = if stamped && new <= 1 { 0 } else { at.saturating_sub(self.readable.get()) };
        self.stamp_lag.record(lag);
        Ok(complete.then_some(at))
    }

    /// A connection that is open and that nothing happens on.
    pub(crate) fn take_idle(&self, endpoint: usize) -> Option<usize> {
        self.pools[endpoint].idle.borrow_mut().pop()
    }

    fn put_back(&self, key: usize, endpoint: usize) {
        let mut sockets = self.sockets.borrow_mut();
        if sockets[key].spent {
            sockets.remove(key);
        } else {
            sockets[key].task = Task::Idle(endpoint);
            self.pools[endpoint].idle.borrow_mut().push(key);
        }
    }

    fn close(&self, key: usize) {
        self.sockets.borrow_mut().remove(key);
    }

    /// Opens connections ahead of the requests that will want them, some more than would do if
    /// no more requests were under way at a time than now.
    fn keep_spare(self: &Rc<Self>, endpoint: usize) {
        let pool = &self.pools[endpoint];
        let spare = 1 + pool.used.get() / 8;
        let wanted = pool.ready() < spare && !*self.over.borrow();
        if wanted && self.opening.available_permits() > 0 {
            self.open_one_ahead(endpoint, ());
        }
    }

    fn open_one_ahead(self: &Rc<Self>, endpoint: usize, done: impl Sized + 'static) {
        let pool = &self.pools[endpoint];
        pool.coming.set(pool.coming.get() + 1);
        let client = self.clone();
        self.tasks.spawn(async move {
            // Whoever needs a connection and cannot have one says why.
            let mut over = client.over.subscribe();
            let opened = before_close(&mut over, client.open(endpoint)).await;
            let pool = &client.pools[endpoint];
            pool.coming.set(pool.coming.get() - 1);
            if let Some(Ok(held)) = opened {
                client.put_back(held.let_go(), endpoint);
            }
            drop(done);
        });
    }

    /// Opens a connection.
    pub(crate) async fn open(self: &Rc<Self>, endpoint: usize) -> Result<Held, Failure> {
        let until = self.shared.clock.now() + CONNECT_TIMEOUT;
        let mut step = FailureKind::Connect;
        let outcome = tokio::select! {
            biased;
            outcome = self.connect(endpoint, &mut step) => outcome,
            () = self.alarm.sleep_until(until) => {
                Err(format!("no connection within {} s", CONNECT_TIMEOUT / 1_000_000_000))
            }
        };
        let pool = &self.pools[endpoint];
        let since = || pool.failing_since.get().unwrap_or_else(|| self.shared.clock.now());
        pool.failing_since.set(outcome.is_err().then(since));
        if outcome.is_err() && step == FailureKind::Connect {
            pool.addresses.forget();
        }
        let endpoint = &self.shared.plan.target.endpoints[endpoint];
        outcome.map_err(|reason| Failure::new(step, format!("{}: {reason}", endpoint.authority())))
    }

    /// So long a loop waits that found no connection: a server that is down gets no storm of them. It is as long as none
    /// has come about, so that the tries of a loop are ever further apart.
    pub(crate) fn pause_of_failure(&self, endpoint: usize) -> Nanos {
        let now = self.shared.clock.now();
        let since = self.pools[endpoint].failing_since.get().unwrap_or(now);
        (now - since).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
    }

    /// Opens a connection; `step` says what it is at.
    async fn connect(
        self: &Rc<Self>,
        endpoint: usize,
        step: &mut FailureKind,
    ) -> Result<Held, String> {
        let _place = self.opening.acquire().await;
        let addresses = &self.pools[endpoint].addresses;
        let found = addresses.get(&self.shared.clock, &self.alarm).await.map_err(|error| {
            if is_own_lack(&error) {
                *step = FailureKind::Client;
            }
            error.to_string()
        })?;
        // One that says nothing leaves time for the others.
        let limit = (CONNECT_TIMEOUT / found.len().max(1) as Nanos).max(ADDRESS_TIMEOUT);
        let mut outcome = Err("the name has no address".to_owned());
        let mut lacking = 0;
        for (tried, &address) in found.iter().enumerate() {
            let until = self.shared.clock.now() + limit;
            outcome = tokio::select! {
                biased;
                reached = self.reach(address) => reached.map_err(|error| {
                    lacking += usize::from(is_own_lack(&error));
                    error.to_string()
                }),
                () = self.alarm.sleep_until(until) => {
                    Err(format!("{} does not answer", address.ip()))
                }
            };
            if outcome.is_ok() {
                if tried > 0 {
                    addresses.prefer(address);
                }
                break;
            }
        }
        // An address that this machine cannot use says nothing where another one does not answer.
        if outcome.is_err() && lacking > 0 && lacking == found.len() {
            *step = FailureKind::Client;
        }
        let held = outcome?;
        self.shared.live.connections.fetch_add(1, Relaxed);
        let endpoint = &self.shared.plan.target.endpoints[endpoint];
        let Some(config) = self.shared.tls.as_ref().filter(|_| endpoint.secure()) else {
            return Ok(held);
        };
        *step = FailureKind::Tls;
        let name = ServerName::try_from(endpoint.host()).map_err(|error| error.to_string())?;
        let begun = self.sockets.borrow_mut()[held.key].wire.secure(config.clone(), name);
        let shaken = match begun {
            Ok(()) => self.opened(held.key, Wire::shake).await,
            Err(error) => Err(error),
        };
        shaken.map(|()| held).map_err(|error| tls::explain(&error))
    }

    /// Connects to an address.
    async fn reach(self: &Rc<Self>, address: SocketAddr) -> io::Result<Held> {
        let stream = TcpStream::connect(address)?;
        let (wire, task) = (Wire::plain(stream), Task::Open(None));
        let socket = Socket { wire, task, spent: false, unfinished: false };
        let key = self.sockets.borrow_mut().insert(socket);
        let held = Held { client: self.clone(), key, kept: false };
        let interest = Interest::READABLE | Interest::WRITABLE;
        let watch = |socket: &mut Socket| {
            self.registry.register(&mut socket.wire.stream, Token(key), interest)
        };
        watch(&mut self.sockets.borrow_mut()[key])?;
        self.opened(key, Wire::connected).await?;
        Ok(held)
    }

    /// Waits until `step` finds a connection to be open; it is asked again after every event.
    async fn opened(
        &self,
        key: usize,
        mut step: impl FnMut(&mut Wire) -> io::Result<bool>,
    ) -> io::Result<()> {
        poll_fn(|context| {
            let mut sockets = self.sockets.borrow_mut();
            let socket = &mut sockets[key];
            match step(&mut socket.wire) {
                Ok(true) => Poll::Ready(Ok(())),
                Ok(false) => {
                    socket.task = Task::Open(Some(context.waker().clone()));
                    Poll::Pending
                }
                Err(error) => Poll::Ready(Err(error)),
            }
        })
        .await
    }
}

/// Whether this machine, or what it grants the program, is why there is no connection.
fn is_own_lack(error: &io::Error) -> bool {
    use nix::errno::Errno::{EADDRNOTAVAIL, EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM};
    let lacks = [EMFILE, ENFILE, EADDRNOTAVAIL, EAGAIN, ENOBUFS, ENOMEM];
    error.raw_os_error().is_some_and(|code| lacks.iter().any(|&errno| errno as i32 == code))
}
