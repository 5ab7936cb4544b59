//! From standup to teardown, and every way in which a run can be broken off between.

use acceptance::{Bench, Ended, Log, Running, get, lives, ms, program, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use records::EndReason;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// An experiment with the local simulator: so many requests a second until this ends them.
fn experiment(rate: u32, end: &str, simulator: &str) -> String {
    format!(
        "name: life\n\
         deploy: {{method: local, model: sim-model, settings: {{simulator: {simulator}}}}}\n\
         harness: {{settings: {{stages: [{{rate: {rate}, {end}}}]}}}}\n\
         workload: {{settings: {{input_tokens: 16, output_tokens: 8}}}}\n\
         load: {{give_up_after: 2s}}\n\
         analyze: {{slo: {{ttft: 500ms}}}}\n"
    )
}

fn bench(experiment: &str) -> Bench {
    let bench = Bench::new();
    bench.write("e.yaml", experiment);
    bench
}

/// Waits until this many requests have been recorded.
fn wait_for_records(bench: &Bench, n: usize) {
    let path = bench.path("w/results/records.jsonl");
    wait_until("records", || {
        std::fs::read_to_string(&path)
            .is_ok_and(|text| text.lines().filter(|line| line.starts_with("{\"id\"")).count() >= n)
    });
}

/// The one process that stands.
#[track_caller]
fn stack(bench: &Bench) -> i32 {
    let [pid] = bench.standing()[..] else { panic!("one process stands: {:?}", bench.standing()) };
    pid
}

/// The process of a stack whose run folder is torn down.
#[track_caller]
fn assert_torn_down(bench: &Bench, pid: i32) {
    assert!(!lives(pid), "the server still runs");
    assert_eq!(bench.standing(), Vec::<i32>::new(), "nothing stands");
    assert_eq!(bench.json("w/setup/teardown.json")["left"], json!([]));
}

#[test]
fn several_models_get_a_run_each_whatever_becomes_of_the_others() {
    let bench = bench(&experiment(20, "for: 1s", "{ttft: 20ms, itl: 5ms}"));
    let ended = bench.run(&["bench", "e.yaml", "-m", "a,b", "--output", "json"]).expect(0);
    let ended =
        ended.says("stack 1 of 2: local-a").says("stack 2 of 2: local-b").says("all runs: w");
    let told: Value = serde_json::from_str(&ended.stdout).unwrap();
    for run in ["local-a", "local-b"] {
        assert_eq!(told[run]["stages"][0]["name"], "rate-20", "one document: {told:#}");
    }
    for (folder, model) in [("local-a", "a"), ("local-b", "b")] {
        let run: Value = bench.json(&format!("w/{folder}/results/run.json"));
        assert_eq!(run["target"]["model"], model, "{run:#}");
        assert!(bench.path(&format!("w/{folder}/analysis/data/summary.json")).is_file());
    }
    // What works on one run asks which.
    for command in ["teardown", "status"] {
        let ended = bench.run(&[command, "--workdir", "w"]).expect(2);
        ended.says("`w` holds the folders of several runs").says("--workdir w/local-a");
    }
    // The first has a folder in which something stands.
    bench.run(&["standup", "e.yaml", "-m", "a", "--workdir", "w2/local-a"]).expect(0);
    let ended = bench.run(&["bench", "e.yaml", "-m", "a,b", "--workdir", "w2"]).expect(2);
    ended.says("something stands already");
    assert!(bench.path("w2/local-b/analysis/data/summary.json").is_file());
    bench.run(&["teardown", "--workdir", "w2/local-a"]).expect(0);
}

#[test]
fn bench_does_it_all_and_leaves_every_file() {
    let bench = bench(&experiment(20, "requests: 40", "{ttft: 50ms, itl: 5ms}"));
    let ended = bench.run(&["bench", "e.yaml"]).expect(0);
    for text in ["ttft", "itl", "latency"] {
        assert!(ended.stdout.to_lowercase().contains(text), "{}", ended.stdout);
    }
    for file in [
        "plan.json",
        "target.json",
        "environment/variables",
        "environment/settings.yaml",
        "environment/plugins.json",
        "environment/host.json",
        "setup/smoketest.json",
        "setup/teardown.json",
        "results/records.jsonl",
        "results/run.json",
        "analysis/report.html",
        "analysis/data/summary.json",
        "analysis/data/summary.csv",
        "analysis/plots/README.md",
    ] {
        assert!(bench.path(&format!("w/{file}")).is_file(), "{file} is missing");
    }
    let named = |folder: &str, end: &str| {
        let inside = format!("w/{folder}/");
        let files = bench.files();
        files
            .iter()
            .filter(|path| path.to_string_lossy().contains(&inside))
            .filter(|path| path.to_string_lossy().ends_with(end))
            .count()
    };
    assert_eq!(named("setup/commands", "_command.log"), 1);
    assert!(named("analysis/plots", ".png") >= 4);
    assert_eq!(named("analysis/plots", ".png"), named("analysis/plots", ".svg"));
    let removed = &bench.json("w/setup/teardown.json")["removed"];
    assert_eq!(removed[0]["how"], "cleanly");
    assert_torn_down(&bench, i32::try_from(removed[0]["pid"].as_i64().unwrap()).unwrap());

    let log = bench.log();
    assert_eq!(log.records.len(), 40);
    assert!(log.records.iter().all(|record| record.error.is_none()));
    assert!(log.records.iter().all(|record| record.output_tokens == Some(8)));
    assert_eq!(log.end, Some(EndReason::Completed));
    let summary = bench.summary();
    assert_eq!(
        (&summary["partial"], &summary["format"]),
        (&json!(false), &json!("llmdbench.summary"))
    );
    assert_eq!(summary["stages"][0]["succeeded"], 40);
    let run = bench.json("w/results/run.json");
    assert_eq!((&run["exit"], &run["end"]["reason"]), (&json!(0), &json!("completed")));
    for (key, kind) in
        [("seed", "number"), ("plugins", "array"), ("host", "object"), ("target", "object")]
    {
        let is = match &run[key] {
            Value::Number(_) => "number",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
            _ => "something else",
        };
        assert_eq!(is, kind, "{key}");
    }
}

#[test]
fn without_a_folder_of_ones_own_the_newest_run_is_found_by_a_link() {
    let bench = Bench::new().env("LLMDBENCH_CONTROL_WORK_DIR", "");
    bench.write("e.yaml", experiment(50, "for: 200ms", "{ttft: 5ms, itl: 1ms}"));
    bench.run(&["bench", "e.yaml"]).expect(0);
    let newest = std::fs::read_link(bench.path("workdir/latest")).unwrap();
    assert!(newest.to_string_lossy().starts_with("life-"), "{newest:?}");
    bench.run(&["analyze"]).expect(0);
    bench.run(&["status"]).expect(0);
}

#[test]
fn the_phases_are_commands_of_their_own_and_a_second_run_has_its_own_folder() {
    let bench = bench(&experiment(50, "requests: 25", "{ttft: 10ms, itl: 1ms}"));
    bench.run(&["standup", "e.yaml"]).expect(0);
    let pid = stack(&bench);
    assert!(lives(pid), "the server outlives the command that started it");
    let status = bench.run(&["status"]).expect(0).stdout;
    assert!(status.contains(&format!("pid {pid}")) && status.contains("runs"), "{status}");
    bench.run(&["standup", "e.yaml"]).expect(2).says("something stands already");
    bench.run(&["smoketest"]).expect(0).says("answers as sim-model");
    for _ in 0..2 {
        bench.run(&["run", "e.yaml"]).expect(0);
    }
    assert!(lives(pid), "run takes nothing down");
    let first = bench.log();
    let second = Log::read(&bench.path("w/results/2/records.jsonl"));
    assert_eq!((first.records.len(), second.records.len()), (25, 25));
    assert_ne!(first.header.started, second.header.started);
    for file in ["analysis/2/report.html", "analysis/2/data/summary.json", "results/2/run.json"] {
        assert!(bench.path(&format!("w/{file}")).is_file(), "{file} is missing");
    }
    std::fs::remove_dir_all(bench.path("w/analysis")).unwrap();
    bench.run(&["run", "e.yaml", "--skip"]).expect(0);
    bench.run(&["analyze", "w/results"]).expect(0);
    assert!(bench.path("w/analysis/report.html").is_file());
    assert!(bench.path("w/analysis/2/report.html").is_file());
    bench.run(&["teardown", "--dry-run"]).expect(0);
    assert!(lives(pid), "a dry run takes nothing down");
    bench.run(&["teardown"]).expect(0);
    assert_torn_down(&bench, pid);
    bench.run(&["teardown"]).expect(0).says("nothing stands");
    let status = bench.run(&["status"]).expect(0).stdout;
    assert!(status.contains("standing: nothing") && status.contains("results/2"), "{status}");
}

#[test]
fn a_dry_run_and_a_plan_do_nothing() {
    let bench = bench(&experiment(1, "for: 1s", "{}"));
    for args in [
        &["plan", "e.yaml"][..],
        &["bench", "e.yaml", "--dry-run"],
        &["standup", "e.yaml", "--dry-run"],
        &["run", "e.yaml", "--dry-run"],
    ] {
        let plan = bench.run(args).expect(0).stdout;
        for part in ["sim --host 127.0.0.1", "06_start_local_server"] {
            assert!(plan.contains(part), "{args:?}: {plan}");
        }
        // A standup makes no load.
        assert_eq!(plan.contains("constant, 1/s"), args[0] != "standup", "{args:?}: {plan}");
    }
    assert!(!bench.path("w").exists());
}

#[test]
fn keep_leaves_the_stack() {
    let bench = bench(&experiment(50, "for: 200ms", "{ttft: 5ms, itl: 1ms}"));
    bench.run(&["bench", "e.yaml", "--keep"]).expect(0).says("the stack is kept");
    let pid = stack(&bench);
    assert!(lives(pid));
    bench.run(&["teardown"]).expect(0);
    assert_torn_down(&bench, pid);
}

#[test]
fn a_run_that_is_killed_loses_at_most_a_second_and_can_be_torn_down() {
    let text = experiment(100, "for: 60s", "{ttft: 20ms, itl: 2ms, truth_log: truth.jsonl}");
    let bench = bench(&text);
    let running = bench.start(&["bench", "e.yaml"]);
    // Long enough that more than the last second is there to be lost.
    wait_for_records(&bench, 250);
    running.signal(Signal::SIGKILL);
    let killed = running.wait();
    assert_eq!(killed.code, -1);
    let pid = stack(&bench);
    assert!(lives(pid), "nobody has stopped the server");

    let truth_log = bench.path("w/setup/processes/server/truth.jsonl");
    let lines: Vec<Value> = std::fs::read_to_string(truth_log)
        .unwrap()
        .lines()
        .skip(1)
        .map_while(|line| serde_json::from_str(line).ok())
        .collect();
    let finished: Vec<(u64, u64)> = lines
        .iter()
        .filter_map(|line| {
            let id = line["x_request_id"].as_str()?.rsplit_once('-')?.1.parse().ok()?;
            Some((id, line["finished_ns"].as_u64()?))
        })
        .collect();
    let last = finished.iter().map(|(_, at)| *at).max().unwrap();
    let log = bench.log();
    assert_eq!(log.end, None);
    let kept: BTreeSet<u64> = log.records.iter().map(|record| record.id).collect();
    let lost: Vec<f64> =
        finished.iter().filter(|(id, _)| !kept.contains(id)).map(|(_, at)| ms(*at, last)).collect();
    let oldest = lost.iter().copied().fold(0.0, f64::max);
    assert!(oldest <= 1000.0, "a request that ended {oldest} ms before the kill is lost");
    assert!(lost.len() < 130, "{} of {} are lost", lost.len(), finished.len());

    let analyzed = bench.run(&["analyze", "w"]);
    assert!([0, 7].contains(&analyzed.code), "{}", analyzed.output());
    let summary = bench.summary();
    assert_eq!(summary["partial"], true);
    assert!(summary["stages"][0]["succeeded"].as_u64().unwrap() >= 250);
    assert!(summary["notes"].to_string().contains("killed"), "{}", summary["notes"]);
    let status = bench.run(&["status"]).expect(0).stdout;
    assert!(status.contains("unfinished") && status.contains("runs"), "{status}");
    bench.run(&["teardown"]).expect(0);
    assert_torn_down(&bench, pid);
}

#[test]
fn an_interrupt_drains_analyses_tears_down_and_exits_with_130() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let bench = bench(&experiment(20, "for: 60s", "{ttft: 100ms, itl: 50ms}"));
        let running = bench.start(&["bench", "e.yaml"]);
        wait_for_records(&bench, 20);
        let pid = stack(&bench);
        running.signal(signal);
        let ended = running.wait().expect(130);
        assert_torn_down(&bench, pid);
        let log = bench.log();
        assert_eq!(log.end, Some(EndReason::Interrupted));
        assert!(log.records.iter().all(|record| record.error.is_none()), "under way may end");
        let summary = bench.summary();
        assert_eq!(summary["partial"], true);
        assert!(summary["notes"].to_string().contains("interrupted"), "{}", summary["notes"]);
        assert!(ended.stdout.contains("interrupted"), "{}", ended.stdout);
        assert_eq!(bench.json("w/results/run.json")["exit"], 130);
    }
}

