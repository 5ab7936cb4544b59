//! Files that the user attached, as ordinary readers.

use std::io::{self, BufRead, Read};

pub use crate::bindings::shared::llmdbench::plugin::inputs::{Input, available};

use crate::Error;
use crate::bindings::shared::llmdbench::plugin::inputs as host;

/// Most bytes that one call of the host gives.
const PIECE: u32 = 1 << 20;

/// Opens an attached file at its start. Compressed files read as their contents.
///
/// # Errors
/// The host's: `not-found` when no such file is attached.
pub fn open(name: &str) -> Result<Reader, Error> {
    Ok(Reader { source: host::open(name)?, piece: Vec::new(), used: 0 })
}

/// A position in an attached file. Reads pieces of 1 MiB, so that a file of any length needs little
/// memory.
#[derive(Debug)]
pub struct Reader {
    source: host::Reader,
    piece: Vec<u8>,
    used: usize,
}

impl Reader {
    /// Goes back to the start.
    ///
    /// # Errors
    /// The host's, when the file can no longer be read.
    pub fn rewind(&mut self) -> Result<(), Error> {
        self.source.rewind()?;
        self.piece.clear();
        self.used = 0;
        Ok(())
    }

    /// The next whole lines without their line ends, at most `max` and about 1 MiB: faster than
    /// [`BufRead::lines`]. Empty: the end. Not to be mixed with the other ways to read.
    ///
    /// # Errors
    /// `invalid-data` for a line over 64 MiB or one that is not UTF-8.
    pub fn next_lines(&mut self, max: u32) -> Result<Vec<String>, Error> {
        self.source.read_lines(max)
    }
}

impl BufRead for Reader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.piece.len() {
            self.piece = self.source.read(PIECE).map_err(io::Error::other)?;
            self.used = 0;
        }
        Ok(&self.piece[self.used..])
    }

    fn consume(&mut self, count: usize) {
        self.used = self.piece.len().min(self.used + count);
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}
