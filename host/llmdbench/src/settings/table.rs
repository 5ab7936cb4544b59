//! THE table of settings: everything a user can set, outside of the plugins' own settings.
//!
//! The command line's help, `llmdbench env`, `environment/settings.yaml` and the reference page
//! come from it.

mod original;

/// A setting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    /// Its path in an experiment file, with dots.
    pub(crate) path: &'static str,
    /// The environment variable that sets it.
    pub(crate) variable: &'static str,
    /// The option of the command line that sets it. Empty: none.
    pub(crate) flag: &'static str,
    /// What values it takes.
    pub(crate) kind: Kind,
    /// As it would be written in a file. Empty: none.
    pub(crate) default: &'static str,
    /// One sentence.
    pub(crate) doc: &'static str,
    /// Its value is shown nowhere.
    pub(crate) secret: bool,
}

/// What values a setting takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// Any text.
    Text,
    /// A whole number, not negative.
    Integer,
    /// A number, kept as it was written: "1", "2.0".
    Decimal,
    /// A number between 0 and 1.
    Share,
    /// true or false.
    Switch,
    /// "500ms", "20s".
    Duration,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Texts.
    List,
    /// Texts by name.
    Map,
    /// A JSON object.
    Json,
    /// Durations by the name of a metric.
    Limits,
    /// The settings of a plugin, which its own schema describes.
    Plugin,
}

