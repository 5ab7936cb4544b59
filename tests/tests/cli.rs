//! The command line: every help page, completions, reference pages, the list of plugins.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

use acceptance::{Bench, root};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};

/// The commands that the help page names.
fn commands(help: &str) -> Vec<String> {
    let list =
        help.split("Commands:\n").nth(1).map_or("", |rest| rest.split("\n\n").next().unwrap());
    list.lines()
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next().map(str::to_owned))
        .filter(|name| name != "help")
        .collect()
}

#[test]
fn every_command_has_a_help_page_that_fits_and_stands_in_the_reference() {
    let bench = Bench::new();
    let reference = std::fs::read_to_string(root().join("docs/reference/commands.md")).unwrap();
    let mut open = vec![Vec::<String>::new()];
    let mut seen = 0;
    while let Some(path) = open.pop() {
        let mut args: Vec<&str> = path.iter().map(String::as_str).collect();
        args.push("--help");
        let page = bench.run(&args).expect(0).stdout;
        let usage = format!("Usage: {}", [&["llmdbench".to_owned()], &path[..]].concat().join(" "));
        assert!(page.contains(&usage), "no `{usage}` in {page}");
        let wide = page.lines().map(|line| line.chars().count()).max();
        assert!(wide <= Some(110), "{path:?}: {wide:?} columns");
        let heading = format!("## llmdbench {}\n", path.join(" "));
        assert!(
            path.is_empty() || reference.contains(&heading),
            "{path:?} is not in the reference"
        );
        open.extend(commands(&page).into_iter().map(|name| [&path[..], &[name]].concat()));
        seen += 1;
    }
    assert!(seen >= 16, "{seen} pages");
}

#[test]
fn a_wrong_command_or_option_names_the_right_one() {
    let bench = Bench::new();
    for (args, near) in [(&["bnech"][..], "bench"), (&["run", "--endpont", "x"], "--endpoint")] {
        let ended = bench.run(args).expect(2);
        assert!(ended.stderr.contains(near), "{}", ended.stderr);
    }
    assert!(bench.run(&["--version"]).expect(0).stdout.starts_with("llmdbench "));
}

#[test]
fn the_completion_script_is_one_that_bash_reads() {
    let bench = Bench::new();
    let script = bench.run(&["completions", "bash"]).expect(0).stdout;
    let mut bash = Command::new("bash")
        .arg("-n")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let ended = bash.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(script.contains("--endpoint"));
    for shell in ["zsh", "fish"] {
        assert!(bench.run(&["completions", shell]).expect(0).stdout.contains("llmdbench"));
    }
}

#[test]
fn the_list_of_plugins_has_the_built_in_ones_and_those_given() {
    let bench = Bench::new();
    let given = acceptance::plugin("example-plugins", "rust-harness");
    let list = bench.run(&["--output", "json", "--plugin", &given, "plugin", "list"]).expect(0);
    let list: Value = serde_json::from_str(&list.stdout).unwrap();
    let names: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (p["name"].as_str().unwrap(), p["kinds"][0].as_str().unwrap()))
        .collect();
    let right = [
        ("deployer", "backend"),
        ("fmperf-compat", "harness"),
        ("local", "backend"),
        ("modelservice", "backend"),
        ("sharegpt", "workload"),
        ("stages", "harness"),
        ("standalone", "backend"),
        ("synthetic", "workload"),
        ("trace", "workload"),
        ("staircase", "harness"),
    ];
    assert_eq!(names, right);
    for (name, _) in &names[..9] {
        let page = bench.run(&["plugin", "inspect", name]).expect(0).stdout;
        for part in ["imports", "permissions", "settings as a"] {
            assert!(page.contains(part), "{page}");
        }
        assert!(!page.contains("wasi"), "no plugin imports WASI: {page}");
    }
}

