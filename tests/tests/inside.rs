//! Load from inside a real cluster: agents in pods send what one process would, whatever happens to one of them, to
//! the controller, or to the way between them.
//!
//! It needs the cluster of KUBECONFIG, and the image of LLMDBENCH_TEST_IMAGE, without which all is skipped.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

use acceptance::{Ended, Log, Running, Stand, plugin, until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A stand with an experiment whose load is these stages.
fn stand(name: &str, stages: &Value) -> Option<Stand> {
    let stand = Stand::new(name)?.env("LLMDBENCH_HF_TOKEN", "hf_secret_of_the_user");
    experiment(&stand, stages);
    Some(stand)
}

fn experiment(stand: &Stand, stages: &Value) {
    stand.experiment(
        &json!({}),
        &json!({
            "harness": {"settings": {"stages": stages}},
            "workload": {"settings": {"input_tokens": 32, "output_tokens": 8}},
        }),
    );
}

/// Load that was made, whatever a busy machine makes of its verdict.
#[track_caller]
fn measured(ended: Ended) -> Ended {
    assert!([0, 7].contains(&ended.code), "{}", ended.output());
    ended
}

fn has_begun(journal: &Path) -> bool {
    std::fs::read_to_string(journal).is_ok_and(|text| text.contains("\"id\""))
}

/// The pods of the agents, in their order, as soon as all run.
fn agents(stand: &Stand, count: usize) -> Vec<String> {
    const INDEX: &str = "batch.kubernetes.io/job-completion-index";
    let running = || {
        let mut pods = stand.get("v1", "Pod");
        let stays = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_null();
        pods.retain(|pod| pod["status"]["phase"] == "Running" && stays(pod));
        let index = |pod: &Value| pod["metadata"]["labels"][INDEX].as_str().map(str::to_owned);
        let mut pods: Vec<(String, String)> = pods
            .iter()
            .filter_map(|pod| Some((index(pod)?, pod["metadata"]["name"].as_str()?.to_owned())))
            .collect();
        pods.sort();
        pods.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
    };
    until("a pod of each agent", || running().len() == count);
    running()
}

fn state(stand: &Stand, agent: &str) -> String {
    let state: Value =
        serde_json::from_str(&stand.exec(agent, &["cat", "/work/state.json"])).unwrap();
    state["state"].as_str().unwrap().to_owned()
}

/// Two agents that have made ready what they were given, and whose controller is gone.
fn left_alone(stand: &Stand) -> Vec<String> {
    let running = stand.bench.start(&["run", "e.yaml", "-j", "2"]);
    let agents = agents(stand, 2);
    for agent in &agents {
        let has_work = "until [ -d /work/in ]; do sleep 0.05; done";
        let _ = stand.exec(agent, &["sh", "-c", has_work]);
    }
    running.signal(Signal::SIGKILL);
    drop(running.wait());
    for agent in &agents {
        until("an agent that is ready", || state(stand, agent) == "ready");
    }
    agents
}

/// Tells an agent to begin, as the controller does.
fn begin(stand: &Stand, agent: &str, more: &[&str]) {
    let zero = SystemTime::now() + Duration::from_secs(2);
    let zero = zero.duration_since(UNIX_EPOCH).unwrap().as_nanos().to_string();
    let order = ["llmdbench", "agent", "start", "--zero", &zero];
    let _ = stand.exec(agent, &[&order, more].concat());
    until("an agent that begins", || state(stand, agent) == "running");
}

/// Stage, number, session, and when the schedule wanted it after the begin of the stage.
fn schedule(stand: &Stand, results: &str) -> BTreeSet<(u64, u64, u64, u64)> {
    let text = stand.bench.read(&format!("w/{results}/records.jsonl"));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let begin = |stage: &Value| {
        let begins = lines.iter().find(|l| l["phase"] == "begin" && l["stage"] == *stage).unwrap();
        begins["at"].as_u64().unwrap()
    };
    lines
        .iter()
        .filter(|line| line["id"].is_u64())
        .map(|line| {
            let number = |key: &str| line[key].as_u64().unwrap();
            (
                number("stage"),
                number("id"),
                number("session"),
                number("due") - begin(&line["stage"]),
            )
        })
        .collect()
}

#[test]
fn bench_does_it_all_inside_and_leaves_nothing_but_what_was_prepared() {
    let Some(stand) = stand("bench", &json!([{"rate": 20, "for": "3s"}])) else { return };
    let stand = stand.env("LLMDBENCH_API_KEY", "sk-secret-of-the-user");
    stand.put(vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": stand.namespace}}),
    ]);
    stand.put(vec![
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "of-somebody"}}),
    ]);
    stand.standup("5").expect(0);
    // The stack of one and the load of the other go under one name, which nothing has at the end.
    let ended = measured(stand.bench.run(&["bench", "e.yaml", "--workdir", "b"]));
    let ended = ended.says("1 agent in");
    assert!(!ended.stderr.contains("forwards"), "{}", ended.stderr);
    let run: Value = stand.bench.json("b/results/run.json");
    assert_eq!(run["target"]["within"]["kind"], "Service");
    let agent = &run["agents"][0];
    assert!(agent["image"].as_str().unwrap().contains("sha256:"), "{agent}");
    assert!(agent["clock_error_ms"].as_f64().unwrap() >= 0.0, "{agent}");
    let log = Log::read(&stand.bench.path("b/results/records.jsonl"));
    assert_eq!(log.scheduled(), 60);
    assert!(log.records.iter().all(|record| record.error.is_none()));
    assert!(stand.bench.path("b/results/server_metrics.jsonl").exists());
    assert!(stand.bench.path("b/results/agents/0/agent.log").exists());
    assert!(stand.bench.path("b/analysis/report.html").exists());

    let of_run: Value = stand.bench.json("b/setup/objects.json");
    assert!(stand.of_run(of_run["run"].as_str().unwrap()).is_empty());
    assert_eq!(
        stand
            .get("v1", "ConfigMap")
            .iter()
            .filter(|m| m["metadata"]["name"] == "of-somebody")
            .count(),
        1
    );
    let job = stand.bench.read("b/results/agents/job.json");
    assert!(job.contains("\"automountServiceAccountToken\": false"), "{job}");
    for path in stand.bench.files() {
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        for secret in ["hf_secret_of_the_user", "sk-secret-of-the-user"] {
            assert!(!text.contains(secret), "{}", path.display());
        }
    }
    assert!(!stand.everything().contains("sk-secret-of-the-user"));
}

