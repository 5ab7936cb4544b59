//! Backend: vLLM as a Deployment and a Service of its own.

mod objects;
mod settings;

use llmdbench_plugin::backend::{Action, Condition, Document, Step, Wait};
use llmdbench_plugin::permission::ObjectVerbs;
use llmdbench_plugin::types::{Endpoint, PortRef, Reach, Target};
use llmdbench_plugin::{Backend, Context, Error, Info, kubernetes, label};
use objects::Stack;
use serde_json::Value;
use settings::Settings;

/// The objects of one model.
struct Standalone {
    stack: Stack,
    timeout: u64,
}

impl Backend for Standalone {
    type Settings = Settings;

    fn configure(settings: Settings, context: Context) -> Result<Self, Error> {
        let timeout = settings.wait_timeout.saturating_mul(1_000_000_000);
        Ok(Self { stack: Stack::new(settings, &context)?, timeout })
    }

    fn plan(&mut self) -> Result<Vec<Step>, Error> {
        let nothing = |number, name: &str, title: &str| Step {
            number,
            name: name.to_owned(),
            title: title.to_owned(),
            actions: Vec::new(),
        };
        Ok(vec![
            nothing(0, "ensure_llm-d-deployer", "Nothing to do: no chart is needed"),
            nothing(1, "ensure_local_conda", "Nothing to do: the analysis needs no Python"),
            nothing(2, "ensure_gateway_provider", "Nothing to do: no gateway is needed"),
            Step {
                number: 6,
                name: "deploy_vllm_standalone_models".to_owned(),
                title: format!("Deploy vLLM with {}", self.stack.model()),
                actions: self.deploy(),
            },
            nothing(7, "invoke_llm-d-deployer", "Nothing to do: this method has no chart"),
        ])
    }

    fn locate(&mut self, observed: Vec<String>) -> Result<Target, Error> {
        let wanted = self.stack.service_name();
        if !kubernetes::is_observed(&observed, "Service", wanted) {
            return Err(Error::not_found(format!("the Service {wanted} is not there"))
                .hint("run the step 06_deploy_vllm_standalone_models"));
        }
        Ok(Target {
            endpoints: vec![Endpoint {
                url: self.stack.url(),
                reach: Reach::Service(PortRef {
                    namespace: None,
                    name: wanted.to_owned(),
                    port: 80,
                }),
                credential: None,
            }],
            metrics: Vec::new(),
            model: self.stack.model().to_owned(),
            facts: std::iter::once(label("image", self.stack.image()))
                .chain(self.route(&observed).map(|url| label("route", &url)))
                .collect(),
        })
    }
}

impl Standalone {
    fn deploy(&self) -> Vec<Action> {
        let stack = &self.stack;
        let apply = |(file, object): (String, Value)| {
            Action::Apply(Document { file_name: file, yaml: kubernetes::yaml(&object) })
        };
        let mut actions: Vec<Action> = stack.objects().into_iter().map(apply).collect();
        actions.push(Action::Wait(Wait {
            objects: kubernetes::object("apps/v1", "Deployment", stack.deployment_name()),
            until: Condition::Rollout,
            timeout: self.timeout,
        }));
        actions.push(Action::Observe(kubernetes::object("v1", "Service", stack.service_name())));
        actions.extend(stack.routes().iter().map(|object| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
            let name = text(&object["metadata"]["name"]);
            Action::Observe(kubernetes::object(&api_version, &kind, &name))
        }));
        actions
    }

    /// Where the model answers outside of the cluster: the host that a route of ours got.
    fn route(&self, observed: &[String]) -> Option<String> {
        let observed: Vec<Value> =
            observed.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
        let routes = self.stack.routes();
        let mut hosts = routes.iter().filter_map(|own| {
            let is_it = |object: &&Value| {
                object["kind"] == own["kind"]
                    && object["metadata"]["name"] == own["metadata"]["name"]
            };
            let spec = &observed.iter().find(is_it)?["spec"];
            spec["host"].as_str().or(spec["hostnames"][0].as_str())
        });
        hosts.next().map(|host| format!("http://{host}"))
    }
}

fn manifest() -> Info {
    let both = ObjectVerbs::APPLY | ObjectVerbs::OBSERVE;
    llmdbench_plugin::info!()
        .schema(include_str!("schema.json"))
        .permission(kubernetes::permission("apps", "Deployment", both))
        .permission(kubernetes::permission("", "Service", both))
        .permission(kubernetes::permission("gateway.networking.k8s.io", "HTTPRoute", both))
        .permission(kubernetes::permission("route.openshift.io", "Route", both))
}

llmdbench_plugin::export! { manifest: manifest, backend: Standalone }

#[cfg(test)]
#[path = "lib_tests.rs"]
mod tests;
