//! Where flags of load meet what files say: what a flag cannot change, which plugins it replaces,
//! and what then means nothing.

use crate::cli::LoadArgs;
use crate::error::{Error, Result};
use crate::experiment::{self, FMPERF};
use crate::settings::{Layer, pointer};
use serde_json::Value;

const STAGES: &str = "/harness/settings/stages";
const PROFILE: &str = "/fmperf/experiment_profile";

/// Lets the first layer, the command line's, have its way with the others. Gives what is to be said
/// of that.
///
/// # Errors
/// When a flag is part of a load, and another layer describes the load already.
pub(crate) fn apply(load: &LoadArgs, layers: &mut [Layer]) -> Result<Vec<String>> {
    if let Some((flag, place)) = load.part_of_a_load().zip(load_of_others(layers)) {
        let hint = match layers.first().is_some_and(|flags| says(flags, PROFILE)) {
            true => "leave one of the two out, or write a profile of your own",
            false => {
                "add --rate or --concurrency to replace that load as a whole, or edit it there"
            }
        };
        let message = format!("{flag} cannot change the load that {place} describes");
        return Err(Error::usage(message).hint(hint));
    }
    name_reader(layers);
    let reads_profiles = experiment::harness_of(layers) == FMPERF;
    if let Some(flags) = layers.first_mut() {
        load.fill_dataset(flags, reads_profiles);
    }
    keep_one_timeout(layers);
    Ok(leave_behind(layers))
}

/// Where a load is described that flags did not make. None: nowhere.
fn load_of_others(layers: &[Layer]) -> Option<String> {
    let place = |layers: &[Layer], pointer: &str| {
        layers.iter().find(|layer| says(layer, pointer)).map(|layer| layer.place(pointer))
    };
    let mut without = layers.to_vec();
    without.first_mut()?.remove(STAGES);
    place(&without, STAGES).or_else(|| match experiment::harness_of(&without) == FMPERF {
        true => place(&without, PROFILE),
        false => None,
    })
}

/// A profile that was typed is read by the plugins that can, whatever others name.
fn name_reader(layers: &mut [Layer]) {
    let Some((flags, others)) = layers.split_first_mut() else { return };
    if !says(flags, PROFILE) || says(flags, "/harness/plugin") {
        return;
    }
    for path in ["harness.plugin", "workload.plugin"] {
        let at = pointer(path);
        // Where nobody names one, a plugin given with --plugin may be meant.
        if !says(flags, &at) && others.iter().any(|layer| says(layer, &at)) {
            flags.set(path, "--profile", Value::from(FMPERF));
        }
    }
}

/// The time that a request may take has a name among all settings and one among the harness's: the
/// stronger source wins, and the harness's where one source has both.
fn keep_one_timeout(layers: &mut [Layer]) {
    let strongest = layers.iter().position(|layer| says(layer, "/target/timeout"));
    let weaker = strongest.and_then(|index| layers.get_mut(index + 1..));
    for layer in weaker.into_iter().flatten() {
        layer.remove("/harness/settings/request_timeout");
    }
}

/// Settings belong to the plugin that their layers lead to: where flags lead to another one, they
/// stay behind.
fn leave_behind(layers: &mut [Layer]) -> Vec<String> {
    let now = experiment::plugins_of(layers);
    let Some((_, others)) = layers.split_first_mut() else { return Vec::new() };
    let before = experiment::plugins_of(others);
    let mut said = Vec::new();
    for (kind, before, now) in
        [("harness", before.harness, now.harness), ("workload", before.workload, now.workload)]
    {
        if before == now {
            continue;
        }
        let at = format!("/{kind}/settings");
        for layer in others.iter_mut().filter(|layer| says(layer, &at)) {
            said.push(format!(
                "{}: these settings are left out: they are for the {kind} `{before}`, and flags chose `{now}`",
                layer.place(&at)
            ));
            layer.remove(&at);
        }
    }
    said
}

