//! Takes out of a cluster what a run has in it: what is recorded, and what is found by its label.

use super::{Inventory, Kubernetes, count, published, told};
use crate::action;
use crate::error::{Error, Exit, Result};
use crate::printer::Printer;
use crate::run_dir::{self, RunDir};
use cluster::{Applied, Effect, Found, ObjectRef, Owner, Removal, Search};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

/// What goes is waited for so long.
const REMOVAL: Duration = Duration::from_secs(300);

/// What was removed, and what was not.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Removed {
    /// What is gone, now or since before.
    pub(crate) removed: Vec<String>,
    /// What stays, for it belongs to others.
    pub(crate) foreign: Vec<String>,
    /// What could not be removed, and why.
    pub(crate) left: Vec<String>,
}

impl Kubernetes {
    /// Removes what the run has in the cluster, the last first, and with `deep` what was prepared for it.
    /// `setup/objects.json` then has what is left.
    pub(crate) fn take_down(
        &self,
        inventory: &mut Inventory,
        deep: bool,
        dir: &RunDir,
        printer: &Printer,
    ) -> Result<Removed> {
        let run = Owner::Run(inventory.run.clone());
        // What was applied in the moment in which a command was killed is found by its label.
        let places = inventory.places();
        let mut away = BTreeSet::new();
        let (mut found, mut unseen) = self.search(&run, &places, &mut away)?;
        let labelled = found.iter().map(|found| &found.object);
        let mut all = self.uninstall_all(inventory, labelled, dir, printer)?;
        if !all.removed.is_empty() {
            // What is left of a release is not helm's to remove: what hooks made, what charts say is to be kept.
            (found, unseen) = self.search(&run, &places, &mut away)?;
        }
        // Of a release that could not be uninstalled nothing is taken away behind helm's back.
        found.retain(|found| all.left.is_empty() && !published::keeps_a_release(&found.object));
        for found in found.into_iter().filter(|found| !found.is_made) {
            inventory.add(Applied { object: found.object, effect: Effect::Unchanged }, false);
        }
        // Whatever there was of it is recorded now.
        inventory.is_applying &= !all.left.is_empty() || !unseen.is_empty();
        all.left.extend(unseen);
        let own: Vec<ObjectRef> = inventory.standing().cloned().collect();
        self.take_away(own, &run, inventory, &mut all, dir, printer)?;
        if deep {
            let (prepared, unseen) = self.prepared(inventory, &run, &mut all, &mut away)?;
            inventory.is_preparing &= !unseen.is_empty();
            all.left.extend(unseen);
            self.take_away(prepared, &Owner::Prepared, inventory, &mut all, dir, printer)?;
        }
        for api in away {
            printer.warning(&format!("{api}: nothing of it was looked for"));
        }
        Ok(all)
    }

    /// What has an owner's label, and what could not be looked through, which may be there still. What one may not list
    /// one has hardly made; APIs that are away are told apart. Only an interruption is an error: what is recorded is
    /// removed in any case.
    fn search(
        &self,
        owner: &Owner,
        places: &[String],
        away: &mut BTreeSet<String>,
    ) -> Result<(Vec<Found>, Vec<String>)> {
        let places: Vec<&str> = places.iter().map(String::as_str).collect();
        let search = match self.finish(self.cluster.find(owner, &places)) {
            Ok(search) => search,
            Err(error) if error.exit == Exit::Interrupted => return Err(error),
            Err(error) => return Ok((Vec::new(), vec![unrecorded(&message(&error))])),
        };
        let mut unseen = Vec::new();
        for error in search.unseen.iter().filter(|error| !error.is_forbidden()) {
            match error {
                cluster::Error::Unavailable { .. } => {
                    away.insert(error.to_string());
                }
                error => unseen.push(unrecorded(error)),
            }
        }
        Ok((search.found, unseen))
    }

    /// What of that which is prepared goes with a run: all in the run's namespaces, recorded or not, and these
    /// themselves. It stays where another run stands, and a namespace does in which somebody has something, or may have.
    /// And what could not be looked through.
    fn prepared(
        &self,
        inventory: &Inventory,
        run: &Owner,
        all: &mut Removed,
        away: &mut BTreeSet<String>,
    ) -> Result<(Vec<ObjectRef>, Vec<String>)> {
        let namespaces = &inventory.namespaces;
        let (found, unseen) = self.search(&Owner::Prepared, namespaces, away)?;
        let found = found.into_iter().filter(|found| !found.is_made).map(|found| found.object);
        let mut objects: Vec<ObjectRef> = found.collect();
        for recorded in inventory.objects.iter().filter(|recorded| recorded.is_prepared) {
            if !objects.iter().any(|object| object.uid == recorded.object.uid) {
                objects.push(recorded.object.clone());
            }
        }
        // What lies elsewhere, such as the cluster's monitoring, is for all.
        objects.retain(|object| namespaces.iter().any(|namespace| is_within(object, namespace)));
        for namespace in namespaces {
            let own = [run, &Owner::Prepared];
            let others = match self.finish(self.cluster.others(namespace, &own)) {
                Ok(search) => Others::of(&search),
                Err(error) if error.exit == Exit::Interrupted => return Err(error),
                Err(error) => Some(Others::unknown(&message(&error))),
            };
            let Some(others) = others else { continue };
            let (kept, gone) =
                objects.into_iter().partition(|object| others.keep(object, namespace));
            objects = gone;
            let kept: Vec<ObjectRef> = kept;
            let why = &others.why;
            all.foreign.extend(kept.iter().map(|object| format!("{object} stays, for {why}")));
        }
        Ok((objects, unseen))
    }