#[test]
fn a_second_interrupt_ends_at_once() {
    // An answer takes 40 s, and the drain lasts 30 s: only breaking it off can be quick.
    let text = experiment(20, "for: 60s", "{ttft: 10ms, itl: 400ms}");
    let bench = bench(&text.replace("output_tokens: 8", "output_tokens: 100"));
    let mut running = bench.start(&["bench", "e.yaml"]);
    let path = bench.path("w/results/records.jsonl");
    wait_until("requests under way", || {
        std::fs::read_to_string(&path).is_ok_and(|text| text.contains(r#""event":"client""#))
    });
    let pid = stack(&bench);
    let begin = Instant::now();
    running.signal(Signal::SIGINT);
    running.wait_for("interrupted: nothing new starts");
    running.signal(Signal::SIGINT);
    running.wait().expect(130);
    assert!(begin.elapsed() < Duration::from_secs(20), "it took {:?}", begin.elapsed());
    assert_torn_down(&bench, pid);
    let stage = bench.summary()["stages"][0].clone();
    assert_eq!(stage["errors"]["cancelled"], stage["sent"], "{stage}");
}

#[test]
fn an_interrupt_during_standup_stops_what_was_started() {
    let bench = bench(
        "deploy: {method: local, model: m, settings: {command: [sleep, '600'], ready_path: /health}}\n\
         harness: {settings: {stages: [{rate: 1, for: 1s}]}}\n",
    );
    let running = bench.start(&["bench", "e.yaml"]);
    wait_until("a process", || !bench.standing().is_empty());
    let pid = stack(&bench);
    running.signal(Signal::SIGINT);
    running.wait().expect(130);
    assert_torn_down(&bench, pid);
}

#[test]
fn a_server_that_dies_ends_the_run_with_failures_by_kind() {
    let bench = bench(&experiment(50, "for: 60s", "{ttft: 20ms, itl: 5ms}"));
    let running = bench.start(&["bench", "e.yaml"]);
    wait_for_records(&bench, 50);
    let pid = stack(&bench);
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let died = Instant::now();
    let ended = running.wait().expect(4).says("aborted");
    // The rule says two seconds without a success.
    assert!(died.elapsed() >= Duration::from_millis(1900), "{:?}", died.elapsed());
    assert!(died.elapsed() < Duration::from_secs(20), "{:?}", died.elapsed());
    assert_torn_down(&bench, pid);
    assert_eq!(bench.log().end, Some(EndReason::Aborted));
    let summary = bench.summary();
    assert_eq!(summary["partial"], true);
    let errors = &summary["stages"][0]["errors"];
    assert!(errors["connect"].as_u64().unwrap() > 20, "{errors}");
    assert!(summary["stages"][0]["succeeded"].as_u64().unwrap() >= 40);
    assert!(ended.stdout.contains("connect"), "{}", ended.stdout);
    assert_eq!(bench.json("w/setup/teardown.json")["removed"][0]["how"], "was_gone");
}

#[test]
fn a_server_that_crashes_by_itself_is_the_same() {
    // The fault befalls one request in twenty and ends the whole server.
    let bench = bench(&experiment(50, "for: 60s", "{ttft: 20ms, itl: 5ms, faults: {crash: 0.05}}"));
    let ended = bench.run(&["run", "e.yaml"]);
    ended.expect(2).says("there is no");
    let ended = bench.run(&["bench", "e.yaml"]);
    assert!([3, 4].contains(&ended.code), "{}", ended.output());
    assert_eq!(bench.standing(), Vec::<i32>::new());
}

#[test]
fn without_one_success_the_run_has_failed() {
    let bench = bench(&experiment(20, "requests: 20", "{faults: {'http:503': 1}}"));
    // The smoke test already meets the fault.
    bench.run(&["bench", "e.yaml"]).expect(3).says("503");
    assert_eq!(bench.standing(), Vec::<i32>::new());
    bench.run(&["standup", "e.yaml", "--step", "6"]).expect(0);
    bench.run(&["run", "e.yaml"]).expect(4).says("no request succeeded");
    let summary = bench.summary();
    assert_eq!(summary["stages"][0]["errors"], json!({"http_status": 20}));
    bench.run(&["teardown"]).expect(0);
}

/// Stands up a command that never becomes a server.
fn standup_of(settings: &str) -> (Bench, Ended) {
    let bench = bench(&format!(
        "deploy: {{method: local, model: m, settings: {settings}}}\n\
         harness: {{settings: {{stages: [{{rate: 1, for: 1s}}]}}}}\n"
    ));
    let ended = bench.run(&["bench", "e.yaml"]).expect(3);
    assert_eq!(bench.standing(), Vec::<i32>::new(), "nothing is left running");
    assert!(!bench.path("w/results").exists(), "no load was made");
    (bench, ended)
}

#[test]
fn a_command_that_exits_is_told_with_its_last_lines() {
    let (_, ended) = standup_of(
        r#"{command: [sh, -c, 'echo loading weights; echo "out of memory: 80 GiB" >&2; exit 7']}"#,
    );
    for part in ["ended before it was ready", "exit status: 7", "loading weights", "80 GiB"] {
        assert!(ended.stderr.contains(part), "no `{part}` in {}", ended.stderr);
    }
}

#[test]
fn a_command_that_never_gets_ready_is_stopped_with_what_it_waited_for() {
    let (bench, ended) = standup_of(
        "{command: [sh, -c, 'echo compiling kernels; sleep 600'], ready_timeout: 500ms}",
    );
    for part in ["was not ready within 500ms", "/health", "compiling kernels"] {
        assert!(ended.stderr.contains(part), "no `{part}` in {}", ended.stderr);
    }
    let removed = bench.json("w/setup/teardown.json")["removed"].clone();
    assert_eq!(removed[0]["how"], "cleanly");
    let pid = removed[0]["pid"].as_i64().unwrap();
    assert!(!lives(i32::try_from(pid).unwrap()));
    // Its child was in its group.
    let sleeping = std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        std::fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| {
            let mut fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
            let is_alive = fields.next() != Some("Z");
            is_alive && fields.nth(1) == Some(&pid.to_string())
        })
    });
    assert!(!sleeping, "a child of the command still runs");
}

