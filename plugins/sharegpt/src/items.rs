//! Splits a data set into its items without holding it: the elements of a JSON array, or JSON objects
//! one after another (JSON Lines, or objects over several lines).

use llmdbench_plugin::Error;
use std::io::BufRead;

/// The longest item in bytes; a longer one is no conversation.
const LONGEST: usize = 16 << 20;

/// The items of a data set, in order.
#[derive(Debug)]
pub(crate) struct Items<R> {
    source: R,
    /// The item that is being read.
    item: Vec<u8>,
    form: Form,
    /// Items given so far.
    count: u64,
    /// Bytes taken from the source.
    offset: u64,
}

/// How the items stand in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Nothing but white space was read yet.
    Unknown,
    Array,
    Sequence,
    /// The array was closed.
    Closed,
}

impl<R: BufRead> Items<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, item: Vec::new(), form: Form::Unknown, count: 0, offset: 0 }
    }

    /// The bytes of the next item: JSON of an object, as long as the file is JSON. None: the end.
    ///
    /// # Errors
    /// When the file cannot be read, is cut off, or holds something else than objects.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, Error> {
        if !self.find_start()? {
            return Ok(None);
        }
        let start = self.offset;
        self.item.clear();
        let mut nesting = Nesting::default();
        loop {
            let piece = self.source.fill_buf()?;
            if piece.is_empty() {
                return Err(Error::invalid_data(format!(
                    "the file ends inside item {}, which begins at byte {start}",
                    self.count + 1
                ))
                .hint("the file seems to be cut off: fetch it again"));
            }
            let (taken, ended) = match nesting.end(piece) {
                Some(end) => (end, true),
                None => (piece.len(), false),
            };
            self.item.extend_from_slice(&piece[..taken]);
            self.source.consume(taken);
            self.offset += taken as u64;
            if self.item.len() > LONGEST {
                return Err(Error::invalid_data(format!(
                    "item {}, which begins at byte {start}, is longer than {} MiB",
                    self.count + 1,
                    LONGEST >> 20
                ))
                .hint("a quotation mark or a bracket seems to be missing there"));
            }
            if ended {
                self.count += 1;
                return Ok(Some(&self.item));
            }
        }
    }

    /// How many items were given.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Goes on to the first byte of the next item. False: there is none.
    fn find_start(&mut self) -> Result<bool, Error> {
        loop {
            let piece = self.source.fill_buf()?;
            if piece.is_empty() {
                if self.form == Form::Array {
                    return Err(Error::invalid_data(format!(
                        "the file ends after item {}, without its ]",
                        self.count
                    ))
                    .hint("the file seems to be cut off: fetch it again"));
                }
                return Ok(false);
            }
            // White space, the mark of UTF-8 that some programs write in front, and what stands
            // between the elements of an array.
            let skipped = piece.iter().take_while(|byte| match byte {
                b' ' | b'\t' | b'\r' | b'\n' => true,
                0xef | 0xbb | 0xbf => self.form == Form::Unknown,
                b',' => self.form == Form::Array,
                _ => false,
            });
            let skipped = skipped.count();
            let found = piece.get(skipped).copied();
            self.source.consume(skipped);
            self.offset += skipped as u64;
            match (found, self.form) {
                (None, _) => {}
                (Some(b'['), Form::Unknown) => {
                    self.form = Form::Array;
                    self.step();
                }
                (Some(b']'), Form::Array) => {
                    self.form = Form::Closed;
                    self.step();
                }
                (Some(b'{'), Form::Unknown | Form::Sequence) => {
                    self.form = Form::Sequence;
                    return Ok(true);
                }
                (Some(b'{'), Form::Array) => return Ok(true),
                (Some(byte), _) => {
                    return Err(Error::invalid_data(format!(
                        "byte {}, after item {}, is {:?}, where an object should begin",
                        self.offset,
                        self.count,
                        char::from(byte)
                    ))
                    .hint("a data set is a JSON array of conversations, or one conversation in each line"));
                }
            }
        }
    }

    fn step(&mut self) {
        self.source.consume(1);
        self.offset += 1;
    }
}

