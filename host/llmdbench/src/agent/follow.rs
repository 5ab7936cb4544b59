//! What an agent has to tell, as a stream: its journal from an offset on, its reports and its states. Whoever lost
//! the connection asks again from the offset that was reached.
//!
//! A frame is a line of JSON; the bytes of the journal that it announces follow it.

use crate::agent::{Folder, Report, State};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

/// How often something new is looked for.
const LOOK: Duration = Duration::from_millis(250);
/// Something is said at least this often, so that silence is a broken connection.
pub(crate) const PULSE: Duration = Duration::from_secs(2);
/// Bytes of a frame, at most.
const PIECE: usize = 1024 * 1024;

/// A piece of the stream.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Frame {
    /// So many bytes of the journal.
    Journal(usize),
    /// How the load goes.
    Report(Report),
    /// How far the agent is; the last one is that it has ended, and then the journal is complete.
    State(State),
}

/// Writes the stream until the agent has ended and everything is said.
pub(crate) fn tell(folder: &Folder, from: u64, mut out: impl Write) -> Result<()> {
    let mut at = from;
    let mut told: Option<String> = None;
    let mut reported = None;
    let mut said = Instant::now();
    let gone = |error: std::io::Error| Error::unexpected("nobody listens").because(error);
    loop {
        // Looked at before the journal: what was written before the end is there.
        let state = folder.state()?;
        while let Some(piece) = piece(folder, at)? {
            line(&mut out, &Frame::Journal(piece.len())).map_err(gone)?;
            out.write_all(&piece).map_err(gone)?;
            at += piece.len() as u64;
            said = Instant::now();
        }
        let report = folder.report()?;
        if report != reported || said.elapsed() >= PULSE {
            line(&mut out, &Frame::Report(report.clone().unwrap_or_default())).map_err(gone)?;
            reported = report;
            said = Instant::now();
        }
        let text = serde_json::to_string(&state).unwrap_or_default();
        if told.as_ref() != Some(&text) {
            told = Some(text);
            let has_ended = matches!(state, State::Ended { .. });
            line(&mut out, &Frame::State(state)).map_err(gone)?;
            if has_ended {
                return out.flush().map_err(gone);
            }
        }
        out.flush().map_err(gone)?;
        std::thread::sleep(LOOK);
    }
}

fn line(out: &mut impl Write, frame: &Frame) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, frame)?;
    out.write_all(b"\n")
}

/// The journal from an offset on, as far as a frame takes it. None: there is no more yet.
fn piece(folder: &Folder, from: u64) -> Result<Option<Vec<u8>>> {
    let results = folder.results();
    let path = results.records();
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(PIECE as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) if bytes.is_empty() => Ok(None),
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(Error::unexpected(format!("cannot read `{}`", path.display())).because(error))
        }
    }
}

/// Reads a frame, with what it announces. None: the stream has ended.
pub(crate) async fn hear<R: tokio::io::AsyncRead + Unpin>(
    from: &mut BufReader<R>,
) -> std::io::Result<Option<(Frame, Vec<u8>)>> {
    let mut text = String::new();
    if from.read_line(&mut text).await? == 0 {
        return Ok(None);
    }
    let frame: Frame = serde_json::from_str(&text)?;
    let mut bytes = Vec::new();
    if let Frame::Journal(length) = frame {
        bytes.resize(length, 0);
        from.read_exact(&mut bytes).await?;
    }
    Ok(Some((frame, bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Outcome;
    use crate::run_dir;

    /// What is heard: the journal, and how many other frames.
    fn heard(bytes: &[u8]) -> (Vec<u8>, usize, bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut from = BufReader::new(bytes);
            let (mut journal, mut others, mut ended) = (Vec::new(), 0, false);
            while let Ok(Some((frame, bytes))) = hear(&mut from).await {
                journal.extend(bytes);
                others += usize::from(!matches!(frame, Frame::Journal(_)));
                ended |= matches!(frame, Frame::State(State::Ended { .. }));
            }
            (journal, others, ended)
        })
    }

    #[test]
    fn a_journal_is_heard_whole_wherever_the_connection_breaks() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::at(temporary.path());
        let journal: Vec<u8> = (0..3 * PIECE / 2).map(|n| b'a' + (n % 23) as u8).collect();
        run_dir::write(folder.results().records(), &journal).unwrap();
        folder.set_state(&State::Ended { outcome: Outcome::default(), alone_from: None }).unwrap();
        let mut all = Vec::new();
        tell(&folder, 0, &mut all).unwrap();
        assert_eq!(heard(&all), (journal.clone(), 1, true));
        for cut in [0, 10, 40, PIECE, PIECE + 100, all.len() - 3] {
            let (mut first, _, ended) = heard(&all[..cut]);
            assert!(!ended);
            let mut rest = Vec::new();
            tell(&folder, first.len() as u64, &mut rest).unwrap();
            let (rest, _, ended) = heard(&rest);
            first.extend(rest);
            assert!(ended && first == journal, "cut at {cut}");
        }
    }
}
