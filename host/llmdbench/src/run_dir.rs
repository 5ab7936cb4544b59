//! [`RunDir`]: the folder of a run. The only place that decides where a file lies.

use crate::error::{Error, Result};
use crate::interrupt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where run folders are made when the user names none.
const HOME: &str = "workdir";

/// The folder of a run.
#[derive(Debug, Clone)]
pub(crate) struct RunDir {
    root: PathBuf,
}

/// The two folders of one load run: the first lies in the run folder itself, later ones in
/// numbered folders, so that none writes into another's files.
#[derive(Debug, Clone)]
pub(crate) struct Results {
    /// `results` or `results/N`.
    pub(crate) results: PathBuf,
    /// `records.jsonl` in it, or the file that the user named.
    records: PathBuf,
    /// `analysis` or `analysis/N`.
    pub(crate) analysis: PathBuf,
    /// `workload` or `workload/N`.
    workload: PathBuf,
}

impl RunDir {
    /// Makes the folder of a new run.
    pub(crate) fn create(chosen: Option<&str>, run: &str) -> Result<Self> {
        let root = match chosen {
            Some(path) => PathBuf::from(path),
            None => Self::home_of(run),
        };
        make(&root)?;
        if chosen.is_none() {
            lead_to(run);
        }
        Ok(Self { root })
    }

    /// Makes a folder that is to hold the folders of several runs, where the user names none.
    pub(crate) fn create_parent(run: &str) -> Result<PathBuf> {
        let root = Self::home_of(run);
        make(&root)?;
        lead_to(run);
        Ok(root)
    }

    fn home_of(run: &str) -> PathBuf {
        Path::new(HOME).join(run)
    }

    /// Opens the folder of an earlier command: the one named, or the newest.
    pub(crate) fn open(chosen: Option<&str>) -> Result<Self> {
        let root = match chosen {
            Some(path) => PathBuf::from(path),
            None => {
                let latest = Path::new(HOME).join("latest");
                fs::canonicalize(&latest).map(relative).map_err(|_| {
                    Error::usage("there is no run to work on: `workdir/latest` leads nowhere")
                        .hint("name its folder with --workdir DIR, or start one with `llmdbench bench FILE`")
                })?
            }
        };
        let dir = Self { root };
        if !dir.root.is_dir() {
            return Err(Error::usage(format!("there is no folder `{}`", dir.root.display())));
        }
        dir.refuse_several()?;
        Ok(dir)
    }

    /// The folder of an earlier command, where there is one: the one named, or the newest.
    pub(crate) fn open_if_any(chosen: Option<&str>) -> Result<Option<Self>> {
        let root = chosen.map_or_else(|| Path::new(HOME).join("latest"), PathBuf::from);
        if root.is_dir() { Self::open(chosen).map(Some) } else { Ok(None) }
    }

    /// Refuses a folder that is no run's but holds those of several.
    fn refuse_several(&self) -> Result<()> {
        if self.plan().exists() {
            return Ok(());
        }
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let runs = entries.map(|entry| entry.path()).filter(|path| {
            // Results have the plan that they came about by.
            path.join("plan.json").exists() && !path.ends_with("results")
        });
        let Some(first) = runs.min() else { return Ok(()) };
        let what = format!("`{}` holds the folders of several runs", self.root.display());
        let hint = format!("name one of them, such as --workdir {}", first.display());
        Err(Error::usage(what).hint(hint))
    }

    /// The folder of a run that is known by its path.
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// `plan.json`: everything decided.
    pub(crate) fn plan(&self) -> PathBuf {
        self.root.join("plan.json")
    }

    /// `target.json`: where the model answers.
    pub(crate) fn target(&self) -> PathBuf {
        self.root.join("target.json")
    }

    /// `setup/processes.json`: the processes that standup started.
    pub(crate) fn processes(&self) -> PathBuf {
        self.root.join("setup/processes.json")
    }

    /// `setup/objects.json`: what standup put into a cluster.
    pub(crate) fn objects(&self) -> PathBuf {
        self.root.join("setup/objects.json")
    }

    /// `setup/pods.json`: the pods of a stack in a cluster, with the digests of their images.
    pub(crate) fn pods(&self) -> PathBuf {
        self.root.join("setup/pods.json")
    }

    /// `setup/events.json`: what a cluster told of a stack.
    pub(crate) fn events(&self) -> PathBuf {
        self.root.join("setup/events.json")
    }

    /// `setup/smoketest.json`.
    pub(crate) fn smoketest(&self) -> PathBuf {
        self.root.join("setup/smoketest.json")
    }

