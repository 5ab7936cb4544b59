//! The phase that asks the model for one real completion and checks the answer.

use crate::error::{Error, Exit, Result};
use crate::interrupt;
use crate::kubernetes::{Inventory, Kubernetes};
use crate::phase::plan::Prepared;
use crate::plan::{Target, Within};
use crate::printer::Printer;
use crate::probe::{Models, Probe};
use crate::run_dir::{self, RunDir};
use load::Endpoint;
use serde_json::{Value, json};
use std::net::SocketAddr;

/// The fact of a target that says where it answers from outside of its cluster.
const ROUTE: &str = "route";

/// Something that is asked.
struct Place {
    /// "pod llmdbench/vllm-0", "Service llmdbench/vllm", or the URL itself.
    name: String,
    url: String,
    /// What only a cluster reaches is asked through a port of this machine.
    within: Option<Within>,
}

/// Asks each pod behind the target, then the target, then the route that leads to it from outside; writes
/// `setup/smoketest.json`, to the first that fails.
pub(crate) fn run(
    prepared: &Prepared,
    target: &Target,
    dir: &RunDir,
    printer: &Printer,
) -> Result<()> {
    let kubernetes = match &target.within {
        Some(_) => Some(Kubernetes::of(&Inventory::read(dir)?, &prepared.settings)?),
        None => None,
    };
    let mut checks = Vec::new();
    for place in places(target, kubernetes.as_ref())? {
        let mut check = json!({"at": place.name, "endpoint": place.url});
        let asked = ask(&place, prepared, target, kubernetes.as_ref(), &mut check);
        if let Err(error) = &asked {
            let text = prepared.secrets.redaction().clean(&error.to_string());
            check["error"] = json!(text);
        }
        checks.push(check);
        run_dir::write_json(&dir.smoketest(), &json!({"model": target.model, "checks": checks}))?;
        asked?;
        printer.step(&format!("smoketest: {} answers as {}", place.name, target.model));
    }
    Ok(())
}

fn places(target: &Target, kubernetes: Option<&Kubernetes>) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    if let (Some(kubernetes), Some(within)) = (kubernetes, &target.within)
        && within.kind != "Pod"
    {
        places.extend(kubernetes.pods_behind(within)?.into_iter().map(|pod| Place {
            name: format!("pod {}/{}", pod.namespace, pod.name),
            url: format!("http://{}:{}", pod.name, pod.port),
            within: Some(pod),
        }));
    }
    for url in &target.endpoints {
        places.push(Place { name: url.clone(), url: url.clone(), within: target.within.clone() });
    }
    if let Some(url) = target.facts.get(ROUTE) {
        let name = format!("the route {url}");
        places.push(Place { name, url: url.clone(), within: None });
    }
    Ok(places)
}

/// Asks for the models and a completion, and checks what comes; what came stands in `check`.
fn ask(
    place: &Place,
    prepared: &Prepared,
    target: &Target,
    kubernetes: Option<&Kubernetes>,
    check: &mut Value,
) -> Result<()> {
    let experiment = &prepared.plan.experiment;
    let forward = match (kubernetes, &place.within) {
        (Some(kubernetes), Some(within)) => Some(kubernetes.forward(within)?),
        _ => None,
    };
    let endpoint = match &forward {
        Some(forward) => parse(&forwarded(&place.url, forward.address())?)?,
        None => parse(&place.url)?,
    };
    let probe = Probe::new(&endpoint, &prepared.secrets, &experiment.tls())?;
    let said = |error: Error| {
        let error = error.exit(Exit::Standup);
        if place.name == place.url {
            error
        } else {
            error.hint(format!("{} was asked", place.name))
        }
    };
    check_model(&probe, &target.model).map_err(said)?;
    let mut completion = probe
        .completion(
            experiment.api(),
            &target.model,
            &experiment.target.extra_body,
            "Say hello in a few words.",
        )
        .map_err(said)?;
    // Some servers repeat the headers that they got.
    completion.body = prepared.secrets.redaction().clean(&completion.body);
    completion.text = prepared.secrets.redaction().clean(&completion.text);
    check["version"] = json!(probe.version());
    check["completion"] = json!(completion);
    interrupt::check()?;
    let failed = |what: String| {
        let asked = match &place.within {
            Some(_) => format!("{}, as {}", place.name, completion.url),
            None => completion.url.clone(),
        };
        Error::new(Exit::Standup, format!("the smoke test failed: {asked} {what}"))
    };
    if let Some(address) = &completion.leads_to {
        let what = format!("answers {}: it redirects to {address}", completion.status);
        return Err(failed(what).hint(
            "load follows no redirects; give the address that it redirects to as the endpoint",
        ));
    }
    if completion.status != 200 {
        return Err(failed(format!("answers {}", completion.status))
            .cause(completion.body.clone())
            .hint("try the same request by hand, or the other API with --api"));
    }
    if completion.text.trim().is_empty() {
        return Err(failed("answers without a word".into()).cause(completion.body.clone()));
    }
    Ok(())
}

/// A URL as it is behind a forwarded port.
pub(crate) fn forwarded(url: &str, address: SocketAddr) -> Result<String> {
    let failed = || Error::usage(format!("`{url}` cannot be forwarded"));
    let mut url = url::Url::parse(url).map_err(|error| failed().because(error))?;
    url.set_ip_host(address.ip()).map_err(|()| failed())?;
    url.set_port(Some(address.port())).map_err(|()| failed())?;
    Ok(url.to_string())
}

/// A target's URL, which was validated when it was found.
pub(crate) fn parse(url: &str) -> Result<Endpoint> {
    Endpoint::parse(url)
        .map_err(|error| Error::usage(format!("`{url}` is no endpoint")).because(error))
}

/// The model must be one that the target lists, where it lists any. Gives what to note.
pub(crate) fn check_model(probe: &Probe<'_>, model: &str) -> Result<Option<String>> {
    match probe.models()? {
        Models::NoList { answer } => Ok(Some(format!("the target lists no models: {answer}"))),
        Models::Listed(models) if models.iter().any(|listed| listed == model) => Ok(None),
        Models::Listed(models) if models.is_empty() => {
            Ok(Some("the target's list of models is empty".to_owned()))
        }
        Models::Listed(models) => {
            let names = models.iter().map(String::as_str);
            let mut error = Error::usage(format!("the target has no model `{model}`"));
            if let Some(near) = crate::document::nearest(model, names) {
                error = error.hint(format!("the nearest name is `{near}`"));
            }
            Err(error.hint(format!("it has {}", models.join(", "))))
        }
    }
}
