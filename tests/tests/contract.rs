//! What plugins and the program have agreed on: inputs, what is left out, findings, variables of
//! processes, settings of a stage.

use acceptance::{Bench, Server, plugin, program, root};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const C09: &str = "tests/cases/C09-sharegpt.json";

fn quick() -> Server {
    Server::start(&["--ttft", "2ms", "--itl", "1ms"])
}

#[test]
fn inputs_are_found_beside_the_file_that_names_them_and_stand_in_the_plan() {
    let bench = Bench::new();
    bench.write("a/b/data.json", std::fs::read(root().join(C09)).unwrap());
    bench.write(
        "a/b/e.yaml",
        "deploy: {endpoint: 'http://127.0.0.1:9', model: m}\n\
         harness: {settings: {stages: [{rate: 1, whole_workload: true}]}}\n\
         workload: {plugin: sharegpt, settings: {file: data.json}}\n",
    );
    let plan = bench.run(&["--output", "json", "plan", "a/b/e.yaml"]).expect(0).stdout;
    let plan: Value = serde_json::from_str(&plan).unwrap();
    let plugins = plan["plugins"].as_array().unwrap();
    let workload = plugins.iter().find(|used| used["kind"] == "workload").unwrap();
    assert_eq!(workload["inputs"], json!({"/file": "a/b/data.json"}));
    bench.write("a/b/e.yaml", bench.read("a/b/e.yaml").replace("data.json", "dato.json"));
    let ended = bench.run(&["plan", "a/b/e.yaml"]).expect(2);
    for part in ["workload.settings.file", "dato.json"] {
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    }
}

#[test]
fn what_a_workload_skips_and_finds_is_told_in_plan_and_report() {
    let server = quick();
    let bench = Bench::new();
    bench.write("d.json", std::fs::read(root().join(C09)).unwrap());
    let args = ["--endpoint", &server.url, "--model", "m", "--dataset", "d.json", "--rate", "50"];
    let plan = bench.run(&[&["plan"], &args[..]].concat()).expect(0);
    for reason in
        ["empty prompt", "no answer", "empty answer", "two turns of one speaker", "no turns"]
    {
        assert!(plan.stdout.contains(&format!("left out, {reason}: 1")), "{}", plan.stdout);
    }
    let finding = "5 of 10 conversations are left out";
    assert!(plan.stdout.contains(finding), "{}", plan.stdout);
    bench.run(&[&["run"], &args[..]].concat()).expect(0).says(finding);
    assert!(bench.json("w/plan.json")["findings"].to_string().contains(finding));
    assert!(bench.read("w/analysis/report.html").contains(finding));
    let notes = bench.summary()["notes"].clone();
    let note =
        notes.as_array().unwrap().iter().find(|n| n["source"] == "sharegpt").unwrap().clone();
    assert_eq!(note["severity"], "warning");
}

#[test]
fn a_warning_while_planning_is_a_finding_and_what_is_said_later_is_in_the_log() {
    let server = quick();
    let bench = Bench::new();
    bench.write(
        "e.yaml",
        format!(
            "deploy: {{endpoint: '{}', model: m}}\n\
             harness: {{plugin: stages, settings: {{stages: [{{concurrency: 1, requests: 2}}]}}}}\n\
             workload: {{settings: {{how: behave}}}}\n",
            server.url
        ),
    );
    let guest = plugin("guests", "misbehave");
    bench.run(&["run", "e.yaml", "--plugin", &guest]).expect(0);
    let finding = "this plugin misbehaves on purpose";
    let findings = bench.json("w/plan.json")["findings"].clone();
    // Plugins are configured more than once, and say it once.
    assert_eq!(findings, json!([{"severity": "warning", "plugin": "misbehave", "text": finding}]));
    assert!(bench.read("w/analysis/report.html").contains(finding));
    let said = bench.read("w/results/logs/plugins.log");
    assert!(said.contains("warn misbehave: "), "{said}");
}

