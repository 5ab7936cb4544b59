//! Faults of the user: one error each, with its place, its path and the nearest right name.

use acceptance::Bench;
use insta::assert_snapshot;

/// An experiment that lacks nothing.
const GOOD: &str = "deploy: {endpoint: 'http://127.0.0.1:9', model: m}\n\
                    harness: {settings: {stages: [{concurrency: 1, requests: 1}]}}\n";

/// Options of a run that lacks nothing.
const RUN: [&str; 7] =
    ["run", "--endpoint", "http://127.0.0.1:9", "--model", "m", "--requests", "1"];

/// What the program says of an experiment, and how it ends.
fn plan(experiment: &str) -> String {
    said(&[("e.yaml", experiment)], &[], &["plan", "e.yaml"])
}

/// The same of a good one with something behind it.
fn plan_with(more: &str) -> String {
    plan(&format!("{GOOD}{more}"))
}

fn run(more: &[&str]) -> String {
    said(&[], &[], &[&RUN[..], more].concat())
}

fn said(files: &[(&str, &str)], variables: &[(&str, &str)], args: &[&str]) -> String {
    let mut bench = Bench::new();
    for (name, value) in variables {
        bench = bench.env(name, value);
    }
    for (name, text) in files {
        bench.write(name, text);
    }
    let ended = bench.run(args);
    let begun = bench.path("w/results").exists();
    assert!(!begun, "no load was made");
    format!("{}exit {}", ended.stderr, ended.code)
}

