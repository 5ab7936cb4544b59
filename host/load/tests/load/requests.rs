//! What a request says on the wire, and what it cannot.

use crate::support::*;
use load::Prompt;
use records::{EndReason, Writer};

#[test]
fn a_session_that_cannot_be_put_into_words_ends_the_run_with_its_number() {
    let server = Server::start(vec![Script::answer(1, 2)]);
    let tokens = load::Request { prompt: Prompt::TokenIds(vec![1]), ..request("") };
    let sessions = [session_of(41, vec![turn(tokens, 0)])];
    let done = begin(plan(&server.url(), vec![closed(5)]), vec![feed(sessions)]).finish();
    assert_eq!(done.outcome.reason, EndReason::PluginFailed);
    assert!(done.outcome.message.contains("session 41, turn 0"), "{}", done.outcome.message);
}

#[test]
fn a_path_cannot_bring_headers_into_a_request() {
    for path in ["/v1/x HTTP/1.1\r\nauthorization: Bearer z\r\nx: y", "/a b"] {
        let server = Server::start(vec![Script::answer(1, 2)]);
        let prompt = Prompt::Raw("{}".to_owned());
        let asked = load::Request { path: Some(path.to_owned()), prompt, ..request("") };
        let sessions = [session_of(7, vec![turn(asked, 0)])];
        let done = begin(plan(&server.url(), vec![closed(5)]), vec![feed(sessions)]).finish();
        assert_eq!(done.outcome.reason, EndReason::PluginFailed);
        assert!(done.outcome.message.contains("the path"), "{}", done.outcome.message);
        assert_eq!(server.seen().len(), 0);
    }
}

#[test]
fn a_header_stands_in_for_the_usual_one_of_its_name_and_none_comes_twice() {
    let server = Server::start(vec![Script::answer(1, 2)]);
    let mut plan = plan(&server.url(), vec![closed(1)]);
    let of = |name: &str, value: &str| (name.to_owned(), value.to_owned().into());
    plan.target.headers = vec![of("Host", "my.gateway"), of("x-team", "a"), of("ACCEPT", "x/y")];
    plan.target.api_key = Some("k".to_owned().into());
    let mut asked = request("hello");
    asked.headers = [("X-Team", "b"), ("user-agent", "u"), ("authorization", "Basic z")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let sessions = feed([session_of(0, vec![turn(asked, 0)])]);
    assert_sound(&begin(plan, vec![sessions]).finish());
    let seen = &server.seen()[0];
    let mut names: Vec<String> =
        seen.headers.iter().map(|line| line.split(':').next().unwrap().to_lowercase()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accept",
            "accept-encoding",
            "authorization",
            "content-length",
            "content-type",
            "host",
            "user-agent",
            "x-request-id",
            "x-team"
        ]
    );
    for line in
        ["Host: my.gateway", "x-team: a", "ACCEPT: x/y", "user-agent: u", "authorization: Basic z"]
    {
        assert!(seen.headers.iter().any(|header| header == line), "{line}: {:?}", seen.headers);
    }
    for name in ["content-length", "Transfer-Encoding"] {
        let mut plan = self::plan(&server.url(), vec![closed(1)]);
        plan.target.headers = vec![of(name, "5")];
        let writer = Writer::new(std::io::sink(), &header()).unwrap();
        let error = load::start(plan, vec![load::ring(1).1], writer).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("sets it itself"), "{error}");
    }
}

#[test]
fn headers_and_secrets_reach_the_server_and_no_record() {
    let server = Server::start(vec![Script::answer(1, 2)]);
    let mut plan = plan(&server.url(), vec![closed(1)]);
    plan.target.api_key = Some("s3cret".to_owned().into());
    plan.target.headers = vec![("x-team".into(), "h1dden".to_owned().into())];
    assert!(!format!("{plan:?}").contains("s3cret"));
    let done = run(plan);
    let seen = &server.seen()[0];
    assert_eq!(seen.line, "POST /v1/chat/completions HTTP/1.1");
    for header in ["authorization: Bearer s3cret", "x-team: h1dden", "accept-encoding: identity"] {
        assert!(seen.headers.iter().any(|h| h == header), "{header}: {:?}", seen.headers);
    }
    let entries = format!("{:?}", done.entries);
    assert!(!entries.contains("s3cret") && !entries.contains("h1dden"));
}

#[test]
fn a_server_that_repeats_a_secret_leaves_none_in_the_record() {
    let echo = r#"{"error": "bad key: Bearer s3cret; team h1dden value"}"#;
    let server = Server::start(vec![Script::body("401 Unauthorized", "application/json", echo)]);
    let mut plan = plan(&server.url(), vec![closed(1)]);
    plan.target.api_key = Some("s3cret".to_owned().into());
    plan.target.headers = vec![("x-team".into(), "h1dden value".to_owned().into())];
    let done = run(plan);
    let error = done.records()[0].error.clone().unwrap();
    assert_eq!(error.message, "bad key: Bearer (hidden); team (hidden)");
    // A message is cut where a secret stands.
    let echo = format!("{}s3cret and more", "x".repeat(2_045));
    let server = Server::start(vec![Script::body("500 Oops", "text/plain", &echo)]);
    let mut plan = self::plan(&server.url(), vec![closed(1)]);
    plan.target.api_key = Some("s3cret".to_owned().into());
    let message = run(plan).records()[0].error.clone().unwrap().message;
    assert!(message.len() <= 2_048 && message.ends_with("x(hi"), "{message}");
}

#[test]
fn every_request_bears_the_id_of_its_record_unless_it_has_a_name_of_its_own() {
    let check = |own: Option<&str>| {
        let server = Server::start(vec![Script::answer(1, 2)]);
        let mut plan = plan(&server.url(), vec![closed(3)]);
        plan.target.headers =
            own.map(|own| ("X-Request-Id".to_owned(), own.to_owned().into())).into_iter().collect();
        assert_sound(&run(plan));
        let mut names: Vec<String> = server
            .seen()
            .iter()
            .flat_map(|seen| seen.headers.iter())
            .filter_map(|header| header.split_once(": "))
            .filter(|(name, _)| name.eq_ignore_ascii_case("x-request-id"))
            .map(|(_, value)| value.to_owned())
            .collect();
        names.sort();
        names
    };
    let numbered = [0, 1, 2].map(|id| format!("llmdbench-r-{id:012}"));
    assert_eq!(check(None), numbered);
    assert_eq!(check(Some("mine")), ["mine"; 3]);
}
