//! What `nvidia-smi` says of the GPUs of this machine, once a second, as long as it is wanted.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

/// Columns that tell which GPU a line is about, and columns that are kept.
const WHICH: [&str; 2] = ["index", "uuid"];
const COLUMNS: [&str; 5] =
    ["utilization.gpu", "memory.used", "power.draw", "clocks.sm", "temperature.gpu"];

/// The program, which runs until this is dropped.
#[derive(Debug)]
pub(crate) struct NvidiaSmi {
    child: Child,
    latest: Latest,
}

/// The newest line of each GPU.
type Latest = Arc<Mutex<BTreeMap<String, Vec<(String, f64)>>>>;

impl NvidiaSmi {
    /// Starts it. None: it is not on the PATH, or does not start.
    pub(crate) fn start() -> Option<Self> {
        let columns = WHICH.iter().chain(&COLUMNS).copied().collect::<Vec<_>>().join(",");
        let mut child = Command::new("nvidia-smi")
            .arg(format!("--query-gpu={columns}"))
            .args(["--format=csv,noheader,nounits", "-lms", "1000"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let output = child.stdout.take()?;
        let latest = Latest::default();
        let kept = Arc::clone(&latest);
        let reader = std::thread::Builder::new()
            .name("nvidia-smi".into())
            .spawn(move || follow(output, &kept));
        let this = Self { child, latest };
        // Dropping it ends the program.
        reader.is_ok().then_some(this)
    }

    /// The newest value of every column of every GPU, named as series of a metrics page.
    pub(crate) fn series(&self) -> Vec<(String, f64)> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.values().flatten().cloned().collect()
    }
}

impl Drop for NvidiaSmi {
    fn drop(&mut self) {
        // It has ended already, or ends now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps the newest lines until there are no more: of a program that has ended nothing is new. Which GPUs there are is
/// known when one of them is told of again; some of them would be taken for all.
fn follow(output: impl Read, latest: &Latest) {
    let latest = || latest.lock().unwrap_or_else(PoisonError::into_inner);
    let mut first = Some(BTreeMap::new());
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        let Some((gpu, values)) = read(&line) else { continue };
        if first.as_ref().is_some_and(|all| all.contains_key(&gpu)) {
            *latest() = first.take().unwrap_or_default();
        }
        match &mut first {
            Some(all) => all.insert(gpu, values),
            None => latest().insert(gpu, values),
        };
    }
    latest().clear();
}

/// A line: its GPU, and what is known of it. A GPU writes `[N/A]` for what it cannot measure.
fn read(line: &str) -> Option<(String, Vec<(String, f64)>)> {
    let mut fields = line.split(',').map(str::trim);
    let (index, uuid) = (fields.next()?, fields.next()?);
    index.parse::<u32>().ok()?;
    let values = COLUMNS
        .iter()
        .zip(fields)
        .filter_map(|(column, field)| {
            let value = field.parse::<f64>().ok().filter(|value| value.is_finite())?;
            let page = analysis::server::PAGE;
            let key = format!(
                "nvidia_smi:{column}{{gpu=\"{index}\",uuid=\"{uuid}\",{page}=\"nvidia-smi\"}}"
            );
            Some((key, value))
        })
        .collect();
    Some((index.to_owned(), values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use analysis::server;
    use std::io::Write;
    use std::time::{Duration, Instant};

    #[test]
    fn a_line_gives_what_the_gpu_can_measure() {
        let line = "1, GPU-5c6e1f2a-0000-1111-2222-333344445555, 87, 71235, 612.31, [N/A], 64";
        let (gpu, values) = read(line).unwrap();
        assert_eq!((gpu.as_str(), values.len()), ("1", 4));
        for (key, value) in &values {
            let series = server::parse_series(key, *value).unwrap();
            assert!(server::is_known(&series.name), "{key}");
            assert_eq!(series.label("gpu"), Some("1"));
        }
        assert_eq!(values[2].1, 612.31);
        for bad in ["", "No devices were found", "NVIDIA-SMI has failed, because, of, x"] {
            assert!(read(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn all_gpus_are_known_or_none_and_of_a_program_that_has_ended_nothing_is_new() {
        let (output, mut program) = std::io::pipe().unwrap();
        let latest = Latest::default();
        let kept = Arc::clone(&latest);
        let reader = std::thread::spawn(move || follow(output, &kept));
        let known = || latest.lock().unwrap().len();
        for gpu in ["0", "1", "0"] {
            assert_eq!(known(), 0);
            writeln!(program, "{gpu}, GPU-{gpu}, 87, 71235, 612.31, 1980, 64").unwrap();
        }
        let began = Instant::now();
        loop {
            match known() {
                2 => break,
                some => assert_eq!(some, 0, "some are not all"),
            }
            assert!(began.elapsed() < Duration::from_secs(20), "the lines were not read");
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(program);
        reader.join().unwrap();
        assert_eq!(known(), 0);
    }
}
