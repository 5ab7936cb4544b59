//! One session on a load thread: its turns in order, each when it is due, each answer kept for
//! those that quote it, each request's record handed to the journal.

use crate::answer::{Answer, Keep, Texts};
use crate::api::{self, Past};
use crate::client::Talk;
use crate::hide;
use crate::journal::Note;
use crate::plan::{Nanos, Pacing, Prompt, Session, Target};
use crate::prepare;
use crate::run::{NotFound, Shared};
use crate::stage::{Phase, StageNow, is_closed};
use crate::worker::Worker;
use records::{EndReason, Entry, Failure, FailureKind, Record, UsageSource};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

/// A session that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) session: Box<Session>,
    /// Its first request, as it goes over the wire.
    pub(crate) first: prepare::Message,
    /// Index of the endpoint that it talks to.
    pub(crate) endpoint: usize,
    /// When the schedule wants it to start. None: a closed loop.
    pub(crate) due: Option<Nanos>,
}

impl Job {
    /// Makes a session ready. None: it is impossible, and the run has been ended for it.
    pub(crate) fn prepare(
        shared: &Shared,
        mut session: Box<Session>,
        due: Option<Nanos>,
    ) -> Option<Box<Self>> {
        let target = &shared.plan.target;
        let endpoint = shared.next_endpoint();
        match prepare::first(target, &target.endpoints[endpoint], &session) {
            Ok(first) => {
                if let [only] = &mut session.turns[..]
                    && !matches!(only.request.prompt, Prompt::Raw(_))
                {
                    // It is in the message, and no later turn quotes it.
                    only.request.prompt = Prompt::Text(String::new());
                }
                Some(Box::new(Self { session, first, endpoint, due }))
            }
            Err(error) => {
                refuse(shared, session.id, 0, &error);
                None
            }
        }
    }
}

fn refuse(shared: &Shared, session: u64, turn: usize, error: &prepare::PrepareError) {
    let message = format!("the workload's session {session}, turn {turn}, cannot be sent: {error}");
    shared.end(EndReason::PluginFailed, message, false);
}

/// Plays a session.
pub(crate) async fn play(worker: &Worker, stage: &StageNow, job: Box<Job>) {
    let Job { session, first, endpoint, due } = *job;
    let mut phase = stage.phase(worker.index);
    let mut waited = false;
    let Some(_place) = place(stage.session_places.as_ref(), &mut phase, &mut waited).await else {
        return;
    };
    let shared = &worker.shared;
    let mut first = Some(first);
    let mut clock = TurnClock::new(due, shared.clock.now());
    let mut answers: Vec<String> = Vec::new();
    for (index, turn) in session.turns.iter().enumerate() {
        let message = first.take().map_or_else(
            || {
                let target = &shared.plan.target;
                let past = Past { turns: &session.turns[..index], answers: &answers };
                prepare::message(target, &target.endpoints[endpoint], &turn.request, past)
            },
            Ok,
        );
        let message = match message {
            Ok(message) => message,
            Err(error) => return refuse(shared, session.id, index, &error),
        };
        let start = stage.on_quantum(clock.start_of(turn.pacing));
        let sleeping = worker.alarm.sleep_until(start);
        if before_close(&mut phase, sleeping).await.is_none()
            || (index > 0 && !stage.start_request())
        {
            return;
        }
        // The first turn has waited for the session's place, too.
        let mut held = index == 0 && waited;
        let place = place(stage.request_places.as_ref(), &mut phase, &mut held).await;
        let (Some(_place), true) = (place, stage.is_open()) else { return };
        waited |= held;
        if index == 0 {
            stage.first_turns_sent.fetch_add(1, Relaxed);
            stage.capped.fetch_add(u64::from(waited), Relaxed);
        }
        let exchange =
            Exchange { worker, stage, session: &session, index, endpoint, due: due.map(|_| start) };
        let Some(ended) = exchange.run(message, &mut phase).await else { return };
        // The planned start counts, or the lateness of every turn would add to that of the next
        // ones. A turn that was kept waiting on purpose has moved them all.
        clock.ended(if held { ended.started } else { start }, ended.finished);
        answers.push(ended.text);
    }
}

/// When the turns of a session start.
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
    started: Nanos,
    finished: Nanos,
    text: String,
}

struct Exchange<'a> {
    worker: &'a Worker,
    stage: &'a StageNow,
    session: &'a Session,
    index: usize,
    endpoint: usize,
    due: Option<Nanos>,
}

