//! Secrets reach the server that they are for, and nothing else: no file and no output.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

use acceptance::{Bench, Ended, Reply, Server, Stub};
use serde_json::json;

const TOKEN: &str = "hf_AcceptanceSecretToken0123456789";
const KEY: &str = "sk-acceptance-key-0123456789";
const HEADER: &str = "team-header-secret-0123456789";

/// Fails where a secret stands in the folder or in what was said.
#[track_caller]
fn assert_hidden(bench: &Bench, ended: &Ended) {
    for secret in [TOKEN, KEY, HEADER] {
        assert!(!ended.output().contains(secret), "{}", ended.output());
        for file in bench.files() {
            let bytes = std::fs::read(&file).unwrap();
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{} holds {secret}", file.display());
        }
    }
}

fn bench() -> Bench {
    Bench::new().env("LLMDBENCH_HF_TOKEN", TOKEN).env("MY_KEY", KEY)
}

/// The options that give two of the secrets; the third comes by the environment.
fn secret_options() -> [String; 4] {
    ["--api-key-env".into(), "MY_KEY".into(), "--header".into(), format!("X-Team: {HEADER}")]
}

fn run(bench: &Bench, url: &str, command: &str, more: &[&str]) -> Ended {
    let options = secret_options();
    let mut args = vec![command, "--verbose", "--endpoint", url, "--model", "m"];
    if command != "smoketest" {
        args.extend(["--requests", "5", "--concurrency", "1"]);
    }
    args.extend(options.iter().map(String::as_str));
    args.extend(more);
    bench.run(&args)
}

#[test]
fn a_key_is_sent_and_stands_nowhere() {
    let server = Server::with_env(
        &["--ttft", "1ms", "--itl", "1ms", "--api-key-env", "SIM_KEY"],
        &[("SIM_KEY", KEY)],
    );
    for command in ["plan", "smoketest", "run"] {
        let bench = bench();
        let ended = run(&bench, &server.url, command, &[]).expect(0);
        assert_hidden(&bench, &ended);
    }
    let bench = Bench::new().env("LLMDBENCH_API_KEY", KEY);
    let args = ["run", "--endpoint", &server.url, "--model", "m", "--requests", "2"];
    let ended = bench.run(&args).expect(0);
    assert_hidden(&bench, &ended);
    // Without it the same server refuses.
    Bench::new().run(&args).expect(2).says("401");
}

#[test]
fn headers_are_sent_with_every_request() {
    let stub = Stub::good();
    let bench = bench();
    let ended = run(&bench, &stub.url, "run", &[]).expect(0);
    assert_hidden(&bench, &ended);
    assert!(stub.seen().len() >= 6);
    for request in stub.seen() {
        assert_eq!(request.header("x-team"), Some(HEADER), "{}", request.path);
        assert_eq!(request.header("authorization"), Some(&*format!("Bearer {KEY}")));
    }
    assert_eq!(
        bench.json("w/plan.json")["experiment"]["target"]["header_names"],
        json!(["x-team"])
    );
}

#[test]
fn a_server_that_repeats_what_it_got_gives_nothing_away() {
    for status in [200, 400, 401, 404, 500] {
        let stub = Stub::start(move |request| {
            if !request.is_completion() {
                return Reply::models(&["m"]);
            }
            let message = format!("you sent {:?}", request.headers);
            if status == 200 {
                let event = format!("data: {}\n\n", json!({"error": {"message": message}}));
                Reply::new(status, "text/event-stream", event)
            } else {
                Reply::json(status, &json!({"error": {"message": message}}))
            }
        });
        let bench = bench();
        let ended = run(&bench, &stub.url, "run", &["--give-up-after", "1s"]);
        assert_eq!(ended.code, 4, "{}", ended.output());
        let message = bench.log().records[0].error.clone().unwrap().message;
        assert!(message.contains("you sent"), "{message}");
        assert_hidden(&bench, &ended);
        let ended = run(&bench, &stub.url, "smoketest", &[]).expect(3);
        assert_hidden(&bench, &ended);
    }
}

