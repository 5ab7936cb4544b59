//! Removing objects, the last applied first, until they are gone; and finding what an owner has anywhere.

use crate::connection::{Cluster, Kind, request};
use crate::error::{Result, cause, has_code};
use crate::object::{ObjectRef, Owner, rank};
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::discovery::{Discovery, Scope, verbs};
use serde_json::Value;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often it is asked whether an object is gone.
const LOOK: Duration = Duration::from_millis(300);

/// What a removal did.
#[derive(Debug, Default)]
pub struct Removal {
    /// Objects that were there and are gone.
    pub removed: Vec<ObjectRef>,
    /// Objects that were gone already.
    pub absent: Vec<ObjectRef>,
    /// Objects of the same name that belong to others, and stay.
    pub foreign: Vec<(ObjectRef, Owner)>,
    /// Objects that are still there.
    pub left: Vec<Left>,
}

/// An object that could not be removed.
#[derive(Debug)]
pub struct Left {
    /// The object.
    pub object: ObjectRef,
    /// Why it is still there.
    pub why: String,
}

/// An object with an owner's label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The object.
    pub object: ObjectRef,
    /// The cluster made it of another one, with which it goes.
    pub is_made: bool,
}

impl Cluster {
    /// Removes objects of an owner, those first that were applied last, and waits until each is gone with what it made.
    /// What is there under a name and is not the owner's stays. `timeout` is for all of them together.
    ///
    /// # Errors
    /// None for an object that does not go, which is told as left; only when the kinds cannot be asked for.
    pub async fn delete(
        &self,
        objects: &[ObjectRef],
        owner: &Owner,
        timeout: Duration,
        progress: &mut (dyn FnMut(&ObjectRef) + Send),
    ) -> Result<Removal> {
        let deadline = Instant::now() + timeout;
        let mut removal = Removal::default();
        let mut last_first: Vec<&ObjectRef> = objects.iter().rev().collect();
        last_first.sort_by_key(|object| std::cmp::Reverse(rank(&object.kind)));
        let mut going: Vec<(Kind, &ObjectRef)> = Vec::new();
        for (index, object) in last_first.iter().enumerate() {
            if let Some(kind) = self.request_removal(object, owner, &mut removal).await? {
                going.push((kind, object));
            }
            // What others need stays until they are gone.
            let is_last_of_rank =
                last_first.get(index + 1).is_none_or(|next| rank(&next.kind) != rank(&object.kind));
            if is_last_of_rank {
                for (kind, object) in going.drain(..) {
                    progress(object);
                    match self.gone(&kind, object, deadline).await {
                        None => removal.removed.push(object.clone()),
                        Some(why) => removal.left.push(Left { object: object.clone(), why }),
                    }
                }
            }
        }
        Ok(removal)
    }

