//! Makes sessions of a data set that is read again for each stage, so that memory does not grow with
//! the file.
//!
//! Every stage has the whole data set. Shuffled, each stage begins at another place of the file and
//! draws from a window that moves over it: a file within the window is shuffled completely, a
//! larger one nearly in the order of a walk through it. Not shuffled, every stage begins at the
//! start of the file.

use crate::conversation::Conversation;
use crate::items::Items;
use crate::lengths::{Lengths, Tokenizer};
use crate::settings::{Output, Settings};
use crate::survey::{Survey, usable};
use llmdbench_plugin::requests::{Message, Pacing, Part, Prompt, Request, Session, Turn};
use llmdbench_plugin::workload::Size;
use llmdbench_plugin::{Error, label, log};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::io::BufRead;

/// Bytes of items from which the next one is drawn.
const WINDOW: usize = 8 << 20;

/// Stages that may be asked for at the same time: the one that runs, and the next.
const OPEN_STAGES: usize = 2;

/// What the data set needs of its surroundings.
pub(crate) trait Host: Tokenizer {
    type Source: BufRead;

    /// Opens an attached file at its start.
    ///
    /// # Errors
    /// When there is no such file.
    fn open(&self, name: &str) -> Result<Self::Source, Error>;
}

/// A data set and how far each stage has come in it.
pub(crate) struct Dataset<H: Host> {
    host: H,
    settings: Settings,
    seed: u64,
    lengths: Lengths,
    survey: Survey,
    stages: BTreeMap<u32, Stream<H::Source>>,
}

impl<H: Host> Dataset<H> {
    /// Reads the data set once. `seed` counts where the settings have none.
    ///
    /// # Errors
    /// When a setting makes no sense, or the file cannot be used.
    pub(crate) fn new(settings: Settings, seed: u64, host: H) -> Result<Self, Error> {
        for (name, zero) in [
            ("sessions", settings.sessions == Some(0)),
            ("output", settings.output == Output::Tokens(0)),
            ("max_input_tokens", settings.max_input_tokens == Some(0)),
            ("max_output_tokens", settings.max_output_tokens == Some(0)),
        ] {
            if zero {
                let hint = format!("choose at least 1, or leave out `{name}`");
                return Err(Error::invalid_settings("the value is 0")
                    .at(format!("/{name}"))
                    .hint(hint));
            }
        }
        let lengths = Lengths::find(&host)?;
        let limits = settings.max_input_tokens.is_some() || settings.max_output_tokens.is_some();
        if lengths == Lengths::Estimated
            && (limits || matches!(settings.output, Output::Recorded(_)))
        {
            log::warn(
                "lengths in tokens are estimated at 4 characters a token, for there is no tokenizer",
            );
        }
        let survey = Survey::of(host.open(&settings.file)?, &settings, lengths, &host)
            .map_err(|error| if error.at.is_none() { error.at("/file") } else { error })?;
        if let Some(finding) = survey.finding() {
            log::warn(finding);
        }
        if let Some(note) = survey.note() {
            log::info(note);
        }
        Ok(Self {
            seed: settings.seed.unwrap_or(seed),
            host,
            settings,
            lengths,
            survey,
            stages: BTreeMap::new(),
        })
    }

    /// How much is asked in a stage.
    pub(crate) fn size(&self) -> Size {
        self.survey.size(&self.settings)
    }