#[test]
fn settings_come_from_where_they_say() {
    let bench = Bench::new().env("LLMDBENCH_SEED", "5").env("LLMDBENCH_LOAD_THREADS", "3");
    bench.write("e.yaml", "seed: 6\n");
    let env = bench.run(&["--output", "json", "env", "e.yaml"]).expect(0).stdout;
    let env: Value = serde_json::from_str(&env).unwrap();
    let setting = |path: &str| {
        env.as_array().unwrap().iter().find(|setting| setting["path"] == path).unwrap().clone()
    };
    assert_eq!(
        (&setting("seed")["value"], &setting("seed")["source"]),
        (&6.into(), &"experiment".into())
    );
    assert_eq!(setting("load.threads")["source"], "environment");
    assert_eq!(setting("target.api")["source"], "default");
    let schema = bench.run(&["env", "--schema"]).expect(0).stdout;
    let schema: Value = serde_json::from_str(&schema).unwrap();
    assert!(schema["properties"]["harness"].is_object(), "{schema}");
}

#[test]
fn every_command_can_answer_in_json_and_says_nothing_else_on_standard_output() {
    let bench = Bench::new();
    bench.write(
        "e.yaml",
        "deploy: {method: local, model: m, settings: {simulator: {ttft: 2ms, itl: 1ms}}}\n\
         harness: {settings: {stages: [{concurrency: 1, requests: 3}]}}\n\
         workload: {settings: {output_tokens: 2}}\n",
    );
    let load = ["run", "--rate", "50", "--requests", "5"];
    for (args, pointer) in [
        (&["plan", "e.yaml"][..], "/experiment/deploy/models/0/id"),
        (&["bench", "e.yaml", "--dry-run"], "/experiment/deploy/models/0/id"),
        (&["bench", "e.yaml"], "/stages/0/succeeded"),
        (&["standup", "e.yaml"], "/endpoints/0"),
        (&["smoketest", "--dry-run"], "/endpoint"),
        (&["smoketest"], "/answers"),
        (&["run", "e.yaml", "--dry-run"], "/experiment/deploy/models/0/id"),
        (&load, "/stages/0/succeeded"),
        (&["run", "--skip"], "/stages/0/succeeded"),
        (&["analyze"], "/stages/0/succeeded"),
        (&["report"], "/report"),
        (&["status"], "/processes/0/pid"),
        (&["teardown", "--dry-run"], "/would_stop/0/pid"),
        (&["teardown"], "/removed/0/pid"),
        (&["teardown"], "/removed"),
        (&["status"], "/processes"),
        (&["env", "e.yaml"], "/0/path"),
        (&["env", "--schema"], "/properties"),
        (&["scenario", "list"], "/0/name"),
        (&["scenario", "show", "simulator"], "/0/path"),
        (&["standup", "-t", "standalone", "--dry-run", "--workdir", "dry"], "/steps/0/name"),
        (&["teardown", "-t", "standalone", "--dry-run"], "/would_execute"),
        (&["plugin", "list"], "/0/name"),
        (&["plugin", "inspect", "local"], "/name"),
    ] {
        let ended = bench.run(&[args, &["--output", "json"]].concat()).expect(0);
        let answer: Value = serde_json::from_str(&ended.stdout)
            .unwrap_or_else(|error| panic!("{args:?}: {error} in\n{}", ended.stdout));
        assert!(answer.pointer(pointer).is_some(), "{args:?}: no {pointer} in {answer:#}");
    }
}

#[test]
fn what_fails_is_told_in_json_too_and_leaves_standard_output_empty() {
    let bench = Bench::new();
    let ended = bench.run(&["--output", "json", "plan", "no-such.yaml"]).expect(2);
    assert_eq!(ended.stdout, "");
    let told: Value = serde_json::from_str(&ended.stderr).unwrap();
    assert_eq!(told["exit"], 2);
    assert!(told["problems"][0]["message"].to_string().contains("no-such.yaml"), "{told}");
}

#[test]
fn the_simulated_server_says_where_it_is_to_programs_too() {
    let bench = Bench::new();
    let mut server = bench.start(&["sim", "--port", "0", "--output", "json"]);
    server.wait_for("simulated server: ");
    server.signal(Signal::SIGTERM);
    let said: Value = serde_json::from_str(&server.wait().expect(0).stdout).unwrap();
    assert!(said["url"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{said}");
}
