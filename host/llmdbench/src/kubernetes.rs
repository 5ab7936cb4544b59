//! Carries out in a cluster what actions say, and remembers what was put there: `setup/objects.json`.

mod inventory;
mod published;
mod removal;

pub(crate) use inventory::Inventory;
pub(crate) use removal::Removed;

use crate::action::{self, Action, Manifest};
use crate::document::Document;
use crate::error::{Error, Exit, Result};
use crate::interrupt;
use crate::plan::{Target, Within};
use crate::printer::Printer;
use crate::run_dir::{self, RunDir};
use crate::secrets::Secrets;
use crate::settings::Settings;
use crate::unit;
use cluster::{Access, Applied, Cluster, Effect, ObjectRef, Owner, PodPort, Selection};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::runtime::Runtime;

/// A cluster, and what a run has in it.
pub(crate) struct Kubernetes {
    cluster: Cluster,
    access: Access,
    /// The name or the path of helm.
    helm: String,
    runtime: Runtime,
    /// Of objects that name none.
    namespace: String,
    /// Those of the stack and of the harness.
    namespaces: Vec<String>,
}

impl Kubernetes {
    /// Connects to the cluster that the settings name. `namespace` is that of objects that name none.
    pub(crate) fn connect(settings: &Settings, namespace: &str) -> Result<Self> {
        let access = match settings.text("cluster.url") {
            None | Some("auto") => Access::found(),
            Some(url) => Access::Server {
                url: url.to_owned(),
                token: settings
                    .text("cluster.token")
                    .ok_or_else(|| {
                        Error::usage("`cluster.url` is set and `cluster.token` is not")
                            .hint("set LLMDBENCH_CLUSTER_TOKEN, or leave LLMDBENCH_CLUSTER_URL out for the current context of kubectl")
                    })?
                    .to_owned()
                    .into(),
                authority: settings.text("cluster.ca_file").map(PathBuf::from),
            },
        };
        // Its thread serves forwarded ports while this one waits for answers.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| Error::unexpected("cannot start").because(error))?;
        let cluster = finish(&runtime, Cluster::connect(&access)).map_err(|error| {
            error.hint("`kubectl cluster-info` says whether the current context works; -n needs no cluster")
        })?;
        let namespaces = ["vllm.common.namespace", "fmperf.namespace"];
        let namespaces = namespaces.iter().filter_map(|path| settings.text(path));
        let mut namespaces: Vec<String> = namespaces.map(str::to_owned).collect();
        namespaces.dedup();
        let helm = helm_of(settings).to_owned();
        Ok(Self { cluster, access, helm, runtime, namespace: namespace.to_owned(), namespaces })
    }

    /// Connects to the cluster in which a run folder has something standing; another one is refused.
    pub(crate) fn of(inventory: &Inventory, settings: &Settings) -> Result<Self> {
        let own = Self::connect(settings, "")?;
        if own.cluster.server() == inventory.server {
            return Ok(own);
        }
        Err(Error::usage(format!(
            "the run stands in the cluster {}, and this leads to {}",
            inventory.server,
            own.cluster.server()
        ))
        .hint("switch the context of kubectl (`kubectl config use-context`), or set LLMDBENCH_CLUSTER_URL"))
    }

    /// Carries an action out and says how it ended. What is applied is in `setup/objects.json` at once.
    pub(crate) fn carry_out(
        &self,
        action: &Action,
        owner: &Owner,
        run: &str,
        secrets: &Secrets,
        dir: &RunDir,
        printer: &Printer,
    ) -> Result<String> {
        interrupt::check()?;
        match action {
            Action::Helm(release) => self.install(release, owner, run, dir, printer),
            Action::Uninstall(release) => self.uninstall_own(release, owner, dir),
            Action::ApplyRemote(remote) => self.apply_published(remote, dir),
            Action::Apply(manifest) => {
                run_dir::write(&dir.yaml(&manifest.file), manifest.yaml.as_bytes())?;
                let objects = Document::values(&manifest.file, &manifest.yaml)?;
                self.apply(objects, &self.namespace, owner, run, dir)
            }
            Action::Secret(secret) => {
                let mut data = json!({});
                for (key, name) in &secret.entries {
                    let value = secrets
                        .by_name
                        .get(name)
                        .ok_or_else(|| Error::usage(format!("the secret `{name}` is not set")))?;
                    data[key] = json!(value.expose_secret());
                }
                let object = json!({
                    "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
                    "metadata": {"name": secret.name}, "stringData": data,
                });
                let within = secret.namespace.as_deref().unwrap_or(&self.namespace);
                self.apply(vec![object], within, owner, run, dir)
            }
            Action::Wait(wait) => {
                let until = condition(&wait.until);
                let selection = self.selection(&wait.objects);
                let waited = self.wait(&selection, &until, wait.timeout, printer);
                waited.map(|objects| {
                    format!("{} as wanted", count(objects.len(), "object is", "objects are"))
                })
            }
            Action::Delete(objects) => self.clear(objects, owner),
            Action::Observe(objects) => {
                let found = self.observe(objects)?;
                Ok(format!("{} there", count(found.len(), "object is", "objects are")))
            }
            other => Err(Error::unexpected(format!("no cluster carries out {other:?}"))),
        }
    }

