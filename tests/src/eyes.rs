//! Looks through a cluster by requests of its own, over every version of every kind that can be listed. Nothing of it is
//! the program's, which would miss the same things that it leaves behind.

use kube::api::ListParams;
use kube::{Client, Error};
use serde_json::Value;
use std::collections::BTreeMap;

/// A kind in one of its versions.
struct Resource {
    /// "/apis/apps/v1".
    api: String,
    /// "deployments".
    name: String,
    is_namespaced: bool,
}

/// Everything with these labels, each object once: in a namespace, or in the whole cluster.
///
/// # Panics
/// When something that may be listed is not: it would be taken for nothing.
pub(crate) async fn look(client: &Client, namespace: Option<&str>, labels: &str) -> Vec<Value> {
    let mut seen = BTreeMap::new();
    for Resource { api, name, is_namespaced } in resources(client).await {
        let path = match namespace {
            None => format!("{api}/{name}"),
            Some(_) if !is_namespaced => continue,
            Some(namespace) => format!("{api}/namespaces/{namespace}/{name}"),
        };
        let Some(listed) = get(client, &path, labels).await else { continue };
        let kind = listed["kind"].as_str().unwrap();
        for object in items(&listed, "items") {
            let mut object = object.clone();
            // In lists they do not say what they are.
            object["kind"] = kind.strip_suffix("List").unwrap_or(kind).into();
            object["apiVersion"] = listed["apiVersion"].clone();
            let metadata = &object["metadata"];
            let key = match metadata["uid"].as_str() {
                Some(uid) => uid.to_owned(),
                None => format!("{path} {} {}", metadata["namespace"], metadata["name"]),
            };
            seen.entry(key).or_insert(object);
        }
    }
    seen.into_values().collect()
}

async fn resources(client: &Client) -> Vec<Resource> {
    let away = unavailable(client).await;
    let groups = get(client, "/apis", "").await.unwrap();
    let versions = items(&groups, "groups").flat_map(|group| items(group, "versions"));
    let versions = versions.map(|version| version["groupVersion"].as_str().unwrap());
    let versions = versions.filter(|version| !away.iter().any(|away| away == version));
    let apis = versions.map(|version| format!("/apis/{version}"));
    let mut all = Vec::new();
    for api in std::iter::once("/api/v1".to_owned()).chain(apis) {
        let Some(kinds) = get(client, &api, "").await else { continue };
        for kind in items(&kinds, "resources") {
            let name = kind["name"].as_str().unwrap();
            if !name.contains('/') && items(kind, "verbs").any(|verb| verb == "list") {
                let is_namespaced = kind["namespaced"] == true;
                all.push(Resource { api: api.clone(), name: name.to_owned(), is_namespaced });
            }
        }
    }
    all
}

/// The APIs of servers in the cluster that do not serve them now: "metrics.k8s.io/v1beta1".
async fn unavailable(client: &Client) -> Vec<String> {
    let services = get(client, "/apis/apiregistration.k8s.io/v1/apiservices", "").await;
    let services = services.unwrap_or_default();
    let is_away = |service: &&Value| {
        let is_available =
            |condition: &Value| condition["type"] == "Available" && condition["status"] == "True";
        !service["spec"]["service"].is_null()
            && !items(&service["status"], "conditions").any(is_available)
    };
    let away = items(&services, "items").filter(is_away).map(|service| {
        let part = |name: &str| service["spec"][name].as_str().unwrap();
        format!("{}/{}", part("group"), part("version"))
    });
    away.collect()
}

fn items<'a>(of: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    of[name].as_array().into_iter().flatten()
}

/// What a path has. None: it may not be seen, is gone, or is no list.
async fn get(client: &Client, path: &str, labels: &str) -> Option<Value> {
    let mut wanted = ListParams::default();
    if !labels.is_empty() {
        wanted = wanted.labels(labels);
    }
    let request = kube::core::Request::new(path).list(&wanted).unwrap();
    match client.request(request).await {
        Ok(answer) => Some(answer),
        Err(Error::Api(status)) if [403, 404, 405].contains(&status.code) => None,
        Err(error) => panic!("{path}: {error:?}"),
    }
}
