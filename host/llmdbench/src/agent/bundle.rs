//! What an agent is given: an archive of everything that its load is made of. Secrets are not in it.
//!
//! | file | what it is |
//! | --- | --- |
//! | `experiment.yaml` | the settings that make the load, their files named as below |
//! | `bundle.json` | the plan, the target, and what plugins are granted |
//! | `files/N-NAME` | plugins, data, tokenizer, certificates |

use crate::agent::Folder;
use crate::chosen::Use;
use crate::error::{Error, Result};
use crate::experiment::Experiment;
use crate::phase::plan::Prepared;
use crate::plan::{Plan, Target};
use crate::run_dir;
use crate::settings::{SETTINGS, Settings};
use load::Shard;
use plugin_host::Source;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Settings that agents have no use for, by their beginnings: where the stack is deployed and the work folder lies, and
/// how agents themselves are made.
const NOT_THEIRS: &[&str] = &[
    "analyze.plugins",
    "cluster.",
    "control.",
    "deploy.",
    "harness.",
    "load.cpu",
    "load.from",
    "load.image",
    "load.memory",
    "load.pod_spec",
    "load.shards",
    "scenario",
    "target.api_key_env",
    "target.ca_file",
    "target.tokenizer",
    "workload.",
];

/// Written where the archive is unpacked.
const SHARD: &str = "shard.json";

/// What is in the archive beside files.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Bundle {
    /// The controller's.
    plan: Plan,
    /// Where the model answers.
    pub(crate) target: Target,
    /// What plugins may do.
    pub(crate) grants: Vec<String>,
}

impl Bundle {
    /// Reads it from where the archive was unpacked.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("bundle.json");
        run_dir::read_json(&path)?
            .ok_or_else(|| Error::unexpected(format!("`{}` is not there", path.display())))
    }

    /// The controller's plan, as an agent with `own` files carries it out.
    pub(crate) fn plan_with(&self, own: &Plan) -> Plan {
        let (theirs, mine) = (&self.plan.experiment, &own.experiment);
        let experiment = Experiment {
            name: theirs.name.clone(),
            scenario: theirs.scenario.clone(),
            deploy: theirs.deploy.clone(),
            ..mine.clone()
        };
        Plan { experiment, plugins: own.plugins.clone(), ..self.plan.clone() }
    }
}

/// Which of the agents this one is.
pub(crate) fn shard(folder: &Path) -> Result<Shard> {
    let [index, count] = run_dir::read_json(&folder.join(SHARD))?.unwrap_or([0, 1]);
    Ok(Shard { index, count })
}

/// Writes an archive of an agent's results, the journal left out.
pub(crate) fn results(folder: &Folder, out: impl Write) -> Result<()> {
    let results = folder.results();
    let mut archive = tar::Builder::new(out);
    let mut add = |path: &Path, name: &Path| -> Result<()> {
        let added = File::open(path).and_then(|mut file| archive.append_file(name, &mut file));
        added.map_err(|error| failed(&error))
    };
    for path in files(&results.results) {
        if path != results.records() {
            add(&path, path.strip_prefix(&results.results).unwrap_or(&path))?;
        }
    }
    archive.finish().map_err(|error| failed(&error))
}

/// The files in a folder and those below it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.path()) {
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// The experiment file in an unpacked archive.
pub(crate) fn experiment(folder: &Path) -> PathBuf {
    folder.join("experiment.yaml")
}

/// Writes the archive.
pub(crate) fn pack(prepared: &Prepared, target: &Target, out: impl Write) -> Result<()> {
    let mut archive = Archive { tar: tar::Builder::new(out), files: 0 };
    let mut values = theirs(&prepared.settings);
    let mut set = |path: &str, value: Value| put(&mut values, path, value);
    set("deploy.endpoint", target.endpoints.clone().into());
    set("deploy.model", target.model.clone().into());
    let (harness, workload) = (&prepared.chosen.harness, &prepared.chosen.workload);
    for (kind, used) in [("harness", harness), ("workload", workload)] {
        let name = match used.plugin.source() {
            Source::Embedded(_) => used.plugin.name().to_owned(),
            Source::File(path) => archive.file(path)?,
        };
        set(&format!("{kind}.plugin"), name.into());
        let path = format!("{kind}.settings");
        if prepared.settings.is_set(&path) || !used.inputs().is_empty() {
            set(&path, settings(used, &mut archive)?);
        }
    }
    let wanted = &prepared.plan.experiment.target;
    for (path, file) in
        [("target.tokenizer", &wanted.tokenizer), ("target.ca_file", &wanted.ca_file)]
    {
        if let Some(file) = file {
            let file = if file.is_dir() { file.join("tokenizer.json") } else { file.clone() };
            set(path, archive.file(&file)?.into());
        }
    }
    let grants =
        harness.grants().iter().chain(workload.grants()).map(ToString::to_string).collect();
    let bundle = Bundle { plan: prepared.plan.clone(), target: target.clone(), grants };
    archive.json("experiment.yaml", &values)?;
    archive.json("bundle.json", &bundle)?;
    archive.tar.finish().map_err(|error| failed(&error))
}

