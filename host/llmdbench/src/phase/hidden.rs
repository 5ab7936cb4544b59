//! What is blotted out of what is kept of a cluster, also by a command that was not given the secrets of the run: those
//! that stand in its Secrets are read there. What neither knows is named, and then nothing is kept that could show it.

use crate::action::Action;
use crate::error::Result;
use crate::kubernetes::{Inventory, Kubernetes};
use crate::plan::Plan;
use crate::run_dir::{self, RunDir};
use crate::secrets::{Redaction, Secrets};
use crate::settings::SETTINGS;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What is blotted out.
pub(crate) struct Hidden {
    pub(crate) redaction: Redaction,
    /// The settings of all secrets that were ever given to commands on the folder, or are known.
    pub(crate) names: BTreeSet<String>,
    /// Those of them whose values are not known.
    pub(crate) missing: BTreeSet<String>,
}

impl Hidden {
    /// Of a run folder, by a command that was given these secrets.
    pub(crate) fn of(kubernetes: &Kubernetes, dir: &RunDir, own: &Secrets) -> Result<Self> {
        let recorded = kubernetes.secrets_of(&Inventory::read(dir)?);
        Self::with(&recorded, dir, own)
    }

    fn with(
        recorded: &BTreeMap<(String, String), SecretString>,
        dir: &RunDir,
        own: &Secrets,
    ) -> Result<Self> {
        let plan = Plan::read_file(&dir.plan())?;
        let mut known = own.names();
        let mut values = Vec::new();
        for ((secret, key), value) in recorded {
            let value = value.expose_secret();
            match key.as_str() {
                Secrets::API_KEY_VARIABLE => known.extend([Secrets::API_KEY.to_owned()]),
                Secrets::HEADERS_VARIABLE => {
                    let headers: BTreeMap<String, String> =
                        serde_json::from_str(value).unwrap_or_default();
                    for (name, value) in headers {
                        known.insert(Secrets::header(&name));
                        values.push(SecretString::from(value));
                    }
                }
                _ => known.extend(plan.as_ref().and_then(|plan| source(plan, secret, key))),
            }
            values.push(SecretString::from(value.to_owned()));
        }
        let mut names = known.clone();
        names.extend(plan.iter().flat_map(of_plan));
        for results in dir.all_results() {
            names.extend(Plan::read_file(&results.plan())?.iter().flat_map(of_plan));
        }
        // A plan is written anew by every standup.
        let before: Value = run_dir::read_json(&dir.pods())?.unwrap_or_default();
        let before = before["hidden"].as_array().into_iter().flatten();
        names.extend(before.filter_map(|name| Some(name.as_str()?.to_owned())));
        let missing = names.difference(&known).cloned().collect();
        Ok(Self { redaction: own.redaction().and(values), names, missing })
    }

    /// Why nothing is kept that could show secrets. None: all of them are blotted out.
    pub(crate) fn why_not(&self) -> Option<String> {
        let missing: Vec<String> = self.missing.iter().map(|name| shown(name)).collect();
        (!missing.is_empty()).then(|| {
            format!(
                "what pods printed is not kept now, and what was kept of it before stays as it is: it may show {}, which this command is not given and cannot read",
                missing.join(" and ")
            )
        })
    }
}

/// "`target.api_key` (LLMDBENCH_API_KEY)"
fn shown(name: &str) -> String {
    let of_name = |setting: &&crate::settings::Setting| name.starts_with(setting.path);
    match SETTINGS.iter().filter(|setting| setting.secret).find(of_name) {
        Some(setting) => format!("`{name}` ({})", setting.variable),
        None => format!("`{name}`"),
    }
}

/// The secrets that a plan names.
fn of_plan(plan: &Plan) -> Vec<String> {
    let target = &plan.experiment.target;
    let key = target.has_api_key.then(|| Secrets::API_KEY.to_owned());
    let headers = target.header_names.iter().map(|name| Secrets::header(name));
    let actions = plan.steps.iter().flat_map(|step| &step.actions);
    let entries = actions.filter_map(|action| match action {
        Action::Secret(secret) => Some(&secret.entries),
        _ => None,
    });
    let named = entries.flatten().map(|(_, source)| Secrets::named(source));
    key.into_iter().chain(headers).chain(named).collect()
}

