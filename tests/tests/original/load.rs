//! The load of a workload profile: what the server is asked, word for word, and what a run leaves.

use acceptance::{Bench, Request, Server, Stub, root};
use serde_json::{Value, json};
use std::path::Path;

/// An experiment with two users of three rounds, for two seconds.
fn rounds(chat: bool) -> String {
    format!(
        "harness:\n  plugin: fmperf-compat\n  settings: {{profile: mine.yaml, num_users: 2, num_rounds: 3, system_prompt: 2, chat_history: 3, answer_len: 7, use_chat_completions: {chat}}}\n"
    )
}

const PROFILE: &str = "model_name: REPLACE_ENV_LLMDBENCH_DEPLOY_CURRENT_MODEL\nimage: i\nservice_account: REPLACE_ENV_LLMDBENCH_FMPERF_SERVICE_ACCOUNT\npvc_name: p\nscenarios: long-input\nqps_values: \"4\"\nnum_users_warmup: 0\ninit_user_id: 10\ntest_duration: 2\n";

fn asked(chat: bool) -> (Bench, Vec<Request>) {
    let bench = Bench::new();
    bench.write("mine.yaml.in", PROFILE);
    bench.write("e.yaml", rounds(chat));
    let stub = Stub::good();
    bench.run(&["run", "e.yaml", "--endpoint", &stub.url, "--model", "m"]).expect(0);
    let completions = stub.completions();
    (bench, completions)
}

fn beginning(user: u64) -> String {
    format!(
        "Hi, here's some system prompt: hi hi.For user {user}, here are some other context: hi hi hi."
    )
}

fn question(n: u64) -> String {
    format!("Here's question #{n}: can you tell me a new long story with a happy ending?")
}

/// The bodies that bear this user's header, in the order in which they came.
fn of_user(all: &[Request], user: u64) -> Vec<Value> {
    let id = user.to_string();
    all.iter().filter(|r| r.header("x-user-id") == Some(&id)).map(Request::json).collect()
}

#[test]
fn chat_bodies_are_the_originals_word_for_word() {
    let (_, all) = asked(true);
    let warm_up: Vec<&Request> =
        all.iter().filter(|request| request.header("x-user-id").is_none()).collect();
    assert_eq!(warm_up.len(), 20, "ten before each of the two runs");
    let mut seen: Vec<String> = warm_up
        .iter()
        .map(|request| request.json()["messages"][0]["content"].as_str().unwrap().to_owned())
        .collect();
    seen.sort();
    seen.dedup();
    let expected: Vec<String> = (0..10)
        .map(|i| format!("WARMUP: Hi, I'm user {i}. Here are some text: {}.", "hi ".repeat(100)))
        .collect();
    assert_eq!(seen, expected);
    assert!(warm_up.iter().all(|request| request.json()["max_tokens"] == 100));
    // User 13 comes when the load begins; those before have been there for a while.
    let bodies = of_user(&all, 13);
    assert_eq!(bodies.len(), 3, "{bodies:?}");
    let user = |text: String| json!({"role": "user", "content": text});
    let answer = json!({"role": "assistant", "content": "Hello there"});
    let body = |messages: Vec<Value>| {
        json!({
            "model": "m", "messages": messages, "stream": true, "max_tokens": 7,
            "temperature": 0.0, "stream_options": {"include_usage": true},
        })
    };
    let first = user(format!("{}{}", beginning(13), question(1)));
    assert_eq!(bodies[0], body(vec![first.clone()]));
    let second = vec![first.clone(), answer.clone(), user(question(2))];
    assert_eq!(bodies[1], body(second.clone()));
    assert_eq!(bodies[2], body([second, vec![answer, user(question(3))]].concat()));
    // One who was there before begins with a later question and without a history. The warm-up
    // has asked his first.
    let bodies = of_user(&all, 12);
    assert_eq!(bodies.len(), 2, "the third is the last");
    let text = |body: &Value| body["messages"][0]["content"].as_str().unwrap().to_owned();
    assert_eq!(text(&bodies[0]), format!("{}{}", beginning(12), question(1)));
    assert_eq!(text(&bodies[1]), format!("{}{}", beginning(12), question(3)));
}

