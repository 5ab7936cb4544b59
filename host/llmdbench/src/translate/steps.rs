//! Steps of a backend as steps of the plan, and the steps of several instances merged into one
//! list.

use super::unsupported;
use crate::action::{
    Action, Condition, Manifest, Objects, Process, ProcessFile, Release, ReleaseRef,
    RemoteManifest, Secret, Variable, Wait, Which,
};
use crate::error::{Error, Result};
use crate::plan::Step;
use crate::steps::HOST_STEPS;
use plugin_host::wit;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the translation needs to know of the backend and its user.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backend<'a> {
    /// The plugin's name.
    pub(crate) plugin: &'a str,
    /// Where relative programs are looked for first.
    pub(crate) folder: Option<&'a Path>,
    /// Its attached inputs, by the names that it knows.
    pub(crate) inputs: &'a BTreeMap<String, PathBuf>,
}

/// The steps of a backend.
pub(crate) fn steps(backend: Backend<'_>, steps: Vec<wit::backend::Step>) -> Result<Vec<Step>> {
    let plugin = backend.plugin;
    let mut translated: Vec<Step> = Vec::new();
    for step in steps {
        if HOST_STEPS.contains(&step.number) || step.number > 99 {
            return Err(Error::usage(format!(
                "the plugin `{plugin}` numbers its step `{}` {}: 3, 4, 5 and 8 belong to the host, and 99 is the last",
                step.name, step.number
            )));
        }
        if translated.last().is_some_and(|last| last.number >= step.number) {
            return Err(Error::usage(format!(
                "the plugin `{plugin}` numbers its steps out of order at `{}`",
                step.name
            )));
        }
        let releases =
            step.actions.iter().filter(|a| matches!(a, wit::backend::Action::Helm(_))).count();
        let mut actions = Vec::new();
        for action in step.actions {
            actions.push(self::action(backend, step.number, releases == 1, action)?);
        }
        translated.push(Step { number: step.number, name: step.name, title: step.title, actions });
    }
    Ok(translated)
}

fn action(
    backend: Backend<'_>,
    number: u8,
    only_release: bool,
    action: wit::backend::Action,
) -> Result<Action> {
    use wit::backend::Action as Wit;
    let plugin = backend.plugin;
    let file = |name: &str| format!("{number:02}_{name}");
    Ok(match action {
        Wit::Process(process) => Action::Process(self::process(process, backend.folder)),
        Wit::Apply(document) => Action::Apply(Manifest {
            file: file(plain_name(plugin, &document.file_name)?),
            yaml: document.yaml,
        }),
        Wit::ApplyRemote(document) => Action::ApplyRemote(RemoteManifest {
            file: file(plain_name(plugin, &document.file_name)?),
            is_file: backend.inputs.contains_key(&document.source),
            source: attached(backend, document.source),
            sha256: document.sha256,
        }),
        Wit::Wait(wait) => Action::Wait(Wait {
            objects: objects(wait.objects),
            until: match wait.until {
                wit::backend::Condition::Value(test) => {
                    Condition::Value { path: test.path, value: test.value }
                }
                wit::backend::Condition::Status(test) => {
                    Condition::Status { name: test.name, status: test.status }
                }
                wit::backend::Condition::Rollout => Condition::Rollout,
                wit::backend::Condition::Deleted => Condition::Deleted,
            },
            timeout: Duration::from_nanos(wait.timeout),
        }),
        Wit::Helm(release) => {
            // The one release of a step has the backend's name, as users of the original know it.
            let name = if only_release { plugin } else { &release.name };
            let values = (!release.values.trim().is_empty()).then(|| Manifest {
                file: file(&format!("{name}_values.yaml")),
                yaml: release.values.clone(),
            });
            Action::Helm(Release {
                chart: attached(backend, release.chart),
                name: release.name,
                version: release.version,
                repo: release.repo,
                values,
                namespace: release.namespace,
                timeout: Duration::from_nanos(release.timeout),
            })
        }
        Wit::Uninstall(release) => {
            Action::Uninstall(ReleaseRef { name: release.name, namespace: release.namespace })
        }
        Wit::Secret(secret) => Action::Secret(Secret {
            name: secret.name,
            namespace: secret.namespace,
            entries: secret.entries.into_iter().map(|e| (e.key, e.source)).collect(),
        }),
        Wit::Observe(wanted) => Action::Observe(objects(wanted)),
        Wit::Delete(wanted) => Action::Delete(objects(wanted)),
        Wit::Run(_) => return Err(unsupported(plugin, "the action `run`")),
        Wit::Check(_) => return Err(unsupported(plugin, "the action `check`")),
        Wit::Other(other) => {
            return Err(unsupported(plugin, &format!("the action `{}`", other.name)));
        }
    })
}