    /// Removes objects of an owner; the inventory then has what is left.
    fn take_away(
        &self,
        objects: Vec<ObjectRef>,
        owner: &Owner,
        inventory: &mut Inventory,
        all: &mut Removed,
        dir: &RunDir,
        printer: &Printer,
    ) -> Result<()> {
        let removal = self.remove(&objects, owner, REMOVAL, &mut |object| {
            printer.step(&format!("teardown: {object}"));
        })?;
        let left: Vec<&ObjectRef> = removal.left.iter().map(|left| &left.object).collect();
        let is_gone = |object: &ObjectRef| objects.contains(object) && !left.contains(&object);
        inventory.objects.retain(|recorded| !is_gone(&recorded.object));
        run_dir::write_json(&dir.objects(), inventory)?;
        all.removed.extend(removal.removed.iter().chain(&removal.absent).map(ToString::to_string));
        let foreign = removal.foreign.iter();
        all.foreign.extend(foreign.map(|(object, owner)| format!("{object} belongs to {owner}")));
        all.left.extend(removal.left.iter().map(|left| format!("{}: {}", left.object, left.why)));
        Ok(())
    }

    /// Removes objects that were applied so, or may have been, and waits so long for them to go. What is not gone by then stays recorded,
    /// and is told with the reason.
    pub(crate) fn remove_for_run(
        &self,
        objects: &[(&str, &str, &str)],
        namespace: &str,
        patience: Duration,
        dir: &RunDir,
    ) -> Result<Vec<String>> {
        let mut inventory = Inventory::read(dir)?;
        let named = objects.iter().map(|(api_version, kind, name)| ObjectRef {
            api_version: (*api_version).to_owned(),
            kind: (*kind).to_owned(),
            namespace: Some(namespace.to_owned()),
            name: (*name).to_owned(),
            uid: None,
        });
        let meant: Vec<ObjectRef> = named.filter_map(|named| inventory.own(named)).collect();
        let run = Owner::Run(inventory.run.clone());
        let removal = self.remove(&meant, &run, patience, &mut |_| {})?;
        let left: Vec<&ObjectRef> = removal.left.iter().map(|left| &left.object).collect();
        inventory.objects.retain(|r| !meant.contains(&r.object) || left.contains(&&r.object));
        run_dir::write_json(&dir.objects(), &inventory)?;
        Ok(removal.left.iter().map(|left| format!("{}: {}", left.object, left.why)).collect())
    }

    /// Removes objects of an owner that an action selects. A name that somebody else has is refused, unless it is that of
    /// a Job which has ended.
    pub(super) fn clear(&self, objects: &action::Objects, owner: &Owner) -> Result<String> {
        let found = self.finish(self.cluster.get(&self.selection(objects)))?;
        let mut owner = owner.clone();
        if let (action::Which::Name(_), Some(one)) = (&objects.which, found.first())
            && Owner::of(one) != owner
        {
            owner = gives_way(one)?;
        }
        let found: Vec<ObjectRef> = found.iter().filter_map(ObjectRef::of).collect();
        let removal = self.remove(&found, &owner, REMOVAL, &mut |_| {})?;
        match removal.left.first() {
            Some(left) => {
                Err(Error::new(Exit::Standup, format!("failed to delete {}", left.object))
                    .cause(left.why.clone()))
            }
            None => Ok(format!("{} deleted", count(removal.removed.len(), "object", "objects"))),
        }
    }

    fn remove(
        &self,
        objects: &[ObjectRef],
        owner: &Owner,
        patience: Duration,
        progress: &mut (dyn FnMut(&ObjectRef) + Send),
    ) -> Result<Removal> {
        self.finish(async { Ok(self.cluster.delete(objects, owner, patience, progress).await) })
    }
}

/// What others have in a namespace, or may have, which keeps what is prepared there.
#[derive(Debug, PartialEq, Eq)]
struct Others {
    /// It is a run, which needs all that is prepared.
    are_run: bool,
    why: String,
}

impl Others {
    /// None: nobody has anything there.
    fn of(search: &Search<(ObjectRef, Owner)>) -> Option<Self> {
        let is_run = |owner: &Owner| matches!(owner, Owner::Run(_));
        let found = &search.found;
        match found.iter().find(|(_, owner)| is_run(owner)).or_else(|| found.first()) {
            Some((what, owner)) => {
                Some(Self { are_run: is_run(owner), why: format!("{what} belongs to {owner}") })
            }
            None => search.unseen.first().map(Self::unknown),
        }
    }

