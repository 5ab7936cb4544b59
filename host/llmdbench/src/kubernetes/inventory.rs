//! What the commands on a run folder put into a cluster: `setup/objects.json`.

use super::published;
use crate::action::ReleaseRef;
use crate::error::Result;
use crate::run_dir::{self, RunDir};
use cluster::{Applied, Effect, ObjectRef};
use serde::{Deserialize, Serialize};

/// What the commands on a run folder put into a cluster.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Inventory {
    /// The run whose label the objects have, which stays the same over commands.
    pub(crate) run: String,
    /// The API server.
    pub(super) server: String,
    /// The namespaces of the stack and of the harness.
    #[serde(default)]
    pub(super) namespaces: Vec<String>,
    /// In the order of their application.
    pub(crate) objects: Vec<Recorded>,
    /// The run's releases of charts, in the order of their installation.
    #[serde(default)]
    pub(crate) releases: Vec<ReleaseRef>,
}

/// An object that was put there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recorded {
    #[serde(flatten)]
    pub(crate) object: ObjectRef,
    /// It outlives the run.
    pub(crate) is_prepared: bool,
}

impl Inventory {
    /// Reads it. Empty where nothing was applied.
    pub(crate) fn read(dir: &RunDir) -> Result<Self> {
        Ok(run_dir::read_json(&dir.objects())?.unwrap_or_default())
    }

    /// What goes with the run.
    pub(crate) fn standing(&self) -> impl Iterator<Item = &ObjectRef> {
        self.objects
            .iter()
            .filter(|recorded| !recorded.is_prepared)
            .map(|recorded| &recorded.object)
    }

    /// The names of everything that goes with the run, releases first.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        let releases = self.releases.iter().map(published::shown);
        releases.chain(self.standing().map(ToString::to_string))
    }

    /// Whether a teardown has something to remove.
    pub(crate) fn has_some(&self, deep: bool) -> bool {
        !self.releases.is_empty() || self.objects.iter().any(|r| deep || !r.is_prepared)
    }

    pub(super) fn add(&mut self, applied: Applied, is_prepared: bool) {
        // What was there before and is somebody else's is never to be removed.
        if applied.effect == Effect::Kept {
            return;
        }
        let is_same = |recorded: &Recorded| {
            ObjectRef { uid: None, ..recorded.object.clone() }
                == ObjectRef { uid: None, ..applied.object.clone() }
        };
        self.objects.retain(|recorded| !is_same(recorded));
        self.objects.push(Recorded { object: applied.object, is_prepared });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(name: &str, uid: &str, effect: Effect) -> Applied {
        let object = ObjectRef {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            namespace: Some("ns".into()),
            name: name.into(),
            uid: Some(uid.into()),
        };
        Applied { object, effect }
    }

    #[test]
    fn the_inventory_has_each_object_once_and_none_of_others() {
        let mut inventory = Inventory::default();
        inventory.add(applied("a", "1", Effect::Created), false);
        inventory.add(applied("b", "2", Effect::Created), true);
        inventory.add(applied("c", "3", Effect::Kept), true);
        inventory.add(applied("a", "4", Effect::Created), false);
        let names: Vec<String> = inventory.objects.iter().map(|r| r.object.to_string()).collect();
        assert_eq!(names, ["ConfigMap ns/b", "ConfigMap ns/a"]);
        let standing: Vec<_> = inventory.standing().map(|object| object.uid.clone()).collect();
        assert_eq!(standing, [Some("4".to_owned())]);
    }

    #[test]
    fn the_inventory_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::at(folder.path());
        let mut inventory =
            Inventory { run: "r".into(), server: "https://h".into(), ..Inventory::default() };
        inventory.add(applied("a", "1", Effect::Created), false);
        run_dir::write_json(&dir.objects(), &inventory).unwrap();
        assert_eq!(Inventory::read(&dir).unwrap().objects, inventory.objects);
    }
}
