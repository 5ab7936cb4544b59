//! What stands in a run folder: later commands use it, and none takes it down or hides it unasked.

use acceptance::{Bench, Log, Reply, Server, Stub, get, lives};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const EXPERIMENT: &str = "deploy: {method: local, model: sim-model, settings: {simulator: {ttft: 2ms, itl: 1ms}}}\n\
     harness: {settings: {stages: [{concurrency: 1, requests: 3}]}}\n\
     workload: {settings: {input_tokens: 8, output_tokens: 2}}\n";

/// A folder in which a stack stands, and its process.
#[track_caller]
fn standing() -> (Bench, i32) {
    let bench = Bench::new();
    bench.write("e.yaml", EXPERIMENT);
    bench.run(&["standup", "e.yaml"]).expect(0);
    let [pid] = bench.standing()[..] else { panic!("one process: {:?}", bench.standing()) };
    (bench, pid)
}

#[test]
fn bench_into_the_folder_of_a_stack_refuses_and_leaves_it_standing() {
    let (bench, pid) = standing();
    let kept = ["w/plan.json", "w/target.json", "w/setup/processes.json"];
    let before = kept.map(|file| bench.read(file));
    let ended = bench.run(&["bench", "e.yaml", "--workdir", "w"]).expect(2);
    for part in ["something stands already", &format!("pid {pid}"), "llmdbench teardown"] {
        assert!(ended.stderr.contains(part), "no `{part}` in {}", ended.stderr);
    }
    assert!(lives(pid));
    assert_eq!(kept.map(|file| bench.read(file)), before);
    assert!(!bench.path("w/results").exists(), "no load was made");
    // In a folder of its own it disturbs nobody.
    bench.run(&["bench", "e.yaml", "--workdir", "other"]).expect(0);
    assert!(lives(pid));
    bench.run(&["smoketest"]).expect(0);
}

#[test]
fn teardown_of_a_dry_run_by_the_environment_stops_nothing() {
    let (bench, pid) = standing();
    let bench = bench.env("LLMDBENCH_CONTROL_DRY_RUN", "1");
    let said = bench.run(&["teardown"]).expect(0).stdout;
    assert!(said.contains(&format!("would stop server (pid {pid})")), "{said}");
    assert!(lives(pid));
    assert!(!bench.path("w/setup/teardown.json").exists());
    let bench = bench.env("LLMDBENCH_CONTROL_DRY_RUN", "0");
    bench.run(&["teardown"]).expect(0);
    assert!(!lives(pid));
}

#[test]
fn run_without_a_file_drives_load_into_what_stands_and_says_when_nothing_does() {
    let (bench, pid) = standing();
    let run = ["run", "--rate", "50", "--requests", "5"];
    bench.run(&run).expect(0);
    let log = bench.log();
    assert_eq!(log.records.len(), 5);
    assert!(log.records.iter().all(|record| record.error.is_none() && record.due.is_some()));
    assert_eq!(
        bench.json("w/results/plan.json")["experiment"]["deploy"]["models"][0]["id"],
        "sim-model"
    );
    assert!(lives(pid), "run takes nothing down");
    bench.run(&["teardown"]).expect(0);
    for run in [&["run", "e.yaml"][..], &run] {
        let ended = bench.run(run).expect(2);
        assert_eq!(ended.errors().len(), 1, "{}", ended.stderr);
        ended.says("nothing stands in `w`");
    }
    assert!(!bench.path("w/results/2").exists(), "no load was made");
}

