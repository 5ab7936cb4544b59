//! C09: data sets with odd turns.

use acceptance::{Bench, Request, Stub, root};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;

fn case() -> Vec<u8> {
    std::fs::read(root().join("tests/cases/C09-sharegpt.json")).unwrap()
}

/// Drives a data set into a server and gives the messages of every request.
fn asked(bench: &Bench, file: &str, more: &[&str]) -> Vec<Value> {
    let stub = Stub::good();
    let mut args =
        vec!["run", "--endpoint", &stub.url, "--model", "m", "--dataset", file, "--rate", "50"];
    args.extend(more);
    bench.run(&args).expect(0);
    let completions = stub.completions();
    assert_eq!(bench.log().records.len(), completions.len());
    assert!(bench.log().records.iter().all(|record| record.error.is_none()));
    let messages = |request: &Request| request.json()["messages"].clone();
    completions.iter().map(messages).collect()
}

/// The request whose last message is this.
#[track_caller]
fn with_prompt<'a>(all: &'a [Value], prompt: &str) -> &'a Value {
    let mut found = all
        .iter()
        .filter(|messages| messages.as_array().unwrap().last().unwrap()["content"] == prompt);
    let first = found.next().unwrap_or_else(|| panic!("nobody asked `{prompt}`"));
    assert!(found.next().is_none(), "`{prompt}` was asked twice");
    first
}

/// What the plan says of a data set.
fn planned(bench: &Bench, file: &str) -> Value {
    let ended = bench.run(&[
        "--output",
        "json",
        "plan",
        "--endpoint",
        "http://127.0.0.1:9",
        "--model",
        "m",
        "--dataset",
        file,
        "--rate",
        "5",
    ]);
    serde_json::from_str(&ended.expect(0).stdout).unwrap()
}

#[test]
fn c09_what_cannot_be_asked_is_left_out_and_counted_with_its_reason() {
    let bench = Bench::new();
    bench.write("c09.json", case());
    let plan = planned(&bench, "c09.json");
    assert_eq!(
        (&plan["workload"]["sessions"], &plan["workload"]["requests"]),
        (&json!(5), &json!(6))
    );
    let skipped: BTreeMap<String, String> =
        serde_json::from_value::<Vec<(String, String)>>(plan["workload"]["skipped"].clone())
            .unwrap()
            .into_iter()
            .collect();
    let right =
        ["empty prompt", "no answer", "empty answer", "two turns of one speaker", "no turns"];
    assert_eq!(skipped, right.map(|reason| (reason.to_owned(), "1".to_owned())).into());
    let findings = plan["findings"].to_string();
    assert!(findings.contains("5 of 10 conversations are left out"), "{findings}");
}

#[test]
fn c09_conversations_are_asked_as_they_were_held() {
    let bench = Bench::new();
    bench.write("c09.json", case());
    let all = asked(&bench, "c09.json", &[]);
    assert_eq!(all.len(), 6);
    let user = |text: &str| json!({"role": "user", "content": text});
    assert_eq!(with_prompt(&all, "What is 2+2?"), &json!([user("What is 2+2?")]));
    assert_eq!(with_prompt(&all, "Go on"), &json!([user("Go on")]));
    let system = json!({"role": "system", "content": "Answer in French."});
    assert_eq!(with_prompt(&all, "Hello"), &json!([system, user("Hello")]));
    let html = r#"<div class="markdown prose"><p>Use &lt;b&gt; here</p></div>"#;
    assert_eq!(html.len(), 59);
    assert_eq!(with_prompt(&all, html), &json!([user(html)]));
    // The history is what the server answered, not what the file says.
    let answer = json!({"role": "assistant", "content": "Hello there"});
    assert_eq!(with_prompt(&all, "Second?"), &json!([user("First?"), answer, user("Second?")]));
    assert!(bench.read("w/analysis/report.html").contains("5 of 10 conversations are left out"));
}

#[test]
fn c09_first_turns_alone_are_five_requests() {
    let bench = Bench::new();
    bench.write("c09.json", case());
    bench.write(
        "e.yaml",
        "deploy: {model: m}\nharness: {settings: {stages: [{rate: 50, whole_workload: true}]}}\n\
         workload: {plugin: sharegpt, settings: {file: c09.json, mode: first_turn}}\n",
    );
    let stub = Stub::good();
    bench.run(&["run", "e.yaml", "--endpoint", &stub.url]).expect(0);
    let completions = stub.completions();
    assert_eq!(completions.len(), 5);
    for request in &completions {
        let messages = request.json()["messages"].clone();
        let last = messages.as_array().unwrap().last().unwrap().clone();
        assert!(!last["content"].as_str().unwrap().is_empty());
        assert_eq!(last["role"], "user");
    }
}

#[test]
fn c09_every_form_of_the_data_gives_the_same_requests() {
    let bench = Bench::new();
    let items: Vec<Value> = serde_json::from_slice(&case()).unwrap();
    let lines = |items: &[Value]| items.iter().map(|item| format!("{item}\n")).collect::<String>();
    let renamed: Vec<Value> = items
        .iter()
        .map(|item| {
            let turns = item["conversations"].as_array().unwrap().iter().map(|turn| {
                let role = match turn["from"].as_str().unwrap() {
                    "human" => "user",
                    "gpt" => "assistant",
                    other => other,
                };
                json!({"role": role, "content": turn["value"]})
            });
            json!({"id": item["id"], "messages": turns.collect::<Vec<_>>()})
        })
        .collect();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(lines(&items).as_bytes()).unwrap();
    bench.write("array.json", case());
    bench.write("lines.jsonl", lines(&items));
    bench.write("roles.jsonl", lines(&renamed));
    bench.write("roles.json", Value::from(renamed).to_string());
    bench.write("packed.jsonl.gz", gz.finish().unwrap());
    let sorted = |file: &str| {
        // Each form has a run folder of its own.
        let own = Bench::new();
        own.write(file, std::fs::read(bench.path(file)).unwrap());
        let mut all: Vec<String> = asked(&own, file, &[]).iter().map(Value::to_string).collect();
        all.sort();
        all
    };
    let right = sorted("array.json");
    assert_eq!(right.len(), 6);
    for file in ["lines.jsonl", "roles.jsonl", "roles.json", "packed.jsonl.gz"] {
        assert_eq!(sorted(file), right, "{file}");
    }
}

#[test]
fn c09_a_file_without_one_conversation_is_an_error_with_what_was_wanted() {
    let bench = Bench::new();
    bench.write("none.json", "[]");
    bench.write("odd.json", r#"[{"conversations": []}]"#);
    for file in ["none.json", "odd.json"] {
        let ended = bench.run(&[
            "plan",
            "--endpoint",
            "http://127.0.0.1:9",
            "--model",
            "m",
            "--dataset",
            file,
            "--rate",
            "5",
        ]);
        let ended = ended.expect(2);
        assert_eq!(ended.errors().len(), 1, "{}", ended.stderr);
        assert!(ended.stderr.contains("conversations"), "{}", ended.stderr);
    }
}
