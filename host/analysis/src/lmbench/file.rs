//! One CSV file: its rows, and the rate that its name tells.

/// A file of results.
#[derive(Debug, Clone, PartialEq)]
pub struct File {
    /// Requests per second.
    pub qps: f64,
    /// Its requests, in the file's order.
    pub rows: Vec<Row>,
    /// Requests that were left out.
    pub left_out: Vec<LeftOut>,
}

/// A request with a number that no server can have caused, and no picture can show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// From 1.
    pub line: usize,
    /// The column's heading.
    pub column: &'static str,
    /// What stands there.
    pub cell: String,
}

/// More than this is no time in seconds, no count of tokens and no rate.
pub(super) const MOST: f64 = 1e12;

/// A request. Times in seconds; None: the file does not say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Row {
    /// Tokens of the prompt.
    pub prompt_tokens: Option<f64>,
    /// Tokens of the answer.
    pub generation_tokens: Option<f64>,
    /// Time to the first token.
    pub ttft: Option<f64>,
    /// From the first token to the end.
    pub generation_time: Option<f64>,
    /// The user who asked; files of ShareGPT runs have none.
    pub user_id: Option<u64>,
}

/// Why a file is left out.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadFile {
    /// Its name does not end with a rate.
    #[error("its name does not end with a rate, as in LMBench_short_input_qps0.5.csv")]
    Name,
    /// It lacks a column.
    #[error("its header has no column `{0}`")]
    Column(&'static str),
    /// A cell is no number.
    #[error("line {line}: `{cell}` in the column `{column}` is no number")]
    Number {
        /// From 1.
        line: usize,
        /// Its heading.
        column: &'static str,
        /// What stands there.
        cell: String,
    },
    /// It is no CSV.
    #[error("it is no CSV file: {0}")]
    Csv(String),
}

const COLUMNS: [&str; 4] = ["prompt_tokens", "generation_tokens", "ttft", "generation_time"];
const USER: &str = "user_id";

impl File {
    /// Reads a file; `name` is that of the file alone.
    ///
    /// # Errors
    /// When it is no such file.
    pub fn parse(name: &str, text: &str) -> Result<Self, BadFile> {
        let qps = qps(name).ok_or(BadFile::Name)?;
        let whole = without_cut_row(text.trim_start_matches('\u{feff}'));
        let mut reader = csv::ReaderBuilder::new().from_reader(whole.as_bytes());
        let broken = |error: csv::Error| BadFile::Csv(error.to_string());
        let header = reader.headers().map_err(broken)?.clone();
        let place = |name: &str| header.iter().position(|title| title.trim() == name);
        let mut places = [0; COLUMNS.len()];
        for (found, name) in places.iter_mut().zip(COLUMNS) {
            *found = place(name).ok_or(BadFile::Column(name))?;
        }
        let user = place(USER);
        let (mut rows, mut left_out) = (Vec::new(), Vec::new());
        for record in reader.records() {
            let record = record.map_err(broken)?;
            let line = record.position().map_or(0, |at| usize::try_from(at.line()).unwrap_or(0));
            let number = |at: usize, column: &'static str| -> Result<Option<f64>, BadFile> {
                let cell = record.get(at).unwrap_or_default().trim();
                if cell.is_empty() {
                    return Ok(None);
                }
                match cell.parse::<f64>() {
                    Ok(number) => Ok(Some(number).filter(|number| !number.is_nan())),
                    Err(_) => Err(BadFile::Number { line, column, cell: cell.to_owned() }),
                }
            };
            let mut values = [None; COLUMNS.len()];
            for (value, (&at, column)) in values.iter_mut().zip(places.iter().zip(COLUMNS)) {
                *value = number(at, column)?;
            }
            let [prompt_tokens, generation_tokens, ttft, generation_time] = values;
            let user_id = match user {
                Some(at) => number(at, USER)?.map(|id| id as u64),
                None => None,
            };
            let is_absurd = |value: &Option<f64>| value.is_some_and(|value| value.abs() > MOST);
            if let Some(i) = values.iter().position(is_absurd) {
                let cell = record.get(places[i]).unwrap_or_default().trim().to_owned();
                left_out.push(LeftOut { line, column: COLUMNS[i], cell });
                continue;
            }
            rows.push(Row { prompt_tokens, generation_tokens, ttft, generation_time, user_id });
        }
        Ok(Self { qps, rows, left_out })
    }
}

