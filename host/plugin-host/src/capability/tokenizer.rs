//! `tokenizer`: tokens of the run's model.

use std::sync::Arc;

use tokenizers::Tokenizer;

use crate::capability::error;
use crate::instance::State;
use crate::wit::tokenizer;
use crate::wit::types::{Error, ErrorKind};

/// Longest text, in bytes: nothing can stop the tokenizer within one.
const MAX_TEXT: usize = 16 << 20;

/// The tokenizer of the run, if there is one.
pub(crate) struct Tokens(pub(crate) Option<Arc<Tokenizer>>);

impl Tokens {
    fn get(&self) -> Result<&Tokenizer, Error> {
        self.0.as_deref().ok_or_else(|| {
            let mut error = error(ErrorKind::Unavailable, "the run has no tokenizer");
            error.hint = Some("name a tokenizer file in the experiment".to_owned());
            error
        })
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        if text.len() > MAX_TEXT {
            let message = format!("a text is longer than {} MiB", MAX_TEXT >> 20);
            return Err(error(ErrorKind::InvalidData, message));
        }
        let tokens = self.get()?.encode_fast(text, false);
        tokens
            .map(|tokens| tokens.get_ids().to_vec())
            .map_err(|cause| error(ErrorKind::InvalidData, cause.to_string()))
    }

    fn decode(&self, ids: &[u32]) -> Result<String, Error> {
        self.get()?
            .decode(ids, false)
            .map_err(|cause| error(ErrorKind::InvalidData, cause.to_string()))
    }
}

impl State {
    /// Does the same with each of many items, as long as the call has time.
    fn each<A, B>(
        &mut self,
        items: &[A],
        act: impl Fn(&Tokens, &A) -> Result<B, Error>,
    ) -> wasmtime::Result<Result<Vec<B>, Error>> {
        if let Err(error) = self.capabilities.tokenizer.get() {
            return Ok(Err(error));
        }
        let mut results = Vec::with_capacity(items.len());
        for item in items {
            self.check_time()?;
            match act(&self.capabilities.tokenizer, item) {
                Ok(result) => results.push(result),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(results))
    }
}

impl tokenizer::Host for State {
    fn count(&mut self, texts: Vec<String>) -> wasmtime::Result<Result<Vec<u32>, Error>> {
        self.each(&texts, |tokens, text| {
            tokens.encode(text).map(|ids| u32::try_from(ids.len()).unwrap_or(u32::MAX))
        })
    }

    fn encode(&mut self, texts: Vec<String>) -> wasmtime::Result<Result<Vec<Vec<u32>>, Error>> {
        self.each(&texts, |tokens, text| tokens.encode(text))
    }

    fn decode(&mut self, ids: Vec<Vec<u32>>) -> wasmtime::Result<Result<Vec<String>, Error>> {
        self.each(&ids, |tokens, ids| tokens.decode(ids))
    }

    fn vocabulary_size(&mut self) -> wasmtime::Result<Result<u32, Error>> {
        let size =
            self.capabilities.tokenizer.get().map(|tokenizer| tokenizer.get_vocab_size(true));
        Ok(size.map(|size| u32::try_from(size).unwrap_or(u32::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokenizers::models::wordlevel::WordLevel;
    use tokenizers::pre_tokenizers::whitespace::Whitespace;

    use super::*;
    use crate::capability::Capabilities;
    use crate::wit::tokenizer::Host as _;

    fn words() -> Tokens {
        let vocabulary = ["[UNK]", "hello", "world"]
            .into_iter()
            .zip(0..)
            .map(|(word, id)| (word.to_owned(), id));
        let model = WordLevel::builder()
            .vocab(vocabulary.collect())
            .unk_token("[UNK]".to_owned())
            .build()
            .unwrap();
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(Whitespace {}));
        Tokens(Some(Arc::new(tokenizer)))
    }

    /// A state whose call still has so much time.
    fn state(tokens: Tokens, left: Duration) -> State {
        let mut capabilities = Capabilities::none("p");
        capabilities.tokenizer = tokens;
        let mut state = State::new(capabilities, 0, left);
        state.progress();
        state
    }

    #[test]
    fn tokens_are_counted_and_turned_back() {
        let mut state = state(words(), Duration::from_secs(60));
        let texts = || vec!["hello world hello".to_owned(), String::new()];
        let ids = state.encode(texts()).unwrap().unwrap();
        assert_eq!(ids, [vec![1, 2, 1], vec![]]);
        assert_eq!(state.count(texts()).unwrap().unwrap(), [3, 0]);
        assert_eq!(state.decode(ids).unwrap().unwrap(), ["hello world hello", ""]);
    }

    #[test]
    fn a_run_without_tokenizer_says_so() {
        let mut state = state(Tokens(None), Duration::from_secs(60));
        let error = state.count(Vec::new()).unwrap().unwrap_err();
        assert_eq!(error.message, "the run has no tokenizer");
    }

    #[test]
    fn many_texts_end_with_the_time_of_the_call() {
        let mut state = state(words(), Duration::ZERO);
        let trap = state.count(vec!["hello".to_owned()]).unwrap_err();
        assert_eq!(trap.to_string(), "the time is over");
    }

    #[test]
    fn a_text_without_end_is_refused() {
        let error = words().encode(&"x".repeat(MAX_TEXT + 1)).unwrap_err();
        assert_eq!(error.message, "a text is longer than 16 MiB");
    }
}