#[test]
fn an_unknown_key() {
    assert_snapshot!(plan_with("taget: {api: chat}\n"), @r#"
    error: e.yaml:3:1: `taget` is not a key of an experiment
      hint: the nearest name is `target`
    exit 2
    "#);
}

#[test]
fn a_value_without_its_unit() {
    assert_snapshot!(plan_with("target: {timeout: 20}\n"), @r#"
    error: e.yaml:3:10: `target.timeout`: `20` has no unit: write `20s`, `20ms` or `20m`
    exit 2
    "#);
}

#[test]
fn a_wrong_unit() {
    assert_snapshot!(plan_with("target:\n  timeout: 20 apples\n"), @r#"
    error: e.yaml:4:3: `target.timeout`: `20 apples` is not a duration: write for example `500ms`, `20s` or `1m30s`
    exit 2
    "#);
}

#[test]
fn a_wrong_unit_of_a_plugins_setting() {
    assert_snapshot!(plan("deploy: {endpoint: 'http://127.0.0.1:9', model: m}\nharness: {settings: {stages: [{rate: 1, for: 5 seconds}]}}\n"), @r#"
    error: e.yaml:2:41: `harness.settings.stages[0].for`: must be a duration with its unit, such as "20s", and is "5 seconds"
    exit 2
    "#);
}

#[test]
fn a_wrong_type() {
    assert_snapshot!(plan_with("seed: soon\n"), @r#"
    error: e.yaml:3:1: `seed`: `soon` is not a whole number
    exit 2
    "#);
}

#[test]
fn a_wrong_type_of_a_plugins_setting() {
    assert_snapshot!(plan("deploy: {endpoint: 'http://127.0.0.1:9', model: m}\nharness:\n  settings:\n    stages:\n      - {rate: fast, for: 5s}\n"), @r#"
    error: e.yaml:5:10: `harness.settings.stages[0].rate`: must be a number, and is a string
    exit 2
    "#);
}

#[test]
fn a_word_that_is_none_of_the_choices() {
    assert_snapshot!(plan_with("target: {api: chatt}\n"), @r#"
    error: e.yaml:3:10: `target.api`: `chatt` is not one of chat, completions; the nearest is `chat`
    exit 2
    "#);
}

#[test]
fn a_value_out_of_range() {
    assert_snapshot!(plan_with("load: {max_error_rate: 5}\n"), @r#"
    error: e.yaml:3:8: `load.max_error_rate`: `5` is not a number from 0 to 1
    exit 2
    "#);
}

#[test]
fn a_wrong_flag() {
    assert_snapshot!(said(&[("e.yaml", GOOD)], &[], &["plan", "e.yaml", "--timeout", "soon"]), @r#"
    error: invalid value 'soon' for '--timeout <DURATION>': `soon` is not a duration: write for example `500ms`, `20s` or `1m30s`

    For more information, try '--help'.
    exit 2
    "#);
}

#[test]
fn a_wrong_variable() {
    assert_snapshot!(said(&[("e.yaml", GOOD)], &[("LLMDBENCH_SEED", "-3")], &["plan", "e.yaml"]), @r#"
    error: LLMDBENCH_SEED: `seed`: `-3` is not a whole number
    exit 2
    "#);
}

#[test]
fn text_that_is_no_yaml() {
    assert_snapshot!(plan("deploy: [1\nharness: 2\n"), @r#"
    error: e.yaml:2:8: this is not YAML: illegal placement of ':' indicator
    exit 2
    "#);
}

#[test]
fn a_missing_experiment() {
    assert_snapshot!(said(&[("quick.yaml", "deploy: {endpoint: 'http://127.0.0.1:9', model: m}\n")], &[], &["plan", "quik.yaml"]), @r#"
    error: there is no experiment file `quik.yaml`
      hint: did you mean `./quick.yaml`?
      hint: the built-in ones are kubernetes, kubernetes-stacks, quickstart
    exit 2
    "#);
}

#[test]
fn a_missing_scenario() {
    assert_snapshot!(said(&[("e.yaml", GOOD)], &[], &["plan", "e.yaml", "-c", "simulatr"]), @r#"
    error: there is no scenario file `simulatr`
      hint: did you mean `simulator`?
      hint: the built-in ones are kubernetes_H200_deployer_llama-8b, ocp_H100MIG_deployer_llama-3b, ocp_H100MIG_deployer_llama-8b, ocp_H100_deployer_llama-70b, ocp_H100_standalone_llama-70b, ocp_L40_standalone_llama-8b, simulator
    exit 2
    "#);
}

#[test]
fn a_missing_data_set() {
    assert_snapshot!(plan("deploy: {endpoint: 'http://127.0.0.1:9', model: m}\nharness: {settings: {stages: [{rate: 1, whole_workload: true}]}}\nworkload:\n  plugin: sharegpt\n  settings: {file: no.json}\n"), @r#"
    error: e.yaml:5:14: `workload.settings.file`: there is no file `no.json`
    exit 2
    "#);
}

#[test]
fn a_missing_tokenizer() {
    assert_snapshot!(said(&[("e.yaml", GOOD)], &[], &["plan", "e.yaml", "--tokenizer", "no/tokenizer.json"]), @r#"
    error: --tokenizer: `target.tokenizer`: there is no file `no/tokenizer.json`
    exit 2
    "#);
}

#[test]
fn an_endpoint_without_its_scheme() {
    assert_snapshot!(said(&[], &[], &["run", "--endpoint", "localhost:8000", "--model", "m", "--requests", "1"]), @r#"
    error: --endpoint: failed to use the endpoint `localhost:8000`: it must begin with http:// or https://
    exit 2
    "#);
}

#[test]
fn an_endpoint_that_is_no_url() {
    assert_snapshot!(plan("deploy: {endpoint: 'http://', model: m}\nharness: {settings: {stages: [{concurrency: 1, requests: 1}]}}\n"), @r#"
    error: e.yaml:1:10: failed to parse the endpoint `http://`: empty host; write it like http://host:8000
    exit 2
    "#);
}

#[test]
fn an_endpoint_with_a_password() {
    assert_snapshot!(said(&[], &[], &["run", "--endpoint", "http://user:hidden@127.0.0.1:9", "--model", "m", "--requests", "1"]), @r#"
    error: --endpoint: failed to use the endpoint `127.0.0.1:9`: a user name or password has no place in it; an API key is given by a setting
    exit 2
    "#);
}

#[test]
fn a_missing_model() {
    assert_snapshot!(plan("deploy: {endpoint: 'http://127.0.0.1:9'}\nharness: {settings: {stages: [{concurrency: 1, requests: 1}]}}\n"), @r#"
    error: e.yaml:1:1: `deploy.model` is missing: which model shall be asked?
      hint: give it with --model NAME, or as `deploy: {model: NAME}`
    exit 2
    "#);
}

#[test]
fn nothing_to_benchmark() {
    assert_snapshot!(said(&[], &[], &["run", "--model", "m", "--requests", "1"]), @r#"
    error: there is no folder `w`
      hint: nothing stands that load could go into: name a server with --endpoint URL, stand one up with `llmdbench standup`, or do it all with `llmdbench bench`
    exit 2
    "#);
}

#[test]
fn no_load() {
    assert_snapshot!(said(&[], &[], &["run", "--endpoint", "http://127.0.0.1:9", "--model", "m"]), @r#"
    error: `harness.settings.stages`: is missing
      hint: say how load is made: `--rate 5 --duration 60s`, `--concurrency 8 --requests 100`, or the harness's settings in an experiment file
    exit 2
    "#);
}

#[test]
fn an_unknown_plugin() {
    assert_snapshot!(plan_with("workload: {plugin: synthetc}\n"), @r#"
    error: e.yaml:3:12: there is no plugin `synthetc`
      hint: the nearest name is `synthetic`
      hint: known are deployer, fmperf-compat, local, modelservice, sharegpt, stages, standalone, synthetic, trace; others are given with --plugin FILE.wasm
    exit 2
    "#);
}

#[test]
fn an_unknown_backend() {
    assert_snapshot!(plan("deploy: {method: locl, model: m}\nharness: {settings: {stages: [{concurrency: 1, requests: 1}]}}\n"), @r#"
    error: e.yaml:1:10: there is no plugin `locl`
      hint: the nearest name is `local`
      hint: known are deployer, fmperf-compat, local, modelservice, sharegpt, stages, standalone, synthetic, trace; others are given with --plugin FILE.wasm
    exit 2
    "#);
}

#[test]
fn an_unknown_step() {
    assert_snapshot!(said(&[("e.yaml", "deploy: {method: local, model: m}\nharness: {settings: {stages: [{concurrency: 1, requests: 1}]}}\n")], &[], &["standup", "e.yaml", "--step", "smoketst"]), @r#"
    error: there is no step `smoketst`
      hint: the nearest name is `08_smoketest`
      hint: the steps are 06_start_local_server, 08_smoketest
    exit 2
    "#);
}

#[test]
fn an_endpoint_where_nobody_listens() {
    assert_snapshot!(run(&[]), @r#"
    run folder: w
    error: nothing answers at http://127.0.0.1:9/v1/models
      because: Connection refused (os error 111)
      hint: is the server up, and is the endpoint right?
    exit 4
    "#);
}

#[test]
fn a_body_that_is_no_json() {
    assert_snapshot!(run(&["--extra-body", "{top_p: 1"]), @r#"
    error: --extra-body: `target.extra_body`: `{top_p: 1` is not a mapping
    exit 2
    "#);
}

#[test]
fn a_header_without_a_name() {
    assert_snapshot!(run(&["--header", "nonsense"]), @r#"
    error: --header takes "NAME: VALUE"
    exit 2
    "#);
}

#[test]
fn a_key_variable_that_is_not_set() {
    assert_snapshot!(run(&["--api-key-env", "NO_SUCH_KEY"]), @r#"
    error: --api-key-env: the environment variable `NO_SUCH_KEY`, which shall hold the API key, is not set
    exit 2
    "#);
}

#[test]
fn two_lists() {
    assert_snapshot!(said(&[], &[], &["run", "--endpoint", "http://127.0.0.1:9", "--model", "m", "--rate", "1,2", "--concurrency", "1,2", "--duration", "1s"]), @r#"
    error: --rate and --concurrency are both lists
      hint: vary one of them, or write the stages into an experiment file
    exit 2
    "#);
}

#[test]
fn a_folder_that_is_no_run() {
    assert_snapshot!(said(&[("x/y", "")], &[], &["analyze", "x"]), @r#"
    error: there are no records in `x`
      hint: name the folder of a run, or a records.jsonl; `llmdbench status` shows what a folder holds
    exit 2
    "#);
}

#[test]
fn records_of_a_newer_version() {
    assert_snapshot!(said(&[("x/records.jsonl", "{\"format\":\"llmdbench.records\",\"version\":\"2.0\"}\n")], &[], &["analyze", "x"]), @r#"
    error: cannot read the records `x/records.jsonl`
      because: the records have version 2.0; this llmdbench reads 1.0 and older. Update llmdbench
    exit 2
    "#);
}

#[test]
fn no_run_to_work_on() {
    assert_snapshot!(said(&[], &[("LLMDBENCH_CONTROL_WORK_DIR", "")], &["status"]), @r#"
    error: there is no run to work on: `workdir/latest` leads nowhere
      hint: name its folder with --workdir DIR, or start one with `llmdbench bench FILE`
    exit 2
    "#);
}

#[test]
fn an_unknown_variable_is_a_warning() {
    assert_snapshot!(said(&[("e.yaml", GOOD)], &[("LLMDBENCH_SEDE", "3")], &["plan", "e.yaml"]), @r#"
    warning: the environment variable LLMDBENCH_SEDE is not known and does nothing; the nearest name is LLMDBENCH_SEED
    exit 0
    "#);
}

#[test]
fn limits_of_no_time_at_all() {
    assert_snapshot!(plan_with("analyze: {slo: {ttft: 0s}}\n"), @r#"
    error: e.yaml:3:17: `analyze.slo.ttft`: an objective is more than 0
    exit 2
    "#);
    assert_snapshot!(run(&["--slo", "tpot=0ms"]), @r#"
    error: --slo: `analyze.slo.tpot`: an objective is more than 0
    exit 2
    "#);
    assert_snapshot!(plan_with("target: {timeout: 0s}\n"), @r#"
    error: e.yaml:3:10: `target.timeout`: every request would fail at once; it must be more than 0
    exit 2
    "#);
}

#[test]
fn part_of_a_load_where_the_file_describes_one() {
    let change = |args: &[&str]| said(&[("e.yaml", GOOD)], &[], &[&["plan"], args].concat());
    assert_snapshot!(change(&["e.yaml", "--duration", "5s"]), @r#"
    error: --duration cannot change the load that e.yaml:2:22 describes
      hint: add --rate or --concurrency to replace that load as a whole, or edit it there
    exit 2
    "#);
    assert_snapshot!(change(&["quickstart", "--arrival", "poisson"]), @r#"
    error: --arrival cannot change the load that quickstart.yaml:8:5 describes
      hint: add --rate or --concurrency to replace that load as a whole, or edit it there
    exit 2
    "#);
    assert_snapshot!(run(&["--profile", "sanity_short-input"]), @r#"
    error: --requests cannot change the load that --profile describes
      hint: leave one of the two out, or write a profile of your own
    exit 2
    "#);
}

#[test]
fn an_arrival_without_a_rate_is_the_fault_of_its_flag() {
    assert_snapshot!(run(&["--arrival", "poisson"]), @r#"
    error: --arrival: `harness.settings.stages[0].arrival`: open arrivals need a rate (plugin stages 0.1.0)
      hint: add `rate: 2`, or write `arrival: closed`
    exit 2
    "#);
}

#[test]
fn an_unknown_profile_where_the_file_names_another_harness() {
    let file = format!("{GOOD}workload: {{plugin: synthetic}}\n")
        .replace("{settings", "{plugin: stages, settings");
    assert_snapshot!(said(&[("e.yaml", &file)], &[], &["plan", "e.yaml", "--profile", "sanity_shortinput"]), @r#"
    warning: e.yaml:2:27: these settings are left out: they are for the harness `stages`, and flags chose `fmperf-compat`
    error: there is no workload profile `sanity_shortinput`
      hint: did you mean `sanity_short-input`?
      hint: the built-in ones are large_model_long_input, medium_model_long_input, sanity_long-input, sanity_sharegpt, sanity_short-input, small_model_long_input
    exit 2
    "#);
}

#[test]
fn a_data_set_that_is_missing_is_all_that_is_wrong_with_it() {
    assert_snapshot!(said(&[], &[], &["plan", "quickstart", "--dataset", "no.json"]), @r#"
    warning: quickstart.yaml:13:3: these settings are left out: they are for the workload `synthetic`, and flags chose `sharegpt`
    error: --dataset: `workload.settings.file`: there is no file `no.json`
    exit 2
    "#);
}

#[test]
fn a_folder_without_a_name() {
    assert_snapshot!(run(&["--workdir", ""]), @r#"
    error: invalid value '' for '--workdir <DIR>': it names no folder: is a variable not set that it is made of?

    For more information, try '--help'.
    exit 2
    "#);
}

#[test]
fn numbers_that_cannot_be_meant() {
    for flag in ["--rate", "--speed", "--max-error-rate"] {
        for number in ["nan", "inf"] {
            let said = run(&[flag, number, "--dataset", "d.json"]);
            let wrong = format!("`{number}` is not a number: write for example `2` or `0.5`");
            assert!(said.contains(flag) && said.contains(&wrong), "{said}");
        }
    }
    assert_snapshot!(run(&["--rate", "1,nan"]), @r#"
    error: invalid value 'nan' for '--rate <RATE>': `nan` is not a number: write for example `2` or `0.5`

    For more information, try '--help'.
    exit 2
    "#);
    let share = [("LLMDBENCH_LOAD_MAX_ERROR_RATE", "nan")];
    assert_snapshot!(said(&[("e.yaml", GOOD)], &share, &["plan", "e.yaml"]), @r#"
    error: LLMDBENCH_LOAD_MAX_ERROR_RATE: `load.max_error_rate`: `nan` is not a number from 0 to 1
    exit 2
    "#);
}

#[test]
fn objectives_that_there_are_not_and_one_that_is_given_twice() {
    assert_snapshot!(run(&["--slo", "foo=5ms"]), @r#"
    error: --slo: `analyze.slo.foo`: there is no objective of this name
      hint: objectives are ttft, scheduled_ttft, answer_ttft, tpot, ntpot, latency, scheduled_latency
    exit 2
    "#);
    assert_snapshot!(plan_with("analyze: {slo: {tpto: 5ms}}\n"), @r#"
    error: e.yaml:3:17: `analyze.slo.tpto`: there is no objective of this name
      hint: the nearest name is `tpot`
      hint: objectives are ttft, scheduled_ttft, answer_ttft, tpot, ntpot, latency, scheduled_latency
    exit 2
    "#);
    assert_snapshot!(run(&["--slo", "ttft=500ms,ttft=1ms"]), @r#"
    error: --slo: `analyze.slo`: `ttft` is given twice
    exit 2
    "#);
}

#[test]
fn more_threads_than_can_help() {
    assert_snapshot!(run(&["--threads", "100000"]), @r#"
    error: --threads: `load.threads`: more than 1,024 threads would wait for one another and not for the server; one for each core is enough
    exit 2
    "#);
}

#[test]
fn a_secret_in_the_address_of_a_metrics_page() {
    assert_snapshot!(plan_with("target: {metrics: ['http://h/metrics?api_token=abcdef']}\n"), @r#"
    error: e.yaml:3:10: `target.metrics`: a page cannot be read from `http://h/metrics`: a secret such as `api_token` has no place in it
    exit 2
    "#);
}

#[test]
fn options_of_a_load_where_none_is_made() {
    let run = |args: &[&str]| said(&[], &[], &[&["run"], args].concat());
    assert_snapshot!(run(&["-z", "--rate", "1,2", "--duration", "3s", "--endpoint", "http://127.0.0.1:9", "-m", "m"]), @r#"
    error: -z (--skip) makes no load, and --rate, --duration, --endpoint would do nothing
      hint: leave -z (--skip) out to make this load, or the others to see what was measured
    exit 2
    "#);
    assert_snapshot!(run(&["--attach", "--dataset", "d.json", "--warmup", "3", "--seed", "4"]), @r#"
    error: --attach makes no load, and --warmup, --seed, --dataset would do nothing
      hint: leave --attach out to make this load, or the others to see what was measured
    exit 2
    "#);
    // What says which stack ran, and how it is to be judged, is no load.
    assert_snapshot!(run(&["-z", "-m", "m", "-c", "none", "--slo", "ttft=1s"]), @r#"
    error: there is no folder `w`
    exit 2
    "#);
}

#[test]
fn objectives_that_an_analysis_cannot_judge_by() {
    let analyze = |slo: &str| {
        let file =
            ("old/LMBench_a_qps1.csv", "prompt_tokens,generation_tokens,ttft,generation_time\n");
        said(&[file], &[], &["analyze", "old", "--slo", slo])
    };
    assert_snapshot!(analyze("tpto=5ms"), @r#"
    error: --slo: `analyze.slo.tpto`: there is no objective of this name
      hint: the nearest name is `tpot`
      hint: objectives are ttft, scheduled_ttft, answer_ttft, tpot, ntpot, latency, scheduled_latency
    exit 2
    "#);
    assert_snapshot!(analyze("ttft=5"), @r#"
    error: --slo: `analyze.slo.ttft`: `5` has no unit: write `5s`, `5ms` or `5m`
    exit 2
    "#);
    assert_snapshot!(analyze("ttft=5ms"), @r#"
    error: `old` holds LMBench CSV files and no records: no objectives can be judged of them
      hint: leave --slo out, or name the folder of a run
    exit 2
    "#);
}

#[test]
fn endpoints_that_cannot_all_be_used() {
    let run = |endpoints: &str| {
        said(&[], &[], &["run", "--endpoint", endpoints, "-m", "m", "--requests", "1"])
    };
    // A password with a comma in it is not shown in part.
    assert_snapshot!(run("http://user:hid,den@127.0.0.1:9"), @r#"
    error: --endpoint: failed to use the endpoint `127.0.0.1:9`: a user name or password has no place in it; an API key is given by a setting
    exit 2
    "#);
    assert_snapshot!(run("http://127.0.0.1:9,127.0.0.1:10"), @r#"
    error: --endpoint: failed to parse the endpoint `127.0.0.1:10`: relative URL without a base; write it like http://host:8000
    exit 2
    "#);
    assert_snapshot!(run("http://127.0.0.1:9,http://127.0.0.1:9/v1"), @r#"
    error: --endpoint: the endpoint http://127.0.0.1:9 is given twice, and would get twice the load
    exit 2
    "#);
}
