//! Tests of the steps, of the target and of the permissions.

use super::*;
use crate::values::tests::settings;
use std::collections::BTreeSet;

const MODEL: &str = "meta-llama/Llama-3.1-8B-Instruct";

fn deployer(changes: Value) -> Deployer {
    let context = Context {
        run_id: "r".into(),
        model: MODEL.into(),
        model_alias: "llama-8b".into(),
        namespace: Some("llmdbench".into()),
        seed: 1,
        labels: Vec::new(),
        target: None,
        cluster: None,
    };
    Deployer::configure(settings(changes), context).unwrap()
}

fn step(changes: Value, number: u8) -> Vec<Action> {
    let steps = deployer(changes).plan().unwrap();
    steps.into_iter().find(|step| step.number == number).unwrap().actions
}

/// An action in a few words.
fn outline(action: &Action) -> String {
    match action {
        Action::ApplyRemote(remote) => format!("fetch {}", remote.file_name),
        Action::Helm(release) => format!("helm {} {}", release.name, release.chart),
        Action::Wait(Wait { objects: Objects::Matching(pods), .. }) => pods.selector.clone(),
        Action::Apply(document) => format!("apply {}", document.file_name),
        Action::Wait(Wait { objects: Objects::One(object), .. }) => format!("wait {}", object.name),
        Action::Observe(Objects::One(object)) => format!("observe {}", object.name),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_steps_have_the_originals_numbers_and_names() {
    let steps = deployer(json!({})).plan().unwrap();
    let names: Vec<(u8, &str, bool)> = steps
        .iter()
        .map(|step| (step.number, step.name.as_str(), step.actions.is_empty()))
        .collect();
    let expected = [
        (0, "ensure_llm-d-deployer", true),
        (1, "ensure_local_conda", true),
        (2, "ensure_gateway_provider", false),
        (6, "deploy_vllm_standalone_models", true),
        (7, "invoke_llm-d-deployer", false),
    ];
    assert_eq!(names, expected);
}

#[test]
fn the_gateway_comes_after_the_definitions_that_it_needs() {
    let actions = step(json!({}), 2);
    let outlines: Vec<String> = actions.iter().map(outline).collect();
    let expected = [
        "fetch crds_1.yaml",
        "fetch crds_2.yaml",
        "fetch crds_3.yaml",
        "helm kgateway-crds oci://cr.kgateway.dev/kgateway-dev/charts/kgateway-crds",
        "helm kgateway oci://cr.kgateway.dev/kgateway-dev/charts/kgateway",
    ];
    assert_eq!(outlines, expected);
    let Action::Helm(kgateway) = &actions[4] else { panic!("a release") };
    assert_eq!(kgateway.values, "inferenceExtension:\n  enabled: true\n");
    assert_eq!(kgateway.version.as_deref(), Some("v2.0.0"));
    assert_eq!(kgateway.namespace.as_deref(), Some("kgateway-system"));
}

#[test]
fn a_gateway_that_is_there_is_not_installed() {
    assert!(step(json!({"gateway": "none", "definitions": []}), 2).is_empty());
    let own = step(json!({"gateway": "none", "definitions": ["definitions.0"]}), 2);
    let [Action::ApplyRemote(remote)] = own.as_slice() else { panic!("{own:?}") };
    assert_eq!(remote.source, "definitions.0");
}

#[test]
fn llm_d_is_installed_awaited_and_exposed() {
    let check = |changes: Value, expected: &[&str]| {
        let outlines: Vec<String> = step(changes, 7).iter().map(outline).collect();
        assert_eq!(outlines, expected);
    };
    let decode = "llm-d.ai/model=meta-llama-llama-3-1-8b-instruct,llm-d.ai/role=decode";
    let prefill = "llm-d.ai/model=meta-llama-llama-3-1-8b-instruct,llm-d.ai/role=prefill";
    let observe = "observe llm-d-inference-gateway";
    let wait = "wait llm-d-inference-gateway";
    check(json!({}), &["helm llm-d llm-d", decode, prefill, wait, "apply route.yaml", observe]);
    check(json!({"platform": "kubernetes"}), &["helm llm-d llm-d", decode, prefill, wait, observe]);
    check(
        json!({"route": false, "release": "mine", "prefill_replicas": 0, "gateway_class_name": "istio"}),
        &["helm mine llm-d", decode, observe],
    );
}

#[test]
fn a_chart_comes_from_its_repository_a_registry_or_the_disk() {
    let check = |changes: Value, expected: (&str, Option<&str>, Option<&str>)| {
        let actions = step(changes, 7);
        let Action::Helm(llm_d) = &actions[0] else { panic!("a release") };
        assert_eq!((&*llm_d.chart, llm_d.repo.as_deref(), llm_d.version.as_deref()), expected);
    };
    check(json!({}), ("llm-d", Some("https://llm-d.ai/llm-d-deployer"), Some("1.0.17")));
    let chart = "oci://example.org/charts/llm-d";
    check(json!({"chart": chart, "chart_version": "2.0.0"}), (chart, None, Some("2.0.0")));
    check(json!({"chart_archive": "chart_archive"}), ("chart_archive", None, None));
}

#[test]
fn the_label_of_a_model_is_the_one_that_the_controller_sets() {
    let check = |model: &str, expected: &str| assert_eq!(model_label(model), expected);
    check("meta-llama/Llama-3.2-3B-Instruct", "meta-llama-llama-3-2-3b-instruct");
    check("org/a_.b", "org-a-b");
    // Dashes of the name stay, next to others as well.
    check("org/a--b_-c-", "org-a--b--c");
    check(&format!("org/{}", "a".repeat(80)), &format!("org-{}", "a".repeat(59)));
}

#[test]
fn the_target_is_the_gateway_once_it_is_there() {
    let gateway = json!({"kind": "Service", "metadata": {"name": GATEWAY}}).to_string();
    let target = deployer(json!({})).locate(vec![gateway.clone()]).unwrap();
    let endpoint = &target.endpoints[0];
    assert_eq!(endpoint.url, "http://llm-d-inference-gateway.llmdbench.svc.cluster.local:80");
    let Reach::Service(port) = &endpoint.reach else { panic!("{endpoint:?}") };
    assert_eq!((port.name.as_str(), port.port), (GATEWAY, 80));
    assert_eq!(target.model, MODEL);
    let facts = |target: Target| target.facts.into_iter().map(|fact| fact.value);
    assert_eq!(facts(target).collect::<Vec<_>>(), ["llm-d", "1.0.17"]);
    let archive = deployer(json!({"chart_archive": "chart_archive"})).locate(vec![gateway]);
    assert_eq!(facts(archive.unwrap()).collect::<Vec<_>>(), ["a file of the user"]);
    let error = deployer(json!({})).locate(Vec::new()).unwrap_err();
    assert!(error.message.contains(GATEWAY), "{error:?}");
}

#[test]
fn the_pods_that_serve_the_model_are_told_from_the_gateway() {
    let check = |changes: Value, roles: &[&str]| {
        let gateway = json!({"kind": "Service", "metadata": {"name": GATEWAY}}).to_string();
        let metrics = deployer(changes).locate(vec![gateway]).unwrap().metrics;
        let selectors = metrics.iter().map(|source| {
            assert_eq!(source.component, "server");
            let Reach::Pods(pods) = &source.reach else { panic!("{source:?}") };
            assert_eq!((pods.port, &*source.url), (8000, "http://server:8000/metrics"));
            pods.selector.clone()
        });
        let model = "llm-d.ai/model=meta-llama-llama-3-1-8b-instruct";
        let expected = roles.iter().map(|role| format!("{model},llm-d.ai/role={role}"));
        assert_eq!(selectors.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    };
    check(json!({}), &["decode", "prefill"]);
    check(json!({"prefill_replicas": 0}), &["decode"]);
}

#[test]
fn every_variable_of_the_chart_is_a_setting_of_the_schema() {
    let schema: Value = serde_json::from_str(include_str!("schema.json")).unwrap();
    let properties = schema["properties"].as_object().unwrap();
    let pickers: BTreeSet<String> = settings(json!({})).picker.keys().cloned().collect();
    for (name, property) in properties {
        assert!(property["description"].is_string(), "{name}");
        if name.starts_with("epp_") {
            assert!(pickers.contains(name), "{name}");
            let variable = format!("LLMDBENCH_VLLM_DEPLOYER_{}", name.to_uppercase());
            assert_eq!(property["x-setting"], variable);
        }
    }
    for name in &pickers {
        assert!(properties.contains_key(name), "{name}");
    }
}
