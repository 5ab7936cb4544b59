//! [`Stand`]: a namespace of a real cluster for one test, an experiment in it, and eyes that are not the program's own.

use crate::bench::Bench;
use crate::eyes;
use crate::program::Ended;
use cluster::{Access, Cluster, ObjectRef, Owner, Selection};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// The variable with the URL of a stand-in of the model hub, as pods reach it.
const HUB: &str = "LLMDBENCH_TEST_HUB";

/// A namespace, and a folder in which the program runs.
#[derive(Debug)]
pub struct Stand {
    /// The folder.
    pub bench: Bench,
    /// The namespace.
    pub namespace: String,
    name: String,
    image: String,
    cluster: Cluster,
    runtime: Runtime,
}

impl Stand {
    /// A stand whose namespace nobody has made yet. None: there is no cluster.
    #[must_use]
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    pub fn new(name: &str) -> Option<Self> {
        let Ok(image) = std::env::var("LLMDBENCH_TEST_IMAGE") else {
            eprintln!(
                "skipped: LLMDBENCH_TEST_IMAGE is not set; `cargo xtask test --cluster` does"
            );
            return None;
        };
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = Runtime::new().unwrap();
        let access = Access::Kubeconfig { file: None, context: None };
        let cluster = runtime.block_on(Cluster::connect(&access)).unwrap();
        let namespace = format!("llmdbench-{name}-{}", std::process::id());
        let name = name.to_owned();
        Some(Self { bench: Bench::new(), namespace, name, image, cluster, runtime })
    }

