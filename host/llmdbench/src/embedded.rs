//! Files of the repository that the program carries with it, so that it runs without.

/// Scenarios by name.
pub(crate) const SCENARIOS: &[(&str, &str)] =
    &[("simulator", include_str!("../../../examples/scenarios/simulator.yaml"))];

/// Experiments by name.
pub(crate) const EXPERIMENTS: &[(&str, &str)] =
    &[("quickstart", include_str!("../../../examples/experiments/quickstart.yaml"))];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;
    use crate::settings::{Layer, Source, resolve};

    #[test]
    fn every_embedded_file_is_a_valid_experiment() {
        for (name, text) in SCENARIOS.iter().chain(EXPERIMENTS) {
            let document = Document::parse(name, text).unwrap();
            resolve(vec![Layer::file(Source::Experiment, document)])
                .map_err(|(_, problems)| problems)
                .unwrap();
        }
    }

    #[test]
    fn every_file_of_the_examples_is_embedded() {
        let check = |folder: &str, table: &[(&str, &str)], exempt: &[&str]| {
            let folder = format!("{}/../../examples/{folder}", env!("CARGO_MANIFEST_DIR"));
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
                let found = table.iter().any(|(name, _)| *name == stem);
                assert!(found || exempt.contains(&stem.as_str()), "{stem} is not embedded");
            }
        };
        check("scenarios", SCENARIOS, &[]);
        // These name files of the repository.
        check("experiments", EXPERIMENTS, &["llama-cpp"]);
    }
}
