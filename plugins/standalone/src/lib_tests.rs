//! Tests of the steps, of the target and of the schema.

use super::*;
use crate::objects::tests::settings;
use llmdbench_plugin::types::Objects;
use serde_json::json;

fn standalone(changes: Value) -> Standalone {
    let context = Context {
        run_id: "r".into(),
        model: "meta-llama/Llama-3.1-8B-Instruct".into(),
        model_alias: "llama-8b".into(),
        namespace: Some("llmdbench".into()),
        seed: 1,
        labels: Vec::new(),
        target: None,
        cluster: None,
    };
    Standalone::configure(settings(changes), context).unwrap()
}

#[test]
fn the_steps_have_the_originals_numbers_and_names() {
    let steps = standalone(json!({})).plan().unwrap();
    let names: Vec<(u8, &str, bool)> = steps
        .iter()
        .map(|step| (step.number, step.name.as_str(), step.actions.is_empty()))
        .collect();
    let expected = [
        (0, "ensure_llm-d-deployer", true),
        (1, "ensure_local_conda", true),
        (2, "ensure_gateway_provider", true),
        (6, "deploy_vllm_standalone_models", false),
        (7, "invoke_llm-d-deployer", true),
    ];
    assert_eq!(names, expected);
}

#[test]
fn servers_are_applied_awaited_and_their_service_observed() {
    let steps = standalone(json!({"wait_timeout": 60})).plan().unwrap();
    let deploy = steps.iter().find(|step| step.number == 6).unwrap();
    let [Action::Apply(deployment), Action::Apply(service), Action::Wait(wait), observe] =
        deploy.actions.as_slice()
    else {
        panic!("{:?}", deploy.actions);
    };
    assert_eq!(deployment.file_name, "a_deployment_llama-8b.yaml");
    assert_eq!(service.file_name, "b_service_llama-8b.yaml");
    let Objects::One(awaited) = &wait.objects else { panic!("{wait:?}") };
    assert_eq!(awaited.name, "vllm-standalone-8b-vllm-llama-3-8b-instruct");
    assert!(matches!(wait.until, Condition::Rollout), "{wait:?}");
    assert_eq!(wait.timeout, 60_000_000_000);
    let Action::Observe(Objects::One(observed)) = observe else { panic!("{observe:?}") };
    assert_eq!(
        (observed.kind.as_str(), observed.name.as_str()),
        ("Service", "vllm-standalone-llama-3-8b")
    );
}

#[test]
fn the_target_is_the_service_once_it_is_there() {
    let name = "vllm-standalone-llama-3-8b";
    let service = |name: &str| json!({"kind": "Service", "metadata": {"name": name}}).to_string();
    let observed = vec![service("another"), service(name)];
    let target = standalone(json!({"image": "vllm/vllm-openai:v1"})).locate(observed).unwrap();
    let endpoint = &target.endpoints[0];
    assert_eq!(endpoint.url, format!("http://{name}.llmdbench.svc.cluster.local:80"));
    let Reach::Service(port) = &endpoint.reach else { panic!("{endpoint:?}") };
    assert_eq!((port.name.as_str(), port.port), (name, 80));
    assert_eq!(target.model, "meta-llama/Llama-3.1-8B-Instruct");
    assert_eq!(target.facts[0].value, "vllm/vllm-openai:v1");
    let error = standalone(json!({})).locate(vec![service("another")]).unwrap_err();
    assert!(error.message.contains(name), "{error:?}");
}

#[test]
fn a_route_is_observed_and_tells_where_the_model_answers_outside() {
    let check = |changes: Value, kind: &str, spec: Value, expected: &str| {
        let mut planned = standalone(changes.clone());
        let steps = planned.plan().unwrap();
        let actions = steps.into_iter().flat_map(|step| step.actions);
        let last = actions.last().unwrap();
        let Action::Observe(Objects::One(route)) = last else { panic!("{last:?}") };
        assert_eq!(route.kind, kind);
        let service =
            json!({"kind": "Service", "metadata": {"name": "vllm-standalone-llama-3-8b"}});
        let object = json!({"kind": kind, "metadata": {"name": route.name}, "spec": spec});
        let observed = vec![service.to_string(), object.to_string()];
        let target = standalone(changes).locate(observed).unwrap();
        let fact = target.facts.iter().find(|fact| fact.key == "route").unwrap();
        assert_eq!(fact.value, expected);
    };
    let openshift = json!({"platform": "openshift"});
    check(openshift, "Route", json!({"host": "a.apps.c"}), "http://a.apps.c");
    let http_route = json!({"httproute": true});
    check(http_route, "HTTPRoute", json!({"hostnames": ["b.apps.c"]}), "http://b.apps.c");
}

#[test]
fn every_setting_of_the_schema_is_described_and_those_of_variables_come_filled_in() {
    let schema: Value = serde_json::from_str(include_str!("schema.json")).unwrap();
    let properties = schema["properties"].as_object().unwrap();
    let filled = properties.iter().filter(|(_, property)| property.get("x-setting").is_some());
    assert_eq!(filled.count(), 20);
    for (name, property) in properties {
        assert!(property["description"].is_string(), "{name}");
        let follows = property["x-setting"].as_str();
        assert!(follows.is_none_or(|variable| variable.starts_with("LLMDBENCH_")), "{name}");
        // Only what may be empty in the table has a value here.
        let has_default = property.get("default").is_some();
        assert_eq!(has_default, follows.is_none() || name == "affinity", "{name}");
    }
}
