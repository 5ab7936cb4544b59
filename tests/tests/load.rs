//! Load against the simulated server: counts, times against the server's own log, memory.

use acceptance::{Bench, Ended, Reply, Server, Stub, TruthLine, ms, wait_until};
use nix::sys::signal::Signal;
use records::{Connection, FailureKind, LoopKind, Record};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// Records with what the server says of them, by number.
#[track_caller]
fn join<'a>(records: &'a [Record], truth: &'a [TruthLine]) -> Vec<(&'a Record, &'a TruthLine)> {
    let by_id: BTreeMap<u64, &TruthLine> =
        truth.iter().filter_map(|line| Some((line.id?, line))).collect();
    assert_eq!(by_id.len(), records.len(), "each request came once");
    records.iter().map(|record| (record, by_id[&record.id])).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn a_constant_rate_is_kept_without_errors_early_sends_or_much_memory() {
    let server = Server::start(&["--ttft", "200ms", "--itl", "5ms"]);
    let bench = Bench::new();
    let load =
        ["--rate", "200", "--duration", "5s", "--input-tokens", "32", "--output-tokens", "64"];
    let plan = ["plan", "--endpoint", &server.url, "--model", "m"];
    // Plugins are compiled but once, which takes memory for each core.
    bench.run(&[&plan[..], &load].concat()).expect(0);
    let ended = bench.load(&server, &load);
    // A busy machine may make the load generator late; it must then say so, and count all the same.
    assert!([0, 7].contains(&ended.code), "{}", ended.output());
    assert!(ended.peak_mib < 100.0, "{} MiB", ended.peak_mib);
    let log = bench.log();
    assert_eq!(log.scheduled(), 1000);
    let records = log.records;
    let begin = records[0].due.unwrap();
    for record in &records {
        assert_eq!(record.error, None);
        assert_eq!((record.tokens.len(), record.output_tokens), (64, Some(64)));
        let (due, sent) = (record.due.unwrap(), record.sent.unwrap());
        assert!(sent >= due, "sent before it was due: {record:?}");
        assert_eq!((due - begin) % 5_000_000, 0, "200 a second are 5 ms apart");
        assert!(record.tokens.windows(2).all(|pair| pair[0] <= pair[1]));
    }
    let summary = bench.summary();
    let stage = &summary["stages"][0];
    let rate = |name: &str| stage[name].as_f64().unwrap();
    assert!((rate("offered_rate") - 200.0).abs() < 0.5, "{stage}");
    assert!((rate("achieved_rate") - 200.0).abs() < 2.0, "{stage}");
    assert_eq!((&stage["succeeded"], &stage["failed"]), (&json!(records.len()), &json!(0)));

    let truth = server.truth();
    let pairs = join(&records, &truth);
    let mut ttft = Vec::new();
    let mut gaps = Vec::new();
    for (record, line) in &pairs {
        assert_eq!(line.tokens.len(), 64);
        assert_eq!(record.input_tokens.map(u64::from), Some(line.input_tokens));
        assert_eq!(line.output_tokens, 64);
        let seen = ms(record.sent.unwrap(), record.tokens[0]);
        ttft.push(seen - ms(line.read, line.tokens[0]));
        let span = ms(record.tokens[0], record.tokens[63]) - ms(line.tokens[0], line.tokens[63]);
        gaps.push(span / 63.0);
    }
    let (ttft, gap) = (median(ttft), median(gaps));
    assert!(ttft.abs() < 5.0, "the median TTFT is off by {ttft} ms");
    assert!(gap.abs() < 0.5, "the median ITL is off by {gap} ms");
}

#[test]
fn the_clocks_of_client_and_server_fit_for_every_token() {
    let server = Server::start(&["--ttft", "20ms", "--itl", "5ms"]);
    let bench = Bench::new();
    bench
        .load(
            &server,
            &[
                "--concurrency",
                "4",
                "--requests",
                "40",
                "--input-tokens",
                "8",
                "--output-tokens",
                "10",
            ],
        )
        .expect(0);
    let (records, truth) = (bench.log().records, server.truth());
    let pairs = join(&records, &truth);
    // One offset must fit: nothing is read before it was sent, and nothing arrives before it was
    // written. So the earliest arrival of all, seen from the server, bounds it from above, and the
    // earliest reading bounds it from below.
    let offset = |server: u64, client: u64| server as f64 / 1e6 - client as f64 / 1e6;
    let most = pairs
        .iter()
        .map(|(record, line)| offset(line.read, record.sent.unwrap()))
        .fold(f64::INFINITY, f64::min);
    let least = pairs
        .iter()
        .flat_map(|(record, line)| line.tokens.iter().zip(&record.tokens))
        .map(|(written, arrived)| offset(*written, *arrived))
        .fold(f64::NEG_INFINITY, f64::max);
    assert!(least <= most, "a token arrived {} ms before it was written", least - most);
    assert!(most - least < 20.0, "stamps leave {} ms of doubt", most - least);
}

