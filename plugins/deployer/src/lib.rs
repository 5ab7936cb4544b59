//! Backend: llm-d by the chart of llm-d-deployer.

mod settings;
mod values;

use llmdbench_plugin::backend::{
    Action, Condition, ConditionTest, Document, Release, RemoteDocument, Step, Wait,
};
use llmdbench_plugin::permission::ObjectVerbs;
use llmdbench_plugin::types::{
    Endpoint, MetricsSource, ObjectSelector, Objects, PortRef, Reach, Target,
};
use llmdbench_plugin::{Backend, Context, Error, Info, Permission, inputs, kubernetes, label};
use serde_json::{Value, json};
use settings::Settings;
use std::io::Read;

/// The gateway's Service, and where kgateway runs.
const GATEWAY: &str = "llm-d-inference-gateway";
const KGATEWAY: &str = "kgateway-system";

/// llm-d for one model.
struct Deployer {
    settings: Settings,
    context: Context,
    values: String,
    timeout: u64,
}

impl Backend for Deployer {
    type Settings = Settings;

    fn configure(settings: Settings, context: Context) -> Result<Self, Error> {
        let values = match settings.values_file.as_str() {
            "fromenv" => kubernetes::yaml(&values::of(&settings, &context.model)?),
            input => {
                let mut text = String::new();
                inputs::open(input)?.read_to_string(&mut text)?;
                text
            }
        };
        let timeout = settings.wait_timeout.saturating_mul(1_000_000_000);
        Ok(Self { settings, context, values, timeout })
    }

    fn plan(&mut self) -> Result<Vec<Step>, Error> {
        let step = |number, name: &str, title: String, actions| Step {
            number,
            name: name.to_owned(),
            title,
            actions,
        };
        let nothing = |what: &str| format!("Nothing to do: {what}");
        let chart = match &self.settings.chart_archive {
            Some(_) => nothing("the chart is at hand"),
            None => nothing("step 07 gets the chart from its repository"),
        };
        Ok(vec![
            step(0, "ensure_llm-d-deployer", chart, Vec::new()),
            step(1, "ensure_local_conda", nothing("the analysis needs no Python"), Vec::new()),
            step(
                2,
                "ensure_gateway_provider",
                match self.settings.gateway.as_str() {
                    "kgateway" => {
                        "Install kgateway and the definitions that llm-d needs".to_owned()
                    }
                    _ if self.settings.definitions.is_empty() => nothing("the gateway is there"),
                    _ => "Apply the definitions that llm-d needs".to_owned(),
                },
                self.gateway(),
            ),
            step(
                6,
                "deploy_vllm_standalone_models",
                nothing("this method has no servers of its own"),
                Vec::new(),
            ),
            step(
                7,
                "invoke_llm-d-deployer",
                format!("Install llm-d with {}", self.context.model),
                self.install(),
            ),
        ])
    }

    fn locate(&mut self, observed: Vec<String>) -> Result<Target, Error> {
        if !kubernetes::is_observed(&observed, "Service", GATEWAY) {
            return Err(Error::not_found(format!("the Service {GATEWAY} is not there"))
                .hint("run the step 07_invoke_llm-d-deployer"));
        }
        let namespace = self.context.namespace.as_deref().unwrap_or_default();
        Ok(Target {
            endpoints: vec![Endpoint {
                url: format!("http://{GATEWAY}.{namespace}.svc.cluster.local:80"),
                reach: Reach::Service(PortRef {
                    namespace: None,
                    name: GATEWAY.to_owned(),
                    port: 80,
                }),
                credential: None,
            }],
            metrics: self.servers().map(|selector| self.metrics(selector)).collect(),
            model: self.context.model.clone(),
            facts: match &self.settings.chart_archive {
                // A chart on disk has whatever version it has.
                Some(_) => vec![label("chart", "a file of the user")],
                None => vec![
                    label("chart", &self.settings.chart),
                    label("chart version", &self.settings.chart_version),
                ],
            },
        })
    }
}

impl Deployer {
    fn is_openshift(&self) -> bool {
        self.settings.platform == "openshift"
    }

    /// As the original did: what is there already is left as it is.
    fn gateway(&self) -> Vec<Action> {
        let remote = |(index, source): (usize, &String)| {
            Action::ApplyRemote(RemoteDocument {
                file_name: format!("crds_{}.yaml", index + 1),
                source: source.clone(),
                sha256: None,
            })
        };
        let chart = |name: &str, values: Value| {
            Action::Helm(Release {
                name: name.to_owned(),
                chart: format!("oci://cr.kgateway.dev/kgateway-dev/charts/{name}"),
                version: Some("v2.0.0".to_owned()),
                repo: None,
                values: if values.is_null() { String::new() } else { kubernetes::yaml(&values) },
                namespace: Some(KGATEWAY.to_owned()),
                timeout: self.timeout,
            })
        };
        let definitions = self.settings.definitions.iter().enumerate();
        let mut actions: Vec<Action> = definitions.map(remote).collect();
        if self.settings.gateway == "kgateway" {
            actions.push(chart("kgateway-crds", Value::Null));
            actions.push(chart("kgateway", json!({"inferenceExtension": {"enabled": true}})));
        }
        actions
    }

