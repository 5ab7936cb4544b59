//! What others publish, in a cluster: releases of charts, which helm installs, and definitions of objects.
//!
//! A release belongs to the run whose label its own Secret carries, and so do its objects; another's is refused. What is
//! there for the whole cluster is used as it is, and stays.

use super::{Inventory, Kubernetes, Removed, finish, told};
use crate::action::{self, Action, Release, ReleaseRef, RemoteManifest};
use crate::document::Document;
use crate::error::{Error, Exit, Result};
use crate::helm::{Helm, Way};
use crate::printer::Printer;
use crate::run_dir::{self, RunDir};
use crate::unit;
use cluster::{ObjectRef, Owner, Selection};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// Definitions come within this.
const DOWNLOAD: Duration = Duration::from_secs(60);
/// Helm keeps a release in Secrets with this label.
const OF_HELM: &str = "owner=helm";
/// How the names of these Secrets begin.
const SECRET: &str = "sh.helm.release.v1.";

/// A release as it is.
struct Standing {
    owner: Owner,
    /// "deployed", "pending-install".
    status: String,
}

impl Kubernetes {
    /// The command that an action is carried out with, or the one that does the same.
    pub(crate) fn command(&self, action: &Action, owner: &Owner) -> String {
        action.command(&self.namespace, owner).unwrap_or_default()
    }

    /// Installs or upgrades a release.
    pub(super) fn install(
        &self,
        release: &Release,
        owner: &Owner,
        run: &str,
        dir: &RunDir,
        printer: &Printer,
    ) -> Result<String> {
        let helm = Helm::find(&self.helm)?;
        let reference = self.located(&ReleaseRef {
            name: release.name.clone(),
            namespace: release.namespace.clone(),
        });
        let shown = shown(&reference);
        match self.standing_release(&reference)? {
            Some(found) if *owner == Owner::Stranger => {
                return Ok(format!("{shown} is there already ({}): used as it is", found.status));
            }
            Some(found) if found.owner != *owner => {
                let object = Box::new(as_object(&reference));
                return Err(told(&cluster::Error::Foreign { object, owner: found.owner }));
            }
            // An installation that was interrupted is in the way of the next.
            Some(found) if found.status.starts_with("pending") => {
                self.uninstall(&helm, &reference, owner, dir)?;
            }
            _ => {}
        }
        if let Some(values) = &release.values {
            run_dir::write(&dir.yaml(&values.file), values.yaml.as_bytes())?;
        }
        if *owner != Owner::Stranger {
            let mut inventory = self.inventory(run, dir)?;
            inventory.releases.retain(|other| *other != reference);
            inventory.releases.push(reference.clone());
            run_dir::write_json(&dir.objects(), &inventory)?;
        }
        let mut progress = printer.progress();
        let installed = helm.run(
            &release.arguments(&self.namespace, owner),
            self.way(),
            dir.root(),
            release.timeout,
            &format!("failed to install the {shown}"),
            &mut |elapsed| {
                progress.show(|| format!("waiting {}: helm installs it", unit::show(elapsed)));
            },
        );
        progress.end();
        installed?;
        let labelled = match owner {
            Owner::Stranger => String::new(),
            _ => match self.label(&helm, &reference, owner, dir) {
                Ok(objects) => format!(", {objects} objects of it labelled"),
                Err(error) => {
                    printer.warning(&format!("the objects of the {shown} carry no label: {error}"));
                    String::new()
                }
            },
        };
        Ok(format!("{shown} installed by helm {}{labelled}", helm.version()))
    }

    /// Uninstalls a release of the owner, and says what became of it.
    pub(super) fn uninstall_own(
        &self,
        release: &ReleaseRef,
        owner: &Owner,
        dir: &RunDir,
    ) -> Result<String> {
        let release = self.located(release);
        let shown = shown(&release);
        match self.standing_release(&release)? {
            None => Ok(format!("{shown} is not there")),
            Some(found) if found.owner != *owner => {
                Ok(format!("{shown} belongs to {} and stays", found.owner))
            }
            Some(_) => {
                self.uninstall(&Helm::find(&self.helm)?, &release, owner, dir)?;
                Ok(format!("{shown} uninstalled"))
            }
        }
    }