    /// Waits until objects are as they should be, and shows what keeps them.
    pub(crate) fn wait(
        &self,
        selection: &Selection,
        until: &cluster::Condition,
        timeout: Duration,
        printer: &Printer,
    ) -> Result<Vec<Value>> {
        let mut progress = printer.progress();
        let waited = self.finish(self.cluster.wait(selection, until, timeout, &mut |now| {
            progress.show(|| {
                let cause = now.diagnoses.first();
                let cause = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
                format!("waiting {}: {}{cause}", unit::show(now.elapsed), now.state)
            });
        }));
        progress.end();
        waited
    }

    /// An error where an object is not there, which names the command that makes it.
    pub(crate) fn refuse_missing(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
        name: &str,
        cure: &str,
    ) -> Result<()> {
        let selection = Selection::named(api_version, kind, namespace, name);
        if self.finish(self.cluster.get(&selection))?.is_empty() {
            let within = if namespace.is_empty() { "" } else { " in " };
            let what = format!("there is no {kind} `{name}`{within}{namespace}");
            return Err(Error::new(Exit::Run, what).hint(format!("`{cure}` makes it")));
        }
        Ok(())
    }

    /// Applies objects that go with the run, and records them for teardown.
    pub(crate) fn apply_for_run(
        &self,
        objects: Vec<Value>,
        within: &str,
        run: &str,
        dir: &RunDir,
    ) -> Result<()> {
        // What a folder has in a cluster goes under one run's name.
        let standing = Inventory::read(dir)?.run;
        let run = if standing.is_empty() { run } else { &standing };
        self.apply(objects, within, &Owner::Run(run.to_owned()), run, dir).map(drop)
    }

    /// Asks the cluster something.
    pub(crate) fn ask<T, F: Future<Output = cluster::Result<T>>>(
        &self,
        question: impl FnOnce(Cluster) -> F,
    ) -> Result<T> {
        self.finish(question(self.cluster.clone()))
    }

    /// Does something to its end.
    pub(crate) fn drive<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Lets something go on beside this thread.
    pub(crate) fn spawn(
        &self,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        self.runtime.spawn(future)
    }

    fn finish<T>(&self, asked: impl Future<Output = cluster::Result<T>>) -> Result<T> {
        finish(&self.runtime, asked)
    }

    /// Objects as they are, for the backend.
    pub(crate) fn observe(&self, objects: &action::Objects) -> Result<Vec<Value>> {
        self.finish(self.cluster.get(&self.selection(objects)))
    }

    /// The pods that take what is meant for a port in the cluster. At least one.
    pub(crate) fn pods_behind(&self, to: &Within) -> Result<Vec<Within>> {
        Ok(self.behind(to)?.into_iter().map(|pod| within(&to.namespace, pod)).collect())
    }

    fn behind(&self, to: &Within) -> Result<Vec<PodPort>> {
        self.finish(self.cluster.pods_behind(&to.kind, &to.namespace, &to.name, to.port))
    }

    /// The pods that serve the model: those that the backend names, else those that take what is meant for the target.
    pub(crate) fn servers(&self, target: &Target) -> Result<Vec<Server>> {
        let mut servers = Vec::new();
        for own in &target.servers {
            let asked = self.cluster.pods_labelled(&own.namespace, &own.selector, own.port);
            let server = |pod| Server::of(pod, &own.namespace, &own.metrics);
            servers.extend(self.finish(asked)?.into_iter().map(server));
        }
        if let (Some(to), true) = (&target.within, servers.is_empty()) {
            let server = |pod| Server::of(pod, &to.namespace, "/metrics");
            servers.extend(self.behind(to)?.into_iter().map(server));
        }
        Ok(servers)
    }

