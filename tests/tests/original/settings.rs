//! Variables, scenario files, and the options in every spelling.

use acceptance::Bench;
use serde_json::Value;

/// Value and source of a setting.
fn setting(bench: &Bench, args: &[&str], path: &str) -> (String, String) {
    let args = [&["--output", "json", "env"], args].concat();
    let ended = bench.run(&args).expect(0);
    let all: Value = serde_json::from_str(&ended.stdout).unwrap();
    let found = all.as_array().unwrap().iter().find(|s| s["path"] == path).unwrap();
    let value = &found["value"];
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    (text, found["source"].as_str().unwrap().to_owned())
}

const SCENARIO: &str =
    "export LLMDBENCH_DEPLOY_MODEL_LIST=from-scenario\nexport LLMDBENCH_VLLM_COMMON_REPLICAS=3";

#[test]
fn flag_over_experiment_over_scenario_over_environment_over_default() {
    let check = |bench: &Bench, args: &[&str], value: &str, source: &str| {
        let found = setting(bench, args, "deploy.model");
        assert_eq!(found, (value.to_owned(), source.to_owned()), "{args:?}");
    };
    let plain = Bench::new();
    check(&plain, &[], "llama-3b", "default");
    let bench = Bench::new().env("LLMDBENCH_DEPLOY_MODEL_LIST", "from-environment");
    bench.write("scenarios/mine.sh", SCENARIO);
    bench.write("e.yaml", "deploy: {model: from-experiment}\n");
    check(&bench, &[], "from-environment", "environment");
    check(&bench, &["-c", "mine"], "from-scenario", "scenario");
    check(&bench, &["e.yaml", "-c", "mine"], "from-experiment", "experiment");
    check(&bench, &["e.yaml", "-c", "mine", "-m", "from-flag"], "from-flag", "flag");
}

#[test]
fn scenarios_are_found_by_name_by_path_and_not_at_all() {
    let bench = Bench::new();
    bench.write("scenarios/mine.sh", SCENARIO);
    bench.write("elsewhere/other.sh", SCENARIO);
    bench.write("scenarios/plain.yaml", "vllm: {common: {replicas: 3}}\n");
    for name in ["mine", "mine.sh", "scenarios/mine.sh", "elsewhere/other.sh", "plain"] {
        let found = setting(&bench, &["-c", name], "vllm.common.replicas");
        assert_eq!(found, ("3".to_owned(), "scenario".to_owned()), "{name}");
    }
    let built_in = setting(&bench, &["-c", "ocp_L40_standalone_llama-8b"], "deploy.method");
    assert_eq!(built_in.0, "standalone");
    let none = Bench::new().env("LLMDBENCH_DEPLOY_SCENARIO", "ocp_L40_standalone_llama-8b");
    assert_eq!(setting(&none, &[], "deploy.method").0, "standalone");
    assert_eq!(setting(&none, &["-c", "none"], "deploy.method").0, "deployer");
    let ended = bench.run(&["env", "-c", "ocp_L40_standalone_lama-8b"]).expect(2);
    ended.says("did you mean `ocp_L40_standalone_llama-8b`?");
    let ended = bench.run(&["env", "-c", "mien"]).expect(2);
    ended.says("did you mean `mine`?").says("those in scenarios/ are mine, plain");
}

#[test]
fn a_scenario_names_no_other_one_and_a_list_of_methods_is_not_empty() {
    let bench = Bench::new();
    bench.write("scenarios/chain.sh", "export LLMDBENCH_DEPLOY_SCENARIO=ocp_other\n");
    bench.write("scenarios/chain2.yaml", "scenario: ocp_other\n");
    for (name, place) in [("chain", "chain.sh:1:8"), ("chain2", "chain2.yaml:1:1")] {
        let ended = bench.run(&["env", "-c", name]).expect(2);
        ended.says(&format!("scenarios/{place}: a scenario cannot name another one"));
    }
    bench.write("scenarios/empty.sh", "export LLMDBENCH_DEPLOY_METHODS=\n");
    for args in [&["-t", ","][..], &["-c", "empty"]] {
        let ended = bench.run(&[&["standup", "-n"], args].concat()).expect(2);
        ended.says("`deploy.method` names no method");
    }
}

#[test]
fn scenario_files_are_never_executed() {
    let bench = Bench::new();
    bench.write(
        "scenarios/evil.sh",
        "export LLMDBENCH_SEED=1\nexport LLMDBENCH_NAME=$(touch hacked)\n",
    );
    let ended = bench.run(&["env", "-c", "evil"]).expect(2);
    ended.says("scenarios/evil.sh:2:23: `$` stands for what a shell would put in");
    assert!(!bench.path("hacked").exists());
}

#[test]
fn unknown_names_get_the_nearest_one_and_old_names_a_notice() {
    let bench = Bench::new()
        .env("LLMDBENCH_VLLM_COMMON_REPLICA", "2")
        .env("LLMDBENCH_CLUSTER_HOST", "https://api.lab")
        .env("LLMDBENCH_VLLM_COMMON_ACCELERATOR_NR", "4")
        .env("LLMDBENCH_FMPERF_CONDA_ENV_NAME", "x");
    let ended = bench.run(&["env"]).expect(0);
    for text in [
        "LLMDBENCH_VLLM_COMMON_REPLICA is not known and does nothing; the nearest name is LLMDBENCH_VLLM_COMMON_REPLICAS",
        "LLMDBENCH_CLUSTER_HOST is called LLMDBENCH_CLUSTER_URL now",
        "LLMDBENCH_FMPERF_CONDA_ENV_NAME does nothing. The analysis needs no Python.",
    ] {
        assert!(ended.stderr.contains(text), "no `{text}` in\n{}", ended.stderr);
    }
    assert_eq!(setting(&bench, &[], "cluster.url").0, "https://api.lab");
    assert_eq!(setting(&bench, &[], "vllm.common.gpu_nr").0, "4");
    let both = Bench::new()
        .env("LLMDBENCH_CLUSTER_URL", "https://new")
        .env("LLMDBENCH_CLUSTER_HOST", "https://old");
    assert_eq!(setting(&both, &[], "cluster.url").0, "https://new");
}