#[test]
fn a_closed_loop_keeps_its_sessions_under_way_and_has_no_due_times() {
    let server = Server::start(&["--ttft", "20ms", "--itl", "1ms"]);
    let bench = Bench::new();
    bench
        .load(
            &server,
            &[
                "--concurrency",
                "1,4",
                "--requests",
                "40",
                "--input-tokens",
                "8",
                "--output-tokens",
                "10",
                "--warmup",
                "5",
            ],
        )
        .expect(0);
    let log = bench.log();
    let stages: Vec<_> =
        log.header.stages.iter().map(|s| (s.kind, s.concurrency, s.warmup)).collect();
    let closed = |n, warmup| (LoopKind::Closed, Some(n), warmup);
    assert_eq!(stages, [closed(1, true), closed(1, false), closed(4, false)]);
    assert!(log.records.iter().all(|record| record.due.is_none()));
    for (stage, limit, requests) in [(0, 1, 5), (1, 1, 40), (2, 4, 40)] {
        let records: Vec<_> = log.records.iter().filter(|r| r.stage == stage).collect();
        assert_eq!(records.len(), requests, "stage {stage}");
        let most = records
            .iter()
            .map(|one| {
                let at = one.started;
                records.iter().filter(|r| r.started <= at && at < r.finished).count()
            })
            .max();
        assert_eq!(most, Some(limit), "requests under way in stage {stage}");
    }
    let summary = bench.summary();
    assert_eq!(summary["stages"].as_array().unwrap().len(), 2);
    assert_eq!(summary["excluded"], 5);
    let metrics = &summary["stages"][1]["metrics"];
    assert_eq!(metrics["scheduled_latency"], json!(null));
    assert_eq!(metrics["lateness"], json!(null));
    let new = log.records.iter().filter(|r| r.connection == Connection::New).count();
    assert!(new <= 6, "{new} connections for at most 4 at a time");
}

