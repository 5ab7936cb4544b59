//! Rules that hold for the whole tree: which crate may know which, and how a file looks.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

use acceptance::root;
use std::path::{Path, PathBuf};

/// Files below a folder of the workspace, built things left out.
fn files(folder: &str, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path.file_name().unwrap() != "target" {
                    folders.push(path);
                }
            } else if path.to_string_lossy().ends_with(end) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no {end} in {folder}");
    found
}

/// Our own sources.
fn sources() -> Vec<(PathBuf, String)> {
    ["host", "plugins", "xtask", "tests", "examples"]
        .iter()
        .flat_map(|folder| files(folder, ".rs"))
        .map(|file| {
            let text = std::fs::read_to_string(&file).unwrap();
            (file.strip_prefix(root()).unwrap().to_owned(), text)
        })
        .collect()
}

/// The crates that a manifest depends on, its own tests included.
fn dependencies(manifest: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(manifest).unwrap();
    let mut inside = false;
    let mut names = Vec::new();
    for line in text.lines() {
        if let Some(section) = line.strip_prefix('[') {
            inside = section.trim_end_matches(']').ends_with("dependencies");
        } else if inside && let Some((name, _)) = line.split_once('=') {
            names.push(name.trim().trim_end_matches(".workspace").to_owned());
        }
    }
    names
}

/// The crates below a folder, by their paths in it.
fn crates(folder: &str) -> Vec<String> {
    files(folder, "Cargo.toml")
        .iter()
        .map(|manifest| {
            let path = manifest.parent().unwrap().strip_prefix(root().join(folder)).unwrap();
            path.to_string_lossy().into_owned()
        })
        .collect()
}

#[test]
fn siblings_in_host_know_no_sibling_but_records() {
    let host = crates("host");
    assert!(host.len() >= 7, "{host:?}");
    for name in &host {
        let known = dependencies(&root().join("host").join(name).join("Cargo.toml"));
        let siblings: Vec<_> = known.iter().filter(|known| host.contains(known)).collect();
        match name.as_str() {
            "llmdbench" => assert!(siblings.len() >= 4, "{siblings:?}"),
            "load/fuzz" => assert_eq!(siblings, ["load"]),
            "records" | "sim" | "plugin-host" | "cluster" => {
                assert!(siblings.is_empty(), "{name}: {siblings:?}")
            }
            _ => assert!(siblings.iter().all(|s| *s == "records"), "{name}: {siblings:?}"),
        }
    }
}

#[test]
fn host_knows_no_plugin_and_no_plugin_knows_host() {
    let (host, plugins) = (crates("host"), crates("plugins"));
    for (folder, names, strangers) in [("host", &host, &plugins), ("plugins", &plugins, &host)] {
        for name in names {
            let known = dependencies(&root().join(folder).join(name).join("Cargo.toml"));
            let wrong: Vec<_> = known
                .iter()
                .filter(|known| {
                    strangers.contains(known) || *known == "llmdbench-plugin" && folder == "host"
                })
                .collect();
            assert!(wrong.is_empty(), "{folder}/{name} depends on {wrong:?}");
        }
    }
    for name in plugins.iter().filter(|name| *name != "sdk") {
        let known = dependencies(&root().join("plugins").join(name).join("Cargo.toml"));
        assert!(known.contains(&"llmdbench-plugin".to_owned()), "{name}: {known:?}");
    }
}

#[test]
fn wasmtime_is_known_to_one_crate() {
    let holders: Vec<_> = files("host", "Cargo.toml")
        .into_iter()
        .filter(|manifest| dependencies(manifest).iter().any(|name| name.starts_with("wasmtime")))
        .collect();
    assert_eq!(holders, [root().join("host/plugin-host/Cargo.toml")]);
}

#[test]
fn every_file_opens_with_what_it_is_responsible_for() {
    for (file, text) in sources() {
        assert!(text.starts_with("//! "), "{} does not open with //!", file.display());
    }
}

#[test]
fn no_file_is_long() {
    for (file, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= 600, "{} has {lines} lines", file.display());
    }
}

#[test]
fn nothing_is_left_to_be_done() {
    // Put together here, or this file would find itself.
    let words = ["todo", "unimplemented"].map(|word| format!("{word}!("));
    let marks = [["TO", "DO"], ["FIX", "ME"]].map(|mark| mark.concat());
    for (file, text) in sources() {
        for word in words.iter().chain(&marks) {
            assert!(!text.contains(word.as_str()), "{} has {word}", file.display());
        }
    }
}

#[test]
fn only_the_printer_prints() {
    let words = ["println", "eprintln", "print", "eprint"].map(|word| format!("{word}!("));
    for (file, text) in sources() {
        let is_program =
            file.starts_with("host") && file.components().any(|part| part.as_os_str() == "src");
        if is_program && !file.ends_with("printer.rs") {
            for (number, line) in (1..).zip(text.lines()) {
                let prints = words.iter().any(|word| line.trim_start().starts_with(word.as_str()));
                assert!(!prints, "{}:{number} prints", file.display());
            }
        }
    }
}