#[test]
fn scenarios_are_listed_and_shown() {
    let bench = Bench::new();
    bench.write("scenarios/mine.sh", SCENARIO);
    let list = bench.run(&["scenario", "list"]).expect(0).stdout;
    for text in [
        "mine ",
        "scenarios/  from-scenario, 1 other setting",
        "kubernetes_H200_deployer_llama-8b",
        "deployer, llama-8b, 8 other settings",
    ] {
        assert!(list.contains(text), "no `{text}` in\n{list}");
    }
    let list = bench.run(&["--output", "json", "scenario", "list"]).expect(0).stdout;
    let list: Value = serde_json::from_str(&list).unwrap();
    let mine = list.as_array().unwrap().iter().find(|found| found["name"] == "mine").unwrap();
    assert_eq!(mine["sets"]["vllm.common.replicas"], 3);
    let shown = bench.run(&["scenario", "show", "ocp_H100_deployer_llama-70b"]).expect(0);
    let shown = shown.says("LLMDBENCH_VLLM_P2P_LMCACHE_MAX_LOCAL_CPU_SIZE does nothing");
    for text in [
        "deploy.model = llama-70b [LLMDBENCH_DEPLOY_MODEL_LIST]",
        "vllm.deployer.epp_prefix_aware_scorer_weight = 2.0",
        "vllm.common.cpu_mem = 100Gi",
    ] {
        assert!(shown.stdout.contains(text), "no `{text}` in\n{}", shown.stdout);
    }
}

#[test]
fn options_are_taken_in_every_spelling() {
    let bench = Bench::new();
    for model in
        [&["-m", "x"][..], &["--model", "x"], &["--models", "x"], &["--models=x"], &["-m=x"]]
    {
        for command in ["standup", "run", "teardown"] {
            for method in [
                &["-t", "local"][..],
                &["--methods", "local"],
                &["--types=local"],
                &["--method", "local"],
            ] {
                let endpoint: &[&str] =
                    if command == "run" { &["--rate", "1", "--requests", "1"] } else { &[] };
                let args = [&[command, "-n"], model, method, endpoint].concat();
                let ended = bench.run(&args).expect(0);
                if command != "teardown" {
                    assert!(ended.stdout.contains("local "), "{args:?}\n{}", ended.stdout);
                }
            }
        }
    }
    bench.run(&["standup", "--modles", "x"]).expect(2).says("--model");
}

#[test]
fn the_scripts_names_are_the_commands() {
    let bench = Bench::new();
    let help = bench.run_as("run.sh", &["-h"]).expect(0);
    assert!(help.stdout.contains("Usage: llmdbench run [OPTIONS]"), "{}", help.stdout);
    let standup = bench.run_as("setup/standup.sh", &["-n", "-t", "local", "-m", "x"]).expect(0);
    assert!(standup.stdout.contains("06_start_local_server"), "{}", standup.stdout);
    let teardown = bench.run_as("setup/teardown.sh", &["-n", "-t", "standalone"]).expect(0);
    assert!(teardown.stdout.contains("kubectl delete"), "{}", teardown.stdout);
    // Without being told how, run.sh made the load of a profile.
    let run = bench.run_as("run.sh", &["-n", "-t", "local", "-m", "x"]).expect(0);
    assert!(run.stdout.contains("short-input-qps-0.5: as recorded, until 100s"), "{}", run.stdout);
    let typed =
        bench.run_as("run.sh", &["-n", "-t", "local", "-m", "x", "--rate", "3", "--requests", "2"]);
    assert!(typed.expect(0).stdout.contains("rate-3: constant, 3/s"));
    // A profile that lies in the environment does not stand above load that was typed.
    let bench = bench.env("LLMDBENCH_FMPERF_EXPERIMENT_PROFILE", "sanity_sharegpt.yaml");
    let profile = bench.run(&["run", "-n", "-t", "local", "-m", "x"]).expect(0);
    assert!(profile.stdout.contains("sharegpt-qps-1.34"), "{}", profile.stdout);
    let typed =
        bench.run(&["run", "-n", "-t", "local", "-m", "x", "--rate", "3", "--requests", "2"]);
    assert!(typed.expect(0).stdout.contains("rate-3: constant, 3/s"));
    let bench = Bench::new();
    let other = bench.run(&["run", "-n", "-t", "local", "-m", "x"]).expect(2);
    assert!(other.stderr.contains("say how load is made"), "{}", other.stderr);
}

#[test]
fn the_help_of_standup_lists_the_steps() {
    let bench = Bench::new();
    for flag in ["-h", "--help"] {
        let help = bench.run(&["standup", flag]).expect(0).stdout;
        for step in [
            "00_ensure_llm-d-deployer",
            "01_ensure_local_conda",
            "02_ensure_gateway_provider",
            "03_ensure_user_workload_monitoring_configuration",
            "04_ensure_model_namespace_prepared",
            "05_ensure_fmperf_namespace_prepared",
            "06_deploy_vllm_standalone_models",
            "07_invoke_llm-d-deployer",
            "08_smoketest",
        ] {
            assert!(help.contains(step), "no {step} in\n{help}");
        }
    }
}
