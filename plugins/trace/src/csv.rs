//! Rows of BurstGPT and Azure traces: CSV with a line that names the columns.

use crate::rows::{Asked, Fields, beginning};
use crate::settings::Format;

/// Where the columns stand that matter.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Columns {
    time: usize,
    input: usize,
    output: usize,
    /// How many there are.
    count: usize,
}

/// The format of a file with this first line. None: none of these.
pub(crate) fn format(line: &str) -> Option<Format> {
    [Format::Burstgpt, Format::Azure]
        .into_iter()
        .find(|format| Columns::find(line, *format).is_ok())
}

impl Columns {
    /// Finds the columns by their names, in any order; older and newer releases differ in the others.
    ///
    /// # Errors
    /// The name of a column that is missing.
    pub(crate) fn find(line: &str, format: Format) -> Result<Self, String> {
        let [time, input, output] = match format {
            Format::Azure => ["TIMESTAMP", "ContextTokens", "GeneratedTokens"],
            _ => ["Timestamp", "Request tokens", "Response tokens"],
        };
        let names: Vec<String> = line.split(',').map(plain).collect();
        let find = |wanted: &str| {
            names
                .iter()
                .position(|name| *name == plain(wanted))
                .ok_or_else(|| format!("there is no column {wanted:?}"))
        };
        Ok(Self {
            time: find(time)?,
            input: find(input)?,
            output: find(output)?,
            count: names.len(),
        })
    }

    /// What a row says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn read<'a>(&self, line: &'a str) -> Result<Fields<'a>, String> {
        let (mut time, mut input, mut output) = ("", "", "");
        let mut count = 0;
        for field in line.split(',').map(bare) {
            match count {
                at if at == self.time => time = field,
                at if at == self.input => input = field,
                at if at == self.output => output = field,
                _ => {}
            }
            count += 1;
        }
        if count != self.count {
            return Err(format!("there are {count} fields, and {} columns", self.count));
        }
        Ok(Fields {
            time,
            input: tokens(input, "the prompt's tokens")?,
            output: Some(tokens(output, "the answer's tokens")?),
            asked: Asked::Length,
        })
    }
}

/// Tools that know missing values write whole numbers as "400.0".
fn tokens(field: &str, what: &str) -> Result<u32, String> {
    let digits = field.strip_suffix(".0").unwrap_or(field);
    digits
        .parse()
        .map_err(|_| format!("{what} are {:?}, where a whole number should be", beginning(field)))
}

/// A field without the quotation marks that some tools put around it.
fn bare(field: &str) -> &str {
    let field = field.trim();
    field.strip_prefix('"').and_then(|field| field.strip_suffix('"')).unwrap_or(field)
}

/// A name without what spellings differ in.
fn plain(name: &str) -> String {
    bare(name).chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
}