    /// Uninstalls the releases of a run, the last installed first: those of the inventory, and those whose installation
    /// was cut off before it was noted, among the objects with the run's label. What is left stays in the inventory.
    pub(super) fn uninstall_all<'a>(
        &self,
        inventory: &mut Inventory,
        labelled: impl Iterator<Item = &'a ObjectRef>,
        dir: &RunDir,
        printer: &Printer,
    ) -> Result<Removed> {
        let run = Owner::Run(inventory.run.clone());
        for release in labelled.filter_map(release_of) {
            if !inventory.releases.contains(&release) {
                inventory.releases.push(release);
            }
        }
        let mut removed = Removed::default();
        for release in inventory.releases.clone().into_iter().rev() {
            let shown = shown(&release);
            let gone = match self.standing_release(&release) {
                Err(error) => Err(error),
                Ok(None) => Ok(()),
                Ok(Some(found)) if found.owner != run => {
                    removed.foreign.push(format!("{shown} belongs to {}", found.owner));
                    inventory.releases.retain(|other| *other != release);
                    continue;
                }
                Ok(Some(_)) => {
                    printer.step(&format!("teardown: {shown}"));
                    Helm::find(&self.helm)
                        .and_then(|helm| self.uninstall(&helm, &release, &run, dir))
                }
            };
            match gone {
                Ok(()) => {
                    removed.removed.push(shown);
                    inventory.releases.retain(|other| *other != release);
                }
                Err(error) if error.exit == Exit::Interrupted => return Err(error),
                Err(error) => removed.left.push(format!("{shown}: {error}")),
            }
            run_dir::write_json(&dir.objects(), inventory)?;
        }
        Ok(removed)
    }

    /// Applies definitions that others publish: those that the cluster lacks. They serve everybody, so they belong to no
    /// run and stay.
    pub(super) fn apply_published(&self, remote: &RemoteManifest, dir: &RunDir) -> Result<String> {
        let text = fetch(remote)?;
        run_dir::write(&dir.yaml(&remote.file), text.as_bytes())?;
        let mut lacking = Vec::new();
        let mut there = 0;
        for object in Document::values(&remote.source, &text)? {
            let found = match ObjectRef::of(&object) {
                Some(reference) => self.is_there(&reference)?,
                None => false,
            };
            if found {
                there += 1;
            } else {
                lacking.push(object);
            }
        }
        let mut told = vec![match there {
            1 => format!("1 object of {} is there already", remote.source),
            there => format!("{there} objects of {} are there already", remote.source),
        }];
        let mut done = |applied: cluster::Applied| told.push(format!("{} created", applied.object));
        let applied = self.cluster.apply(lacking, &self.namespace, &Owner::Stranger, &mut done);
        finish(&self.runtime, applied)?;
        Ok(told.join("\n"))
    }

    fn is_there(&self, object: &ObjectRef) -> Result<bool> {
        let namespace = object.namespace.as_deref().unwrap_or(&self.namespace);
        let selection =
            Selection::named(&object.api_version, &object.kind, namespace, &object.name);
        finish(&self.runtime, async {
            match self.cluster.get(&selection).await {
                // The definition of its kind may be among what is applied.
                Err(cluster::Error::UnknownKind { .. }) => Ok(false),
                found => found.map(|found| !found.is_empty()),
            }
        })
    }

    /// Uninstalls a release, whoever's it is, and keeps the command with its outcome.
    fn uninstall(
        &self,
        helm: &Helm,
        release: &ReleaseRef,
        owner: &Owner,
        dir: &RunDir,
    ) -> Result<()> {
        let arguments = release.arguments(&self.namespace);
        let what = format!("failed to uninstall the {}", shown(release));
        let done =
            helm.run(&arguments, self.way(), dir.root(), action::UNINSTALL, &what, &mut |_| {});
        let outcome = match &done {
            Ok(said) => format!("{}\nit belonged to {owner}", said.trim()),
            Err(error) => error.to_string(),
        };
        dir.log_command(&action::helm(&arguments), &outcome)?;
        done.map(drop)
    }

    /// Puts the owner's label on what the release is made of, its hooks included. Gives how many objects have it.
    fn label(
        &self,
        helm: &Helm,
        release: &ReleaseRef,
        owner: &Owner,
        dir: &RunDir,
    ) -> Result<usize> {
        let namespace = release.namespace.as_deref().unwrap_or_default();
        let mut labelled = 0;
        for of in ["manifest", "hooks"] {
            let arguments = ["get", of, &release.name, "--namespace", namespace];
            let text = helm.ask(&arguments, self.way(), dir.root())?;
            let objects = Document::values(&format!("the {of} of {}", release.name), &text)?;
            for object in objects.iter().filter_map(ObjectRef::of) {
                let put = self.cluster.label(&object, namespace, owner);
                labelled += usize::from(finish(&self.runtime, put)?);
            }
        }
        Ok(labelled)
    }

    /// A release with its namespace.
    fn located(&self, release: &ReleaseRef) -> ReleaseRef {
        let namespace = release.namespace.as_deref().unwrap_or(&self.namespace);
        ReleaseRef { name: release.name.clone(), namespace: Some(namespace.to_owned()) }
    }

    /// The release of this name. None: there is none.
    fn standing_release(&self, release: &ReleaseRef) -> Result<Option<Standing>> {
        let namespace = release.namespace.as_deref().unwrap_or_default();
        let labels = format!("{OF_HELM},name={}", release.name);
        let secrets = Selection::labelled("v1", "Secret", namespace, &labels);
        let secrets = finish(&self.runtime, self.cluster.get(&secrets))?;
        let label = |secret: &serde_json::Value, name: &str| {
            secret["metadata"]["labels"][name].as_str().unwrap_or_default().to_owned()
        };
        let newest = secrets
            .iter()
            .max_by_key(|secret| label(secret, "version").parse::<u64>().unwrap_or_default());
        Ok(newest
            .map(|secret| Standing { owner: Owner::of(secret), status: label(secret, "status") }))
    }

    fn way(&self) -> Way<'_> {
        Way { access: &self.access, server: self.cluster.server() }
    }
}

