//! `inputs`: the files that the user attached, read in pieces.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use wasmtime::component::Resource;

use crate::capability::error;
use crate::instance::State;
use crate::wit::inputs;
use crate::wit::types::{Error, ErrorKind};

/// Most bytes of one answer, unless a single line is longer.
const PIECE: usize = 1 << 20;
/// Longest line.
const MAX_LINE: usize = 64 << 20;
/// Reading on by so many bytes starts the time of a call anew. Each byte must not: a plugin that
/// read them one by one would have years.
const PROGRESS: u64 = 1 << 20;
/// How many files one instance may have open.
pub(crate) const MOST_OPEN: usize = 64;

/// A file that a plugin may read.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// The name that the plugin opens it by.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// The attached files of one instance, sorted by name.
pub(crate) struct Inputs {
    files: Vec<Input>,
    /// How far each file was read when that last counted as progress, in bytes of its contents.
    furthest: Vec<u64>,
}

impl Inputs {
    pub(crate) fn new(mut files: Vec<Input>) -> Self {
        files.sort_by(|one, other| one.name.cmp(&other.name));
        Self { furthest: vec![0; files.len()], files }
    }

    fn available(&self) -> Vec<inputs::Input> {
        let describe = |input: &Input| inputs::Input {
            name: input.name.clone(),
            size: std::fs::metadata(&input.path).map_or(0, |metadata| metadata.len()),
            media_type: media_type(&input.path).to_owned(),
        };
        self.files.iter().map(describe).collect()
    }

    fn open(&self, name: &str) -> Result<Reader, Error> {
        let index = self.files.iter().position(|input| input.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.files.iter().map(|input| input.name.as_str()).collect();
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            error(
                ErrorKind::NotFound,
                format!("no file is attached as `{name}`; attached are: {there}"),
            )
        })?;
        Reader::open(index, &self.files[index].path)
    }

    /// Whether a reader at this position of this file is clearly further on than any reader was.
    fn advances(&mut self, index: usize, position: u64) -> bool {
        let is_further = position >= self.furthest[index] + PROGRESS;
        if is_further {
            self.furthest[index] = position;
        }
        is_further
    }
}

/// A position in an attached file, or in the contents of a compressed one.
#[expect(unreachable_pub, reason = "the generated bindings export the resource's type")]
pub struct Reader {
    index: usize,
    path: PathBuf,
    source: Box<dyn BufRead + Send>,
    position: u64,
    line: u64,
}

impl Reader {
    fn open(index: usize, path: &Path) -> Result<Self, Error> {
        let source = contents(path).map_err(|cause| failed(path, &cause))?;
        Ok(Self { index, path: path.to_owned(), source, position: 0, line: 0 })
    }

    fn read(&mut self, max: u32) -> Result<Vec<u8>, Error> {
        let wanted = usize::try_from(max).unwrap_or(PIECE).min(PIECE);
        let mut bytes = Vec::with_capacity(wanted);
        let mut piece = (&mut self.source).take(wanted as u64);
        piece.read_to_end(&mut bytes).map_err(|cause| failed(&self.path, &cause))?;
        self.position += bytes.len() as u64;
        Ok(bytes)
    }

    fn read_lines(&mut self, max: u32) -> Result<Vec<String>, Error> {
        let mut lines = Vec::new();
        let mut room = PIECE;
        while lines.len() < usize::try_from(max).unwrap_or(usize::MAX) && room > 0 {
            let Some(line) = self.read_line()? else { break };
            // One for the line itself, or empty lines would be without end.
            room = room.saturating_sub(line.len() + 1);
            lines.push(line);
        }
        Ok(lines)
    }

    fn read_line(&mut self) -> Result<Option<String>, Error> {
        let mut bytes = Vec::new();
        let mut source = (&mut self.source).take(MAX_LINE as u64 + 2);
        let count =
            source.read_until(b'\n', &mut bytes).map_err(|cause| failed(&self.path, &cause))?;
        if count == 0 {
            return Ok(None);
        }
        self.position += count as u64;
        self.line += 1;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        let invalid = |what: String| {
            error(
                ErrorKind::InvalidData,
                format!("line {} of {} {what}", self.line, self.path.display()),
            )
        };
        if bytes.len() > MAX_LINE {
            return Err(invalid(format!("is longer than {} MiB", MAX_LINE >> 20)));
        }
        String::from_utf8(bytes).map(Some).map_err(|_| invalid("is not UTF-8".to_owned()))
    }

    fn rewind(&mut self) -> Result<(), Error> {
        *self = Self::open(self.index, &self.path)?;
        Ok(())
    }
}

/// The contents of a file: what a compressed one holds (gzip, zstd), whatever its name.
///
/// # Errors
/// The operating system's.
pub fn contents(path: &Path) -> io::Result<Box<dyn BufRead + Send>> {
    const GZIP: [u8; 2] = [0x1f, 0x8b];
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let mut file = BufReader::with_capacity(1 << 16, File::open(path)?);
    let start = file.fill_buf()?;
    if start.starts_with(&GZIP) {
        Ok(Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(file))))
    } else if start.starts_with(&ZSTD) {
        Ok(Box::new(BufReader::with_capacity(1 << 16, zstd::Decoder::with_buffer(file)?)))
    } else {
        Ok(Box::new(file))
    }
}

