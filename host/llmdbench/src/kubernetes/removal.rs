//! What a teardown removes from a cluster, and what it leaves to others.

use super::{Inventory, Kubernetes};
use crate::error::Result;
use crate::printer::Printer;
use crate::run_dir::{self, RunDir};
use cluster::{ObjectRef, Owner};
use serde::Serialize;

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
    /// What of that which is prepared goes with a run: all in the run's namespaces, recorded or not, and these
    /// themselves. It stays where another run stands, and a namespace does in which somebody has something.
    pub(super) fn prepared(
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
    pub(super) fn take_away(
        &self,
        objects: Vec<ObjectRef>,
        owner: &Owner,
        inventory: &mut Inventory,
        all: &mut Removed,
        dir: &RunDir,
        printer: &Printer,
    ) -> Result<()> {
        let removal = self.remove(&objects, owner, &mut |object| {
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
}
