//! Logs, commands and ports of pods.

use crate::answer::answered;
use crate::connection::{Cluster, request};
use crate::error::{Error, Result};
use crate::object::Selection;
use futures::AsyncBufRead;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{AttachParams, AttachedProcess, LogParams};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Bytes of a pipe that wait for whoever reads them.
const PIPE: usize = 256 * 1024;

/// Which part of which log.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// None: the only container.
    pub container: Option<String>,
    /// Of the container before the last restart.
    pub previous: bool,
    /// So many of its last lines. None: all.
    pub tail: Option<u32>,
}

impl LogOptions {
    fn parameters(&self) -> LogParams {
        LogParams {
            container: self.container.clone(),
            previous: self.previous,
            tail_lines: self.tail.map(i64::from),
            ..LogParams::default()
        }
    }
}

/// How a command in a pod ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOutput {
    /// Its exit code. None: the pod did not say.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
}

/// A command in a pod to which is written and from which is read. Dropping it lets go of the command, which then finds
/// its input closed and nobody who reads.
pub struct Pipe {
    /// Its standard input.
    pub input: Box<dyn AsyncWrite + Send + Unpin>,
    /// Its standard output; ends with the command, or when the connection breaks.
    pub output: Box<dyn AsyncRead + Send + Unpin>,
    name: String,
    process: AttachedProcess,
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipe").field("to", &self.name).finish_non_exhaustive()
    }
}

impl Pipe {
    /// Waits until the command has ended. None: the connection broke before that was known.
    pub async fn end(mut self) -> Option<i32> {
        drop((self.input, self.output));
        let status = self.process.take_status()?.await?;
        exit_code(&serde_json::to_value(status).ok()?)
    }
}

/// A port of a pod that is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPort {
    /// The pod's name.
    pub name: String,
    /// Where other pods reach it. None: it has no address.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

/// A port of this machine that leads to a port of a pod, until it is dropped.
#[derive(Debug)]
pub struct Forward {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Forward {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cluster {
    /// The log of a container as it is now.
    ///
    /// # Errors
    /// When there is no such pod or container, or none before the last restart.
    pub async fn logs(&self, namespace: &str, pod: &str, options: &LogOptions) -> Result<String> {
        let (pods, parameters) = (self.pods(namespace), options.parameters());
        let log = answered(|| pods.logs(pod, &parameters)).await;
        log.map_err(request("read the log of", &format!("pod {namespace}/{pod}")))
    }

    /// The log of a container from now on, and what was asked for of it until now.
    ///
    /// # Errors
    /// As [`Cluster::logs`].
    pub async fn follow(
        &self,
        namespace: &str,
        pod: &str,
        options: &LogOptions,
    ) -> Result<impl AsyncBufRead + use<>> {
        let parameters = LogParams { follow: true, ..options.parameters() };
        let stream = self.pods(namespace).log_stream(pod, &parameters).await;
        stream.map_err(request("follow the log of", &format!("pod {namespace}/{pod}")))
    }

    /// Runs a command in a container and waits for its end. `container`: None is the only one.
    ///
    /// # Errors
    /// When there is no such pod, or the connection breaks; not when the command fails, which its exit code says.
    pub async fn exec(
        &self,
        namespace: &str,
        pod: &str,
        container: Option<&str>,
        command: &[&str],
    ) -> Result<CommandOutput> {
        let name = format!("pod {namespace}/{pod}");
        let parameters = AttachParams {
            container: container.map(str::to_owned),
            stdin: false,
            ..AttachParams::default()
        };
        let pods = self.pods(namespace);
        let started = answered(|| pods.exec(pod, command.iter().copied(), &parameters)).await;
        let mut process = started.map_err(request("run a command in", &name))?;
        let broken = |error: &dyn std::error::Error| Error::Broken {
            to: name.clone(),
            why: error.to_string(),
        };
        let status = process.take_status();
        let (out, err) = (process.stdout(), process.stderr());
        let (stdout, stderr) =
            tokio::try_join!(read_all(out), read_all(err)).map_err(|e| broken(&e))?;
        let status = match status {
            Some(status) => status.await,
            None => None,
        };
        process.join().await.map_err(|error| broken(&error))?;
        let code = status.and_then(|status| exit_code(&serde_json::to_value(status).ok()?));
        Ok(CommandOutput { code, stdout, stderr })
    }

