//! Finding what an owner has anywhere, and what others have in a namespace, over all kinds that there are.
//!
//! What could not be looked through is told beside what was found, so that nobody takes what was not seen for nothing.

use crate::answer::answered;
use crate::connection::{Cluster, Kind, request};
use crate::error::{Error, Result, cause, has_code};
use crate::object::{ObjectRef, Owner, rank};
use kube::api::ListParams;
use kube::core::GroupVersion;
use kube::discovery::{Scope, pinned_group, verbs};
use serde_json::Value;
use std::collections::HashSet;

/// What a search brought.
#[derive(Debug)]
pub struct Search<T> {
    /// What was found.
    pub found: Vec<T>,
    /// Why there may be more: what could not be listed, or may not be, and APIs that are not available.
    pub unseen: Vec<Error>,
}

impl<T> Default for Search<T> {
    fn default() -> Self {
        Self { found: Vec::new(), unseen: Vec::new() }
    }
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
    /// Everything with an owner's label, over all kinds that can be listed and deleted: in all namespaces, or where that
    /// is denied in these. In the order of application, what the cluster made of it last.
    ///
    /// # Errors
    /// When the API server does not say which kinds there are; APIs of others that are not available are no error.
    pub async fn find(&self, owner: &Owner, namespaces: &[&str]) -> Result<Search<Found>> {
        let mut search = Search::default();
        let Some(selector) = owner.selector() else { return Ok(search) };
        let parameters = ListParams::default().labels(&selector);
        let mut known = HashSet::new();
        for kind in self.deletable(&mut search.unseen).await? {
            let mut listed = Vec::new();
            match self.list(&kind, None, &parameters).await {
                Ok(all) => listed = all,
                Err(error) if error.is_denied() && kind.is_namespaced => {
                    for namespace in namespaces {
                        match self.list(&kind, Some(namespace), &parameters).await {
                            Ok(all) => listed.extend(all),
                            Err(error) => search.unseen.push(error),
                        }
                    }
                }
                Err(error) => search.unseen.push(error),
            }
            for object in listed {
                let is_made = is_made(&object);
                if let Some(object) = ObjectRef::of(&object)
                    // Some kinds stand in two groups.
                    && known.insert(object.uid.clone())
                {
                    search.found.push(Found { object, is_made });
                }
            }
            // Who does not answer is not asked for the rest.
            if search.unseen.last().is_some_and(Error::is_unanswered) {
                break;
            }
        }
        search.found.sort_by_key(|found: &Found| (found.is_made, rank(&found.object.kind)));
        Ok(search)
    }

    /// What somebody has in a namespace who is none of these owners, in the order of application: what the cluster
    /// itself puts into every namespace, or makes of other objects, is nobody's.
    ///
    /// # Errors
    /// As [`Cluster::find`].
    pub async fn others(
        &self,
        namespace: &str,
        owners: &[&Owner],
    ) -> Result<Search<(ObjectRef, Owner)>> {
        let mut search = Search::default();
        let mut known = HashSet::new();
        let kinds = self.deletable(&mut search.unseen).await?;
        for kind in kinds.into_iter().filter(|kind| kind.is_namespaced) {
            let listed = self.list(&kind, Some(namespace), &ListParams::default()).await;
            let listed = listed.unwrap_or_else(|error| {
                search.unseen.push(error);
                Vec::new()
            });
            for object in listed {
                let owner = Owner::of(&object);
                if is_made(&object) || is_furniture(&object) || owners.contains(&&owner) {
                    continue;
                }
                if let Some(object) = ObjectRef::of(&object)
                    && known.insert(object.uid.clone())
                {
                    search.found.push((object, owner));
                }
            }
            if search.unseen.last().is_some_and(Error::is_unanswered) {
                break;
            }
        }
        search.found.sort_by_cached_key(|(object, _)| (rank(&object.kind), object.to_string()));
        Ok(search)
    }

    /// The objects of a kind; none of one that is gone meanwhile, or cannot be listed by its nature.
    async fn list(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        parameters: &ListParams,
    ) -> Result<Vec<Value>> {
        let api = self.api(kind, namespace);
        match answered(|| api.list(parameters)).await {
            Ok(all) => Ok(all.items.into_iter().map(|object| kind.value(object)).collect()),
            Err(error) if has_code(&error, 404) || has_code(&error, 405) => Ok(Vec::new()),
            Err(error) => {
                let within = namespace.map(|name| format!(" in {name}")).unwrap_or_default();
                Err(request("list", &format!("every {}{within}", kind.resource.kind))(error))
            }
        }
    }

