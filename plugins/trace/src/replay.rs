//! Makes a session of each request of a trace, which is read again for each stage, so that memory does
//! not grow with the file.
//!
//! Where a trace has lengths alone, the words are made up. Blocks with the same id have the same words,
//! so that prompts share their beginnings as the recorded ones did.

use crate::rows::{Asked, Row};
use crate::settings::{Format, Settings};
use crate::stream::{Picked, Stream};
use crate::survey::Survey;
use llmdbench_plugin::requests::{Message, Part, Prompt, Request, Session, Synthetic};
use llmdbench_plugin::workload::Size;
use llmdbench_plugin::{Error, log};
use std::collections::BTreeMap;
use std::io::BufRead;

/// Stages that may be asked for at the same time: the one that runs, and the next.
const OPEN_STAGES: usize = 2;

/// What a replay needs of its surroundings.
pub(crate) trait Host {
    type Source: BufRead;

    /// Opens an attached file at its start.
    ///
    /// # Errors
    /// When there is no such file.
    fn open(&self, name: &str) -> Result<Self::Source, Error>;
}

/// A trace and how far each stage has come in it.
pub(crate) struct Replay<H: Host> {
    host: H,
    settings: Settings,
    seed: u64,
    size: Size,
    stages: BTreeMap<u32, Stage<H::Source>>,
}

/// How far a stage has come.
struct Stage<R> {
    stream: Stream<R>,
    /// Sessions given.
    given: u64,
}

impl<H: Host> Replay<H> {
    /// Reads the trace once. `seed` counts where the settings have none.
    ///
    /// # Errors
    /// When a setting makes no sense, or the file cannot be used.
    pub(crate) fn new(settings: Settings, seed: u64, host: H) -> Result<Self, Error> {
        settings.check()?;
        let survey = Survey::of(host.open(&settings.file)?, &settings)?;
        survey.warnings().iter().for_each(log::warn);
        survey.notes().iter().for_each(log::info);
        Ok(Self {
            seed: settings.seed.unwrap_or(seed),
            host,
            settings,
            size: survey.size(),
            stages: BTreeMap::new(),
        })
    }

    /// How much is asked in a stage.
    pub(crate) fn size(&self) -> Size {
        self.size.clone()
    }

    /// The next sessions of a stage.
    ///
    /// # Errors
    /// When the file can no longer be read.
    pub(crate) fn next_batch(&mut self, stage: u32, max: u32) -> Result<Vec<Session>, Error> {
        if !self.stages.contains_key(&stage) {
            self.begin(stage)?;
        }
        let open = self.stages.get_mut(&stage).expect("the stage has begun");
        // Words of its own: a stage must not find what an earlier one left in a cache.
        let seed = mix(self.seed, u64::from(stage));
        let mut sessions = Vec::new();
        while sessions.len() < max as usize {
            match open.stream.next()? {
                None => break,
                Some(Picked::LeftOut(_)) => {}
                Some(Picked::Sent(due, row)) => {
                    let id = (u64::from(stage) << 32) | open.given;
                    open.given += 1;
                    let request = request(row, open.stream.format(), &self.settings, seed);
                    sessions.push(Session { start: Some(due), ..Session::single(id, request) });
                }
            }
        }
        Ok(sessions)
    }

    fn begin(&mut self, stage: u32) -> Result<(), Error> {
        if self.stages.len() == OPEN_STAGES {
            let (oldest, _) = self.stages.pop_first().expect("there are open stages");
            if stage < oldest {
                return Err(Error::internal(format!(
                    "stage {stage} was asked for after stage {oldest}"
                )));
            }
        }
        let stream = Stream::new(self.host.open(&self.settings.file)?, &self.settings)?;
        self.stages.insert(stage, Stage { stream, given: 0 });
        Ok(())
    }
}

fn request(row: Row, format: Format, settings: &Settings, seed: u64) -> Request {
    // Far from all ids of blocks, which the recording counted from 0.
    let own = mix(seed, !row.line);
    let prompt = match row.asked {
        Asked::Text(text) => Prompt::Text(text),
        Asked::Messages(messages) => Prompt::Messages(messages),
        Asked::Length => {
            Prompt::Synthetic(Synthetic { tokens: row.input, seed: own, prefix: None })
        }
        Asked::Blocks(ids) => {
            let parts = blocks(&ids, row.input, settings.block_tokens).map(|(id, tokens)| {
                let seed = id.map_or(own, |id| mix(seed, id));
                Part::Synthetic(Synthetic { tokens, seed, prefix: None })
            });
            let parts = parts.collect();
            Prompt::Messages(vec![Message { role: "user".to_owned(), parts, extra: None }])
        }
    };
    let exact = settings.exact_output.unwrap_or(format != Format::Messages);
    Request {
        streamed: settings.streamed,
        max_output_tokens: row.output,
        exact_output: exact && row.output.is_some(),
        expected_output_tokens: row.output,
        ..Request::new(prompt)
    }
}

/// The blocks of a prompt: each one's id, where it has one, and its tokens. Only the last can be
/// shorter than `block`.
pub(crate) fn blocks(
    ids: &[u64],
    input: u32,
    block: u32,
) -> impl Iterator<Item = (Option<u64>, u32)> {
    (0..input.div_ceil(block)).map(move |index| {
        let tokens = block.min(input - index * block);
        (ids.get(index as usize).copied(), tokens)
    })
}

/// Two numbers made one, such that different pairs give different ones as far as a hash can: the
/// finalizer of SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) fn mix(one: u64, other: u64) -> u64 {
    let mut z = one
        .wrapping_mul(0xff51_afd7_ed55_8ccd)
        .wrapping_add(other)
        .wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