    /// Runs a command in a container, and lets one write to it and read from it. Its standard error is thrown away.
    ///
    /// # Errors
    /// When there is no such pod, or it runs no commands.
    pub async fn pipe(
        &self,
        namespace: &str,
        pod: &str,
        container: Option<&str>,
        command: &[&str],
    ) -> Result<Pipe> {
        let name = format!("pod {namespace}/{pod}");
        let parameters = AttachParams {
            container: container.map(str::to_owned),
            stdin: true,
            stdout: true,
            stderr: false,
            max_stdin_buf_size: Some(PIPE),
            max_stdout_buf_size: Some(PIPE),
            ..AttachParams::default()
        };
        let pods = self.pods(namespace);
        let started = answered(|| pods.exec(pod, command.iter().copied(), &parameters)).await;
        let mut process = started.map_err(request("run a command in", &name))?;
        let (input, output) = (process.stdin(), process.stdout());
        let (Some(input), Some(output)) = (input, output) else {
            return Err(Error::Broken { to: name, why: "there are no streams".into() });
        };
        Ok(Pipe { input: Box::new(input), output: Box::new(output), name, process })
    }

    /// Opens a port of this machine that leads to a port of a pod, or of any pod behind a Service. `kind` is "Pod" or
    /// "Service". A pod that goes away is replaced by the next one of the Service at the next connection.
    ///
    /// # Errors
    /// When there is none now that is ready, or no port is free.
    pub async fn forward(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        port: u16,
    ) -> Result<Forward> {
        let of = Selection::named("v1", kind, namespace, name);
        self.behind(&of, port).await?;
        let failed =
            |error: std::io::Error| Error::Broken { to: of.to_string(), why: error.to_string() };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let cluster = self.clone();
        let task = tokio::spawn(async move {
            // Connections end with the listener.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (cluster, of) = (cluster.clone(), of.clone());
                connections.spawn(async move {
                    // A connection that cannot be made is closed, as a server would do.
                    let _ = cluster.join(stream, &of, port).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Forward { address, task })
    }

    async fn join(&self, mut here: TcpStream, of: &Selection, port: u16) -> Result<()> {
        let PodPort { name: pod, port, .. } = self.behind(of, port).await?;
        let name = format!("pod {}/{pod}", of.namespace);
        let (pods, ports) = (self.pods(&of.namespace), [port]);
        let opened = answered(|| pods.portforward(&pod, &ports)).await;
        let mut forwarder = opened.map_err(request("forward a port of", &name))?;
        let mut there = forwarder
            .take_stream(port)
            .ok_or_else(|| Error::Broken { to: name.clone(), why: "there is no stream".into() })?;
        let copied = tokio::io::copy_bidirectional(&mut here, &mut there).await;
        copied.map_err(|error| Error::Broken { to: name, why: error.to_string() })?;
        Ok(())
    }

    /// The pods that are ready and take what is meant for a port of a pod or Service, each with its own port, sorted by
    /// name. At least one.
    ///
    /// # Errors
    /// When there is none now.
    pub async fn pods_behind(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        port: u16,
    ) -> Result<Vec<PodPort>> {
        self.all_behind(&Selection::named("v1", kind, namespace, name), port).await
    }

    /// The pods with these labels that are ready, with this port, sorted by name. At least one.
    ///
    /// # Errors
    /// When there is none now.
    pub async fn pods_labelled(
        &self,
        namespace: &str,
        labels: &str,
        port: u16,
    ) -> Result<Vec<PodPort>> {
        let nobody = || Error::NoPod(format!("the labels {labels} in {namespace}"));
        self.ready(namespace, labels, |_| Some(port)).await?.ok_or_else(nobody)
    }

    async fn behind(&self, of: &Selection, port: u16) -> Result<PodPort> {
        let mut all = self.all_behind(of, port).await?;
        Ok(all.swap_remove(0))
    }

    async fn all_behind(&self, of: &Selection, port: u16) -> Result<Vec<PodPort>> {
        let nobody = || Error::NoPod(of.to_string());
        let found = self.get(of).await?.into_iter().next().ok_or_else(nobody)?;
        if of.kind != "Service" {
            return Ok(vec![pod_port(&found, port)]);
        }
        let selector: Vec<String> = found["spec"]["selector"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
            .collect();
        if selector.is_empty() {
            return Err(nobody());
        }
        let target = |pod: &Value| target_port(&found, port, pod);
        self.ready(&of.namespace, &selector.join(","), target).await?.ok_or_else(nobody)
    }

    /// The pods with these labels that are ready and have such a port. None: there is none.
    async fn ready(
        &self,
        namespace: &str,
        labels: &str,
        port: impl Fn(&Value) -> Option<u16>,
    ) -> Result<Option<Vec<PodPort>>> {
        let pods = self.get(&Selection::labelled("v1", "Pod", namespace, labels)).await?;
        let ready = pods.iter().filter(|pod| is_ready(pod));
        let mut ready: Vec<PodPort> =
            ready.filter_map(|pod| Some(pod_port(pod, port(pod)?))).collect();
        ready.sort_by(|one, other| one.name.cmp(&other.name));
        Ok((!ready.is_empty()).then_some(ready))
    }

    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }
}

async fn read_all(from: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        from.read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// What the status of a command says: success, or a cause named ExitCode.
fn exit_code(status: &Value) -> Option<i32> {
    if status["status"] == "Success" {
        return Some(0);
    }
    let causes = status["details"]["causes"].as_array()?;
    let code = causes.iter().find(|cause| cause["reason"] == "ExitCode")?;
    code["message"].as_str()?.parse().ok()
}

fn pod_port(pod: &Value, port: u16) -> PodPort {
    PodPort {
        name: pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        address: pod["status"]["podIP"].as_str().and_then(|address| address.parse().ok()),
        port,
    }
}

fn is_ready(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null()
        && crate::condition::condition(pod, "Ready").is_some_and(|ready| ready["status"] == "True")
}

/// The port of a pod behind a port of a Service: the same, a number, or the name of a container's port.
fn target_port(service: &Value, port: u16, pod: &Value) -> Option<u16> {
    let ports = service["spec"]["ports"].as_array()?;
    let entry = ports.iter().find(|entry| entry["port"] == port)?;
    let number = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok());
    match &entry["targetPort"] {
        Value::Null => Some(port),
        Value::String(name) => {
            let containers = pod["spec"]["containers"].as_array()?;
            let named = containers.iter().flat_map(|c| c["ports"].as_array().into_iter().flatten());
            let mut named = named.filter(|entry| entry["name"] == *name);
            number(&named.next()?["containerPort"])
        }
        other => number(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_port_of_a_service_leads_to_a_port_of_a_pod() {
        let pod =
            json!({"spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8000}]}]}});
        let check = |target: Value, expected: Option<u16>| {
            let service = json!({"spec": {"ports": [{"port": 80, "targetPort": target}]}});
            assert_eq!(target_port(&service, 80, &pod), expected);
        };
        check(json!(8200), Some(8200));
        check(json!("http"), Some(8000));
        check(json!("other"), None);
        check(Value::Null, Some(80));
    }

    #[test]
    fn a_command_says_its_exit_code() {
        assert_eq!(exit_code(&json!({"status": "Success"})), Some(0));
        let failed = json!({"status": "Failure", "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}});
        assert_eq!(exit_code(&failed), Some(3));
        assert_eq!(exit_code(&json!({"status": "Failure"})), None);
    }
}
