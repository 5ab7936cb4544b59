//! An API server for tests: it answers each path as it is told to.

use crate::connection::{Access, Cluster};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What comes back.
pub(crate) enum Reply {
    Of(u16, String),
    /// This, and not before.
    After(Duration, Box<Reply>),
    /// The connection stays open, and nothing comes.
    Never,
    /// The connection is closed.
    Closed,
}

impl Reply {
    pub(crate) fn of(code: u16, body: Value) -> Self {
        Self::Of(code, body.to_string())
    }

    /// An error; its message is the reason.
    pub(crate) fn status(code: u16, reason: &str) -> Self {
        Self::of(
            code,
            json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason}),
        )
    }
}

/// The server. It ends with the test's runtime.
pub(crate) struct Fake {
    url: String,
    asked: UnboundedReceiver<String>,
}

impl Fake {
    /// A server that answers GET with what `answer` has for a path, whatever stands behind the `?`; but who watches waits
    /// for ever.
    pub(crate) async fn new(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (told, asked) = unbounded_channel();
        let answer = std::sync::Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer.clone(), told.clone()));
            }
        });
        Self { url, asked }
    }

    pub(crate) async fn connect(&self) -> Cluster {
        let token = "token".to_owned().into();
        let access = Access::Server { url: self.url.clone(), token, authority: None };
        Cluster::connect(&access).await.unwrap()
    }

    /// Waits until a path has been asked for.
    pub(crate) async fn wait_for(&mut self, path: &str) {
        while self.asked.recv().await.unwrap() != path {}
    }

    /// The answers of a cluster that has the kinds Pod, ConfigMap and Node, and `groups` with one kind each, and in which
    /// nothing stands.
    pub(crate) fn with_groups(path: &str, groups: &[&str]) -> Reply {
        let body = match path {
            "/version" => {
                let texts = [
                    "gitVersion",
                    "major",
                    "minor",
                    "gitCommit",
                    "gitTreeState",
                    "buildDate",
                    "goVersion",
                    "compiler",
                    "platform",
                ];
                json!(
                    texts
                        .map(|text| (text, "1"))
                        .into_iter()
                        .collect::<std::collections::HashMap<_, _>>()
                )
            }
            "/apis" => {
                let version =
                    |group: &str| json!({"groupVersion": format!("{group}/v1"), "version": "v1"});
                let group = |group: &&str| json!({"name": group, "versions": [version(group)], "preferredVersion": version(group)});
                json!({"kind": "APIGroupList", "groups": groups.iter().map(group).collect::<Vec<_>>()})
            }
            "/api/v1" => kinds(
                "v1",
                &[
                    ("pods", "Pod", true),
                    ("configmaps", "ConfigMap", true),
                    ("nodes", "Node", false),
                ],
            ),
            path => {
                let version = path.strip_prefix("/apis/");
                let group = version.and_then(|version| version.strip_suffix("/v1"));
                match (version, group) {
                    (Some(version), Some(group)) if groups.contains(&group) => {
                        kinds(version, &[("things", "Thing", true)])
                    }
                    _ => list(&[]),
                }
            }
        };
        Reply::of(200, body)
    }

    /// [`Fake::with_groups`] without any.
    pub(crate) fn usual(path: &str) -> Reply {
        Self::with_groups(path, &[])
    }
}

/// The answer to the request for a list.
pub(crate) fn list(items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": items})
}

/// The answer to the question which kinds an API has: their plurals, their names, whether they live in namespaces.
pub(crate) fn kinds(version: &str, kinds: &[(&str, &str, bool)]) -> Value {
    let resource = |(plural, kind, is_namespaced): &(&str, &str, bool)| json!({"name": plural, "singularName": "", "kind": kind, "namespaced": is_namespaced, "verbs": ["get", "list", "watch", "delete"]});
    let resources: Vec<Value> = kinds.iter().map(resource).collect();
    json!({"kind": "APIResourceList", "groupVersion": version, "resources": resources})
}

async fn serve(
    mut stream: TcpStream,
    answer: std::sync::Arc<impl Fn(&str) -> Reply>,
    told: UnboundedSender<String>,
) {
    let mut head = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        head.push(byte);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
        let target = text.split(' ').nth(1).unwrap();
        let path = target.split('?').next().unwrap().to_owned();
        let mut reply = answer(&path);
        let _ = told.send(path);
        if target.contains("watch=true") {
            reply = Reply::Never;
        }
        if let Reply::After(time, late) = reply {
            tokio::time::sleep(time).await;
            reply = *late;
        }
        match reply {
            Reply::Of(code, body) => {
                let length = body.len();
                let whole = format!(
                    "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
                );
                stream.write_all(whole.as_bytes()).await.unwrap();
            }
            Reply::Never | Reply::After(..) => std::future::pending().await,
            Reply::Closed => return,
        }
    }
}
