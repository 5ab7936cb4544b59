//! Who the cluster is, who one is to it, and which kinds of objects it knows.

use crate::answer::answered;
use crate::error::{Error, Result, cause, has_code};
use crate::object::{Selection, Which};
use kube::api::{Api, DynamicObject, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiResource, Scope, pinned_kind};
use kube::{Client, Config};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// The way to a cluster.
#[derive(Debug, Clone)]
pub enum Access {
    /// A kubeconfig.
    Kubeconfig {
        /// None: that of KUBECONFIG or of the home folder.
        file: Option<PathBuf>,
        /// None: the current one.
        context: Option<String>,
    },
    /// The API server itself.
    Server {
        /// "https://api.example.org"; without a port it is 6443.
        url: String,
        /// The bearer token of an account.
        token: SecretString,
        /// The certificates of its authority. None: those that the system trusts.
        authority: Option<PathBuf>,
    },
    /// The account of the pod in which this program runs.
    InCluster,
}

/// A cluster.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) client: Client,
    server: String,
    namespace: String,
    context: Arc<Value>,
    kinds: Arc<Mutex<HashMap<(String, String), Kind>>>,
}

/// A kind of objects, as the API server has it.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    pub(crate) resource: ApiResource,
    pub(crate) is_namespaced: bool,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Connects, and asks for the version to see that somebody answers.
    ///
    /// The process needs a crypto provider of rustls, installed as the default one.
    ///
    /// # Errors
    /// When there is no such way, or nobody answers, or not to this account.
    pub async fn connect(access: &Access) -> Result<Self> {
        let to = access.name();
        let failed = |why: String| Error::Connect { to: to.clone(), why };
        let mut config = access.config().await.map_err(failed)?;
        // Its own takes minutes before it tells that an API is not available.
        config.default_retry = false;
        let server = config.cluster_url.to_string();
        let namespace = config.default_namespace.clone();
        let failed = |error: &kube::Error| Error::Connect {
            to: format!("{to} ({})", server.trim_end_matches('/')),
            why: cause(error),
        };
        let client = Client::try_from(config).map_err(|error| failed(&error))?;
        let context = Arc::new(access.context(&server, &namespace));
        let server = server.clone();
        let cluster = Self { client, server, namespace, context, kinds: Arc::default() };
        answered(|| cluster.client.apiserver_version()).await.map_err(|error| failed(&error))?;
        Ok(cluster)
    }

    /// The URL of the API server.
    #[must_use]
    pub fn server(&self) -> &str {
        self.server.trim_end_matches('/')
    }

    /// The namespace of the context.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The way to the cluster as a kubeconfig of one context: everything but the credentials.
    #[must_use]
    pub fn context(&self) -> &Value {
        &self.context
    }

    /// The version of the API server: "v1.34.4".
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn version(&self) -> Result<String> {
        let version = answered(|| self.client.apiserver_version()).await;
        version.map(|info| info.git_version).map_err(request("get", &"the version"))
    }

    /// Objects as they are now; one that is not there is none.
    ///
    /// # Errors
    /// When the cluster does not know their kind, or refuses.
    pub async fn get(&self, selection: &Selection) -> Result<Vec<Value>> {
        let kind = self.kind(&selection.api_version, &selection.kind).await?;
        let api = self.api(&kind, Some(&selection.namespace));
        let failed = request("get", selection);
        match &selection.which {
            Which::Name(name) => {
                let found = answered(|| api.get_opt(name)).await.map_err(failed)?;
                Ok(found.map(|object| kind.value(object)).into_iter().collect())
            }
            Which::Labels(labels) => {
                let parameters = ListParams::default().labels(labels);
                let listed = answered(|| api.list(&parameters)).await.map_err(failed)?;
                Ok(listed.items.into_iter().map(|object| kind.value(object)).collect())
            }
        }
    }

    /// A kind by its names. What the cluster does not know today is asked for again tomorrow.
    pub(crate) async fn kind(&self, api_version: &str, kind: &str) -> Result<Kind> {
        let key = (api_version.to_owned(), kind.to_owned());
        let known = self.kinds.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let wanted = GroupVersionKind::gvk(group, version, kind);
        let found = answered(|| pinned_kind(&self.client, &wanted)).await;
        let (resource, capabilities) = found.map_err(|error| {
            let is_unknown = has_code(&error, 404) || matches!(error, kube::Error::Discovery(_));
            if is_unknown {
                return Error::UnknownKind { api_version: key.0.clone(), kind: key.1.clone() };
            }
            request("look up", &format!("the kind {kind}"))(error)
        })?;
        let found = Kind { resource, is_namespaced: capabilities.scope == Scope::Namespaced };
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).insert(key, found.clone());
        Ok(found)
    }

    /// The objects of a kind: in a namespace, or in all of them.
    pub(crate) fn api(&self, kind: &Kind, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace {
            Some(namespace) if kind.is_namespaced => {
                Api::namespaced_with(self.client.clone(), namespace, &kind.resource)
            }
            _ => Api::all_with(self.client.clone(), &kind.resource),
        }
    }
}