#[test]
fn run_against_an_endpoint_leaves_the_target_of_the_stack_alone() {
    let (bench, pid) = standing();
    let kept = ["w/target.json", "w/plan.json", "w/setup/processes.json"];
    let before = kept.map(|file| bench.read(file));
    let other = Server::start(&["--ttft", "2ms", "--itl", "1ms"]);
    let load = ["--concurrency", "1", "--requests", "4"];
    let args = [&["run", "--endpoint", &other.url, "--model", "m"], &load[..]].concat();
    bench.run(&args).expect(0);
    let asked = other.truth().iter().filter(|line| line.id.is_some()).count();
    assert_eq!(asked, 4, "the load went to the endpoint");
    assert_eq!(kept.map(|file| bench.read(file)), before);
    // And the next one finds the stack as before.
    bench.run(&[&["run"], &load[..]].concat()).expect(0);
    let asked = other.truth().iter().filter(|line| line.id.is_some()).count();
    assert_eq!(asked, 4, "the load went to the stack");
    assert_eq!(Log::read(&bench.path("w/results/2/records.jsonl")).records.len(), 4);
    let url = bench.json("w/target.json")["endpoints"][0].as_str().unwrap().to_owned();
    assert!(get(&format!("{url}/v1/models")).contains("sim-model"));
    bench.run(&["teardown"]).expect(0);
    assert!(!lives(pid));
    assert!(get(&format!("{}/v1/models", other.url)).contains("\"m\""));
}

#[test]
fn a_smoke_test_asks_the_route_of_the_target_too_and_keeps_every_answer() {
    let server = Server::start(&["--ttft", "1ms", "--itl", "1ms"]);
    let other = Stub::start(|_| Reply::models(&["other"]));
    let bench = Bench::new();
    bench.run(&["smoketest", "--endpoint", &server.url, "--model", "m"]).expect(0);
    let through = |url: &str| {
        let mut target = bench.json("w/target.json");
        target["facts"]["route"] = json!(url);
        bench.write("w/target.json", target.to_string());
        bench.run(&["smoketest"])
    };
    through(&server.url).expect(0).says(&format!("smoketest: the route {}", server.url));
    let ended = through(&other.url).expect(3).says("the target has no model `m`");
    ended.says("it has other").says(&format!("the route {} was asked", other.url));
    let checks = bench.json("w/setup/smoketest.json")["checks"].clone();
    assert_eq!(checks[0]["completion"]["status"], 200);
    assert!(checks[0]["error"].is_null() && checks[1]["completion"].is_null(), "{checks}");
    assert!(checks[1]["error"].as_str().unwrap().contains("no model `m`"), "{checks}");
}

#[test]
fn an_interrupt_ends_a_question_to_a_server_that_never_answers() {
    for (command, hangs_at) in [
        ("run", "/v1/models"),
        ("run", "/version"),
        ("run", "/tokenize"),
        ("smoketest", "/v1/models"),
        ("smoketest", "/v1/chat/completions"),
        ("smoketest", "/version"),
    ] {
        let (asked, question) = channel();
        let asked = Mutex::new(asked);
        let stub = Stub::start(move |request| {
            if request.path == hangs_at {
                // Where nobody waits for it any more the test has failed already.
                let _ = asked.lock().unwrap().send(());
                loop {
                    std::thread::park();
                }
            }
            if request.is_completion() {
                let words = json!({"choices": [{"message": {"content": "Hello"}}]});
                return Reply::json(200, &words);
            }
            Reply::models(&["m"])
        });
        let bench = Bench::new();
        // Only prompts of a certain length make it ask how long words are.
        let load = ["--concurrency", "1", "--requests", "1", "--input-tokens", "8"];
        let load = if command == "run" { &load[..] } else { &[] };
        let args = [&[command, "--endpoint", &stub.url, "--model", "m"], load].concat();
        let running = bench.start(&args);
        question.recv_timeout(Duration::from_secs(60)).unwrap();
        let begin = Instant::now();
        running.signal(Signal::SIGINT);
        running.wait().expect(130).says("interrupted");
        // Its own patience with a server is 30 s.
        assert!(begin.elapsed() < Duration::from_secs(15), "it took {:?}", begin.elapsed());
    }
}