/// Unpacks an archive of so many bytes, and keeps which of the agents this one is.
pub(crate) fn unpack(
    from: impl Read,
    bytes: u64,
    folder: &Folder,
    shard: u32,
    shards: u32,
) -> Result<()> {
    let folder = folder.bundle();
    let mut from = from.take(bytes);
    if folder.is_dir() {
        // It came before, and only the answer to it was lost.
        std::io::copy(&mut from, &mut std::io::sink()).map_err(|error| failed(&error))?;
        return Ok(());
    }
    let new = folder.with_extension("new");
    let _ = std::fs::remove_dir_all(&new);
    run_dir::make(&new)?;
    let mut archive = tar::Archive::new(&mut from);
    archive.unpack(&new).map_err(|error| {
        Error::unexpected(format!("cannot unpack into `{}`", new.display())).because(error)
    })?;
    // The archive ends before its padding does.
    let rest = std::io::copy(&mut from, &mut std::io::sink());
    run_dir::write_json(&new.join(SHARD), &[shard, shards])?;
    rest.and_then(|_| std::fs::rename(&new, &folder)).map_err(|error| {
        Error::unexpected(format!("cannot make `{}`", folder.display())).because(error)
    })
}

/// The settings that make the load and that somebody set.
fn theirs(settings: &Settings) -> Value {
    let mut values = Value::Object(Map::new());
    for setting in SETTINGS {
        let is_theirs = !setting.secret
            && settings.is_set(setting.path)
            && !NOT_THEIRS.iter().any(|beginning| setting.path.starts_with(beginning));
        if is_theirs {
            put(&mut values, setting.path, settings.get(setting.path).clone());
        }
    }
    values
}

/// A plugin's settings, the files that they name in the archive.
fn settings<W: Write>(used: &Use, archive: &mut Archive<W>) -> Result<Value> {
    let mut settings = used.settings.clone();
    for (pointer, file) in used.inputs() {
        // A profile that is built in is built in there, too.
        if file.is_file()
            && let Some(value) = settings.pointer_mut(pointer)
        {
            *value = archive.file(file)?.into();
        }
    }
    Ok(settings)
}

fn put(values: &mut Value, dotted: &str, value: Value) {
    let mut at = values;
    for part in dotted.split('.') {
        at = &mut at[part];
    }
    *at = value;
}

struct Archive<W: Write> {
    tar: tar::Builder<W>,
    files: usize,
}

impl<W: Write> Archive<W> {
    /// Adds a file, and gives its path in the archive.
    fn file(&mut self, path: &Path) -> Result<String> {
        self.files += 1;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("files/{}-{name}", self.files);
        let added = File::open(path).and_then(|mut file| self.tar.append_file(&name, &mut file));
        added.map_err(|error| {
            Error::usage(format!("cannot hand `{}` to the agents", path.display())).because(error)
        })?;
        Ok(name)
    }

    fn json(&mut self, name: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_vec(value).map_err(|error| failed(&error))?;
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        self.tar.append_data(&mut header, name, text.as_slice()).map_err(|error| failed(&error))
    }
}

fn failed(error: &dyn std::error::Error) -> Error {
    Error::unexpected("cannot make the archive for the agents").cause(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_comes_again_is_taken_and_changes_nothing() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::at(temporary.path());
        let mut bytes = Vec::new();
        let mut archive = Archive { tar: tar::Builder::new(&mut bytes), files: 0 };
        archive.json("experiment.yaml", &Value::from("x")).unwrap();
        archive.tar.finish().unwrap();
        drop(archive);
        for _ in 0..2 {
            let mut from = bytes.as_slice();
            unpack(&mut from, bytes.len() as u64, &folder, 1, 3).unwrap();
            assert!(from.is_empty(), "all of it is read");
        }
        assert_eq!(shard(&folder.bundle()).unwrap(), Shard { index: 1, count: 3 });
        assert!(experiment(&folder.bundle()).is_file());
    }
}