    /// `setup/teardown.json`.
    pub(crate) fn teardown(&self) -> PathBuf {
        self.root.join("setup/teardown.json")
    }

    /// `setup/commands/<ns>_command.log`, where ns is the epoch in nanoseconds.
    pub(crate) fn command_log(&self, unix_ns: u128) -> PathBuf {
        self.root.join(format!("setup/commands/{unix_ns}_command.log"))
    }

    /// Keeps a command that was executed, with its outcome.
    pub(crate) fn log_command(&self, command: &str, outcome: &str) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let text = format!("---> will execute the command \"{command}\"\n{outcome}\n");
        write(&self.command_log(now), text.as_bytes())
    }

    /// `setup/yamls/NN_NAME.yaml`: objects and values of a plan.
    pub(crate) fn yaml(&self, file: &str) -> PathBuf {
        self.root.join("setup/yamls").join(file)
    }

    /// `setup/logs/NAME.log`: the output of a process of the stack, or of a container, "POD_CONTAINER".
    pub(crate) fn process_log(&self, name: &str) -> PathBuf {
        self.root.join(format!("setup/logs/{name}.log"))
    }

    /// The folder that a process of the stack runs in.
    pub(crate) fn process_folder(&self, name: &str) -> PathBuf {
        self.root.join(format!("setup/processes/{name}"))
    }

    /// `environment/NAME`.
    pub(crate) fn environment(&self, name: &str) -> PathBuf {
        self.root.join("environment").join(name)
    }

    /// The folders of the next load run.
    pub(crate) fn next_results(&self) -> Results {
        let n = self.runs().len() + 1;
        self.results(n)
    }

    /// The folders of the newest load run. None: there was none.
    pub(crate) fn newest_results(&self) -> Option<Results> {
        self.runs().last().map(|n| self.results(*n))
    }

    /// The folders of every load run, the oldest first.
    pub(crate) fn all_results(&self) -> Vec<Results> {
        self.runs().into_iter().map(|n| self.results(n)).collect()
    }

    /// The numbers of the load runs, rising.
    fn runs(&self) -> Vec<usize> {
        let is_taken =
            |results: Results| results.records.exists() || results.agents_record().exists();
        (1..).take_while(|n| is_taken(self.results(*n))).collect()
    }

    fn results(&self, n: usize) -> Results {
        let within = |folder: &str| {
            let folder = self.root.join(folder);
            if n == 1 { folder } else { folder.join(n.to_string()) }
        };
        let results = within("results");
        Results {
            records: results.join(RECORDS),
            results,
            analysis: within("analysis"),
            workload: within("workload"),
        }
    }
}

const RECORDS: &str = "records.jsonl";
const SERVER_METRICS: &str = "server_metrics.jsonl";
const CACHE: &str = "cache.json";
const CALIBRATION: &str = "calibration.json";
const AGENTS: &str = "agents";
const AGENTS_RECORD: &str = "agents.json";

/// Where things are kept that outlive runs: the folder of the setting, else
/// `$XDG_DATA_HOME/llmdbench`. None: there is no home either.
fn data_dir(chosen: Option<&str>) -> Option<PathBuf> {
    if let Some(chosen) = chosen {
        return Some(PathBuf::from(chosen));
    }
    let base = std::env::var_os("XDG_DATA_HOME")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share")))?;
    Some(base.join("llmdbench"))
}

/// `calibration/HOST.json` among what outlives runs: homes may be shared by several hosts.
pub(crate) fn calibration(data_dir: Option<&str>, host: &str) -> Option<PathBuf> {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '_' };
    let name: String = host.chars().map(safe).collect();
    Some(self::data_dir(data_dir)?.join("calibration").join(format!("{name}.json")))
}