    /// The values of the Secrets that the commands on a run folder made, by their names and keys. What may not be read
    /// is not among them.
    pub(crate) fn secrets_of(
        &self,
        inventory: &Inventory,
    ) -> BTreeMap<(String, String), SecretString> {
        let objects = inventory.objects.iter().map(|recorded| &recorded.object);
        let secrets = objects.filter(|object| object.kind == "Secret");
        let values = secrets.flat_map(|object| {
            let namespace = object.namespace.as_deref().unwrap_or_default();
            let read = self.finish(self.cluster.secret_values(namespace, &object.name));
            let values = read.unwrap_or_default().into_iter();
            values.map(|(key, value)| ((object.name.clone(), key), value))
        });
        values.collect()
    }

    /// What there is to see of what the commands on a run folder put here.
    pub(crate) fn evidence(&self, inventory: &Inventory) -> Result<cluster::Evidence> {
        let objects = inventory.objects.iter().map(|recorded| recorded.object.clone());
        let mut objects: Vec<ObjectRef> = objects.collect();
        let mut unseen = Vec::new();
        if inventory.is_applying || !inventory.releases.is_empty() {
            // What charts made is known by its label alone.
            let places = inventory.places();
            let places: Vec<&str> = places.iter().map(String::as_str).collect();
            let run = Owner::Run(inventory.run.clone());
            let search = self.finish(self.cluster.find(&run, &places))?;
            objects.extend(search.found.into_iter().map(|found| found.object));
            unseen = search.unseen;
        }
        let mut seen = self.look_at(&objects)?;
        seen.missing.extend(unseen.iter().map(ToString::to_string));
        Ok(seen)
    }

    /// What there is to see of these objects, and of what they made.
    pub(crate) fn look_at(&self, objects: &[ObjectRef]) -> Result<cluster::Evidence> {
        self.finish(async { Ok(self.cluster.evidence(objects).await) })
    }

    /// The way to the cluster, without credentials.
    pub(crate) fn context(&self) -> &Value {
        self.cluster.context()
    }

    /// The URL of the API server.
    pub(crate) fn server(&self) -> &str {
        self.cluster.server()
    }

    /// The version of the API server.
    pub(crate) fn version(&self) -> Result<String> {
        self.finish(self.cluster.version())
    }

    /// Opens a port of this machine that leads to one in the cluster.
    pub(crate) fn forward(&self, to: &Within) -> Result<cluster::Forward> {
        self.finish(self.cluster.forward(&to.kind, &to.namespace, &to.name, to.port))
    }

    fn apply(
        &self,
        objects: Vec<Value>,
        within: &str,
        owner: &Owner,
        run: &str,
        dir: &RunDir,
    ) -> Result<String> {
        let mut inventory = self.inventory(run, dir)?;
        // Whoever ends in the middle of a request does not know whether it was carried out.
        let was_unknown = std::mem::replace(inventory.unknown(owner), true);
        run_dir::write_json(&dir.objects(), &inventory)?;
        let mut is_known = false;
        let mut told = Vec::new();
        let mut kept = Ok(());
        let mut done = |applied: Applied| {
            let effect = match applied.effect {
                Effect::Created => "created",
                Effect::Changed => "changed",
                Effect::Unchanged => "unchanged",
                Effect::Kept => "there already, and not of llmdbench: used as it is",
            };
            told.push(format!("{} {effect}", applied.object));
            inventory.add(applied, *owner == Owner::Prepared);
            if kept.is_ok() {
                kept = run_dir::write_json(&dir.objects(), &inventory);
            }
        };
        let applied = self.finish(async {
            let applied = self.cluster.apply(objects, within, owner, &mut done).await;
            is_known = applied.as_ref().map_or_else(cluster::Error::is_refusal, |()| true);
            applied
        });
        kept?;
        *inventory.unknown(owner) = was_unknown || !is_known;
        run_dir::write_json(&dir.objects(), &inventory)?;
        applied.map(|()| told.join("\n"))
    }

