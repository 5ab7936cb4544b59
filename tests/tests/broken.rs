//! What goes wrong in a real cluster, and what must not go wrong there: hopeless set-ups end soon and with the reason,
//! nothing of others is touched, nothing is left behind, and secrets stay where they belong.
//!
//! It needs the cluster of KUBECONFIG, and the image of LLMDBENCH_TEST_IMAGE, without which all is skipped.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

use acceptance::{Stand, until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::time::Duration;

/// A set-up that cannot come up.
struct Case {
    name: &'static str,
    /// What is different, in the backend's settings and in all others.
    settings: Value,
    others: Value,
    /// What somebody has put into the namespace.
    before: Vec<Value>,
    token: &'static str,
    step: &'static str,
    /// What is said: the subject's own words, the meaning, what to do.
    says: &'static [&'static str],
}

fn case(name: &'static str, settings: Value, says: &'static [&'static str]) -> Case {
    Case {
        name,
        settings,
        others: json!({}),
        before: Vec::new(),
        token: "hf_good",
        step: "6",
        says,
    }
}

fn cases() -> Vec<Case> {
    let container = |changes: Value| json!({"container_spec": changes});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "of-the-admin"}, "spec": {"hard": {"pods": "0"}}});
    vec![
        case(
            "image",
            json!({"image": "ghcr.io/llm-d/llm-d:v9.9.9"}),
            &[
                "llm-d:v9.9.9: not found",
                "the registry has no such image or tag",
                "check the image",
            ],
        ),
        Case {
            others: json!({"vllm": {"common": {"pvc_storage_class": "none-such"}}}),
            ..case(
                "class",
                json!({}),
                &["\"none-such\" not found", "no such class of volumes", "PVC_STORAGE_CLASS"],
            )
        },
        Case {
            before: vec![quota],
            ..case("quota", json!({}), &["exceeded quota: of-the-admin", "quota is used up"])
        },
        case(
            "definition",
            json!({"httproute": true}),
            &["does not know the kind `HTTPRoute`", "the Gateway API for HTTPRoute"],
        ),
        case(
            "label",
            json!({"affinity": "nvidia.com/gpu.product:None-Such"}),
            &["None-Such", "no node has the label", "kubectl get nodes --show-labels"],
        ),
        case(
            "gpu",
            json!({"gpu_nr": 64}),
            &["nvidia.com/gpu (requests 64)", "offers nvidia.com/gpu: 4", "so many accelerators"],
        ),
        Case {
            others: json!({"deploy": {"model": "gated/model"}}),
            token: "hf_stranger",
            step: "4",
            ..case(
                "token",
                json!({}),
                &[
                    "Access to model gated/model is restricted",
                    "does not give the model to this token",
                    "LLMDBENCH_HF_TOKEN",
                ],
            )
        },
        Case {
            others: json!({"deploy": {"model": "missing/model"}}),
            step: "4",
            ..case(
                "model",
                json!({}),
                &["the model hub has no `missing/model`", "no such model", "check the model's id"],
            )
        },
        case(
            "memory",
            container(json!({
                "args": ["head -c 200000000 /dev/zero | tail"],
                "resources": {"requests": {"memory": "32Mi"}, "limits": {"memory": "32Mi"}},
            })),
            &["OOMKilled", "more memory than its limit", "LLMDBENCH_VLLM_COMMON_CPU_MEM"],
        ),
        case(
            "probe",
            container(json!({"readinessProbe": {"httpGet": {"path": "/none", "port": 8000}}})),
            &["statuscode: 404", "the probe asks for something", "check the path"],
        ),
        // The name of a Service, as Kubernetes tells it to every pod.
        case(
            "service",
            json!({"env": {"VLLM_PORT": "tcp://10.96.0.20:8000"}}),
            &["appears to be a URI", "makes Kubernetes set VLLM_PORT", "enableServiceLinks"],
        ),
    ]
}