#[test]
fn a_command_that_is_not_there_is_told() {
    let (_, ended) = standup_of("{command: [/no/such/server, --port, '1']}");
    for part in ["/no/such/server", "No such file"] {
        assert!(ended.stderr.contains(part), "no `{part}` in {}", ended.stderr);
    }
    assert_eq!(ended.errors().len(), 1, "{}", ended.stderr);
}

#[test]
fn a_readiness_path_that_answers_with_an_error_is_told_with_its_status() {
    let command = format!("[{}, sim, --port, $(LLMDBENCH_PORT)]", program().display());
    let settings = format!("{{command: {command}, ready_path: /no/such, ready_timeout: 1s}}");
    let (_, ended) = standup_of(&settings);
    assert!(ended.stderr.contains("/no/such answers 404"), "{}", ended.stderr);
}

#[test]
fn a_process_that_ignores_the_request_to_end_is_made_to() {
    let bench = bench(
        "deploy: {method: local, model: m, settings: {command: [sh, -c, \"trap '' TERM; while true; do sleep 1; done\"], ready_path: ''}}\n\
         harness: {settings: {stages: [{rate: 1, for: 1s}]}}\n",
    );
    bench.run(&["standup", "e.yaml", "--step", "6"]).expect(0);
    let pid = stack(&bench);
    bench.run(&["teardown"]).expect(0).says("killed");
    assert_torn_down(&bench, pid);
}

#[test]
fn a_port_is_free_again_after_teardown() {
    let bench = bench(&experiment(1, "for: 1s", "{ttft: 1ms, itl: 1ms}"));
    bench.run(&["standup", "e.yaml"]).expect(0);
    let url = bench.json("w/target.json")["endpoints"][0].as_str().unwrap().to_owned();
    assert!(get(&format!("{url}/v1/models")).contains("sim-model"));
    bench.run(&["teardown"]).expect(0);
    let address = url.strip_prefix("http://").unwrap();
    assert!(std::net::TcpStream::connect(address).is_err(), "{url} still answers");
}

#[test]
fn a_run_against_an_endpoint_takes_nothing_down() {
    let server = acceptance::Server::start(&["--ttft", "5ms", "--itl", "1ms"]);
    let bench = Bench::new();
    let mut running: Running = bench.start(&[
        "run",
        "--endpoint",
        &server.url,
        "--model",
        "m",
        "--rate",
        "50",
        "--duration",
        "60s",
    ]);
    wait_for_records(&bench, 20);
    running.signal(Signal::SIGINT);
    running.wait_for("interrupted");
    running.wait().expect(130);
    assert!(get(&format!("{}/v1/models", server.url)).contains("\"m\""));
}
