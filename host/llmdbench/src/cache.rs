//! Prompts as a prefix cache sees them: which beginnings they share, a marker that makes them new to
//! a server, and what has to be sent to have their common beginnings cached. Pure.
//!
//! A prompt is cut into blocks of [`BLOCK`] bytes, each known by the chain of everything before it,
//! as inference servers do it with tokens. Answers that come back as history are not known before
//! they are given; each stands for itself, with the length that was asked for.

use crate::words::Words;
use analysis::EXPECTED_CACHED;
use foldhash::fast::FixedState;
use load::{Message, Pacing, Part, Prompt, Request, Session, Turn};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash};

/// Bytes of a block: about 16 tokens of English.
const BLOCK: usize = 64;
/// Blocks that are remembered at least, some three million tokens: more than servers keep, and bounded
/// however long a run is.
const KEPT: usize = 200_000;
/// Bytes of an answer's token, and tokens of an answer whose length nobody chose.
const BYTES_OF_TOKEN: u64 = 5;
const ANSWER: u32 = 128;
/// New blocks for which it is worth while to warm a cache up.
const WORTH: usize = 2;
/// Words of a marker: some 10^15 of them.
const MARKER_WORDS: u32 = 6;

/// Which beginnings of prompts have been sent: the blocks of late, and those that were used again.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    young: HashSet<u64, FixedState>,
    old: HashSet<u64, FixedState>,
}

impl Sent {
    /// Takes a session as sent. Gives for each turn the share of its prompt, 0 to 1, that something
    /// sent before begins with, too.
    fn take(&mut self, stage: usize, session: &Session) -> Vec<f64> {
        let mut shares = Vec::with_capacity(session.turns.len());
        let mut walk = Walk::default();
        for (index, turn) in session.turns.iter().enumerate() {
            if turn.request.history {
                // All that was said is there.
                walk.shared = walk.total;
                walk.is_shared = true;
            } else {
                walk = Walk::default();
            }
            let own = |turn: usize| (stage, session.id, turn);
            each_block(&turn.request.prompt, |block| match block {
                Block::Bytes(bytes) => walk.step(self, block, bytes.len() as u64),
                Block::Ids(ids) => walk.step(self, block, ids.len() as u64 * BYTES_OF_TOKEN),
                Block::Answer(of) => {
                    let of = of as usize;
                    let length = session.turns.get(of).map_or(0, |turn| answer(&turn.request));
                    walk.step(self, own(of), length);
                }
            });
            shares.push(walk.share());
            walk.step(self, own(index), answer(&turn.request));
        }
        shares
    }

    /// Takes a session as sent, and labels each of its requests with that share, where there is one.
    pub(crate) fn label(&mut self, stage: usize, session: &mut Session) {
        let shares = self.take(stage, session);
        for (turn, share) in session.turns.iter_mut().zip(shares) {
            let text = format!("{share:.3}");
            if text != "0.000" {
                turn.request.labels.insert(EXPECTED_CACHED.to_owned(), text);
            }
        }
    }

    /// Notes a block; says whether it was known. Nothing is known that follows something new.
    fn knows(&mut self, block: u64, may_be_known: bool) -> bool {
        let was_known = !self.young.insert(block) || may_be_known && self.old.contains(&block);
        if self.young.len() >= KEPT {
            // The room of the one that goes is used again: memory stays the same however long a run is.
            std::mem::swap(&mut self.old, &mut self.young);
            self.young.clear();
        }
        was_known
    }
}

/// How far a prompt has been looked at.
#[derive(Debug)]
struct Walk {
    chain: u64,
    total: u64,
    shared: u64,
    is_shared: bool,
}

impl Default for Walk {
    fn default() -> Self {
        Self { chain: 0, total: 0, shared: 0, is_shared: true }
    }
}

impl Walk {
    fn step(&mut self, sent: &mut Sent, block: impl Hash, length: u64) {
        self.chain = chained(self.chain, block);
        self.total += length;
        self.is_shared &= sent.knows(self.chain, self.is_shared);
        if self.is_shared {
            self.shared += length;
        }
    }

    fn share(&self) -> f64 {
        if self.total == 0 { 0.0 } else { self.shared as f64 / self.total as f64 }
    }
}

fn chained(before: u64, block: impl Hash) -> u64 {
    FixedState::default().hash_one((before, block))
}

/// Bytes that an answer will have.
fn answer(request: &Request) -> u64 {
    u64::from(request.max_output_tokens.unwrap_or(ANSWER)) * BYTES_OF_TOKEN
}