impl Kind {
    /// An object as JSON; in lists they do not say what they are.
    pub(crate) fn value(&self, object: DynamicObject) -> Value {
        let mut value = serde_json::to_value(object).unwrap_or_default();
        value["apiVersion"] = self.resource.api_version.clone().into();
        value["kind"] = self.resource.kind.clone().into();
        value
    }
}

/// What a failed request becomes.
pub(crate) fn request(
    verb: &'static str,
    what: &dyn ToString,
) -> impl FnOnce(kube::Error) -> Error + use<> {
    let what = what.to_string();
    move |source| Error::Request { verb, what, source: Box::new(source) }
}

impl Access {
    /// The way that is there: the current context of a kubeconfig; without one, in a pod, that of its account.
    #[must_use]
    pub fn found() -> Self {
        let is_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        let has_file = Kubeconfig::read().is_ok();
        if is_pod && !has_file {
            return Self::InCluster;
        }
        Self::Kubeconfig { file: None, context: None }
    }

    fn name(&self) -> String {
        match self {
            Self::Kubeconfig { file, context } => {
                let file = file.as_ref().map_or_else(
                    || "the kubeconfig".to_owned(),
                    |file| format!("the kubeconfig {}", file.display()),
                );
                match context {
                    Some(context) => format!("the cluster of the context `{context}` of {file}"),
                    None => format!("the cluster of the current context of {file}"),
                }
            }
            Self::Server { url, .. } => url.clone(),
            Self::InCluster => "the cluster around this pod".to_owned(),
        }
    }

    /// See [`Cluster::context`].
    fn context(&self, server: &str, namespace: &str) -> Value {
        let mut name = "llmdbench".to_owned();
        let mut user = name.clone();
        let mut cluster = json!({"server": without_login(server)});
        if let Self::Kubeconfig { file, context } = self {
            let read = match file {
                Some(file) => Kubeconfig::read_from(file),
                None => Kubeconfig::read(),
            };
            let read = read.ok().and_then(|all| serde_json::to_value(all).ok()).unwrap_or_default();
            let wanted = context.as_deref().or(read["current-context"].as_str());
            let named = |list: &str, name: &Value, inner: &str| {
                let entries = read[list].as_array().into_iter().flatten();
                let mut named = entries.filter(|entry| entry["name"] == *name);
                named.next().map_or(Value::Null, |entry| entry[inner].clone())
            };
            let chosen = named("contexts", &json!(wanted), "context");
            let its = named("clusters", &chosen["cluster"], "cluster");
            // What else there is may be an address of a proxy with a password in it.
            for key in PUBLIC {
                if let Some(value) = its.get(key) {
                    cluster[key] = value.clone();
                }
            }
            name = wanted.unwrap_or(&name).to_owned();
            user = chosen["user"].as_str().unwrap_or(&user).to_owned();
        }
        let context = json!({"cluster": name, "user": user, "namespace": namespace});
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "contexts": [{"name": name, "context": context}],
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": user, "user": {}}],
        })
    }

    async fn config(&self) -> Result<Config, String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        match self {
            Self::Kubeconfig { file, context } => {
                let kubeconfig = match file {
                    Some(file) => Kubeconfig::read_from(file),
                    None => Kubeconfig::read(),
                }
                .map_err(|error| match error {
                    // What stands around the fault may be a secret, so it is not shown.
                    KubeconfigError::Parse(error) => match error.location() {
                        Some(at) => {
                            format!(
                                "it cannot be understood at line {}, column {}",
                                at.line(),
                                at.column()
                            )
                        }
                        None => "it cannot be understood".to_owned(),
                    },
                    other => text(&other),
                })?;
                let options =
                    KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
                Config::from_custom_kubeconfig(kubeconfig, &options)
                    .await
                    .map_err(|error| text(&error))
            }
            Self::Server { url, token, authority } => {
                let url = with_port(url);
                let mut config = Config::new(url.parse().map_err(|_| "it is no URL".to_owned())?);
                config.auth_info.token = Some(token.expose_secret().to_owned().into());
                config.root_cert_file = authority.clone();
                Ok(config)
            }
            Self::InCluster => Config::incluster().map_err(|error| text(&error)),
        }
    }
}

