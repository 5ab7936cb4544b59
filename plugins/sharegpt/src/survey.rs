//! The first pass over a data set: what is in it, what can be used, and why the rest cannot.

use crate::conversation::{self, Conversation, Fault};
use crate::items::Items;
use crate::lengths::{Lengths, Tokenizer, characters};
use crate::settings::{Mode, Settings};
use llmdbench_plugin::workload::Size;
use llmdbench_plugin::{Error, label};
use std::collections::BTreeMap;
use std::io::BufRead;

/// Texts of so many bytes are tokenized to learn how long a token is.
const SAMPLE: usize = 64 << 10;

/// What is in a data set.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Items read.
    pub(crate) read: u64,
    /// Conversations that are used, at least in part.
    pub(crate) used: u64,
    /// Their requests.
    requests: u64,
    /// Conversations that are used up to a round that is not sound.
    shortened: u64,
    left_out: BTreeMap<Fault, u64>,
    /// Characters of all prompts, with the history that they carry.
    input: u64,
    /// Characters of all answers.
    output: u64,
    characters_per_token: f64,
}

/// The part of an item that is asked.
///
/// # Errors
/// The outer one when the tokenizer fails; the inner one says why the item is left out.
pub(crate) fn usable<'a>(
    item: &'a [u8],
    settings: &Settings,
    lengths: Lengths,
    tokenizer: &impl Tokenizer,
) -> Result<Result<Conversation<'a>, Fault>, Error> {
    let mut conversation = match conversation::read(item) {
        Ok(conversation) => conversation,
        Err(fault) => return Ok(Err(fault)),
    };
    if settings.mode == Mode::FirstTurn {
        conversation.rounds.truncate(1);
        conversation.cut = false;
    }
    if let Some((index, fault)) = too_long(&conversation, settings, lengths, tokenizer)? {
        if index == 0 {
            return Ok(Err(fault));
        }
        conversation.rounds.truncate(index);
        conversation.cut = true;
    }
    Ok(Ok(conversation))
}

impl Survey {
    /// Reads a data set to its end.
    ///
    /// # Errors
    /// When it cannot be read or holds nothing that can be used.
    pub(crate) fn of(
        source: impl BufRead,
        settings: &Settings,
        lengths: Lengths,
        tokenizer: &impl Tokenizer,
    ) -> Result<Self, Error> {
        let mut survey = Self::default();
        let mut sample = Sample::default();
        let mut items = Items::new(source);
        while let Some(item) = items.next()? {
            match usable(item, settings, lengths, tokenizer)? {
                Ok(conversation) => {
                    survey.add(&conversation);
                    sample.add(&conversation);
                }
                Err(fault) => *survey.left_out.entry(fault).or_default() += 1,
            }
        }
        survey.read = items.count();
        survey.characters_per_token = lengths.characters_per_token(&sample.texts, tokenizer)?;
        if survey.used == 0 {
            let message = match survey.read {
                0 => "the file holds no conversation".to_owned(),
                read => format!("none of {read} conversations can be used: {}", survey.reasons()),
            };
            return Err(Error::invalid_data(message).at("/file").hint(
                "wanted: a JSON array or JSON Lines of {\"conversations\": [{\"from\": \"human\", \"value\": ...}, {\"from\": \"gpt\", \"value\": ...}]}",
            ));
        }
        Ok(survey)
    }

    /// How much is asked in a stage.
    pub(crate) fn size(&self, settings: &Settings) -> Size {
        let sessions = match (settings.repeat, settings.sessions) {
            (true, limit) => limit,
            (false, limit) => Some(limit.map_or(self.used, |limit| limit.min(self.used))),
        };
        let requests = match sessions {
            Some(sessions) if sessions == self.used => Some(self.requests),
            Some(sessions) if settings.mode == Mode::FirstTurn => Some(sessions),
            _ => None,
        };
        let mean = |characters: u64| {
            Some(characters as f64 / self.characters_per_token / self.requests as f64)
        };
        Size {
            sessions,
            requests,
            mean_input_tokens: mean(self.input),
            mean_output_tokens: mean(self.output),
            skipped: self
                .left_out
                .iter()
                .map(|(fault, count)| label(fault.to_string(), count.to_string()))
                .collect(),
        }
    }

    /// What the reader of the report should know of the data: what is left out. None: nothing is.
    pub(crate) fn finding(&self) -> Option<String> {
        let left_out = self.read - self.used;
        (left_out > 0).then(|| {
            format!("{left_out} of {} conversations are left out: {}", self.read, self.reasons())
        })
    }

    /// What else happened to the data. None: nothing.
    pub(crate) fn note(&self) -> Option<String> {
        (self.shortened > 0).then(|| {
            format!("{} conversations are used up to a turn that cannot be asked", self.shortened)
        })
    }

    fn add(&mut self, conversation: &Conversation) {
        self.used += 1;
        self.shortened += u64::from(conversation.cut);
        self.requests += conversation.rounds.len() as u64;
        let mut history = 0;
        for round in &conversation.rounds {
            let system: u64 = round.system.iter().map(|text| characters(text)).sum();
            let answer = characters(&round.answer);
            history += system + characters(&round.prompt);
            self.input += history;
            self.output += answer;
            history += answer;
        }
    }

    fn reasons(&self) -> String {
        let reasons: Vec<String> =
            self.left_out.iter().map(|(fault, count)| format!("{count} {fault}")).collect();
        reasons.join(", ")
    }
}

/// The first texts of a data set.
#[derive(Debug, Default)]
struct Sample {
    texts: Vec<String>,
    bytes: usize,
}

impl Sample {
    fn add(&mut self, conversation: &Conversation) {
        for text in conversation.rounds.iter().flat_map(|round| [&round.prompt, &round.answer]) {
            if self.bytes < SAMPLE {
                self.bytes += text.len();
                self.texts.push(text.clone().into_owned());
            }
        }
    }
}

/// The first round that is longer than the settings allow.
fn too_long(
    conversation: &Conversation,
    settings: &Settings,
    lengths: Lengths,
    tokenizer: &impl Tokenizer,
) -> Result<Option<(usize, Fault)>, Error> {
    if settings.max_input_tokens.is_none() && settings.max_output_tokens.is_none() {
        return Ok(None);
    }
    let texts: Vec<String> = conversation
        .rounds
        .iter()
        .flat_map(|round| {
            [round.system.concat() + &round.prompt, round.answer.clone().into_owned()]
        })
        .collect();
    let mut history = 0;
    for (index, round) in lengths.of(&texts, tokenizer)?.chunks_exact(2).enumerate() {
        history += u64::from(round[0]);
        if settings.max_input_tokens.is_some_and(|most| history > u64::from(most)) {
            return Ok(Some((index, Fault::LongPrompt)));
        }
        if settings.max_output_tokens.is_some_and(|most| round[1] > most) {
            return Ok(Some((index, Fault::LongAnswer)));
        }
        history += u64::from(round[1]);
    }
    Ok(None)
}
