//! One session on a load thread: its turns in order, each when it is due, each answer kept for
//! those that quote it, each request's record handed to the journal.

use crate::answer::{Answer, Keep, Texts};
use crate::api::{self, Past};
use crate::exchange::{Exchange, Talk};
use crate::hide;
use crate::journal::Note;
use crate::plan::{Api, Nanos, Pacing, Prompt, Session, Target};
use crate::prepare::{self, Message, PrepareError};
use crate::run::{NotFound, Shared};
use crate::stage::{StageNow, is_closed};
use crate::worker::Worker;
use records::{EndReason, Entry, Failure, FailureKind, Record, UsageSource};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use tokio::sync::{Semaphore, SemaphorePermit, watch};

/// A session that is ready to be sent, and how far it has come.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) session: Box<Session>,
    /// Index of the endpoint that it talks to.
    pub(crate) endpoint: usize,
    /// When the schedule wants it to start. None: a closed loop.
    pub(crate) due: Option<Nanos>,
    /// Index of the turn that comes next.
    next: usize,
    /// Its request as it goes over the wire, once it is ready.
    message: Option<Message>,
    /// The answers to the turns before.
    answers: Vec<String>,
    clock: TurnClock,
}

impl Job {
    /// Makes a session ready. None: it is impossible, and the run has been ended for it.
    pub(crate) fn prepare(shared: &Shared, session: Box<Session>) -> Option<Box<Self>> {
        let mut job = Box::new(Self {
            endpoint: session.endpoint.unwrap_or_else(|| shared.next_endpoint()),
            session,
            due: None,
            next: 0,
            message: None,
            answers: Vec::new(),
            clock: TurnClock::default(),
        });
        if !job.make_message(shared) {
            return None;
        }
        if let [only] = &mut job.session.turns[..]
            && !matches!(only.request.prompt, Prompt::Raw(_))
        {
            // It is in the message, and no later turn quotes it.
            only.request.prompt = Prompt::Text(String::new());
        }
        Some(job)
    }

    /// Makes the next request ready, if it is not. False: it is impossible, and the run has been
    /// ended for it.
    fn make_message(&mut self, shared: &Shared) -> bool {
        if self.message.is_some() {
            return true;
        }
        let target = &shared.plan.target;
        let (before, rest) = self.session.turns.split_at(self.next);
        let past = Past { turns: before, answers: &self.answers };
        let made = match rest.first() {
            Some(turn) => {
                prepare::message(target, &target.endpoints[self.endpoint], &turn.request, past)
            }
            None => Err(PrepareError::Empty),
        };
        match made {
            Ok(message) => self.message = Some(message),
            Err(error) => refuse(shared, self.session.id, self.next, &error),
        }
        self.message.is_some()
    }

    /// When the next turn starts.
    fn start(&self, stage: &StageNow) -> Nanos {
        let pacing = self.session.turns[self.next].pacing;
        stage.on_quantum(self.clock.start_of(pacing))
    }
}

fn refuse(shared: &Shared, session: u64, turn: usize, error: &PrepareError) {
    let message = format!("the workload's session {session}, turn {turn}, cannot be sent: {error}");
    shared.end(EndReason::PluginFailed, message, false);
}

/// Plays a session. Whether there was a connection for all that it sent.
///
/// There may be very many at a time, nearly all of them in their last or only turn, waiting for an
/// answer: what is not needed then is dropped before, or boxed while it is. It is no `async fn`,
/// which would keep its arguments twice.
pub(crate) fn play(
    worker: Rc<Worker>,
    stage: impl Deref<Target = StageNow>,
    job: Box<Job>,
) -> impl Future<Output = bool> {
    let mut left = Some(job);
    let mut waited = false;
    async move {
        let places = stage.session_places.as_ref();
        let Some(_place) = place(&worker, &stage, places, true, &mut waited).await else {
            return true;
        };
        if let Some(job) = &mut left {
            job.clock = TurnClock::new(job.due, worker.shared.clock.now());
        }
        while let Some(job) = &mut left {
            let first = job.next == 0;
            if !job.make_message(&worker.shared) {
                return true;
            }
            let start = job.start(&stage);
            if start > worker.shared.clock.now() {
                let sleep = until_close(&worker, &stage, worker.alarm.sleep_until(start));
                if Box::pin(sleep).await.is_none() {
                    return true;
                }
            }
            if !first && !stage.start_request() {
                return true;
            }
            // The first turn has waited for the session's place, too.
            let mut held = first && waited;
            let places = stage.request_places.as_ref();
            let Some(_place) = place(&worker, &stage, places, first, &mut held).await else {
                return true;
            };
            let asked = Asked::new(job, &worker.shared.plan.target, start, held);
            let Some(mut under_way) = UnderWay::begin(&worker, &stage, job, asked) else {
                return true;
            };
            if first {
                stage.first_turns_sent.fetch_add(1, Relaxed);
            }
            job.next += 1;
            if job.next == job.session.turns.len() {
                left = None;
            }
            let outcome = (&mut under_way).await;
            let is_connected =
                outcome.as_ref().err().is_none_or(|failure| !failure.kind.is_of_connecting());
            let Some(ended) = under_way.end(outcome) else { return is_connected };
            if let Some(job) = &mut left {
                job.clock.ended(ended.counts_from, ended.finished);
                job.answers.push(ended.text);
            }
        }
        true
    }
}