#[test]
fn completion_prompts_are_lines_of_roles() {
    let (bench, all) = asked(false);
    let bodies = of_user(&all, 13);
    let first = format!("USER: {}{}", beginning(13), question(1));
    assert_eq!(
        bodies[0],
        json!({
            "model": "m", "prompt": first, "stream": true, "max_tokens": 7,
            "temperature": 0.0, "stream_options": {"include_usage": true},
        })
    );
    let second = format!("{first}\nASSISTANT: Hello there\nUSER: {}", question(2));
    assert_eq!(bodies[1]["prompt"], second);
    let profile = bench.read("w/workload/profiles/mine.yaml");
    assert!(profile.contains("model_name: m\n"), "{profile}");
    assert!(profile.contains("service_account: fmperf-runner\n"), "{profile}");
    assert!(bench.path("w/workload/harnesses").is_dir());
}

#[test]
fn requests_name_the_model_that_the_profile_names() {
    let bench = Bench::new();
    let profile = PROFILE.replace("REPLACE_ENV_LLMDBENCH_DEPLOY_CURRENT_MODEL", "adapter");
    bench.write("mine.yaml", profile.replace("test_duration: 2", "test_duration: 1"));
    let stub = Stub::good();
    bench
        .run(&["run", "--endpoint", &stub.url, "--model", "m", "--profile", "mine.yaml"])
        .expect(0)
        .says("requests name the model `adapter`");
    let all = stub.completions();
    assert!(all.len() > 20 && all.iter().all(|request| request.json()["model"] == "adapter"));
}

#[test]
fn data_sets_go_out_at_the_rate_with_the_rate_before_each_prompt() {
    let bench = Bench::new();
    let entries = |n: usize, name: &str| {
        let entry = |i| json!({"input": format!("{name} {i}"), "output_length": 3 + i});
        Value::Array((0..n).map(entry).collect()).to_string()
    };
    bench.write("run.json", entries(6, "run"));
    bench.write("warmup.json", entries(2, "warm"));
    bench.write("p.yaml", "scenarios: sharegpt\nqps_values: [20]\nuse_chat_completions: false\n");
    let stub = Stub::good();
    let target = ["run", "--endpoint", &stub.url, "--model", "m"];
    // The pause between warm-up and load is ten seconds, as in the original.
    bench
        .run(&[&target[..], &["--profile", "p.yaml", "--dataset", "run.json,warmup.json"]].concat())
        .expect(0);
    let mut bodies: Vec<Value> = stub.completions().iter().map(Request::json).collect();
    // Each connection has a thread of its own in the stub, which may be late.
    bodies.sort_by_key(|body| body["prompt"].to_string());
    let prompts: Vec<&str> = bodies.iter().map(|body| body["prompt"].as_str().unwrap()).collect();
    let expected = ["run 0", "run 1", "run 2", "run 3", "run 4", "run 5", "warm 0", "warm 1"];
    assert_eq!(prompts, expected.map(|text| format!("USER: 20.0 {text}")));
    assert_eq!(bodies[5]["max_tokens"], 8);
    let log = bench.log();
    let due: Vec<u64> = log.records.iter().filter(|r| !r.warmup).map(|r| r.due.unwrap()).collect();
    let gaps: Vec<u64> = due.windows(2).map(|two| (two[1] - two[0]) / 1_000_000).collect();
    assert_eq!(gaps, [50; 5]);
    let csv = bench.read("w/results/LMBench_sharegpt_output_20.csv");
    let mut lines = csv.lines();
    assert_eq!(
        lines.next(),
        Some("prompt_tokens,generation_tokens,ttft,generation_time,launch_time,finish_time")
    );
    assert_eq!(lines.count(), 6);
}