fn failed(path: &Path, cause: &io::Error) -> Error {
    let kind = match cause.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            ErrorKind::InvalidData
        }
        _ => ErrorKind::Unavailable,
    };
    error(kind, format!("{} cannot be read: {cause}", path.display()))
}

fn media_type(path: &Path) -> &'static str {
    match path.extension().and_then(|end| end.to_str()).unwrap_or_default() {
        "json" => "application/json",
        "jsonl" => "application/jsonl",
        "csv" => "text/csv",
        "txt" => "text/plain",
        "gz" => "application/gzip",
        "zst" => "application/zstd",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "wav" => "audio/wav",
        "mp4" => "video/mp4",
        _ => "",
    }
}

impl State {
    /// Reading on makes the time of a call start anew: files end.
    fn note_reading(&mut self, (index, position): (usize, u64)) {
        if self.capabilities.inputs.advances(index, position) {
            self.progress();
        }
    }
}

impl inputs::Host for State {
    fn available(&mut self) -> wasmtime::Result<Vec<inputs::Input>> {
        Ok(self.capabilities.inputs.available())
    }

    fn open(&mut self, name: String) -> wasmtime::Result<Result<Resource<Reader>, Error>> {
        Ok(match self.capabilities.inputs.open(&name) {
            Ok(reader) => self.capabilities.table.push(reader).map_err(|_| {
                error(ErrorKind::Unavailable, format!("more than {MOST_OPEN} files are open"))
            }),
            Err(error) => Err(error),
        })
    }
}

impl inputs::HostReader for State {
    fn read(
        &mut self,
        own: Resource<Reader>,
        max: u32,
    ) -> wasmtime::Result<Result<Vec<u8>, Error>> {
        let reader = self.capabilities.table.get_mut(&own)?;
        let answer = reader.read(max);
        let place = (reader.index, reader.position);
        self.note_reading(place);
        Ok(answer)
    }

    fn read_lines(
        &mut self,
        own: Resource<Reader>,
        max: u32,
    ) -> wasmtime::Result<Result<Vec<String>, Error>> {
        let reader = self.capabilities.table.get_mut(&own)?;
        let answer = reader.read_lines(max);
        let place = (reader.index, reader.position);
        self.note_reading(place);
        Ok(answer)
    }

    fn rewind(&mut self, own: Resource<Reader>) -> wasmtime::Result<Result<(), Error>> {
        Ok(self.capabilities.table.get_mut(&own)?.rewind())
    }

    fn drop(&mut self, own: Resource<Reader>) -> wasmtime::Result<()> {
        self.capabilities.table.delete(own)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn attach(name: &str, bytes: &[u8]) -> (tempfile::TempDir, Inputs) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        (folder, Inputs::new(vec![Input { name: "data".to_owned(), path }]))
    }

    #[test]
    fn compressed_files_read_as_their_contents() {
        let text = "one\ntwo\r\n\nlast";
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text.as_bytes()).unwrap();
        let files = [
            ("a.txt", text.as_bytes().to_vec()),
            ("misnamed.txt", gzip.finish().unwrap()),
            ("a.zst", zstd::encode_all(text.as_bytes(), 1).unwrap()),
        ];
        for (name, bytes) in files {
            let (_folder, inputs) = attach(name, &bytes);
            let mut reader = inputs.open("data").unwrap();
            assert_eq!(reader.read(5).unwrap(), b"one\nt", "{name}");
            reader.rewind().unwrap();
            assert_eq!(reader.read_lines(2).unwrap(), ["one", "two"], "{name}");
            assert_eq!(reader.read_lines(9).unwrap(), ["", "last"], "{name}");
            assert!(reader.read_lines(9).unwrap().is_empty(), "{name}");
        }
    }

    #[test]
    fn answers_are_at_most_one_mebibyte() {
        let (_folder, inputs) = attach("a", &b"0123456\n".repeat(300_000));
        let mut reader = inputs.open("data").unwrap();
        assert_eq!(reader.read(u32::MAX).unwrap().len(), PIECE);
        let lines = reader.read_lines(u32::MAX).unwrap();
        assert_eq!(lines.len(), PIECE / 8);
    }

    #[test]
    fn what_cannot_be_read_says_where() {
        let (_folder, inputs) = attach("a", b"fine\n\xff\xfe\n");
        let mut reader = inputs.open("data").unwrap();
        let error = reader.read_lines(9).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidData);
        assert!(
            error.message.starts_with("line 2 of ") && error.message.ends_with(" is not UTF-8"),
            "{}",
            error.message
        );
        let Err(error) = inputs.open("other") else { panic!("opened") };
        assert_eq!(error.message, "no file is attached as `other`; attached are: data");
    }

    #[test]
    fn only_reading_on_by_a_good_piece_is_progress() {
        let (_folder, mut inputs) = attach("a", b"");
        assert!(!inputs.advances(0, 4));
        assert!(inputs.advances(0, PROGRESS));
        assert!(!inputs.advances(0, PROGRESS));
        assert!(!inputs.advances(0, 2 * PROGRESS - 1));
        assert!(inputs.advances(0, 2 * PROGRESS));
        assert!(!inputs.advances(0, PROGRESS));
    }
}
