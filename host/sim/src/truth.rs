//! The truth log: what the server really did, to check a client's records against.
//!
//! JSON Lines. The first line is a [`TruthHeader`], each further one a [`TruthLine`], written when the
//! request ends in whatever way. Times are nanoseconds on `CLOCK_MONOTONIC`, which all processes of a
//! machine share, so a client's own times can be joined by `x_request_id` or `id`.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::clock::{monotonic_ns, unix_ns};

/// The first line of a truth log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TruthHeader {
    /// The version of the form.
    pub truth_log: u32,
    /// What to add to the log's times to get nanoseconds since 1970 (UTC).
    pub unix_offset_ns: u64,
}

/// What happened to one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TruthLine {
    /// The id of the answer, as the client saw it.
    pub id: String,
    /// The request's header `x-request-id`.
    pub x_request_id: Option<String>,
    /// The path of the request.
    pub path: String,
    /// The number of the connection, from 1 in the order of acceptance.
    pub connection: u64,
    /// When the last byte of the request had been read.
    pub read_ns: u64,
    /// When each write with answer text began, in order: one per token unless the behaviour puts
    /// several into an event. A client cannot have seen them earlier. Of a script, every write.
    pub tokens_ns: Vec<u64>,
    /// When the last write of the answer began; `None` if it was not completed as planned (a client
    /// that left, a fault that ends the connection, the end of the server).
    pub finished_ns: Option<u64>,
    /// The HTTP status answered.
    pub status: u16,
    /// Tokens of the prompt, 0 if it was refused.
    pub input_tokens: u32,
    /// Of these, found in the prefix cache.
    pub cached_tokens: u32,
    /// Tokens sent.
    pub output_tokens: u32,
    /// The fault acted out.
    pub fault: Option<String>,
    /// The script played.
    pub script: Option<String>,
}

/// A truth log open for writing.
pub(crate) struct TruthLog(Mutex<File>);

impl TruthLog {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let mut file = File::create(path)?;
        let unix_offset_ns = unix_ns() - monotonic_ns();
        write_line(&mut file, &TruthHeader { truth_log: 1, unix_offset_ns })?;
        Ok(Self(Mutex::new(file)))
    }

    /// One write to the file, so that a reader finds whole lines at any time.
    pub(crate) fn append(&self, line: &TruthLine) -> io::Result<()> {
        write_line(&mut self.0.lock().expect("no code panics while it holds the file"), line)
    }
}

fn write_line(file: &mut File, line: &impl Serialize) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    file.write_all(&bytes)
}