#[test]
fn a_run_of_the_default_profile_leaves_the_originals_tree() {
    let bench = Bench::new();
    bench.write(
        "e.yaml",
        "harness: {plugin: fmperf, settings: {profile: sanity_short-input, mode: corrected, qps_values: '20', test_duration: 2}}\n",
    );
    let server = Server::start(&["--ttft", "20ms", "--itl", "1ms"]);
    bench.run(&["run", "e.yaml", "--endpoint", &server.url, "--model", "m"]).expect(0);
    for path in [
        "environment/variables",
        "workload/profiles/sanity_short-input.yaml",
        "workload/harnesses",
        "results/LMBench_short_input_qps20.csv",
        "analysis/data/stats.txt",
        "analysis/plots/README.md",
        "analysis/plots/latency_analysis.png",
        "analysis/plots/throughput_analysis.png",
    ] {
        assert!(bench.path("w").join(path).exists(), "no {path}");
    }
    // Every request that was measured and answered has its row, at the rate that was asked for.
    let csv = bench.read("w/results/LMBench_short_input_qps20.csv");
    let mut log = bench.log();
    log.records.retain(|record| !record.warmup);
    assert_eq!(log.scheduled(), 40);
    let answered = log.records.len();
    assert_eq!(csv.lines().count(), 1 + answered);
    let summary = bench.summary();
    assert_eq!(summary["total"]["succeeded"], answered);
    let stats = bench.read("w/analysis/data/stats.txt");
    assert!(stats.contains(&format!("Total number of requests: {answered}\n")), "{stats}");
    // Again from the records: the same file, byte for byte.
    std::fs::remove_file(bench.path("w/results/LMBench_short_input_qps20.csv")).unwrap();
    bench.run(&["analyze", "w"]).expect(0);
    assert_eq!(bench.read("w/results/LMBench_short_input_qps20.csv"), csv);
}

#[test]
fn a_profile_that_cannot_be_used_is_told_with_its_place() {
    let bench = Bench::new();
    let check = |profile: &str, expected: &[&str]| {
        bench.write("p.yaml", profile);
        let args =
            ["plan", "--endpoint", "http://127.0.0.1:9", "--model", "m", "--profile", "p.yaml"];
        let ended = bench.run(&args).expect(2);
        for text in expected {
            assert!(ended.stderr.contains(text), "no `{text}` in\n{}", ended.stderr);
        }
    };
    check("num_user: 3\n", &["line 1: `num_user` is no key of a profile", "`num_users`"]);
    check("a: REPLACE_ENV_LLMDBENCH_NOTHING\n", &["p.yaml:1:4:", "no setting LLMDBENCH_NOTHING"]);
    check("scenarios: long-inptu\n", &["there is no scenario `long-inptu`"]);
    let args = ["plan", "--endpoint", "http://127.0.0.1:9", "--model", "m", "--profile"];
    let ended = bench.run(&[&args[..], &["sanity_shortinput"]].concat()).expect(2);
    ended.says("did you mean `sanity_short-input`?");
}

#[test]
fn the_originals_profiles_plan_what_they_say_and_warn_of_what_they_cannot() {
    let bench = Bench::new();
    let folder = root().join("examples/workloads");
    let names = std::fs::read_dir(folder).unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.strip_suffix(".yaml.in").map(str::to_owned)
    });
    let mut seen = 0;
    for name in names {
        let args = [
            "plan",
            "--endpoint",
            "http://127.0.0.1:9",
            "--model",
            "m",
            "--profile",
            name.as_str(),
        ];
        let ended = bench.run(&args).expect(0);
        let scenario = if name.contains("long") { "long-input" } else { "s" };
        assert!(ended.stdout.contains(&format!("  {scenario}")), "{}", ended.stdout);
        let one_round = name.contains("sanity_long") || name.contains("small");
        assert_eq!(ended.stderr.contains("with 1 round"), one_round, "{name}: {}", ended.stderr);
        seen += 1;
    }
    assert_eq!(seen, 6);
    assert!(!Path::new("w").exists());
}

#[test]
fn prompts_of_conversations_need_a_tokenizer() {
    let bench = Bench::new();
    let said = |from: &str| json!({"from": from, "value": "words"});
    let rounds: Vec<Value> =
        (0..10).map(|i| said(if i % 2 == 0 { "human" } else { "gpt" })).collect();
    bench.write("sharegpt.json", json!([{"id": "a", "conversations": rounds}]).to_string());
    let args = ["plan", "--endpoint", "http://127.0.0.1:9", "--model", "m"];
    let more = ["--profile", "sanity_sharegpt", "--dataset", "sharegpt.json"];
    let ended = bench.run(&[&args[..], &more].concat()).expect(2);
    ended.says("answers cannot be counted").says("--tokenizer");
}
