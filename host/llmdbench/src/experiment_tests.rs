//! How settings become an experiment, and what is refused.

use super::*;

/// Settings of an experiment file `e/e.yaml`, a scenario `s/s.yaml` and flags.
fn settings(experiment: &str, scenario: &str, flags: &[(&str, &str)]) -> Result<Settings> {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in [("e/e.yaml", experiment), ("s/s.yaml", scenario)] {
        crate::run_dir::write(&root.path().join(name), text.as_bytes()).unwrap();
    }
    let mut layer = Layer::named(Source::Flag);
    for (path, text) in flags {
        layer.set(path, "--flag", Value::String((*text).to_owned()));
    }
    let file = root.path().join("e/e.yaml");
    let environment = Layer::named(Source::Environment);
    let layers = layers(layer, file.to_str(), environment, &mut Vec::new())?;
    settings::all_or_error(settings::resolve(layers))
}

#[test]
fn a_relative_path_starts_from_the_folder_of_what_holds_it() {
    let settings = settings(
        "scenario: ../s/s.yaml\nworkload: {settings: {file: a.json}}",
        "target: {tokenizer: t.json}",
        &[("workload.settings.other", "b.json")],
    )
    .unwrap();
    let check = |pointer: &str, folder: Option<&str>| {
        let found = settings.folder(pointer);
        assert_eq!(found.is_some(), folder.is_some(), "{pointer}");
        assert!(found.is_none_or(|found| found.ends_with(folder.unwrap())), "{found:?}");
    };
    check("/workload/settings/file", Some("e"));
    check("/target/tokenizer", Some("e/../s"));
    check("/workload/settings/other", None);
    check("/harness/plugin", None);
}

#[test]
fn the_strongest_layer_names_the_scenario_and_a_missing_one_is_told_with_its_place() {
    let missing = |flags: &[(&str, &str)]| {
        settings("name: n\nscenario: none.yaml", "", flags).unwrap_err().to_string()
    };
    let error = missing(&[]);
    assert!(error.contains("e.yaml:2:1: there is no scenario file `none.yaml`"), "{error}");
    let error = missing(&[("scenario", "nowhere")]);
    assert!(error.starts_with("error: there is no scenario file `nowhere`"), "{error}");
    let built_in = settings("scenario: simulator", "", &[]).unwrap();
    assert_eq!(built_in.source("deploy.method"), Source::Scenario);
}
