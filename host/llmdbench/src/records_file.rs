//! [`Records`]: the records of a results folder, entry by entry, with errors that name the file.

use crate::error::{Error, Result};
use crate::run_dir::Results;
use records::{Entry, Header, Reader};
use std::fmt::Display;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// The records of a results folder.
#[derive(Debug)]
pub(crate) struct Records {
    path: PathBuf,
    reader: Reader<BufReader<File>>,
}

impl Records {
    /// Opens them and reads their header.
    pub(crate) fn open(results: &Results) -> Result<Self> {
        let path = results.records().to_owned();
        let file = File::open(&path).map_err(|error| unusable(&path, &error))?;
        let reader = Reader::new(BufReader::with_capacity(1 << 20, file))
            .map_err(|error| unusable(&path, &error))?;
        Ok(Self { path, reader })
    }

    /// What the first line says.
    pub(crate) fn header(&self) -> &Header {
        self.reader.header()
    }

    /// The next entry. None: the end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        self.reader.next_entry().map_err(|error| unusable(&self.path, &error))
    }

    /// The number of the line that the last entry stood in.
    pub(crate) fn line(&self) -> u64 {
        self.reader.line()
    }

    /// Whether the last line was cut off.
    pub(crate) fn truncated(&self) -> bool {
        self.reader.truncated()
    }

    /// Something in them that cannot be used.
    pub(crate) fn unusable(&self, why: &dyn Display) -> Error {
        unusable(&self.path, why)
    }
}

fn unusable(path: &Path, why: &dyn Display) -> Error {
    Error::usage(format!("cannot read the records `{}`", path.display())).cause(why.to_string())
}