/// Stands it up until it fails, and takes it down. What is wrong with how that went.
fn try_out(case: &Case) -> Option<String> {
    let stand = Stand::new(case.name)?.env("LLMDBENCH_HF_TOKEN", case.token);
    let stand = match case.step {
        "4" => stand.with_hub()?,
        _ if case.name == "gpu" => stand.with_gpus()?,
        _ => stand,
    };
    stand.experiment(&case.settings, &case.others);
    if case.step == "6" {
        stand.standup("5").expect(0);
    }
    stand.put(case.before.clone());
    let ended = stand.standup(case.step);
    let mut wrong = Vec::new();
    if ended.code != 3 {
        wrong.push(format!("exit code {}", ended.code));
    }
    let missing = case.says.iter().filter(|text| !ended.stderr.contains(**text));
    wrong.extend(missing.map(|text| format!("nothing about `{text}`")));
    if ended.took > Duration::from_secs(60) {
        wrong.push(format!("it took {:?}", ended.took));
    }
    // What was applied is known, and goes.
    let run = stand.run();
    if stand.kinds().is_empty() || (case.step == "6" && stand.of_run(&run).is_empty()) {
        wrong.push("nothing is recorded".to_owned());
    }
    let down = stand.bench.run(&["teardown", "-d"]);
    let left = stand.of_run(&run);
    if down.code != 0 || !left.is_empty() || !stand.kinds().is_empty() && case.before.is_empty() {
        wrong.push(format!("left: {left:?}\n{}", down.stderr));
    }
    // What somebody else has there stays, and its namespace with it.
    if stand.has_namespace() == case.before.is_empty() {
        wrong.push(format!("the namespace is there: {}\n{}", stand.has_namespace(), down.stderr));
    }
    if !case.before.is_empty() && stand.get("v1", "ResourceQuota").len() != case.before.len() {
        wrong.push("an object of somebody else is gone".to_owned());
    }
    let told = format!("{}: {}\n{}", case.name, wrong.join("; "), ended.stderr);
    (!wrong.is_empty()).then_some(told)
}