/// The runs that lie below a folder, sorted by path: run folders, and folders with records.
///
/// # Errors
/// When the user asked for an end.
pub(crate) fn runs_below(folder: &Path) -> Result<Vec<PathBuf>> {
    const DEPTH: usize = 8;
    fn collect(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            interrupt::check()?;
            let path = entry.path();
            // Links are not followed: `workdir/latest` is one.
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if path.join(RECORDS).is_file() || RunDir::at(&path).newest_results().is_some() {
                found.push(path);
            } else if depth > 0 {
                collect(&path, depth - 1, found)?;
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    collect(folder, DEPTH, &mut found)?;
    found.sort();
    Ok(found)
}

impl Results {
    /// Finds them from a path that a user gave: a run folder, one of its results folders, or a
    /// records file.
    pub(crate) fn find(path: &Path) -> Result<Self> {
        let nothing = || {
            Error::usage(format!("there are no records in `{}`", path.display())).hint(
                "name the folder of a run, or a records.jsonl; `llmdbench status` shows what a folder holds",
            )
        };
        let folder = match path.parent() {
            Some(parent) if path.is_file() => parent,
            _ => path,
        };
        let records = if path.is_file() { path.to_owned() } else { path.join(RECORDS) };
        if records.is_file() {
            // Of a file that was carried elsewhere, the results lie beside it under its own name.
            let analysis = if records.ends_with(RECORDS) {
                Self::beside(folder)
            } else {
                records.with_extension("analysis")
            };
            let workload = folder.join("workload");
            return Ok(Self { results: folder.to_owned(), records, analysis, workload });
        }
        if !path.exists() {
            let error = Error::usage(format!("there is no file or folder `{}`", path.display()));
            return Err(match crate::experiment::near_path(path) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error,
            });
        }
        RunDir::at(path).newest_results().ok_or_else(nothing)
    }

    /// The analysis folder that belongs to a results folder.
    fn beside(results: &Path) -> PathBuf {
        let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
        match (name(results).as_deref(), results.parent()) {
            (Some("results"), Some(root)) => root.join("analysis"),
            (Some(n), Some(parent))
                if n.parse::<usize>().is_ok() && name(parent).as_deref() == Some("results") =>
            {
                parent.parent().unwrap_or(Path::new(".")).join("analysis").join(n)
            }
            _ => results.join("analysis"),
        }
    }

    /// `records.jsonl`.
    pub(crate) fn records(&self) -> &Path {
        &self.records
    }

    /// `plan.json`: the plan of this load run, which need not be the one of the stack.
    pub(crate) fn plan(&self) -> PathBuf {
        self.results.join("plan.json")
    }

    /// `calibration.json`: what had been measured of the machine's load generator before the run.
    pub(crate) fn calibration(&self) -> PathBuf {
        self.results.join(CALIBRATION)
    }

    /// `workload/profiles/NAME`: a profile, filled in.
    pub(crate) fn profile(&self, name: &str) -> PathBuf {
        self.workload.join("profiles").join(name)
    }

    /// `workload/harnesses`: where the original kept its harnesses; ours are plugins.
    pub(crate) fn harnesses(&self) -> PathBuf {
        self.workload.join("harnesses")
    }

    /// `LMBench_*.csv`: what an analyzer left in the form of the original, sorted by name.
    pub(crate) fn lmbench(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.results).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                analysis::lmbench::is_name(&name)
            })
            .collect();
        files.sort();
        files
    }

    /// `server_metrics.jsonl`: what the server said of itself.
    pub(crate) fn server_metrics(&self) -> PathBuf {
        self.results.join(SERVER_METRICS)
    }

    /// `cache.json`: what was asked of the server's prefix cache, and what was done.
    pub(crate) fn cache(&self) -> PathBuf {
        self.results.join(CACHE)
    }

    /// A file that an analyzer made.
    pub(crate) fn artifact(&self, name: &str) -> PathBuf {
        self.results.join(name)
    }

    /// Whether a name is that of a file of the run itself, or of another run's folder.
    pub(crate) fn is_own(&self, name: &str) -> bool {
        let first = Path::new(name).components().next();
        let first = first.map(|part| part.as_os_str().to_string_lossy().into_owned());
        let first = first.unwrap_or_default();
        [
            "run.json",
            "plan.json",
            "logs",
            RECORDS,
            SERVER_METRICS,
            CACHE,
            CALIBRATION,
            AGENTS,
            AGENTS_RECORD,
        ]
        .contains(&first.as_str())
            || first.parse::<usize>().is_ok()
    }

    /// `agents.json`: where load was made inside a cluster.
    pub(crate) fn agents_record(&self) -> PathBuf {
        self.results.join(AGENTS_RECORD)
    }

    /// `agents/N`: what each agent left.
    pub(crate) fn agents(&self) -> PathBuf {
        self.results.join(AGENTS)
    }

    /// `agents/NAME`: what an agent left.
    pub(crate) fn agent(&self, name: &str) -> PathBuf {
        self.agents().join(name)
    }

    /// `agents/events.json`: what the cluster told of the agents.
    pub(crate) fn agents_events(&self) -> PathBuf {
        self.agents().join("events.json")
    }

    /// `agents/pods.json`: their pods, as they were last.
    pub(crate) fn agents_pods(&self) -> PathBuf {
        self.agents().join("pods.json")
    }

    /// `run.json`: what ran.
    pub(crate) fn run(&self) -> PathBuf {
        self.results.join("run.json")
    }

    /// `logs/NAME`.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.results.join("logs").join(name)
    }

    /// `analysis/data/NAME`.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.analysis.join("data").join(name)
    }

    /// `analysis/plots/NAME`.
    pub(crate) fn plot(&self, name: &str) -> PathBuf {
        self.analysis.join("plots").join(name)
    }

    /// A file of the analysis as a path within its folder.
    pub(crate) fn in_analysis(&self, file: &Path) -> Option<String> {
        Some(file.strip_prefix(&self.analysis).ok()?.display().to_string())
    }

    /// `analysis/report.html`.
    pub(crate) fn report(&self) -> PathBuf {
        self.analysis.join("report.html")
    }
}

