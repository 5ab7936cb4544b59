//! Scripted streams: answers recorded byte by byte, each write with its time.
//!
//! The first line of a file is `{"status":200,"headers":{..}}`. Each further line is one write,
//! `{"at_ms":N,"s":"text"}` or `{"at_ms":N,"hex":"e697"}`, counted in milliseconds from the moment
//! the request was read. The last line is `{"at_ms":N,"end":".."}`: `clean` ends the chunked body and
//! keeps the connection, `fin` closes without the last chunk, `hold` does so after a silence.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::behavior::{BehaviorError, BehaviorErrorKind};

/// One scripted answer.
pub(crate) struct Script {
    /// The file's name, as the truth log repeats it.
    pub(crate) name: String,
    /// The response head, ready to be sent.
    pub(crate) head: Vec<u8>,
    /// The writes, in order.
    pub(crate) writes: Vec<Write>,
}

/// One write of a script.
pub(crate) struct Write {
    /// When, in nanoseconds after the request was read.
    pub(crate) at_ns: u64,
    /// What.
    pub(crate) act: Act,
}

/// What a line of a script does.
pub(crate) enum Act {
    /// Writes one chunk, already framed.
    Chunk(Vec<u8>),
    /// Ends the body and keeps the connection.
    End,
    /// Closes the connection.
    Close,
}

/// Reads a script.
pub(crate) fn read(path: &Path) -> Result<Script, BehaviorError> {
    let fail = |kind| BehaviorError::script(path, kind);
    let text = std::fs::read_to_string(path).map_err(|error| fail(BehaviorErrorKind::Io(error)))?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    parse(name, &text).map_err(fail)
}

fn parse(name: String, text: &str) -> Result<Script, BehaviorErrorKind> {
    let mut lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| (index + 1, line));

    let (number, first) = lines.next().ok_or(BehaviorErrorKind::EmptyScript)?;
    let head = head(first).map_err(|reason| BehaviorErrorKind::Line { number, reason })?;
    let mut writes: Vec<Write> = Vec::new();
    for (number, line) in lines {
        let wrong = |reason: String| BehaviorErrorKind::Line { number, reason };
        let write = write(line).map_err(wrong)?;
        if let Some(last) = writes.last() {
            if !matches!(last.act, Act::Chunk(_)) {
                return Err(wrong("nothing may follow the line with `end`".to_owned()));
            }
            if last.at_ns > write.at_ns {
                return Err(wrong("`at_ms` is less than in the line before".to_owned()));
            }
        }
        writes.push(write);
    }
    match writes.last() {
        Some(Write { act: Act::End | Act::Close, .. }) => Ok(Script { name, head, writes }),
        _ => Err(BehaviorErrorKind::NoEnd),
    }
}

fn head(line: &str) -> Result<Vec<u8>, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Line {
        status: u16,
        #[serde(default)]
        headers: Map<String, Value>,
    }
    let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let mut head = format!("HTTP/1.1 {} X\r\n", line.status);
    for (name, value) in &line.headers {
        let value = value.as_str().ok_or_else(|| format!("header `{name}` must be a string"))?;
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("transfer-encoding: chunked\r\n\r\n");
    Ok(head.into_bytes())
}

fn write(line: &str) -> Result<Write, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Line {
        at_ms: f64,
        s: Option<String>,
        hex: Option<String>,
        end: Option<End>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum End {
        Clean,
        Fin,
        Hold,
    }
    let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let act = match (line.s, line.hex, line.end) {
        (Some(text), None, None) => Act::Chunk(chunk(text.as_bytes())),
        (None, Some(hex), None) => {
            Act::Chunk(chunk(&from_hex(&hex).ok_or("`hex` must be pairs of hexadecimal digits")?))
        }
        (None, None, Some(End::Clean)) => Act::End,
        (None, None, Some(End::Fin | End::Hold)) => Act::Close,
        _ => return Err("must have exactly one of `s`, `hex` and `end`".to_owned()),
    };
    if !(0.0..=1e12).contains(&line.at_ms) {
        return Err("`at_ms` must be 0 or more".to_owned());
    }
    Ok(Write { at_ns: (line.at_ms * 1e6) as u64, act })
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

fn from_hex(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.bytes().map(|byte| (byte as char).to_digit(16));
    let digits = digits.collect::<Option<Vec<u32>>>()?;
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some((high * 16 + low) as u8),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = r#"{"status":200,"headers":{"content-type":"text/event-stream"}}"#;

    fn check(lines: &[&str], expected: Result<usize, &str>) {
        let text = lines.join("\n");
        let read = parse("x".to_owned(), &text).map(|script| script.writes.len());
        match (read, expected) {
            (Ok(read), Ok(expected)) => assert_eq!(read, expected, "{text}"),
            (Err(error), Err(part)) => {
                let error = error.to_string();
                assert!(error.contains(part), "{text}: {error}");
            }
            (read, expected) => panic!("{text}: {read:?}, not {expected:?}"),
        }
    }

    #[test]
    fn scripts_are_read() {
        check(&[HEAD, r#"{"at_ms":0,"end":"clean"}"#], Ok(1));
        let text = r#"{"at_ms":1.5,"s":"data: x\n\n"}"#;
        let hex = r#"{"at_ms":2,"hex":"e697"}"#;
        check(&[HEAD, text, "", hex, r#"{"at_ms":3,"end":"fin"}"#], Ok(3));
        check(&[HEAD, hex, r#"{"at_ms":2,"end":"hold"}"#], Ok(2));
    }

    #[test]
    fn wrong_lines_are_named() {
        let end = r#"{"at_ms":9,"end":"clean"}"#;
        check(&[], Err("empty"));
        check(&[HEAD], Err("`end`"));
        check(&["{}", end], Err("line 1: missing field `status`"));
        check(&[HEAD, r#"{"at_ms":1}"#, end], Err("line 2: must have exactly one"));
        check(&[HEAD, r#"{"at_ms":1,"hex":"abc"}"#, end], Err("line 2: `hex`"));
        check(&[HEAD, r#"{"at_ms":1,"hex":"zz"}"#, end], Err("line 2: `hex`"));
        check(&[HEAD, r#"{"at_ms":-1,"s":""}"#, end], Err("line 2: `at_ms`"));
        check(&[HEAD, end, end], Err("line 3: nothing may follow"));
        check(&[HEAD, r#"{"at_ms":10,"s":"x"}"#, end], Err("line 3: `at_ms` is less"));
        check(&[HEAD, r#"{"at_ms":1,"end":"x"}"#], Err("line 2: unknown variant"));
    }

    #[test]
    fn chunks_are_framed_and_hex_is_bytes() {
        let text = [HEAD, r#"{"at_ms":1,"hex":"e697A5"}"#, r#"{"at_ms":2,"end":"fin"}"#].join("\n");
        let script = parse("x".to_owned(), &text).unwrap_or_else(|error| panic!("{error}"));
        let Act::Chunk(chunk) = &script.writes[0].act else { panic!("no chunk") };
        assert_eq!(chunk, b"3\r\n\xe6\x97\xa5\r\n");
        assert_eq!(script.writes[0].at_ns, 1_000_000);
    }
}
