//! Words for synthetic prompts: text of a chosen length in tokens, without meaning.
//!
//! How many tokens a word has depends on the model. With a tokenizer the words are those that are
//! one token each; without it their mean length is measured once and the count of words scaled.

use std::collections::HashMap;
use tokenizers::Tokenizer;

/// Short English words, most of which are one token in the vocabularies of today's models.
const WORDS: &str = include_str!("words.txt");

/// Fewest one-token words that make a vocabulary of their own.
const ENOUGH: usize = 64;

/// Where the words of prompts come from.
#[derive(Debug, Clone)]
pub(crate) struct Words {
    words: Vec<String>,
    tokens_per_word: f64,
    prefixes: HashMap<(u64, u32), String>,
}

impl Words {
    /// Words that are taken for one token each.
    pub(crate) fn unmeasured() -> Self {
        Self::scaled(1.0)
    }

    /// Words that have this many tokens on average.
    pub(crate) fn scaled(tokens_per_word: f64) -> Self {
        let words = WORDS.split_whitespace().map(str::to_owned).collect();
        Self { words, tokens_per_word: tokens_per_word.max(0.1), prefixes: HashMap::new() }
    }

    /// The words that a tokenizer takes for one token, where there are enough of them.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Self {
        let count = |text: &str| tokenizer.encode(text, false).map_or(0, |e| e.len());
        let single: Vec<String> = WORDS
            .split_whitespace()
            .filter(|word| count(&format!("a {word} {word}")) == count("a") + 2)
            .map(str::to_owned)
            .collect();
        if single.len() >= ENOUGH {
            return Self { words: single, tokens_per_word: 1.0, prefixes: HashMap::new() };
        }
        let all = Self::scaled(1.0);
        let sample = all.sample();
        Self::scaled(count(&sample) as f64 / sample.split_whitespace().count() as f64)
    }

    /// A text by which the mean length of the words can be measured.
    pub(crate) fn sample(&self) -> String {
        self.text(512, 0)
    }

    /// How many words the sample has.
    pub(crate) fn sample_words(&self) -> usize {
        self.sample().split_whitespace().count()
    }

    /// A text of about this many tokens; the same seed and length give the same text.
    pub(crate) fn text(&self, tokens: u32, seed: u64) -> String {
        let count = (f64::from(tokens) / self.tokens_per_word).round().max(1.0) as usize;
        let mut text = String::with_capacity(count * 6);
        let mut state = seed;
        for i in 0..count {
            if i > 0 {
                text.push(' ');
            }
            let pick = split_mix(&mut state) as usize % self.words.len();
            text.push_str(&self.words[pick]);
        }
        text
    }

    /// A beginning that prompts share: the same id and length give the same text.
    pub(crate) fn prefix(&mut self, id: u64, tokens: u32) -> &str {
        if !self.prefixes.contains_key(&(id, tokens)) {
            let text = self.text(tokens, id ^ 0x7072_6566_6978_0000);
            self.prefixes.insert((id, tokens), text);
        }
        &self.prefixes[&(id, tokens)]
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): quick, and good enough to pick words.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_as_many_words_as_its_tokens_need() {
        let check = |tokens_per_word: f64, tokens: u32, words: usize| {
            let text = Words::scaled(tokens_per_word).text(tokens, 7);
            assert_eq!(text.split_whitespace().count(), words);
        };
        check(1.0, 256, 256);
        check(2.0, 256, 128);
        check(1.0, 0, 1);
    }

    #[test]
    fn the_same_seed_gives_the_same_text_and_another_another() {
        let mut words = Words::unmeasured();
        assert_eq!(words.text(50, 1), words.text(50, 1));
        assert_ne!(words.text(50, 1), words.text(50, 2));
        let prefix = words.prefix(3, 40).to_owned();
        assert_eq!(words.prefix(3, 40), prefix);
        assert_ne!(words.prefix(4, 40), prefix);
    }

    /// A byte-pair tokenizer that knows single letters and, as one token each, these words.
    fn tokenizer(known: &[&str]) -> Tokenizer {
        let mut vocabulary = serde_json::Map::new();
        let mut merges = Vec::new();
        let mut add = |token: &str| {
            let id = vocabulary.len();
            vocabulary.entry(token.to_owned()).or_insert_with(|| id.into());
        };
        ('a'..='z').for_each(|letter| add(&letter.to_string()));
        for word in known {
            for end in 2..=word.len() {
                add(&word[..end]);
                merges.push(format!("{} {}", &word[..end - 1], &word[end - 1..end]));
            }
        }
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "post_processor": null, "decoder": null,
            "pre_tokenizer": {"type": "Whitespace"},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false,
                "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "byte_fallback": false, "vocab": vocabulary, "merges": merges},
        });
        Tokenizer::from_bytes(json.to_string()).unwrap()
    }

    #[test]
    fn with_a_tokenizer_prompts_have_exactly_the_tokens_asked_for_where_its_words_allow() {
        let some: Vec<&str> = WORDS.split_whitespace().take(100).collect();
        let tokenizer = tokenizer(&some);
        let words = Words::of(&tokenizer);
        for seed in 0..5 {
            let text = words.text(200, seed);
            assert_eq!(tokenizer.encode(text.as_str(), false).unwrap().len(), 200, "{text}");
        }
    }

    #[test]
    fn with_a_tokenizer_that_cuts_words_up_lengths_are_scaled() {
        let tokenizer = tokenizer(&[]);
        let words = Words::of(&tokenizer);
        let text = words.text(1_000, 3);
        let tokens = tokenizer.encode(text.as_str(), false).unwrap().len();
        assert!((900..1_100).contains(&tokens), "{tokens}");
    }

    #[test]
    fn the_words_are_many_and_different() {
        let words = Words::unmeasured().words;
        let unique: std::collections::HashSet<_> = words.iter().collect();
        assert!(unique.len() == words.len() && words.len() >= 400, "{}", words.len());
    }
}