#[test]
fn processes_know_the_program_the_port_the_model_and_the_run() {
    let bench = Bench::new();
    bench.write(
        "e.yaml",
        "deploy:\n  method: local\n  model: named-model\n  settings:\n    \
         command: [$(LLMDBENCH_SELF), sim, --port, $(LLMDBENCH_PORT), --model, $(LLMDBENCH_MODEL)]\n    \
         env: {WHOLE: '$(LLMDBENCH_RUN_ID)/$(LLMDBENCH_MODEL)', PLAIN: '$$(LLMDBENCH_PORT)'}\n\
         harness: {settings: {stages: [{concurrency: 1, requests: 1}]}}\n\
         workload: {settings: {output_tokens: 2}}\n",
    );
    bench.run(&["bench", "e.yaml", "--keep"]).expect(0);
    let process = bench.json("w/setup/processes.json")["processes"][0].clone();
    let command: Vec<&str> =
        process["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    let port = process["port"].as_u64().unwrap().to_string();
    let own = program().canonicalize().unwrap();
    assert_eq!(command, [own.to_str().unwrap(), "sim", "--port", &port, "--model", "named-model"]);
    let environ = std::fs::read_to_string(format!("/proc/{}/environ", process["pid"])).unwrap();
    let variables: BTreeSet<&str> = environ.split('\0').collect();
    let run = bench.json("w/plan.json")["run"].as_str().unwrap().to_owned();
    for wanted in [
        format!("LLMDBENCH_PORT={port}"),
        "LLMDBENCH_MODEL=named-model".to_owned(),
        format!("LLMDBENCH_RUN_ID={run}"),
        format!("WHOLE={run}/named-model"),
        "PLAIN=$(LLMDBENCH_PORT)".to_owned(),
    ] {
        assert!(variables.contains(&*wanted), "no `{wanted}` in {variables:?}");
    }
    assert_eq!(bench.log().records[0].output_tokens, Some(2));
    bench.run(&["teardown"]).expect(0);
}

/// An experiment whose second stage has workload settings of its own.
fn staged(url: &str, own: &str) -> String {
    format!(
        "deploy: {{endpoint: '{url}', model: m}}\n\
         harness:\n  settings:\n    stages:\n      \
         - {{name: plain, concurrency: 2, requests: 10}}\n      \
         - {{name: own, concurrency: 2, requests: 10, workload: {{{own}}}}}\n      \
         - {{name: again, concurrency: 2, requests: 10}}\n\
         workload: {{settings: {{input_tokens: 10, output_tokens: 3}}}}\n"
    )
}

#[test]
fn a_stage_may_have_workload_settings_of_its_own() {
    let server = quick();
    let bench = Bench::new();
    bench.write("e.yaml", staged(&server.url, "output_tokens: 7, input_tokens: 40"));
    bench.run(&["run", "e.yaml"]).expect(0);
    let log = bench.log();
    for (stage, output, input) in [(0, 3, 10), (1, 7, 40), (2, 3, 10)] {
        let records: Vec<_> = log.records.iter().filter(|r| r.stage == stage).collect();
        assert_eq!(records.len(), 10, "stage {stage}");
        for record in records {
            assert_eq!(record.output_tokens, Some(output), "{record:?}");
            assert_eq!(record.asked_input_tokens, Some(input), "{record:?}");
            // The server's own count has what its chat form adds.
            let counted = record.input_tokens.unwrap();
            assert!((input..input + 12).contains(&counted), "{counted} for {input}");
        }
    }
    let plan = bench.json("w/plan.json");
    assert!(plan["stages"][1]["notes"].to_string().contains("output_tokens"), "{plan}");
    let words: BTreeSet<_> = server.truth().iter().map(|line| line.output_tokens).collect();
    assert!(words.contains(&7) && words.contains(&3));
}

#[test]
fn workload_settings_of_a_stage_are_checked_before_anything_is_done() {
    let bench = Bench::new();
    bench.write("e.yaml", staged("http://127.0.0.1:9", "output_tokns: 7"));
    let ended = bench.run(&["run", "e.yaml"]).expect(2);
    assert_eq!(ended.errors().len(), 1, "{}", ended.stderr);
    for part in ["own", "output_tokns", "`output_tokens`"] {
        assert!(ended.stderr.contains(part), "no `{part}` in {}", ended.stderr);
    }
    assert!(!bench.path("w").exists());
}
