//! Dry runs of the original's scenarios, without a cluster, a token or a network.

use acceptance::Bench;
use serde_json::Value;

/// A YAML file of the run folder as JSON.
fn yaml(bench: &Bench, file: &str) -> Value {
    use saphyr::{LoadableYamlNode, Scalar, Yaml};
    fn value(node: &Yaml<'_>) -> Value {
        match node {
            Yaml::Value(Scalar::Null) => Value::Null,
            Yaml::Value(Scalar::Boolean(b)) => Value::Bool(*b),
            Yaml::Value(Scalar::Integer(n)) => Value::from(*n),
            Yaml::Value(Scalar::FloatingPoint(f)) => Value::from(f.into_inner()),
            Yaml::Value(Scalar::String(text)) => Value::from(text.to_string()),
            Yaml::Sequence(items) => items.iter().map(value).collect(),
            Yaml::Mapping(entries) => {
                let name = |key: &Yaml<'_>| match value(key) {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                entries.iter().map(|(key, v)| (name(key), value(v))).collect()
            }
            other => panic!("{other:?}"),
        }
    }
    let text = bench.read(&format!("w/setup/yamls/{file}"));
    value(&Yaml::load_from_str(&text).unwrap()[0])
}

/// The commands that a dry run kept, in their order.
fn commands(bench: &Bench) -> Vec<String> {
    let mut files = bench.files();
    files.retain(|path| path.to_string_lossy().ends_with("_command.log"));
    files.iter().map(|path| std::fs::read_to_string(path).unwrap().trim().to_owned()).collect()
}

fn yamls(bench: &Bench) -> Vec<String> {
    let name = |path: &std::path::PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let files = bench.files();
    files.iter().filter(|path| path.to_string_lossy().contains("/setup/yamls/")).map(name).collect()
}

/// Scenario, files of steps 06 and 07, alias, id, node label, storage class, OpenShift.
type Case = (
    &'static str,
    &'static [&'static str],
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    bool,
);

const LLAMA_8B: &str = "meta-llama/Llama-3.1-8B-Instruct";
const LLAMA_70B: &str = "meta-llama/Llama-3.1-70B-Instruct";
const DEPLOYER: &[&str] = &["02_kgateway_values.yaml", "07_deployer_values.yaml"];

const CASES: [Case; 6] = [
    (
        "kubernetes_H200_deployer_llama-8b",
        DEPLOYER,
        "llama-8b",
        LLAMA_8B,
        "H200",
        "shared-vast",
        false,
    ),
    (
        "ocp_H100MIG_deployer_llama-3b",
        DEPLOYER,
        "llama-3b",
        "meta-llama/Llama-3.2-3B-Instruct",
        "NVIDIA-H100-80GB-HBM3-MIG-3g.40gb",
        "nfs-client-pokprod",
        true,
    ),
    (
        "ocp_H100MIG_deployer_llama-8b",
        DEPLOYER,
        "llama-8b",
        LLAMA_8B,
        "NVIDIA-H100-80GB-HBM3-MIG-3g.40gb",
        "nfs-client-pokprod",
        true,
    ),
    (
        "ocp_H100_deployer_llama-70b",
        DEPLOYER,
        "llama-70b",
        LLAMA_70B,
        "NVIDIA-H100-80GB-HBM3",
        "nfs-client-pokprod",
        true,
    ),
    (
        "ocp_H100_standalone_llama-70b",
        &[
            "06_a_deployment_llama-70b.yaml",
            "06_b_service_llama-70b.yaml",
            "06_d_route_llama-70b.yaml",
        ],
        "llama-70b",
        LLAMA_70B,
        "NVIDIA-H100-80GB-HBM3",
        "nfs-client-pokprod",
        true,
    ),
    (
        "ocp_L40_standalone_llama-8b",
        &[
            "06_a_deployment_llama-8b.yaml",
            "06_b_service_llama-8b.yaml",
            "06_d_route_llama-8b.yaml",
        ],
        "llama-8b",
        LLAMA_8B,
        "NVIDIA-L40S",
        "nfs-client-pokprod",
        true,
    ),
];