/// When the turns of a session start.
#[derive(Debug, Default)]
struct TurnClock {
    session_start: Nanos,
    before_start: Nanos,
    before_end: Nanos,
}

impl TurnClock {
    fn new(due: Option<Nanos>, now: Nanos) -> Self {
        let start = due.unwrap_or(now);
        Self { session_start: start, before_start: start, before_end: start }
    }

    fn start_of(&self, pacing: Pacing) -> Nanos {
        let (from, after) = match pacing {
            Pacing::AfterPreviousEnd(after) => (self.before_end, after),
            Pacing::AfterPreviousStart(after) => (self.before_start, after),
            Pacing::At(after) => (self.session_start, after),
        };
        from.saturating_add(after).max(self.before_end)
    }

    fn ended(&mut self, started: Nanos, finished: Nanos) {
        self.before_start = started;
        self.before_end = finished;
    }
}

/// A turn that ended well.
struct Ended {
    /// When it was to start: what counts for the turns after it, or the lateness of every turn would
    /// add to that of the next ones. One that was kept waiting on purpose has moved them all.
    counts_from: Nanos,
    finished: Nanos,
    text: String,
}

/// What a request's record says before it is sent, and what is done with its answer.
struct Asked {
    session: u64,
    user: u64,
    turn: u32,
    /// When it was to start.
    start: Nanos,
    /// A schedule said so.
    scheduled: bool,
    /// It was kept waiting on purpose.
    held: bool,
    input_tokens: Option<u32>,
    output_tokens: Option<u32>,
    api: Api,
    /// A later turn quotes the answer.
    quoted: bool,
    rare: Option<Box<Rare>>,
}

/// What few requests say.
#[derive(Default, PartialEq)]
struct Rare {
    cancel_after: Option<Nanos>,
    model: Option<String>,
    path: Option<String>,
    labels: BTreeMap<String, String>,
}

impl Asked {
    /// Of the next turn of a session.
    fn new(job: &Job, target: &Target, start: Nanos, held: bool) -> Self {
        let session = &*job.session;
        let request = &session.turns[job.next].request;
        let api = api::of(target, request);
        let path = Some(api::path(target, request)).filter(|&path| path != api::path_of(api));
        let mut labels = session.labels.clone();
        labels.extend(request.labels.clone());
        let rare = Rare {
            cancel_after: request.cancel_after,
            model: request.model.clone().filter(|model| *model != target.model),
            path: path.map(str::to_owned),
            labels,
        };
        Self {
            session: session.id,
            user: session.user,
            turn: u32::try_from(job.next).unwrap_or(u32::MAX),
            start,
            scheduled: job.due.is_some(),
            held,
            input_tokens: request.asked_input_tokens,
            output_tokens: request.max_output_tokens,
            api,
            quoted: api::is_quoted(&session.turns, job.next),
            rare: (rare != Rare::default()).then(|| Box::new(rare)),
        }
    }

    fn cancel_after(&self) -> Option<Nanos> {
        self.rare.as_ref()?.cancel_after
    }

    fn due(&self) -> Option<Nanos> {
        self.scheduled.then_some(self.start)
    }

    fn wanted(&self) -> Option<Nanos> {
        let later_turn = !self.scheduled && self.turn > 0;
        (later_turn && !self.held).then_some(self.start)
    }
}

/// A request under way. Gives when its answer ended, or what ended it before.
struct UnderWay<'a> {
    worker: &'a Worker,
    stage: &'a StageNow,
    asked: Asked,
    id: u64,
    started: Nanos,
    exchange: Exchange,
}

impl<'a> UnderWay<'a> {
    /// Sends the next request of a session. None: none may start any more.
    fn begin(worker: &'a Worker, stage: &'a StageNow, job: &mut Job, asked: Asked) -> Option<Self> {
        let shared = &worker.shared;
        let message = job.message.take().filter(|_| stage.is_open())?;
        shared.live.sent.fetch_add(1, Relaxed);
        shared.live.in_flight.fetch_add(1, Relaxed);
        let keep = if shared.plan.count_tokens.is_some() {
            // Whether the server counts is known at the end only.
            Keep::All
        } else if asked.quoted {
            Keep::Answer
        } else {
            Keep::Nothing
        };
        let streamed = job.session.turns[job.next].request.streamed;
        let answer = Answer::new(asked.api, streamed, keep);
        let limit = shared.plan.request_timeout;
        let limit = asked.cancel_after().map_or(limit, |after| after.min(limit));
        let (id, started) = (shared.numbers.next(), shared.clock.now());
        let talk = Talk::new(message.numbered(id), answer, started.saturating_add(limit));
        let more_may_come = !is_closed(&stage.plan);
        let exchange = Exchange::begin(&worker.client, job.endpoint, more_may_come, talk);
        Some(Self { worker, stage, asked, id, started, exchange })
    }