    /// The image that is tried.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.image
    }

    /// Another folder for the same namespace.
    #[must_use]
    pub fn again(&self) -> Self {
        Self::new(&self.name).unwrap()
    }

    /// Sets a variable of every command.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.bench = std::mem::take(&mut self.bench).env(name, value);
        self
    }

    /// Writes `e.yaml`: a small stack, with these changes of the backend's and of all settings.
    pub fn experiment(&self, settings: &Value, others: &Value) {
        let mut whole = json!({
            "name": self.name,
            "deploy": {"method": "standalone", "model": "org/model", "settings": {
                "image": self.image, "wait_timeout": 80, "affinity": "", "cpu_nr": 1, "gpu_nr": 0,
                "container_spec": {
                    "readinessProbe": {"initialDelaySeconds": 0, "periodSeconds": 1},
                    "livenessProbe": {"initialDelaySeconds": 60},
                    "resources": {
                        "requests": {"cpu": "10m", "memory": "64Mi", "ephemeral-storage": null},
                        "limits": {"cpu": null, "memory": "256Mi", "ephemeral-storage": null},
                    },
                },
                "pod_spec": {"terminationGracePeriodSeconds": 1},
            }},
            "vllm": {"common": {
                "namespace": self.namespace, "pvc_name": "workload-pvc", "pvc_storage_class": "standard",
                // What every class of volumes can.
                "pvc_access_mode": "ReadWriteOnce",
                "pvc_model_cache_size": "1Gi", "pvc_download_image": self.image,
                "hf_endpoint": std::env::var(HUB).unwrap_or_default(), "pvc_download_timeout": 80,
            }},
            // One volume for both, so that step 05 alone makes what servers mount.
            "fmperf": {"namespace": self.namespace, "pvc_name": "workload-pvc", "pvc_size": "1Gi"},
            "load": {"image": self.image, "cpu": "50m", "memory": "256Mi"},
        });
        merge(&mut whole["deploy"]["settings"], settings);
        merge(&mut whole, others);
        self.bench.write("e.yaml", whole.to_string());
    }

    /// Carries out steps of `e.yaml`.
    #[track_caller]
    pub fn standup(&self, steps: &str) -> Ended {
        self.bench.run(&["standup", "e.yaml", "-s", steps])
    }

    /// The run whose label its objects have.
    #[must_use]
    pub fn run(&self) -> String {
        self.bench.json("w/setup/objects.json")["run"].as_str().unwrap().to_owned()
    }

    /// "Deployment", "Service": what the inventory has.
    #[must_use]
    pub fn kinds(&self) -> Vec<String> {
        let inventory = self.bench.json("w/setup/objects.json");
        let objects = inventory["objects"].as_array().unwrap().iter();
        objects.map(|object| object["kind"].as_str().unwrap().to_owned()).collect()
    }

    /// What the smoke test of a run folder asked, and by which way, in its order.
    #[must_use]
    pub fn asked(&self, folder: &str) -> Vec<(String, String)> {
        let kept = self.bench.json(&format!("{folder}/setup/smoketest.json"));
        let checks = kept["checks"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        checks.map(|check| (text(&check["at"]), text(&check["via"]))).collect()
    }

    /// What has the label of a run, over all kinds and namespaces.
    #[must_use]
    pub fn of_run(&self, run: &str) -> Vec<ObjectRef> {
        let label = format!("llmdbench.io/run={run}");
        let found = self.runtime.block_on(async {
            let client = kube::Client::try_default().await.unwrap();
            eyes::look(&client, None, &label).await
        });
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let named = found.iter().map(|object| ObjectRef {
            api_version: text(&object["apiVersion"]).unwrap(),
            kind: text(&object["kind"]).unwrap(),
            namespace: text(&object["metadata"]["namespace"]),
            name: text(&object["metadata"]["name"]).unwrap(),
            uid: text(&object["metadata"]["uid"]),
        });
        named.collect()
    }

    /// Registers an API whose server does not exist, as one that broke is, until it is dropped.
    #[must_use]
    pub fn break_api(&self) -> BrokenApi<'_> {
        let group = format!("{}.example.org", self.namespace);
        self.put(vec![json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": format!("v1.{group}")},
            "spec": {
                "group": group, "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 15,
                "insecureSkipTLSVerify": true,
                "service": {"namespace": self.namespace, "name": "there-is-none"},
            },
        })]);
        let broken = BrokenApi { stand: self, group };
        // The API server knows of it a moment later.
        let since = Instant::now();
        while !broken.is_known() {
            assert!(since.elapsed() < Duration::from_secs(60), "{} is not served", broken.group);
            std::thread::sleep(Duration::from_millis(200));
        }
        broken
    }

    /// Brings in objects of somebody else.
    pub fn put(&self, objects: Vec<Value>) {
        let mut done = |_| {};
        let put = self.cluster.apply(objects, &self.namespace, &Owner::Stranger, &mut done);
        self.runtime.block_on(put).unwrap();
    }

    /// Removes objects of somebody else.
    pub fn remove(&self, objects: &[ObjectRef]) {
        let patience = Duration::from_secs(60);
        let mut progress = |_: &ObjectRef| {};
        let removed = self.cluster.delete(objects, &Owner::Stranger, patience, &mut progress);
        assert!(self.runtime.block_on(removed).left.is_empty());
    }

    /// Objects of a kind in the namespace, or of one that is in none.
    #[must_use]
    pub fn get(&self, api_version: &str, kind: &str) -> Vec<Value> {
        let all = Selection::labelled(api_version, kind, &self.namespace, "");
        self.runtime.block_on(self.cluster.get(&all)).unwrap()
    }

    /// Whether the namespace is there, and is not going.
    #[must_use]
    pub fn has_namespace(&self) -> bool {
        let own = Selection::named("v1", "Namespace", "", &self.namespace);
        let found = self.runtime.block_on(self.cluster.get(&own)).unwrap();
        found.iter().any(|own| own["metadata"]["deletionTimestamp"].is_null())
    }

    /// The log of a pod of one container.
    #[must_use]
    pub fn log(&self, pod: &str) -> String {
        let options = cluster::LogOptions::default();
        self.runtime.block_on(self.cluster.logs(&self.namespace, pod, &options)).unwrap_or_default()
    }

    /// What a command in a pod of one container prints; it must go well.
    #[track_caller]
    #[must_use]
    pub fn exec(&self, pod: &str, command: &[&str]) -> String {
        let asked = self.cluster.exec(&self.namespace, pod, None, command);
        let output = self.runtime.block_on(asked).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.code, Some(0), "{command:?} in {pod}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Everything in the namespace that is no Secret, as text.
    #[must_use]
    pub fn everything(&self) -> String {
        self.runtime.block_on(async {
            let client = kube::Client::try_default().await.unwrap();
            let mut all = eyes::look(&client, Some(&self.namespace), "").await;
            all.retain(|object| object["kind"] != "Secret");
            json!(all).to_string()
        })
    }

    /// Whether an account of the namespace may do something in it.
    #[must_use]
    pub fn may(&self, account: &str, verb: &str, group: &str, resource: &str) -> bool {
        let (resource, part) = resource.split_once('/').unwrap_or((resource, ""));
        let asked = json!({"spec": {
            "user": format!("system:serviceaccount:{}:{account}", self.namespace),
            "groups": ["system:serviceaccounts", "system:authenticated"],
            "resourceAttributes": {
                "namespace": self.namespace, "verb": verb, "group": group, "resource": resource,
                "subresource": part,
            },
        }});
        let asked: SubjectAccessReview = serde_json::from_value(asked).unwrap();
        self.runtime.block_on(async {
            let client = kube::Client::try_default().await.unwrap();
            let api: Api<SubjectAccessReview> = Api::all(client);
            api.create(&PostParams::default(), &asked).await.unwrap().status.unwrap().allowed
        })
    }

    /// The variables of a person who has the rights of an account of this namespace, which is made. None: the
    /// certificate of the cluster's authority lies in no file.
    #[must_use]
    pub fn login(&self, account: &str) -> Option<[(&'static str, String); 3]> {
        let kubeconfig = PathBuf::from(std::env::var_os("KUBECONFIG")?);
        let authority = kubeconfig.parent()?.join("pki/ca.crt");
        if !authority.exists() {
            return None;
        }
        let object = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
        if !self.has_namespace() {
            self.put(vec![object("Namespace", &self.namespace)]);
        }
        self.put(vec![object("ServiceAccount", account)]);
        let token = self.runtime.block_on(async {
            let client = kube::Client::try_default().await.unwrap();
            let accounts: Api<ServiceAccount> = Api::namespaced(client, &self.namespace);
            let asked = TokenRequest::default();
            let given =
                accounts.create_token_request(account, &PostParams::default(), &asked).await;
            given.unwrap().status.unwrap().token
        });
        Some([
            ("LLMDBENCH_CLUSTER_URL", self.cluster.server().to_owned()),
            ("LLMDBENCH_CLUSTER_TOKEN", token),
            ("LLMDBENCH_CLUSTER_CA_FILE", authority.display().to_string()),
        ])
    }

    /// Deletes a pod at once, as a node that goes away does.
    pub fn delete_pod(&self, name: &str) {
        self.runtime.block_on(async {
            let client = kube::Client::try_default().await.unwrap();
            let pods: Api<kube::api::DynamicObject> = Api::namespaced_with(
                client,
                &self.namespace,
                &kube::api::ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&()),
            );
            pods.delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
        });
    }

    /// A pod of the program's image that carries out a command.
    #[must_use]
    pub fn pod(&self, name: &str, command: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "c", "image": self.image, "command": ["/bin/sh", "-c", command],
                "env": [{"name": "LLMDBENCH_HF_TOKEN", "value": "hf_good"}],
            }],
        }})
    }

    /// Whether pods reach a stand-in of the model hub.
    #[must_use]
    pub fn has_hub(&self) -> bool {
        std::env::var_os(HUB).is_some()
    }

    /// Whether a node has what those of `tests/cluster` have: four accelerators, and the label of their product.
    #[must_use]
    pub fn has_gpus(&self) -> bool {
        self.get("v1", "Node").iter().any(|node| {
            node["metadata"]["labels"]["nvidia.com/gpu.product"] == "Test-GPU"
                && node["status"]["allocatable"]["nvidia.com/gpu"] == "4"
        })
    }

    /// This stand, where models can be downloaded.
    #[must_use]
    pub fn with_hub(self) -> Option<Self> {
        let why = format!("{HUB} does not name a stand-in of the model hub (tests/cluster)");
        self.where_true(Self::has_hub, &why)
    }

    /// This stand, where nodes have the accelerators of `tests/cluster`.
    #[must_use]
    pub fn with_gpus(self) -> Option<Self> {
        let why = "no node has 4 nvidia.com/gpu and the label nvidia.com/gpu.product=Test-GPU";
        self.where_true(Self::has_gpus, why)
    }

    /// This stand, where it is in the cluster of `tests/cluster`, whose parts can be stopped.
    #[must_use]
    pub fn with_parts(self) -> Option<Self> {
        let is_own = |stand: &Self| stand.cluster.server() == "https://10.231.0.2:6443";
        self.where_true(is_own, "this is not the cluster of tests/cluster")
    }

    fn where_true(self, has: impl Fn(&Self) -> bool, why: &str) -> Option<Self> {
        if has(&self) {
            return Some(self);
        }
        // Past the harness, which keeps to itself what a test that passes prints.
        let _ = writeln!(std::io::stderr(), "skipped: {}: {why}", self.name);
        None
    }
}