/// The path of an attached input, which holds from every folder; what is none stays as it is.
fn attached(backend: Backend<'_>, name: String) -> String {
    match backend.inputs.get(&name) {
        Some(path) => {
            std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string()
        }
        None => name,
    }
}

/// A file's name, which leads to no other folder.
fn plain_name<'a>(plugin: &str, name: &'a str) -> Result<&'a str> {
    let is_plain = !name.is_empty() && !name.contains(['/', '\\']) && name != "..";
    if is_plain {
        return Ok(name);
    }
    Err(Error::usage(format!(
        "the plugin `{plugin}` names a file `{name}`: it must be a plain name without folders"
    )))
}

fn objects(objects: wit::types::Objects) -> Objects {
    match objects {
        wit::types::Objects::One(one) => Objects {
            api_version: one.api_version,
            kind: one.kind,
            namespace: one.namespace,
            which: Which::Name(one.name),
        },
        wit::types::Objects::Matching(all) => Objects {
            api_version: all.api_version,
            kind: all.kind,
            namespace: all.namespace,
            which: Which::Selector(all.selector),
        },
    }
}

fn process(process: wit::commands::Process, folder: Option<&Path>) -> Process {
    use wit::commands::VariableValue;
    // A path is looked for beside the experiment file first, then in the current folder; either
    // way it is made absolute, since the process runs in a folder of its own.
    let program = if process.program.contains('/') && !process.program.starts_with('$') {
        let found = crate::experiment::locate(&process.program, folder);
        std::path::absolute(&found).unwrap_or(found).display().to_string()
    } else {
        process.program
    };
    Process {
        name: process.name,
        program,
        args: process.args,
        env: process
            .env
            .into_iter()
            .map(|variable| match variable.value {
                VariableValue::Text(text) => Variable { name: variable.name, text, secret: None },
                VariableValue::Secret(name) => {
                    Variable { name: variable.name, text: String::new(), secret: Some(name) }
                }
            })
            .collect(),
        files: process
            .files
            .into_iter()
            .map(|f| ProcessFile { path: f.path, contents: f.contents, expand: f.expand })
            .collect(),
        working_dir: process.working_dir,
        ready_url: process.ready_url,
        ready_timeout: Duration::from_nanos(process.ready_timeout),
    }
}

/// Adds the steps of one more instance, made for a model: steps of one number become one, what is
/// wanted twice is done once, and files of one name with other contents get the model's name.
pub(crate) fn merge(all: &mut Vec<Step>, more: Vec<Step>, model: &str) -> Result<()> {
    for mut step in more {
        for action in &step.actions {
            refuse_clash(all, action, model)?;
        }
        for action in &mut step.actions {
            let Some(manifest) = action.files_mut() else { continue };
            let clashes = all
                .iter()
                .flat_map(|step| &step.actions)
                .filter_map(Action::files)
                .any(|other| other.file == manifest.file && other.yaml != manifest.yaml);
            if clashes {
                let stem = manifest.file.strip_suffix(".yaml").unwrap_or(&manifest.file);
                manifest.file = format!("{stem}_{}.yaml", file_part(model));
            }
        }
        match all.iter_mut().find(|other| other.number == step.number) {
            None => all.push(step),
            // A step of one of them is none of the other's.
            Some(same) if same.name != step.name && step.actions.is_empty() => {}
            Some(same) if same.name != step.name && same.actions.is_empty() => *same = step,
            Some(same) if same.name != step.name => {
                return Err(Error::usage(format!(
                    "two backends number different steps {}: `{}` and `{}`",
                    step.number, same.name, step.name
                ))
                .hint("stand them up one after the other, each with its own --method"));
            }
            Some(same) => {
                same.title = match (same.actions.is_empty(), step.actions.is_empty()) {
                    (true, _) => step.title,
                    (false, true) => std::mem::take(&mut same.title),
                    (false, false) => joined(&same.title, &step.title),
                };
                for action in step.actions {
                    if !same.actions.contains(&action) {
                        same.actions.push(action);
                    }
                }
            }
        }
    }
    all.sort_by_key(|step| step.number);
    Ok(())
}

