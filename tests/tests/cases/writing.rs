//! C25 and C27: misspelt keys, and endpoints written in every way.

use acceptance::{Bench, Reply, Request, Stub};
use serde_json::json;

const C25: &str = "name: t
deploy: {endpoint: http://127.0.0.1:9, model: m}
harness: {plugin: stages, settings: {stages: [{rate: 2, duration: 5s}]}}
workload: {plugin: synthetic, settings: {input_tokns: 256, output_tokens: 64}}
analyze: {slo: {ttft: 500ms, tpto: 50ms}}
sed: 1
";

#[test]
fn c25_all_misspelt_keys_are_named_at_once_with_what_was_meant() {
    let bench = Bench::new();
    bench.write("t.yaml", C25);
    let ended = bench.run(&["plan", "t.yaml"]).expect(2);
    assert_eq!(ended.errors().len(), 4, "{}", ended.stderr);
    for (line, path, near) in [
        (3, "harness.settings.stages[0].duration", "for"),
        (4, "workload.settings.input_tokns", "input_tokens"),
        (5, "analyze.slo.tpto", "tpot"),
        (6, "sed", "seed"),
    ] {
        let errors = ended.stderr.split("error: ").skip(1);
        let place = format!("t.yaml:{line}:");
        let mut found =
            errors.filter(|e| e.starts_with(&place) && e.contains(&format!("`{path}`")));
        let error = found.next().unwrap_or_else(|| panic!("{path} is not in\n{}", ended.stderr));
        assert!(error.contains(&format!("`{near}`")), "{error}");
    }
    assert!(!bench.path("w").exists(), "nothing was begun");
}

#[test]
fn c25_a_key_in_the_wrong_place_is_refused_at_every_depth() {
    let check = |text: &str, path: &str| {
        let load = "harness: {settings: {stages: [{concurrency: 1, requests: 1}]}}\n";
        let load = if text.starts_with("harness") { "" } else { load };
        let good = "deploy: {endpoint: http://127.0.0.1:9, model: m}\n";
        let bench = Bench::new();
        bench.write("t.yaml", format!("{good}{text}{load}"));
        let ended = bench.run(&["plan", "t.yaml"]).expect(2);
        assert_eq!(ended.errors().len(), 1, "{}", ended.stderr);
        let error = ended.errors()[0];
        let key = path.rsplit('.').next().unwrap();
        let lines = text.lines().zip(2..);
        let found =
            lines.filter_map(|(text, line)| Some((line, text.rfind(&format!("{key}:"))? + 1)));
        let (line, column) = found.last().unwrap();
        assert!(error.starts_with(&format!("error: t.yaml:{line}:{column}: ")), "{error}");
        assert!(error.contains(&format!("`{path}`")), "{error}");
    };
    let stages = "harness: {settings: {stages: [{concurrency: 1, requests: 1";
    check("extra: 1\n", "extra");
    check("target: {apii: chat}\n", "target.apii");
    check("load:\n  thread: 2\n", "load.thread");
    check(&format!("{stages}, x: 1}}]}}}}\n"), "harness.settings.stages[0].x");
    check(
        &format!("{stages}, ramp: {{to: 2, oveer: 1s}}}}]}}}}\n"),
        "harness.settings.stages[0].ramp.oveer",
    );
    check(
        "workload:\n  settings:\n    input_tokens:\n      distribution: normal\n      mean: 5\n      std: 2\n",
        "workload.settings.input_tokens.std",
    );
}

#[test]
fn c25_the_file_of_another_program_is_refused() {
    let bench = Bench::new();
    bench.write(
        "cloudbuild.yaml",
        "steps:\n  - name: gcr.io/cloud-builders/docker\n    args: [build, .]\ntimeout: 600s\nimages: [a]\n",
    );
    let ended = bench.run(&["plan", "cloudbuild.yaml"]).expect(2);
    let [error] = ended.errors()[..] else { panic!("{}", ended.stderr) };
    assert!(error.starts_with("error: cloudbuild.yaml:1:1: "), "{error}");
    assert!(error.contains("none of its keys, but steps, timeout, images"), "{error}");
}

/// The path that is asked for where the endpoint is written so.
fn path_of(written: &str, api: &str) -> String {
    let stub = Stub::good();
    let bench = Bench::new();
    let endpoint = format!("{}{written}", stub.url);
    bench
        .run(&[
            "run",
            "--endpoint",
            &endpoint,
            "--model",
            "m",
            "--api",
            api,
            "--requests",
            "1",
            "--concurrency",
            "1",
            "--warmup",
            "0",
        ])
        .expect(0);
    let completions = stub.completions();
    assert_eq!(completions.len(), 1, "{written}");
    completions[0].path.clone()
}

#[test]
fn c27_every_way_to_write_an_endpoint_leads_to_the_same_call() {
    for api in ["chat", "completions"] {
        let call = if api == "chat" { "/v1/chat/completions" } else { "/v1/completions" };
        for written in ["", "/", "/v1", "/v1/", "/v1/chat/completions", "/v1/completions"] {
            assert_eq!(path_of(written, api), call, "`{written}` with {api}");
        }
        for written in ["/ns/model", "/ns/model/", "/ns/model/v1", "/ns/model/v1/"] {
            assert_eq!(path_of(written, api), format!("/ns/model{call}"), "`{written}` with {api}");
        }
    }
}

/// A server that has other models or no such call.
fn refusing(models: &'static [&'static str]) -> Stub {
    Stub::start(move |request: &Request| {
        if request.path.ends_with("/models") {
            Reply::models(models)
        } else {
            Reply::json(404, &json!({"error": {"message": "no such thing here", "code": 404}}))
        }
    })
}

#[test]
fn c27_a_404_on_the_first_request_stops_the_load_and_shows_the_url() {
    let stub = refusing(&["m"]);
    let bench = Bench::new();
    let ended = bench.run(&[
        "run",
        "--endpoint",
        &format!("{}/wrong", stub.url),
        "--model",
        "m",
        "--rate",
        "50",
        "--duration",
        "30s",
        "--warmup",
        "0",
    ]);
    let ended = ended.expect(4);
    let url = format!("{}/wrong/v1/chat/completions", stub.url);
    assert!(ended.stderr.contains(&url), "{}", ended.stderr);
    assert!(ended.stderr.contains("no such thing here"), "{}", ended.stderr);
    assert!(ended.stderr.contains("/v1/models answers and lists m"), "{}", ended.stderr);
    assert!(ended.took.as_secs() < 20, "it went on for {:?}", ended.took);
    assert!(stub.completions().len() < 50, "{} requests", stub.completions().len());
}

#[test]
fn c27_a_model_that_the_server_does_not_have_is_named_with_those_that_it_has() {
    let stub = refusing(&["llama-3b", "mistral"]);
    let bench = Bench::new();
    let ended =
        bench.run(&["run", "--endpoint", &stub.url, "--model", "lama-3b", "--requests", "1"]);
    let ended = ended.expect(2);
    for part in ["`lama-3b`", "`llama-3b`", "mistral"] {
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    }
    assert_eq!(stub.completions().len(), 0, "nothing was sent");
}