#[test]
fn hopeless_set_ups_end_soon_with_the_reason_and_leave_nothing() {
    // More at a time would keep each other waiting on a node that is small.
    const AT_ONCE: usize = 4;
    let mut wrong: Vec<String> = Vec::new();
    for cases in cases().chunks(AT_ONCE) {
        wrong.extend(std::thread::scope(|scope| {
            let tries: Vec<_> = cases.iter().map(|case| scope.spawn(|| try_out(case))).collect();
            tries.into_iter().filter_map(|one| one.join().unwrap()).collect::<Vec<_>>()
        }));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n---\n"));
}

#[test]
fn single_steps_go_on_in_the_folder_of_others_and_what_was_seen_is_kept() {
    let stand = Stand::new("steps").and_then(Stand::with_hub).and_then(Stand::with_gpus);
    let Some(stand) = stand else { return };
    let stand = stand.env("LLMDBENCH_HF_TOKEN", "hf_good");
    stand.experiment(&json!({"gpu_nr": 1}), &json!({"deploy": {"model": "gated/model"}}));
    let ended = stand.standup("3-5").expect(0);
    let ended = ended.says("04_ensure_model_namespace_prepared: Prepare the namespace");
    ended.says("05_ensure_fmperf_namespace_prepared").says("1 object is as wanted");
    let ended = stand.standup("7").expect(0);
    assert!(ended.stdout.contains("the rest of them gives the target"), "{}", ended.stdout);
    stand.standup("6").expect(0).says("Deployment");
    let ended = stand.standup("08_smoketest").expect(0);
    let dns = format!("http://vllm-standalone-model.{}.svc.cluster.local", stand.namespace);
    ended.says("smoketest: pod ").says(&format!("smoketest: {dns} answers"));

    // The Service by its name from inside, by a pod that is gone.
    let checks = stand.bench.json("w/setup/smoketest.json")["checks"].clone();
    let asked = stand.asked("w");
    assert!(asked.len() == 2 && asked[0].0.starts_with("pod ") && asked[1].0 == dns, "{asked:?}");
    let by = format!("pod {}/smoketest-", stand.namespace);
    assert!(
        asked[1].1.starts_with(&by) && asked[1].1.ends_with(" inside the cluster"),
        "{asked:?}"
    );
    assert!(checks[1]["completion"]["url"].as_str().unwrap().starts_with(&dns), "{checks}");
    assert!(
        stand.get("batch/v1", "Job").iter().all(|job| job["metadata"]["name"] == "download-model")
    );
    for check in checks.as_array().unwrap() {
        assert_eq!(check["completion"]["status"], 200, "{check}");
        assert!(!check["completion"]["text"].as_str().unwrap().is_empty(), "{check}");
    }

    // The download, the server, what the cluster told of them, and where they ran.
    let pods = stand.bench.json("w/setup/pods.json")["pods"].clone();
    let pod = |start: &str| {
        let mut named = pods.as_array().unwrap().iter();
        named.find(|pod| pod["name"].as_str().unwrap().starts_with(start)).unwrap().clone()
    };
    let (download, server) = (pod("download-model-"), pod("vllm-standalone-"));
    let log = |pod: &Value| {
        let (name, container) = (&pod["name"], &pod["containers"][0]["name"]);
        let file =
            format!("w/setup/logs/{}_{}.log", name.as_str().unwrap(), container.as_str().unwrap());
        stand.bench.read(&file)
    };
    assert!(
        log(&download).contains("gated/model is in /cache/hub/models--gated--model/snapshots/")
    );
    assert!(log(&server).contains("simulated server: model gated/model"));
    assert!(server["containers"][0]["digest"].as_str().unwrap().contains("sha256:"), "{server}");
    let events = stand.bench.read("w/setup/events.json");
    assert!(events.contains("Successfully assigned") && events.contains("ScalingReplicaSet"));
    let cluster = stand.bench.json("w/environment/cluster.json");
    assert_eq!(cluster["nodes"][0]["labels"]["nvidia.com/gpu.product"], "Test-GPU");
    assert_eq!(cluster["nodes"][0]["allocatable"]["nvidia.com/gpu"], "4");
    assert_eq!(cluster["missing"], json!([]));
    let context = stand.bench.json("w/environment/context.ctx");
    assert_eq!(context["clusters"][0]["cluster"]["server"], cluster["server"]);
    assert_eq!(context["users"][0]["user"], json!({}));
    stand.bench.run(&["teardown", "-d"]).expect(0);
    assert!(!stand.has_namespace());
    // It is still known what was there.
    assert!(log(&server).contains("simulated server"));
}

#[test]
fn who_interrupts_a_bench_that_waits_has_nothing_of_it_left() {
    let Some(stand) = Stand::new("interrupt").and_then(Stand::with_hub) else { return };
    let stand = stand.env("LLMDBENCH_HF_TOKEN", "hf_good");
    stand.experiment(&json!({"container_spec": {"args": ["sleep 1000"]}}), &json!({}));
    let mut running = stand.bench.start(&["bench", "e.yaml", "--rate", "1", "--duration", "1s"]);
    running.wait_for("  Service ");
    let run = stand.run();
    assert!(!stand.of_run(&run).is_empty());
    running.signal(Signal::SIGINT);
    running.wait().expect(130).says("error: interrupted").says("teardown: Deployment");
    assert_eq!(stand.of_run(&run), []);
    stand.bench.run(&["teardown", "-d"]).expect(0);
    assert!(!stand.has_namespace());
}

#[test]
fn what_another_run_has_is_neither_taken_over_nor_torn_down() {
    let Some(one) = Stand::new("two") else { return };
    let one = one.env("LLMDBENCH_HF_TOKEN", "hf_good");
    let two = one.again().env("LLMDBENCH_HF_TOKEN", "hf_good");
    for stand in [&one, &two] {
        stand.experiment(&json!({}), &json!({}));
    }
    one.standup("5,6").expect(0);
    let ended = two.standup("5,6").expect(3);
    ended.says(&format!("is there already and belongs to the run `{}`", one.run()));
    assert_eq!(two.of_run(&two.run()), []);

    // The namespace and its volumes are prepared for both.
    let ended = two.bench.run(&["teardown", "-d"]).expect(0);
    ended.says(&format!("stays, for Service {}/", one.namespace)).says(&one.run());
    let has_all =
        || one.get("v1", "PersistentVolumeClaim").len() + one.get("apps/v1", "Deployment").len();
    assert_eq!(has_all(), 2);
    one.bench.run(&["smoketest"]).expect(0);

    let map = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}});
    // A command that was killed leaves what no inventory has.
    let run_of = |run: &str| json!({"llmdbench.io/run": run});
    one.put(vec![
        map("of-somebody", json!({})),
        map("of-the-run", run_of(&one.run())),
        map("prepared", json!({"llmdbench.io/prepared": "true"})),
    ]);
    let run = one.run();
    one.bench.run(&["teardown"]).expect(0);
    one.bench.run(&["teardown"]).expect(0);
    assert_eq!(one.of_run(&run), []);
    assert_eq!(has_all(), 1);
    // What was prepared goes, but for the namespace in which somebody has something.
    one.bench.run(&["teardown", "-d"]).expect(0).says("ConfigMap").says("belongs to somebody else");
    one.bench.run(&["teardown", "-d"]).expect(0);
    assert_eq!(has_all(), 0);
    let maps = one.get("v1", "ConfigMap");
    let maps: Vec<&str> = maps.iter().map(|m| m["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(maps, ["kube-root-ca.crt", "of-somebody"]);
}

#[test]
fn a_download_of_another_run_goes_on_and_one_that_has_ended_gives_way() {
    let Some(stand) = Stand::new("download").and_then(Stand::with_hub) else { return };
    let stand = stand.env("LLMDBENCH_HF_TOKEN", "hf_good");
    stand.experiment(&json!({}), &json!({}));
    stand.standup("5").expect(0);
    let job = |run: &str, command: &str| {
        let labels = json!({"llmdbench.io/run": run});
        json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {"name": "download-model", "labels": labels},
            "spec": {"template": {"spec": stand.pod("x", command)["spec"]}},
        })
    };
    let jobs = || stand.get("batch/v1", "Job");
    stand.put(vec![job("another-1", "until test -e /tmp/enough; do sleep 0.1; done")]);
    let first = jobs()[0]["metadata"]["uid"].clone();
    let ended = stand.standup("4").expect(3);
    let text = "download-model is there already and belongs to the run `another-1`";
    ended.says(text).says("it has not ended").says("take that run down first");
    assert_eq!(jobs()[0]["metadata"]["uid"], first);
    // What was prepared for it stays as well.
    let ended = stand.bench.run(&["teardown", "-d"]).expect(0);
    ended.says("stays, for Job ").says("another-1");

    let is_complete = |job: &Value| {
        let conditions = job["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|c| c["type"] == "Complete" && c["status"] == "True")
    };
    let mut pod = None;
    until("a pod that runs", || {
        let mut pods = stand.get("v1", "Pod").into_iter();
        pod = pods.find(|pod| pod["status"]["phase"] == "Running");
        pod.is_some()
    });
    let pod = pod.unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
    let _ = stand.exec(&pod, &["touch", "/tmp/enough"]);
    until("the end of the download", || is_complete(&jobs()[0]));
    stand.standup("4").expect(0).says("Job ");
    let own = jobs()[0].clone();
    assert_ne!(own["metadata"]["uid"], first);
    assert_eq!(own["metadata"]["labels"]["llmdbench.io/run"], *stand.run());

    // It goes with its run, and what it downloaded stays.
    let ended = stand.bench.run(&["teardown"]).expect(0).says("teardown: Job");
    assert!(!ended.stderr.contains("PersistentVolumeClaim"), "{}", ended.stderr);
    assert_eq!(jobs(), Vec::<Value>::new());
    assert_eq!(stand.get("v1", "PersistentVolumeClaim").len(), 1);
    stand.bench.run(&["teardown", "-d"]).expect(0);
    assert!(!stand.has_namespace());
}