/// "release llmdbench/llm-d".
pub(super) fn shown(release: &ReleaseRef) -> String {
    as_object(release).to_string()
}

fn as_object(release: &ReleaseRef) -> ObjectRef {
    ObjectRef {
        api_version: "helm.sh/v1".to_owned(),
        kind: "release".to_owned(),
        namespace: release.namespace.clone(),
        name: release.name.clone(),
        uid: None,
    }
}

/// The release that a Secret keeps: "sh.helm.release.v1.NAME.v3".
fn release_of(object: &ObjectRef) -> Option<ReleaseRef> {
    let (name, _) = object.name.strip_prefix(SECRET)?.rsplit_once(".v")?;
    let is_secret = object.kind == "Secret";
    is_secret.then(|| ReleaseRef { name: name.to_owned(), namespace: object.namespace.clone() })
}

/// Whether an object is the record that helm keeps of a release, which goes with it.
pub(super) fn keeps_a_release(object: &ObjectRef) -> bool {
    release_of(object).is_some()
}

/// Gets what is published, and checks that it is what was meant.
fn fetch(remote: &RemoteManifest) -> Result<String> {
    let failed = || Error::new(Exit::Standup, format!("failed to read {}", remote.source));
    let text = if remote.is_file {
        std::fs::read_to_string(&remote.source).map_err(|error| failed().because(error))?
    } else {
        let get = || {
            let client = reqwest::blocking::Client::builder().timeout(DOWNLOAD).build()?;
            client.get(&remote.source).send()?.error_for_status()?.text()
        };
        get().map_err(|error: reqwest::Error| {
            failed()
                .because(error)
                .hint("download it by hand and name the file in the backend's settings")
        })?
    };
    let Some(wanted) = &remote.sha256 else { return Ok(text) };
    let found: String =
        Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    if found.eq_ignore_ascii_case(wanted) {
        return Ok(text);
    }
    Err(Error::new(Exit::Standup, format!("{} is not what the plan means", remote.source))
        .cause(format!("its SHA-256 is {found}, and {wanted} was wanted")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_known_by_the_name_of_its_secret() {
        let check = |kind: &str, name: &str, expected: Option<&str>| {
            let object = ObjectRef {
                api_version: "v1".into(),
                kind: kind.into(),
                namespace: Some("ns".into()),
                name: name.into(),
                uid: None,
            };
            let found = release_of(&object);
            assert_eq!(found.as_ref().map(|release| release.name.as_str()), expected);
            assert!(found.is_none_or(|release| release.namespace.as_deref() == Some("ns")));
        };
        check("Secret", "sh.helm.release.v1.llm-d.v12", Some("llm-d"));
        check("Secret", "sh.helm.release.v1.a.v1.v2", Some("a.v1"));
        check("Secret", "llm-d-hf-token", None);
        check("ConfigMap", "sh.helm.release.v1.llm-d.v1", None);
    }

    #[test]
    fn what_is_published_is_checked_where_its_digest_is_known() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a: 1\n").unwrap();
        let remote = |sha256: Option<&str>| RemoteManifest {
            file: "02_crds_1.yaml".into(),
            source: file.path().display().to_string(),
            is_file: true,
            sha256: sha256.map(str::to_owned),
        };
        assert_eq!(fetch(&remote(None)).unwrap(), "a: 1\n");
        let error = fetch(&remote(Some("00"))).unwrap_err().to_string();
        assert!(error.contains("is not what the plan means"), "{error}");
    }
}
