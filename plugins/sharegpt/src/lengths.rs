//! Lengths in tokens: counted by the host's tokenizer, or estimated where there is none.

use llmdbench_plugin::{Error, ErrorKind};

/// Characters of a token where nothing better is known: about right for English.
const CHARACTERS: f64 = 4.0;

/// How lengths are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lengths {
    Counted,
    Estimated,
}

/// The host's tokenizer: the number of tokens of each text.
pub(crate) trait Tokenizer {
    /// # Errors
    /// `unavailable` or `unsupported` where there is none.
    fn count(&self, texts: &[String]) -> Result<Vec<u32>, Error>;
}

impl Lengths {
    /// Finds out whether there is a tokenizer.
    ///
    /// # Errors
    /// When there is one and it fails.
    pub(crate) fn find(tokenizer: &impl Tokenizer) -> Result<Self, Error> {
        match tokenizer.count(&["Hello".to_owned()]) {
            Ok(_) => Ok(Self::Counted),
            Err(error) if matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Unsupported) => {
                Ok(Self::Estimated)
            }
            Err(error) => Err(error),
        }
    }

    /// The tokens of each text; at least one, for a request cannot ask for none.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub(crate) fn of(
        self,
        texts: &[String],
        tokenizer: &impl Tokenizer,
    ) -> Result<Vec<u32>, Error> {
        let mut lengths = match self {
            Self::Counted => tokenizer.count(texts)?,
            Self::Estimated => texts
                .iter()
                .map(|text| (characters(text) as f64 / CHARACTERS).ceil() as u32)
                .collect(),
        };
        if lengths.len() != texts.len() {
            return Err(Error::internal(format!(
                "the tokenizer counted {} of {} texts",
                lengths.len(),
                texts.len()
            )));
        }
        lengths.iter_mut().for_each(|length| *length = (*length).max(1));
        Ok(lengths)
    }

    /// Characters of a token in these texts.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub(crate) fn characters_per_token(
        self,
        texts: &[String],
        tokenizer: &impl Tokenizer,
    ) -> Result<f64, Error> {
        if self == Self::Estimated || texts.is_empty() {
            return Ok(CHARACTERS);
        }
        let tokens: u64 = self.of(texts, tokenizer)?.iter().map(|length| u64::from(*length)).sum();
        Ok(texts.iter().map(|text| characters(text)).sum::<u64>() as f64 / tokens as f64)
    }
}

/// Characters of a text. Bytes would overstate languages with long encodings.
pub(crate) fn characters(text: &str) -> u64 {
    text.chars().count() as u64
}