impl Row {
    /// First token and the rest.
    #[must_use]
    pub fn total_time(&self) -> Option<f64> {
        Some(self.ttft? + self.generation_time?)
    }

    /// Tokens of the answer per second of its generation.
    #[must_use]
    pub fn generation_rate(&self) -> Option<f64> {
        let time = self.generation_time.filter(|time| *time > 0.0)?;
        Some(self.generation_tokens? / time).filter(|rate| *rate <= MOST)
    }
}

/// Without the last row where it ends before its last cell: the file was cut off there.
fn without_cut_row(text: &str) -> &str {
    let cells = |line: &str| line.split(',').count();
    let header = text.lines().next().unwrap_or_default();
    match text.rfind('\n') {
        Some(end) if cells(&text[end + 1..]) < cells(header) => &text[..=end],
        _ => text,
    }
}

/// What stands behind the last `_`, without `qps`.
fn qps(name: &str) -> Option<f64> {
    let stem = name.strip_suffix(".csv")?;
    let last = stem.rsplit('_').next()?;
    last.strip_prefix("qps")
        .unwrap_or(last)
        .parse()
        .ok()
        .filter(|qps: &f64| qps.is_finite() && *qps > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = "prompt_tokens,generation_tokens,ttft,generation_time,user_id,question_id,launch_time,finish_time\n75.0,20.0,0.1,0.9,322,1,1.5,2.5\n";
    const SHORT: &str = "prompt_tokens,generation_tokens,ttft,generation_time,launch_time,finish_time\n75,,0.1,0.0,1.5,2.5\n";

    #[test]
    fn both_headers_and_both_kinds_of_names_are_read() {
        let full = File::parse("LMBench_short_input_qps0.5.csv", FULL).unwrap();
        assert_eq!((full.qps, full.rows[0].user_id), (0.5, Some(322)));
        assert_eq!(full.rows[0].total_time(), Some(1.0));
        let short = File::parse("LMBench_sharegpt_output_1.34.csv", SHORT).unwrap();
        assert_eq!((short.qps, short.rows[0].user_id), (1.34, None));
        assert_eq!(short.rows[0].generation_rate(), None);
    }

    #[test]
    fn what_is_no_such_file_is_refused_with_its_reason() {
        let check = |name: &str, text: &str, expected: BadFile| {
            assert_eq!(File::parse(name, text).unwrap_err(), expected);
        };
        check("LMBench_summary.csv", FULL, BadFile::Name);
        check("a_1.csv", "a,b\n1,2\n", BadFile::Column("prompt_tokens"));
        let bad = FULL.replace("0.9", "fast");
        let expected =
            BadFile::Number { line: 2, column: "generation_time", cell: "fast".to_owned() };
        check("a_1.csv", &bad, expected);
        let cut = File::parse("a_1.csv", &format!("{FULL}75.0,20.0,0.1")).unwrap();
        assert_eq!(cut.rows.len(), 1, "the row that was cut off is left out");
        let unended = File::parse("a_1.csv", FULL.trim_end()).unwrap();
        assert_eq!(unended.rows.len(), 1, "a last line needs no line break");
        let marked = File::parse("a_1.csv", &format!("\u{feff}{FULL}")).unwrap();
        assert_eq!(marked.rows.len(), 1, "a mark of the encoding is no part of the header");
        let undefined = File::parse("a_1.csv", &FULL.replace("0.9", "nan")).unwrap();
        assert_eq!(undefined.rows[0].generation_time, None);
        check("a_-1.csv", FULL, BadFile::Name);
        let fast = File::parse("a_1.csv", &FULL.replace("0.9", "1e-320")).unwrap();
        assert_eq!(fast.rows[0].generation_rate(), None);
        for cell in ["1e308", "-1e13", "inf"] {
            let row = "75.0,20.0,0.1,0.9,322,1,1.5,2.5\n";
            let absurd = format!("{FULL}{}{row}", row.replace("0.1", cell));
            let found = File::parse("a_1.csv", &absurd).unwrap();
            let left_out = LeftOut { line: 3, column: "ttft", cell: cell.to_owned() };
            assert_eq!((found.rows.len(), found.left_out), (2, vec![left_out]));
        }
        let ragged = format!("{FULL}1,2\n");
        assert!(matches!(File::parse("a_1.csv", &ragged), Err(BadFile::Csv(_))));
    }
}