#[test]
fn a_conversation_carries_the_real_answers() {
    let stub = Stub::start(|request| {
        if !request.is_completion() {
            return Reply::models(&["m"]);
        }
        let messages = request.json()["messages"].as_array().unwrap().len();
        // An answer that says how much history there was, in two tokens, one of several bytes.
        Reply::stream_of(request, &["日本", &format!(" {messages}")])
    });
    let bench = Bench::new();
    bench.write(
        "e.yaml",
        "deploy: {model: m}\n\
         harness: {settings: {stages: [{concurrency: 2, sessions: 4}]}}\n\
         workload: {settings: {input_tokens: 5, output_tokens: 4, turns: 3}}\n",
    );
    bench.run(&["run", "e.yaml", "--endpoint", &stub.url]).expect(0);
    // Two short completions measure how many tokens a word has, where there is no /tokenize.
    let asked: Vec<_> =
        stub.completions().into_iter().filter(|r| r.json()["stream"] == true).collect();
    assert_eq!(asked.len(), 12);
    let longest: Vec<_> = asked
        .iter()
        .map(|request| request.json()["messages"].as_array().unwrap().clone())
        .filter(|messages| messages.len() == 5)
        .collect();
    assert_eq!(longest.len(), 4);
    for messages in longest {
        assert_eq!(messages[1], json!({"role": "assistant", "content": "日本 1"}));
        assert_eq!(messages[3], json!({"role": "assistant", "content": "日本 3"}));
        assert!([0, 2, 4].iter().all(|&turn| messages[turn]["role"] == "user"));
    }
    let records = bench.log().records;
    assert_eq!(records.len(), 12);
    let mut sessions: BTreeMap<u64, Vec<&Record>> = BTreeMap::new();
    for record in &records {
        sessions.entry(record.session).or_default().push(record);
    }
    for turns in sessions.values() {
        assert_eq!(turns.iter().map(|r| r.turn).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(turns.windows(2).all(|pair| pair[0].finished <= pair[1].started));
    }
}

#[test]
fn both_apis_ask_for_exactly_the_output_and_take_further_fields() {
    for api in ["chat", "completions"] {
        let stub = Stub::good();
        let bench = Bench::new();
        bench
            .run(&[
                "run",
                "--endpoint",
                &stub.url,
                "--model",
                "m",
                "--api",
                api,
                "--requests",
                "1",
                "--concurrency",
                "1",
                "--output-tokens",
                "2",
                "--extra-body",
                r#"{"top_p": 0.5, "temperature": 1}"#,
            ])
            .expect(0);
        let asked: Vec<_> =
            stub.completions().into_iter().filter(|r| r.json()["stream"] == true).collect();
        let [request] = &asked[..] else { panic!("one request: {asked:?}") };
        let body = request.json();
        assert_eq!((&body["max_tokens"], &body["min_tokens"]), (&json!(2), &json!(2)));
        assert_eq!(body["ignore_eos"], true);
        assert_eq!((&body["top_p"], &body["temperature"]), (&json!(0.5), &json!(1)));
        assert_eq!(body["stream_options"], json!({"include_usage": true}));
        assert_eq!(body.get("messages").is_some(), api == "chat");
        assert_eq!(body.get("prompt").is_some(), api == "completions");
    }
}

#[test]
fn a_server_with_a_certificate_of_its_own_is_refused_trusted_or_not_checked_and_that_is_told() {
    const NOTE: &str = "TLS certificates were not checked.";
    let (stub, authority) = Stub::secure("127.0.0.1", |request| {
        if request.is_completion() { Reply::tokens(request) } else { Reply::models(&["m"]) }
    });
    let run = |options: &[&str]| {
        let bench = Bench::new();
        bench.write("ca.pem", &authority);
        let load = ["--concurrency", "1", "--requests", "3"];
        let args = ["run", "--endpoint", &stub.url, "--model", "m"];
        let ended = bench.run(&[&args[..], &load[..], options].concat());
        (bench, ended)
    };
    let (bench, ended) = run(&[]);
    let ended = ended.expect(4).says("no TLS connection comes about with https://127.0.0.1:");
    ended.says("trusted with --ca-file FILE");
    assert_eq!(stub.seen().len(), 0, "it is asked nothing");
    assert!(!bench.path("w/results").exists());

    // Whom it trusts, whether it says that it checked, and what the report and the table say.
    let told = |options: &[&str]| {
        let (bench, ended) = run(options);
        let ended = ended.expect(0);
        let records = bench.log().records;
        assert!(records.iter().all(|record| record.error.is_none()), "{records:?}");
        assert_eq!(records.len(), 3);
        let report = bench.read("w/analysis/report.html");
        let checked = bench.json("w/results/run.json")["tls_checked"].clone();
        (checked, report.contains(NOTE), ended.stdout.contains(NOTE))
    };
    assert_eq!(told(&["--ca-file", "ca.pem"]), (json!(true), false, false));
    assert_eq!(told(&["--insecure"]), (json!(false), true, true));
    assert_eq!(stub.completions().iter().filter(|r| r.json()["stream"] == true).count(), 6);
}

#[test]
fn failures_are_counted_by_kind_and_stay_out_of_latencies() {
    let faults = [
        ("http:503", "http_status"),
        ("cut", "stream_cut"),
        ("reset", "stream_cut"),
        ("stream_error", "server_error"),
        ("empty", "empty_answer"),
    ];
    for (fault, kind) in faults {
        let server =
            Server::start(&["--ttft", "1ms", "--itl", "5ms", "--faults", &format!("{fault}=0.5")]);
        let bench = Bench::new();
        bench
            .load(
                &server,
                &[
                    "--concurrency",
                    "2",
                    "--requests",
                    "60",
                    "--input-tokens",
                    "8",
                    "--output-tokens",
                    "6",
                ],
            )
            .expect(0);
        // What the server says that it did to each request, tries of before included.
        let truth = server.truth();
        let mut acted: BTreeMap<u64, Vec<Option<&str>>> = BTreeMap::new();
        for line in &truth {
            acted.entry(line.id.unwrap()).or_default().push(line.fault.as_deref());
        }
        let records = bench.log().records;
        assert_eq!((records.len(), acted.len()), (60, 60), "{fault}");
        let mut injected = 0;
        for record in &records {
            let acted = &acted[&record.id];
            assert_eq!(acted.len(), 1 + record.retries as usize, "{fault}: {record:?}");
            let last = acted.last().copied().flatten();
            assert!(last.is_none_or(|last| last == fault), "{fault}: {last:?}");
            let failure = record.error.as_ref().map(|error| error.kind.name());
            assert_eq!(failure, last.map(|_| kind), "{fault}: {record:?}");
            injected += u64::from(last.is_some());
        }
        assert!((10..50).contains(&injected), "{fault}: {injected} of 60 at one half");
        let stage = bench.summary()["stages"][0].clone();
        let failed = stage["failed"].as_u64().unwrap();
        assert_eq!(failed, injected, "{fault}");
        assert_eq!(stage["errors"], json!({kind: failed}), "{fault}");
        assert_eq!(stage["metrics"]["latency"]["n"], 60 - failed, "{fault}");
    }
}

#[test]
fn the_same_seed_asks_the_same_and_another_asks_something_else() {
    let asked = |seed: &str| {
        let stub = Stub::good();
        let bench = Bench::new();
        bench
            .run(&[
                "run",
                "--endpoint",
                &stub.url,
                "--model",
                "m",
                "--requests",
                "5",
                "--concurrency",
                "1",
                "--input-tokens",
                "20",
                "--output-tokens",
                "2",
                "--seed",
                seed,
            ])
            .expect(0);
        let bodies: Vec<String> = stub.completions().into_iter().map(|r| r.body).collect();
        bodies
    };
    let first = asked("7");
    assert_eq!(first, asked("7"));
    assert_ne!(first, asked("8"));
}

#[test]
fn a_client_that_was_stopped_says_so_where_no_request_was_due() {
    let server = Server::start(&["--ttft", "20ms", "--itl", "5ms"]);
    let bench = Bench::new();
    let run = ["run", "--endpoint", &server.url, "--model", "m"];
    let running = bench.start(&[&run[..], &["--concurrency", "4", "--duration", "4s"]].concat());
    let path = bench.path("w/results/records.jsonl");
    wait_until("requests", || {
        std::fs::read_to_string(&path).is_ok_and(|text| text.contains(r#"{"id":4,"#))
    });
    running.signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_millis(600));
    running.signal(Signal::SIGCONT);
    running.wait().expect(7);
    let stopped: u64 = bench.log().samples.iter().map(|sample| sample.stopped).sum();
    assert!(stopped >= 500_000_000, "{stopped} ns");
    let reasons = bench.summary()["health"]["reasons"].clone();
    let stopped = reasons.as_array().unwrap().iter().find(|reason| reason["rule"] == "stopped");
    assert_eq!(stopped.expect("a reason")["verdict"], "invalid");
}

#[test]
fn a_request_that_takes_longer_than_the_flag_says_has_failed() {
    let server = Server::start(&["--ttft", "20s"]);
    let bench = Bench::new();
    let options = ["--timeout", "300ms", "--concurrency", "1", "--requests", "2"];
    bench.load(&server, &options).expect(4);
    for record in &bench.log().records {
        let failure = record.error.as_ref().unwrap();
        assert_eq!(failure.kind, FailureKind::Timeout);
        assert_eq!(failure.message, "no whole answer within 0.3 s");
        assert!(ms(record.sent.unwrap(), record.finished) >= 300.0 - 1.0, "{record:?}");
    }
    assert_eq!(bench.log().records.len(), 2);
}

/// Load at 400/s by a program that may have so many files open.
fn short_of_files(server: &Server, bench: &Bench, files: u32, duration: &str) -> Ended {
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", &format!(r#"ulimit -n {files}; exec "$0" "$@""#)])
        .arg(acceptance::program());
    command.args(["run", "--endpoint", &server.url, "--model", "m", "--workdir", "w"]);
    command.args([
        "--rate",
        "400",
        "--duration",
        duration,
        "--output-tokens",
        "2",
        "--threads",
        "2",
    ]);
    acceptance::Running::start(command.current_dir(bench.path(""))).wait()
}

#[test]
fn requests_that_the_client_had_no_files_for_are_its_own_failure() {
    let server = Server::start(&["--ttft", "300ms", "--itl", "1ms"]);
    let bench = Bench::new();
    let ended = short_of_files(&server, &bench, 60, "1s").expect(7);
    let failed = bench.summary()["total"]["errors"]["client"].as_u64().unwrap();
    assert!(failed > 100, "{failed}");
    let shown = ended.output();
    for text in ["lacked open files", "ulimit -n"] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
}

#[test]
fn a_client_short_of_files_says_so_and_does_not_break_down() {
    let server = Server::start(&["--ttft", "300ms", "--itl", "1ms"]);
    let mut begun = 0;
    for files in [8, 32, 36, 38, 40, 42, 44, 48] {
        let bench = Bench::new();
        let ended = short_of_files(&server, &bench, files, "150ms");
        let shown = ended.output();
        assert!(shown.contains("ulimit -n"), "{files}: {shown}");
        assert!(!shown.contains("broke down"), "{files}: {shown}");
        assert!([1, 4, 7].contains(&ended.code), "{files}: {} {shown}", ended.code);
        if ended.code != 1 {
            begun += 1;
            // What was opened before the load is read on.
            let samples = bench.log().samples;
            assert!(!samples.is_empty(), "{files}");
            assert!(samples.iter().all(|sample| !sample.threads.is_empty()), "{files}");
            assert!(bench.path("w/results/server_metrics.jsonl").exists(), "{files}");
        }
    }
    assert!(begun >= 3, "{begun} runs");
}

#[test]
fn sessions_take_turns_over_several_endpoints() {
    let servers = [Server::start(&[]), Server::start(&[])];
    let [first, second] = servers.each_ref().map(|server| server.url.as_str());
    let file = format!("deploy: {{endpoint: [{first}/v1, {second}], model: m}}\n");
    let with_commas = format!("{first},{second}/");
    let of_variable = [("LLMDBENCH_DEPLOY_ENDPOINT", with_commas.as_str())];
    let model = ["--model", "m"];
    let ways = [
        (&[][..], &["--endpoint", first, "--endpoint", second, "--model", "m"][..]),
        (&[], &["--endpoint", &with_commas, "--model", "m"]),
        (&of_variable, &model),
        (&[], &["e.yaml"]),
    ];
    for (before, (variables, args)) in ways.into_iter().enumerate() {
        let bench = Bench::new();
        bench.write("e.yaml", &file);
        let load = ["--requests", "10", "--output-tokens", "2"];
        bench.run_with(variables, &[&["run"], args, &load].concat()).expect(0);
        let asked = |server: &Server| server.truth().iter().filter(|l| l.id.is_some()).count();
        assert_eq!(servers.each_ref().map(asked), [5 * (before + 1); 2], "{args:?}");
        assert_eq!(bench.log().header.endpoint, format!("{first} {second}"));
    }
    let bench = Bench::new();
    let both = ["--endpoint", &with_commas, "--model", "m"];
    let checked = bench.run(&[&["smoketest"], &both[..]].concat()).expect(0);
    for url in [first, second] {
        assert!(checked.stderr.contains(&format!("{url} answers as m")), "{}", checked.stderr);
    }
    let planned =
        bench.run(&[&["plan"], &both[..], &["--requests", "1"]].concat()).expect(0).stdout;
    assert!(planned.contains(&format!("endpoint   {first}\n  endpoint   {second}\n")), "{planned}");
    // What stands is asked again as it was.
    bench.run(&["run", "--requests", "4"]).expect(0);
    assert_eq!(bench.log().header.endpoint, format!("{first} {second}"));
}

#[test]
fn each_of_several_endpoints_must_have_the_model() {
    let (server, bench) = (Server::start(&[]), Bench::new());
    let mut other = bench.start(&["sim", "--port", "0", "--model", "n"]);
    let line = other.wait_for("simulated server: ");
    let url = line.rsplit_once(" at ").unwrap().1;
    let both = format!("{},{url}", server.url);
    let ended =
        bench.run(&["run", "--endpoint", &both, "--model", "m", "--requests", "1"]).expect(2);
    ended.says("the target has no model `m`").says(&format!("{url} was asked"));
    assert_eq!(server.truth().len(), 0, "no load was made");
}

#[test]
fn a_plain_endpoint_needs_no_certificate_authorities() {
    let (server, bench) = (Server::start(&[]), Bench::new());
    // As in a container without them.
    let none = [("SSL_CERT_FILE", "/no/such/file"), ("SSL_CERT_DIR", "/no/such/folder")];
    let to = |url: &str| {
        bench.run_with(&none, &["run", "--endpoint", url, "--model", "m", "--requests", "2"])
    };
    to(&server.url).expect(0);
    assert_eq!(bench.log().records.len(), 2);
    to("https://127.0.0.1:9").expect(1).says("cannot set up HTTP");
}
