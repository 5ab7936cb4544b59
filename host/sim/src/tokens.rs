//! The tokenizer of the simulated model.
//!
//! A word (what lies between white space) of up to 16 bytes is one token; a longer word is one token
//! for each begun 16 bytes. The chat template adds three tokens per message (start, role, end) and
//! two for the opening of the answer (start, `assistant`). Ids depend only on the bytes, so equal
//! prefixes of prompts have equal tokens, and an answer sent back as history has the tokens it was
//! generated with.

/// The longest piece of a word that is one token, in bytes.
pub(crate) const PIECE_BYTES: usize = 16;

/// Ids below this are the template's own.
const FIRST_PIECE: u32 = 16;
const START: u32 = 1;
const END: u32 = 2;
/// The size of the vocabulary, as large as that of current models.
const VOCABULARY: u32 = 128_256;

/// Words of which answers are made, each one token.
pub(crate) const WORDS: [&str; 64] = [
    "the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by",
    "on", "not", "he", "this", "are", "or", "his", "from", "at", "which", "but", "have", "an",
    "had", "they", "you", "were", "their", "one", "all", "we", "can", "her", "has", "there",
    "been", "if", "more", "when", "will", "would", "who", "so", "no", "river", "stone", "light",
    "water", "house", "green", "music", "paper", "table", "garden", "winter", "window", "number",
    "letter", "signal", "measure",
];

/// Appends the tokens of plain text.
pub(crate) fn append_text(text: &str, tokens: &mut Vec<u32>) {
    for word in text.split_ascii_whitespace() {
        tokens.extend(word.as_bytes().chunks(PIECE_BYTES).map(piece));
    }
}

/// Appends the tokens of one message as the chat template writes it.
pub(crate) fn append_message(role: &str, text: &str, tokens: &mut Vec<u32>) {
    tokens.extend([START, piece(role.as_bytes())]);
    append_text(text, tokens);
    tokens.push(END);
}

/// Appends the opening of the answer.
pub(crate) fn append_opening(tokens: &mut Vec<u32>) {
    tokens.extend([START, piece(b"assistant")]);
}

/// The token of one piece of a word.
pub(crate) fn piece(bytes: &[u8]) -> u32 {
    // FNV-1a: short, and the same on every machine.
    let hash = bytes
        .iter()
        .fold(0x811c_9dc5_u32, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    FIRST_PIECE + hash % (VOCABULARY - FIRST_PIECE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_pieces_are_counted() {
        for (text, count) in [
            ("", 0),
            (" \n\t ", 0),
            ("one", 1),
            ("  two  words\n", 2),
            ("exactly-16-bytes", 1),
            ("exactly-17-bytes!", 2),
            ("日本語日本語", 2),
        ] {
            let mut tokens = Vec::new();
            append_text(text, &mut tokens);
            assert_eq!(tokens.len(), count, "{text:?}");
        }
    }

    #[test]
    fn an_answer_sent_back_continues_the_prompt_it_came_from() {
        let mut first = Vec::new();
        append_message("user", "hello there", &mut first);
        append_opening(&mut first);
        first.extend(WORDS.iter().map(|word| piece(word.as_bytes())));

        let mut second = Vec::new();
        append_message("user", "hello there", &mut second);
        append_message("assistant", &WORDS.join(" "), &mut second);
        append_message("user", "go on", &mut second);

        assert_eq!(second[..first.len()], first);
    }
}
