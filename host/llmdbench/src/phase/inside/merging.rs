//! Makes the results of one run of what its agents left.

use super::{Record, agents_of};
use crate::error::{Error, Exit, Result};
use crate::outcome::Outcome;
use crate::phase::inside::crew::{Crew, Facts};
use crate::plan::Plan;
use crate::run_dir::{self, Results};
use crate::secrets::Secrets;
use records::{Entry, Header, Reader};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;

/// Makes the results of one run of what the agents left. What cannot be put together now can be later: all of it stays
/// where it is.
pub(super) fn put_together(
    plan: &Plan,
    secrets: &Secrets,
    record: &mut Record,
    results: &Results,
    mut outcome: Outcome,
) -> Result<Outcome> {
    let mut lost = Vec::new();
    for (agent, why) in record.agents.iter().filter_map(|a| Some((a, a.lost.as_ref()?))) {
        let text = format!("agent {} of {} was lost: {why}", agent.shard, record.shards);
        let error = Error::new(Exit::Run, text.clone()).cause(match kept(&results.agents(), agent) {
            Some((requests, last)) => format!(
                "its records end {:.1} s after the begin of the load: {requests} requests are kept, and its part is missing from then on; the results are partial",
                last as f64 / 1e9
            ),
            None => "it left nothing: its part of the load is missing".to_owned(),
        });
        let error = match why.contains("OOMKilled") {
            true => error.hint("give agents more memory with `load.memory`"),
            false => error,
        };
        outcome.fail(Exit::Run, &error);
        lost.push((agent.shard as usize, text));
    }
    let files: Vec<(usize, Journal)> = record
        .agents
        .iter()
        .filter_map(|agent| Some((agent.shard as usize, journal(&results.agents(), agent)?)))
        .collect();
    // Where nobody left anything there is nothing to merge later either.
    record.is_unmerged = false;
    let Some(header) = files.first().map(|(_, reader)| reader.header().clone()) else {
        return Err(outcome.into_error(Error::new(Exit::Run, "no agent measured anything")));
    };
    let written = write_records(record, results, &header, files, &lost)
        .and_then(|()| write_run(plan, secrets, record, results, &outcome));
    record.is_unmerged = written.is_err();
    match written {
        Ok(()) => Ok(outcome),
        Err(error) => {
            outcome.fail(error.exit, &error);
            Err(outcome.into_error(error))
        }
    }
}

type Journal = Reader<BufReader<File>>;

/// The journal of an agent. None: it left none.
fn journal(folder: &Path, agent: &Facts) -> Option<Journal> {
    let file = File::open(Crew::journal(folder, agent.shard)).ok()?;
    Reader::new(BufReader::new(file)).ok()
}

/// Writes `records.jsonl`, and takes over what only the first agent writes.
fn write_records(
    record: &Record,
    results: &Results,
    header: &Header,
    files: Vec<(usize, Journal)>,
    lost: &[(usize, String)],
) -> Result<()> {
    let folder = results.agents();
    let failed = |error: &dyn std::error::Error| {
        Error::unexpected(format!("cannot merge what is in `{}`", folder.display()))
            .cause(error.to_string())
            .hint("nothing is lost: when the cause is gone, `llmdbench run --attach` merges it")
    };
    let new = results.records().with_extension("jsonl.new");
    if record.shards == 1 && lost.is_empty() {
        // The journal of the only agent is that of the run.
        std::fs::copy(Crew::journal(&folder, 0), &new).map_err(|error| failed(&error))?;
    } else {
        let out = BufWriter::new(File::create(&new).map_err(|error| failed(&error))?);
        let alone = record.agents.iter().filter(|agent| agent.lost.is_none());
        let alone: Vec<_> =
            alone.filter_map(|agent| Some((agent.shard as usize, agent.alone_from?))).collect();
        records::merge(header, files, record.shards, lost, &alone, out)
            .map_err(|error| failed(&error))?;
    }
    std::fs::rename(&new, results.records()).map_err(|error| failed(&error))?;
    for shared in [results.server_metrics(), results.cache()] {
        let name = shared.file_name().unwrap_or_default();
        let theirs = folder.join("0").join(name);
        if theirs.is_file() {
            std::fs::rename(&theirs, &shared).map_err(|error| failed(&error))?;
        }
    }
    Ok(())
}

/// Writes `run.json`.
fn write_run(
    plan: &Plan,
    secrets: &Secrets,
    record: &Record,
    results: &Results,
    outcome: &Outcome,
) -> Result<()> {
    let ran = (0..record.shards).find_map(|shard| {
        let file = results.agent(&shard.to_string()).join("run.json");
        run_dir::read_json::<Value>(&file).ok().flatten()
    });
    let mut run = ran.unwrap_or_else(|| json!({"format": "llmdbench.run", "version": "1.0"}));
    run["run"] = plan.run.clone().into();
    run["plugins"] = serde_json::to_value(&plan.plugins).unwrap_or_default();
    let mut target = record.target.clone();
    target.facts.insert("load".to_owned(), how_made(record));
    run["target"] = serde_json::to_value(&target).unwrap_or_default();
    run["settings"] = record.settings.clone();
    run["agents"] = serde_json::to_value(&record.agents).unwrap_or_default();
    run["exit"] = (outcome.exit() as i32).into();
    let text = serde_json::to_string_pretty(&run).unwrap_or_default();
    run_dir::write(&results.run(), secrets.redaction().clean(&text).as_bytes())
}

/// How many requests an agent's journal has, and when the last one ended. None: it has none.
fn kept(folder: &Path, agent: &Facts) -> Option<(u64, u64)> {
    let ends =
        journal(folder, agent)?.map_while(|entry| entry.ok()).filter_map(|entry| match entry {
            Entry::Record(record) => Some(record.finished),
            Entry::Event(_) => None,
        });
    ends.fold(None, |kept: Option<(u64, u64)>, end| {
        let (requests, last) = kept.unwrap_or_default();
        Some((requests + 1, last.max(end)))
    })
}

/// How the load was made, for the report.
fn how_made(record: &Record) -> String {
    let apart = |agent: &Facts| Some((agent.clock_offset_ms?, agent.clock_error_ms?));
    let clocks: Option<Vec<(f64, f64)>> = record.agents.iter().map(apart).collect();
    let agents = agents_of(record.shards);
    match clocks {
        Some(clocks) if record.shards > 1 => {
            // What an offset may be wrong by is what two agents may begin apart.
            let worst = clocks.iter().map(|(_, error)| *error).fold(0.0, f64::max);
            format!("made inside the cluster by {agents}, which began within {:.1} ms", 2.0 * worst)
        }
        _ => format!("made inside the cluster by {agents}"),
    }
}