    fn install(&self) -> Vec<Action> {
        let settings = &self.settings;
        let mut actions = vec![Action::Helm(Release {
            name: settings.release.clone(),
            chart: settings.chart_archive.clone().unwrap_or_else(|| settings.chart.clone()),
            version: settings.chart_archive.is_none().then(|| settings.chart_version.clone()),
            repo: match &settings.chart_archive {
                None if !settings.chart.starts_with("oci://") => Some(settings.chart_repo.clone()),
                _ => None,
            },
            values: self.values.clone(),
            namespace: None,
            timeout: self.timeout,
        })];
        for selector in self.servers() {
            actions.push(Action::Wait(Wait {
                objects: Objects::Matching(ObjectSelector {
                    api_version: "v1".to_owned(),
                    kind: "Pod".to_owned(),
                    namespace: None,
                    selector,
                }),
                until: Condition::Status(ConditionTest {
                    name: "Ready".to_owned(),
                    status: "True".to_owned(),
                }),
                timeout: self.timeout,
            }));
        }
        // Another class than the chart's own, kgateway, names its proxy otherwise.
        if settings.gateway_class_name.is_empty() || settings.gateway_class_name == "kgateway" {
            actions.push(Action::Wait(Wait {
                objects: kubernetes::object("apps/v1", "Deployment", GATEWAY),
                until: Condition::Rollout,
                timeout: self.timeout,
            }));
        }
        if settings.route && self.is_openshift() {
            actions.push(Action::Apply(Document {
                file_name: "route.yaml".to_owned(),
                yaml: kubernetes::yaml(&self.route()),
            }));
        }
        actions.push(Action::Observe(kubernetes::object("v1", "Service", GATEWAY)));
        actions
    }

    /// The labels of the pods that serve the model, of each role that has some.
    fn servers(&self) -> impl Iterator<Item = String> {
        let settings = &self.settings;
        let model = model_label(&self.context.model);
        let roles = [("decode", settings.decode_replicas), ("prefill", settings.prefill_replicas)];
        let roles = roles.into_iter().filter(|(_, replicas)| *replicas > 0);
        roles.map(move |(role, _)| format!("llm-d.ai/model={model},llm-d.ai/role={role}"))
    }

    fn metrics(&self, selector: String) -> MetricsSource {
        kubernetes::server_metrics(selector, self.settings.inference_port)
    }

    fn route(&self) -> Value {
        json!({
            "apiVersion": "route.openshift.io/v1",
            "kind": "Route",
            "metadata": {
                "name": format!("{GATEWAY}-route"),
                "namespace": self.context.namespace.as_deref().unwrap_or_default(),
            },
            // Without a port the router takes the only one there is. The original named the port of
            // the servers, which the gateway does not listen on.
            "spec": {"to": {"kind": "Service", "name": GATEWAY}},
        })
    }
}

/// The value of the label `llm-d.ai/model` on the pods that the model service makes for a model.
fn model_label(model: &str) -> String {
    let is_kept = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let mut label = String::new();
    let mut replaced = false;
    for c in model.trim().to_lowercase().chars() {
        if is_kept(c) {
            label.push(c);
        } else if !replaced {
            label.push('-');
        }
        replaced = !is_kept(c);
    }
    let mut label = label.trim_matches('-').to_owned();
    label.truncate(63);
    label
}

fn manifest() -> Info {
    llmdbench_plugin::info!()
        .schema(include_str!("schema.json"))
        .permission(Permission::Http("github.com".to_owned()))
        .permission(Permission::Http("raw.githubusercontent.com".to_owned()))
        .permission(Permission::Helm("oci://cr.kgateway.dev/kgateway-dev/charts/".to_owned()))
        // The chart is the one that the user's own settings name.
        .permission(Permission::Helm("*".to_owned()))
        .permission(kubernetes::permission("apps", "Deployment", ObjectVerbs::OBSERVE))
        .permission(kubernetes::permission("", "Pod", ObjectVerbs::OBSERVE))
        .permission(kubernetes::permission("", "Service", ObjectVerbs::OBSERVE))
        .permission(kubernetes::permission("route.openshift.io", "Route", ObjectVerbs::APPLY))
}

llmdbench_plugin::export! { manifest: manifest, backend: Deployer }

#[cfg(test)]
#[path = "lib_tests.rs"]
mod tests;
