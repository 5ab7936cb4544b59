//! What of load runs is still in a cluster: agents that nobody has collected, and who follows them.

use super::Record;
use super::crew::{self, Facts};
use crate::error::{Error, Exit, Problem, Result};
use crate::printer::Printer;
use crate::run_dir::{self, Results, RunDir};
use std::fs::File;

/// The file in `agents/` that is locked by whoever follows them.
const LOCK: &str = "lock";
/// Why nothing more comes from agents that were removed before they were collected.
const GIVEN_UP: &str = "`llmdbench teardown --discard-results` removed it before it was collected";

/// Whether agents of a load run are still to be collected, or what they left is still to be put together.
pub(crate) fn left(results: &Results) -> Option<Record> {
    let record = run_dir::read_json::<Record>(&results.agents_record()).ok()??;
    (!record.is_collected || record.is_unmerged).then_some(record)
}

/// Keeps others from following the same agents, as long as the file lives.
pub(super) fn lock(results: &Results) -> Result<File> {
    let path = results.agents().join(LOCK);
    let opened = File::create(&path);
    let file = opened.map_err(|error| {
        Error::unexpected(format!("cannot write `{}`", path.display())).because(error)
    })?;
    file.try_lock().map_err(|_| {
        Error::usage(format!(
            "another llmdbench follows the agents of `{}`",
            results.results.display()
        ))
        .hint("it collects what they have; `llmdbench status` shows when it has")
    })?;
    Ok(file)
}

/// Whether another process follows the agents of a load run.
pub(crate) fn is_followed(results: &Results) -> bool {
    let file = File::open(results.agents().join(LOCK));
    file.is_ok_and(|file| file.try_lock().is_err())
}

/// Whether agents may have what is missing here.
pub(crate) fn may_have_more(results: &Results) -> bool {
    left(results).is_some_and(|record| !record.uncollected(results).is_empty())
}

/// Refuses to remove agents that may have what is missing here, and such that another process follows.
pub(crate) fn refuse_loss(dir: &RunDir) -> Result<()> {
    let all = dir.all_results();
    let mut problems: Vec<Problem> = all.iter().filter_map(|one| loss(one, dir)).collect();
    let Some(last) = problems.pop() else { return Ok(()) };
    problems.push(last.hint("--discard-results takes everything down all the same"));
    Err(Error::problems(problems).exit(Exit::Teardown))
}

/// What would be lost of a load run if its agents were removed now. None: nothing.
fn loss(results: &Results, dir: &RunDir) -> Option<Problem> {
    let record = left(results).filter(|record| !record.is_collected)?;
    let (folder, at) = (results.results.display(), dir.root().display());
    let job = format!("the Job {} in {}", record.job, record.namespace);
    if is_followed(results) {
        let message = format!(
            "another llmdbench follows {job}, which makes the load of `{folder}`: it would be cut off"
        );
        let hint = format!("`llmdbench status --workdir {at}` shows when everything is collected");
        return Some(Problem::new(message).hint(hint));
    }
    let agents: Vec<String> = record.uncollected(results).iter().map(u32::to_string).collect();
    let agents = match agents.as_slice() {
        [] => return None,
        [one] => format!("agent {one} of {}", record.shards),
        some => format!("agents {} of {}", some.join(", "), record.shards),
    };
    let message = format!(
        "what {agents} measured for `{folder}` is not collected: it would be lost with {job}"
    );
    let hint = format!(
        "`llmdbench run --attach --workdir {at}` collects it; then the stack can be taken down"
    );
    Some(Problem::new(message).hint(hint))
}

/// Notes of agents that were removed that nothing more comes from them. Who follows some notes it without this.
pub(crate) fn give_up(dir: &RunDir, printer: &Printer) -> Result<()> {
    for results in dir.all_results() {
        let Some(mut record) = left(&results) else { continue };
        let uncollected = record.uncollected(&results);
        if uncollected.is_empty() {
            continue;
        }
        let Ok(_lock) = lock(&results) else { continue };
        record.give_up(&uncollected);
        run_dir::write_json(&results.agents_record(), &record)?;
        printer.step(&format!(
            "given up: what the agents had for `{}`; `llmdbench run --attach --workdir {}` merges what is here of it",
            results.results.display(),
            dir.root().display()
        ));
    }
    Ok(())
}

impl Record {
    /// The agents that may have what is missing here: not all of theirs is, nor is it lost for good. The record names
    /// them before they are told to begin, so that one without names is of agents that have nothing.
    fn uncollected(&self, results: &Results) -> Vec<u32> {
        let is_lost = |agent: &Facts| agent.lost.is_some() && !agent.may_have_more;
        let is_here = |agent: &Facts| crew::collected(&results.agents(), agent.shard).is_some();
        let agents = self.agents.iter().filter(|agent| !self.is_collected && !is_lost(agent));
        agents.filter(|agent| !is_here(agent)).map(|agent| agent.shard).collect()
    }

