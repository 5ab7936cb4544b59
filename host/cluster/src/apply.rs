//! Bringing objects into the cluster, owned by a run or prepared for all runs, and never by taking over another's.

use crate::answer::answered;
use crate::condition::Condition;
use crate::connection::{Cluster, Kind, request};
use crate::error::{Error, Result, has_code};
use crate::object::{ObjectRef, Owner, Selection, rank};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use std::time::Duration;

/// So long a definition of a kind may take until the API server serves it.
const DEFINITION: Duration = Duration::from_secs(30);

/// An object that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The object, with its uid: what the inventory of a run keeps.
    pub object: ObjectRef,
    /// What happened to it.
    pub effect: Effect,
}

/// What applying did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It is new.
    Created,
    /// It was the owner's already and is different now.
    Changed,
    /// It was as it should be.
    Unchanged,
    /// It is somebody else's, which will do for what is prepared; it was not touched and is not to be deleted.
    Kept,
}

impl Cluster {
    /// Applies objects, those first that others need; what names no namespace goes into this one. All of it can be done
    /// again. Each object is told to `done` as soon as it is applied, for the inventory to have it whatever comes.
    ///
    /// # Errors
    /// When an object belongs to somebody else, of which everything that is there is asked before anything is touched;
    /// when a kind is not known; when the API server refuses.
    pub async fn apply(
        &self,
        objects: Vec<Value>,
        namespace: &str,
        owner: &Owner,
        done: &mut (dyn FnMut(Applied) + Send),
    ) -> Result<()> {
        let mut objects = objects;
        objects.sort_by_key(|object| rank(object["kind"].as_str().unwrap_or_default()));
        let mut prepared = Vec::new();
        for mut object in objects {
            owner.mark(&mut object)?;
            let reference = ObjectRef::of(&object).ok_or_else(|| {
                Error::Object("it lacks apiVersion, kind, or metadata.name".to_owned())
            })?;
            // The kind of some is defined by others that are applied before them.
            match self.kind(&reference.api_version, &reference.kind).await {
                Ok(kind) => {
                    let within = reference.namespace.as_deref().unwrap_or(namespace);
                    self.standing(&kind, &reference, within, owner).await?;
                }
                Err(Error::UnknownKind { .. }) if defines(&prepared, &reference) => {}
                Err(error) => return Err(error),
            }
            prepared.push((reference, object));
        }
        for (reference, object) in prepared {
            done(self.apply_one(&reference, object, namespace, owner).await?);
        }
        Ok(())
    }

    /// Puts the owner's label on an object that others made for it. Gives whether it has it now: what is not there, or
    /// belongs to another owner, gets none.
    ///
    /// # Errors
    /// When the label cannot be one, or the API server refuses.
    pub async fn label(&self, object: &ObjectRef, namespace: &str, owner: &Owner) -> Result<bool> {
        let kind = match self.kind(&object.api_version, &object.kind).await {
            Ok(kind) => kind,
            Err(Error::UnknownKind { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let within = object.namespace.as_deref().unwrap_or(namespace);
        let api = self.api(&kind, Some(within));
        let found = answered(|| api.get_opt(&object.name)).await.map_err(request("get", object))?;
        let found = found.map(|found| Owner::of(&kind.value(found)));
        if found.as_ref() == Some(owner) || found != Some(Owner::Stranger) {
            return Ok(found.as_ref() == Some(owner));
        }
        let mut patch = json!({});
        owner.mark(&mut patch)?;
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(&patch));
        let patched = answered(|| api.patch(&object.name, &parameters, &patch)).await;
        match patched {
            Err(error) if has_code(&error, 404) => Ok(false),
            patched => patched.map(|_| true).map_err(request("label", object)),
        }
    }

    async fn apply_one(
        &self,
        reference: &ObjectRef,
        mut object: Value,
        namespace: &str,
        owner: &Owner,
    ) -> Result<Applied> {
        let kind = self.kind(&reference.api_version, &reference.kind).await?;
        let within = reference.namespace.as_deref().unwrap_or(namespace).to_owned();
        if kind.is_namespaced {
            object["metadata"]["namespace"] = within.clone().into();
        }
        let reference_of = |object: &Value| ObjectRef::of(object).unwrap_or(reference.clone());
        let api = self.api(&kind, Some(&within));
        let manager = owner.manager();
        let mut before = self.standing(&kind, reference, &within, owner).await?;
        let applied = loop {
            let parameters = match &before {
                Some(before) if Owner::of(before) != *owner => {
                    return Ok(Applied { object: reference_of(before), effect: Effect::Kept });
                }
                // The very one that is the owner's, whatever else has changed in it.
                Some(before) => {
                    object["metadata"]["uid"] = before["metadata"]["uid"].clone();
                    PatchParams::apply(&manager).force()
                }
                None => PatchParams::apply(&manager),
            };
            let patch = Patch::Apply(&object);
            match answered(|| api.patch(&reference.name, &parameters, &patch)).await {
                Ok(applied) => break applied,
                // Somebody made it in between.
                Err(error) if before.is_none() && has_code(&error, 409) => {
                    before = self.standing(&kind, reference, &within, owner).await?;
                    if before.is_none() {
                        return Err(request("apply", reference)(error));
                    }
                }
                Err(error) => return Err(request("apply", reference)(error)),
            }
        };
        let after = kind.value(applied);
        if reference.kind == "CustomResourceDefinition" {
            let definition =
                Selection::named(&reference.api_version, &reference.kind, "", &reference.name);
            self.wait(&definition, &Condition::Rollout, DEFINITION, &mut |_| {}).await?;
        }
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        let effect = match before {
            None => Effect::Created,
            Some(before) if version(&before) == version(&after) => Effect::Unchanged,
            Some(_) => Effect::Changed,
        };
        Ok(Applied { object: reference_of(&after), effect })
    }

    /// What is there under the name. What is prepared makes do with anybody's; a run refuses what is not its own.
    async fn standing(
        &self,
        kind: &Kind,
        reference: &ObjectRef,
        within: &str,
        owner: &Owner,
    ) -> Result<Option<Value>> {
        let api = self.api(kind, Some(within));
        let found = answered(|| api.get_opt(&reference.name)).await;
        let found = found.map_err(request("get", reference))?.map(|object| kind.value(object));
        match &found {
            Some(found) if *owner != Owner::Prepared && Owner::of(found) != *owner => {
                let object = Box::new(ObjectRef::of(found).unwrap_or(reference.clone()));
                Err(Error::Foreign { object, owner: Owner::of(found) })
            }
            _ => Ok(found),
        }
    }
}

/// Whether one of these objects defines the kind of another.
fn defines(objects: &[(ObjectRef, Value)], other: &ObjectRef) -> bool {
    objects.iter().any(|(reference, object)| {
        reference.kind == "CustomResourceDefinition"
            && object["spec"]["names"]["kind"] == other.kind
            && other.api_version.starts_with(object["spec"]["group"].as_str().unwrap_or("/"))
    })
}