impl Exchange<'_> {
    /// Sends the request and records what happened. None: it failed.
    async fn run(
        &self,
        message: prepare::Message,
        phase: &mut watch::Receiver<Phase>,
    ) -> Option<Ended> {
        let shared = &self.worker.shared;
        let request = &self.session.turns[self.index].request;
        let keep = self.text_to_keep();
        let api = api::of(&shared.plan.target, request);
        shared.live.sent.fetch_add(1, Relaxed);
        let (id, started) = (shared.numbers.next(), shared.clock.now());
        let talk = Talk::new(message.numbered(id), Answer::new(api, request.streamed, keep));
        let talk = Rc::new(RefCell::new(talk));
        let more_may_come = !is_closed(&self.stage.plan);
        shared.live.in_flight.fetch_add(1, Relaxed);
        let outcome = tokio::select! {
            biased;
            outcome = self.worker.client.exchange(self.endpoint, more_may_come, &talk) => outcome,
            failure = interruption(self.worker, request.cancel_after, phase) => Err(failure),
        };
        let finished = match outcome {
            Ok(finished) => finished,
            Err(_) => shared.clock.now(),
        };
        let talk = Rc::into_inner(talk).expect("the connection has let go of it").into_inner();
        shared.live.in_flight.fetch_sub(1, Relaxed);
        let mut record = Box::new(Record {
            sent: talk.sent,
            finished,
            connection: talk.connection,
            retries: talk.retries,
            error: outcome.err().map(|failure| Failure {
                message: hide::secrets(&shared.plan.target, failure.message),
                ..failure
            }),
            ..self.record(id, started)
        });
        let texts = talk.answer.into_record(&mut record);
        let text = match self.is_quoted() {
            true => texts.answer.clone().unwrap_or_default(),
            false => String::new(),
        };
        let ended = Ended { started, finished, text };
        self.keep(record, texts).then_some(ended)
    }

    fn is_quoted(&self) -> bool {
        api::is_quoted(&self.session.turns, self.index)
    }

    fn text_to_keep(&self) -> Keep {
        if self.worker.shared.plan.count_tokens.is_some() {
            // Whether the server counts is known at the end only.
            Keep::All
        } else if self.is_quoted() {
            Keep::Answer
        } else {
            Keep::Nothing
        }
    }

    /// A record with all that is known before the request is sent.
    fn record(&self, id: u64, started: Nanos) -> Record {
        let shared = &self.worker.shared;
        let (session, stage) = (self.session, self.stage);
        let request = &session.turns[self.index].request;
        let settled = stage.begin.saturating_add(stage.plan.settle);
        let mut labels = session.labels.clone();
        labels.extend(request.labels.clone());
        let target: &Target = &shared.plan.target;
        Record {
            id,
            session: session.id,
            user: session.user,
            turn: u32::try_from(self.index).unwrap_or(u32::MAX),
            stage: stage.index,
            warmup: stage.plan.warm_up || self.due.unwrap_or(started) < settled,
            due: self.due,
            started,
            asked_input_tokens: request.asked_input_tokens,
            asked_output_tokens: request.max_output_tokens,
            model: request.model.clone().filter(|model| *model != target.model),
            labels,
            ..Record::default()
        }
    }

    /// Counts and journals a record. Whether it ended well.
    fn keep(&self, record: Box<Record>, texts: Texts) -> bool {
        let shared = &self.worker.shared;
        let ok = record.error.is_none();
        shared.live.ended(self.worker.index, &record);
        self.stage.last_end.fetch_max(record.finished, Relaxed);
        if !ok {
            self.stage.failed();
        }
        if record.status == 404 && shared.live.succeeded.load(Relaxed) == 0 {
            let target = &shared.plan.target;
            let request = &self.session.turns[self.index].request;
            let url = target.endpoints[self.endpoint].url(&api::path(target, request));
            let body = record.error.as_ref().map_or_else(String::new, |e| e.message.clone());
            shared.not_found(NotFound { url, body });
        }
        self.worker.journal(match texts {
            Texts { answer: Some(answer), reasoning: Some(reasoning) }
                if ok && record.usage == UsageSource::None =>
            {
                Note::Uncounted { record, texts: [reasoning, answer] }
            }
            _ => Note::Entry(Entry::Record(record)),
        });
        ok
    }
}

/// Waits for what ends a request from outside.
async fn interruption(
    worker: &Worker,
    cancel_after: Option<Nanos>,
    phase: &mut watch::Receiver<Phase>,
) -> Failure {
    let limit = worker.shared.plan.request_timeout;
    let asked = cancel_after.filter(|&after| after < limit);
    let until = worker.shared.clock.now().saturating_add(asked.unwrap_or(limit));
    tokio::select! {
        _ = phase.wait_for(|&phase| phase == Phase::Cancelled) => {
            Failure::new(FailureKind::Cancelled, "broken off when load stopped")
        }
        () = worker.alarm.sleep_until(until) => match asked {
            Some(after) => {
                let text = format!("broken off after {} ms, as the workload asked", after / 1_000_000);
                Failure::new(FailureKind::Cancelled, text)
            }
            None => {
                let text = format!("no whole answer within {} s", limit as f64 / 1e9);
                Failure::new(FailureKind::Timeout, text)
            }
        },
    }
}

/// A place under a limit; at once, with no place to give back, where there is no limit. None: the
/// stage closed first.
async fn place<'a>(
    places: Option<&'a Semaphore>,
    phase: &mut watch::Receiver<Phase>,
    waited: &mut bool,
) -> Option<Option<SemaphorePermit<'a>>> {
    let Some(places) = places else { return Some(None) };
    if let Ok(place) = places.try_acquire() {
        return Some(Some(place));
    }
    *waited = true;
    before_close(phase, places.acquire()).await?.ok().map(Some)
}

/// What `wait` gives, unless the stage lets nothing start any more before it does.
pub(crate) async fn before_close<T>(
    phase: &mut watch::Receiver<Phase>,
    wait: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        _ = phase.wait_for(|&phase| phase >= Phase::Draining) => None,
        value = wait => Some(value),
    }
}
