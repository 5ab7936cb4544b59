//! What holds for every plugin, whoever wrote it.

use plugin_host::{Host, Source};
use serde_json::json;

use crate::support::{components, host, load};

#[test]
fn every_component_introduces_itself_always_the_same() {
    for file in ["plugins", "example-plugins", "guests"].into_iter().flat_map(components) {
        let (one, other) = (load(&file), load(&file));
        assert!(one.info() == other.info(), "{}", file.display());
        assert!(!one.kinds().is_empty(), "{}", file.display());
        assert!(!one.info().description.is_empty(), "{} has no description", file.display());
    }
}

#[test]
fn every_component_imports_only_the_contract() {
    for file in ["plugins", "example-plugins"].into_iter().flat_map(components) {
        for name in load(&file).imports() {
            assert!(name.starts_with("llmdbench:plugin/"), "{} imports {name}", file.display());
        }
    }
}

#[test]
fn every_setting_has_a_description() {
    for file in ["plugins", "example-plugins"].into_iter().flat_map(components) {
        let plugin = load(&file);
        for kind in plugin.kinds() {
            let schema = plugin.schema(*kind).unwrap();
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                let is_described =
                    property["description"].is_string() || property["$ref"].is_string();
                assert!(is_described, "{}: {name} has no description", file.display());
            }
        }
    }
}

#[test]
fn filling_in_defaults_twice_changes_nothing() {
    for file in ["plugins", "example-plugins"].into_iter().flat_map(components) {
        let plugin = load(&file);
        for kind in plugin.kinds() {
            // Without settings some plugins rightly complain; then there is nothing to fill.
            if let Ok(filled) = plugin.check_settings(*kind, &json!({})) {
                assert_eq!(
                    plugin.check_settings(*kind, &filled),
                    Ok(filled.clone()),
                    "{}",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn unknown_settings_are_refused() {
    for file in ["plugins", "example-plugins"].into_iter().flat_map(components) {
        let plugin = load(&file);
        for kind in plugin.kinds() {
            let errors = plugin.check_settings(*kind, &json!({"no_such_setting": 1})).unwrap_err();
            let is_named = errors.iter().any(|error| error.pointer == "/no_such_setting");
            assert!(is_named, "{}: {errors:?}", file.display());
        }
    }
}

#[test]
fn plugins_of_the_program_load_under_the_name_of_their_file() {
    for embedded in Host::embedded() {
        let plugin = host().load(Source::Embedded(embedded)).unwrap();
        assert_eq!(plugin.name(), embedded.name);
        assert_eq!(plugin.digest(), embedded.sha256);
        assert_eq!(plugin.size(), embedded.bytes.len());
    }
}