    /// Asks for an object's removal. None: there is nothing to wait for.
    async fn request_removal(
        &self,
        object: &ObjectRef,
        owner: &Owner,
        removal: &mut Removal,
    ) -> Result<Option<Kind>> {
        let kind = match self.kind(&object.api_version, &object.kind).await {
            Ok(kind) => kind,
            // Without its definition there is no object.
            Err(crate::Error::UnknownKind { .. }) => {
                removal.absent.push(object.clone());
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let api = self.api(&kind, object.namespace.as_deref());
        let mut left = |why: String| removal.left.push(Left { object: object.clone(), why });
        let found = match api.get_opt(&object.name).await {
            Ok(found) => found.map(|found| kind.value(found)),
            Err(error) => {
                left(cause(&error));
                return Ok(None);
            }
        };
        let Some(found) = found else {
            removal.absent.push(object.clone());
            return Ok(None);
        };
        if Owner::of(&found) != *owner {
            removal.foreign.push((object.clone(), Owner::of(&found)));
            return Ok(None);
        }
        // In the foreground: what it made goes first.
        let uid = found["metadata"]["uid"].as_str().map(str::to_owned);
        let parameters = DeleteParams::foreground()
            .preconditions(Preconditions { uid, ..Preconditions::default() });
        match api.delete(&object.name, &parameters).await {
            Ok(_) => Ok(Some(kind)),
            Err(error) if has_code(&error, 404) => {
                removal.absent.push(object.clone());
                Ok(None)
            }
            Err(error) => {
                left(cause(&error));
                Ok(None)
            }
        }
    }

    /// Waits until an object is gone. Otherwise says why it is not.
    async fn gone(&self, kind: &Kind, object: &ObjectRef, deadline: Instant) -> Option<String> {
        let api = self.api(kind, object.namespace.as_deref());
        loop {
            let why = match api.get_opt(&object.name).await {
                Ok(None) => return None,
                Ok(Some(found)) => {
                    let found = kind.value(found);
                    if object.uid.is_some()
                        && found["metadata"]["uid"].as_str() != object.uid.as_deref()
                    {
                        return None;
                    }
                    match found["metadata"]["finalizers"].as_array() {
                        Some(held) if !held.is_empty() => {
                            let held: Vec<&str> =
                                held.iter().filter_map(|name| name.as_str()).collect();
                            format!("it is being removed, and held by {}", held.join(", "))
                        }
                        _ => "it is still being removed".to_owned(),
                    }
                }
                Err(error) => cause(&error),
            };
            if Instant::now() >= deadline {
                return Some(why);
            }
            sleep(LOOK).await;
        }
    }

    /// Everything with an owner's label, over all kinds that can be listed and deleted: in all namespaces, or where that
    /// is denied in these. In the order of application, what the cluster made of it last.
    ///
    /// # Errors
    /// When the API server does not say which kinds there are.
    pub async fn find(&self, owner: &Owner, namespaces: &[&str]) -> Result<Vec<Found>> {
        let Some(selector) = owner.selector() else { return Ok(Vec::new()) };
        let parameters = ListParams::default().labels(&selector);
        let mut found = Vec::new();
        let mut known = HashSet::new();
        for kind in self.deletable().await? {
            let mut listed = Vec::new();
            match self.api(&kind, None).list(&parameters).await {
                Ok(all) => listed = all.items,
                Err(_) => {
                    for namespace in namespaces.iter().filter(|_| kind.is_namespaced) {
                        if let Ok(all) = self.api(&kind, Some(namespace)).list(&parameters).await {
                            listed.extend(all.items);
                        }
                    }
                }
            }
            for object in listed {
                let object = kind.value(object);
                let is_made = is_made(&object);
                if let Some(object) = ObjectRef::of(&object)
                    // Some kinds stand in two groups.
                    && known.insert(object.uid.clone())
                {
                    found.push(Found { object, is_made });
                }
            }
        }
        found.sort_by_key(|found: &Found| (found.is_made, rank(&found.object.kind)));
        Ok(found)
    }

    /// What somebody has in a namespace who is none of these owners, in the order of application: what the cluster
    /// itself puts into every namespace, or makes of other objects, is nobody's.
    ///
    /// # Errors
    /// When the API server does not say which kinds there are.
    pub async fn others(
        &self,
        namespace: &str,
        owners: &[&Owner],
    ) -> Result<Vec<(ObjectRef, Owner)>> {
        let mut found = Vec::new();
        let mut known = HashSet::new();
        for kind in self.deletable().await?.into_iter().filter(|kind| kind.is_namespaced) {
            // What may not be seen is not counted.
            let listed = self.api(&kind, Some(namespace)).list(&ListParams::default()).await;
            for object in listed.map(|all| all.items).unwrap_or_default() {
                let object = kind.value(object);
                let owner = Owner::of(&object);
                if is_made(&object) || is_furniture(&object) || owners.contains(&&owner) {
                    continue;
                }
                if let Some(object) = ObjectRef::of(&object)
                    && known.insert(object.uid.clone())
                {
                    found.push((object, owner));
                }
            }
        }
        found.sort_by_cached_key(|(object, _)| (rank(&object.kind), object.to_string()));
        Ok(found)
    }

    /// The kinds that can be listed and deleted.
    async fn deletable(&self) -> Result<Vec<Kind>> {
        let discovery = Discovery::new(self.client.clone()).run().await;
        let discovery = discovery.map_err(request("list", &"the kinds of objects"))?;
        let all = discovery.groups().flat_map(|group| group.recommended_resources());
        let deletable = all.filter(|(_, capabilities)| {
            capabilities.supports_operation(verbs::LIST)
                && capabilities.supports_operation(verbs::DELETE)
        });
        let kinds = deletable.map(|(resource, capabilities)| Kind {
            resource,
            is_namespaced: capabilities.scope == Scope::Namespaced,
        });
        Ok(kinds.collect())
    }
}

/// Whether the cluster made an object of another one, with which it goes.
fn is_made(object: &Value) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array().map_or(0, Vec::len);
    // Endpoints take the labels of their Service and name no owner.
    owners > 0 || matches!(object["kind"].as_str(), Some("Endpoints" | "Event"))
}

/// Whether an object is one of those that every namespace has.
fn is_furniture(object: &Value) -> bool {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    match object["kind"].as_str().unwrap_or_default() {
        "ServiceAccount" => ["default", "builder", "deployer", "pipeline"].contains(&name),
        "ConfigMap" => name.ends_with("-ca.crt") || name.ends_with("-ca-bundle"),
        // Tokens of accounts.
        "Secret" => !metadata["annotations"]["kubernetes.io/service-account.name"].is_null(),
        "RoleBinding" => name.starts_with("system:"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_every_namespace_has_is_nobodys() {
        let check = |kind: &str, name: &str, expected: bool| {
            let object = json!({"kind": kind, "metadata": {"name": name}});
            assert_eq!(is_furniture(&object), expected, "{kind} {name}");
        };
        check("ServiceAccount", "default", true);
        check("ServiceAccount", "mine", false);
        check("ConfigMap", "kube-root-ca.crt", true);
        check("ConfigMap", "openshift-service-ca.crt", true);
        check("Secret", "mine", false);
        check("RoleBinding", "system:image-pullers", true);
        let owned = json!({"metadata": {"ownerReferences": [{"kind": "ReplicaSet"}]}});
        assert!(is_made(&owned) && is_made(&json!({"kind": "Event"})));
        assert!(!is_made(&json!({"kind": "Pod", "metadata": {}})));
    }
}