#[test]
fn a_list_of_models_that_repeats_a_secret_gives_nothing_away() {
    let stub = Stub::start(|request| {
        Reply::json(401, &json!({"error": format!("bad key {:?}", request.headers)}))
    });
    let bench = bench();
    let ended = run(&bench, &stub.url, "run", &[]).expect(2);
    assert!(ended.stderr.contains("401") && ended.stderr.contains("bad key"), "{}", ended.stderr);
    assert_hidden(&bench, &ended);
}

#[test]
fn a_redirect_is_told_with_its_address_and_no_header_goes_there() {
    let elsewhere = Stub::good();
    for (what, command, code) in [
        ("/v1/models", "run", 4),
        ("/v1/models", "smoketest", 3),
        ("/v1/chat/completions", "run", 4),
        ("/v1/chat/completions", "smoketest", 3),
    ] {
        let to = elsewhere.url.clone();
        let stub = Stub::start(move |request| {
            if request.path == what {
                Reply::redirect(format!("{to}{what}"))
            } else {
                Reply::models(&["m"])
            }
        });
        let bench = bench();
        let ended = run(&bench, &stub.url, command, &[]).expect(code);
        let address = format!("{}{what}", elsewhere.url);
        let said = ended.stderr.contains(&address);
        assert!(said, "{command}, {what}: no {address} in {}", ended.stderr);
        assert_hidden(&bench, &ended);
        assert!(elsewhere.seen().is_empty(), "{command}, {what}: {:?}", elsewhere.seen());
    }
}

#[test]
fn a_secret_reaches_the_process_that_needs_it_and_no_file_of_the_run() {
    let bench = bench();
    bench.write(
        "e.yaml",
        "deploy: {method: local, model: m, settings: {secrets: {HF_TOKEN: hf-token}, \
         command: [sh, -c, 'test -n \"$HF_TOKEN\" || exit 9; exec \"$LLMDBENCH_SELF\" sim --port $LLMDBENCH_PORT --model m']}}\n\
         harness: {settings: {stages: [{concurrency: 1, requests: 2}]}}\n\
         workload: {settings: {output_tokens: 2}}\n",
    );
    let ended = bench.run(&["--verbose", "bench", "e.yaml", "--keep"]).expect(0);
    let pid = bench.standing()[0];
    let environ = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    assert!(environ.split('\0').any(|variable| variable == format!("HF_TOKEN={TOKEN}")));
    assert_hidden(&bench, &ended);
    let plan = bench.run(&["plan", "e.yaml"]).expect(0);
    assert!(plan.stdout.contains("HF_TOKEN=(the secret hf-token)"), "{}", plan.stdout);
    let ended = bench.run(&["teardown"]).expect(0);
    assert_hidden(&bench, &ended);
    // Without the token nothing starts, and the variable that gives it is named.
    let without = Bench::new();
    without.write("e.yaml", bench.read("e.yaml"));
    without.run(&["bench", "e.yaml"]).expect(3).says("LLMDBENCH_HF_TOKEN");
}

#[test]
fn a_process_that_prints_its_secret_and_dies_gives_nothing_away_on_the_terminal() {
    let bench = bench();
    bench.write(
        "e.yaml",
        "deploy: {method: local, model: m, settings: {secrets: {HF_TOKEN: hf-token}, \
         command: [sh, -c, 'echo \"401 for token $HF_TOKEN\"; exit 1']}}\n\
         harness: {settings: {stages: [{concurrency: 1, requests: 2}]}}\n",
    );
    let ended = bench.run(&["bench", "e.yaml"]).expect(3);
    assert!(ended.stderr.contains("401 for token (hidden)"), "{}", ended.stderr);
    assert!(!ended.output().contains(TOKEN));
}

#[test]
fn settings_are_shown_without_secrets() {
    let bench = bench().env("LLMDBENCH_API_KEY", KEY);
    bench.write("e.yaml", format!("target: {{headers: {{x-team: {HEADER}}}}}\n"));
    for args in [&["env", "e.yaml"][..], &["--output", "json", "env", "e.yaml"]] {
        let ended = bench.run(args).expect(0);
        for secret in [TOKEN, KEY, HEADER] {
            assert!(!ended.output().contains(secret), "{}", ended.output());
        }
        assert!(ended.stdout.contains("(hidden)"), "{}", ended.stdout);
    }
}