/// What of a kubeconfig's cluster is shown besides the server.
const PUBLIC: [&str; 4] = [
    "certificate-authority",
    "certificate-authority-data",
    "insecure-skip-tls-verify",
    "tls-server-name",
];

/// A URL without the user and password that may stand in it.
fn without_login(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    let host = rest[..end].rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{}", rest[end..].trim_end_matches('/'))
}

/// The API server's usual port, where a URL names none.
fn with_port(url: &str) -> String {
    let url = url.trim_end_matches('/');
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let last = host.rsplit(']').next().unwrap_or(host);
    if host.contains('/') || last.contains(':') { url.to_owned() } else { format!("{url}:6443") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_server_without_a_port_has_the_usual_one() {
        let check = |url: &str, expected: &str| assert_eq!(with_port(url), expected);
        check("https://api.example.org", "https://api.example.org:6443");
        check("https://api.example.org/", "https://api.example.org:6443");
        check("https://api.example.org:443", "https://api.example.org:443");
        check("https://[::1]", "https://[::1]:6443");
        check("https://[::1]:1", "https://[::1]:1");
        check("https://example.org/k8s/x", "https://example.org/k8s/x");
    }

    #[test]
    fn a_context_is_shown_without_credentials() {
        let text = r#"{"apiVersion": "v1", "kind": "Config", "current-context": "b", "contexts": [
            {"name": "a", "context": {"cluster": "x", "user": "x"}},
            {"name": "b", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": "https://h:6443", "certificate-authority-data": "Q0E=", "proxy-url": "http://me:hidden-1@p"}}],
            "users": [{"name": "u", "user": {"token": "hidden-2", "client-key-data": "hidden-3", "password": "hidden-4"}}]}"#;
        let file = std::env::temp_dir().join(format!("llmdbench-context-{}", std::process::id()));
        std::fs::write(&file, text).unwrap();
        let access = Access::Kubeconfig { file: Some(file.clone()), context: None };
        let shown = access.context("https://me:hidden-5@h:6443/", "ns");
        std::fs::remove_file(file).unwrap();
        assert!(!shown.to_string().contains("hidden"), "{shown}");
        assert_eq!(shown["current-context"], "b");
        assert_eq!(shown["contexts"][0]["context"]["user"], "u");
        let cluster = json!({"server": "https://h:6443", "certificate-authority-data": "Q0E="});
        assert_eq!(shown["clusters"][0]["cluster"], cluster);
    }

    #[tokio::test]
    async fn a_kubeconfig_that_cannot_be_understood_is_not_shown() {
        let folder = std::env::temp_dir().join(format!("kubeconfig-{}", std::process::id()));
        std::fs::write(&folder, "users:\n- name: a\n  user: {token: hidden-token\nclusters: [")
            .unwrap();
        let access = Access::Kubeconfig { file: Some(folder.clone()), context: None };
        let why = access.config().await.unwrap_err();
        std::fs::remove_file(folder).unwrap();
        assert!(why.contains("line") && !why.contains("hidden-token"), "{why}");
    }

    #[test]
    fn a_token_is_not_printed() {
        let access = Access::Server {
            url: "https://h".into(),
            token: SecretString::from("hidden-token"),
            authority: None,
        };
        assert!(!format!("{access:?}").contains("hidden-token"));
    }
}
