//! Files that cannot be used: one clear error each.

use plugin_host::{Fault, Kind, Source};
use serde_json::json;

use crate::support::{components, host, load, misbehave, setup};

/// Loads these bytes as a file and compares the error, in which "FILE" stands for its path.
fn check(bytes: &[u8], fault: Fault, wanted: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.wasm");
    std::fs::write(&file, bytes).unwrap();
    let error = host().load(Source::File(file.clone())).unwrap_err();
    let text = format!("{error:#}").replace(&file.display().to_string(), "FILE");
    assert_eq!(error.fault, fault, "{text}");
    assert!(text.starts_with(wanted), "{text}\ndoes not start with\n{wanted}");
}

#[test]
fn a_text_file() {
    check(
        b"plugins:\n",
        Fault::NotUsable,
        "plugin FILE: is a text file, not a component\nhint: build it as a component",
    );
}

#[test]
fn a_core_module() {
    let module = b"\0asm\x01\0\0\0";
    check(
        module,
        Fault::NotUsable,
        "plugin FILE: is a core WebAssembly module, not a component\nhint: build it",
    );
}

#[test]
fn a_component_that_is_no_plugin() {
    let empty = b"\0asm\x0d\0\x01\0";
    check(
        empty,
        Fault::NotUsable,
        "plugin FILE: is a component, but no plugin: it must export manifest and at least",
    );
}

#[test]
fn a_truncated_component() {
    let bytes = std::fs::read(misbehave()).unwrap();
    for length in [9, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
        check(&bytes[..length], Fault::NotUsable, "plugin FILE: is cut off: ");
    }
}

#[test]
fn a_component_of_another_version_of_the_contract() {
    let mut bytes = std::fs::read(misbehave()).unwrap();
    let (old, new) = (b"@0.1.0", b"@0.2.0");
    let places: Vec<usize> =
        (0..bytes.len() - old.len()).filter(|at| bytes[*at..].starts_with(old)).collect();
    for at in places {
        bytes[at..at + new.len()].copy_from_slice(new);
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.wasm");
    std::fs::write(&file, bytes).unwrap();
    let error = host().load(Source::File(file)).unwrap_err();
    assert_eq!(error.fault, Fault::Version);
    assert!(error.message.starts_with("speaks version 0.2 of the contract ("), "{error}");
    assert!(error.message.ends_with("this llmdbench speaks 0.1"), "{error}");
    assert_eq!(error.hint.as_deref(), Some("update llmdbench, or use a build of it for 0.1"));
}

#[test]
fn a_file_that_is_not_there() {
    let error = host().load(Source::File("no/such.wasm".into())).unwrap_err();
    assert_eq!(error.fault, Fault::File);
    assert!(error.to_string().starts_with("plugin no/such.wasm: cannot be read: "), "{error}");
}

#[test]
fn a_plugin_of_another_kind() {
    for file in components("example-plugins") {
        let plugin = load(&file);
        let error = if plugin.kinds() == [Kind::Harness] {
            plugin.workload(setup(json!({}))).unwrap_err()
        } else {
            plugin.harness(setup(json!({}))).unwrap_err()
        };
        assert_eq!(error.fault, Fault::WrongKind);
        let words = match plugin.kinds() {
            [Kind::Harness] => "plugin staircase 0.1.0: is no workload; it is a harness",
            [Kind::Analyzer] => "plugin tail 0.1.0: is no harness; it is an analyzer",
            _ => "plugin greetings 0.1.0: is no harness; it is a workload",
        };
        assert_eq!(error.to_string(), words);
    }
}
