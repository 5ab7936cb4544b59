//! Downloads of models: what is asked of the hub, what lies in the folder afterwards, and what is said when it refuses.

use acceptance::{Bench, Ended, Reply, Stub};
use serde_json::json;

const TOKEN: &str = "hf_of_the_user_0123456789";

/// A hub with one model, `org/name`, whose weights lie at another address.
fn hub(weights: &str) -> Stub {
    let weights = weights.to_owned();
    Stub::start(move |request| match request.path.as_str() {
        "/api/models/org/name/revision/main" => {
            let files = ["config.json", "deep/model.safetensors"].map(|f| json!({"rfilename": f}));
            Reply::json(200, &json!({"sha": "abc", "siblings": files}))
        }
        "/org/name/resolve/abc/config.json" => Reply::json(200, &json!({"model_type": "test"})),
        "/org/name/resolve/abc/deep/model.safetensors" => Reply::redirect(weights.clone()),
        _ => Reply::new(404, "text/plain", "Repository not found".into()),
    })
}

/// Gives what is asked for, or the rest of it.
fn storage() -> Stub {
    Stub::start(|request| {
        let from = request.header("range").and_then(|range| {
            range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
        });
        let status = if from.is_some() { 206 } else { 200 };
        let rest = "0123456789"[from.unwrap_or(0)..].to_owned();
        Reply::new(status, "application/octet-stream", rest)
    })
}

fn download(bench: &Bench, model: &str) -> Ended {
    bench.run(&["download", model, "cache"])
}

const WEIGHTS: &str = "cache/hub/models--org--name/snapshots/abc/deep/model.safetensors";

#[test]
fn a_model_is_downloaded_once_gone_on_with_and_the_token_stays_with_the_hub() {
    let storage = storage();
    let hub = hub(&storage.url);
    let bench = Bench::new().env("HF_ENDPOINT", &hub.url).env("HF_TOKEN", TOKEN);
    // An earlier download was interrupted.
    bench.write(&format!("{WEIGHTS}.part"), "0123");
    let ended = download(&bench, "org/name").expect(0).says("2 of 2 files: deep/model.safetensors");
    assert_eq!(bench.read(WEIGHTS), "0123456789");
    assert_eq!(bench.read("cache/models/org/name/deep/model.safetensors"), "0123456789");
    assert_eq!(bench.read("cache/hub/models--org--name/refs/main"), "abc");
    assert!(!bench.path(&format!("{WEIGHTS}.part")).exists());
    let asked = storage.seen();
    assert_eq!(asked[0].header("range"), Some("bytes=4-"));
    assert_eq!(asked[0].header("authorization"), None);
    let bearer = format!("Bearer {TOKEN}");
    assert!(hub.seen().iter().all(|request| request.header("authorization") == Some(&bearer)));
    assert!(!ended.output().contains(TOKEN));

    download(&bench, "org/name").expect(0).says("2 of 2 files: deep/model.safetensors is there");
    assert_eq!(storage.seen().len(), 1);
}

#[test]
fn a_refusal_of_the_hub_is_told_with_its_words_and_what_to_do() {
    let check = |status: u16, body: &str, expected: &[&str]| {
        let body = body.to_owned();
        let hub = Stub::start(move |_| Reply::new(status, "text/plain", body.clone()));
        let bench = Bench::new().env("HF_ENDPOINT", &hub.url);
        let ended = download(&bench, "org/name").expect(3);
        for text in expected {
            assert!(ended.stderr.contains(text), "nothing about {text} in\n{}", ended.stderr);
        }
    };
    check(
        403,
        "Access to model is restricted",
        &["hub refuses `org/name`", "restricted", "licence"],
    );
    check(404, "Repository not found", &["hub has no `org/name`", "check the model's id"]);
    check(500, "broken", &["answers 500", "broken"]);
    check(200, r#"{"sha": "abc", "siblings": [{"rfilename": "../../x"}]}"#, &["does not list"]);
    let bench = Bench::new().env("HF_ENDPOINT", "http://127.0.0.1:1");
    download(&bench, "org/name").expect(3).says("the model hub does not answer");
}
