//! The host's own steps before a backend's: 03 monitoring, 04 the models' namespace, 05 the
//! harness's namespace. Numbers, files and objects have the names of the original scripts.
//!
//! What these steps make outlives a run and carries the label `llmdbench.io/prepared`, but for the
//! download of a model, which is the run's that waits for it.

use crate::action::{Action, Condition, Manifest, Objects, Secret, Wait, Which};
use crate::error::Problem;
use crate::experiment::Model;
use crate::plan::Step;
use crate::settings::Settings;
use crate::translate::steps::file_part;
use cluster::ObjectRef;
use serde_json::Value;
use std::time::Duration;

/// The user's secret that downloads and servers need.
pub(crate) const HF_TOKEN: &str = "hf-token";

/// The name of a step, without its number.
pub(crate) const NAMES: [(u8, &str, &str); 3] = [
    (3, "ensure_user_workload_monitoring_configuration", "Have the cluster watch user workloads"),
    (4, "ensure_model_namespace_prepared", "Prepare the namespace of the models and download them"),
    (5, "ensure_fmperf_namespace_prepared", "Prepare the namespace of the harness"),
];

/// What the files of downloads begin with: in the order of names they come after what they need.
const DOWNLOAD: &str = "04_start_download_";

/// Whether an action of these steps brings in a download, or takes away an earlier one.
pub(crate) fn is_download(action: &Action) -> bool {
    match action {
        Action::Apply(manifest) => manifest.file.starts_with(DOWNLOAD),
        Action::Delete(objects) => objects.kind == "Job",
        _ => false,
    }
}

/// Whether an object is the Job of a download: it stands in nobody's way.
pub(crate) fn is_download_job(object: &ObjectRef) -> bool {
    object.kind == "Job" && object.name.starts_with(JOB)
}

/// What the names of downloads' Jobs begin with.
const JOB: &str = "download-model";

/// What the steps are made of.
#[derive(Debug)]
pub(crate) struct Preparation<'a> {
    settings: &'a Settings,
    models: &'a [Model],
    is_openshift: bool,
}

impl<'a> Preparation<'a> {
    /// Takes what it needs of the settings.
    pub(crate) fn new(settings: &'a Settings, models: &'a [Model], is_openshift: bool) -> Self {
        Self { settings, models, is_openshift }
    }