#[test]
fn four_agents_send_what_one_sends_and_their_throughputs_add_up() {
    let stages = json!([
        {"rate": 40, "for": "3s", "arrival": "poisson"},
        {"rate": 30, "requests": 50, "arrival": "constant"},
    ]);
    let Some(stand) = stand("four", &stages) else { return };
    stand.standup("5-8").expect(0);
    measured(stand.bench.run(&["run", "e.yaml"]));
    drop(measured(stand.bench.run(&["run", "e.yaml", "-j", "4"])).says("4 agents in"));
    let (one, four) = (schedule(&stand, "results"), schedule(&stand, "results/2"));
    assert!(one.len() > 120, "{}", one.len());
    assert_eq!(one, four);
    let throughput = |folder: &str| {
        let summary = stand.bench.json(&format!("w/{folder}/data/summary.json"));
        summary["stages"][0]["metrics"]["request_throughput"]["value"].as_f64().unwrap()
    };
    let (one, four) = (throughput("analysis"), throughput("analysis/2"));
    assert!((four / one - 1.0).abs() < 0.1, "{one} {four}");
    let agents: Value = stand.bench.json("w/results/2/agents.json");
    assert_eq!(agents["agents"].as_array().unwrap().len(), 4);
    // Data and plugins of the user's own reach the agents.
    stand.bench.write("d.json", r#"[{"id": "a", "conversations": [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "It is that."}]}]"#);
    let words = plugin("example-plugins", "rust-workload");
    let load = ["--rate", "10", "--requests", "6"];
    let foreign = [&["run", "--plugin", &words], &load[..]].concat();
    measured(stand.bench.run(&foreign));
    let run: Value = stand.bench.json("w/results/3/run.json");
    assert_eq!(run["triple"]["workload"], "greetings");
    measured(stand.bench.run(&[&["run", "--dataset", "d.json"], &load[..]].concat()));
    stand.bench.run(&["run", "e.yaml", "-j", "1001"]).expect(2).says("1 to 1000 can");
    let few = ["run", "--concurrency", "2", "--requests", "9", "-j", "3"];
    stand.bench.run(&few).expect(2).says("which 3 agents cannot share");
    let here = ["run", "--load-from", "here", "--rate", "5", "--requests", "5"];
    drop(measured(stand.bench.run(&here)).says("forwards"));
    let report = stand.bench.read("w/analysis/5/report.html");
    assert!(report.contains("a port forwarded by the API server"));
}

#[test]
fn an_agent_that_goes_away_is_named_and_what_was_measured_is_kept() {
    let Some(stand) = stand("lost", &json!([{"rate": 30, "for": "10s"}])) else { return };
    stand.standup("5-8").expect(0);
    let running = stand.bench.start(&["run", "e.yaml", "-j", "3"]);
    let journal = stand.bench.path("w/results/agents/1/records.jsonl");
    until("a record", || has_begun(&journal));
    let second = agents(&stand, 3)[1].clone();
    stand.delete_pod(&second);
    let ended = running.wait().expect(4);
    let ended =
        ended.says("agent 1 of 3 was lost").says(&second).says("requests are kept").says("partial");
    drop(ended);
    let log = Log::read(&stand.bench.path("w/results/records.jsonl"));
    let of = |shard: u64| log.records.iter().filter(|record| record.session % 3 == shard).count();
    assert_eq!(of(0) + of(2) + log.scheduled() - log.records.len(), 200);
    assert!((1..100).contains(&of(1)), "{}", of(1));
    assert_eq!(stand.bench.summary()["partial"], true);
    assert!(stand.bench.read("w/analysis/report.html").contains("agent 1 of 3 was lost"));
    assert!(stand.get("batch/v1", "Job").is_empty());
    // A third of the load was not sent: what is left is not what was asked for.
    let health = &stand.bench.summary()["health"];
    assert_eq!(health["verdict"], "invalid", "{health}");
    let reasons = health["reasons"].as_array().unwrap();
    let lost = reasons.iter().find(|reason| reason["rule"] == "not_as_planned").unwrap();
    assert_eq!((&lost["value"], &lost["limit"]), (&json!(1.0 / 3.0), &json!(0.0)));
    // Its pod is gone, and its events are not.
    let events: Value = stand.bench.json("w/results/agents/events.json");
    let events = events["events"].as_array().unwrap();
    let has = |object: &str, reason: &str| {
        events.iter().any(|event| event["object"] == object && event["reason"] == reason)
    };
    assert!(has(&format!("Pod {second}"), "Started"), "{events:?}");
    assert!(events.iter().any(|event| event["reason"] == "SuccessfulCreate"), "{events:?}");
    let pods: Value = stand.bench.json("w/results/agents/pods.json");
    let digests = pods["pods"].as_array().unwrap().iter();
    let digests: Vec<_> = digests.map(|pod| pod["containers"][0]["digest"].as_str()).collect();
    assert_eq!(digests.len(), 2);
    assert!(digests.iter().all(|digest| digest.unwrap().contains("sha256:")), "{digests:?}");
}

#[test]
fn what_kept_agents_from_coming_up_is_told_and_its_events_are_kept() {
    let Some(stand) = stand("absent", &json!([])) else { return };
    let load = json!({"load": {"image": "localhost/nobody/has-this:1", "cpu": "50m"}});
    stand.experiment(&json!({}), &load);
    stand.standup("5").expect(0);
    let target = ["--endpoint", "http://127.0.0.1:1", "--model", "org/model"];
    let load = ["--load-from", "cluster", "--rate", "1", "--requests", "1"];
    drop(stand.bench.run(&[&["run", "e.yaml"], &target[..], &load].concat()).expect(4));
    let events: Value = stand.bench.json("w/results/agents/events.json");
    let text = events.to_string();
    assert!(text.contains("localhost/nobody/has-this:1") && text.contains("Failed"), "{text}");
    assert!(stand.get("batch/v1", "Job").is_empty());
}

#[test]
fn agents_go_on_without_their_controller_and_another_collects_everything() {
    let Some(stand) = stand("attach", &json!([{"rate": 20, "for": "8s"}])) else { return };
    stand.standup("5-8").expect(0);
    let running = stand.bench.start(&["run", "e.yaml", "-j", "2"]);
    let journal = stand.bench.path("w/results/agents/0/records.jsonl");
    until("a record", || has_begun(&journal));
    // Two that follow would write every line twice.
    let status = stand.bench.run(&["status"]).expect(0);
    assert!(status.stdout.contains("which another process follows"), "{}", status.stdout);
    stand.bench.run(&["run", "--attach"]).expect(2).says("another llmdbench follows the agents");
    stand.bench.run(&["teardown"]).expect(6).says("another llmdbench follows the Job");
    running.signal(Signal::SIGKILL);
    drop(running.wait());
    let status = stand.bench.run(&["status"]).expect(0);
    assert!(status.stdout.contains("`llmdbench run --attach` collects it"), "{}", status.stdout);
    // What nobody has collected is not removed.
    drop(stand.bench.run(&["teardown", "-n"]).expect(0).says("agents 0, 1 of 2 measured"));
    let refused = stand.bench.run(&["teardown"]).expect(6).says("agents 0, 1 of 2 measured");
    drop(refused.says("`llmdbench run --attach --workdir w` collects it"));
    drop(measured(stand.bench.run(&["run", "--attach"])).says("attached to 2 agents"));
    let log = Log::read(&stand.bench.path("w/results/records.jsonl"));
    assert_eq!(log.scheduled(), 160);
    assert_eq!(stand.bench.summary()["partial"], false);
    stand.bench.run(&["run", "--attach"]).expect(2).says("no agents of");

    // What is given up goes with the stack; what came here before that is kept, and is partial.
    let running = stand.bench.start(&["run", "e.yaml"]);
    let journal = stand.bench.path("w/results/2/agents/0/records.jsonl");
    until("a record", || has_begun(&journal));
    running.signal(Signal::SIGKILL);
    drop(running.wait());
    stand.bench.run(&["teardown", "-d"]).expect(6).says("--discard-results");
    assert_eq!(stand.get("batch/v1", "Job").len(), 1);
    let discarded = ["teardown", "-d", "--discard-results"];
    drop(stand.bench.run(&discarded).expect(0).says("given up: what the agents had"));
    assert!(stand.of_run(&stand.run()).is_empty());
    let ended = stand.bench.run_with(&[("KUBECONFIG", "/nowhere")], &["run", "--attach"]);
    drop(ended.expect(4).says("agent 0 of 1 was lost").says("--discard-results"));
    assert_eq!(stand.bench.json("w/analysis/2/data/summary.json")["partial"], true);
    stand.bench.run(&["teardown", "-d"]).expect(0).says("nothing stands");
}

#[test]
fn what_could_not_be_merged_is_merged_later_and_needs_no_cluster_for_it() {
    let Some(stand) = stand("merge", &json!([{"rate": 20, "for": "4s"}])) else { return };
    stand.standup("5-8").expect(0);
    let running = stand.bench.start(&["run", "e.yaml", "-j", "2"]);
    let journal = stand.bench.path("w/results/agents/0/records.jsonl");
    until("a record", || has_begun(&journal));
    // Where the whole shall be written stands something else.
    let whole = stand.bench.path("w/results/records.jsonl");
    std::fs::create_dir(&whole).unwrap();
    drop(running.wait().expect(1).says("cannot merge").says("`llmdbench run --attach` merges it"));
    assert!(stand.get("batch/v1", "Job").is_empty());
    let status = stand.bench.run(&["status"]).expect(0);
    assert!(status.stdout.contains("made by agents that are gone"), "{}", status.stdout);
    let nowhere = [("KUBECONFIG", "/nowhere")];
    drop(stand.bench.run_with(&nowhere, &["run", "--attach"]).expect(1).says("cannot merge"));
    std::fs::remove_dir(&whole).unwrap();
    drop(measured(stand.bench.run_with(&nowhere, &["run", "--attach"])));
    let log = Log::read(&whole);
    assert_eq!(log.scheduled(), 80);
    assert_eq!(stand.bench.summary()["partial"], false);
    assert!(stand.bench.path("w/results/server_metrics.jsonl").exists());
    stand.bench.run(&["run", "--attach"]).expect(2).says("no agents of");
}

#[test]
fn a_controller_that_ends_between_its_orders_to_begin_is_stood_in_for() {
    let Some(stand) = stand("orders", &json!([{"rate": 20, "for": "4s"}])) else { return };
    stand.standup("5-8").expect(0);
    begin(&stand, &left_alone(&stand)[0], &[]);
    drop(measured(stand.bench.run(&["run", "--attach"])).says("attached to 2 agents"));
    assert_eq!(Log::read(&stand.bench.path("w/results/records.jsonl")).scheduled(), 80);
    assert_eq!(stand.bench.summary()["partial"], false);

    // The first one of them does not wait for ever: what it has sent is not the load that was asked for.
    let agents = left_alone(&stand);
    begin(&stand, &agents[0], &[]);
    until("the end of an agent without the other", || state(&stand, &agents[0]) == "ended");
    let ended = stand.bench.run(&["run", "--attach"]).expect(4);
    drop(ended.says("agent 1 of 2 was lost").says("nobody told it to begin"));
    assert_eq!(Log::read(&stand.bench.path("w/results/2/records.jsonl")).scheduled(), 40);
    let summary: Value = stand.bench.json("w/analysis/2/data/summary.json");
    assert_eq!(
        (&summary["partial"], &summary["health"]["verdict"]),
        (&json!(true), &json!("invalid"))
    );
    assert!(stand.get("batch/v1", "Job").is_empty());
}

#[test]
fn agents_that_do_not_find_each_other_do_not_make_the_load_that_was_asked_for() {
    let stages = json!([{"rate": 20, "for": "2s"}, {"rate": 20, "for": "2s"}]);
    let Some(stand) = stand("apart", &stages) else { return };
    stand.standup("5-8").expect(0);
    let agents = left_alone(&stand);
    begin(&stand, &agents[0], &[]);
    begin(&stand, &agents[1], &["--first", "127.0.0.1:1"]);
    let ended = stand.bench.run(&["run", "--attach"]).expect(4);
    drop(ended.says("agent 1 lost its way to the first one"));
    assert_eq!(Log::read(&stand.bench.path("w/results/records.jsonl")).scheduled(), 80);
    let summary = stand.bench.summary();
    assert_eq!(summary["partial"], false);
    let reasons = summary["health"]["reasons"].as_array().unwrap();
    let apart = reasons.iter().find(|reason| reason["rule"] == "not_as_planned").unwrap();
    assert_eq!((&apart["verdict"], &apart["value"]), (&json!("invalid"), &json!(0.5)));
}

#[test]
fn an_interruption_ends_the_load_in_an_orderly_way_and_takes_the_agents_down() {
    let Some(stand) = stand("interrupt", &json!([{"rate": 20, "for": "60s"}])) else { return };
    stand.standup("5-8").expect(0);
    let running = stand.bench.start(&["run", "e.yaml", "-j", "2"]);
    let journal = stand.bench.path("w/results/agents/0/records.jsonl");
    until("a record", || has_begun(&journal));
    running.signal(Signal::SIGINT);
    drop(running.wait().expect(130).says("what was measured is kept"));
    assert!(!Log::read(&stand.bench.path("w/results/records.jsonl")).records.is_empty());
    assert!(stand.get("batch/v1", "Job").is_empty());
}

#[test]
fn two_loads_at_a_time_on_one_stack_do_not_disturb_each_other() {
    let Some(stand) = stand("two", &json!([{"rate": 15, "for": "4s"}])) else { return };
    stand.standup("5-8").expect(0);
    let target: Value = stand.bench.json("w/target.json");
    let url = target["endpoints"][0].as_str().unwrap().to_owned();
    let begin = |folder: &str| -> Running {
        let to = ["--endpoint", &url, "--model", "org/model", "--load-from", "cluster"];
        stand.bench.start(&[&["run", "e.yaml", "--workdir", folder], &to[..]].concat())
    };
    let both = [begin("a"), begin("b")];
    for (running, folder) in both.into_iter().zip(["a", "b"]) {
        measured(running.wait());
        let log = Log::read(&stand.bench.path(&format!("{folder}/results/records.jsonl")));
        assert_eq!(log.scheduled(), 60, "{folder}");
        assert!(log.records.iter().all(|record| record.error.is_none()), "{folder}");
    }
    stand.bench.run(&["smoketest"]).expect(0);
}
