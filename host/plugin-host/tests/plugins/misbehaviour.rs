//! Plugins that misbehave are stopped within their limits, by name, and stay stopped.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use plugin_host::wit::harness::Execution;
use plugin_host::wit::types::ErrorKind;
use plugin_host::{Error, Fault, Input, Kind, Setup, WorkloadInstance};
use serde_json::{Value, json};

use crate::support::{components, load, misbehave, setup};

fn filled(settings: &Value) -> Setup {
    let plugin = load(&misbehave());
    setup(plugin.check_settings(Kind::Workload, settings).unwrap())
}

fn workload(setup: Setup) -> WorkloadInstance {
    load(&misbehave()).workload(setup).unwrap().0
}

/// The error of the first batch, and whether the instance stays dead with the same words.
fn check(how: &str, fault: &Fault, message: &str) -> Error {
    let mut instance = workload(filled(&json!({"how": how})));
    let error = instance.next_batch(0, 256).unwrap_err();
    assert_eq!(&error.fault, fault, "{error}");
    assert_eq!((error.plugin.as_str(), error.version.as_deref()), ("misbehave", Some("0.1.0")));
    assert!(
        error.message.starts_with(message),
        "{}\ndoes not start with\n{message}",
        error.message
    );
    let again = instance.next_batch(0, 256).unwrap_err();
    assert_eq!(again.to_string(), error.to_string());
    error
}

#[test]
fn an_endless_loop_is_stopped_in_time() {
    let start = Instant::now();
    check("loop", &Fault::Time, "`next-batch` did not return within 1 s and was stopped");
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn memory_without_end_is_refused() {
    check(
        "allocate",
        &Fault::Memory,
        "`next-batch` needed more than the 256 MiB of memory it may use and was stopped",
    );
}

#[test]
fn a_panic_is_told_with_its_text_and_where() {
    let error = check("panic", &Fault::Crash, "`next-batch` crashed: panicked at src/lib.rs:");
    assert!(error.message.ends_with("the workload lost its marbles"), "{error}");
    let backtrace = error.backtrace.as_deref().unwrap_or_default();
    assert!(backtrace.contains("misbehave::"), "{backtrace}");
    assert!(format!("{error:#}").contains("misbehave::"));
}

#[test]
fn too_many_sessions_are_refused() {
    check("flood", &Fault::TooMuch, "returned 100000 sessions, at most 256 are allowed");
}

#[test]
fn too_many_stages_are_refused() {
    let mut instance = load(&misbehave()).harness(filled(&json!({"how": "flood"}))).unwrap();
    let error = instance.plan().unwrap_err();
    let wanted =
        "plugin misbehave 0.1.0 (harness): returned 100000 stages, at most 10000 are allowed";
    assert_eq!(error.to_string(), wanted);
}

#[test]
fn reading_a_file_again_and_again_is_no_progress() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.txt");
    std::fs::write(&path, "one\ntwo\n").unwrap();
    let mut setup = filled(&json!({"how": "reread", "input": "data.txt"}));
    setup.inputs = vec![Input { name: "data.txt".to_owned(), path }];
    let error = workload(setup).next_batch(0, 1).unwrap_err();
    assert_eq!(error.fault, Fault::Time, "{error}");
}

#[test]
fn endless_log_lines_are_held_to_a_rate() {
    let count = Arc::new(Mutex::new(0_u64));
    let mut setup = filled(&json!({"how": "chatter"}));
    let counter = count.clone();
    setup.log = Arc::new(move |_| *counter.lock().unwrap() += 1);
    let error = workload(setup).next_batch(0, 1).unwrap_err();
    assert_eq!(error.fault, Fault::Time, "{error}");
    assert!((1..20_000).contains(&*count.lock().unwrap()), "{} lines", count.lock().unwrap());
}

#[test]
fn an_answer_with_an_error_keeps_setting_and_hint_and_does_not_kill() {
    let mut instance = workload(filled(&json!({"how": "refuse"})));
    for _ in 0..2 {
        let error = instance.next_batch(0, 1).unwrap_err();
        assert_eq!(error.fault, Fault::Answer(ErrorKind::InvalidSettings));
        assert_eq!(
            format!("{error:#}"),
            "plugin misbehave 0.1.0 (workload): I would rather not (at /how)\nhint: ask somebody else"
        );
    }
}

#[test]
fn what_came_before_the_misbehaviour_is_kept() {
    let mut instance = workload(filled(&json!({"how": "panic", "after": 2})));
    let mut sessions = 0;
    let error = loop {
        match instance.next_batch(0, 10) {
            Ok(batch) => sessions += batch.len(),
            Err(error) => break error,
        }
    };
    assert_eq!(sessions, 20);
    assert_eq!(error.fault, Fault::Crash);
}

#[test]
fn warnings_while_planning_are_findings() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let mut setup = filled(&json!({}));
    let sink = lines.clone();
    setup.log = Arc::new(move |line| sink.lock().unwrap().push(line));
    workload(setup);
    let lines = lines.lock().unwrap();
    assert_eq!(lines.len(), 1);
    assert_eq!((lines[0].plugin.as_str(), lines[0].is_finding), ("misbehave", true));
}

#[test]
fn the_example_plugins_work() {
    for file in components("example-plugins") {
        let plugin = load(&file);
        let kind = plugin.kinds()[0];
        let setup = setup(plugin.check_settings(kind, &json!({})).unwrap());
        if kind == Kind::Harness {
            let Execution::Load(plan) = plugin.harness(setup).unwrap().plan().unwrap() else {
                panic!("no load plan")
            };
            let names: Vec<&str> = plan.stages.iter().map(|stage| stage.name.as_str()).collect();
            assert_eq!(names, ["users-1", "users-2", "users-4"]);
        } else if kind == Kind::Analyzer {
            let (mut analyzer, needs) = plugin.analyzer(setup, &[]).unwrap();
            assert!(!needs.warm_up && !needs.token_times);
            assert_eq!(analyzer.finish().unwrap().tables.len(), 1);
        } else {
            let (mut workload, size) = plugin.workload(setup).unwrap();
            assert_eq!(size.sessions, Some(10));
            assert_eq!([8, 2, 0].map(|_| workload.next_batch(0, 8).unwrap().len()), [8, 2, 0]);
        }
    }
}