/// An API that is registered and not available.
#[derive(Debug)]
pub struct BrokenApi<'a> {
    stand: &'a Stand,
    group: String,
}

impl BrokenApi<'_> {
    /// "x.example.org/v1", as errors have it.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/v1", self.group)
    }

    /// Whether the API server says that it is not available, and not that there is none.
    fn is_known(&self) -> bool {
        let cluster = &self.stand.cluster;
        let any = Selection::named(&self.name(), "Thing", &self.stand.namespace, "x");
        let asked = self.stand.runtime.block_on(cluster.get(&any));
        matches!(asked, Err(cluster::Error::Request { .. }))
    }
}

impl Drop for BrokenApi<'_> {
    /// Nothing that goes with a namespace goes as long as it is there.
    fn drop(&mut self) {
        let object = ObjectRef {
            api_version: "apiregistration.k8s.io/v1".to_owned(),
            kind: "APIService".to_owned(),
            namespace: None,
            name: format!("v1.{}", self.group),
            uid: None,
        };
        let patience = Duration::from_secs(60);
        let mut progress = |_: &ObjectRef| {};
        let objects = [object];
        let removed =
            self.stand.cluster.delete(&objects, &Owner::Stranger, patience, &mut progress);
        self.stand.runtime.block_on(removed);
    }
}

impl Drop for Stand {
    /// A test that failed leaves nothing behind.
    fn drop(&mut self) {
        let _ = self.runtime.block_on(async {
            let client = kube::Client::try_default().await?;
            let all: Api<Namespace> = Api::all(client);
            all.delete(&self.namespace, &DeleteParams::background()).await
        });
    }
}

fn merge(whole: &mut Value, changes: &Value) {
    match (whole, changes) {
        (Value::Object(whole), Value::Object(changes)) => {
            for (key, value) in changes {
                merge(whole.entry(key).or_insert(Value::Null), value);
            }
        }
        (whole, changes) => *whole = changes.clone(),
    }
}
