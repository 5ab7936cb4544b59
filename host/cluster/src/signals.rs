//! THE table of what goes wrong with what stands in a cluster: signal, diagnosis, what to do.
//!
//! A signal is a text at a place. Rows are tried from the top, the first that matches says it; those of one place that
//! match anything come last.

use std::time::Duration;

/// Where a text was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The message of a failed image pull.
    Pull,
    /// The message of a container that cannot be made.
    Container,
    /// The message of a pod that no node takes.
    Scheduling,
    /// Events of a claim, and of pods whose volumes cannot be had.
    Volume,
    /// Events and conditions of what could not make its pods.
    Creation,
    /// How a container ended, and the last lines of its log.
    Exit,
    /// The log of a container that runs and is not ready.
    Log,
    /// Events of probes.
    Probe,
    /// Why a pod was thrown out, or not let in.
    Pod,
    /// Why a Job failed, and the last lines of its pods' logs.
    Job,
    /// Conditions of gateways and routes.
    Route,
    /// The answer of the API server or of helm.
    Request,
    /// The answer of the model's endpoint.
    Answer,
}

/// How long to hope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It is no error, or mends itself: to be shown, and waited for.
    Endless,
    /// Hopeless when it stands for so long.
    For(Duration),
    /// Hopeless after so many restarts of the container.
    Restarts(u64),
}

/// A row of the table.
#[derive(Debug)]
pub struct Signal {
    /// Its name, which does not change: "image-not-found".
    pub id: &'static str,
    /// Where it is seen.
    pub places: &'static [Place],
    /// Texts of which one must be there, whatever their case. None: any text will do.
    pub texts: &'static [&'static str],
    /// What it means.
    pub meaning: &'static str,
    /// What to do about it.
    pub advice: &'static str,
    /// How long to hope.
    pub patience: Patience,
}

impl Signal {
    /// The row that says what a text at a place means.
    #[must_use]
    pub fn of(place: Place, text: &str) -> Option<&'static Self> {
        let text = text.to_lowercase();
        SIGNALS.iter().find(|signal| {
            let is_here =
                || signal.texts.iter().any(|wanted| text.contains(&wanted.to_lowercase()));
            signal.places.contains(&place) && (signal.texts.is_empty() || is_here())
        })
    }
}

/// Long enough for what is applied a moment later, such as a Secret, and for a second try.
const SOON: Patience = Patience::For(Duration::from_secs(20));
/// Long enough for another pod to make place.
const LATER: Patience = Patience::For(Duration::from_secs(30));

use Place::{
    Answer, Container, Creation, Exit, Job, Log, Pod, Probe, Pull, Request, Route, Scheduling,
    Volume,
};

macro_rules! signals {
    ($($id:literal $places:expr, $texts:expr, $patience:expr, $meaning:literal, $advice:literal;)*) => {
        /// All rows.
        pub const SIGNALS: &[Signal] = &[$(Signal {
            id: $id,
            places: $places,
            texts: $texts,
            meaning: $meaning,
            advice: $advice,
            patience: $patience,
        }),*];
    };
}

