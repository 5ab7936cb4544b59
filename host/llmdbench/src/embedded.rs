//! Files of the repository that the program carries with it, so that it runs without.

/// Scenarios: the file's name and its text.
pub(crate) const SCENARIOS: &[(&str, &str)] = &[
    (
        "kubernetes_H200_deployer_llama-8b.sh",
        include_str!("../../../examples/scenarios/kubernetes_H200_deployer_llama-8b.sh"),
    ),
    (
        "ocp_H100MIG_deployer_llama-3b.sh",
        include_str!("../../../examples/scenarios/ocp_H100MIG_deployer_llama-3b.sh"),
    ),
    (
        "ocp_H100MIG_deployer_llama-8b.sh",
        include_str!("../../../examples/scenarios/ocp_H100MIG_deployer_llama-8b.sh"),
    ),
    (
        "ocp_H100_deployer_llama-70b.sh",
        include_str!("../../../examples/scenarios/ocp_H100_deployer_llama-70b.sh"),
    ),
    (
        "ocp_H100_standalone_llama-70b.sh",
        include_str!("../../../examples/scenarios/ocp_H100_standalone_llama-70b.sh"),
    ),
    (
        "ocp_L40_standalone_llama-8b.sh",
        include_str!("../../../examples/scenarios/ocp_L40_standalone_llama-8b.sh"),
    ),
    ("simulator.yaml", include_str!("../../../examples/scenarios/simulator.yaml")),
];

/// Workload profiles by name.
pub(crate) const PROFILES: &[(&str, &str)] = &[
    (
        "large_model_long_input",
        include_str!("../../../examples/workloads/large_model_long_input.yaml.in"),
    ),
    (
        "medium_model_long_input",
        include_str!("../../../examples/workloads/medium_model_long_input.yaml.in"),
    ),
    ("sanity_long-input", include_str!("../../../examples/workloads/sanity_long-input.yaml.in")),
    ("sanity_sharegpt", include_str!("../../../examples/workloads/sanity_sharegpt.yaml.in")),
    ("sanity_short-input", include_str!("../../../examples/workloads/sanity_short-input.yaml.in")),
    (
        "small_model_long_input",
        include_str!("../../../examples/workloads/small_model_long_input.yaml.in"),
    ),
];

/// Experiments: the file's name and its text.
pub(crate) const EXPERIMENTS: &[(&str, &str)] = &[
    ("kubernetes.yaml", include_str!("../../../examples/experiments/kubernetes.yaml")),
    (
        "kubernetes-stacks.yaml",
        include_str!("../../../examples/experiments/kubernetes-stacks.yaml"),
    ),
    ("quickstart.yaml", include_str!("../../../examples/experiments/quickstart.yaml")),
];

/// A file's name without what says its kind.
pub(crate) fn stem(file: &str) -> &str {
    file.strip_suffix(".yaml").or_else(|| file.strip_suffix(".sh")).unwrap_or(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;
    use crate::settings::{Layer, Source, exports, resolve};

    #[test]
    fn every_embedded_file_is_a_valid_experiment() {
        for (name, text) in SCENARIOS.iter().chain(EXPERIMENTS) {
            let layer = if name.ends_with(".sh") {
                exports(name, text, &mut Vec::new()).unwrap()
            } else {
                Layer::file(Source::Experiment, Document::parse(name, text).unwrap())
            };
            resolve(vec![layer]).map_err(|(_, problems)| problems).unwrap();
        }
    }

    #[test]
    fn every_file_of_the_examples_is_embedded() {
        let check = |folder: &str, table: &[(&str, &str)], ending: &str, exempt: &[&str]| {
            let folder = format!("{}/../../examples/{folder}", env!("CARGO_MANIFEST_DIR"));
            for entry in std::fs::read_dir(folder).unwrap() {
                let file = entry.unwrap().file_name().into_string().unwrap();
                let name = file.strip_suffix(ending).unwrap_or(&file);
                let found = table.iter().any(|(embedded, _)| *embedded == name);
                assert!(found || exempt.contains(&name), "{name} is not embedded");
            }
        };
        check("scenarios", SCENARIOS, "", &[]);
        check("workloads", PROFILES, ".yaml.in", &["README.md", "sharegpt-mini.json"]);
        // These name files of the repository.
        check("experiments", EXPERIMENTS, "", &["llama-cpp.yaml", "short-input.yaml"]);
    }
}
