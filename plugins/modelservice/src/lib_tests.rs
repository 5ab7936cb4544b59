//! Tests of the steps and of the target.

use super::*;
use crate::values::tests::{MODEL, settings};
use llmdbench_plugin::types::Objects;
use serde_json::json;

fn modelservice(changes: Value) -> Result<Modelservice, Error> {
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
    Modelservice::configure(settings(changes), context)
}

fn outlines(changes: Value, number: u8) -> Vec<String> {
    let steps = modelservice(changes).unwrap().plan().unwrap();
    let step = steps.into_iter().find(|step| step.number == number).unwrap();
    let outline = |action: &Action| match action {
        Action::ApplyRemote(remote) => format!("fetch {}", remote.source),
        Action::Helm(release) => format!(
            "helm {} {} {} {}",
            release.name,
            release.chart,
            release.version.as_deref().unwrap_or("-"),
            release.repo.as_deref().unwrap_or("-")
        ),
        Action::Wait(Wait { objects: Objects::One(one), .. }) => format!("wait {}", one.name),
        Action::Observe(Objects::One(object)) => format!("observe {}", object.name),
        other => panic!("{other:?}"),
    };
    step.actions.iter().map(outline).collect()
}

#[test]
fn the_router_is_waited_for_after_its_servers() {
    let model = Names::new("llmdbench", MODEL).model;
    let expected = [
        format!("helm {model}-router oci://ghcr.io/llm-d/charts/llm-d-router-standalone v0.10.0 -"),
        format!(
            "helm {model}-ms llm-d-modelservice v0.4.12 https://llm-d-incubation.github.io/llm-d-modelservice/"
        ),
        format!("wait {model}-decode"),
        format!("wait {model}-router-epp"),
        format!("observe {model}-router-epp"),
    ];
    assert_eq!(outlines(json!({}), 7), expected);
    let archives = json!({
        "router_chart_archive": "router_chart_archive", "server_chart_archive": "server_chart_archive",
    });
    let expected = [
        format!("helm {model}-router router_chart_archive - -"),
        format!("helm {model}-ms server_chart_archive - -"),
    ];
    assert_eq!(outlines(archives, 7)[..2], expected);
}

#[test]
fn definitions_are_applied_only_for_a_pool() {
    assert!(outlines(json!({}), 2)[0].ends_with("/v1.6.0/v1-manifests.yaml"));
    assert!(outlines(json!({"inference_pool": false}), 2).is_empty());
}

#[test]
fn the_target_is_the_routers_service_of_this_model_by_its_name() {
    let service = |name: &str| json!({"kind": "Service", "metadata": {"name": name}}).to_string();
    let own = format!("{}-router-epp", Names::new("llmdbench", MODEL).model);
    let mut backend = modelservice(json!({})).unwrap();
    let target = backend.locate(vec![service("other-router-epp"), service(&own)]).unwrap();
    assert_eq!(target.endpoints[0].url, format!("http://{own}.llmdbench.svc.cluster.local:80"));
    let error = backend.locate(vec![service("other-router-epp")]).unwrap_err();
    assert!(error.message.contains(&own), "{error:?}");
    // The router is not what serves the model.
    let [servers] = &target.metrics[..] else { panic!("{:?}", target.metrics) };
    let Reach::Pods(pods) = &servers.reach else { panic!("{servers:?}") };
    let model = Names::new("llmdbench", MODEL).model;
    let labels = format!("llm-d.ai/inference-serving=true,llm-d.ai/model={model}");
    assert_eq!((&*servers.component, &*pods.selector, pods.port), ("server", &*labels, 8000));
}

#[test]
fn what_does_not_fit_is_refused_when_it_is_planned() {
    let error =
        modelservice(json!({"router_values": {"inferencePool": {}}})).map(drop).unwrap_err();
    assert!(error.hint.as_deref().unwrap().contains("router.modelServers"), "{error:?}");
}
