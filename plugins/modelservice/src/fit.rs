//! Whether the parts fit each other: charts, images, labels, ports. What does not would be seen
//! only when pods crash or a router finds no server.

use crate::settings::Settings;
use crate::values::split_tag;
use llmdbench_plugin::{Error, log};
use serde_json::{Map, Value};

/// Keys of the router's older charts, and where what they said is said now.
const OLD_KEYS: [(&str, &str); 4] = [
    ("inferenceExtension", "router.epp"),
    ("inferencePool", "router.modelServers and router.inferencePool"),
    ("inferenceObjectives", "router.inferenceObjectives"),
    ("experimentalHttpRoute", "httpRoute"),
];

/// Until this version the servers' chart gives its sidecar `--connector`, which sidecars from
/// [`STRICT_SIDECAR`] on do not know.
const LAST_OLD_CHART: [u64; 3] = [0, 4, 12];
const STRICT_SIDECAR: [u64; 3] = [0, 10, 0];

/// Refuses what does not fit, with the reason.
///
/// # Errors
/// The first that does not.
pub(crate) fn check(settings: &Settings, router: &Value, servers: &Value) -> Result<(), Error> {
    chart_of_the_router(settings)?;
    values_of_the_router(settings, router)?;
    sidecar(settings, servers)?;
    labels(router, servers)?;
    ports(router, servers)
}

fn refused(at: &str, why: String) -> Error {
    Error::invalid_settings(why).at(at)
}

fn chart_of_the_router(settings: &Settings) -> Result<(), Error> {
    if settings.router_chart_archive.is_some() {
        return Ok(());
    }
    let chart = settings.router_chart.as_str();
    let why = if chart.contains("gateway-api-inference-extension/charts") {
        "its charts ended with v1.5.0 and want other values than those that are made here"
    } else if chart.ends_with("-dev") {
        "charts of this name are no longer published"
    } else if chart.contains("llm-d-router-gateway") {
        "it wants a gateway, which this version does not set up"
    } else {
        return Ok(());
    };
    Err(refused("/router_chart", format!("{chart} does not fit: {why}"))
        .hint("use oci://ghcr.io/llm-d/charts/llm-d-router-standalone"))
}

fn values_of_the_router(settings: &Settings, router: &Value) -> Result<(), Error> {
    for (key, now) in OLD_KEYS {
        if router.get(key).is_some() {
            let why = format!("the router's chart refuses the key `{key}` of earlier versions");
            return Err(
                refused(&format!("/router_values/{key}"), why).hint(format!("say it under {now}"))
            );
        }
    }
    let image = &router["router"]["epp"]["image"];
    if image["registry"] == "ghcr.io/llm-d" && image["repository"] == "llm-d-inference-scheduler" {
        let why = "ghcr.io/llm-d does not give llm-d-inference-scheduler to anybody any more";
        let tag = split_tag(&settings.router_image).1;
        return Err(refused("/router_image", why.to_owned()).hint(format!(
            "its new name is ghcr.io/llm-d/llm-d-router-endpoint-picker; {tag} may be another version there"
        )));
    }
    Ok(())
}

fn sidecar(settings: &Settings, servers: &Value) -> Result<(), Error> {
    let proxy = &servers["routing"]["proxy"];
    if proxy["enabled"] == false {
        return Ok(());
    }
    let (_, tag) = split_tag(proxy["image"].as_str().unwrap_or_default());
    let is_strict = version(tag).is_some_and(|version| version >= STRICT_SIDECAR);
    if !is_strict {
        return Ok(());
    }
    if settings.server_chart_archive.is_some() {
        log::warn(format!(
            "whether the chart on disk fits the sidecar {tag} is not known: up to v0.4.12 it does not"
        ));
        return Ok(());
    }
    let chart = settings.server_chart_version.as_str();
    if version(chart).is_some_and(|version| version <= LAST_OLD_CHART) {
        let why = format!(
            "the sidecar {tag} does not know `--connector`, which the chart llm-d-modelservice {chart} gives it, and would crash"
        );
        return Err(refused("/sidecar_image", why).hint(
            "use a sidecar up to v0.9, or a later chart (`server_chart_version`), or no sidecar",
        ));
    }
    Ok(())
}

fn labels(router: &Value, servers: &Value) -> Result<(), Error> {
    let at = "/router_values/router/modelServers/matchLabels";
    let none = Map::new();
    let wanted = router["router"]["modelServers"]["matchLabels"].as_object().unwrap_or(&none);
    if wanted.is_empty() {
        let why = "the router's chart needs labels by which it finds its servers".to_owned();
        return Err(refused(at, why));
    }
    let given = &servers["modelArtifacts"]["labels"];
    for (key, value) in wanted {
        // The chart adds this one.
        let found = match key.as_str() {
            "llm-d.ai/role" => Some("decode"),
            _ => given[key].as_str(),
        };
        if found != value.as_str() {
            let has = match found {
                Some(found) => format!("they have {key}={found}"),
                None => format!("they have no label {key}"),
            };
            let wants = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let why = format!("the router looks for servers with {key}={wants}, and {has}");
            return Err(refused(at, why).hint("give the servers that label (`labels`)"));
        }
    }
    Ok(())
}

fn ports(router: &Value, servers: &Value) -> Result<(), Error> {
    let port = &servers["routing"]["servicePort"];
    let targets = router["router"]["modelServers"]["targetPorts"].as_array();
    if targets.is_some_and(|targets| targets.iter().any(|target| target["number"] == *port)) {
        return Ok(());
    }
    let why = format!("the router sends to none of the port {port}, where the servers listen");
    Err(refused("/router_values/router/modelServers/targetPorts", why))
}

/// The numbers of "v0.4.12"; what is missing is 0.
fn version(text: &str) -> Option<[u64; 3]> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts = text.split(['.', '-', '+']);
    let mut next = || parts.next().map_or(Some(0), |part| part.parse().ok());
    let first = next()?;
    Some([first, next().unwrap_or(0), next().unwrap_or(0)])
}

#[cfg(test)]
#[path = "fit_tests.rs"]
mod tests;