fn says(layer: &Layer, pointer: &str) -> bool {
    layer.get(pointer).is_some_and(|value| !value.is_null())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;
    use crate::settings::{Settings, Source, resolve};
    use serde_json::json;

    /// What a file and flags lead to, and what is said of it.
    fn settled(
        text: &str,
        load: &LoadArgs,
        more: impl FnOnce(&mut Layer),
    ) -> Result<(Settings, String)> {
        let mut flags = Layer::named(Source::Flag);
        load.fill(&mut flags)?;
        more(&mut flags);
        let file = Layer::file(Source::Experiment, Document::parse("e.yaml", text)?);
        let mut layers = vec![flags, file];
        let said = apply(load, &mut layers)?.join("\n");
        Ok((resolve(layers).unwrap(), said))
    }

    #[test]
    fn settings_stay_with_the_plugin_that_they_are_for() {
        let check = |text: &str, load: LoadArgs, workload: Value, harness: Value, left: usize| {
            let (settings, said) = settled(text, &load, |_| {}).unwrap();
            assert_eq!(settings.get("workload.settings"), &workload, "{text}");
            assert_eq!(settings.get("harness.settings"), &harness, "{text}");
            assert_eq!(said.lines().count(), left, "{said}");
        };
        let file = "harness: {settings: {warmup: 3}}\nworkload: {settings: {input_tokens: 5}}";
        let load = LoadArgs::default;
        let warm = || json!({"warmup": 3});
        check(file, load(), json!({"input_tokens": 5}), warm(), 0);
        let data = || LoadArgs { dataset: Some("d.json".into()), ..load() };
        check(file, data(), json!({"file": "d.json"}), warm(), 1);
        let same = "workload: {plugin: sharegpt, settings: {file: a, turns: 2}}";
        check(same, data(), json!({"file": "d.json", "turns": 2}), json!({}), 0);
        let stages = LoadArgs { harness: Some("stages".into()), ..load() };
        check(file, stages, json!({"input_tokens": 5}), warm(), 0);
        let other = LoadArgs { harness: Some("other".into()), warmup: Some("4".into()), ..load() };
        check(file, other, json!({"input_tokens": 5}), json!({"warmup": 4}), 1);
        let profile = LoadArgs { profile: Some("p".into()), ..load() };
        check(file, profile, json!({}), json!({}), 2);
    }

    #[test]
    fn a_typed_profile_is_read_whatever_plugins_a_file_names() {
        let text = "harness: {plugin: stages}\nworkload: {plugin: synthetic}";
        let load = LoadArgs { profile: Some("p".into()), ..LoadArgs::default() };
        let (settings, _) = settled(text, &load, |_| {}).unwrap();
        for path in ["harness.plugin", "workload.plugin"] {
            assert_eq!(settings.text(path), Some(FMPERF));
        }
        let load = LoadArgs { harness: Some("mine".into()), ..load };
        let (settings, _) = settled(text, &load, |_| {}).unwrap();
        assert_eq!(settings.text("harness.plugin"), Some("mine"));
    }

    #[test]
    fn a_typed_timeout_wins_over_the_harness_and_that_over_its_own_file() {
        let text = "target: {timeout: 5s}\nharness: {settings: {request_timeout: 10ms}}";
        let check = |timeout: Option<&str>, expected: Value| {
            let fill = |flags: &mut Layer| {
                if let Some(timeout) = timeout {
                    flags.set("target.timeout", "--timeout", json!(timeout));
                }
            };
            let (settings, _) = settled(text, &LoadArgs::default(), fill).unwrap();
            assert_eq!(settings.get("harness.settings"), &expected);
        };
        check(None, json!({"request_timeout": "10ms"}));
        check(Some("3s"), json!({}));
    }

    #[test]
    fn part_of_a_load_changes_none_that_is_described() {
        let check = |text: &str, refused: bool| {
            let load = LoadArgs { requests: Some(3), ..LoadArgs::default() };
            let outcome = settled(text, &load, |_| {});
            assert_eq!(outcome.is_err(), refused, "{text}");
        };
        check("seed: 1", false);
        check("harness: {settings: {warmup: 3}}", false);
        check("harness: {settings: {stages: [{rate: 1}]}}", true);
        check("fmperf: {experiment_profile: p}", true);
        check("fmperf: {experiment_profile: p}\nharness: {plugin: stages}", false);
        let whole = LoadArgs { rate: vec![2.0], requests: Some(3), ..LoadArgs::default() };
        let stages = "harness: {settings: {stages: [{rate: 1}]}}";
        let (settings, _) = settled(stages, &whole, |_| {}).unwrap();
        assert_eq!(settings.get("harness.settings")["stages"][0]["rate"], 2.0);
    }
}
