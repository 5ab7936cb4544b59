//! Backend: llm-d by its charts for the router and for model servers.

mod fit;
mod settings;
mod values;

use llmdbench_plugin::backend::{Action, Condition, Release, RemoteDocument, Step, Wait};
use llmdbench_plugin::permission::ObjectVerbs;
use llmdbench_plugin::types::{Endpoint, Label, MetricsSource, PortRef, Reach, Target};
use llmdbench_plugin::{Backend, Context, Error, Info, Permission, kubernetes, label};
use serde_json::Value;
use settings::Settings;
use values::Names;

/// llm-d for one model.
struct Modelservice {
    settings: Settings,
    model: String,
    namespace: String,
    names: Names,
    router: Value,
    servers: Value,
    timeout: u64,
}

impl Backend for Modelservice {
    type Settings = Settings;

    fn configure(settings: Settings, context: Context) -> Result<Self, Error> {
        let namespace = context.namespace.unwrap_or_default();
        let names = Names::new(&namespace, &context.model);
        let router = values::router(&settings, &names);
        let servers = values::servers(&settings, &names, &context.model)?;
        fit::check(&settings, &router, &servers)?;
        let timeout = settings.wait_timeout.saturating_mul(1_000_000_000);
        Ok(Self { settings, model: context.model, namespace, names, router, servers, timeout })
    }

    fn plan(&mut self) -> Result<Vec<Step>, Error> {
        let step = |number, name: &str, title: &str, actions: Vec<Action>| Step {
            number,
            name: name.to_owned(),
            title: title.to_owned(),
            actions,
        };
        let definitions = self.definitions();
        let title = match (self.settings.inference_pool, definitions.is_empty()) {
            (false, _) => "Nothing to do: the router needs no gateway and no pool",
            (true, true) => "Nothing to do: the definition of InferencePool is there",
            (true, false) => "Apply the definition of InferencePool",
        };
        Ok(vec![
            step(
                0,
                "ensure_llm-d-deployer",
                "Nothing to do: step 07 gets the charts from where they are",
                Vec::new(),
            ),
            step(
                1,
                "ensure_local_conda",
                "Nothing to do: the analysis needs no Python",
                Vec::new(),
            ),
            step(2, "ensure_gateway_provider", title, definitions),
            step(
                6,
                "deploy_vllm_standalone_models",
                "Nothing to do: this method has no servers of its own",
                Vec::new(),
            ),
            step(
                7,
                "deploy_modelservice",
                &format!("Install a router and model servers with {}", self.model),
                self.install(),
            ),
        ])
    }

    fn locate(&mut self, observed: Vec<String>) -> Result<Target, Error> {
        let service = self.names.picker();
        if !kubernetes::is_observed(&observed, "Service", &service) {
            return Err(Error::not_found(format!("the Service {service} is not there"))
                .hint("run the step 07_deploy_modelservice"));
        }
        Ok(Target {
            endpoints: vec![Endpoint {
                url: format!("http://{service}.{}.svc.cluster.local:80", self.namespace),
                reach: Reach::Service(PortRef { namespace: None, name: service, port: 80 }),
                credential: None,
            }],
            metrics: self.metrics().into_iter().collect(),
            model: self.model.clone(),
            facts: self.facts(),
        })
    }
}

impl Modelservice {
    fn definitions(&self) -> Vec<Action> {
        let sources = self.settings.definitions.iter().filter(|_| self.settings.inference_pool);
        let remote = |(index, source): (usize, &String)| {
            Action::ApplyRemote(RemoteDocument {
                file_name: format!("crds_{}.yaml", index + 1),
                source: source.clone(),
                sha256: None,
            })
        };
        sources.enumerate().map(remote).collect()
    }

    /// The router serves nobody until its servers are ready, so they are waited for first.
    fn install(&self) -> Vec<Action> {
        let settings = &self.settings;
        let release = |name: &str, archive: &Option<String>, chart: &str, version: &str, values| {
            Action::Helm(Release {
                name: name.to_owned(),
                chart: archive.as_deref().unwrap_or(chart).to_owned(),
                version: archive.is_none().then(|| version.to_owned()),
                repo: (archive.is_none() && !chart.starts_with("oci://"))
                    .then(|| settings.server_chart_repo.clone()),
                values: kubernetes::yaml(values),
                namespace: None,
                timeout: self.timeout,
            })
        };
        let rolled_out = |name: &str| {
            Action::Wait(Wait {
                objects: kubernetes::object("apps/v1", "Deployment", name),
                until: Condition::Rollout,
                timeout: self.timeout,
            })
        };
        vec![
            release(
                &self.names.router,
                &settings.router_chart_archive,
                &settings.router_chart,
                &settings.router_chart_version,
                &self.router,
            ),
            release(
                &self.names.servers,
                &settings.server_chart_archive,
                &settings.server_chart,
                &settings.server_chart_version,
                &self.servers,
            ),
            rolled_out(&self.names.decode()),
            rolled_out(&self.names.picker()),
            Action::Observe(kubernetes::object("v1", "Service", &self.names.picker())),
        ]
    }

    /// Where the router finds its servers, their metrics are.
    fn metrics(&self) -> Option<MetricsSource> {
        let labels = self.router["router"]["modelServers"]["matchLabels"].as_object()?;
        let labels =
            labels.iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)));
        let port = u16::try_from(self.servers["routing"]["servicePort"].as_u64()?).ok()?;
        Some(kubernetes::server_metrics(labels.collect::<Vec<_>>().join(","), port))
    }

    fn facts(&self) -> Vec<Label> {
        let settings = &self.settings;
        let chart = |archive: &Option<String>, chart: &str, version: &str| match archive {
            // A chart on disk has whatever version it has.
            Some(_) => "a chart of the user".to_owned(),
            None => format!("{chart} {version}"),
        };
        let router = chart(
            &settings.router_chart_archive,
            &settings.router_chart,
            &settings.router_chart_version,
        );
        let servers = chart(
            &settings.server_chart_archive,
            &settings.server_chart,
            &settings.server_chart_version,
        );
        vec![
            label("router chart", &router),
            label("server chart", &servers),
            label("image", &settings.image),
        ]
    }
}

fn manifest() -> Info {
    llmdbench_plugin::info!()
        .schema(include_str!("schema.json"))
        .permission(Permission::Http("github.com".to_owned()))
        // The charts are those that the user's own settings name.
        .permission(Permission::Helm("*".to_owned()))
        .permission(kubernetes::permission("apps", "Deployment", ObjectVerbs::OBSERVE))
        .permission(kubernetes::permission("", "Service", ObjectVerbs::OBSERVE))
}

llmdbench_plugin::export! { manifest: manifest, backend: Modelservice }

#[cfg(test)]
#[path = "lib_tests.rs"]
mod tests;