    /// The steps 03, 04 and 05.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let actions = [self.monitoring(), self.model_namespace(), self.harness_namespace()];
        NAMES
            .into_iter()
            .zip(actions)
            .map(|((number, name, title), actions)| Step {
                number,
                name: name.to_owned(),
                title: match (number, actions.is_empty()) {
                    (3, true) => {
                        "Nothing to do: only OpenShift has such a configuration".to_owned()
                    }
                    _ => title.to_owned(),
                },
                actions,
            })
            .collect()
    }

    fn text(&self, path: &str) -> String {
        match self.settings.get(path) {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        }
    }

    fn monitoring(&self) -> Vec<Action> {
        if !self.is_openshift {
            return Vec::new();
        }
        let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: cluster-monitoring-config\n  namespace: openshift-monitoring\ndata:\n  config.yaml: |\n    enableUserWorkload: true\n";
        vec![apply("03_cluster-monitoring-config_configmap.yaml", yaml.to_owned())]
    }

    fn model_namespace(&self) -> Vec<Action> {
        let namespace = self.text("vllm.common.namespace");
        let mut actions = Vec::new();
        for model in self.models {
            let alias = file_part(&model.alias);
            let mut documents = vec![self.namespace(&namespace)];
            documents.extend(self.service_account(&namespace));
            documents.push(self.volume_claim(
                &namespace,
                "vllm.common.pvc_name",
                "vllm.common.pvc_model_cache_size",
            ));
            let job = self.job_name(model);
            let download = self.download(&namespace, &job, model);
            let objects = Objects {
                api_version: "batch/v1".into(),
                kind: "Job".into(),
                namespace: Some(namespace.clone()),
                which: Which::Name(job),
            };
            // What a Job runs cannot be changed, so an earlier one goes first; where it may not, nothing
            // else is touched.
            actions.push(Action::Delete(objects.clone()));
            actions.push(apply(
                &format!("04_prepare_namespace_{alias}.yaml"),
                documents.join("---\n"),
            ));
            let secret = self.secret(&namespace);
            if !actions.contains(&secret) {
                actions.push(secret);
            }
            actions.push(apply(&format!("{DOWNLOAD}{alias}.yaml"), download));
            actions.push(Action::Wait(Wait {
                objects,
                until: Condition::Status { name: "Complete".into(), status: "True".into() },
                timeout: self.patience(),
            }));
        }
        actions
    }

    /// How long a download may take.
    fn patience(&self) -> Duration {
        let seconds = self.settings.get("vllm.common.pvc_download_timeout").as_u64();
        Duration::from_secs(seconds.unwrap_or(0))
    }

    fn harness_namespace(&self) -> Vec<Action> {
        let namespace = self.text("fmperf.namespace");
        let account = self.text("fmperf.service_account");
        let documents = [
            self.namespace(&namespace),
            // Load is made by pods that ask nothing of the cluster.
            format!("{}automountServiceAccountToken: false\n", account_of(&namespace, &account)),
            format!(
                "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\n{}rules: []\n",
                prepared("fmperf-job-creator", Some(&namespace))
            ),
            format!(
                "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\n{}roleRef:\n  apiGroup: rbac.authorization.k8s.io\n  kind: Role\n  name: fmperf-job-creator\nsubjects:\n- kind: ServiceAccount\n  name: {}\n  namespace: {}\n",
                prepared("fmperf-job-creator-binding", Some(&namespace)),
                quoted(&account),
                quoted(&namespace)
            ),
        ];
        let mut actions = vec![
            apply("05_namespace_sa_rbac_secret.yaml", documents.join("---\n")),
            self.secret(&namespace),
        ];
        // Load needs no volume: this one is for people who want one there.
        if self.settings.is_set("fmperf.pvc_name") {
            let file = format!("05_pvc_{}.yaml", self.text("fmperf.pvc_name"));
            let claim = self.volume_claim(&namespace, "fmperf.pvc_name", "fmperf.pvc_size");
            actions.push(apply(&file, claim));
        }
        actions
    }

    fn namespace(&self, name: &str) -> String {
        format!("apiVersion: v1\nkind: Namespace\n{}", prepared(name, None))
    }

    /// The account of the servers, where it is not the one that every namespace has; on OpenShift
    /// it may run images as the user that they name.
    fn service_account(&self, namespace: &str) -> Vec<String> {
        let account = self.text("vllm.common.service_account");
        let mut documents = Vec::new();
        if account != "default" {
            documents.push(account_of(namespace, &account));
        }
        if self.is_openshift {
            documents.push(format!(
                "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\n{}roleRef:\n  apiGroup: rbac.authorization.k8s.io\n  kind: ClusterRole\n  name: system:openshift:scc:anyuid\nsubjects:\n- kind: ServiceAccount\n  name: {}\n  namespace: {}\n",
                prepared("llmdbench-anyuid", Some(namespace)),
                quoted(&account),
                quoted(namespace)
            ));
        }
        documents
    }

    fn secret(&self, namespace: &str) -> Action {
        Action::Secret(Secret {
            name: self.text("vllm.common.hf_token_name"),
            namespace: Some(namespace.to_owned()),
            entries: vec![("HF_TOKEN".to_owned(), HF_TOKEN.to_owned())],
        })
    }

    fn volume_claim(&self, namespace: &str, name: &str, size: &str) -> String {
        format!(
            "apiVersion: v1\nkind: PersistentVolumeClaim\n{}spec:\n  accessModes:\n  - {}\n  resources:\n    requests:\n      storage: {}\n  storageClassName: {}\n  volumeMode: Filesystem\n",
            prepared(&self.text(name), Some(namespace)),
            self.text("vllm.common.pvc_access_mode"),
            quoted(&self.text(size)),
            quoted(&self.text("vllm.common.pvc_storage_class")),
        )
    }

    /// One model keeps the original's name of the Job.
    fn job_name(&self, model: &Model) -> String {
        if self.models.len() == 1 {
            return JOB.to_owned();
        }
        let number = self.models.iter().position(|other| other == model).unwrap_or(0) + 1;
        format!("{JOB}-{number}")
    }

    /// A Job that downloads a model into the hub's cache on the volume, where servers look that
    /// have their HF_HOME there, and makes a link `models/ID`, where llm-d looks.
    fn download(&self, namespace: &str, job: &str, model: &Model) -> String {
        let claim = quoted(&self.text("vllm.common.pvc_name"));
        let secret = quoted(&self.text("vllm.common.hf_token_name"));
        let image = quoted(&self.text("vllm.common.pvc_download_image"));
        // One that nobody waits for any more is not to stand in the way of others.
        let patience = self.patience().as_secs().max(1);
        let endpoint = match self.text("vllm.common.hf_endpoint") {
            url if url.is_empty() => String::new(),
            url => format!("        - name: HF_ENDPOINT\n          value: {}\n", quoted(&url)),
        };
        // The folder of a fresh volume is root's on many clusters; OpenShift gives it to the pod's user.
        let user = match self.is_openshift {
            true => "",
            false => "        securityContext:\n          runAsUser: 0\n",
        };
        format!(
            r#"apiVersion: batch/v1
kind: Job
{}spec:
  backoffLimit: 3
  activeDeadlineSeconds: {patience}
  template:
    spec:
      restartPolicy: OnFailure
      containers:
      - name: downloader
        image: {image}
        command: ["/bin/sh", "-ec"]
        args:
        - |
          if command -v llmdbench; then
              exec llmdbench download "$MODEL" /cache
          fi
          export PYTHONPATH=/tmp/packages
          python3 -c 'import huggingface_hub' 2>/dev/null ||
              pip install --quiet --target /tmp/packages huggingface_hub
          python3 - <<'END'
          import os
          import sys
          import huggingface_hub
          model = os.environ["MODEL"]
          link = "/cache/models/" + model
          if os.path.isdir(link) and not os.path.islink(link) and os.listdir(link):
              sys.exit(print(link, "is there already"))
          files = huggingface_hub.snapshot_download(model)
          os.makedirs(os.path.dirname(link), exist_ok=True)
          if os.path.islink(link):
              os.remove(link)
          elif os.path.isdir(link):
              os.rmdir(link)
          os.symlink(os.path.relpath(files, os.path.dirname(link)), link)
          END
        env:
        - name: MODEL
          value: {}
        - name: HF_HOME
          value: /cache
{endpoint}        - name: HF_TOKEN
          valueFrom:
            secretKeyRef:
              name: {secret}
              key: HF_TOKEN
{user}        volumeMounts:
        - name: model-cache
          mountPath: /cache
      volumes:
      - name: model-cache
        persistentVolumeClaim:
          claimName: {claim}
"#,
            metadata(job, Some(namespace)),
            quoted(&model.id),
        )
    }
}