    /// The inventory of a folder, which says whose it is and where.
    fn inventory(&self, run: &str, dir: &RunDir) -> Result<Inventory> {
        let mut inventory = Inventory::read(dir)?;
        run.clone_into(&mut inventory.run);
        self.cluster.server().clone_into(&mut inventory.server);
        for namespace in &self.namespaces {
            if !inventory.namespaces.contains(namespace) {
                inventory.namespaces.push(namespace.clone());
            }
        }
        Ok(inventory)
    }

    fn selection(&self, objects: &action::Objects) -> Selection {
        let namespace = objects.namespace.as_deref().unwrap_or(&self.namespace);
        let of = |which: &str, by: fn(&str, &str, &str, &str) -> Selection| {
            by(&objects.api_version, &objects.kind, namespace, which)
        };
        match &objects.which {
            action::Which::Name(name) => of(name, Selection::named),
            action::Which::Selector(labels) => of(labels, Selection::labelled),
        }
    }
}

/// A pod that serves the model.
#[derive(Debug)]
pub(crate) struct Server {
    /// Where it is asked.
    pub(crate) pod: Within,
    /// Its metrics page, as other pods reach it. None: it has no address.
    pub(crate) metrics: Option<String>,
}

impl Server {
    fn of(pod: PodPort, namespace: &str, path: &str) -> Self {
        let address = pod.address.map(|address| SocketAddr::new(address, pod.port));
        let metrics = address.map(|address| format!("http://{address}{path}"));
        Self { pod: within(namespace, pod), metrics }
    }
}

fn within(namespace: &str, pod: PodPort) -> Within {
    let (kind, namespace) = ("Pod".to_owned(), namespace.to_owned());
    Within { kind, namespace, name: pod.name, port: pod.port }
}

/// The name or the path of helm, as the user has it.
pub(crate) fn helm_of(settings: &Settings) -> &str {
    settings.text("control.helm").unwrap_or("helm")
}

/// Whether the objects of a manifest can be read.
pub(crate) fn check(manifest: &Manifest) -> Result<()> {
    Document::values(&manifest.file, &manifest.yaml).map(drop)
}

fn condition(until: &action::Condition) -> cluster::Condition {
    match until.clone() {
        action::Condition::Value { path, value } => cluster::Condition::Value { path, value },
        action::Condition::Status { name, status } => cluster::Condition::Status { name, status },
        action::Condition::Rollout => cluster::Condition::Rollout,
        action::Condition::Deleted => cluster::Condition::Deleted,
    }
}

/// Waits for what was asked of the cluster, or for the user to interrupt it: what is asked for after an interruption,
/// such as a teardown, is done nevertheless.
fn finish<T>(runtime: &Runtime, asked: impl Future<Output = cluster::Result<T>>) -> Result<T> {
    let before = interrupt::count();
    runtime.block_on(async {
        let interrupted = async {
            loop {
                if interrupt::count() > before
                    && let Err(error) = interrupt::check()
                {
                    return error;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            answer = asked => answer.map_err(|error| told(&error)),
            error = interrupted => Err(error),
        }
    })
}

/// An error with everything that is known about it.
fn told(error: &cluster::Error) -> Error {
    let (message, diagnoses) = match error {
        cluster::Error::Hopeless { what, diagnoses } => {
            (format!("{what} cannot come up"), diagnoses.as_slice())
        }
        cluster::Error::TimedOut { diagnoses, .. } => (error.to_string(), diagnoses.as_slice()),
        _ => (error.to_string(), &[][..]),
    };
    let mut told = Error::new(Exit::Standup, message);
    for diagnosis in diagnoses {
        told = told.cause(diagnosis.lines().join("\n"));
    }
    match error.hint() {
        Some(hint) => told.hint(hint),
        None => told,
    }
}

fn count(number: usize, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_without_hope_is_told_with_reason_facts_and_advice() {
        let diagnosis = cluster::explain(cluster::Place::Pull, "pod p", "x: not found").unwrap();
        let error =
            cluster::Error::Hopeless { what: "Deployment ns/d".into(), diagnoses: vec![diagnosis] };
        let text = told(&error).to_string();
        assert!(
            text.starts_with(
                "error: Deployment ns/d cannot come up\n  because: pod p: x: not found"
            ),
            "{text}"
        );
        assert!(
            text.contains("the registry has no such image or tag")
                && text.contains("hint: check the image"),
            "{text}"
        );
    }
}
