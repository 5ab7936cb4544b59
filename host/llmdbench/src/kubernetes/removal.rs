//! Takes out of a cluster what a run has in it: what is recorded, and what is found by its label.

use super::{Inventory, Kubernetes, count, published, told};
use crate::action;
use crate::error::{Error, Exit, Result};
use crate::printer::Printer;
use crate::run_dir::{self, RunDir};
use cluster::{Applied, Effect, ObjectRef, Owner, Removal};
use serde::Serialize;
use serde_json::Value;
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
        let namespaces = inventory.objects.iter().filter_map(|r| r.object.namespace.clone());
        let of_releases = inventory.releases.iter().filter_map(|r| r.namespace.clone());
        let namespaces: Vec<String> = namespaces.chain(of_releases).collect();
        let namespaces: Vec<&str> = namespaces.iter().map(String::as_str).collect();
        let mut found = self.finish(self.cluster.find(&run, &namespaces))?;
        let labelled = found.iter().map(|found| &found.object);
        let mut all = self.uninstall_all(inventory, labelled, dir, printer)?;
        if !all.removed.is_empty() {
            // What is left of a release is not helm's to remove: what hooks made, what charts say is to be kept.
            found = self.finish(self.cluster.find(&run, &namespaces))?;
        }
        // Of a release that could not be uninstalled nothing is taken away behind helm's back.
        found.retain(|found| all.left.is_empty() && !published::keeps_a_release(&found.object));
        for found in found.into_iter().filter(|found| !found.is_made) {
            inventory.add(Applied { object: found.object, effect: Effect::Unchanged }, false);
        }
        let own: Vec<ObjectRef> = inventory.standing().cloned().collect();
        self.take_away(own, &run, inventory, &mut all, dir, printer)?;
        if deep {
            let prepared = self.prepared(inventory, &run, &mut all)?;
            self.take_away(prepared, &Owner::Prepared, inventory, &mut all, dir, printer)?;
        }
        Ok(all)
    }

    /// What of that which is prepared goes with a run: all in the run's namespaces, recorded or not, and these
    /// themselves. It stays where another run stands, and a namespace does in which somebody has something.
    fn prepared(
        &self,
        inventory: &mut Inventory,
        run: &Owner,
        all: &mut Removed,
    ) -> Result<Vec<ObjectRef>> {
        let namespaces: Vec<&str> = inventory.namespaces.iter().map(String::as_str).collect();
        let found = self.finish(self.cluster.find(&Owner::Prepared, &namespaces))?;
        let found = found.into_iter().filter(|found| !found.is_made).map(|found| found.object);
        let mut objects: Vec<ObjectRef> = found.collect();
        for recorded in inventory.objects.iter().filter(|recorded| recorded.is_prepared) {
            if !objects.iter().any(|object| object.uid == recorded.object.uid) {
                objects.push(recorded.object.clone());
            }
        }
        let within = |object: &ObjectRef| match &object.namespace {
            None if object.kind == "Namespace" => Some(object.name.clone()),
            namespace => namespace.clone(),
        };
        // What lies elsewhere, such as the cluster's monitoring, is for all.
        objects.retain(|object| within(object).is_some_and(|ns| namespaces.contains(&ns.as_str())));
        for namespace in namespaces {
            let own = [run, &Owner::Prepared];
            let others = self.finish(self.cluster.others(namespace, &own))?;
            let is_run = |(_, owner): &&(ObjectRef, Owner)| matches!(owner, Owner::Run(_));
            let Some((what, owner)) = others.iter().find(is_run).or_else(|| others.first()) else {
                continue;
            };
            let why = format!("{what} belongs to {owner}");
            let stays = |object: &ObjectRef| {
                within(object).as_deref() == Some(namespace)
                    && (matches!(owner, Owner::Run(_)) || object.kind == "Namespace")
            };
            let kept = objects.iter().filter(|object| stays(object));
            all.foreign.extend(kept.map(|object| format!("{object} stays, for {why}")));
            objects.retain(|object| !stays(object));
        }
        Ok(objects)
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

    /// Removes objects that were applied so, and waits so long for them to go. What is not gone by then stays recorded,
    /// and is told with the reason.
    pub(crate) fn remove_for_run(
        &self,
        objects: &[(&str, &str, &str)],
        namespace: &str,
        patience: Duration,
        dir: &RunDir,
    ) -> Result<Vec<String>> {
        let mut inventory = Inventory::read(dir)?;
        let is_meant = |object: &ObjectRef| {
            object.namespace.as_deref() == Some(namespace)
                && objects.contains(&(&object.api_version, &object.kind, &object.name))
        };
        let meant: Vec<ObjectRef> =
            inventory.standing().filter(|object| is_meant(object)).cloned().collect();
        let run = Owner::Run(inventory.run.clone());
        let removal = self.remove(&meant, &run, patience, &mut |_| {})?;
        let left: Vec<&ObjectRef> = removal.left.iter().map(|left| &left.object).collect();
        inventory.objects.retain(|r| !is_meant(&r.object) || left.contains(&&r.object));
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
        self.finish(self.cluster.delete(objects, owner, patience, progress))
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
