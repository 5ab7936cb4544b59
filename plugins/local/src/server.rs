//! The one process of this backend: how it is started, and what is known of it once it runs.

use crate::settings::{Settings, Simulator};
use llmdbench_plugin::backend::{Action, Step};
use llmdbench_plugin::commands::{Process, Variable, VariableValue};
use llmdbench_plugin::types::{Endpoint, MetricsSource, Reach, Target};
use llmdbench_plugin::{Context, Error, label};
use serde_json::Value;

/// Names the process, its log, and the object in which the host tells its port.
const NAME: &str = "server";

/// The number of the original's step that sets a standalone server up.
const STEP: u8 = 6;

/// The host puts a free port in its place.
const PORT: &str = "$(LLMDBENCH_PORT)";

/// A server to be started.
#[derive(Debug)]
pub(crate) struct Server {
    settings: Settings,
    /// Program and arguments.
    command: Vec<String>,
    /// The model's name as the server's API wants it.
    model: String,
}

impl Server {
    /// A server as the settings say.
    ///
    /// # Errors
    /// When a setting makes no sense.
    pub(crate) fn new(settings: Settings, context: &Context) -> Result<Self, Error> {
        if settings.command.is_some() && settings.simulator.is_some() {
            return Err(Error::invalid_settings("command and simulator exclude each other")
                .at("/simulator")
                .hint("leave out `simulator` to start the command, or `command` to start the simulator"));
        }
        for (name, path) in
            [("ready_path", &settings.ready_path), ("metrics_path", &settings.metrics_path)]
        {
            if !path.is_empty() && !path.starts_with('/') {
                return Err(Error::invalid_settings(format!("{path:?} is not a path"))
                    .at(format!("/{name}"))
                    .hint("begin it with a slash, or leave it empty for none"));
            }
        }
        if let Some(name) = settings.secrets.keys().find(|name| settings.env.contains_key(*name)) {
            return Err(Error::invalid_settings(format!("{name} is given twice"))
                .at(format!("/secrets/{name}"))
                .hint("keep it either in `env` or in `secrets`"));
        }
        let model = settings.model.clone().unwrap_or_else(|| context.model.clone());
        let command = match &settings.command {
            Some(command) => command.clone(),
            None => {
                simulator(&settings.simulator.clone().unwrap_or_default(), &model, context.seed)?
            }
        };
        if command.first().is_none_or(|program| program.trim().is_empty()) {
            return Err(Error::invalid_settings("the command is empty")
                .at("/command")
                .hint("name a program, such as [\"vllm\", \"serve\", \"$(LLMDBENCH_MODEL)\"], or leave it out"));
        }
        Ok(Self { settings, command, model })
    }

