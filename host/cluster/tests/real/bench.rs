//! A namespace for one test, and what tests put into it.

use cluster::{Access, Applied, Cluster, ObjectRef, Owner, Removal, Result, Selection};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use serde_json::{Value, json};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

/// Held for writing by a test that breaks the cluster for all.
static WHOLE: RwLock<()> = RwLock::new(());

/// The image of the program, as the nodes know it; tests in a cluster are done only where it is named.
const IMAGE: &str = "LLMDBENCH_TEST_IMAGE";

/// The image of the program.
pub(crate) fn image() -> String {
    std::env::var(IMAGE).unwrap()
}

/// The certificate of the cluster's authority, where a file has it.
pub(crate) fn authority() -> Option<PathBuf> {
    let kubeconfig = PathBuf::from(std::env::var_os("KUBECONFIG")?);
    let file = kubeconfig.parent()?.join("pki/ca.crt");
    file.exists().then_some(file)
}

/// A namespace of a test.
pub(crate) struct Bench {
    pub(crate) cluster: Cluster,
    pub(crate) namespace: String,
}

impl Bench {
    /// Carries out a test in a namespace of its own, which goes in any case.
    pub(crate) fn run(name: &str, test: impl AsyncFnOnce(&Self)) {
        let _whole = WHOLE.read().unwrap_or_else(PoisonError::into_inner);
        Self::carry_out(name, test);
    }

    /// As [`Bench::run`], while no other test runs; only on the cluster of `tests/cluster`, whose parts can be stopped.
    pub(crate) fn alone(name: &str, test: impl AsyncFnOnce(&Self)) {
        if authority().is_some() {
            let _whole = WHOLE.write().unwrap_or_else(PoisonError::into_inner);
            Self::carry_out(name, test);
        }
    }

    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn carry_out(name: &str, test: impl AsyncFnOnce(&Self)) {
        if std::env::var_os(IMAGE).is_none() {
            eprintln!("skipped: {IMAGE} is not set; `cargo xtask test --cluster` has a cluster");
            return;
        }
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async {
            let access = Access::Kubeconfig { file: None, context: None };
            let cluster = Cluster::connect(&access).await.unwrap();
            let namespace = format!("llmdbench-test-{name}-{}", std::process::id());
            let bench = Self { cluster, namespace };
            let own = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": bench.namespace}});
            let own = bench.apply(&Owner::Run(bench.namespace.clone()), vec![own]).await.unwrap();
            bench.account().await;
            let tested = AssertUnwindSafe(test(&bench));
            let tested = futures::FutureExt::catch_unwind(tested).await;
            let own: Vec<ObjectRef> = own.into_iter().map(|applied| applied.object).collect();
            let removal = bench.delete(&own, &Owner::Run(bench.namespace.clone())).await;
            if let Err(panic) = tested {
                std::panic::resume_unwind(panic);
            }
            assert!(removal.left.is_empty(), "{removal:?}");
        });
    }

    /// Pods want the namespace's account, which comes a moment after it.
    async fn account(&self) {
        let account = Selection::named("v1", "ServiceAccount", &self.namespace, "default");
        let there = cluster::Condition::Value { path: "{.metadata.uid}".into(), value: None };
        let limit = Duration::from_secs(30);
        self.cluster.wait(&account, &there, limit, &mut |_| {}).await.unwrap();
    }

    /// Applies objects in this namespace.
    pub(crate) async fn apply(&self, owner: &Owner, objects: Vec<Value>) -> Result<Vec<Applied>> {
        let mut applied = Vec::new();
        let mut done = |one| applied.push(one);
        self.cluster.apply(objects, &self.namespace, owner, &mut done).await.map(|()| applied)
    }

    /// Removes objects.
    pub(crate) async fn delete(&self, objects: &[ObjectRef], owner: &Owner) -> Removal {
        let limit = Duration::from_secs(90);
        self.cluster.delete(objects, owner, limit, &mut |_| {}).await
    }

    /// What a ConfigMap has under `key`.
    pub(crate) async fn config(&self, name: &str) -> Option<String> {
        let map = Selection::named("v1", "ConfigMap", &self.namespace, name);
        let found = self.cluster.get(&map).await.unwrap();
        Some(found.first()?["data"]["key"].as_str()?.to_owned())
    }

    /// A token of an account.
    pub(crate) async fn token(&self, account: &str) -> String {
        let client = kube::Client::try_default().await.unwrap();
        let accounts: kube::Api<ServiceAccount> = kube::Api::namespaced(client, &self.namespace);
        let asked = TokenRequest::default();
        let given = accounts.create_token_request(account, &PostParams::default(), &asked).await;
        given.unwrap().status.unwrap().token
    }
}

/// Stops or starts a part of the cluster of `tests/cluster`.
pub(crate) fn part(verb: &str, name: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cluster/cluster");
    assert!(Command::new(script).args([verb, name]).status().unwrap().success());
}