    fn unknown(error: &impl Display) -> Self {
        let why = format!("what others have there could not be seen: {error}");
        Self { are_run: false, why }
    }

    fn keep(&self, object: &ObjectRef, namespace: &str) -> bool {
        is_within(object, namespace) && (self.are_run || object.kind == "Namespace")
    }
}

/// What is told as left where nobody knows whether there is any.
fn unrecorded(why: &impl Display) -> String {
    format!("what may be there and is not recorded: {why}")
}

/// What an error says, without causes and advice.
fn message(error: &Error) -> String {
    let all: Vec<&str> = error.problems.iter().map(|problem| &*problem.message).collect();
    all.join("; ")
}

/// Whether an object is in a namespace, or is it.
fn is_within(object: &ObjectRef, namespace: &str) -> bool {
    match &object.namespace {
        None => object.kind == "Namespace" && object.name == namespace,
        Some(own) => own == namespace,
    }
}

/// Whose an object of somebody else is that makes room for one of its name: what a Job of another run, or of all runs, was
/// for is done when it has ended.
fn gives_way(object: &Value) -> Result<Owner> {
    let owner = Owner::of(object);
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let mut ends = conditions.filter(|c| c["type"] == "Complete" || c["type"] == "Failed");
    let is_job = object["kind"] == "Job";
    let has_ended = is_job && ends.any(|condition| condition["status"] == "True");
    if has_ended && owner != Owner::Stranger {
        return Ok(owner);
    }
    let reference = ObjectRef::of(object)
        .ok_or_else(|| Error::unexpected("the cluster gives an object without a name"))?;
    let error = told(&cluster::Error::Foreign { object: Box::new(reference), owner });
    Err(match is_job && !has_ended {
        true => error.cause("it has not ended, and what it does is not to be cut off"),
        false => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(kind: &str, namespace: Option<&str>, name: &str) -> ObjectRef {
        ObjectRef {
            api_version: "v1".into(),
            kind: kind.into(),
            namespace: namespace.map(str::to_owned),
            name: name.into(),
            uid: None,
        }
    }

    #[test]
    fn a_namespace_stays_where_others_have_something_or_may_have() {
        let check = |search: Search<(ObjectRef, Owner)>, namespace: bool, volume: bool| {
            let others = Others::of(&search);
            let stays = |object| others.as_ref().is_some_and(|others| others.keep(&object, "ns"));
            assert_eq!(stays(object("Namespace", None, "ns")), namespace, "{others:?}");
            assert_eq!(stays(object("PersistentVolumeClaim", Some("ns"), "v")), volume);
            assert!(!stays(object("Namespace", None, "other")));
        };
        let map = |owner| (object("ConfigMap", Some("ns"), "a"), owner);
        let unseen = || cluster::Error::Unavailable { api: "x/v1".into(), why: "no".into() };
        check(Search::default(), false, false);
        check(Search { found: vec![map(Owner::Stranger)], unseen: Vec::new() }, true, false);
        let run = || map(Owner::Run("r".into()));
        check(Search { found: vec![map(Owner::Stranger), run()], unseen: Vec::new() }, true, true);
        check(Search { found: Vec::new(), unseen: vec![unseen()] }, true, false);
    }

    #[test]
    fn only_a_job_of_another_run_that_has_ended_gives_way() {
        let check = |kind: &str,
                     labels: Value,
                     end: Option<&str>,
                     expected: std::result::Result<Owner, &str>| {
            let mut object = json!({
                "apiVersion": "batch/v1", "kind": kind,
                "metadata": {"name": "download-model", "namespace": "ns", "labels": labels},
            });
            if let Some(end) = end {
                object["status"]["conditions"] = json!([
                    {"type": "SuccessCriteriaMet", "status": "True"},
                    {"type": end, "status": "True"},
                ]);
            }
            match (gives_way(&object), expected) {
                (Ok(owner), Ok(expected)) => assert_eq!(owner, expected),
                (Err(error), Err(text)) => {
                    let error = error.to_string();
                    assert!(error.contains(text), "{error}");
                    assert_eq!(error.contains("has not ended"), end.is_none(), "{error}");
                }
                both => panic!("{object}: {both:?}"),
            }
        };
        let (run, prepared) =
            (json!({"llmdbench.io/run": "a"}), json!({"llmdbench.io/prepared": "true"}));
        let owner = || Owner::Run("a".to_owned());
        let there = "Job ns/download-model is there already and belongs to ";
        check("Job", run.clone(), None, Err(&format!("{there}the run `a`")));
        check("Job", run.clone(), Some("Complete"), Ok(owner()));
        check("Job", run.clone(), Some("Failed"), Ok(owner()));
        check("Job", prepared.clone(), None, Err(&format!("{there}what is prepared for all runs")));
        check("Job", prepared, Some("Complete"), Ok(Owner::Prepared));
        check("Job", json!({}), Some("Complete"), Err(&format!("{there}somebody else")));
        check("Deployment", run, Some("Complete"), Err("belongs to the run `a`"));
    }
}