#[test]
fn records_of_any_name_are_analysed_with_results_under_that_name() {
    let (bench, _) = standing();
    bench.run(&["run", "e.yaml"]).expect(0);
    bench.write("kept/some-records.jsonl", bench.read("w/results/records.jsonl"));
    bench.run(&["analyze", "kept/some-records.jsonl"]).expect(0);
    let report = bench.run(&["report", "kept/some-records.jsonl"]).expect(0).stdout;
    assert!(bench.path(report.trim()).is_file(), "{report}");
    let inside = |name: &str| {
        let files = bench.files();
        let kept = files.iter().filter(|file| file.starts_with(bench.path("kept")));
        kept.filter(|file| file.ends_with(name)).cloned().collect::<Vec<_>>()
    };
    let [summary] = &inside("summary.json")[..] else { panic!("{:?}", bench.files()) };
    assert!(summary.to_string_lossy().contains("some-records"), "{}", summary.display());
    let summary = std::fs::read_to_string(summary).unwrap();
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["stages"][0]["succeeded"], 3);
}

/// An API server of a cluster in which nothing stands, that makes the first object that it is sent and says it has failed.
fn api_server() -> Stub {
    let made: Mutex<Option<(String, Value)>> = Mutex::default();
    let kind = |name: &str, kind: &str| json!({"name": name, "singularName": "", "kind": kind, "namespaced": true, "verbs": ["get", "list", "delete"]});
    let kinds = |version: &str, kinds: Value| json!({"kind": "APIResourceList", "groupVersion": version, "resources": kinds});
    let status = |code: u16, reason: &str| {
        let body = json!({"kind": "Status", "status": "Failure", "reason": reason, "message": reason, "code": code});
        Reply::json(code, &body)
    };
    Stub::start(move |request| {
        let path = request.path.split('?').next().unwrap_or_default();
        let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
        let own = made.as_ref().filter(|(own, _)| own == path).map(|(_, object)| object.clone());
        let version = json!({"groupVersion": "apps/v1", "version": "v1"});
        let body = match (request.method.as_str(), path) {
            ("PATCH", _) => {
                let mut object = request.json();
                object["metadata"]["uid"] = json!("1");
                made.get_or_insert((path.to_owned(), object));
                return status(500, "InternalError");
            }
            ("DELETE", _) if own.is_some() => {
                *made = None;
                json!({"kind": "Status", "status": "Success"})
            }
            ("GET", "/version") => json!({
                "gitVersion": "v1.34.0", "major": "1", "minor": "34", "gitCommit": "", "gitTreeState": "",
                "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
            }),
            ("GET", "/apis") => json!({"kind": "APIGroupList", "groups": [
                {"name": "apps", "versions": [version], "preferredVersion": version},
            ]}),
            ("GET", "/apis/apps/v1") => {
                kinds("apps/v1", json!([kind("deployments", "Deployment")]))
            }
            ("GET", "/api/v1") => {
                let all = [("services", "Service"), ("pods", "Pod"), ("events", "Event")];
                kinds("v1", json!(all.map(|(name, of)| kind(name, of))))
            }
            ("GET", path) if path.ends_with('s') => {
                let items = made
                    .iter()
                    .filter(|(own, _)| own.rsplit('/').nth(1) == path.rsplit('/').next());
                let items: Vec<&Value> = items.map(|(_, object)| object).collect();
                json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})
            }
            _ => match own {
                Some(object) => object,
                None => return status(404, "NotFound"),
            },
        };
        Reply::json(200, &body)
    })
}

#[test]
fn an_object_that_was_made_without_an_answer_is_taken_down() {
    let cluster = api_server();
    let bench = Bench::new()
        .env("LLMDBENCH_CLUSTER_URL", &cluster.url)
        .env("LLMDBENCH_CLUSTER_TOKEN", "token");
    bench.write("e.yaml", "deploy: {method: standalone, model: org/model}\n");
    let ended = bench.run(&["standup", "e.yaml", "-s", "6"]).expect(3).says("InternalError");
    ended.says("takes it down");
    assert_eq!(bench.json("w/setup/objects.json")["objects"], json!([]));
    bench.run(&["status"]).expect(0);
    bench.run(&["teardown"]).expect(0).says("teardown: Deployment");
    let asked = cluster.seen();
    assert_eq!(asked.iter().filter(|request| request.method == "DELETE").count(), 1);
    bench.run(&["teardown"]).expect(0).says("nothing stands");
}
