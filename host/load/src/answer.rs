//! [`Answer`]: reads the body of an answer as it comes, keeps the facts, and judges its end. Pure.

use crate::api::{self, Output, Piece, Usage};
use crate::http::{Head, Malformed, Part, Reader};
use crate::plan::{Api, Nanos};
use crate::sse::{Event, Splitter};
use crate::template::{Said, Templates};
use crate::times::Times;
use records::{Failure, FailureKind, Record, UsageSource};

/// The media type of a stream of events.
const STREAM: &str = "text/event-stream";
/// Of an error body so much is looked at; a message is cut further when it is recorded.
const LONGEST_ERROR: usize = 64 * 1024;
/// Bytes of an event, or of an answer in one piece, that are kept: what is longer is no answer of a model.
const LONGEST: usize = 64 << 20;

/// An answer under way. There may be very many at a time: what few have, or have at their end only,
/// is boxed.
#[derive(Debug)]
pub(crate) struct Answer {
    facts: Facts,
    body: Body,
    streamed: bool,
    /// HTTP status. 0: none has come.
    status: u16,
    first_byte: Option<Nanos>,
}

#[derive(Debug)]
enum Body {
    /// Events of a stream.
    Events(Splitter),
    /// JSON, read at its end.
    Whole(Vec<u8>),
    /// Of a failed request, or of another type than was asked for; its beginning.
    Other(Vec<u8>),
}

/// What the pieces of the answer said.
#[derive(Debug)]
struct Facts {
    api: Api,
    finished: bool,
    done: bool,
    /// Some output was seen; in a whole answer it has no arrival.
    output: bool,
    /// When each chunk of output arrived.
    chunks: Times,
    /// Which of the chunks was the first that was not reasoning.
    first_answer: Option<u32>,
    more: Option<Box<More>>,
}

/// What few answers have, or have at their end only.
#[derive(Debug, Default)]
struct More {
    /// The head, where it says more than that all is well.
    head: Option<Box<Head>>,
    usage: Option<Usage>,
    counts: Counts,
    /// The server says that something is wrong; what it said first.
    server_error: Option<String>,
    /// What it says cannot be understood; the first of that.
    bad: Option<String>,
    texts: Texts,
}

/// Tokens by the running counts of a server.
#[derive(Debug, Default)]
struct Counts {
    /// In each chunk; judged at the end.
    chunk_tokens: Vec<u32>,
    /// In all, by the last count that came with output.
    total: u32,
}

/// What is kept of an answer's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    Nothing,
    /// The answer, for a later turn.
    Answer,
    /// All that the model generated, for its tokens to be counted.
    All,
}

/// The texts of an answer.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    /// None: not kept.
    pub(crate) answer: Option<String>,
    /// None: not kept, or the two are not all that was generated.
    pub(crate) reasoning: Option<String>,
}

impl Texts {
    fn kept(keep: Keep) -> Self {
        let (answer, reasoning) = (keep != Keep::Nothing, keep == Keep::All);
        Self { answer: answer.then(String::new), reasoning: reasoning.then(String::new) }
    }

    fn add(&mut self, piece: &Piece<'_>) {
        if piece.calls {
            self.reasoning = None;
        }
        if let Some(answer) = &mut self.answer {
            answer.push_str(&piece.text);
        }
        if let Some(reasoning) = &mut self.reasoning {
            reasoning.push_str(&piece.reasoning);
        }
    }
}

impl Answer {
    /// An answer to come.
    pub(crate) fn new(api: Api, streamed: bool, keep: Keep) -> Self {
        let texts = || Box::new(More { texts: Texts::kept(keep), ..More::default() });
        Self {
            facts: Facts {
                api,
                finished: false,
                done: false,
                output: false,
                chunks: Times::default(),
                first_answer: None,
                more: (keep != Keep::Nothing).then(texts),
            },
            body: Body::Whole(Vec::new()),
            streamed,
            status: 0,
            first_byte: None,
        }
    }

    /// Takes what a read has brought that arrived at `at`. Whether the answer is complete.
    pub(crate) fn take(
        &mut self,
        reader: &mut Reader,
        templates: &mut Templates,
        mut input: &[u8],
        at: Nanos,
    ) -> Result<bool, Malformed> {
        loop {
            self.take_known(reader, templates, &mut input, at);
            match reader.next(&mut input)? {
                Part::Head(head) => self.head(head),
                Part::Body(bytes) => self.body(bytes, at, templates)?,
                Part::End => return Ok(true),
                Part::More => return Ok(false),
            }
        }
    }

