//! Reported cases with their literal events, and what else clusters say.

use super::*;
use serde_json::json;

/// The objects of a file of `tests/cases`.
fn case(name: &str) -> Observed {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/cases/");
    let text = std::fs::read_to_string(format!("{folder}{name}.json")).unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    let log = std::fs::read_to_string(format!("{folder}{name}.log"));
    let logs = log.map(|text| Log { pod: "vllm-7d9f-q2".into(), container: "vllm".into(), text });
    Observed { objects: items(&list["items"]).to_vec(), logs: logs.into_iter().collect() }
}

fn only(observed: &Observed) -> Diagnosis {
    let mut found = diagnose(observed);
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn c29_no_gpu_to_be_had() {
    let mut observed = case("C29-gpu");
    for (name, gpus) in [("a", json!("2")), ("b", Value::Null)] {
        observed.objects.push(json!({"kind": "Node", "metadata": {"name": name}, "status": {"allocatable": {"nvidia.com/gpu": gpus}}}));
    }
    let found = only(&observed);
    assert_eq!(found.signal, "no-gpu");
    assert_eq!(found.subject, "pod vllm-standalone-8b-7d9f-abcde");
    assert_eq!(
        found.reason,
        "Unschedulable: 3 of 3 nodes Insufficient nvidia.com/gpu (requests 4)"
    );
    assert_eq!(
        found.facts,
        ["node a offers nvidia.com/gpu: 2", "node b offers nvidia.com/gpu: none"]
    );
    assert!(found.advice.contains("kubectl describe nodes"), "{}", found.advice);
    assert!(!found.is_hopeless(Duration::from_secs(5)) && found.is_hopeless(MINUTE));
    // With an autoscaler in sight it goes on.
    observed.objects.push(json!({
        "kind": "Event", "reason": "TriggeredScaleUp", "message": "pod triggered scale-up",
        "involvedObject": {"kind": "Pod", "name": "vllm-standalone-8b-7d9f-abcde"},
    }));
    assert!(!only(&observed).is_hopeless(MINUTE));
}

#[test]
fn c31_vllm_port_from_the_cluster() {
    let found = only(&case("C31-vllm-port"));
    assert_eq!(found.signal, "service-port");
    assert_eq!(found.subject, "pod vllm-7d9f-q2, container vllm");
    assert_eq!(found.reason, "CrashLoopBackOff: exit code 1, 5 restarts");
    assert!(found.facts.last().unwrap().contains("ValueError: VLLM_PORT 'tcp://10.96.0.20:8000'"));
    assert!(found.advice.contains("enableServiceLinks: false"), "{}", found.advice);
    assert!(found.is_hopeless(Duration::ZERO));
    // Without its log it is a loop like any other.
    let mut silent = case("C31-vllm-port");
    silent.logs.clear();
    assert_eq!(only(&silent).signal, "crash-loop");
}

#[test]
fn c33_image_tag_that_does_not_exist() {
    let found = only(&case("C33-image"));
    assert_eq!(found.signal, "image-not-found");
    assert!(found.reason.starts_with("ImagePullBackOff: Failed to pull image"), "{found}");
    assert!(found.reason.ends_with("ghcr.io/llm-d/llm-d:v9.9.9: not found"), "{found}");
    assert!(found.is_hopeless(MINUTE));
}

#[test]
fn c33_volume_that_cannot_be_made() {
    let found = only(&case("C33-pvc"));
    assert_eq!(found.signal, "access-mode");
    assert_eq!(found.subject, "claim model-pvc");
    assert!(found.reason.contains("only AccessModes [ReadWriteOnce ReadOnlyMany] are supported"));
    assert_eq!(found.facts, ["asks class standard for 300Gi, ReadWriteMany"]);
    assert!(found.is_hopeless(MINUTE));
}

#[test]
fn reasons_of_schedulers_end_where_making_room_begins() {
    let check =
        |text, expected: &[&str]| assert_eq!(scheduler_reasons(text), (Some(2), expected.to_vec()));
    let text = "0/2 nodes are available: 1 Insufficient cpu, 1 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.";
    check(text, &["1 Insufficient cpu", "1 Insufficient nvidia.com/gpu"]);
    check("0/2 nodes are available: 2 Too many pods.", &["2 Too many pods"]);
    assert_eq!(scheduler_reasons("no nodes"), (None, vec!["no nodes"]));
}

/// A pod with one container in this state.
fn pod(status: Value) -> Value {
    let mut status = status;
    status["name"] = json!("vllm");
    json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "uid": "u"},
        "spec": {"containers": [{"name": "vllm", "image": "h/x:1"}]},
        "status": {"phase": "Running", "containerStatuses": [status]}})
}

fn event(kind: &str, name: &str, reason: &str, message: &str) -> Value {
    json!({"kind": "Event", "reason": reason, "message": message, "involvedObject": {"kind": kind, "name": name}})
}