/// A block of a prompt.
#[derive(Clone, Copy, Hash)]
enum Block<'a> {
    Bytes(&'a [u8]),
    Ids(&'a [u32]),
    /// The answer to this turn.
    Answer(u32),
}

/// Goes through a prompt. No block reaches over the end of a part of a message.
fn each_block(prompt: &Prompt, mut each: impl FnMut(Block<'_>)) {
    match prompt {
        Prompt::Text(text) | Prompt::Raw(text) => {
            text.as_bytes().chunks(BLOCK).for_each(|bytes| each(Block::Bytes(bytes)));
        }
        Prompt::TokenIds(ids) => {
            ids.chunks(BLOCK / BYTES_OF_TOKEN as usize).for_each(|ids| each(Block::Ids(ids)));
        }
        Prompt::Messages(messages) => {
            for message in messages {
                each(Block::Bytes(message.role.as_bytes()));
                for part in &message.parts {
                    match part {
                        Part::Text(text) => {
                            text.as_bytes().chunks(BLOCK).for_each(|b| each(Block::Bytes(b)));
                        }
                        Part::OutputOf(turn) => each(Block::Answer(*turn)),
                    }
                }
            }
        }
    }
}

/// What is put in front of every prompt of a run to make it new to the server: the same within the
/// run, so that its prompts share what they share, and another in every run.
pub(crate) fn marker(run: &str) -> String {
    Words::unmeasured().text(MARKER_WORDS, FixedState::default().hash_one(run))
}

/// Puts the marker in front of all that a session asks. A body that must go out as it is stays so.
pub(crate) fn mark(session: &mut Session, marker: &str) {
    for (index, turn) in session.turns.iter_mut().enumerate() {
        // A history begins with an earlier turn, which has it.
        if turn.request.history && index > 0 {
            continue;
        }
        match &mut turn.request.prompt {
            Prompt::Text(text) => *text = format!("{marker} {text}"),
            Prompt::Messages(messages) => {
                if let Some(first) = messages.first_mut() {
                    first.parts.insert(0, Part::Text(format!("{marker} ")));
                }
            }
            Prompt::TokenIds(_) | Prompt::Raw(_) => {}
        }
    }
}

/// Sessions of one request that have a server cache the beginnings which the first prompts of several
/// sessions of a stage share, shorter ones first. What is hardly longer than another is left out: words
/// of chance are the same now and then.
pub(crate) fn warm_up(stages: &[Vec<Session>]) -> Vec<Session> {
    let mut cached: HashSet<u64> = HashSet::new();
    let mut found = Vec::new();
    for sessions in stages {
        let chains: Vec<Vec<u64>> = sessions.iter().map(first_chain).collect();
        let mut uses: HashMap<u64, u32> = HashMap::new();
        for block in chains.iter().flatten() {
            *uses.entry(*block).or_default() += 1;
        }
        let mut shared: Vec<(usize, &Vec<u64>, &Session)> = chains
            .iter()
            .zip(sessions)
            .map(|(chain, session)| {
                let depth = chain.iter().take_while(|block| uses[*block] > 1).count();
                (depth, chain, session)
            })
            .filter(|(depth, ..)| *depth > 0)
            .collect();
        shared.sort_by_key(|(depth, ..)| *depth);
        for (depth, chain, session) in shared {
            let new = chain[..depth].iter().filter(|block| !cached.contains(*block)).count();
            if new >= WORTH
                && let Some(prompt) = beginning(&session.turns[0].request.prompt, depth)
            {
                cached.extend(&chain[..depth]);
                found.push(once(found.len() as u64, prompt, &session.turns[0].request));
            }
        }
    }
    found
}

/// The chain of a session's first prompt.
fn first_chain(session: &Session) -> Vec<u64> {
    let mut chain = Vec::new();
    let mut before = 0;
    if let Some(turn) = session.turns.first() {
        each_block(&turn.request.prompt, |block| {
            before = chained(before, block);
            chain.push(before);
        });
    }
    chain
}

/// So many blocks of a prompt. None: there is nothing to send in them, or it cannot be cut.
fn beginning(prompt: &Prompt, mut blocks: usize) -> Option<Prompt> {
    match prompt {
        Prompt::Text(text) => Some(Prompt::Text(cut(text, &mut blocks).to_owned())),
        Prompt::TokenIds(ids) => {
            let most = blocks * (BLOCK / BYTES_OF_TOKEN as usize);
            Some(Prompt::TokenIds(ids[..most.min(ids.len())].to_vec()))
        }
        Prompt::Messages(messages) => {
            let mut kept: Vec<Message> = Vec::new();
            for message in messages {
                // Its role is a block, too.
                blocks = blocks.saturating_sub(1);
                let mut parts = Vec::new();
                for part in &message.parts {
                    match part {
                        Part::Text(text) if blocks > 0 => {
                            parts.push(Part::Text(cut(text, &mut blocks).to_owned()));
                        }
                        _ => blocks = 0,
                    }
                }
                if parts.is_empty() {
                    break;
                }
                kept.push(Message { parts, ..message.clone() });
            }
            (!kept.is_empty()).then_some(Prompt::Messages(kept))
        }
        Prompt::Raw(_) => None,
    }
}

/// The first so many blocks of a text, less those that it does not fill.
fn cut<'a>(text: &'a str, blocks: &mut usize) -> &'a str {
    let end = text.floor_char_boundary(*blocks * BLOCK);
    *blocks = blocks.saturating_sub(text.len().div_ceil(BLOCK));
    &text[..end]
}