/// One title of those of two models: what both begin with stands once, as in "Deploy vLLM with a, b".
fn joined(title: &str, other: &str) -> String {
    let common = title.chars().zip(other.chars()).take_while(|(a, b)| a == b);
    let common: usize = common.map(|(c, _)| c.len_utf8()).sum();
    let begin = other[..common].rfind(' ').map_or(0, |space| space + 1);
    let (known, rest) = (&title[begin..], &other[begin..]);
    match known.split(", ").any(|part| part == rest) {
        true => title.to_owned(),
        false => format!("{title}, {rest}"),
    }
}

/// Refuses what one model would take from another: objects or releases of one name with different
/// contents.
fn refuse_clash(all: &[Step], action: &Action, model: &str) -> Result<()> {
    let others = all.iter().flat_map(|step| &step.actions).filter(|other| *other != action);
    for other in others {
        let shared = identities(other).into_iter().find(|own| identities(action).contains(own));
        if let Some(shared) = shared {
            return Err(Error::usage(format!(
                "`{model}` and another of the models or methods both want {shared}"
            ))
            .hint("stand them up one after the other, each in a namespace of its own"));
        }
    }
    Ok(())
}

/// What an action puts into the cluster, by kind, namespace and name.
fn identities(action: &Action) -> Vec<String> {
    match action {
        Action::Helm(release) => vec![format!("the release `{}`", release.name)],
        // What is no object was refused when the grants were checked.
        Action::Apply(manifest) => manifest
            .objects()
            .unwrap_or_default()
            .into_iter()
            .filter_map(|object| {
                let within = object.namespace.map(|ns| format!(" in `{ns}`")).unwrap_or_default();
                Some(format!("the {} `{}`{within}", object.kind, object.name?))
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// A model's name as part of a file's name.
pub(crate) fn file_part(model: &str) -> String {
    model.replace('/', "___")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(number: u8, name: &str, actions: Vec<wit::backend::Action>) -> wit::backend::Step {
        wit::backend::Step { number, name: name.into(), title: format!("Do {name}"), actions }
    }

    fn apply(file_name: &str, yaml: &str) -> wit::backend::Action {
        wit::backend::Action::Apply(wit::backend::Document {
            file_name: file_name.into(),
            yaml: yaml.into(),
        })
    }

    fn helm(name: &str) -> wit::backend::Action {
        wit::backend::Action::Helm(wit::backend::Release {
            name: name.into(),
            chart: "chart".into(),
            version: None,
            repo: None,
            values: "a: 1\n".into(),
            namespace: None,
            timeout: 1_000_000_000,
        })
    }

    fn translate(planned: Vec<wit::backend::Step>) -> Result<Vec<Step>> {
        let inputs = BTreeMap::from([("chart".to_owned(), PathBuf::from("/charts/llm-d"))]);
        steps(Backend { plugin: "p", folder: None, inputs: &inputs }, planned)
    }

    #[test]
    fn the_hosts_numbers_are_taken_and_files_stay_in_their_folder() {
        let check = |planned: Vec<wit::backend::Step>, expected: &str| {
            let error = translate(planned).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(vec![step(8, "s", Vec::new())], "3, 4, 5 and 8 belong to the host");
        check(vec![step(6, "a", Vec::new()), step(6, "b", Vec::new())], "out of order at `b`");
        check(vec![step(6, "s", vec![apply("../x.yaml", "")])], "a plain name without folders");
    }

    #[test]
    fn files_carry_the_steps_number_and_the_only_release_the_backends_name() {
        let files = |planned| -> Vec<String> {
            let steps = translate(planned).unwrap();
            let actions = steps.iter().flat_map(|step| &step.actions);
            actions.filter_map(Action::files).map(|manifest| manifest.file.clone()).collect()
        };
        assert_eq!(files(vec![step(6, "s", vec![apply("a.yaml", "")])]), ["06_a.yaml"]);
        assert_eq!(files(vec![step(7, "s", vec![helm("llm-d")])]), ["07_p_values.yaml"]);
        let two = vec![step(2, "s", vec![helm("crds"), helm("gateway")])];
        assert_eq!(files(two), ["02_crds_values.yaml", "02_gateway_values.yaml"]);
        let planned = translate(vec![step(7, "s", vec![helm("llm-d")])]).unwrap();
        let Action::Helm(release) = &planned[0].actions[0] else { panic!("a release") };
        assert_eq!(release.chart, "/charts/llm-d");
    }

    #[test]
    fn the_title_of_a_step_for_several_models_names_each() {
        let check = |titles: &[&str], expected: &str| {
            let mut all = Vec::new();
            for (index, title) in titles.iter().enumerate() {
                let actions = vec![apply(&format!("{index}.yaml"), "x")];
                let planned =
                    wit::backend::Step { title: (*title).into(), ..step(6, "s", actions) };
                merge(&mut all, translate(vec![planned]).unwrap(), "m").unwrap();
            }
            assert_eq!(all[0].title, expected);
        };
        check(&["Deploy vLLM with org/a"], "Deploy vLLM with org/a");
        check(
            &["Deploy vLLM with org/a", "Deploy vLLM with org/ab", "Deploy vLLM with org/a"],
            "Deploy vLLM with org/a, org/ab",
        );
        check(&["Deploy it", "Deploy it"], "Deploy it");
        check(&["Deploy a", "Install b"], "Deploy a, Install b");
    }

    #[test]
    fn steps_of_several_models_become_one_list() {
        let of = |yaml: &str| {
            let actions = vec![apply("same.yaml", "x"), apply("values.yaml", yaml)];
            translate(vec![step(0, "none", Vec::new()), step(7, "deploy", actions)]).unwrap()
        };
        let mut all = of("a");
        merge(&mut all, of("b"), "org/b").unwrap();
        let files: Vec<&str> = all[1]
            .actions
            .iter()
            .filter_map(Action::files)
            .map(|manifest| manifest.file.as_str())
            .collect();
        assert_eq!(files, ["07_same.yaml", "07_values.yaml", "07_values_org___b.yaml"]);
        let release = || translate(vec![step(9, "s", vec![helm("llm-d")])]).unwrap();
        let mut different = release();
        let Action::Helm(changed) = &mut different[0].actions[0] else { panic!("a release") };
        changed.version = Some("2".into());
        let mut releases = release();
        merge(&mut releases, release(), "same").unwrap();
        assert_eq!(releases[0].actions.len(), 1, "what is wanted twice is done once");
        let error = merge(&mut releases, different, "other").unwrap_err().to_string();
        assert!(
            error.contains(
                "`other` and another of the models or methods both want the release `llm-d`"
            ),
            "{error}"
        );
        // A method that has nothing to do in a step does not say what it is called.
        let other = |actions| translate(vec![step(7, "other", actions)]).unwrap();
        merge(&mut all, other(Vec::new()), "c").unwrap();
        assert_eq!(all[1].name, "deploy");
        let error = merge(&mut all, other(vec![apply("c.yaml", "")]), "c").unwrap_err().to_string();
        assert!(error.contains("two backends number different steps 7"), "{error}");
    }
}