fn seen(objects: &[Value]) -> Observed {
    Observed { objects: objects.to_vec(), logs: Vec::new() }
}

#[test]
fn a_container_that_is_ready_or_done_is_no_problem() {
    let ready = json!({"ready": true, "restartCount": 3, "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}});
    let done =
        json!({"ready": false, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
    for status in [ready, done] {
        assert_eq!(diagnose(&seen(&[pod(status)])), []);
    }
}

#[test]
fn memory_that_ran_out_is_told_after_the_first_restart() {
    let status = |restarts: u64| json!({"ready": false, "restartCount": restarts, "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}});
    let found = only(&seen(&[pod(status(1))]));
    assert_eq!(
        (found.signal, found.reason.as_str()),
        ("out-of-memory", "OOMKilled: exit code 137, 1 restarts")
    );
    assert!(found.is_hopeless(Duration::ZERO));
    assert!(!only(&seen(&[pod(status(0))])).is_hopeless(MINUTE));
}

#[test]
fn loading_is_no_error_and_a_probe_that_gives_up_is_one() {
    let status = |restarts: u64| json!({"ready": false, "restartCount": restarts, "state": {"running": {}}, "lastState": if restarts > 0 { json!({"terminated": {"exitCode": 143, "reason": "Error"}}) } else { json!({}) }});
    let refused = event(
        "Pod",
        "p",
        "Unhealthy",
        "Startup probe failed: Get \"http://10.0.0.1:8000/health\": dial tcp: connect: connection refused",
    );
    let found = only(&seen(&[pod(status(0)), refused.clone()]));
    assert_eq!(found.signal, "loading");
    assert!(!found.is_hopeless(MINUTE * 60));
    let killed =
        event("Pod", "p", "Killing", "Container vllm failed startup probe, will be restarted");
    let found = only(&seen(&[pod(status(1)), refused, killed]));
    assert_eq!(found.signal, "startup-probe");
    assert!(found.is_hopeless(Duration::ZERO));
    assert!(found.facts[0].contains("connection refused"));
}

#[test]
fn pods_that_are_not_made_are_told_by_their_maker() {
    let message = "pods \"x-1\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1";
    let set = json!({"kind": "ReplicaSet", "apiVersion": "apps/v1", "metadata": {"name": "x"}, "spec": {"replicas": 1}, "status": {"replicas": 0}});
    let found = only(&seen(&[set.clone(), event("ReplicaSet", "x", "FailedCreate", message)]));
    assert_eq!((found.signal, found.subject.as_str()), ("quota", "ReplicaSet x"));
    let mut full = set;
    full["status"]["replicas"] = json!(1);
    assert_eq!(diagnose(&seen(&[full, event("ReplicaSet", "x", "FailedCreate", message)])), []);
}

#[test]
fn a_failed_job_is_explained_by_the_logs_of_its_pods() {
    let job = json!({"kind": "Job", "apiVersion": "batch/v1", "metadata": {"name": "download-model"}, "status": {"active": 0, "failed": 4,
        "conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "Job has reached the specified backoff limit"}]}});
    let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "download-model-x", "ownerReferences": [{"kind": "Job", "name": "download-model"}]}, "status": {"phase": "Failed"}});
    let log = |text: &str| Log {
        pod: "download-model-x".into(),
        container: "downloader".into(),
        text: text.into(),
    };
    let mut observed = seen(&[job, pod]);
    assert_eq!(only(&observed).signal, "job-failed");
    observed
        .logs
        .push(log("Downloading\nhuggingface_hub.errors.GatedRepoError: 403 Client Error."));
    let found = only(&observed);
    assert_eq!(found.signal, "gated");
    assert!(found.is_hopeless(Duration::ZERO));
    assert_eq!(found.facts.len(), 2);
}

#[test]
fn replicas_that_fail_alike_are_told_once() {
    let waiting = || json!({"ready": false, "image": "h/x:1", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "h/x:1: not found"}}});
    let (one, mut two) = (pod(waiting()), pod(waiting()));
    two["metadata"]["name"] = json!("q");
    assert_eq!(only(&seen(&[one, two])).subject, "pod p, container vllm");
}

#[test]
fn text_of_helm_is_explained_by_the_line_that_matters() {
    let text = "Error: INSTALLATION FAILED: unable to build kubernetes objects\nresource mapping not found: no matches for kind \"InferencePool\" in version \"v1\"\nensure CRDs are installed first";
    let found = explain(Place::Request, "helm", text).unwrap();
    assert_eq!(found.signal, "kind-unknown");
    assert_eq!(
        found.reason,
        "resource mapping not found: no matches for kind \"InferencePool\" in version \"v1\""
    );
    assert_eq!(explain(Place::Request, "helm", "fine"), None);
}