    /// The steps that set it up.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut command = self.command.iter().map(|word| self.with_port(word));
        let program = command.next().expect("a command has a program, as was checked");
        let text = |(name, value): (&String, &String)| Variable {
            name: name.clone(),
            value: VariableValue::Text(self.with_port(value)),
        };
        let secret = |(name, secret): (&String, &String)| Variable {
            name: name.clone(),
            value: VariableValue::Secret(secret.clone()),
        };
        let ready = (!self.settings.ready_path.is_empty()).then(|| {
            self.with_port(&format!("http://127.0.0.1:{PORT}{}", self.settings.ready_path))
        });
        let process = Process {
            name: NAME.to_owned(),
            program,
            args: command.collect(),
            env: self
                .settings
                .env
                .iter()
                .map(text)
                .chain(self.settings.secrets.iter().map(secret))
                .collect(),
            files: Vec::new(),
            working_dir: self.settings.working_dir.clone(),
            ready_url: ready,
            ready_timeout: self.settings.ready_timeout.into(),
        };
        vec![Step {
            number: STEP,
            name: "start_local_server".to_owned(),
            title: format!("Start {} on this machine", self.what()),
            actions: vec![Action::Process(process)],
        }]
    }

    /// The target, from the objects that the host observed.
    ///
    /// # Errors
    /// When the process is not among them or has no port.
    pub(crate) fn target(&self, observed: &[String]) -> Result<Target, Error> {
        let port = match self.settings.port {
            Some(port) => u64::from(port),
            None => port(observed)?,
        };
        let url = format!("http://127.0.0.1:{port}");
        let metrics = match self.settings.metrics_path.as_str() {
            "" => Vec::new(),
            path => vec![MetricsSource {
                component: NAME.to_owned(),
                url: format!("{url}{path}"),
                reach: Reach::Direct,
            }],
        };
        Ok(Target {
            endpoints: vec![Endpoint { url, reach: Reach::Direct, credential: None }],
            metrics,
            model: self.model.clone(),
            facts: self.facts(),
        })
    }

    /// What the report says of the server. Arguments of a user's command stay out of it: they may
    /// hold what is not for others.
    fn facts(&self) -> Vec<llmdbench_plugin::Label> {
        let mut facts = vec![label("server", self.what())];
        if self.settings.command.is_none() {
            facts.push(label("simulator", self.command[2..].join(" ")));
        }
        facts
    }

    fn what(&self) -> &str {
        match &self.settings.command {
            Some(command) => command[0].rsplit('/').next().unwrap_or(&command[0]),
            None => "llmdbench sim",
        }
    }

    /// The text with the user's own port, where there is one.
    fn with_port(&self, text: &str) -> String {
        match self.settings.port {
            // What is escaped stays as it is.
            Some(port) => text
                .split(&format!("${PORT}"))
                .map(|part| part.replace(PORT, &port.to_string()))
                .collect::<Vec<_>>()
                .join(&format!("${PORT}")),
            None => text.to_owned(),
        }
    }
}

/// The command that starts the simulated server.
fn simulator(settings: &Simulator, model: &str, seed: u64) -> Result<Vec<String>, Error> {
    let wrong = |name: &str, message: String, hint: &str| {
        Err(Error::invalid_settings(message).at(format!("/simulator/{name}")).hint(hint))
    };
    if !(0.0..=1.0).contains(&settings.jitter) {
        return wrong(
            "jitter",
            format!("{} is not from 0 to 1", settings.jitter),
            "0.1 means plus or minus 10 %",
        );
    }
    if let Some((fault, rate)) =
        settings.faults.iter().find(|(_, rate)| !(0.0..=1.0).contains(*rate))
    {
        let hint = "give the share of the requests that have the fault";
        return wrong(&format!("faults/{fault}"), format!("{rate} is not from 0 to 1"), hint);
    }
    let mut command: Vec<String> =
        ["$(LLMDBENCH_SELF)", "sim", "--host", "127.0.0.1", "--port", PORT]
            .map(str::to_owned)
            .into();
    let mut add = |flag: &str, value: String| command.extend([flag.to_owned(), value]);
    add("--model", model.to_owned());
    add("--ttft", settings.ttft.to_string());
    add("--itl", settings.itl.to_string());
    add("--prefill-per-token", settings.prefill_per_token.to_string());
    add("--jitter", settings.jitter.to_string());
    add("--seed", settings.seed.unwrap_or(seed).to_string());
    for (flag, value) in [
        ("--max-running", settings.max_running),
        ("--tokens-per-chunk", settings.tokens_per_chunk),
        ("--cache-blocks", settings.cache_blocks),
    ] {
        if let Some(value) = value {
            add(flag, value.to_string());
        }
    }
    if let Some(file) = &settings.truth_log {
        add("--truth-log", file.clone());
    }
    for (fault, rate) in &settings.faults {
        add("--faults", format!("{fault}={rate}"));
    }
    Ok(command)
}

