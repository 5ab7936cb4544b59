//! The phase that asks the model for one real completion and checks the answer.

use crate::error::{Error, Exit, Result};
use crate::interrupt;
use crate::kubernetes::{Inventory, Kubernetes};
use crate::phase::plan::Prepared;
use crate::plan::Target;
use crate::printer::Printer;
use crate::probe::{Models, Probe};
use crate::run_dir::{self, RunDir};
use load::Endpoint;
use serde_json::json;
use std::net::SocketAddr;

/// Checks every endpoint of the target; writes `setup/smoketest.json`.
pub(crate) fn run(
    prepared: &Prepared,
    target: &Target,
    dir: &RunDir,
    printer: &Printer,
) -> Result<()> {
    let experiment = &prepared.plan.experiment;
    let mut checks = Vec::new();
    // What only a cluster reaches is asked through a port of this machine, for as long as this lasts.
    let kubernetes = match &target.within {
        Some(_) => Some(Kubernetes::of(&Inventory::read(dir)?, &prepared.settings)?),
        None => None,
    };
    let forward = match (&kubernetes, &target.within) {
        (Some(kubernetes), Some(within)) => Some(kubernetes.forward(within)?),
        _ => None,
    };
    for url in &target.endpoints {
        let endpoint = match &forward {
            Some(forward) => parse(&forwarded(url, forward.address())?)?,
            None => parse(url)?,
        };
        let probe = Probe::new(&endpoint, &prepared.secrets, &experiment.tls())?;
        check_model(&probe, &target.model).map_err(|error| error.exit(Exit::Standup))?;
        let mut completion = probe
            .completion(
                experiment.api(),
                &target.model,
                &experiment.target.extra_body,
                "Say hello in a few words.",
            )
            .map_err(|error| error.exit(Exit::Standup))?;
        // Some servers repeat the headers that they got.
        completion.body = prepared.secrets.redaction().clean(&completion.body);
        completion.text = prepared.secrets.redaction().clean(&completion.text);
        let version = probe.version();
        interrupt::check()?;
        checks.push(json!({"endpoint": url, "version": version, "completion": completion}));
        run_dir::write_json(&dir.smoketest(), &json!({"model": target.model, "checks": checks}))?;
        let failed = |what: String| {
            Error::new(Exit::Standup, format!("the smoke test failed: {} {what}", completion.url))
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
        printer.step(&format!("smoketest: {url} answers as {}", target.model));
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