    /// The kinds that can be listed and deleted, each in the version that its group prefers of those that have it.
    async fn deletable(&self, unseen: &mut Vec<Error>) -> Result<Vec<Kind>> {
        let groups = answered(|| self.client.list_api_groups()).await;
        let groups = groups.map_err(request("list", &"the kinds of objects"))?.groups;
        let mut versions = vec![GroupVersion::gv("", "v1")];
        for group in groups {
            let preferred = group.preferred_version.map(|preferred| preferred.version);
            let mut own: Vec<String> = group.versions.into_iter().map(|own| own.version).collect();
            own.sort_by_key(|version| Some(version) != preferred.as_ref());
            versions.extend(own.iter().map(|version| GroupVersion::gv(&group.name, version)));
        }
        let mut kinds: Vec<Kind> = Vec::new();
        for version in versions {
            let api = version.api_version();
            let resources = match answered(|| pinned_group(&self.client, &version)).await {
                Ok(group) => group.recommended_resources(),
                // It is gone meanwhile.
                Err(error) if has_code(&error, 404) => continue,
                // The API of somebody's server in the cluster.
                Err(error) if has_code(&error, 503) => {
                    unseen.push(Error::Unavailable { api, why: cause(&error) });
                    continue;
                }
                Err(error) => return Err(request("list", &format!("the kinds of {api}"))(error)),
            };
            for (resource, capabilities) in resources {
                let is_known = kinds.iter().any(|Kind { resource: known, .. }| {
                    (&known.group, &known.plural) == (&resource.group, &resource.plural)
                });
                if !is_known
                    && capabilities.supports_operation(verbs::LIST)
                    && capabilities.supports_operation(verbs::DELETE)
                {
                    let is_namespaced = capabilities.scope == Scope::Namespaced;
                    kinds.push(Kind { resource, is_namespaced });
                }
            }
        }
        Ok(kinds)
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
    use crate::fake::{Fake, Reply, list};
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
    fn owner() -> Owner {
        Owner::Run("r".to_owned())
    }

    fn map() -> Value {
        json!({"metadata": {"name": "a", "namespace": "ns", "uid": "1", "labels": {"llmdbench.io/run": "r"}}})
    }

    /// What a search brings, and why there may be more, where this path is answered so.
    async fn search(path: &'static str, reply: fn() -> Reply) -> (Vec<String>, Vec<Error>) {
        let fake = Fake::new(move |asked| match asked {
            asked if asked == path => reply(),
            "/api/v1/configmaps" | "/api/v1/namespaces/ns/configmaps" => {
                Reply::of(200, list(&[map()]))
            }
            asked => Fake::with_groups(asked, &["one.example", "two.example"]),
        })
        .await;
        let search = fake.connect().await.find(&owner(), &["ns"]).await.unwrap();
        let found = search.found.iter().map(|found| found.object.to_string()).collect();
        (found, search.unseen)
    }

    #[tokio::test]
    async fn an_api_that_is_not_available_hides_no_other() {
        let broken = || Reply::status(503, "ServiceUnavailable");
        let (found, unseen) = search("/apis/one.example/v1", broken).await;
        assert_eq!(found, ["ConfigMap ns/a"]);
        let [Error::Unavailable { api, .. }] = &unseen[..] else { panic!("{unseen:?}") };
        assert_eq!(api, "one.example/v1");
        assert!(unseen[0].hint().unwrap().contains("kubectl get apiservices"));
    }

    #[tokio::test]
    async fn what_cannot_be_listed_is_not_taken_for_nothing() {
        let things = "/apis/two.example/v1/things";
        let (found, unseen) = search(things, || Reply::status(500, "InternalError")).await;
        assert_eq!(found, ["ConfigMap ns/a"]);
        assert_eq!(unseen[0].to_string(), "failed to list every Thing: InternalError");
        assert!(!unseen[0].is_denied());
        for code in [404, 405] {
            let gone = if code == 404 {
                || Reply::status(404, "NotFound")
            } else {
                || Reply::status(405, "MethodNotAllowed")
            };
            assert!(search(things, gone).await.1.is_empty(), "{code}");
        }
        // Where it is denied in all namespaces, one is asked.
        let denied = || Reply::status(403, "Forbidden");
        let (found, unseen) = search("/api/v1/configmaps", denied).await;
        assert_eq!((found, unseen.len()), (vec!["ConfigMap ns/a".to_owned()], 0));
        let (_, unseen) = search("/api/v1/nodes", denied).await;
        assert!(unseen.len() == 1 && unseen[0].is_denied());
        // The kinds after it are not asked for.
        let (_, unseen) = search("/api/v1/pods", || Reply::Closed).await;
        assert!(unseen.len() == 1 && unseen[0].is_unanswered(), "{unseen:?}");
    }

    #[tokio::test]
    async fn what_others_have_may_be_where_one_may_not_look() {
        let fake = Fake::new(|path| match path {
            "/api/v1/namespaces/ns/pods" => Reply::status(403, "Forbidden"),
            "/api/v1/namespaces/ns/configmaps" => Reply::of(200, list(&[map()])),
            path => Fake::usual(path),
        })
        .await;
        let cluster = fake.connect().await;
        let search = cluster.others("ns", &[&owner()]).await.unwrap();
        assert!(search.found.is_empty());
        assert_eq!(search.unseen[0].to_string(), "failed to list every Pod in ns: Forbidden");
        let search = cluster.others("ns", &[]).await.unwrap();
        assert_eq!(search.found[0].1, owner());
    }
}