/// A session that asks this once, for one token.
fn once(id: u64, prompt: Prompt, like: &Request) -> Session {
    let request = Request {
        prompt,
        history: false,
        max_output_tokens: Some(1),
        cancel_after: None,
        asked_input_tokens: None,
        ..like.clone()
    };
    let turn = Turn { request, pacing: Pacing::AfterPreviousEnd(0) };
    Session {
        id,
        user: id,
        start: None,
        endpoint: None,
        turns: vec![turn],
        labels: Default::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(prompt: Prompt, history: bool) -> Request {
        Request {
            api: None,
            path: None,
            model: None,
            prompt,
            history,
            streamed: true,
            max_output_tokens: Some(10),
            exact_output: true,
            cancel_after: None,
            asked_input_tokens: Some(7),
            extra: Default::default(),
            headers: Vec::new(),
            labels: Default::default(),
        }
    }

    fn session(id: u64, prompts: &[&str]) -> Session {
        let turns = prompts.iter().enumerate().map(|(i, text)| Turn {
            request: request(Prompt::Text((*text).to_owned()), i > 0),
            pacing: Pacing::AfterPreviousEnd(0),
        });
        Session {
            id,
            user: 0,
            start: None,
            endpoint: None,
            turns: turns.collect(),
            labels: Default::default(),
        }
    }

    fn chat(id: u64, messages: &[(&str, &str)]) -> Session {
        let message = |(role, text): &(&str, &str)| Message {
            role: (*role).to_owned(),
            parts: vec![Part::Text((*text).to_owned())],
            extra: Default::default(),
        };
        let mut one = session(id, &[""]);
        one.turns[0].request.prompt = Prompt::Messages(messages.iter().map(message).collect());
        one
    }

    /// `n` times 64 bytes, which begin with this letter.
    fn blocks(letter: char, n: usize) -> String {
        (0..n).map(|i| format!("{letter}{i:063}")).collect()
    }

    fn shares(sessions: &[Session]) -> Vec<Vec<f64>> {
        let mut sent = Sent::default();
        sessions.iter().map(|session| sent.take(0, session)).collect()
    }

    #[test]
    fn the_share_is_what_something_sent_before_begins_with() {
        let prompt = |own: char| blocks('p', 3) + &blocks(own, 1);
        let one = |text: &str| session(0, &[text]);
        let sessions = [
            one(&prompt('a')),
            one(&prompt('b')),
            one(&prompt('a')),
            one(&blocks('x', 4)),
            one(&(blocks('x', 1) + &blocks('p', 3))),
            one(""),
        ];
        assert_eq!(shares(&sessions), [[0.0], [0.75], [1.0], [0.0], [0.25], [0.0]]);
        // The same words of another role are another prompt.
        let (system, user) = (blocks('s', 2), blocks('u', 1));
        let chats = [
            chat(0, &[("system", &system), ("user", &user)]),
            chat(1, &[("system", &system), ("user", &blocks('v', 1))]),
            chat(2, &[("user", &system), ("user", &user)]),
        ];
        let found = shares(&chats);
        assert_eq!((found[0][0], found[2][0]), (0.0, 0.0));
        assert!((found[1][0] - (6.0 + 128.0 + 4.0) / 202.0).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn a_history_is_shared_with_the_turns_before_and_answers_have_the_length_asked_for() {
        let long = [blocks('a', 1), blocks('b', 1), blocks('c', 1)];
        let texts: Vec<&str> = long.iter().map(String::as_str).collect();
        // 64 bytes and 50 of the answer before the second turn, twice that before the third.
        assert_eq!(shares(&[session(5, &texts)]), [[0.0, 114.0 / 178.0, 228.0 / 292.0]]);
        // Another session with the same beginning shares no answer.
        let both = shares(&[session(5, &texts[..1]), session(6, &texts)]);
        assert_eq!(both[1][0], 1.0);
    }

    #[test]
    fn what_is_used_again_is_remembered_and_the_rest_is_bounded() {
        let mut sent = Sent::default();
        sent.knows(7, true);
        for block in 0..3 * KEPT as u64 {
            sent.knows(1_000 + block, true);
            if block % 100_000 == 0 {
                assert!(sent.knows(7, true));
            }
        }
        assert!(sent.young.len() + sent.old.len() <= 2 * KEPT);
        assert!(!sent.knows(1_000, true), "long ago, and never again");
        let room = |sent: &Sent| sent.young.capacity() + sent.old.capacity();
        let before = room(&sent);
        (0..3 * KEPT as u64).for_each(|block| {
            sent.knows(1_000_000 + block, true);
            assert_eq!(room(&sent), before);
        });
    }

    #[test]
    fn a_marker_goes_in_front_once_and_is_another_each_time() {
        assert_ne!(marker("a"), marker("b"));
        assert_eq!(marker("a"), marker("a"));
        assert_eq!(marker("a").split(' ').count(), MARKER_WORDS as usize);
        let mut texts = session(0, &["one", "two"]);
        mark(&mut texts, "m");
        let prompts: Vec<_> = texts.turns.iter().map(|turn| &turn.request.prompt).collect();
        assert_eq!(prompts, [&Prompt::Text("m one".into()), &Prompt::Text("two".into())]);
        let mut messages = chat(0, &[("system", "s"), ("user", "u")]);
        mark(&mut messages, "m");
        let Prompt::Messages(marked) = &messages.turns[0].request.prompt else { panic!() };
        assert_eq!(marked[0].parts, [Part::Text("m ".into()), Part::Text("s".into())]);
        assert_eq!(marked[1].parts, [Part::Text("u".into())]);
        // With the marker of another run nothing is shared; within the run everything is.
        let long = blocks('p', 3);
        let run = |marker: &str| {
            let mut one = session(0, &[&long]);
            mark(&mut one, marker);
            one
        };
        assert_eq!(shares(&[run("a"), run("b"), run("b")]), [[0.0], [0.0], [1.0]]);
    }

    #[test]
    fn warming_up_sends_each_common_beginning_once() {
        let prompt = |group: char, own: char| blocks(group, 3) + &blocks(own, 2);
        let one = |text: &str| session(0, &[text]);
        let stage: Vec<Session> = [('p', 'a'), ('q', 'b'), ('p', 'c'), ('q', 'd'), ('r', 'e')]
            .map(|(group, own)| one(&prompt(group, own)))
            .into();
        let warm = warm_up(&[stage.clone(), stage]);
        let prompts: Vec<_> = warm.iter().map(|s| s.turns[0].request.prompt.clone()).collect();
        assert_eq!(prompts, [Prompt::Text(blocks('p', 3)), Prompt::Text(blocks('q', 3))]);
        assert_eq!(warm.iter().map(|session| session.id).collect::<Vec<_>>(), [0, 1]);
        let request = &warm[0].turns[0].request;
        assert_eq!((request.max_output_tokens, request.asked_input_tokens), (Some(1), None));
        // Prompts that come again in another stage only are that stage's business.
        assert_eq!(warm_up(&[vec![one("a")], vec![one("a")]]), []);

        let system = blocks('s', 2);
        let long = "é".repeat(50);
        let chats = [
            chat(0, &[("system", &system), ("user", "x")]),
            chat(1, &[("system", &system), ("user", "y")]),
            chat(2, &[("system", &long), ("user", "y")]),
            chat(3, &[("system", &(long.clone() + "!")), ("user", "y")]),
        ];
        let warm = warm_up(&[chats.to_vec()]);
        let Prompt::Messages(messages) = &warm[0].turns[0].request.prompt else { panic!() };
        assert_eq!(messages[0].parts, [Part::Text("é".repeat(32))]);
        let Prompt::Messages(messages) = &warm[1].turns[0].request.prompt else { panic!() };
        assert_eq!(messages.len(), 1);
        assert_eq!(messages[0].parts, [Part::Text(system)]);

        // One more block is the same by chance.
        let chance = [prompt('p', 'a'), prompt('p', 'b'), blocks('p', 4), blocks('p', 4) + "x"];
        let chance: Vec<Session> = chance.iter().map(|text| one(text)).collect();
        assert_eq!(warm_up(&[chance]).len(), 1);
    }
}
