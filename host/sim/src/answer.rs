//! Answering one request: generated, scripted or faulty, streamed or whole.

use std::future::pending;

use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::api::{self, ApiError, Ask, Dialect};
use crate::behavior::Behavior;
use crate::clock::monotonic_ns;
use crate::engine::{Demand, Engine, Running, Truth, unix_s};
use crate::events::{self, Envelope, Form, Said};
use crate::fault::{Fault, FaultError};
use crate::http::{Connection, Gone, Request, reason, response};
use crate::metrics::Finish;
use crate::quirk::Quirk;
use crate::script::{Act, Script};
use crate::tokens;
use crate::truth::TruthLine;

const NS_PER_MS: u64 = 1_000_000;

/// What to do with the connection afterwards.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum After {
    KeepIfAsked,
    Close,
}

/// Answers a request for an answer. `headers` are whole lines for the response head.
pub(crate) async fn answer(
    engine: &Engine,
    connection: &mut Connection,
    connection_number: u64,
    dialect: Dialect,
    request: Request,
    mut headers: String,
) -> Result<After, Gone> {
    let number = engine.count_request();
    let id = match (&request.request_id, dialect) {
        (Some(id), Dialect::Chat) => format!("chatcmpl-{id}"),
        (None, Dialect::Chat) => format!("chatcmpl-{number}"),
        (Some(id), Dialect::Completion) => format!("cmpl-{id}"),
        (None, Dialect::Completion) => format!("cmpl-{number}"),
    };
    let mut truth = Truth::new(
        engine,
        TruthLine {
            id,
            x_request_id: request.request_id,
            path: request.path,
            connection: connection_number,
            read_ns: request.read_ns,
            tokens_ns: Vec::new(),
            finished_ns: None,
            status: 200,
            input_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            fault: None,
            script: None,
        },
    );
    if let Some(script) = engine.next_script() {
        return play(engine, connection, &mut truth.line, script).await;
    }

    let mut rng = engine.request_rng(number);
    let fault = match request.fault {
        Some(text) => text.parse().map(Some).map_err(|error: FaultError| {
            ApiError::impossible(Some("x-sim-fault"), &format!("failed to {error}"))
        }),
        None => Ok(engine.draw_fault(&mut rng)),
    };
    let fault = match fault {
        Ok(fault) => fault,
        Err(error) => return refuse(connection, &mut truth.line, &error, &headers).await,
    };
    truth.line.fault = fault.map(|fault| fault.to_string());
    if let Some(Fault::SlowHeaders(ms)) = fault {
        let due_ns = request.read_ns + ms * NS_PER_MS;
        connection.unless_gone(engine.clock.until(due_ns)).await?;
    }
    if let Some(Fault::Http(status)) = fault {
        if status == 429 {
            headers.push_str("retry-after: 1\r\n");
        }
        return refuse(connection, &mut truth.line, &injected(status), &headers).await;
    }
    if engine.behavior.quirks.contains(&Quirk::Redirect) {
        headers.push_str(&format!("location: /elsewhere{}\r\n", truth.line.path));
        let error = ApiError::new(307, reason(307), None, "the model has moved");
        return refuse(connection, &mut truth.line, &error, &headers).await;
    }
    let ask = match api::read_ask(dialect, &request.body, &engine.behavior) {
        Ok(ask) => ask,
        Err(error) => return refuse(connection, &mut truth.line, &error, &headers).await,
    };

    truth.line.input_tokens = ask.prompt.len() as u32;
    let plan = Plan::new(engine, &ask, fault);
    let read_ns = request.read_ns;
    let demand = Demand { prompt: &ask.prompt, output: plan.words.len() as u32, read_ns };
    let running = engine.admit(connection, demand).await?;
    truth.line.cached_tokens = running.cached;
    let Behavior { model, quirks, .. } = &engine.behavior;
    let envelope = Envelope::new(&ask, &truth.line.id, unix_s(), model, quirks);
    let answer = Answer {
        engine,
        connection,
        headers,
        truth,
        running,
        ask,
        plan,
        envelope,
        rng,
        event_ns: read_ns,
        said: 0,
        text: String::new(),
        unsent: 0,
    };
    answer.generate().await
}

