//! `tokenizer`: tokens of the run's model.

use std::sync::Arc;

use tokenizers::Tokenizer;

use crate::capability::error;
use crate::instance::State;
use crate::wit::tokenizer;
use crate::wit::types::{Error, ErrorKind};

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

    fn encode(&self, texts: &[String]) -> Result<Vec<Vec<u32>>, Error> {
        let tokenizer = self.get()?;
        let encode = |text: &String| {
            let tokens = tokenizer.encode_fast(text.as_str(), false);
            tokens
                .map(|tokens| tokens.get_ids().to_vec())
                .map_err(|cause| error(ErrorKind::InvalidData, cause.to_string()))
        };
        texts.iter().map(encode).collect()
    }

    fn decode(&self, ids: &[Vec<u32>]) -> Result<Vec<String>, Error> {
        let tokenizer = self.get()?;
        let decode = |ids: &Vec<u32>| {
            tokenizer
                .decode(ids, false)
                .map_err(|cause| error(ErrorKind::InvalidData, cause.to_string()))
        };
        ids.iter().map(decode).collect()
    }
}

impl tokenizer::Host for State {
    fn count(&mut self, texts: Vec<String>) -> wasmtime::Result<Result<Vec<u32>, Error>> {
        let length = |ids: Vec<u32>| u32::try_from(ids.len()).unwrap_or(u32::MAX);
        Ok(self
            .capabilities
            .tokenizer
            .encode(&texts)
            .map(|all| all.into_iter().map(length).collect()))
    }

    fn encode(&mut self, texts: Vec<String>) -> wasmtime::Result<Result<Vec<Vec<u32>>, Error>> {
        Ok(self.capabilities.tokenizer.encode(&texts))
    }

    fn decode(&mut self, ids: Vec<Vec<u32>>) -> wasmtime::Result<Result<Vec<String>, Error>> {
        Ok(self.capabilities.tokenizer.decode(&ids))
    }

    fn vocabulary_size(&mut self) -> wasmtime::Result<Result<u32, Error>> {
        let size =
            self.capabilities.tokenizer.get().map(|tokenizer| tokenizer.get_vocab_size(true));
        Ok(size.map(|size| u32::try_from(size).unwrap_or(u32::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::models::wordlevel::WordLevel;
    use tokenizers::pre_tokenizers::whitespace::Whitespace;

    use super::*;

    #[test]
    fn tokens_are_counted_and_turned_back() {
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
        let tokens = Tokens(Some(Arc::new(tokenizer)));
        let ids = tokens.encode(&["hello world hello".to_owned(), String::new()]).unwrap();
        assert_eq!(ids, [vec![1, 2, 1], vec![]]);
        assert_eq!(tokens.decode(&ids).unwrap(), ["hello world hello", ""]);
    }

    #[test]
    fn a_run_without_tokenizer_says_so() {
        assert_eq!(Tokens(None).encode(&[]).unwrap_err().message, "the run has no tokenizer");
    }
}
