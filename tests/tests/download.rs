//! Downloads of models: what is asked of the hub, what lies in the folder afterwards, and what is said when it refuses.

use acceptance::{Bench, Ended, Reply, Stub};
use serde_json::{Value, json};

const TOKEN: &str = "hf_of_the_user_0123456789";

/// The SHA-256 of the weights, and what git calls the configuration.
const SHA256: &str = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882";
const BLOB: &str = "7d5712485405ff8906f6fb36d5811a4efbd6bb9c";

/// What the hub says of the two files of its model.
fn files() -> Value {
    json!([
        {"rfilename": "config.json", "size": 21, "blobId": BLOB},
        {"rfilename": "deep/model.safetensors", "size": 10, "blobId": "of the pointer",
         "lfs": {"sha256": SHA256, "size": 10, "pointerSize": 127}},
    ])
}

/// A hub with one model, `org/name`, whose weights lie at another address.
fn hub(weights: &str) -> Stub {
    hub_of(weights, files())
}

fn hub_of(weights: &str, files: Value) -> Stub {
    let weights = weights.to_owned();
    Stub::start(move |request| match request.path.as_str() {
        "/api/models/org/name/revision/main?blobs=true" => {
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
fn what_an_earlier_download_left_and_is_broken_is_downloaded_anew() {
    let storage = storage();
    let hub = hub(&storage.url);
    let bench = Bench::new().env("HF_ENDPOINT", &hub.url);
    bench.write(&format!("{WEIGHTS}.part"), "0x23");
    drop(download(&bench, "org/name").expect(0).says("is broken; it is downloaded anew"));
    assert_eq!(bench.read(WEIGHTS), "0123456789");
    let ranges = storage.seen();
    let ranges: Vec<_> = ranges.iter().map(|request| request.header("range")).collect();
    assert_eq!(ranges, [Some("bytes=4-"), None]);
}

#[test]
fn a_file_that_is_not_what_the_hub_says_is_refused_and_nothing_of_it_is_kept() {
    let broken = Stub::start(|_| Reply::new(200, "application/octet-stream", "012345678x".into()));
    let is_kept = |bench: &Bench, name: &str| {
        let name = format!("cache/hub/models--org--name/snapshots/abc/{name}");
        bench.path(&name).exists() || bench.path(&format!("{name}.part")).exists()
    };
    let hub_of_broken = hub(&broken.url);
    let bench = Bench::new().env("HF_ENDPOINT", &hub_of_broken.url);
    let ended = download(&bench, "org/name").expect(3);
    let ended = ended.says("deep/model.safetensors is not what the model hub says that it is");
    drop(
        ended.says(&format!("and {SHA256} was wanted")).says(
            "its SHA-256 is b97e4b4c5cb18bfafbd888598dd9acf55432f739774dbfc269bef9d308c172a9",
        ),
    );
    assert!(is_kept(&bench, "config.json") && !is_kept(&bench, "deep/model.safetensors"));
    assert!(!bench.path("cache/models/org/name").exists());

    // What lies in git has another checksum, which is compared as well.
    let mut other = files();
    other[0]["blobId"] = json!("0000000000000000000000000000000000000000");
    let storage = storage();
    let hub = hub_of(&storage.url, other);
    let bench = Bench::new().env("HF_ENDPOINT", &hub.url);
    let ended = download(&bench, "org/name").expect(3).says("config.json is not what");
    drop(ended.says(&format!("its id as a git blob is {BLOB}, and 0000")));
    assert!(!is_kept(&bench, "config.json"));
}

#[test]
fn a_hub_without_checksums_is_believed_and_the_download_says_so() {
    let storage = storage();
    let files = ["config.json", "deep/model.safetensors"].map(|file| json!({"rfilename": file}));
    let hub = hub_of(&storage.url, json!(files));
    let bench = Bench::new().env("HF_ENDPOINT", &hub.url);
    drop(download(&bench, "org/name").expect(0).says("the hub has no checksum of it"));
    assert_eq!(bench.read(WEIGHTS), "0123456789");
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