impl Kind {
    /// What is expected, for people.
    pub(crate) fn expected(self) -> String {
        match self {
            Self::Text => "a text".into(),
            Self::Integer => "a whole number".into(),
            Self::Decimal => "a number".into(),
            Self::Share => "a number from 0 to 1".into(),
            Self::Switch => "true or false".into(),
            Self::Duration => "a duration such as `500ms` or `20s`".into(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::List => "a list of texts".into(),
            Self::Map => "a mapping of names to texts".into(),
            Self::Json => "a mapping".into(),
            Self::Limits => "a mapping of metrics to durations, such as `{ttft: 500ms}`".into(),
            Self::Plugin => "a mapping of the plugin's settings".into(),
        }
    }
}

const fn setting(
    path: &'static str,
    variable: &'static str,
    flag: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> Setting {
    Setting { path, variable, flag, kind, default, doc, secret: false }
}

const fn secret(
    path: &'static str,
    variable: &'static str,
    flag: &'static str,
    kind: Kind,
    doc: &'static str,
) -> Setting {
    Setting { path, variable, flag, kind, default: "", doc, secret: true }
}

use Kind::{Choice, Duration, Integer, Json, Limits, List, Map, Plugin, Share, Switch, Text};

/// Every setting, in the order of an experiment file; those of the original come last.
pub(crate) const SETTINGS: &[Setting] = &joined();

/// Both tables in one.
const fn joined() -> [Setting; OWN.len() + original::ORIGINAL.len()] {
    let mut all = [OWN[0]; OWN.len() + original::ORIGINAL.len()];
    let mut i = 0;
    while i < all.len() {
        all[i] = if i < OWN.len() { OWN[i] } else { original::ORIGINAL[i - OWN.len()] };
        i += 1;
    }
    all
}

const OWN: &[Setting] = &[
    setting(
        "name",
        "LLMDBENCH_EXPERIMENT_NAME",
        "--name",
        Text,
        "experiment",
        "Names the experiment; part of the run's id.",
    ),
    setting(
        "scenario",
        "LLMDBENCH_DEPLOY_SCENARIO",
        "--scenario",
        Text,
        "",
        "A file, or the name of a built-in one, whose keys stand below those of the experiment; a relative path starts at the file that holds it.",
    ),
    setting(
        "deploy.method",
        "LLMDBENCH_DEPLOY_METHODS",
        "--method",
        Text,
        "deployer",
        "The backend plugin that stands the stack up, or several with commas; not needed with an endpoint.",
    ),
    setting(
        "deploy.model",
        "LLMDBENCH_DEPLOY_MODEL_LIST",
        "--model",
        Text,
        "llama-3b",
        "The model, an alias or a full id, or several with commas; must be given with an endpoint.",
    ),
    setting(
        "deploy.platform",
        "LLMDBENCH_DEPLOY_PLATFORM",
        "--platform",
        Choice(&["auto", "kubernetes", "openshift"]),
        "auto",
        "What the cluster is; auto without a cluster: openshift where the scenario's name starts with `ocp_`.",
    ),
    setting(
        "deploy.endpoint",
        "LLMDBENCH_DEPLOY_ENDPOINT",
        "--endpoint",
        List,
        "",
        "Base URL of an inference API that is up already, with or without /v1, or several over which sessions take turns; replaces standup.",
    ),
    setting(
        "deploy.settings",
        "LLMDBENCH_DEPLOY_SETTINGS",
        "",
        Plugin,
        "{}",
        "Settings of the backend plugin.",
    ),
    setting(
        "deploy.settings_by_method",
        "LLMDBENCH_DEPLOY_SETTINGS_BY_METHOD",
        "",
        Plugin,
        "{}",
        "Settings of single backend plugins, by their names, laid over `deploy.settings`: so that methods can be swapped by `-t` alone.",
    ),
    setting(
        "target.api",
        "LLMDBENCH_TARGET_API",
        "--api",
        Choice(&["chat", "completions"]),
        "chat",
        "The API of requests that name none.",
    ),
    secret("target.api_key", "LLMDBENCH_API_KEY", "", Text, "Sent as bearer token."),
    setting(
        "target.api_key_env",
        "LLMDBENCH_API_KEY_ENV",
        "--api-key-env",
        Text,
        "",
        "The environment variable that holds the API key.",
    ),
    secret(
        "target.headers",
        "LLMDBENCH_TARGET_HEADERS",
        "--header",
        Map,
        "Further HTTP headers of every request; their values count as secrets.",
    ),
    setting(
        "target.extra_body",
        "LLMDBENCH_TARGET_EXTRA_BODY",
        "--extra-body",
        Json,
        "{}",
        "Fields added to the body of every request.",
    ),
    setting(
        "target.timeout",
        "LLMDBENCH_TARGET_TIMEOUT",
        "--timeout",
        Duration,
        "600s",
        "A request that takes longer fails as `timeout`; a harness may set its own.",
    ),
    setting(
        "target.exact_output",
        "LLMDBENCH_TARGET_EXACT_OUTPUT",
        "--exact-output",
        Choice(&["auto", "true", "false"]),
        "auto",
        "Whether the server takes `ignore_eos` and `min_tokens`; auto: yes, unless it is api.openai.com.",
    ),
    setting(
        "target.tokenizer",
        "LLMDBENCH_TARGET_TOKENIZER",
        "--tokenizer",
        Text,
        "",
        "A tokenizer.json, or the folder that holds one, by which prompts get their length.",
    ),
    setting(
        "target.ca_file",
        "LLMDBENCH_TARGET_CA_FILE",
        "--ca-file",
        Text,
        "",
        "A PEM file of certificate authorities to trust as well as the system's.",
    ),
    setting(
        "target.insecure",
        "LLMDBENCH_TARGET_INSECURE",
        "--insecure",
        Switch,
        "false",
        "Check no TLS certificates; the report says so.",
    ),
    setting(
        "target.metrics",
        "LLMDBENCH_TARGET_METRICS",
        "--metrics",
        List,
        "[]",
        "Full URLs of further metrics pages to read while load runs, such as that of a DCGM exporter; the API key is not sent there.",
    ),
    setting(
        "harness.plugin",
        "LLMDBENCH_HARNESS_NAME",
        "--harness",
        Text,
        "stages",
        "The harness plugin: how load is made.",
    ),
    setting(
        "harness.settings",
        "LLMDBENCH_HARNESS_SETTINGS",
        "",
        Plugin,
        "{}",
        "Settings of the harness plugin.",
    ),
    setting(
        "workload.plugin",
        "LLMDBENCH_WORKLOAD_NAME",
        "--workload",
        Text,
        "synthetic",
        "The workload plugin: what is asked. A harness whose component is a workload as well uses that one.",
    ),
    setting(
        "workload.settings",
        "LLMDBENCH_WORKLOAD_SETTINGS",
        "",
        Plugin,
        "{}",
        "Settings of the workload plugin.",
    ),
    setting(
        "cache",
        "LLMDBENCH_CACHE",
        "--cache",
        Choice(&["cold", "warm", "as-is"]),
        "as-is",
        "The server's prefix cache when load begins: cold holds nothing of before the run, warm the beginnings that prompts share, as-is whatever it holds.",
    ),
    setting(
        "load.threads",
        "LLMDBENCH_LOAD_THREADS",
        "--threads",
        Integer,
        "",
        "Threads that send and read; without it one for each core, at most eight.",
    ),
    setting(
        "load.from",
        "LLMDBENCH_LOAD_FROM",
        "--load-from",
        Choice(&["auto", "here", "cluster"]),
        "auto",
        "Where load is made: by this process, or by agents in pods of the cluster; auto: in the cluster where the target is in one.",
    ),
    setting(
        "load.shards",
        "LLMDBENCH_LOAD_SHARDS",
        "--shards",
        Integer,
        "1",
        "Agents that make the load together in a cluster; open stages send exactly what one would.",
    ),
    setting(
        "load.image",
        "LLMDBENCH_LOAD_IMAGE",
        "",
        Text,
        concat!("localhost/llmdbench:", env!("CARGO_PKG_VERSION")),
        "Image of the agents, which has this llmdbench in it (`cargo xtask image`).",
    ),
    setting(
        "load.cpu",
        "LLMDBENCH_LOAD_CPU",
        "",
        Text,
        "1",
        "Processors that each agent asks for, as Kubernetes writes them; there is no limit, since it would make requests late.",
    ),
    setting(
        "load.memory",
        "LLMDBENCH_LOAD_MEMORY",
        "",
        Text,
        "1Gi",
        "Memory of each agent, as Kubernetes writes it: request and limit.",
    ),
    setting(
        "load.pod_spec",
        "LLMDBENCH_LOAD_POD_SPEC",
        "",
        Json,
        "{}",
        "Merged over the pods of agents by RFC 7396: node selectors, tolerations, pull secrets.",
    ),
    setting(
        "load.max_error_rate",
        "LLMDBENCH_LOAD_MAX_ERROR_RATE",
        "--max-error-rate",
        Share,
        "",
        "Abort the run when a larger share of its requests has failed.",
    ),
    setting(
        "load.give_up_after",
        "LLMDBENCH_LOAD_GIVE_UP_AFTER",
        "--give-up-after",
        Duration,
        "10s",
        "Abort the run when requests, three at least, have failed over this long and none has ended well or brought output meanwhile.",
    ),
    setting(
        "analyze.slo",
        "LLMDBENCH_ANALYZE_SLO",
        "--slo",
        Limits,
        "{}",
        "Service-level objectives of a request, for goodput.",
    ),
    setting(
        "analyze.plugins",
        "LLMDBENCH_ANALYZE_PLUGINS",
        "",
        List,
        "[]",
        "Analyzer plugins, by name or file; those given with --plugin and the harness's own run as well.",
    ),
    setting(
        "seed",
        "LLMDBENCH_SEED",
        "--seed",
        Integer,
        "1",
        "Seed of everything random: prompts, order and schedule.",
    ),
    setting(
        "control.work_dir",
        "LLMDBENCH_CONTROL_WORK_DIR",
        "--workdir",
        Text,
        "",
        "The folder of the run; without it workdir/<run id>, and workdir/latest leads to the newest.",
    ),
    setting(
        "control.dry_run",
        "LLMDBENCH_CONTROL_DRY_RUN",
        "--dry-run",
        Switch,
        "false",
        "Show what would be done and do nothing.",
    ),
    setting(
        "control.verbose",
        "LLMDBENCH_CONTROL_VERBOSE",
        "--verbose",
        Switch,
        "false",
        "Say more.",
    ),
    setting(
        "control.cache_dir",
        "LLMDBENCH_CONTROL_CACHE_DIR",
        "",
        Text,
        "",
        "Where compiled plugins are kept; without it $XDG_CACHE_HOME/llmdbench.",
    ),
    setting(
        "control.data_dir",
        "LLMDBENCH_CONTROL_DATA_DIR",
        "",
        Text,
        "",
        "Where the calibration of the machine is kept; without it $XDG_DATA_HOME/llmdbench.",
    ),
    setting(
        "control.helm",
        "LLMDBENCH_CONTROL_HCMD",
        "",
        Text,
        "helm",
        "The helm that installs charts: a name that is looked for on PATH, or a path; 3.13 or newer.",
    ),
    secret(
        "secrets.hf-token",
        "LLMDBENCH_HF_TOKEN",
        "",
        Text,
        "Hugging Face token; plugins can name it `hf-token` and never see it.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn paths_variables_and_flags_are_unique_and_documented() {
        let unique = |name: fn(&Setting) -> &'static str| {
            let mut seen = HashSet::new();
            for setting in SETTINGS.iter().filter(|s| !name(s).is_empty()) {
                assert!(seen.insert(name(setting)), "{} stands twice", name(setting));
            }
        };
        unique(|s| s.path);
        unique(|s| s.variable);
        unique(|s| s.flag);
        for setting in SETTINGS {
            assert!(setting.doc.ends_with('.'), "{}: the doc is a sentence", setting.path);
            assert!(setting.variable.starts_with("LLMDBENCH_"), "{}", setting.variable);
            assert!(!setting.secret || setting.default.is_empty(), "{}", setting.path);
            let default = super::super::value::default(setting);
            if !default.is_null() {
                super::super::value::check(setting.kind, &default, false)
                    .unwrap_or_else(|wrong| panic!("{}: {}", setting.path, wrong.message));
            }
        }
    }

    #[test]
    fn no_path_lies_within_another() {
        for a in SETTINGS {
            for b in SETTINGS {
                assert!(!b.path.starts_with(&format!("{}.", a.path)), "{} {}", a.path, b.path);
            }
        }
    }
}