/// The port that the host gave to the process.
fn port(observed: &[String]) -> Result<u64, Error> {
    let process = observed
        .iter()
        .filter_map(|object| serde_json::from_str::<Value>(object).ok())
        .find(|object| object["kind"] == "Process" && object["metadata"]["name"] == NAME)
        .ok_or_else(|| {
            Error::not_found("no server process runs for this run")
                .hint("start it first, with `llmdbench standup`")
        })?;
    process["status"]["port"]
        .as_u64()
        .filter(|port| (1..=u64::from(u16::MAX)).contains(port))
        .ok_or_else(|| Error::internal("the host tells no port for the server process"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn context() -> Context {
        Context {
            run_id: "r".into(),
            model: "meta-llama/Llama-3.2-3B".into(),
            model_alias: "llama-3b".into(),
            namespace: None,
            seed: 7,
            labels: Vec::new(),
            target: None,
            cluster: None,
        }
    }

    fn server(settings: Value) -> Result<Server, Error> {
        Server::new(serde_json::from_value(settings).unwrap(), &context())
    }

    fn process(settings: Value) -> Process {
        let steps = server(settings).unwrap().steps();
        let [Step { number: 6, name, actions, .. }] = &steps[..] else { panic!("{steps:?}") };
        assert_eq!(name, "start_local_server");
        match &actions[..] {
            [Action::Process(process)] => process.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn check_command(settings: Value, expected: &str) {
        let process = process(settings);
        assert_eq!(format!("{} {}", process.program, process.args.join(" ")), expected);
    }

    const SIM: &str = "$(LLMDBENCH_SELF) sim --host 127.0.0.1 --port $(LLMDBENCH_PORT)";

    #[test]
    fn without_a_command_the_simulator_starts() {
        check_command(
            json!({}),
            &format!(
                "{SIM} --model meta-llama/Llama-3.2-3B --ttft 200ms --itl 10ms --prefill-per-token 0s --jitter 0 --seed 7"
            ),
        );
        check_command(
            json!({"model": "m", "simulator": {
                "ttft": "1.5s", "itl": "2ms", "prefill_per_token": "10us", "jitter": 0.1, "seed": 3, "max_running": 4,
                "tokens_per_chunk": 2, "cache_blocks": 0, "truth_log": "t.jsonl", "faults": {"http:503": 0.25, "cut": 1},
            }}),
            &format!(
                "{SIM} --model m --ttft 1500ms --itl 2ms --prefill-per-token 10us --jitter 0.1 --seed 3 --max-running 4 \
                 --tokens-per-chunk 2 --cache-blocks 0 --truth-log t.jsonl --faults cut=1 --faults http:503=0.25"
            ),
        );
    }

    #[test]
    fn a_command_starts_as_it_is_written() {
        let process = process(json!({
            "command": ["/opt/vllm", "serve", "$(LLMDBENCH_MODEL)", "--port", "$(LLMDBENCH_PORT)"],
            "env": {"OMP_NUM_THREADS": "2"}, "secrets": {"HF_TOKEN": "hf-token"},
            "ready_timeout": "5m", "working_dir": "models",
        }));
        assert_eq!(process.program, "/opt/vllm");
        assert_eq!(process.args, ["serve", "$(LLMDBENCH_MODEL)", "--port", "$(LLMDBENCH_PORT)"]);
        assert_eq!(
            process.env,
            [
                Variable { name: "OMP_NUM_THREADS".into(), value: VariableValue::Text("2".into()) },
                Variable {
                    name: "HF_TOKEN".into(),
                    value: VariableValue::Secret("hf-token".into())
                },
            ]
        );
        assert_eq!(process.ready_url.as_deref(), Some("http://127.0.0.1:$(LLMDBENCH_PORT)/health"));
        assert_eq!(
            (process.ready_timeout, process.working_dir.as_deref()),
            (300_000_000_000, Some("models"))
        );
    }

    #[test]
    fn a_port_of_ones_own_takes_the_place_of_the_free_one() {
        let settings = json!({
            "command": ["s", "--port=$(LLMDBENCH_PORT)", "$$(LLMDBENCH_PORT)"], "port": 8080,
            "env": {"URL": "http://localhost:$(LLMDBENCH_PORT)"}, "ready_path": "/v1/models",
        });
        let process = process(settings.clone());
        assert_eq!(process.args, ["--port=8080", "$$(LLMDBENCH_PORT)"]);
        assert_eq!(process.env[0].value, VariableValue::Text("http://localhost:8080".into()));
        assert_eq!(process.ready_url.as_deref(), Some("http://127.0.0.1:8080/v1/models"));
        let target = server(settings).unwrap().target(&[]).unwrap();
        assert_eq!(target.endpoints[0].url, "http://127.0.0.1:8080");
    }

    #[test]
    fn the_target_is_where_the_host_says_that_the_process_listens() {
        let observed = [
            json!({"kind": "Command", "metadata": {"name": "server"}, "status": {"port": 1}})
                .to_string(),
            json!({"kind": "Process", "metadata": {"name": "server"}, "status": {"port": 4711}})
                .to_string(),
        ];
        let target =
            server(json!({"command": ["/opt/bin/llama-server"], "model": "tiny"})).unwrap();
        let target = target.target(&observed).unwrap();
        assert_eq!(target.endpoints[0].url, "http://127.0.0.1:4711");
        assert_eq!(target.metrics[0].url, "http://127.0.0.1:4711/metrics");
        assert_eq!(target.model, "tiny");
        assert_eq!(target.facts, [label("server", "llama-server")]);
    }

    #[test]
    fn empty_paths_ask_for_nothing() {
        let settings = json!({"ready_path": "", "metrics_path": "", "port": 1});
        assert_eq!(process(settings.clone()).ready_url, None);
        assert!(server(settings).unwrap().target(&[]).unwrap().metrics.is_empty());
    }

    #[test]
    fn a_server_that_does_not_run_is_not_found() {
        let error =
            server(json!({})).unwrap().target(&["not JSON".into(), "{}".into()]).unwrap_err();
        assert_eq!(error.kind, llmdbench_plugin::ErrorKind::NotFound);
        assert!(error.hint.is_some());
    }

    #[test]
    fn settings_without_sense_are_refused() {
        for (settings, at) in [
            (json!({"command": ["x"], "simulator": {}}), "/simulator"),
            (json!({"command": []}), "/command"),
            (json!({"command": [" "]}), "/command"),
            (json!({"ready_path": "health"}), "/ready_path"),
            (json!({"metrics_path": "metrics"}), "/metrics_path"),
            (json!({"env": {"A": "1"}, "secrets": {"A": "a"}}), "/secrets/A"),
            (json!({"simulator": {"jitter": 2}}), "/simulator/jitter"),
            (json!({"simulator": {"faults": {"cut": 1.5}}}), "/simulator/faults/cut"),
        ] {
            let error = server(settings).unwrap_err();
            assert_eq!(error.at.as_deref(), Some(at));
            assert!(error.hint.is_some());
        }
    }

    #[test]
    fn the_schema_names_every_setting_and_its_default() {
        let schema: Value = serde_json::from_str(include_str!("schema.json")).unwrap();
        fn check<T: serde::de::DeserializeOwned + Default + std::fmt::Debug>(schema: &Value) {
            let properties = schema["properties"].as_object().unwrap();
            let refusal = serde_json::from_value::<T>(json!({"?": 0})).unwrap_err().to_string();
            let mut known: Vec<&str> = refusal.split('`').skip(3).step_by(2).collect();
            let mut named: Vec<&str> = properties.keys().map(String::as_str).collect();
            known.sort_unstable();
            named.sort_unstable();
            assert_eq!(named, known);
            let filled: Value = properties
                .iter()
                .filter_map(|(name, property)| {
                    Some((name.clone(), property.get("default")?.clone()))
                })
                .collect::<serde_json::Map<_, _>>()
                .into();
            let filled: T = serde_json::from_value(filled).unwrap();
            assert_eq!(format!("{filled:?}"), format!("{:?}", T::default()));
        }
        check::<Settings>(&schema);
        check::<Simulator>(&schema["properties"]["simulator"]);
    }
}
