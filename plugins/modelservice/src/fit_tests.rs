//! Tests of what does not fit.

use super::*;
use crate::values::tests::{MODEL, names, settings};
use crate::values::{router, servers};
use serde_json::json;

fn checked(changes: Value) -> Result<(), Error> {
    let settings = settings(changes);
    let servers = servers(&settings, &names(), MODEL).unwrap();
    check(&settings, &router(&settings, &names()), &servers)
}

fn refused_at(changes: Value, at: &str, why: &str) {
    let error = checked(changes).unwrap_err();
    assert_eq!(error.at.as_deref(), Some(at), "{error:?}");
    assert!(error.message.contains(why), "{error:?}");
}

#[test]
fn the_defaults_fit() {
    checked(json!({})).unwrap();
    checked(json!({"labels": {"team": "x"}, "inference_port": 9000})).unwrap();
    let roles = json!({"router": {"modelServers": {"matchLabels": {"llm-d.ai/role": "decode"}}}});
    checked(json!({"router_values": roles})).unwrap();
}

#[test]
fn a_sidecar_that_does_not_know_the_flags_of_the_chart_is_refused() {
    let image = |tag: &str| format!("ghcr.io/llm-d/llm-d-router-disagg-sidecar:{tag}");
    refused_at(json!({"sidecar_image": image("v0.10.0")}), "/sidecar_image", "`--connector`");
    refused_at(
        json!({"sidecar_image": image("v0.11.2"), "server_chart_version": "v0.4.9"}),
        "/sidecar_image",
        "llm-d-modelservice v0.4.9",
    );
    checked(json!({"sidecar_image": image("v0.9.1")})).unwrap();
    checked(json!({"sidecar_image": image("v0.10.0"), "server_chart_version": "v0.4.13"})).unwrap();
    checked(json!({"sidecar_image": image("latest")})).unwrap();
    checked(json!({"sidecar_image": image("v0.10.0"), "server_chart_archive": "c"})).unwrap();
    // The image may come in by the chart's own values.
    let proxy = json!({"routing": {"proxy": {"enabled": true, "image": image("v0.10.0")}}});
    refused_at(json!({"server_values": proxy}), "/sidecar_image", "would crash");
}

#[test]
fn charts_of_the_router_that_want_something_else_are_refused() {
    let check = |chart: &str, why: &str| {
        refused_at(json!({"router_chart": chart}), "/router_chart", why);
    };
    let old = "oci://registry.k8s.io/gateway-api-inference-extension/charts/standalone";
    check(old, "ended with v1.5.0");
    check("oci://ghcr.io/llm-d/charts/llm-d-router-standalone-dev", "no longer published");
    check("oci://ghcr.io/llm-d/charts/llm-d-router-gateway", "wants a gateway");
    checked(json!({"router_chart": old, "router_chart_archive": "c"})).unwrap();
}

#[test]
fn values_of_earlier_charts_and_images_of_earlier_names_are_refused() {
    for (key, _) in OLD_KEYS {
        let why = format!("the key `{key}`");
        refused_at(json!({"router_values": {key: {}}}), &format!("/router_values/{key}"), &why);
    }
    let old = "ghcr.io/llm-d/llm-d-inference-scheduler:v0.8.0";
    refused_at(json!({"router_image": old}), "/router_image", "does not give");
    checked(json!({"router_image": "mirror.example.org/llm-d-inference-scheduler:v0.8.0"}))
        .unwrap();
}

#[test]
fn a_router_that_would_find_no_server_is_refused() {
    let at = "/router_values/router/modelServers/matchLabels";
    let labels = |labels: Value| json!({"router_values": {"router": {"modelServers": {"matchLabels": labels}}}});
    refused_at(
        labels(json!({"llm-d.ai/inferenceServing": "true"})),
        at,
        "llm-d.ai/inferenceServing=true, and they have no label llm-d.ai/inferenceServing",
    );
    refused_at(labels(json!({"llm-d.ai/model": "x"})), at, "llm-d.ai/model=x, and they have");
    refused_at(labels(json!({"llm-d.ai/role": "both"})), at, "they have llm-d.ai/role=decode");
    refused_at(labels(Value::Null), at, "needs labels");
    let servers = json!({"modelArtifacts": {"labels": {"llm-d.ai/model": "y"}}});
    refused_at(json!({"server_values": servers}), at, "they have llm-d.ai/model=y");
    refused_at(
        json!({"router_values": {"router": {"modelServers": {"targetPorts": [{"number": 8200}]}}}}),
        "/router_values/router/modelServers/targetPorts",
        "the port 8000",
    );
}

#[test]
fn versions_are_compared_by_their_numbers() {
    assert_eq!(version("v0.10.0"), Some([0, 10, 0]));
    assert_eq!(version("0.4"), Some([0, 4, 0]));
    assert_eq!(version("v1.2.3-rc.1"), Some([1, 2, 3]));
    assert_eq!(version("latest"), None);
}