/// Sends a refusal.
pub(crate) async fn refuse(
    connection: &mut Connection,
    truth: &mut TruthLine,
    error: &ApiError,
    headers: &str,
) -> Result<After, Gone> {
    truth.status = error.status;
    truth.finished_ns = Some(monotonic_ns());
    let body = error.body.to_string();
    response(&mut connection.out, error.status, "application/json", headers, body.as_bytes());
    connection.send().await?;
    Ok(After::KeepIfAsked)
}

/// Plays a script.
async fn play(
    engine: &Engine,
    connection: &mut Connection,
    truth: &mut TruthLine,
    script: &Script,
) -> Result<After, Gone> {
    truth.script = Some(script.name.clone());
    connection.out.extend_from_slice(&script.head);
    connection.send().await?;
    for write in &script.writes {
        let due_ns = truth.read_ns + write.at_ns;
        connection.unless_gone(engine.clock.until(due_ns)).await?;
        match &write.act {
            Act::Chunk(chunk) => {
                truth.tokens_ns.push(monotonic_ns());
                connection.out.extend_from_slice(chunk);
                connection.send().await?;
            }
            Act::End => {
                truth.finished_ns = Some(monotonic_ns());
                connection.out.extend_from_slice(events::END);
                connection.send().await?;
            }
            Act::Close => return Ok(After::Close),
        }
    }
    Ok(After::KeepIfAsked)
}

/// The error of an injected status.
fn injected(status: u16) -> ApiError {
    let kind = match status {
        400 => "BadRequestError",
        500 => "InternalServerError",
        _ => reason(status),
    };
    ApiError::new(status, kind, None, "this error was asked for by `x-sim-fault` or a rate")
}

/// What will be generated, settled before it begins.
struct Plan {
    /// Indices into [`tokens::WORDS`].
    words: Vec<u8>,
    finish: Finish,
    /// Taken out when it strikes.
    fault: Option<Fault>,
    /// The token before which a fault half-way strikes; if there is none, it strikes at the end.
    middle: usize,
}

impl Plan {
    fn new(engine: &Engine, ask: &Ask, fault: Option<Fault>) -> Self {
        let mut rng = engine.answer_rng(&ask.prompt);
        let mean = engine.behavior.default_output_tokens;
        let natural = rng.random_range(mean.div_ceil(2)..=mean + mean / 2).max(ask.at_least);
        let (count, finish) = match fault {
            Some(Fault::Empty) => (0, Finish::Stop),
            _ if ask.ignore_eos || natural > ask.limit => (ask.limit, Finish::Length),
            _ => (natural, Finish::Stop),
        };
        let word = |_| (rng.next_u32() % tokens::WORDS.len() as u32) as u8;
        let words: Vec<u8> = (0..count).map(word).collect();
        let middle = (words.len() / 2).max(1);
        Self { words, finish, fault, middle }
    }

    fn word(&self, index: usize) -> &'static str {
        tokens::WORDS[usize::from(self.words[index])]
    }

    /// Appends the text of the tokens from one index to another.
    fn text(&self, from: usize, to: usize, text: &mut String) {
        for index in from..to {
            if index > 0 {
                text.push(' ');
            }
            text.push_str(self.word(index));
        }
    }
}

/// An answer under way.
struct Answer<'a> {
    engine: &'a Engine,
    connection: &'a mut Connection,
    headers: String,
    truth: Truth<'a>,
    running: Running<'a>,
    ask: Ask,
    plan: Plan,
    envelope: Envelope,
    rng: ChaCha8Rng,
    /// When the last tokens came; at first, when the request was read.
    event_ns: u64,
    /// Tokens whose text is in an event.
    said: usize,
    /// A place for texts of events.
    text: String,
    /// Events with text that are waiting to be sent.
    unsent: usize,
}