#[test]
fn every_scenario_writes_its_files_and_names_its_commands() {
    for (scenario, own, alias, id, node, class, is_openshift) in CASES {
        let bench = Bench::new();
        let ended = bench.run(&["standup", "-n", "-c", scenario]).expect(0);
        let mut expected: Vec<String> = own.iter().map(|name| (*name).to_owned()).collect();
        expected.push(format!("04_prepare_namespace_{alias}.yaml"));
        expected.push("05_namespace_sa_rbac_secret.yaml".to_owned());
        expected.push(format!("04_start_download_{alias}.yaml"));
        if is_openshift {
            expected.push("03_cluster-monitoring-config_configmap.yaml".to_owned());
            if own == DEPLOYER {
                expected.push("07_route.yaml".to_owned());
            }
        }
        expected.sort();
        assert_eq!(yamls(&bench), expected, "{scenario}");
        let prepared = bench.read(&format!("w/setup/yamls/04_prepare_namespace_{alias}.yaml"));
        assert!(prepared.contains(&format!("storageClassName: \"{class}\"")), "{scenario}");
        let expressions = |at: &Value| {
            at["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0]
                ["matchExpressions"][0]["values"][0]
                .clone()
        };
        if own == DEPLOYER {
            let values = yaml(&bench, "07_deployer_values.yaml");
            let model = &values["sampleApplication"]["model"];
            assert_eq!(model["modelName"], id);
            assert_eq!(model["modelArtifactURI"], format!("pvc://model-pvc/models/{id}"));
            for role in ["prefill", "decode"] {
                assert_eq!(expressions(&values["modelservice"][role]["affinity"]), node);
                assert_eq!(values["sampleApplication"][role]["replicas"], 1);
            }
            let variables = values["modelservice"]["epp"]["defaultEnvVars"].as_array().unwrap();
            assert_eq!(variables.len(), 20);
            let weight =
                variables.iter().find(|v| v["name"] == "PREFIX_AWARE_SCORER_WEIGHT").unwrap();
            // The scenarios set it by its old name.
            let expected = if scenario.contains("MIG_deployer_llama-3b") { "2" } else { "2.0" };
            assert_eq!(weight["value"], expected, "{scenario}");
        } else {
            let deployment = yaml(&bench, &format!("06_a_deployment_{alias}.yaml"));
            let pod = &deployment["spec"]["template"]["spec"];
            assert_eq!(expressions(&pod["affinity"]), node);
            let command = pod["containers"][0]["args"][0].as_str().unwrap();
            assert!(command.starts_with(&format!("vllm serve {id} --port 8000")), "{command}");
            let large = alias == "llama-70b";
            assert_eq!(deployment["spec"]["replicas"], if large { 2 } else { 1 });
            let length = if large { "--max-model-len 10000" } else { "--max-model-len 16384" };
            assert!(command.contains(length), "{command}");
            let limits = &pod["containers"][0]["resources"]["limits"];
            assert_eq!(limits["memory"], if large { "100Gi" } else { "40Gi" });
        }
        // What is printed is what is kept.
        let kept = commands(&bench);
        assert!(kept.len() >= 9, "{kept:?}");
        for command in &kept {
            assert!(command.starts_with("---> would have executed the command \""), "{command}");
            assert!(
                ended.stdout.contains(command.as_str()),
                "{command} is not in\n{}",
                ended.stdout
            );
        }
        let run = bench.json("w/plan.json")["run"].as_str().unwrap().to_owned();
        let kept = kept.join("\n").replace(&run, "RUN");
        insta::assert_snapshot!(format!("commands_{scenario}"), kept);
        let texts: Vec<String> = yamls(&bench)
            .iter()
            .map(|file| format!("# {file}\n{}", bench.read(&format!("w/setup/yamls/{file}"))))
            .collect();
        insta::assert_snapshot!(format!("yamls_{scenario}"), texts.join("\n"));
        let variables = bench.read("w/environment/variables");
        assert!(
            variables.contains(&format!("LLMDBENCH_DEPLOY_MODEL_LIST={alias}\n")),
            "{variables}"
        );
        assert!(variables.lines().all(|line| line.starts_with("LLMDBENCH_")), "{variables}");
    }
}

#[test]
fn methods_and_models_can_be_others_and_several() {
    let bench = Bench::new();
    let id = "Qwen/Qwen2.5-0.5B-Instruct";
    let scenario = ["standup", "-n", "-c", "ocp_H100_deployer_llama-70b"];
    // An alias and its id are one model.
    let models = format!("llama-8b,{id},{LLAMA_8B}");
    bench.run(&[&scenario[..], &["-t", "standalone", "-m", &models]].concat()).expect(0);
    let of_step = |n: &str| -> Vec<String> {
        yamls(&bench).into_iter().filter(|file| file.starts_with(n)).collect()
    };
    let files = |kind: &str| {
        [format!("{kind}_Qwen___Qwen2.5-0.5B-Instruct.yaml"), format!("{kind}_llama-8b.yaml")]
    };
    assert_eq!(of_step("04_prepare"), files("04_prepare_namespace"));
    assert_eq!(of_step("04_start_download"), files("04_start_download"));
    assert_eq!(of_step("06_a"), files("06_a_deployment"));
    let deployment = yaml(&bench, "06_a_deployment_Qwen___Qwen2.5-0.5B-Instruct.yaml");
    assert_eq!(deployment["metadata"]["name"], "vllm-standalone-0-5b-vllm-qwen2-5-0-5b-instruct");

    let both = Bench::new();
    both.run(&[&scenario[..], &["-t", "standalone,deployer", "-m", id]].concat()).expect(0);
    let files = yamls(&both);
    for file in ["06_a_deployment_Qwen___Qwen2.5-0.5B-Instruct.yaml", "07_deployer_values.yaml"] {
        assert!(files.iter().any(|other| other == file), "no {file} in {files:?}");
    }

    // Methods with steps of different names stand beside each other.
    let three = Bench::new();
    three.run(&["standup", "-n", "-t", "standalone,modelservice", "-m", id]).expect(0);
    let of_step_7 = yamls(&three).into_iter().filter(|file| file.starts_with("07_"));
    let files = [
        "07_qwen-qwe-bdf637fc-instruct-ms_values.yaml",
        "07_qwen-qwe-bdf637fc-instruct-router_values.yaml",
    ];
    assert_eq!(of_step_7.collect::<Vec<_>>(), files);

    // So does the example.
    let example = Bench::new();
    example.run(&["bench", "-n", "kubernetes-stacks"]).expect(0);
    let files = yamls(&example);
    let names = ["06_a_deployment_llama-8b.yaml", "07_meta-lla-f1a1d196-instruct-ms_values.yaml"];
    assert!(names.iter().all(|name| files.iter().any(|file| file == name)), "{files:?}");
    Bench::new().run(&["bench", "-n", "kubernetes"]).expect(0).says("run folder: w");

    // What two models would take from each other is refused.
    let clash = |method: &str, models: &str, what: &str| {
        let args = [&scenario[..], &["-t", method, "-m", models]].concat();
        bench.run(&args).expect(2).says(what);
    };
    clash("deployer", "llama-3b,llama-8b", "both want the release `llm-d`");
    // Not so where each gets a run of its own, one after the other.
    let own =
        ["bench", "-t", "deployer", "-m", "llama-3b,llama-8b", "--rate", "1", "--duration", "1s"];
    let ended = bench.run(&own).expect(2).says("stack 2 of 2: deployer-llama-8b");
    assert!(!ended.output().contains("both want"), "{}", ended.output());
    let alike = "Qwen/Qwen2.5-7B-Instruct,Qwen/Qwen2.5-7B-Instruct-AWQ";
    clash(
        "standalone",
        alike,
        "both want the Deployment `vllm-standalone-7b-vllm-qwen2-5-7b-instruct`",
    );
}

#[test]
fn names_that_lead_elsewhere_are_refused_before_anything_is_written() {
    let check = |variable: &str, value: &str, said: &str| {
        let bench = Bench::new().env(variable, value);
        bench.run(&["standup", "-n", "-t", "standalone"]).expect(2).says(said);
        assert!(!bench.path("w").exists());
    };
    check(
        "LLMDBENCH_FMPERF_PVC_NAME",
        "/../../../evil",
        "LLMDBENCH_FMPERF_PVC_NAME: `fmperf.pvc_name`",
    );
    check("LLMDBENCH_VLLM_COMMON_NAMESPACE", "Foo Bar", "is no name that Kubernetes takes");
    check("LLMDBENCH_DEPLOY_MODEL_LIST", "a;touch x", "`a;touch x` is no id of a model");
}

#[test]
fn a_setting_of_the_backend_stands_above_the_variable_that_it_follows() {
    let bench = Bench::new().env("LLMDBENCH_VLLM_COMMON_REPLICAS", "5");
    let replicas = |experiment: &str| {
        bench.write("e.yaml", experiment);
        bench.run(&["standup", "-n", "e.yaml"]).expect(0);
        yaml(&bench, "06_a_deployment_llama-3b.yaml")["spec"]["replicas"].clone()
    };
    assert_eq!(replicas("deploy: {method: standalone}\n"), 5);
    assert_eq!(replicas("deploy: {method: standalone, settings: {replicas: 2}}\n"), 2);
    assert_eq!(replicas("deploy: {method: standalone}\nvllm: {common: {replicas: 4}}\n"), 4);
    let by_method = |method: &str, own: &str| {
        replicas(&format!(
            "deploy: {{method: standalone, settings: {{replicas: 2}}, settings_by_method: {{{method}: {own}}}}}\n"
        ))
    };
    assert_eq!(by_method("standalone", "{replicas: 3}"), 3);
    assert_eq!(by_method("deployer", "{decode_replicas: 3}"), 2);
    bench.write("e.yaml", "deploy: {method: standalone}\nvllm: {common: {affinity: gpu}}\n");
    let ended = bench.run(&["standup", "-n", "e.yaml"]).expect(2);
    assert!(ended.stderr.contains("is no node label"), "{}", ended.stderr);
}

#[test]
fn a_values_file_is_taken_as_it_is() {
    let bench = Bench::new().env("LLMDBENCH_VLLM_DEPLOYER_VALUES_FILE", "mine.yaml");
    bench.write("mine.yaml", "my: {own: values}\n");
    bench.run(&["standup", "-n"]).expect(0);
    assert_eq!(bench.read("w/setup/yamls/07_deployer_values.yaml"), "my: {own: values}\n");
    bench.write("mine.yaml", "a: [\n");
    bench.run(&["standup", "-n"]).expect(2).says("`07_deployer_values.yaml` is no YAML");
    std::fs::remove_file(bench.path("mine.yaml")).unwrap();
    bench.run(&["standup", "-n"]).expect(2).says("there is no file `mine.yaml`");
}

#[test]
fn parts_of_llm_d_that_do_not_fit_each_other_are_refused_where_they_are_set() {
    let bench = Bench::new();
    let check = |settings: &str, said: &[&str]| {
        bench.write("e.yaml", format!("deploy:\n  method: modelservice\n  settings:\n{settings}"));
        let ended = bench.run(&["standup", "-n", "e.yaml"]).expect(2);
        for text in said {
            assert!(ended.stderr.contains(text), "no {text} in {}", ended.stderr);
        }
        assert!(!bench.path("w").exists());
    };
    let image = "    sidecar_image: ghcr.io/llm-d/llm-d-router-disagg-sidecar:v0.10.0\n";
    check(image, &["e.yaml:4:5", "the sidecar v0.10.0 does not know `--connector`", "later chart"]);
    let labels = "    labels:\n      llm-d.ai/model: mine\n";
    check(
        labels,
        &["the router looks for servers with llm-d.ai/model=", "they have llm-d.ai/model=mine"],
    );
}

#[test]
fn steps_are_selected_in_every_form_and_unknown_ones_refused() {
    let bench = Bench::new();
    let check = |selection: &str, expected: &[&str]| {
        let ended = bench.run(&["standup", "-n", "-t", "standalone", "-s", selection]).expect(0);
        let steps: Vec<&str> = ended
            .stdout
            .lines()
            .filter_map(|line| line.strip_prefix("  ")?.split(':').next())
            .filter(|line| line.starts_with('0'))
            .map(|line| &line[..2])
            .collect();
        assert_eq!(steps, expected, "{selection}");
    };
    check("3", &["03"]);
    check("08_smoketest.sh", &["08"]);
    check("05_ensure", &["05"]);
    check("3-5", &["03", "04", "05"]);
    check("0,3-5", &["00", "03", "04", "05"]);
    check("7,6", &["06", "07"]);
    for (unknown, near) in [("9", "there is no step `9`"), ("08_smoketets", "08_smoketest")] {
        let ended = bench.run(&["standup", "-n", "-t", "standalone", "-s", unknown]).expect(2);
        assert!(ended.stderr.contains(near), "{}", ended.stderr);
    }
}

#[test]
fn what_a_teardown_would_do_is_shown_the_last_thing_first() {
    let bench = Bench::new();
    let commands = |args: &[&str]| {
        let ended = bench.run(&[&["teardown", "-n", "-t", "deployer"], args].concat()).expect(0);
        ended.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let plain = commands(&[]);
    assert_eq!(
        plain,
        [
            "---> would have executed the command \"helm uninstall llm-d --namespace llmdbench --ignore-not-found --wait --cascade foreground --timeout 300s\"",
            "---> would have executed the command \"kubectl delete --ignore-not-found --filename setup/yamls/04_start_download_llama-3b.yaml\"",
        ]
    );
    let deep = commands(&["-d"]);
    assert_eq!(deep[0], plain[0]);
    for text in [
        "05_namespace_sa_rbac_secret.yaml",
        "04_prepare_namespace_llama-3b.yaml",
        "delete secret llm-d-hf-token",
    ] {
        assert!(deep.iter().any(|command| command.contains(text)), "no {text} in {deep:?}");
    }
    assert!(deep.iter().all(|command| !command.contains("kgateway")), "{deep:?}");
}

#[test]
fn what_needs_a_token_or_a_cluster_says_so_before_anything_is_done() {
    let bench = Bench::new();
    let ended = bench.run(&["standup", "-t", "standalone"]).expect(2);
    let ended = ended.says("04_ensure_model_namespace_prepared needs the secret `hf-token`");
    let ended = ended.says("LLMDBENCH_HF_TOKEN");
    assert!(ended.stdout.is_empty(), "{}", ended.stdout);
    let bench = Bench::new().env("LLMDBENCH_CONTROL_HCMD", "/there/is/no/helm");
    let ended = bench.run(&["standup", "-t", "deployer", "-s", "7"]).expect(2);
    ended
        .says("helm is missing: the program `/there/is/no/helm` cannot be run")
        .says("3.13 or newer");
    assert!(!bench.path("w").exists());
    let bench = Bench::new().env("LLMDBENCH_HF_TOKEN", "hf_secret_of_the_user");
    let nowhere = [("KUBECONFIG", "/there/is/no/kubeconfig")];
    let whole = ["bench", "-t", "standalone", "--rate", "1", "--duration", "1s", "--workdir", "b"];
    let ended = bench.run_with(&nowhere, &whole).expect(3);
    ended.says("failed to connect to the cluster").says("-n needs no cluster");
    let shared = [&whole[..], &["-j", "2", "--load-from", "here"]].concat();
    bench.run(&shared).expect(2).says("2 agents share a load in a cluster only");
    bench.run(&["standup", "-n", "-t", "standalone"]).expect(0);
    for path in bench.files() {
        let text = std::fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&text);
        assert!(!text.contains("hf_secret_of_the_user"), "{}", path.display());
        // A token that ends with a line break would be another one.
        assert!(!text.contains("aGZfc2VjcmV0"), "{}", path.display());
    }
}