    /// The next sessions of a stage.
    ///
    /// # Errors
    /// When the file can no longer be read.
    pub(crate) fn next_batch(&mut self, stage: u32, max: u32) -> Result<Vec<Session>, Error> {
        let mut sessions = Vec::new();
        let mut answers = Vec::new();
        while sessions.len() < max as usize {
            if !self.stages.contains_key(&stage) {
                self.begin(stage)?;
            }
            let stream = self.stages.get_mut(&stage).expect("the stage has begun");
            if self.settings.sessions.is_some_and(|limit| stream.given >= limit) {
                break;
            }
            let Some(item) = stream.next(&self.host, &self.settings)? else { break };
            let Ok(conversation) = usable(&item, &self.settings, self.lengths, &self.host)? else {
                continue;
            };
            let id = (u64::from(stage) << 32) | stream.given;
            stream.given += 1;
            if matches!(self.settings.output, Output::Recorded(_)) {
                answers.extend(
                    conversation.rounds.iter().map(|round| round.answer.clone().into_owned()),
                );
            }
            sessions.push(session(id, conversation, &self.settings));
        }
        // Counted for the whole batch, for each call of the tokenizer crosses to the host.
        let mut lengths = self.lengths.of(&answers, &self.host)?.into_iter();
        for turn in sessions.iter_mut().flat_map(|session| &mut session.turns) {
            let tokens = match self.settings.output {
                Output::Tokens(tokens) => Some(tokens),
                Output::Recorded(_) => lengths.next(),
            };
            turn.request.max_output_tokens = tokens;
            turn.request.expected_output_tokens = tokens;
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
        let mut stream = Stream {
            items: Items::new(self.host.open(&self.settings.file)?),
            all: self.survey.read,
            left: self.survey.read,
            window: Vec::new(),
            bytes: 0,
            random: ChaCha8Rng::seed_from_u64(self.seed),
            given: 0,
        };
        stream.random.set_stream(u64::from(stage));
        if self.settings.shuffle {
            stream.skip(start(stage, self.survey.read))?;
        }
        self.stages.insert(stage, stream);
        Ok(())
    }
}

/// Where in the file a stage begins. Multiples of the golden ratio keep any number of stages apart.
fn start(stage: u32, items: u64) -> u64 {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    ((f64::from(stage) * GOLDEN).fract() * items as f64) as u64
}

/// How far a stage has come.
struct Stream<R> {
    items: Items<R>,
    /// Items of the file.
    all: u64,
    /// Items of the pass that are not read yet.
    left: u64,
    /// Read, but not given yet.
    window: Vec<Vec<u8>>,
    /// Bytes in the window.
    bytes: usize,
    random: ChaCha8Rng,
    /// Sessions given.
    given: u64,
}

impl<R: BufRead> Stream<R> {
    /// The next item of the stage. None: the data set is through.
    fn next<H: Host<Source = R>>(
        &mut self,
        host: &H,
        settings: &Settings,
    ) -> Result<Option<Vec<u8>>, Error> {
        if !settings.shuffle {
            return self.read(host, settings);
        }
        while self.bytes < WINDOW {
            let Some(item) = self.read(host, settings)? else { break };
            self.bytes += item.len();
            self.window.push(item);
            // A data set that repeats would fill the window with copies.
            if self.window.len() as u64 >= self.all {
                break;
            }
        }
        if self.window.is_empty() {
            return Ok(None);
        }
        let item = self.window.swap_remove(self.random.random_range(0..self.window.len()));
        self.bytes -= item.len();
        Ok(Some(item))
    }

    /// The next item in the order of the file, which goes on at its start after its end.
    fn read<H: Host<Source = R>>(
        &mut self,
        host: &H,
        settings: &Settings,
    ) -> Result<Option<Vec<u8>>, Error> {
        if self.left == 0 {
            if !settings.repeat {
                return Ok(None);
            }
            self.left = self.all;
        }
        for _ in 0..2 {
            if let Some(item) = self.items.next()? {
                self.left -= 1;
                return Ok(Some(item.to_vec()));
            }
            self.items = Items::new(host.open(&settings.file)?);
        }
        Err(Error::invalid_data("the file has changed while it was used").at("/file"))
    }

    fn skip(&mut self, items: u64) -> Result<(), Error> {
        for _ in 0..items {
            self.items.next()?;
        }
        Ok(())
    }
}

/// A session of a conversation. The lengths of the answers are filled in later.
fn session(id: u64, conversation: Conversation<'_>, settings: &Settings) -> Session {
    let turns = conversation.rounds.into_iter().enumerate().map(|(index, round)| {
        let words = |text: std::borrow::Cow<'_, str>| vec![Part::Text(text.into_owned())];
        let message = |role: &str, parts| Message { role: role.to_owned(), parts, extra: None };
        let prompt = if round.system.is_empty() {
            Prompt::Text(round.prompt.into_owned())
        } else {
            let system = round.system.into_iter().map(|text| message("system", words(text)));
            Prompt::Messages(system.chain([message("user", words(round.prompt))]).collect())
        };
        let request = Request {
            history: index > 0,
            streamed: settings.streamed,
            exact_output: settings.exact_output,
            ..Request::new(prompt)
        };
        let pause = if index == 0 { 0 } else { settings.think_time.nanos() };
        Turn { pacing: Pacing::AfterPreviousEnd(pause), ..Turn::new(request) }
    });
    let mut session = Session::new(id, turns.collect());
    session.labels.extend(conversation.id.map(|id| label("conversation", id)));
    session
}

#[cfg(test)]
#[path = "dataset_tests.rs"]
mod tests;