/// Makes a folder and those above it.
pub(crate) fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|error| {
        Error::unexpected(format!("cannot make the folder `{}`", folder.display())).because(error)
    })
}

/// Writes a file as a whole: a reader sees the old one or the new one.
pub(crate) fn write(path: &Path, contents: &[u8]) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::unexpected(format!("cannot write `{}`", path.display())).because(error)
    };
    if let Some(folder) = path.parent() {
        make(folder)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = fs::File::create(&new).map_err(failed)?;
    file.write_all(contents).map_err(failed)?;
    fs::rename(&new, path).map_err(failed)
}

/// Removes a file, if it is there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::unexpected(format!("cannot remove `{}`", path.display())).because(error))
        }
        _ => Ok(()),
    }
}

/// Writes a value as JSON.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| {
        Error::unexpected(format!("cannot write `{}`", path.display())).because(error)
    })?;
    text.push('\n');
    write(path, text.as_bytes())
}

/// Reads a value from JSON. None: there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(
                Error::unexpected(format!("cannot read `{}`", path.display())).because(error)
            );
        }
    };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        Error::usage(format!("`{}` cannot be understood", path.display())).because(error)
    })
}

/// Has `workdir/latest` lead to a folder in `workdir`.
fn lead_to(run: &str) {
    let latest = Path::new(HOME).join("latest");
    let _ = fs::remove_file(&latest);
    // A convenience: where links cannot be made, the folder's name is printed anyway.
    let _ = std::os::unix::fs::symlink(run, &latest);
}

/// A path as seen from the current folder, where it lies below it.
fn relative(path: PathBuf) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).map(Path::to_owned).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_gets_folders_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::at(folder.path());
        assert!(dir.newest_results().is_none());
        for (n, expected) in [(1, "results"), (2, "results/2"), (3, "results/3")] {
            let next = dir.next_results();
            assert_eq!(next.results, folder.path().join(expected), "run {n}");
            write(next.records(), b"x").unwrap();
        }
        assert_eq!(dir.runs(), [1, 2, 3]);
        assert_eq!(dir.newest_results().unwrap().analysis, folder.path().join("analysis/3"));
    }

    #[test]
    fn records_are_found_from_any_path_to_them() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::at(folder.path());
        write(dir.next_results().records(), b"x").unwrap();
        write(dir.next_results().records(), b"x").unwrap();
        let check = |path: &str, analysis: &str| {
            let found = Results::find(&folder.path().join(path)).unwrap();
            assert_eq!(found.analysis, folder.path().join(analysis), "{path}");
        };
        check("", "analysis/2");
        check("results", "analysis");
        check("results/2", "analysis/2");
        check("results/2/records.jsonl", "analysis/2");
        let fails = |path: &str, expected: &str| {
            let error = Results::find(&folder.path().join(path)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        fails("nothing", "there is no file or folder");
        fails("result", "did you mean");
        fails("results/2/none.jsonl", "there is no file or folder");
        make(&folder.path().join("empty")).unwrap();
        fails("empty", "there are no records in");
    }

    #[test]
    fn files_of_the_run_itself_are_known() {
        let results = RunDir::at(Path::new("w")).results(1);
        for name in ["records.jsonl", "run.json", "plan.json", "logs/a", "2/records.jsonl"] {
            assert!(results.is_own(name), "{name}");
        }
        assert!(!results.is_own("LMBench_a_1.csv") && !results.is_own("tail/stages.txt"));
    }

    #[test]
    fn a_records_file_of_another_name_is_read_and_its_analysis_has_that_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("monday.jsonl");
        write(&path, b"x").unwrap();
        let found = Results::find(&path).unwrap();
        assert_eq!(found.records(), path);
        assert_eq!(found.report(), folder.path().join("monday.analysis/report.html"));
    }
}
