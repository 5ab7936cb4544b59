//! The phase that asks the model for one real completion and checks the answer.

use crate::error::{Error, Exit, Result};
use crate::interrupt;
use crate::kubernetes::{Inventory, Kubernetes};
use crate::phase::inside;
use crate::phase::plan::Prepared;
use crate::plan::{Target, Within};
use crate::printer::Printer;
use crate::probe::{Models, Probe};
use crate::question::{Answer, Question};
use crate::run_dir::{self, RunDir};
use load::Endpoint;
use serde_json::{Value, json};
use std::net::SocketAddr;

/// The fact of a target that says where it answers from outside of its cluster.
const ROUTE: &str = "route";

/// Something that is asked.
struct Place {
    /// "pod llmdbench/vllm-0", or the URL itself.
    name: String,
    url: String,
    way: Way,
}

/// How one gets to what is asked.
enum Way {
    /// As load from here does.
    Direct,
    /// Through a port of this machine that the API server forwards to this pod.
    Forwarded(Within),
    /// As load from inside the cluster does: a pod asks.
    Inside,
}

/// What it takes to ask.
struct Asker<'a> {
    prepared: &'a Prepared,
    target: &'a Target,
    dir: &'a RunDir,
    printer: &'a Printer,
    /// None: the target is in no cluster.
    kubernetes: Option<Kubernetes>,
    /// The same command makes the load: it needs the image of agents in any case.
    is_loaded_next: bool,
}

/// Asks each pod that serves the model, then the target as the load will, then the route that leads to it from outside;
/// writes `setup/smoketest.json`, to the first that fails. `is_loaded_next`: the same command makes the load.
pub(crate) fn run(
    prepared: &Prepared,
    target: &Target,
    dir: &RunDir,
    is_loaded_next: bool,
    printer: &Printer,
) -> Result<()> {
    let kubernetes = match &target.within {
        Some(_) => Some(Kubernetes::of(&Inventory::read(dir)?, &prepared.settings)?),
        None => None,
    };
    let asker = Asker { prepared, target, dir, printer, kubernetes, is_loaded_next };
    let mut checks = Vec::new();
    for place in asker.places()? {
        let mut check = json!({"at": place.name, "endpoint": place.url});
        let asked = asker.ask(&place, &mut check);
        if let Err(error) = &asked {
            let text = prepared.secrets.redaction().clean(&error.to_string());
            check["error"] = json!(text);
        }
        let via = check["via"].as_str().unwrap_or_default();
        let how = match place.way {
            Way::Direct => String::new(),
            Way::Forwarded(_) => format!(", through {via}"),
            Way::Inside => format!(", asked by {via}"),
        };
        checks.push(check);
        run_dir::write_json(&dir.smoketest(), &json!({"model": target.model, "checks": checks}))?;
        asked?;
        printer.step(&format!("smoketest: {} answers as {}{how}", place.name, target.model));
    }
    Ok(())
}

impl Asker<'_> {
    fn places(&self) -> Result<Vec<Place>> {
        let target = self.target;
        let inside = self.kubernetes.as_ref().zip(target.within.as_ref());
        let mut places = Vec::new();
        if let Some((kubernetes, within)) = inside
            && (within.kind != "Pod" || !target.servers.is_empty())
        {
            places.extend(kubernetes.servers(target)?.into_iter().map(|server| Place {
                name: named(&server.pod),
                url: format!("http://{}:{}", server.pod.name, server.pod.port),
                way: Way::Forwarded(server.pod),
            }));
        }
        let settings = &self.prepared.settings;
        // Who only stands a stack up has not said yet that nodes find the image of agents.
        let has_image = settings.text("load.image").is_some()
            && (self.is_loaded_next || settings.is_set("load.image"));
        let is_asked_inside = has_image && inside::is_meant(&self.prepared.plan, Some(target));
        for url in &target.endpoints {
            let way = match inside {
                None => Way::Direct,
                Some(_) if is_asked_inside => Way::Inside,
                Some((kubernetes, within)) => {
                    Way::Forwarded(kubernetes.pods_behind(within)?.swap_remove(0))
                }
            };
            places.push(Place { name: url.clone(), url: url.clone(), way });
        }
        if let Some(url) = target.facts.get(ROUTE) {
            let name = format!("the route {url}");
            places.push(Place { name, url: url.clone(), way: Way::Direct });
        }
        Ok(places)
    }

    /// Asks for the models and a completion, and checks what comes; what came stands in `check`, and by which way.
    fn ask(&self, place: &Place, check: &mut Value) -> Result<()> {
        let answered = self.answer(place, check);
        let answer = answered.map_err(|error| {
            let error = error.exit(Exit::Standup);
            match check["via"].as_str() {
                Some(via) if matches!(place.way, Way::Inside) => {
                    error.hint(format!("{via} has asked, by the name that the load will use"))
                }
                _ if place.name == place.url => error,
                _ => error.hint(format!("{} was asked", place.name)),
            }
        })?;
        let Answer { version, mut completion } = answer;
        // Some servers repeat the headers that they got.
        let redaction = self.prepared.secrets.redaction();
        completion.body = redaction.clean(&completion.body);
        completion.text = redaction.clean(&completion.text);
        check["version"] = json!(version);
        check["completion"] = json!(completion);
        interrupt::check()?;
        let failed = |what: String| {
            let asked = match place.way {
                Way::Forwarded(_) => format!("{}, as {}", place.name, completion.url),
                Way::Inside | Way::Direct => completion.url.clone(),
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

    fn answer(&self, place: &Place, check: &mut Value) -> Result<Answer> {
        let prepared = self.prepared;
        let mut question = Question {
            endpoint: place.url.clone(),
            model: self.target.model.clone(),
            experiment: prepared.plan.experiment.clone(),
        };
        match (&place.way, &self.kubernetes) {
            (Way::Forwarded(pod), Some(kubernetes)) => {
                check["via"] = json!(format!("a forwarded port to {}", named(pod)));
                let forward = kubernetes.forward(pod)?;
                question.endpoint = forwarded(&place.url, forward.address())?;
                question.ask(&prepared.secrets)
            }
            (Way::Inside, Some(kubernetes)) => {
                let asked = inside::ask(kubernetes, prepared, &question, self.dir, self.printer);
                let (pod, answer) = asked.map_err(|error| {
                    error.hint("a pod asks as the load will; with LLMDBENCH_LOAD_FROM=here both come from this machine")
                })?;
                check["via"] = json!(format!("{pod} inside the cluster"));
                answer
            }
            _ => {
                check["via"] = json!("this machine");
                question.ask(&prepared.secrets)
            }
        }
    }
}

fn named(pod: &Within) -> String {
    format!("pod {}/{}", pod.namespace, pod.name)
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