#[test]
fn secrets_stand_in_the_secret_alone_and_the_harness_may_do_nothing() {
    const TOKEN: &str = "hf_of_the_user_0123456789";
    const KEY: &str = "sk-of-the-user-0123456789";
    let Some(stand) = Stand::new("secrets") else { return };
    let stand = stand.env("LLMDBENCH_HF_TOKEN", TOKEN).env("LLMDBENCH_API_KEY", KEY);
    // A server that tells everybody what it was given, the key as one that repeats its headers.
    let says = "echo $HUGGING_FACE_HUB_TOKEN; printf 'sk-of-the-%s\\n' user-0123456789; vllm serve org/model";
    let told = json!({"container_spec": {"args": [says]}});
    stand.experiment(&told, &json!({}));
    let ended = stand.bench.run(&["standup", "e.yaml", "-v", "-s", "5,6,8"]).expect(0);
    let secret = stand.get("v1", "Secret");
    assert_eq!(secret[0]["metadata"]["name"], "llm-d-hf-token");
    let inside = secret[0]["data"]["HF_TOKEN"].as_str().unwrap();
    let everything = stand.everything();
    assert!(everything.contains("vllm serve org/model"));
    let log = log_file(&stand);
    let kept = stand.bench.read(&log);
    assert!(kept.starts_with("(hidden)\n(hidden)\n"), "{kept}");
    let stands_nowhere = || {
        for file in stand.bench.files() {
            let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned();
            let found = [TOKEN, KEY, inside].into_iter().find(|hidden| text.contains(hidden));
            assert_eq!(found, None, "{}", file.display());
        }
    };
    stands_nowhere();
    for hidden in [TOKEN, KEY, inside] {
        assert!(!ended.output().contains(hidden), "{}", ended.output());
        assert!(!everything.contains(hidden), "an object holds {hidden}");
    }
    // A command that is not given the token reads it where it stands.
    std::fs::remove_file(stand.bench.path(&log)).unwrap();
    let token = ("LLMDBENCH_HF_TOKEN", "");
    stand.bench.run_with(&[token], &["standup", "e.yaml", "-s", "8"]).expect(0);
    assert!(stand.bench.read(&log).starts_with("(hidden)\n(hidden)\n"));
    stands_nowhere();

    let may = |verb, group, resource| stand.may("fmperf-runner", verb, group, resource);
    for verb in ["get", "list", "watch", "create", "update", "patch", "delete"] {
        for resource in ["secrets", "configmaps", "pods", "pods/exec", "pods/log", "services"] {
            assert!(!may(verb, "", resource), "{verb} {resource}");
        }
        assert!(!may(verb, "apps", "deployments") && !may(verb, "batch", "jobs"), "{verb}");
        assert!(!may(verb, "", "nodes") && !may(verb, "", "namespaces"), "{verb}");
        let group = "rbac.authorization.k8s.io";
        assert!(!may(verb, group, "roles") && !may(verb, group, "rolebindings"), "{verb}");
    }
    let accounts = stand.get("v1", "ServiceAccount");
    let own = accounts.iter().find(|a| a["metadata"]["name"] == "fmperf-runner").unwrap();
    assert_eq!(own["automountServiceAccountToken"], false);
    // The key stands nowhere: a command that is not given it undoes nothing of what was hidden.
    let kept = stand.bench.read(&log);
    let neither = [token, ("LLMDBENCH_API_KEY", "")];
    let ended = stand.bench.run_with(&neither, &["teardown", "-d"]).expect(0);
    drop(ended.says("`target.api_key` (LLMDBENCH_API_KEY), which this command is not given"));
    assert_eq!(stand.bench.read(&log), kept);
    stands_nowhere();
}

/// The log of the only server.
fn log_file(stand: &Stand) -> String {
    let files = stand.bench.files();
    let is_log = |path: &&std::path::PathBuf| {
        path.extension().is_some_and(|end| end == "log")
            && path.to_string_lossy().contains("/setup/logs/vllm-")
    };
    let name =
        files.iter().find(is_log).unwrap().file_name().unwrap().to_string_lossy().into_owned();
    format!("w/setup/logs/{name}")
}
