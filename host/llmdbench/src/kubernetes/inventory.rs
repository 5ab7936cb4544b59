//! What the commands on a run folder put into a cluster: `setup/objects.json`.

use super::published;
use crate::action::ReleaseRef;
use crate::error::Result;
use crate::run_dir::{self, RunDir};
use cluster::{Applied, Effect, ObjectRef, Owner};
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
    /// A command ended before it knew whether an object got there that goes with the run: more may stand than is recorded,
    /// and has the run's label.
    #[serde(default)]
    pub(super) is_applying: bool,
    /// The same of what is prepared.
    #[serde(default)]
    pub(super) is_preparing: bool,
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
        let unknown =
            self.is_applying.then(|| "what is being applied, or was when a command ended".into());
        releases.chain(self.standing().map(ToString::to_string)).chain(unknown)
    }

    /// Whether a teardown has something to remove.
    pub(crate) fn has_some(&self, deep: bool) -> bool {
        self.is_applying
            || (deep && self.is_preparing)
            || !self.releases.is_empty()
            || self.objects.iter().any(|r| deep || !r.is_prepared)
    }

    /// The namespaces in which something of it is, or may be.
    pub(super) fn places(&self) -> Vec<String> {
        let of_objects = self.objects.iter().filter_map(|r| r.object.namespace.as_ref());
        let of_releases = self.releases.iter().filter_map(|release| release.namespace.as_ref());
        let mut all: Vec<String> =
            self.namespaces.iter().chain(of_objects).chain(of_releases).cloned().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// An object that goes with the run, if it has or may have the one of this name, which has no uid.
    pub(super) fn own(&self, named: ObjectRef) -> Option<ObjectRef> {
        let recorded = self.standing().find(|object| unidentified(object) == named).cloned();
        recorded.or_else(|| self.is_applying.then_some(named))
    }

    /// Whether it is not known if all of an owner's objects are recorded.
    pub(super) fn unknown(&mut self, of: &Owner) -> &mut bool {
        if *of == Owner::Prepared { &mut self.is_preparing } else { &mut self.is_applying }
    }

    pub(super) fn add(&mut self, applied: Applied, is_prepared: bool) {
        // What was there before and is somebody else's is never to be removed.
        if applied.effect == Effect::Kept {
            return;
        }
        self.objects
            .retain(|recorded| unidentified(&recorded.object) != unidentified(&applied.object));
        self.objects.push(Recorded { object: applied.object, is_prepared });
    }
}

/// Any object of its name.
fn unidentified(object: &ObjectRef) -> ObjectRef {
    ObjectRef { uid: None, ..object.clone() }
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
    fn what_was_sent_and_not_answered_is_for_a_teardown_to_look_for() {
        let inventory = Inventory {
            namespaces: vec!["b".into(), "a".into(), "b".into()],
            ..Inventory::default()
        };
        assert!(!inventory.has_some(true));
        let inventory = Inventory { is_preparing: true, ..inventory };
        assert!(inventory.has_some(true) && !inventory.has_some(false));
        let inventory = Inventory { is_applying: true, ..inventory };
        assert!(inventory.has_some(false) && inventory.names().count() == 1);
        assert_eq!(inventory.places(), ["a", "b"]);
        let named = unidentified(&applied("a", "1", Effect::Created).object);
        assert_eq!(inventory.own(named.clone()), Some(named.clone()));
        assert_eq!(Inventory::default().own(named), None);
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