/// Which of the user's secrets stands in a Secret under a key.
fn source(plan: &Plan, name: &str, key: &str) -> Option<String> {
    let mut actions = plan.steps.iter().flat_map(|step| &step.actions);
    actions.find_map(|action| match action {
        Action::Secret(secret) if secret.name == name => {
            let mut entries = secret.entries.iter();
            entries.find(|(own, _)| own == key).map(|(_, source)| Secrets::named(source))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Secret;
    use crate::experiment::Experiment;
    use crate::plan::Step;
    use crate::settings::resolve;
    use serde_json::json;

    /// The folder of a run that was given a token, an API key and a header.
    fn folder() -> (tempfile::TempDir, RunDir) {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::at(folder.path());
        let mut experiment = Experiment::new(&resolve(Vec::new()).unwrap(), None, &mut Vec::new());
        experiment.target.has_api_key = true;
        experiment.target.header_names = vec!["x-team".to_owned()];
        let mut plan = Plan::new("r".into(), String::new(), experiment);
        let secret = Secret {
            name: "llm-d-hf-token".into(),
            namespace: None,
            entries: vec![("HF_TOKEN".into(), "hf-token".into())],
        };
        plan.steps = vec![Step {
            number: 4,
            name: "n".into(),
            title: String::new(),
            actions: vec![Action::Secret(secret)],
        }];
        plan.write(&dir.plan()).unwrap();
        (folder, dir)
    }

    fn recorded(entries: &[(&str, &str, &str)]) -> BTreeMap<(String, String), SecretString> {
        let entry = |(secret, key, value): &(&str, &str, &str)| {
            (((*secret).to_owned(), (*key).to_owned()), SecretString::from((*value).to_owned()))
        };
        entries.iter().map(entry).collect()
    }

    #[test]
    fn what_was_not_given_is_read_from_the_runs_secrets() {
        let (_folder, dir) = folder();
        let all = recorded(&[
            ("llm-d-hf-token", "HF_TOKEN", "hf_abcdef"),
            ("load-r", Secrets::API_KEY_VARIABLE, "sk-abcdef"),
            ("load-r", Secrets::HEADERS_VARIABLE, r#"{"x-team": "of-a-team"}"#),
        ]);
        let hidden = Hidden::with(&all, &dir, &Secrets::default()).unwrap();
        assert_eq!(hidden.why_not(), None);
        let clean = hidden.redaction.clean("hf_abcdef sk-abcdef of-a-team");
        assert_eq!(clean, "(hidden) (hidden) (hidden)");
    }

    #[test]
    fn what_nobody_knows_any_more_is_named() {
        let (_folder, dir) = folder();
        let some = recorded(&[("llm-d-hf-token", "HF_TOKEN", "hf_abcdef")]);
        let hidden = Hidden::with(&some, &dir, &Secrets::default()).unwrap();
        let why = hidden.why_not().unwrap();
        assert!(why.contains("`target.api_key` (LLMDBENCH_API_KEY) and `target.headers.x-team`"));
        assert!(!why.contains("hf-token"), "{why}");
        // It stays so when a later standup is given none of it.
        run_dir::write_json(&dir.pods(), &json!({"hidden": hidden.names})).unwrap();
        std::fs::remove_file(dir.plan()).unwrap();
        let later = Hidden::with(&BTreeMap::new(), &dir, &Secrets::default()).unwrap();
        assert_eq!(later.missing.len(), 3);
        let own = Secrets { api_key: Some("sk-abcdef".to_owned().into()), ..Secrets::default() };
        assert_eq!(Hidden::with(&some, &dir, &own).unwrap().missing.len(), 2);
    }
}