/// A Deployment of one pod with one container.
pub(crate) fn deployment(name: &str, container: Value, pod: Value) -> Value {
    let mut spec = json!({"containers": [container], "terminationGracePeriodSeconds": 1});
    for (key, value) in pod.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": spec},
        },
    })
}

/// Something that cannot come up.
pub(crate) struct Hopeless {
    pub(crate) name: &'static str,
    pub(crate) api_version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) objects: Vec<Value>,
    /// The row of the table that says why.
    pub(crate) signal: &'static str,
    /// What its reason or facts say.
    pub(crate) says: &'static str,
}

/// One of each.
pub(crate) fn hopeless() -> Vec<Hopeless> {
    let sleeps = |memory: &str| {
        json!({"name": "c", "image": image(), "command": ["sleep", "1000"],
            "resources": {"requests": {"memory": memory}, "limits": {"memory": memory}}})
    };
    let with = |mut container: Value, key: &str, value: Value| {
        container[key] = value;
        container
    };
    // A container that ends at once is ready for a moment unless it is asked.
    let asked = |container: Value| {
        with(container, "readinessProbe", json!({"tcpSocket": {"port": 8000}, "periodSeconds": 1}))
    };
    let says = |text: &str| json!(["/bin/sh", "-c", text]);
    let of = |name, container, pod, signal, says| Hopeless {
        name,
        api_version: "apps/v1",
        kind: "Deployment",
        objects: vec![deployment(name, container, pod)],
        signal,
        says,
    };
    let plain = || asked(sleeps("32Mi"));
    let none = || json!({});
    let mut cases = vec![
        of(
            "image",
            with(plain(), "image", json!("ghcr.io/llm-d/llm-d:v9.9.9")),
            none(),
            "image-not-found",
            "not found",
        ),
        of(
            "pull",
            with(plain(), "image", json!("ghcr.io/private/llm-d:v1")),
            none(),
            "image-refused",
            "401",
        ),
        of(
            "gpu",
            with(
                plain(),
                "resources",
                json!({"requests": {"memory": "1Mi"}, "limits": {"memory": "32Mi", "nvidia.com/gpu": "64"}}),
            ),
            none(),
            "no-gpu",
            "(requests 64)",
        ),
        of(
            "label",
            plain(),
            json!({"nodeSelector": {"nvidia.com/gpu.product": "None-Such"}}),
            "no-such-node",
            "None-Such",
        ),
        of("quota", sleeps("2Ti"), none(), "quota", "exceeded quota"),
        of(
            "secret",
            with(
                plain(),
                "env",
                json!([{"name": "T", "valueFrom": {"secretKeyRef": {"name": "llm-d-hf-token", "key": "HF_TOKEN"}}}]),
            ),
            none(),
            "secret-missing",
            "llm-d-hf-token",
        ),
        of(
            "memory",
            with(plain(), "command", says("head -c 200000000 /dev/zero | tail")),
            none(),
            "out-of-memory",
            "137",
        ),
        of(
            "loop",
            with(plain(), "command", says("echo starting; echo the reason >&2; exit 7")),
            none(),
            "crash-loop",
            "the reason",
        ),
        of(
            "token",
            with(plain(), "command", says("echo 'GatedRepoError: 401 Client Error.'; exit 1")),
            none(),
            "gated",
            "GatedRepoError",
        ),
        of(
            "port",
            with(
                with(plain(), "command", says("vllm serve m")),
                "env",
                json!([{"name": "VLLM_PORT", "value": "tcp://10.96.0.20:8000"}]),
            ),
            none(),
            "service-port",
            "exit code 1",
        ),
        of(
            "probe",
            with(
                with(plain(), "command", says("vllm serve m --port 8000")),
                "readinessProbe",
                json!({"httpGet": {"path": "/none", "port": 8000}, "periodSeconds": 1}),
            ),
            none(),
            "probe-path",
            "404",
        ),
        of(
            "startup",
            with(
                plain(),
                "startupProbe",
                json!({"tcpSocket": {"port": 8000}, "periodSeconds": 1, "failureThreshold": 2}),
            ),
            none(),
            "startup-probe",
            "startup probe",
        ),
        of(
            "shell",
            with(plain(), "command", json!(["/bin/none"])),
            none(),
            "no-shell",
            "/bin/none",
        ),
    ];
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "claim"},
        "spec": {"accessModes": ["ReadWriteMany"], "storageClassName": "none-such", "resources": {"requests": {"storage": "1Gi"}}},
    });
    let volume =
        json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "claim"}}]});
    let mut mounts = of(
        "volume",
        plain(),
        volume,
        "class-unknown",
        "asks class none-such for 1Gi, ReadWriteMany",
    );
    mounts.objects.push(claim);
    cases.push(mounts);
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"},
        "spec": {"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never", "containers": [
            with(plain(), "command", says("echo 'OSError: [Errno 28] No space left on device'; exit 1")),
        ]}}},
    });
    cases.push(Hopeless {
        name: "job",
        api_version: "batch/v1",
        kind: "Job",
        objects: vec![job],
        signal: "disk-full",
        says: "No space left",
    });
    cases
}