/// What of the settings and models Kubernetes, or a shell in a pod, would not take.
pub(crate) fn check(settings: &Settings, models: &[Model]) -> Vec<Problem> {
    const NAMES: [&str; 7] = [
        "vllm.common.namespace",
        "vllm.common.service_account",
        "vllm.common.pvc_name",
        "vllm.common.hf_token_name",
        "fmperf.namespace",
        "fmperf.service_account",
        "fmperf.pvc_name",
    ];
    let mut problems = Vec::new();
    for path in NAMES {
        let name = settings.text(path).unwrap_or_default();
        if !is_dns_label(name) {
            let problem =
                Problem::new(format!("`{path}`: `{name}` is no name that Kubernetes takes"));
            let problem = problem.hint("write small letters, digits and dashes, a letter or digit at both ends, at most 63");
            problems.push(match settings.place(&crate::settings::pointer(path)) {
                Some(place) => problem.at(place),
                None => problem,
            });
        }
    }
    for model in models {
        let is_id = |c: char| c.is_ascii_alphanumeric() || "._/-".contains(c);
        if model.id.is_empty() || !model.id.chars().all(is_id) {
            problems.push(
                Problem::new(format!("`deploy.model`: `{}` is no id of a model", model.id))
                    .hint("ids have letters, digits and . _ - /"),
            );
        }
    }
    problems
}