/// Where in an object the reading stands.
#[derive(Debug, Default)]
struct Nesting {
    depth: usize,
    in_text: bool,
    escaped: bool,
}

impl Nesting {
    /// Reads on; gives the position after the object's end if it lies in `piece`.
    fn end(&mut self, piece: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < piece.len() {
            if self.escaped {
                self.escaped = false;
                at += 1;
            } else if self.in_text {
                // Nearly all bytes are inside of texts.
                let next = memchr::memchr2(b'"', b'\\', &piece[at..])?;
                at += next + 1;
                match piece[at - 1] {
                    b'"' => self.in_text = false,
                    _ => self.escaped = true,
                }
            } else {
                match piece[at] {
                    b'"' => self.in_text = true,
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' => self.depth -= 1,
                    _ => {}
                }
                at += 1;
                if self.depth == 0 {
                    return Some(at);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, Cursor};

    /// The items, read in pieces of `size` bytes.
    fn items(text: &str, size: usize) -> Result<Vec<String>, Error> {
        let mut items =
            Items::new(BufReader::with_capacity(size, Cursor::new(text.as_bytes().to_vec())));
        let mut found = Vec::new();
        while let Some(item) = items.next()? {
            found.push(String::from_utf8(item.to_vec()).unwrap());
        }
        assert_eq!(items.count(), found.len() as u64);
        Ok(found)
    }

    #[test]
    fn items_are_found_in_any_form_whatever_the_pieces() {
        for (text, expected) in [
            (r#"[{"a": 1}, {"b": [1, {}]}]"#, vec![r#"{"a": 1}"#, r#"{"b": [1, {}]}"#]),
            ("{\"a\": 1}\n{\"b\": 2}\r\n", vec![r#"{"a": 1}"#, r#"{"b": 2}"#]),
            ("{\n \"a\": 1\n}\n\n{\"b\": 2}", vec!["{\n \"a\": 1\n}", r#"{"b": 2}"#]),
            ("\u{feff}[{\"a\": 1}\n]\n", vec![r#"{"a": 1}"#]),
            (
                r#"[{"a": "}]\"{\\"}, {"b": "\\\""}]"#,
                vec![r#"{"a": "}]\"{\\"}"#, r#"{"b": "\\\""}"#],
            ),
            ("[]", vec![]),
            ("", vec![]),
            (" \n", vec![]),
            (r#"[{"ä": "]…"}]"#, vec![r#"{"ä": "]…"}"#]),
        ] {
            for size in [1, 2, 3, 7, 1000] {
                assert_eq!(items(text, size).unwrap(), expected, "{text} in pieces of {size}");
            }
        }
    }

    #[test]
    fn files_that_are_no_data_set_are_refused_with_the_place() {
        for (text, message) in [
            (r#"[{"a": 1}, {"b": "#, "ends inside item 2, which begins at byte 11"),
            (r#"[{"a": 1},"#, "ends after item 1, without its ]"),
            (r#"[{"a": "x]"#, "ends inside item 1, which begins at byte 1"),
            ("PK\u{3}", "byte 0, after item 0, is 'P'"),
            (r#"[1, 2]"#, "byte 1, after item 0, is '1'"),
            (r#"[{"a": 1}] x"#, "byte 11, after item 1, is 'x'"),
            ("id,text\n", "is 'i'"),
        ] {
            for size in [1, 1000] {
                let error = items(text, size).unwrap_err();
                assert!(error.message.contains(message), "{text}: {}", error.message);
                assert!(error.hint.is_some());
            }
        }
    }

    #[test]
    fn an_item_without_an_end_is_not_kept_for_ever() {
        let text = format!("[{{\"a\": \"{}", "x".repeat(LONGEST + 1));
        let error = items(&text, 1 << 20).unwrap_err();
        assert!(error.message.contains("longer than 16 MiB"), "{}", error.message);
    }
}
