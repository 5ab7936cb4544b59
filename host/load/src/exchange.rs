//! One HTTP exchange: it finds a connection, sends its request, sends it again if the server had
//! closed the connection before it saw it, and judges the answer at its end.

use crate::answer::Answer;
use crate::client::{Client, Held};
use crate::clock::Clock;
use crate::http::{Malformed, Reader};
use crate::plan::Nanos;
use crate::wire::Wire;
use records::{Connection, Failure, FailureKind};
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

/// A connection that broke so soon after a request was written to it may have been closed before that: word of it
/// takes a round trip, around the world at most.
const CROSSING: Nanos = 250_000_000;

/// An exchange under way. Dropped before its end, it closes its connection.
///
/// There may be very many at a time, so it is no `async fn`: its room would be twice as large.
pub(crate) struct Exchange {
    client: Rc<Client>,
    talk: Rc<RefCell<Talk>>,
    endpoint: u32,
    more_may_come: bool,
    on: On,
}

/// What an exchange is on.
enum On {
    Nothing,
    /// A connection that is being opened; boxed, since few requests wait for one.
    Opening(Pin<Box<dyn Future<Output = Result<Held, Failure>>>>),
    /// A connection, which the request found open or had opened.
    Connection {
        key: u32,
        reused: bool,
    },
}

/// What happened so far, also where it is broken off in the middle.
pub(crate) struct Talk {
    pub(crate) answer: Answer,
    /// When it is to end at the latest.
    pub(crate) until: Nanos,
    /// When the last byte of the request was written, for the first time if it was sent again: what the server or its
    /// connection lost is part of what a user waits for.
    pub(crate) sent: Option<Nanos>,
    /// The socket has taken all of the request.
    pub(crate) is_written: bool,
    /// Whether the request found a connection open.
    pub(crate) connection: Connection,
    /// Times that it was sent again: at most once, for then the connection is new.
    pub(crate) retries: u8,
    pub(crate) reader: Reader,
    /// The request, until the answer has begun: then it will not be sent again.
    pub(crate) request: Vec<u8>,
    /// How much of it the socket has taken.
    written: u32,
    /// When the answer's last byte arrived, or why it did not.
    pub(crate) outcome: Option<Result<Nanos, Box<Broken>>>,
    waiting: Option<Waker>,
}

/// Why an answer did not come to its end.
pub(crate) enum Broken {
    /// The connection is gone.
    Cut(String),
    Malformed(Malformed),
}

impl Talk {
    /// An exchange to come.
    pub(crate) fn new(request: Vec<u8>, answer: Answer, until: Nanos) -> Self {
        Self {
            answer,
            until,
            sent: None,
            is_written: false,
            connection: Connection::New,
            retries: 0,
            reader: Reader::new(),
            request,
            written: 0,
            outcome: None,
            waiting: None,
        }
    }

    /// Begins to write the request to a connection.
    pub(crate) fn begin(&mut self, wire: &mut Wire, clock: &Clock) -> Result<(), Broken> {
        (self.reader, self.written, self.is_written) = (Reader::new(), 0, false);
        self.outcome = None;
        self.write(wire, clock)
    }

    /// Goes on writing the request.
    pub(crate) fn write(&mut self, wire: &mut Wire, clock: &Clock) -> Result<(), Broken> {
        let mut rest = &self.request[self.written as usize..];
        let written = wire.write(&mut rest, clock);
        let taken = self.request.len() - rest.len();
        self.written = u32::try_from(taken).expect("a request has fewer than 4 GiB");
        let written = written
            .map_err(|error| Broken::Cut(format!("the request could not be sent: {error}")))?;
        self.is_written = written.is_some();
        self.sent = self.sent.or(written);
        Ok(())
    }

    /// Lets whoever waits for it look.
    pub(crate) fn wake(&mut self) {
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }
}

impl Exchange {
    /// Begins an exchange. With `more_may_come` further requests may start while it is under way,
    /// and connections are kept ready for them.
    pub(crate) fn begin(
        client: &Rc<Client>,
        endpoint: usize,
        more_may_come: bool,
        talk: Talk,
    ) -> Self {
        let (client, talk) = (client.clone(), Rc::new(RefCell::new(talk)));
        let idle = client.take_idle(endpoint);
        let endpoint = u32::try_from(endpoint).expect("nobody names so many endpoints");
        let mut exchange = Self { client, talk, endpoint, more_may_come, on: On::Nothing };
        match idle {
            Some(key) => exchange.send(key, true),
            None => exchange.open(),
        }
        exchange
    }

    /// Index of the endpoint that it talks to.
    pub(crate) fn endpoint(&self) -> usize {
        self.endpoint as usize
    }

    /// When it is to end at the latest. It is polled then, but somebody else has to end it.
    pub(crate) fn until(&self) -> Nanos {
        self.talk.borrow().until
    }

    /// Ends it, and gives what happened.
    pub(crate) fn into_talk(self) -> Talk {
        let talk = self.talk.clone();
        drop(self);
        Rc::into_inner(talk).expect("the connection has let go of it").into_inner()
    }

    fn open(&mut self) {
        let (client, endpoint) = (self.client.clone(), self.endpoint());
        let until = self.talk.borrow().until;
        self.on = On::Opening(Box::pin(async move {
            tokio::select! {
                biased;
                opened = client.open(endpoint) => opened,
                // Whoever polls this sees then that its time is up.
                () = client.alarm.sleep_until(until) => std::future::pending().await,
            }
        }));
    }

    fn send(&mut self, key: usize, reused: bool) {
        if reused {
            self.talk.borrow_mut().connection = Connection::Reused;
        }
        self.client.send(self.endpoint(), key, self.more_may_come, &self.talk);
        let key = u32::try_from(key).expect("a process has fewer descriptors");
        self.on = On::Connection { key, reused };
    }

    /// Leaves its connection, which can be used again or cannot.
    fn leave(&mut self, reusable: bool) {
        if let On::Connection { key, .. } = std::mem::replace(&mut self.on, On::Nothing) {
            self.client.done(self.endpoint(), key as usize, reusable);
        }
    }
}

impl Future for Exchange {
    /// When it ended.
    type Output = Result<Nanos, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            let reused = match &mut this.on {
                On::Nothing => return Poll::Pending,
                On::Opening(opening) => {
                    let opened = ready!(opening.as_mut().poll(context))?;
                    this.send(opened.let_go(), false);
                    continue;
                }
                On::Connection { reused, .. } => *reused,
            };
            let talk = this.talk.clone();
            let mut talk = talk.borrow_mut();
            let Some(outcome) = talk.outcome.take() else {
                talk.waiting = Some(context.waker().clone());
                return Poll::Pending;
            };
            this.leave(outcome.is_ok() && talk.reader.keep_alive() && talk.is_written);
            return Poll::Ready(match outcome.map_err(|broken| *broken) {
                Ok(at) => talk.answer.end(at, None).map(|()| at),
                Err(Broken::Malformed(malformed)) => {
                    Err(Failure::new(FailureKind::BadStream, malformed.to_string()))
                }
                Err(Broken::Cut(reason)) => {
                    let now = this.client.shared.clock.now();
                    let crossed = talk.sent.is_none_or(|sent| now.saturating_sub(sent) < CROSSING);
                    // The server closed a kept connection before it saw this request. If it did so later, it had
                    // the request, and has failed.
                    if reused && !talk.reader.begun() && crossed {
                        talk.retries += 1;
                        drop(talk);
                        this.open();
                        continue;
                    }
                    talk.answer.end(now, Some(&reason)).map(|()| now)
                }
            });
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.leave(false);
    }
}