/// RFC 1123.
fn is_dns_label(name: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&name.len())
        && name.chars().all(is_inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn apply(file: &str, yaml: String) -> Action {
    Action::Apply(Manifest { file: file.to_owned(), yaml })
}

fn metadata(name: &str, namespace: Option<&str>) -> String {
    let mut text = format!("metadata:\n  name: {}\n", quoted(name));
    if let Some(namespace) = namespace {
        text.push_str(&format!("  namespace: {}\n", quoted(namespace)));
    }
    text
}

/// As [`metadata`], of what outlives a run.
fn prepared(name: &str, namespace: Option<&str>) -> String {
    metadata(name, namespace) + "  labels:\n    llmdbench.io/prepared: \"true\"\n"
}

fn account_of(namespace: &str, name: &str) -> String {
    format!("apiVersion: v1\nkind: ServiceAccount\n{}", prepared(name, Some(namespace)))
}

/// A text that YAML reads as a text: a JSON string.
fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Layer, Source, resolve};
    use cluster::Owner;
    use saphyr::{LoadableYamlNode, Yaml};
    use serde_json::json;

    fn steps(set: &[(&str, Value)], models: &[(&str, &str)], is_openshift: bool) -> Vec<Step> {
        let mut layer = Layer::named(Source::Flag);
        for (path, value) in set {
            layer.set(path, "--flag", value.clone());
        }
        let settings = resolve(vec![layer]).unwrap();
        let models: Vec<Model> =
            models.iter().map(|(a, id)| Model { alias: (*a).into(), id: (*id).into() }).collect();
        Preparation::new(&settings, &models, is_openshift).steps()
    }

    fn files(steps: &[Step]) -> Vec<&Manifest> {
        steps.iter().flat_map(|step| &step.actions).filter_map(Action::files).collect()
    }

    #[test]
    fn files_and_objects_have_the_originals_names() {
        let id = "meta-llama/Llama-3.1-8B-Instruct";
        let steps = steps(&[], &[("llama-8b", id)], true);
        let files = files(&steps);
        let names: Vec<&str> = files.iter().map(|manifest| manifest.file.as_str()).collect();
        assert_eq!(
            names,
            [
                "03_cluster-monitoring-config_configmap.yaml",
                "04_prepare_namespace_llama-8b.yaml",
                "04_start_download_llama-8b.yaml",
                "05_namespace_sa_rbac_secret.yaml",
            ]
        );
        let objects: Vec<String> = files
            .iter()
            .flat_map(|manifest| Yaml::load_from_str(&manifest.yaml).unwrap())
            .map(|object| {
                let kind = object["kind"].as_str().unwrap();
                format!("{kind} {}", object["metadata"]["name"].as_str().unwrap())
            })
            .collect();
        assert_eq!(
            objects,
            [
                "ConfigMap cluster-monitoring-config",
                "Namespace llmdbench",
                "RoleBinding llmdbench-anyuid",
                "PersistentVolumeClaim model-pvc",
                "Job download-model",
                "Namespace fmperf",
                "ServiceAccount fmperf-runner",
                "Role fmperf-job-creator",
                "RoleBinding fmperf-job-creator-binding",
            ]
        );
    }

    #[test]
    fn the_harness_has_a_volume_only_where_somebody_wants_one() {
        let set = [
            ("fmperf.pvc_name", json!("results")),
            ("vllm.common.pvc_access_mode", json!("ReadWriteOnce")),
        ];
        let steps = steps(&set, &[("m", "m")], false);
        let files = files(&steps);
        let claim = files.iter().find(|manifest| manifest.file == "05_pvc_results.yaml").unwrap();
        assert!(claim.yaml.contains("  - ReadWriteOnce\n"), "{}", claim.yaml);
        assert!(claim.yaml.contains("storage: \"20Gi\""), "{}", claim.yaml);
        assert!(files[0].yaml.contains("  - ReadWriteOnce\n"), "{}", files[0].yaml);
    }

    #[test]
    fn a_download_is_the_runs_and_all_else_outlives_it() {
        let steps = steps(&[("fmperf.pvc_name", json!("w"))], &[("a", "a"), ("b", "b")], true);
        let mut of_run = Vec::new();
        for step in &steps {
            for action in &step.actions {
                let command = action.command("ns", &Owner::Stranger).unwrap();
                match crate::steps::owner(step.number, action, "r") {
                    Owner::Run(run) if run == "r" => of_run.push(command),
                    owner => assert_eq!(owner, Owner::Prepared, "{command}"),
                }
            }
        }
        let expected = [
            "kubectl delete Job download-model-1 --namespace llmdbench --ignore-not-found",
            "kubectl apply --server-side --filename setup/yamls/04_start_download_a.yaml",
            "kubectl delete Job download-model-2 --namespace llmdbench --ignore-not-found",
            "kubectl apply --server-side --filename setup/yamls/04_start_download_b.yaml",
        ];
        assert_eq!(of_run, expected);
        for manifest in files(&steps).iter().filter(|file| file.file.starts_with("04_")) {
            let is_prepared = manifest.yaml.contains(cluster::PREPARED_LABEL);
            assert_eq!(is_prepared, !manifest.file.starts_with(DOWNLOAD), "{}", manifest.yaml);
        }
    }

    #[test]
    fn names_that_kubernetes_or_a_shell_would_not_take_are_refused() {
        let problems = |set: &[(&str, &str)], model: &str| -> String {
            let mut layer = Layer::named(Source::Flag);
            for (path, text) in set {
                layer.set(path, "--flag", json!(text));
            }
            let settings = resolve(vec![layer]).unwrap();
            let found = check(&settings, &[Model::named(model)]);
            found.iter().map(|problem| problem.message.clone()).collect()
        };
        assert_eq!(problems(&[], "org/Model_1.5-x"), "");
        for bad in ["Foo Bar", "/../evil", "-a", "a.b", ""] {
            assert!(
                problems(&[("fmperf.pvc_name", bad)], "m").contains("fmperf.pvc_name"),
                "{bad}"
            );
        }
        assert!(problems(&[], "a;touch x").contains("no id of a model"));
    }

    #[test]
    fn only_openshift_has_a_monitoring_configuration() {
        let steps = steps(&[], &[("m", "m")], false);
        assert!(steps[0].actions.is_empty());
        assert!(!files(&steps).iter().any(|manifest| manifest.yaml.contains("anyuid")));
    }

    #[test]
    fn each_model_is_downloaded_and_the_secret_is_made_once() {
        let set = [("vllm.common.pvc_storage_class", json!("shared-vast"))];
        let steps = steps(&set, &[("org/a", "org/a"), ("b", "org/b")], false);
        let prepared = &steps[1];
        let commands: Vec<String> = prepared
            .actions
            .iter()
            .filter_map(|a| a.command("llmdbench", &Owner::Prepared))
            .collect();
        let secrets = commands.iter().filter(|c| c.starts_with("kubectl create secret")).count();
        assert_eq!(secrets, 1, "{commands:?}");
        assert!(commands.iter().any(|c| c.contains("04_prepare_namespace_org___a.yaml")));
        let waits = commands.iter().filter(|c| c.contains("--timeout 2400s")).count();
        assert_eq!(waits, 2, "{commands:?}");
        let yaml = &files(&steps)[0].yaml;
        let documents = Yaml::load_from_str(yaml).unwrap();
        assert_eq!(documents.len(), 2, "{yaml}");
        assert!(yaml.contains("storageClassName: \"shared-vast\""), "{yaml}");
        let yaml = &files(&steps)[1].yaml;
        let documents = Yaml::load_from_str(yaml).unwrap();
        let container = &documents[0]["spec"]["template"]["spec"]["containers"][0];
        let script = container["args"][0].as_str().unwrap();
        assert!(script.contains("\nmodel = os.environ[\"MODEL\"]\n"), "{script}");
        assert_eq!(container["env"][0]["value"].as_str(), Some("org/a"));
        assert!(!yaml.contains("HF_ENDPOINT"), "{yaml}");
        let set = [
            ("vllm.common.pvc_download_image", json!("registry.example.org/llmdbench:1")),
            ("vllm.common.hf_endpoint", json!("https://hub.example.org")),
        ];
        let steps = self::steps(&set, &[("b", "org/b")], true);
        let yaml = &files(&steps)[2].yaml;
        let documents = Yaml::load_from_str(yaml).unwrap();
        let container = &documents[0]["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["image"].as_str(), Some("registry.example.org/llmdbench:1"));
        assert_eq!(container["env"][2]["value"].as_str(), Some("https://hub.example.org"));
    }
}