    /// Takes events off the front of `input` that have a known shape and lie whole in a chunk each: nearly
    /// all of a stream.
    fn take_known(
        &mut self,
        reader: &Reader,
        templates: &mut Templates,
        input: &mut &[u8],
        at: Nanos,
    ) {
        if !matches!(&self.body, Body::Events(splitter) if splitter.is_between()) {
            return;
        }
        while let Some((chunk, rest)) = reader.whole_chunk(input)
            && let Some(event) = whole_event(chunk)
            && let Some(said) = templates.read(self.facts.api, event)
        {
            self.first_byte.get_or_insert(at);
            self.facts.said(said, at);
            *input = rest;
        }
    }

    fn head(&mut self, head: Box<Head>) {
        self.status = head.status;
        let is_good = self.is_good() && head.content_encoding.is_none();
        self.body = if !is_good {
            Body::Other(Vec::new())
        } else if self.streamed {
            Body::Events(Splitter::default())
        } else {
            Body::Whole(Vec::new())
        };
        let is_plain = is_good && (!self.streamed || head.content_type == STREAM);
        if !is_plain {
            self.facts.more().head = Some(head);
        }
    }

    fn body(
        &mut self,
        bytes: &[u8],
        at: Nanos,
        templates: &mut Templates,
    ) -> Result<(), Malformed> {
        // Some servers name no content type, or a wrong one; but no stream begins like JSON.
        if self.first_byte.is_none() && bytes.first() == Some(&b'{') && self.streamed {
            self.body = Body::Other(Vec::new());
        }
        self.first_byte.get_or_insert(at);
        match &mut self.body {
            Body::Events(splitter) => {
                splitter.feed(bytes, |event| self.facts.event(event, at, templates));
                if splitter.held() > LONGEST {
                    return Err(Malformed::Endless("an event of the answer"));
                }
            }
            Body::Whole(body) if body.len() > LONGEST => {
                return Err(Malformed::Endless("the answer"));
            }
            Body::Whole(body) => body.extend_from_slice(bytes),
            Body::Other(body) => {
                let room = LONGEST_ERROR.saturating_sub(body.len());
                body.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
        }
        Ok(())
    }

    /// Output chunks that have arrived.
    pub(crate) fn chunks(&self) -> usize {
        self.facts.chunks.len()
    }

    /// Judges the answer once its body has ended: `complete`, or cut off for this reason.
    pub(crate) fn end(&mut self, at: Nanos, cut: Option<&str>) -> Result<(), Failure> {
        let fail = |kind, message: String| Err(Failure::new(kind, message));
        let is_good = self.is_good();
        let facts = &mut self.facts;
        let mut half = false;
        match &mut self.body {
            // Whatever lies behind the last whole event of a stream that was cut is no event.
            Body::Events(_) if cut.is_some() => {}
            Body::Events(splitter) => {
                let bad = facts.more().bad.take();
                splitter.end(|event| facts.event(event, at, &mut Templates::default()));
                half = facts.more().bad.take().is_some();
                facts.more().bad = bad;
            }
            Body::Whole(body) if cut.is_none() => facts.whole(body),
            Body::Whole(_) => {}
            Body::Other(body) if !is_good && self.status != 0 => {
                let text = refusal(self.status, facts.more().head.as_deref(), body);
                return fail(FailureKind::HttpStatus, text);
            }
            Body::Other(body) => {
                if let Some(coding) = compression(facts.more().head.as_deref()) {
                    let text = format!(
                        "the answer is {coding}, which holds tokens back; switch compression off \
                         at the server or the proxy before it"
                    );
                    return fail(FailureKind::BadStream, text);
                }
                match api::read(facts.api, body).ok().and_then(|piece| piece.error) {
                    Some(error) => facts.more().server_error = Some(error),
                    None => {
                        let text = "the server answered with JSON where a stream was asked for";
                        facts.more().bad.get_or_insert(text.to_owned());
                    }
                }
            }
        }
        if let Some(error) = facts.more().server_error.take() {
            return fail(FailureKind::ServerError, error);
        }
        if let Some(bad) = facts.more().bad.take() {
            return fail(FailureKind::BadStream, bad);
        }
        if let Some(reason) = cut {
            return fail(FailureKind::StreamCut, reason.to_owned());
        }
        if half {
            let text = "the stream ended in the middle of an event";
            return fail(FailureKind::StreamCut, text.to_owned());
        }
        if !facts.output {
            let kind = facts.more().head.as_deref().map_or("", |head| &head.content_type);
            let is_odd = self.streamed && !["", STREAM].contains(&kind);
            let note = if is_odd { format!("; its content type is {kind}") } else { String::new() };
            return fail(FailureKind::EmptyAnswer, format!("the answer has no output token{note}"));
        }
        if self.streamed && !facts.finished && !facts.done {
            let text = "the stream ended without a finish reason and without [DONE]";
            return fail(FailureKind::StreamCut, text.to_owned());
        }
        Ok(())
    }

    /// Moves the facts into the record and gives the texts.
    pub(crate) fn into_record(self, record: &mut Record) -> Texts {
        let more = self.facts.more.map(|more| *more).unwrap_or_default();
        record.status = self.status;
        record.first_byte = self.first_byte;
        record.tokens = self.facts.chunks.to_vec();
        let first = self.facts.first_answer;
        record.first_answer = first.map(|chunk| record.tokens[chunk as usize]);
        // The counts are used only if each chunk had one, and kept only if they say something.
        let counts = more.counts.chunk_tokens;
        if counts.len() == record.tokens.len() && counts.iter().any(|&n| n != 1) {
            record.chunk_tokens = counts;
        }
        if let Some(usage) = more.usage {
            if usage.completion_tokens.is_some() {
                record.usage = UsageSource::Server;
            }
            record.input_tokens = usage.prompt_tokens;
            record.output_tokens = usage.completion_tokens;
            record.cached_tokens = usage.cached_tokens();
            record.reasoning_tokens = usage.reasoning_tokens();
        }
        more.texts
    }

    fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// The data of bytes that look like one event, as nearly every chunk of a stream does. They may hold
/// more; but known shapes hold no line end, so that what a template knows is one event.
fn whole_event(bytes: &[u8]) -> Option<&[u8]> {
    bytes.strip_prefix(b"data: ")?.strip_suffix(b"\n\n")
}

/// What a status that is no success says.
fn refusal(status: u16, head: Option<&Head>, body: &[u8]) -> String {
    let location = head.and_then(|head| head.location.as_ref());
    let mut text = match (location, compression(head)) {
        (Some(location), _) => format!("redirects to {location}"),
        (None, Some(coding)) => format!("status {status}; its body is {coding}"),
        (None, None) => api::error_text(body),
    };
    if text.is_empty() {
        text = format!("status {status}");
    }
    if let Some(after) = head.and_then(|head| head.retry_after.as_ref()) {
        let unit = if after.bytes().all(|byte| byte.is_ascii_digit()) { " s" } else { "" };
        text.push_str(&format!("; retry after {after}{unit}"));
    }
    text
}

/// How a body is compressed, if it is.
fn compression(head: Option<&Head>) -> Option<String> {
    let coding = head?.content_encoding.as_ref()?;
    Some(format!("compressed (content-encoding: {coding})"))
}

impl Facts {
    fn event(&mut self, event: Event<'_>, at: Nanos, templates: &mut Templates) {
        if event.data == b"[DONE]" {
            self.done = true;
            return;
        }
        if event.error {
            let text = || api::error_text(event.data);
            self.more().server_error.get_or_insert_with(text);
            return;
        }
        if event.data.is_empty() {
            return;
        }
        if let Some(said) = templates.read(self.api, event.data) {
            return self.said(said, at);
        }
        match api::read(self.api, event.data) {
            Ok(piece) => {
                templates.learn(self.api, event.data, &piece);
                self.piece(piece, Some(at));
            }
            Err(error) => {
                self.more().bad.get_or_insert_with(|| {
                    let data = String::from_utf8_lossy(event.data);
                    format!("an event is not the JSON of this API ({error}): {data}")
                });
            }
        }
    }

    fn whole(&mut self, body: &[u8]) {
        match api::read(self.api, body) {
            Ok(piece) => self.piece(piece, None),
            Err(error) => {
                let text = format!("the body is not the JSON of this API ({error})");
                self.more().bad = Some(text);
            }
        }
    }

    /// Takes an event of a known shape; nearly all are, and nobody keeps their text.
    fn said(&mut self, said: Said<'_>, at: Nanos) {
        if self.more.is_some() {
            return self.piece(said.piece(), Some(at));
        }
        self.finished |= said.finished;
        if let Some(output) = said.output {
            self.output = true;
            self.chunk(output, None, at);
        }
    }

    fn piece(&mut self, piece: Piece<'_>, at: Option<Nanos>) {
        self.finished |= piece.finished;
        if let Some(more) = &mut self.more {
            more.texts.add(&piece);
        }
        if let Some(error) = piece.error {
            self.more().server_error.get_or_insert(error);
        }
        if let Some(output) = piece.output {
            self.output = true;
            if let Some(at) = at {
                self.chunk(output, piece.usage, at);
            }
        }
        if let Some(later) = piece.usage {
            self.more().usage.get_or_insert(later).merge(later);
        }
    }

    fn chunk(&mut self, output: Output, usage: Option<Usage>, at: Nanos) {
        if output == Output::Answer {
            let index = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX);
            self.first_answer.get_or_insert(index);
        }
        self.chunks.push(at);
        if let Some(total) = usage.and_then(|usage| usage.completion_tokens) {
            let counts = &mut self.more().counts;
            counts.chunk_tokens.push(total.saturating_sub(counts.total));
            counts.total = total;
        }
    }

    fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }
}
