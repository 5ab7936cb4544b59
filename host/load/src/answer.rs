//! [`Answer`]: reads the body of an answer as it comes, keeps the facts, and judges its end. Pure.

use crate::api::{self, Output, Piece, Usage};
use crate::http::{Head, Malformed, Part, Reader};
use crate::plan::{Api, Nanos};
use crate::sse::{Event, Splitter};
use crate::template::Template;
use records::{Failure, FailureKind, Record, UsageSource};

/// Of an error body so much is looked at; a message is cut further when it is recorded.
const LONGEST_ERROR: usize = 64 * 1024;

/// An answer under way.
#[derive(Debug)]
pub(crate) struct Answer {
    facts: Facts,
    body: Body,
    streamed: bool,
    head: Head,
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
    tokens: Vec<Nanos>,
    /// Tokens in each of `tokens` by running counts; judged at the end.
    chunk_tokens: Vec<u32>,
    /// Output tokens by the last running count that came with output.
    counted: u32,
    first_answer: Option<Nanos>,
    usage: Option<Usage>,
    finished: bool,
    done: bool,
    /// Some output was seen; in a whole answer it has no arrival.
    output: bool,
    server_error: Option<String>,
    bad: Option<String>,
    texts: Texts,
    /// An event that others are expected to resemble.
    template: Option<Template>,
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
#[derive(Debug)]
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
        Self {
            facts: Facts {
                api,
                tokens: Vec::new(),
                chunk_tokens: Vec::new(),
                counted: 0,
                first_answer: None,
                usage: None,
                finished: false,
                done: false,
                output: false,
                server_error: None,
                bad: None,
                texts: Texts::kept(keep),
                template: None,
            },
            body: Body::Whole(Vec::new()),
            streamed,
            head: Head::default(),
            first_byte: None,
        }
    }

    /// Takes what a read that returned at `at` has brought. Whether the answer is complete.
    pub(crate) fn take(
        &mut self,
        reader: &mut Reader,
        mut input: &[u8],
        at: Nanos,
    ) -> Result<bool, Malformed> {
        loop {
            match reader.next(&mut input)? {
                Part::Head(head) => self.head(head),
                Part::Body(bytes) => self.body(bytes, at),
                Part::End => return Ok(true),
                Part::More => return Ok(false),
            }
        }
    }

    fn head(&mut self, head: Head) {
        self.body = if !is_good(&head) || head.content_encoding.is_some() {
            Body::Other(Vec::new())
        } else if self.streamed {
            Body::Events(Splitter::default())
        } else {
            Body::Whole(Vec::new())
        };
        self.head = head;
    }

    fn body(&mut self, bytes: &[u8], at: Nanos) {
        // Some servers name no content type, or a wrong one; but no stream begins like JSON.
        if self.first_byte.is_none() && bytes.first() == Some(&b'{') && self.streamed {
            self.body = Body::Other(Vec::new());
        }
        self.first_byte.get_or_insert(at);
        match &mut self.body {
            Body::Events(splitter) => splitter.feed(bytes, |event| self.facts.event(event, at)),
            Body::Whole(body) => body.extend_from_slice(bytes),
            Body::Other(body) => {
                let room = LONGEST_ERROR.saturating_sub(body.len());
                body.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
        }
    }

    /// Output chunks that have arrived.
    pub(crate) fn chunks(&self) -> usize {
        self.facts.tokens.len()
    }

    /// Judges the answer once its body has ended: `complete`, or cut off for this reason.
    pub(crate) fn end(&mut self, at: Nanos, cut: Option<&str>) -> Result<(), Failure> {
        let is_good = is_good(&self.head);
        let facts = &mut self.facts;
        let fail = |kind, message: String| Err(Failure::new(kind, message));
        let mut half = false;
        match &mut self.body {
            // Whatever lies behind the last whole event of a stream that was cut is no event.
            Body::Events(_) if cut.is_some() => {}
            Body::Events(splitter) => {
                let bad = facts.bad.take();
                splitter.end(|event| facts.event(event, at));
                half = facts.bad.take().is_some();
                facts.bad = bad;
            }
            Body::Whole(body) if cut.is_none() => facts.whole(body),
            Body::Whole(_) => {}
            Body::Other(body) if !is_good && self.head.status != 0 => {
                return fail(FailureKind::HttpStatus, refusal(&self.head, body));
            }
            Body::Other(_) if self.head.content_encoding.is_some() => {
                let text = format!(
                    "the answer is {}, which holds tokens back; switch compression off at the \
                     server or the proxy before it",
                    compressed(&self.head)
                );
                return fail(FailureKind::BadStream, text);
            }
            Body::Other(body) => match api::read(facts.api, body).ok().and_then(|p| p.error) {
                Some(error) => facts.server_error = Some(error),
                None => {
                    let text = "the server answered with JSON where a stream was asked for";
                    facts.bad.get_or_insert(text.to_owned());
                }
            },
        }
        if let Some(error) = facts.server_error.take() {
            return fail(FailureKind::ServerError, error);
        }
        if let Some(bad) = facts.bad.take() {
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
            let kind = &*self.head.content_type;
            let is_odd = self.streamed && !["", "text/event-stream"].contains(&kind);
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
        let facts = self.facts;
        record.status = self.head.status;
        record.first_byte = self.first_byte;
        record.first_answer = facts.first_answer;
        // The counts are used only if each chunk had one, and kept only if they say something.
        let counted = facts.chunk_tokens.len() == facts.tokens.len();
        if counted && facts.chunk_tokens.iter().any(|&n| n != 1) {
            record.chunk_tokens = facts.chunk_tokens;
        }
        record.tokens = facts.tokens;
        if let Some(usage) = facts.usage {
            record.usage = UsageSource::Server;
            record.input_tokens = usage.prompt_tokens;
            record.output_tokens = usage.completion_tokens;
            record.cached_tokens = usage.cached_tokens();
            record.reasoning_tokens = usage.reasoning_tokens();
        }
        facts.texts
    }
}

fn is_good(head: &Head) -> bool {
    (200..300).contains(&head.status)
}

/// What a status that is no success says.
fn refusal(head: &Head, body: &[u8]) -> String {
    let mut text = match (&head.location, &head.content_encoding) {
        (Some(location), _) => format!("redirects to {location}"),
        (None, Some(_)) => format!("status {}; its body is {}", head.status, compressed(head)),
        (None, None) => api::error_text(body),
    };
    if text.is_empty() {
        text = format!("status {}", head.status);
    }
    if let Some(after) = &head.retry_after {
        let unit = if after.bytes().all(|byte| byte.is_ascii_digit()) { " s" } else { "" };
        text.push_str(&format!("; retry after {after}{unit}"));
    }
    text
}

fn compressed(head: &Head) -> String {
    let coding = head.content_encoding.as_deref().unwrap_or_default();
    format!("compressed (content-encoding: {coding})")
}

impl Facts {
    fn event(&mut self, event: Event<'_>, at: Nanos) {
        if event.data == b"[DONE]" {
            self.done = true;
            return;
        }
        if event.error {
            self.server_error.get_or_insert_with(|| api::error_text(event.data));
            return;
        }
        if event.data.is_empty() {
            return;
        }
        if let Some(piece) = self.template.as_ref().and_then(|known| known.read(event.data)) {
            return self.piece(piece, Some(at));
        }
        match api::read(self.api, event.data) {
            Ok(piece) => {
                if let Some(template) = Template::of(event.data, &piece) {
                    self.template = Some(template);
                }
                self.piece(piece, Some(at));
            }
            Err(error) => {
                self.bad.get_or_insert_with(|| {
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
                self.bad = Some(format!("the body is not the JSON of this API ({error})"))
            }
        }
    }

    fn piece(&mut self, piece: Piece<'_>, at: Option<Nanos>) {
        self.finished |= piece.finished;
        self.texts.add(&piece);
        if let Some(error) = piece.error {
            self.server_error.get_or_insert(error);
        }
        if let Some(output) = piece.output {
            self.output = true;
            if let Some(at) = at {
                self.chunk(output, piece.usage, at);
            }
        }
        if piece.usage.is_some() {
            self.usage = piece.usage;
        }
    }

    fn chunk(&mut self, output: Output, usage: Option<Usage>, at: Nanos) {
        self.tokens.push(at);
        if output == Output::Answer {
            self.first_answer.get_or_insert(at);
        }
        if let Some(total) = usage.and_then(|usage| usage.completion_tokens) {
            self.chunk_tokens.push(total.saturating_sub(self.counted));
            self.counted = total;
        }
    }
}
