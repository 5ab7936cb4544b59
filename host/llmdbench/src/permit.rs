//! Whether a backend may have done what its steps say: every effect must be granted.

use crate::action::{Action, Identity, Manifest, Objects};
use crate::chosen::Use;
use crate::error::{Error, Result};
use crate::plan::Step;
use plugin_host::wit::manifest::ObjectVerbs;
use plugin_host::{Grant, Objects as Permitted};
use saphyr::{LoadableYamlNode, Yaml};

/// Refuses steps that want more than the backend was granted. `namespace` is the run's.
pub(crate) fn check(used: &Use, steps: &[Step], namespace: &str) -> Result<()> {
    let plugin = used.plugin.name();
    for action in steps.iter().flat_map(|step| &step.actions) {
        let wanted = wanted(action, namespace).map_err(|why| {
            Error::usage(format!("the plugin `{plugin}` made something that is not usable: {why}"))
        })?;
        for wanted in wanted {
            if !used.grants().iter().any(|grant| grant.allows(&wanted)) {
                return Err(Error::usage(format!(
                    "the plugin `{plugin}` wants `{wanted}`, which it neither asked for nor was granted"
                )));
            }
        }
    }
    Ok(())
}

fn wanted(action: &Action, namespace: &str) -> std::result::Result<Vec<Grant>, String> {
    Ok(match action {
        Action::Smoketest => Vec::new(),
        Action::Process(process) => {
            let secrets = process.env.iter().filter_map(|variable| variable.secret.clone());
            std::iter::once(Grant::Process(process.program.clone()))
                .chain(secrets.map(Grant::Secret))
                .collect()
        }
        Action::Apply(manifest) => objects_in(manifest, namespace)?,
        // A file that the user attached needs no way out.
        Action::ApplyRemote(remote) if remote.is_file => Vec::new(),
        Action::ApplyRemote(remote) => match url::Url::parse(&remote.source) {
            Ok(url) if url.scheme() == "https" => {
                vec![Grant::Http(url.host_str().unwrap_or_default().to_owned())]
            }
            _ => return Err(format!("`{}` is no https URL", remote.source)),
        },
        Action::Wait(wait) => vec![objects(&wait.objects, ObjectVerbs::OBSERVE, namespace)],
        Action::Observe(wanted) => vec![objects(wanted, ObjectVerbs::OBSERVE, namespace)],
        Action::Delete(wanted) => vec![objects(wanted, ObjectVerbs::DELETE, namespace)],
        Action::Helm(release) => {
            if let Some(values) = &release.values {
                Yaml::load_from_str(&values.yaml)
                    .map_err(|error| format!("`{}` is no YAML: {error}", values.file))?;
            }
            vec![Grant::Helm(release.chart.clone())]
        }
        // What can be uninstalled is what could be installed; the host knows its own releases.
        Action::Uninstall(_) => Vec::new(),
        Action::Secret(secret) => {
            secret.entries.iter().map(|(_, source)| Grant::Secret(source.clone())).collect()
        }
    })
}

fn objects(objects: &Objects, verbs: ObjectVerbs, namespace: &str) -> Grant {
    grant(&objects.api_version, &objects.kind, objects.namespace.as_deref(), verbs, namespace)
}

fn objects_in(manifest: &Manifest, namespace: &str) -> std::result::Result<Vec<Grant>, String> {
    let grant_of = |object: Identity| {
        let own = object.namespace.as_deref();
        grant(&object.api_version, &object.kind, own, ObjectVerbs::APPLY, namespace)
    };
    Ok(manifest.objects()?.into_iter().map(grant_of).collect())
}

fn grant(
    api_version: &str,
    kind: &str,
    own: Option<&str>,
    verbs: ObjectVerbs,
    namespace: &str,
) -> Grant {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    Grant::Objects(Permitted {
        group: group.to_owned(),
        kind: kind.to_owned(),
        namespace: own.filter(|own| *own != namespace).map(str::to_owned),
        verbs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{RemoteManifest, Which};

    #[test]
    fn what_an_action_needs_is_spelled_as_grants() {
        let check = |action: Action, expected: &[&str]| {
            let grants: Vec<String> =
                wanted(&action, "ns").unwrap().iter().map(ToString::to_string).collect();
            assert_eq!(grants, expected);
        };
        let yaml = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a, namespace: ns}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: b, namespace: other}\n";
        check(
            Action::Apply(Manifest { file: "f".into(), yaml: yaml.into() }),
            &["objects=apps/Deployment:apply", "objects=Service@other:apply"],
        );
        let remote = |source: &str| {
            Action::ApplyRemote(RemoteManifest {
                file: "f".into(),
                source: source.into(),
                is_file: false,
                sha256: None,
            })
        };
        check(remote("https://example.org/crds.yaml"), &["http=example.org"]);
        assert!(
            wanted(&remote("http://example.org/x"), "ns").unwrap_err().contains("no https URL")
        );
        check(
            Action::Observe(Objects {
                api_version: "v1".into(),
                kind: "Service".into(),
                namespace: None,
                which: Which::Name("a".into()),
            }),
            &["objects=Service:observe"],
        );
        let bad = Manifest { file: "f.yaml".into(), yaml: "a: 1".into() };
        let error = wanted(&Action::Apply(bad), "ns").unwrap_err();
        assert!(error.contains("`f.yaml` holds a document without apiVersion"), "{error}");
    }
}