impl Answer<'_> {
    async fn generate(mut self) -> Result<After, Gone> {
        let mut due_ns = self.running.start_ns + self.time_to_first_ns();
        if self.ask.stream {
            self.envelope.head(&mut self.connection.out, &self.headers);
            let usage = self.usage_so_far(0);
            self.envelope.early(&mut self.connection.out, usage.as_ref());
            if monotonic_ns() < due_ns {
                self.send_part().await?;
            }
        }
        let count = self.plan.words.len();
        let per_chunk = self.engine.behavior.tokens_per_chunk as usize;
        let (mut from, mut waits) = (0, false);
        while from < count {
            let to = if from == 0 { 1 } else { count.min(from + per_chunk) };
            if from > 0 {
                // From the last due time, not from now: being late must not add up.
                due_ns += self.between_tokens_ns() * (to - from) as u64;
            }
            if from >= self.plan.middle
                && let Some(after) = self.strike(&mut due_ns).await?
            {
                return Ok(after);
            }
            self.connection.unless_gone(self.engine.clock.until(due_ns)).await?;
            // Every other event, where one of two has to wait for the next.
            waits = !waits && to < count;
            if self.ask.stream {
                if from == 0 && self.ask.dialect == Dialect::Chat && !self.has(Quirk::EarlyRole) {
                    let usage = self.usage_so_far(0);
                    self.envelope.role(&mut self.connection.out, "".into(), usage.as_ref());
                    self.send_part().await?;
                }
                self.say(from, to, waits && self.has(Quirk::PartialUtf8));
            }
            self.count_tokens(from, to);
            if self.ask.stream && !(waits && self.has(Quirk::JoinedEvents)) {
                self.send(false).await?;
            }
            from = to;
        }
        if let Some(after) = self.strike(&mut due_ns).await? {
            return Ok(after);
        }
        self.connection.unless_gone(self.engine.clock.until(due_ns)).await?;
        self.finish().await
    }

    fn has(&self, quirk: Quirk) -> bool {
        self.engine.behavior.quirks.contains(&quirk)
    }

    /// Appends the event of the tokens from one index to another; if they are no whole character,
    /// their text comes with the next.
    fn say(&mut self, from: usize, to: usize, partial: bool) {
        let count = self.plan.words.len();
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        if !partial {
            self.plan.text(self.said, to, &mut text);
            if self.has(Quirk::PartialUtf8) || self.has(Quirk::SplitEvents) {
                text.push('日');
            }
            self.said = to;
            self.unsent += 1;
        }
        let ends = to == count && !self.has(Quirk::FinishAlone);
        let usage = match self.usage_so_far(to) {
            None if ends && self.has(Quirk::UsageInLast) => self.usage_if_asked(),
            usage => usage,
        };
        let said = Said {
            text: &text,
            form: self.form(from),
            finish: ends.then(|| self.finish_reason()),
            usage: usage.as_ref(),
            long: self.has(Quirk::LongLine) && (from..to).contains(&(count / 2)),
        };
        self.envelope.text(&mut self.connection.out, &said);
        self.text = text;
    }

    /// What a token is part of.
    fn form(&self, token: usize) -> Form {
        let half = self.plan.words.len() / 2;
        let reasons = self.has(Quirk::Reasoning) || self.has(Quirk::ReasoningContent);
        match self.ask.dialect {
            Dialect::Chat if reasons && token < half => Form::Reasoning,
            Dialect::Chat if self.has(Quirk::ToolCalls) && token >= half => {
                Form::Call { first: token == half }
            }
            _ => Form::Answer,
        }
    }

    fn finish_reason(&self) -> &'static str {
        let calls = matches!(self.form(self.plan.words.len()), Form::Call { .. });
        if calls { "tool_calls" } else { self.plan.finish.name() }
    }

    /// Sends what was appended, and notes when: just before the write that makes it whole. `last` is
    /// the end of the answer.
    async fn send(&mut self, last: bool) -> Result<(), Gone> {
        if self.engine.behavior.one_write && !last {
            return Ok(());
        }
        if self.has(Quirk::SplitEvents) {
            let out = &self.connection.out;
            let character = out.windows(2).position(|pair| pair == "日".as_bytes()[..2].as_ref());
            // In the chunk's size, behind a byte of the character, in the empty line.
            let cuts = [1, character.map_or(out.len() / 2, |at| at + 1), out.len() - 3];
            let mut sent = 0;
            for cut in cuts.into_iter().filter(|&cut| cut > 0) {
                self.connection.send_first(cut - sent).await?;
                sent = cut;
                let soon_ns = monotonic_ns() + NS_PER_MS;
                self.connection.unless_gone(self.engine.clock.until(soon_ns)).await?;
            }
        }
        let now = monotonic_ns();
        let unsent = std::mem::take(&mut self.unsent);
        self.truth.line.tokens_ns.extend(std::iter::repeat_n(now, unsent));
        if last {
            self.truth.line.finished_ns = Some(now);
        }
        self.connection.send().await
    }

    /// Lets a fault that strikes half-way do so, once. Returns how it ended the answer, if it did.
    async fn strike(&mut self, due_ns: &mut u64) -> Result<Option<After>, Gone> {
        if self.unsent > 0 && self.plan.fault.is_some() {
            self.send(false).await?;
        }
        let after = match self.plan.fault {
            Some(Fault::Stall(ms)) => {
                *due_ns += ms * NS_PER_MS;
                None
            }
            Some(Fault::Cut) => {
                let out = &mut self.connection.out;
                if self.ask.stream {
                    out.extend_from_slice(b"ff\r\ndata: {\"id\":");
                } else {
                    let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                        content-length: 255\r\n\r\n{\"id\":";
                    out.extend_from_slice(head);
                }
                self.connection.send().await?;
                Some(After::Close)
            }
            Some(Fault::Reset) => {
                self.connection.reset_on_close();
                Some(After::Close)
            }
            Some(Fault::StreamError) => {
                self.running.finish = Finish::Error;
                let error = injected(500);
                if self.ask.stream {
                    self.envelope.data(&mut self.connection.out, &error.body);
                    self.send_part().await?;
                    self.end(true).await?;
                    Some(After::KeepIfAsked)
                } else {
                    let line = &mut self.truth.line;
                    Some(refuse(self.connection, line, &error, &self.headers).await?)
                }
            }
            Some(Fault::Crash) => {
                self.engine.stop();
                // The server now drops this connection along with all others.
                pending().await
            }
            _ => return Ok(None),
        };
        self.plan.fault = None;
        Ok(after)
    }

    /// What comes after the last token.
    async fn finish(mut self) -> Result<After, Gone> {
        self.running.finish = self.plan.finish;
        if self.engine.behavior.cache_blocks > 0 {
            let mut tokens = std::mem::take(&mut self.ask.prompt);
            let words = 0..self.plan.words.len();
            tokens.extend(words.map(|index| tokens::piece(self.plan.word(index).as_bytes())));
            self.engine.lock().cache.insert(&tokens);
        }
        self.running.leave();
        let fault = self.plan.fault;
        if self.ask.stream {
            if self.has(Quirk::FinishAlone) {
                let in_last = self.has(Quirk::UsageInLast);
                let usage = if in_last { self.usage_if_asked() } else { None };
                let (text, form, long) = ("", Form::Answer, false);
                let finish = Some(self.finish_reason());
                let said = Said { text, form, finish, usage: usage.as_ref(), long };
                self.envelope.text(&mut self.connection.out, &said);
            }
            if !self.has(Quirk::UsageInLast)
                && let Some(usage) = self.usage_if_asked()
            {
                self.envelope.usage(&mut self.connection.out, &usage);
                self.send_part().await?;
            }
            self.end(fault != Some(Fault::NoDone)).await?;
        } else {
            let mut text = String::new();
            self.plan.text(0, self.plan.words.len(), &mut text);
            let usage = self.usage(self.plan.words.len());
            let body = self.envelope.whole(&text, self.plan.finish.name(), &usage).to_string();
            let out = &mut self.connection.out;
            response(out, 200, "application/json", &self.headers, body.as_bytes());
            self.truth.line.finished_ns = Some(monotonic_ns());
            self.connection.send().await?;
        }
        Ok(if fault == Some(Fault::CloseIdle) { After::Close } else { After::KeepIfAsked })
    }

    /// Sends what was rendered of a stream, unless all of it is to go at its end.
    async fn send_part(&mut self) -> Result<(), Gone> {
        if self.engine.behavior.one_write { Ok(()) } else { self.connection.send().await }
    }

    /// Ends a stream. The end of the body goes with the last event.
    async fn end(&mut self, done: bool) -> Result<(), Gone> {
        self.envelope.end(&mut self.connection.out, done);
        self.send(true).await
    }

    fn count_tokens(&mut self, from: usize, to: usize) {
        let now = monotonic_ns();
        let after_ns = now - self.event_ns;
        self.event_ns = now;
        self.truth.line.output_tokens = to as u32;
        let metrics = &mut self.engine.lock().metrics;
        metrics.generation_tokens += (to - from) as u64;
        match from {
            0 => metrics.first_token(after_ns, self.ask.prompt.len()),
            _ => metrics.next_tokens(after_ns),
        }
    }

    fn usage(&self, completion: usize) -> Value {
        let prompt = self.truth.line.input_tokens;
        let cached = (self.engine.behavior.cache_blocks > 0).then_some(self.running.cached);
        let reasoning = (0..completion).filter(|&token| self.form(token) == Form::Reasoning);
        let reasoning = Some(reasoning.count() as u32).filter(|&count| count > 0);
        api::usage(prompt, completion as u32, cached, reasoning)
    }

    /// What every event has, if it was asked for or is sent unasked.
    fn usage_so_far(&self, completion: usize) -> Option<Value> {
        let continuous = self.ask.continuous_usage || self.has(Quirk::ContinuousUsage);
        (continuous && !self.has(Quirk::NoUsage)).then(|| self.usage(completion))
    }

    /// What the end has, if it was asked for.
    fn usage_if_asked(&self) -> Option<Value> {
        let wanted = self.ask.include_usage && !self.has(Quirk::NoUsage);
        wanted.then(|| self.usage(self.plan.words.len()))
    }

    fn time_to_first_ns(&mut self) -> u64 {
        let behavior = &self.engine.behavior;
        let uncached = self.truth.line.input_tokens - self.running.cached;
        let ms = behavior.ttft_ms + behavior.prefill_us_per_token * f64::from(uncached) / 1e3;
        self.jittered_ns(ms)
    }

    fn between_tokens_ns(&mut self) -> u64 {
        let behavior = &self.engine.behavior;
        let slope_ms = match behavior.itl_ms_per_running {
            0.0 => 0.0,
            slope_ms => slope_ms * (self.engine.lock().metrics.running - 1) as f64,
        };
        self.jittered_ns(behavior.itl_ms + slope_ms)
    }

    fn jittered_ns(&mut self, ms: f64) -> u64 {
        let factor = match self.engine.behavior.jitter {
            0.0 => 1.0,
            jitter => 1.0 + jitter * self.rng.random_range(-1.0..=1.0),
        };
        (ms * 1e6 * factor).round() as u64
    }
}