    /// Takes what these agents may have for lost.
    fn give_up(&mut self, shards: &[u32]) {
        for agent in self.agents.iter_mut().filter(|agent| shards.contains(&agent.shard)) {
            agent.lost = Some(GIVEN_UP.to_owned());
            agent.may_have_more = false;
        }
        self.is_collected = true;
        // What is here of it is made the results of one run by whoever asks for it.
        self.is_unmerged = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;
    use serde_json::{Value, json};

    /// A run folder with a load run of two agents, of which this is known.
    fn folder(agents: &Value) -> (tempfile::TempDir, RunDir, Results) {
        let root = tempfile::tempdir().unwrap();
        let dir = RunDir::at(root.path());
        let results = dir.next_results();
        let record = json!({
            "job": "load", "namespace": "ns", "shards": 2, "is_collected": false, "agents": agents,
            "target": {"endpoints": [], "model": "m", "metrics": [], "facts": {}}, "settings": {},
        });
        run_dir::make(&results.agents()).unwrap();
        run_dir::write_json(&results.agents_record(), &record).unwrap();
        (root, dir, results)
    }

    fn agent(shard: u32, lost: Option<&str>, may_have_more: bool) -> Value {
        json!({"shard": shard, "pod": "", "node": "", "image": "", "clock_offset_ms": null, "clock_error_ms": null,
            "reconnected": 0, "lost": lost, "may_have_more": may_have_more})
    }

    fn collect(results: &Results, shard: u32) {
        let ended = json!({"state": "ended", "outcome": {"ends": []}});
        run_dir::write_json(&results.agent(&shard.to_string()).join("collected.json"), &ended)
            .unwrap();
    }

    #[test]
    fn only_what_can_still_be_had_stands_in_the_way_of_a_teardown() {
        let check = |agents: Value, collected: &[u32], expected: &[u32]| {
            let (_root, dir, results) = folder(&agents);
            for shard in collected {
                collect(&results, *shard);
            }
            assert_eq!(left(&results).unwrap().uncollected(&results), expected, "{agents}");
            assert_eq!(may_have_more(&results), !expected.is_empty(), "{agents}");
            let refused = refuse_loss(&dir).map_err(|error| error.exit);
            let expected = if expected.is_empty() { Ok(()) } else { Err(Exit::Teardown) };
            assert_eq!(refused, expected, "{agents}");
        };
        // Killed before any was told to begin.
        check(json!([]), &[], &[]);
        let both = json!([agent(0, None, false), agent(1, None, false)]);
        check(both.clone(), &[], &[0, 1]);
        check(both.clone(), &[1], &[0]);
        check(both, &[0, 1], &[]);
        let gone = json!([agent(0, None, false), agent(1, Some("deleted"), false)]);
        check(gone, &[0], &[]);
        let silent = json!([agent(0, None, false), agent(1, Some("silent"), true)]);
        check(silent, &[0], &[1]);
    }

    #[test]
    fn a_refusal_names_what_collects_and_what_gives_up() {
        let (_root, dir, results) = folder(&json!([agent(0, None, false), agent(1, None, false)]));
        collect(&results, 0);
        let hints = |dir: &RunDir| {
            let error = refuse_loss(dir).unwrap_err();
            let problem = &error.problems[0];
            format!("{}; {}", problem.message, problem.hints.join("; "))
        };
        let said = hints(&dir);
        for part in
            ["Job load in ns", "what agent 1 of 2", "run --attach --workdir", "--discard-results"]
        {
            assert!(said.contains(part), "{said}");
        }
        let lock = lock(&results).unwrap();
        let said = hints(&dir);
        assert!(said.contains("another llmdbench follows the Job"), "{said}");
        assert!(said.contains("--discard-results") && !said.contains("--attach"), "{said}");
        drop(lock);
    }

    #[test]
    fn what_was_given_up_is_not_waited_for_and_can_be_merged() {
        let (_root, dir, results) = folder(&json!([agent(0, None, false), agent(1, None, false)]));
        collect(&results, 0);
        let printer = Printer::new(false, false);
        give_up(&dir, &printer).unwrap();
        let record = left(&results).unwrap();
        assert!(record.is_collected && record.is_unmerged);
        let lost: Vec<_> = record.agents.iter().map(|agent| agent.lost.is_some()).collect();
        assert_eq!(lost, [false, true]);
        assert!(refuse_loss(&dir).is_ok());
    }
}