signals! {
    // Images.
    "image-name" &[Pull], &["InvalidImageName", "couldn't parse image", "invalid reference format"], SOON,
        "the name of the image is none",
        "write it as REGISTRY/NAME:TAG";
    "image-refused" &[Pull], &["denied", "unauthorized", "forbidden", "authentication required", "no basic auth credentials"], SOON,
        "the registry does not give this image to the cluster: it is private, was renamed, or removed",
        "name a pull secret that may read it, or the image's new name";
    "image-not-found" &[Pull], &["not found", "manifest unknown", "name unknown", "does not exist"], SOON,
        "the registry has no such image or tag",
        "check the image's name and tag; images of llm-d have moved between organisations";
    "image-limited" &[Pull], &["toomanyrequests", "too many requests", "rate limit"], Patience::Endless,
        "the registry was asked too often",
        "wait, log in with a pull secret, or use a mirror";
    "image-unreachable" &[Pull], &["httpReadSeeker", "timeout", "no such host", "connection refused", "network is unreachable", "connection reset", "TLS handshake", "unexpected EOF"], Patience::Endless,
        "the registry is not reached, or only slowly",
        "check the nodes' way to it; pull the image beforehand, or use a mirror";
    "image" &[Pull], &[], Patience::For(Duration::from_secs(60)),
        "the image cannot be pulled",
        "pull it by hand on a node to see why";

    // Containers that cannot be made.
    "secret-missing" &[Container], &["secret \"", "couldn't find key"], LATER,
        "a Secret that the pod needs is missing, or lacks the key",
        "set the secret (LLMDBENCH_HF_TOKEN) and run step 04, or make the Secret by hand";
    "config-missing" &[Container], &["configmap \""], LATER,
        "a ConfigMap that the pod needs is missing",
        "apply it first";
    "no-shell" &[Container, Exit], &["exec: \"/bin/bash\"", "exec: \"/bin/sh\"", "no such file or directory: unknown", "executable file not found"], Patience::For(Duration::from_secs(10)),
        "the image has no such program; some images have no shell",
        "use an image that has it, or give arguments only";
    "non-root" &[Container], &["runAsNonRoot", "non-numeric user"], SOON,
        "the image wants to run as root, which the pod forbids",
        "use an image with a user of its own, or set runAsUser";
    "container" &[Container], &[], Patience::For(Duration::from_secs(45)),
        "the container cannot be made",
        "see the message; it is the node's";

    // Nodes.
    "no-gpu" &[Scheduling], &["Insufficient nvidia.com/gpu", "Insufficient amd.com/gpu", "Insufficient habana.ai/gaudi", "Insufficient gpu.intel.com"], LATER,
        "no node has so many accelerators free",
        "ask for fewer, wait until others end, or look at `kubectl describe nodes`: without a device plugin nodes offer none; for the simulator ask for 0";
    "no-room" &[Scheduling], &["Insufficient cpu", "Insufficient memory", "Insufficient ephemeral-storage", "Too many pods"], LATER,
        "no node has so much room free",
        "ask for less CPU or memory (the router of llm-d asks for 12 CPUs by default), or wait until others end";
    "volume-unbound" &[Scheduling], &["unbound immediate PersistentVolumeClaims"], LATER,
        "a volume that the pod mounts cannot be made",
        "look at `kubectl describe pvc`";
    "claim-missing" &[Scheduling], &["persistentvolumeclaim \""], LATER,
        "the claim that the pod mounts is not there",
        "run step 04, which makes it, or name another claim";
    "volume-elsewhere" &[Scheduling], &["volume node affinity conflict"], LATER,
        "the volume is bound to a node that cannot take the pod",
        "use a class of volumes that all nodes reach, or have the pod on that node";
    "taint" &[Scheduling], &["untolerated taint"], LATER,
        "the nodes that would do keep others away",
        "add a toleration to the pod (pod_spec)";
    "no-such-node" &[Scheduling], &["node affinity/selector", "node(s) didn't match node selector"], LATER,
        "no node has the label that is asked for",
        "compare with `kubectl get nodes --show-labels`; write the affinity as LABEL:VALUE";
    "unschedulable" &[Scheduling], &[], Patience::For(Duration::from_secs(45)),
        "no node takes the pod",
        "look at `kubectl describe pod`";

    // Volumes.
    "no-class" &[Volume], &["no storage class is set"], LATER,
        "there is no default class of volumes and no volume that would do",
        "name a class with LLMDBENCH_VLLM_COMMON_PVC_STORAGE_CLASS; `kubectl get storageclass` lists them";
    "class-unknown" &[Volume], &["storageclass.storage.k8s.io"], LATER,
        "the cluster has no such class of volumes",
        "name another with LLMDBENCH_VLLM_COMMON_PVC_STORAGE_CLASS; `kubectl get storageclass` lists them";
    "access-mode" &[Volume], &["invalid AccessModes", "access mode", "MULTI_NODE_MULTI_WRITER"], LATER,
        "the class of volumes cannot be mounted in the way that is asked for",
        "name a class that can with LLMDBENCH_VLLM_COMMON_PVC_STORAGE_CLASS, or a mode that it has with LLMDBENCH_VLLM_COMMON_PVC_ACCESS_MODE";
    "multi-attach" &[Volume], &["Multi-Attach error"], Patience::For(Duration::from_secs(50)),
        "the volume can be mounted on one node only and is in use on another",
        "use one replica, or a class of volumes that several nodes mount";
    "mount-source-missing" &[Volume], &["secret \"", "configmap \""], LATER,
        "what the pod mounts is not there",
        "apply it first";
    "provisioning" &[Volume], &["failed to provision", "ProvisioningFailed"], Patience::For(Duration::from_secs(50)),
        "the class of volumes did not make one",
        "see the message, which is the provisioner's; or name another class with LLMDBENCH_VLLM_COMMON_PVC_STORAGE_CLASS";
    "volume" &[Volume], &[], Patience::Endless,
        "the volume is not there yet",
        "look at `kubectl describe pvc`; some classes take minutes";

    // Pods that are not made.
    "quota" &[Creation, Request], &["exceeded quota"], LATER,
        "the namespace's quota is used up",
        "ask for less, end others, or have the quota raised";
    "priority-class" &[Creation, Request], &["no PriorityClass with name"], SOON,
        "there is no such priority class",
        "`kubectl get priorityclass` lists them";
    "pod-security" &[Creation, Request], &["violates PodSecurity", "security context constraint"], SOON,
        "the namespace does not let such pods in",
        "label the namespace (pod-security.kubernetes.io/enforce), or on OpenShift grant the account the constraint anyuid";
    "no-account" &[Creation], &["serviceaccount \"", "error looking up service account"], SOON,
        "the pods' service account is not there",
        "run the step that makes it, or name another account";
    "creation" &[Creation], &[], Patience::For(Duration::from_secs(45)),
        "its pods cannot be made",
        "see the message, which is the API server's";

    // How containers end.
    "service-port" &[Exit, Job], &["appears to be a URI. This may be caused by a Kubernetes service discovery issue"], Patience::Restarts(1),
        "a Service called `vllm` makes Kubernetes set VLLM_PORT in every pod, and vLLM takes it for a setting of its own",
        "give the Service another name, or set `enableServiceLinks: false` in the pod (pod_spec)";
    "gated" &[Exit, Job, Log], &["GatedRepoError", "gated repo", "Access to model", "401 Client Error", "403 Client Error", "Invalid credentials in Authorization header", "the model hub refuses"], Patience::Restarts(1),
        "the model hub does not give the model to this token",
        "accept the model's licence on its page, and set a token that may read it (LLMDBENCH_HF_TOKEN)";
    "model-unknown" &[Exit, Job, Log], &["the model hub has no", "RepositoryNotFoundError", "404 Client Error"], Patience::Restarts(1),
        "the model hub has no such model, or none for this token",
        "check the model's id, and whether the token may see it (LLMDBENCH_HF_TOKEN)";
    "disk-full" &[Exit, Job, Log], &["No space left on device"], Patience::Restarts(1),
        "the volume is full",
        "raise its size (LLMDBENCH_VLLM_COMMON_PVC_MODEL_CACHE_SIZE), or clear it";
    "out-of-memory" &[Exit, Job], &["OOMKilled"], Patience::Restarts(1),
        "the container used more memory than its limit; weights pass through it, and /dev/shm counts",
        "raise the memory (LLMDBENCH_VLLM_COMMON_CPU_MEM)";
    "gpu-memory" &[Exit, Job], &["No available memory for the cache blocks", "less than desired GPU memory utilization", "CUDA out of memory", "torch.OutOfMemoryError"], Patience::Restarts(1),
        "the GPU's memory is too small for the model, or in use by another process",
        "lower max_model_len, change gpu_mem_util, or use more GPUs for each replica";
    "flag-unknown" &[Exit, Job], &["unrecognized arguments", "unknown flag", "unknown shorthand flag", "flag provided but not defined"], Patience::Restarts(1),
        "the program in the image does not know an option",
        "leave it out, or use the version that has it; llm-d's routing sidecar dropped --connector in v0.10";
    "no-user" &[Exit, Job], &["getpwuid(): uid not found"], Patience::Restarts(1),
        "the pod's user has no name, which vLLM wants",
        "set the variable USER in the pod (env), as in USER=llm-d";
    "startup-probe" &[Probe], &["failed startup probe", "failed liveness probe"], Patience::Restarts(1),
        "the container is killed before it has started: the probe gives up too early",
        "raise failureThreshold or initialDelaySeconds of the probe (container_spec); guides of llm-d allow an hour";
    "probe-path" &[Probe], &["statuscode: 404", "statuscode: 401", "statuscode: 403"], LATER,
        "the probe asks for something that the server does not give",
        "check the path and port of the probe";
    "loading" &[Probe], &[], Patience::Endless,
        "the container runs and does not answer yet",
        "big models take minutes; its log says how far it is";
    "crash-loop" &[Exit], &[], Patience::Restarts(2),
        "the container ends by itself again and again",
        "its last lines say why";

    // Pods thrown out.
    "evicted" &[Pod], &["ephemeral", "Evicted", "low on resource"], SOON,
        "the node threw the pod out for the room that it took",
        "raise the limits, or the size of the volumes without a claim";
    "device" &[Pod], &["UnexpectedAdmissionError", "devices unavailable"], SOON,
        "the node has fewer working GPUs than it offers",
        "delete the pod, and look at the device plugin of the node";
    "pod-failed" &[Pod], &[], SOON,
        "the pod has failed",
        "look at `kubectl describe pod`";

    // Jobs.
    "job-deadline" &[Job], &["DeadlineExceeded"], Patience::For(Duration::ZERO),
        "the Job took too long",
        "raise its time (LLMDBENCH_VLLM_COMMON_PVC_DOWNLOAD_TIMEOUT)";
    "job-failed" &[Job], &[], Patience::For(Duration::ZERO),
        "the Job has failed for good",
        "its last lines say why";

    // Routers.
    "pool" &[Log], &["Pool is not initialized"], Patience::For(Duration::from_secs(45)),
        "the router does not find its InferencePool",
        "compare the pool's name with the router's --pool-name";
    "router-rights" &[Log], &["is forbidden: User"], Patience::For(Duration::from_secs(45)),
        "the router may not read what it needs",
        "install its chart anew; check its ClusterRole";
    "gateway" &[Route], &[], Patience::For(Duration::from_secs(50)),
        "the gateway or route is not accepted",
        "is the GatewayClass accepted, its controller there, and can it have an address? look at `kubectl describe`";

    // Answers of the API server and of helm.
    "kind-unknown" &[Request], &["no matches for kind", "ensure CRDs are installed first", "could not find the requested resource"], SOON,
        "the cluster lacks the definition of this kind",
        "install what defines it: the Gateway API inference extension for InferencePool, the Gateway API for HTTPRoute, the Prometheus operator for monitors (or turn monitoring off)";
    "release-locked" &[Request], &["cannot re-use a name that is still in use", "another operation (install/upgrade/rollback) is in progress", "has no deployed releases"], SOON,
        "an earlier installation of the release was interrupted",
        "uninstall the release (`helm uninstall`), or delete its Secret `sh.helm.release.v1.NAME...`";
    "release-foreign" &[Request], &["invalid ownership metadata"], SOON,
        "an object of the release belongs to another one",
        "use another name for the release, or remove that object";
    "terminating" &[Request], &["because it is being terminated", "is being deleted"], Patience::For(Duration::from_secs(60)),
        "what is there from before is still being removed",
        "wait until it is gone; what hangs has finalizers (`kubectl get -o yaml`)";
    "immutable" &[Request], &["field is immutable", "Forbidden: updates to", "is immutable after creation"], SOON,
        "what is there cannot be changed in this way",
        "delete it first";
    "resize" &[Request], &["pvc can be resized", "must support resize", "can not be less than previous value", "can not be less than status.capacity"], SOON,
        "the claim is there with another size, and volumes of its class cannot be resized",
        "ask for the size that it has (LLMDBENCH_VLLM_COMMON_PVC_MODEL_CACHE_SIZE, LLMDBENCH_FMPERF_PVC_SIZE), or name another claim";
    "forbidden" &[Request], &["is forbidden", "forbidden:", "cannot create resource", "unauthorized"], SOON,
        "this account may not do it",
        "log in as one that may, or have the right granted; `kubectl auth can-i --list` says what there is";
    "unreachable" &[Request], &["connection refused", "error trying to connect", "timed out", "no answer came", "no route to host", "dns error"], Patience::Endless,
        "the API server does not answer",
        "check the context (`kubectl cluster-info`) and the way to it";

    // Answers of the endpoint.
    "no-server" &[Answer], &["no healthy upstream", "no pods available in datastore"], Patience::Endless,
        "behind the gateway is no server that is ready",
        "compare the pool's selector with the labels of the pods";
    "wrong-port" &[Answer], &["upstream connect error", "connection refused"], Patience::Endless,
        "the gateway asks a port at which nobody listens",
        "compare the target port with the server's: 8000, or 8200 behind llm-d's sidecar";
    "no-route" &[Answer], &["fault filter abort", "404"], Patience::Endless,
        "the gateway has no route for this path",
        "check the HTTPRoute's path and what it points to";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_row_has_a_name_of_its_own_a_meaning_and_advice() {
        let mut ids = HashSet::new();
        for signal in SIGNALS {
            assert!(ids.insert(signal.id), "{} is there twice", signal.id);
            assert!(!signal.places.is_empty() && !signal.meaning.is_empty(), "{}", signal.id);
            assert!(!signal.advice.is_empty(), "{}", signal.id);
        }
    }

    #[test]
    fn no_row_hides_one_below_it() {
        for (index, signal) in SIGNALS.iter().enumerate() {
            for place in signal.places {
                if let Some(text) = signal.texts.first() {
                    assert_eq!(Signal::of(*place, text).unwrap().id, signal.id);
                }
                let above = &SIGNALS[..index];
                let hidden = above.iter().any(|s| s.places.contains(place) && s.texts.is_empty());
                assert!(!hidden, "{} is never reached at {place:?}", signal.id);
            }
        }
    }

    #[test]
    fn messages_of_clusters_mean_what_they_mean() {
        let check = |place, text: &str, id: &str| {
            assert_eq!(Signal::of(place, text).map(|signal| signal.id), Some(id), "{text}");
        };
        check(Pull, "failed to resolve reference \"h/x:1\": h/x:1: not found", "image-not-found");
        check(
            Pull,
            "pulling from host h failed with status code [manifests 1]: 401 Unauthorized",
            "image-refused",
        );
        check(
            Pull,
            "failed with status code [manifests 1]: 429 Too Many Requests",
            "image-limited",
        );
        check(Pull, "dial tcp: lookup ghcr.io: no such host", "image-unreachable");
        check(Container, "secret \"llm-d-hf-token\" not found", "secret-missing");
        check(Container, "couldn't find key HF_TOKEN in Secret ns/x", "secret-missing");
        check(
            Scheduling,
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
            "no-such-node",
        );
        check(Scheduling, "1 node(s) had untolerated taint {nvidia.com/gpu: }.", "taint");
        check(Volume, "storageclass.storage.k8s.io \"fast\" not found", "class-unknown");
        check(
            Creation,
            "pods \"x\" is forbidden: exceeded quota: q, requested: cpu=1, used: cpu=4, limited: cpu=4",
            "quota",
        );
        check(
            Creation,
            "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\"",
            "pod-security",
        );
        check(Request, "no matches for kind \"InferencePool\" in version \"v1\"", "kind-unknown");
        check(
            Request,
            "namespaces is forbidden: User \"a\" cannot create resource \"namespaces\"",
            "forbidden",
        );
        check(Exit, "OOMKilled, exit code 137", "out-of-memory");
        check(Exit, "huggingface_hub.errors.GatedRepoError: 401 Client Error", "gated");
        check(
            Probe,
            "Readiness probe failed: dial tcp 10.0.0.1:8000: connect: connection refused",
            "loading",
        );
        check(Probe, "Container vllm failed startup probe, will be restarted", "startup-probe");
        check(Answer, "no healthy upstream", "no-server");
        assert!(Signal::of(Request, "all is well").is_none());
    }
}