    fn too_long(&self) -> Failure {
        let limit = self.worker.shared.plan.request_timeout;
        match self.asked.cancel_after().filter(|&after| after < limit) {
            Some(after) => {
                let text =
                    format!("broken off after {} ms, as the workload asked", after / 1_000_000);
                Failure::new(FailureKind::Cancelled, text)
            }
            None => {
                let text = format!("no whole answer within {} s", limit as f64 / 1e9);
                Failure::new(FailureKind::Timeout, text)
            }
        }
    }

    /// Records what happened. None: it failed.
    fn end(self, outcome: Result<Nanos, Failure>) -> Option<Ended> {
        let Self { worker, stage, asked, id, started, exchange } = self;
        let shared = &worker.shared;
        let finished = match outcome {
            Ok(finished) => finished,
            Err(_) => shared.clock.now(),
        };
        let endpoint = exchange.endpoint();
        let talk = exchange.into_talk();
        shared.live.in_flight.fetch_sub(1, Relaxed);
        let settled = stage.begin.saturating_add(stage.plan.settle);
        let (due, wanted) = (asked.due(), asked.wanted());
        let Rare { model, path, labels, .. } = asked.rare.map(|rare| *rare).unwrap_or_default();
        let mut record = Box::new(Record {
            id,
            session: asked.session,
            user: asked.user,
            turn: asked.turn,
            stage: stage.index,
            warmup: stage.plan.warm_up || due.unwrap_or(started) < settled,
            due,
            wanted,
            started,
            sent: talk.sent,
            finished,
            asked_input_tokens: asked.input_tokens,
            asked_output_tokens: asked.output_tokens,
            connection: talk.connection,
            retries: talk.retries.into(),
            error: outcome.err().map(|Failure { kind, message }| {
                Failure::new(kind, hide::secrets(&shared.plan.target, message)).cut()
            }),
            model,
            labels,
            ..Record::default()
        });
        let texts = talk.answer.into_record(&mut record);
        if record.status == 404 && shared.live.succeeded.load(Relaxed) == 0 {
            let path = path.as_deref().unwrap_or_else(|| api::path_of(asked.api));
            let url = shared.plan.target.endpoints[endpoint].url(path);
            let body = record.error.as_ref().map_or_else(String::new, |e| e.message.clone());
            shared.not_found(NotFound { url, body });
        }
        let text = match asked.quoted {
            true => texts.answer.clone().unwrap_or_default(),
            false => String::new(),
        };
        let counts_from = if asked.held { started } else { asked.start };
        let ended = Ended { counts_from, finished, text };
        keep(worker, stage, record, texts).then_some(ended)
    }
}

impl Future for UnderWay<'_> {
    type Output = Result<Nanos, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(outcome) = Pin::new(&mut self.exchange).poll(context) {
            return Poll::Ready(outcome);
        }
        if self.stage.is_cancelled() {
            let text = "broken off when load stopped";
            return Poll::Ready(Err(Failure::new(FailureKind::Cancelled, text)));
        }
        if self.worker.shared.clock.now() >= self.exchange.until() {
            return Poll::Ready(Err(self.too_long()));
        }
        Poll::Pending
    }
}

/// Counts and journals a record. Whether it ended well.
fn keep(worker: &Worker, stage: &StageNow, record: Box<Record>, texts: Texts) -> bool {
    let ok = record.error.is_none();
    worker.shared.live.ended(worker.index, &record);
    stage.last_end.fetch_max(record.finished, Relaxed);
    if !ok {
        stage.failed();
    }
    worker.journal(match texts {
        Texts { answer: Some(answer), reasoning: Some(reasoning) }
            if ok && record.usage == UsageSource::None =>
        {
            Note::Uncounted { record, texts: [reasoning, answer] }
        }
        _ => Note::Entry(Entry::Record(record)),
    });
    ok
}

/// A place under a limit; at once, with no place to give back, where there is no limit. The first turn
/// of a session that has to wait is counted, whether it is ever sent or not. None: the stage closed
/// before there was a place.
async fn place<'a>(
    worker: &Worker,
    stage: &StageNow,
    places: Option<&'a Semaphore>,
    first: bool,
    waited: &mut bool,
) -> Option<Option<SemaphorePermit<'a>>> {
    let Some(places) = places else { return Some(None) };
    if let Ok(place) = places.try_acquire() {
        return Some(Some(place));
    }
    if first && !*waited {
        stage.capped.fetch_add(1, Relaxed);
    }
    *waited = true;
    Box::pin(until_close(worker, stage, places.acquire())).await?.ok().map(Some)
}

/// What `wait` gives, unless the stage lets nothing start any more before it does.
async fn until_close<T>(
    worker: &Worker,
    stage: &StageNow,
    wait: impl Future<Output = T>,
) -> Option<T> {
    before_close(&mut stage.closing(worker.index), wait).await
}

/// What `wait` gives, unless a stage lets nothing start any more before it does.
pub(crate) async fn before_close<T>(
    closing: &mut watch::Receiver<bool>,
    wait: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        _ = closing.wait_for(|&closed| closed) => None,
        value = wait => Some(value),
    }
}
