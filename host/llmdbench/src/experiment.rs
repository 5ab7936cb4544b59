//! [`Experiment`]: what the user wants, validated and typed; made from [`Settings`] and nothing
//! else. It holds no secret.

mod addresses;

use crate::document::Document;
use crate::error::{Error, Problem, Result};
pub(crate) use crate::model::Model;
use crate::model::items;
use crate::run_dir::RunDir;
use crate::secrets::Secrets;
use crate::settings::{self, Layer, SETTINGS, Settings, Source};
use crate::{embedded, unit};
use analysis::CacheWish;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the user wants.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Experiment {
    pub(crate) name: String,
    pub(crate) scenario: Option<String>,
    pub(crate) deploy: Deploy,
    pub(crate) target: TargetSettings,
    /// The harness plugin.
    pub(crate) harness: String,
    pub(crate) harness_settings: Value,
    pub(crate) workload_settings: Value,
    pub(crate) load: LoadSettings,
    /// What is asked of the server's prefix cache.
    #[serde(default)]
    pub(crate) cache: CacheWish,
    /// Service-level objectives in milliseconds.
    pub(crate) slo: BTreeMap<String, f64>,
    pub(crate) seed: u64,
}

/// Which stack.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Deploy {
    /// At least one.
    pub(crate) models: Vec<Model>,
    /// The backend plugins, by name or path; not used where an endpoint is given.
    pub(crate) methods: Vec<String>,
    /// "openshift" or "kubernetes".
    pub(crate) platform: String,
    /// The normalised base URL of a stack that stands already.
    pub(crate) endpoint: Option<String>,
    /// Those of further servers of the same model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) further_endpoints: Vec<String>,
    pub(crate) settings: Value,
    /// The folder of the file that holds the settings: relative paths in them start there.
    pub(crate) folder: Option<PathBuf>,
}

/// How the target is spoken to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TargetSettings {
    /// "chat" or "completions".
    pub(crate) api: String,
    /// Names of the further headers; their values are secrets.
    pub(crate) header_names: Vec<String>,
    pub(crate) has_api_key: bool,
    pub(crate) extra_body: Map<String, Value>,
    pub(crate) timeout_ns: u64,
    /// None: decided by the endpoint.
    pub(crate) exact_output: Option<bool>,
    pub(crate) tokenizer: Option<PathBuf>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) insecure: bool,
    /// Further metrics pages to read.
    #[serde(default)]
    pub(crate) metrics: Vec<String>,
}

/// When the load gives up, where it is made, and by how many.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LoadSettings {
    pub(crate) threads: Option<usize>,
    pub(crate) max_error_rate: Option<f64>,
    pub(crate) give_up_after_ns: u64,
    /// "auto", "here", "cluster".
    #[serde(default)]
    pub(crate) from: String,
    /// Agents that make it together in a cluster.
    #[serde(default)]
    pub(crate) shards: u32,
}

/// The layers of an experiment: the command line's, the file's, the scenario's, the environment's.
/// What can be used and should be said is added to the warnings.
pub(crate) fn layers(
    flags: Layer,
    file: Option<&str>,
    environment: Layer,
    warnings: &mut Vec<String>,
) -> Result<Vec<Layer>> {
    let mut layers = vec![flags];
    let document =
        file.map(|name| find(name, None, "experiment", embedded::EXPERIMENTS)).transpose()?;
    if let Some(found) = document {
        layers.push(settings::file(Source::Experiment, found.document()?)?);
    }
    layers.push(environment);
    // The scenario is a setting too: the strongest of the other layers names it.
    let named = layers.iter().enumerate().find_map(|(i, layer)| {
        let name = layer.get("/scenario")?.as_str().filter(|name| !name.is_empty())?;
        Some((i, name.to_owned()))
    });
    if let Some((i, name)) = named.filter(|(_, name)| name != NO_SCENARIO) {
        let mut said = Vec::new();
        let (found, is_built_in) =
            scenario(&name, layers[i].folder(), &mut said).map_err(|error| match i {
                // What was just typed needs no place.
                0 => error,
                _ => error.at(layers[i].place("/scenario")),
            })?;
        // Of a built-in one nobody can mend the old names; `scenario show` tells them.
        if !is_built_in {
            warnings.extend(said);
        }
        let above_environment = layers.len() - 1;
        layers.insert(above_environment, found);
    }
    Ok(layers)
}

/// Of what a stack was stood up with, what says where it is and where load is made. None: nobody kept it.
pub(crate) fn of_stack(folder: &Path) -> Result<Option<Layer>> {
    const PLACES: &[&str] = &[
        "cluster",
        "vllm.common",
        "fmperf.namespace",
        "fmperf.service_account",
        "load.from",
        "load.image",
        "load.cpu",
        "load.memory",
        "load.pod_spec",
    ];
    let file = RunDir::at(folder).environment("settings.yaml");
    if !file.is_file() {
        return Ok(None);
    }
    Ok(Some(Layer::file(Source::Stack, Document::read(&file)?).only(PLACES)))
}

/// What the original's scripts did without being told: make the load of a profile.
pub(crate) fn as_script() -> Layer {
    let mut layer = Layer::named(Source::Default);
    layer.set("harness.plugin", "(the script's default)", Value::from(FMPERF));
    layer
}

/// The names of the plugins that make the load.
#[derive(Debug)]
pub(crate) struct LoadPlugins {
    pub(crate) harness: String,
    pub(crate) workload: String,
}

/// The plugins that the layers lead to.
pub(crate) fn plugins_of(layers: &[Layer]) -> LoadPlugins {
    let (Ok(settings) | Err((settings, _))) = settings::resolve(layers.to_vec());
    let harness = harness(&settings).to_owned();
    // The one that reads profiles is a workload as well.
    let is_own = harness == FMPERF && !settings.is_set("workload.plugin");
    let named = settings.text("workload.plugin").unwrap_or_default();
    let workload = if is_own { FMPERF } else { named }.to_owned();
    LoadPlugins { harness, workload }
}

/// The harness that the layers lead to.
pub(crate) fn harness_of(layers: &[Layer]) -> String {
    plugins_of(layers).harness
}

/// The name that stands for no scenario, whatever weaker sources name.
pub(crate) const NO_SCENARIO: &str = "none";

/// The layer of a scenario, by its path or name, and whether it is a built-in one.
pub(crate) fn scenario(
    name: &str,
    folder: Option<&Path>,
    warnings: &mut Vec<String>,
) -> Result<(Layer, bool)> {
    let found = find(name, folder, "scenario", embedded::SCENARIOS)?;
    let layer = if found.name.ends_with(".sh") {
        settings::exports(&found.name, &found.text, warnings)?
    } else {
        settings::file(Source::Scenario, found.document()?)?
    };
    if layer.get("/scenario").is_some_and(|name| !name.is_null()) {
        return Err(Error::problems(vec![
            Problem::new("a scenario cannot name another one").at(layer.place("/scenario")).hint(
                "take the line out, and choose the scenario with -c or in the experiment file",
            ),
        ]));
    }
    Ok((layer, found.folder.is_none()))
}

/// A file that was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// The file's name as the user knows it.
    pub(crate) name: String,
    /// The folder that holds it. None: it is built in.
    folder: Option<PathBuf>,
    pub(crate) text: String,
}

impl Found {
    fn document(&self) -> Result<Document> {
        let mut document = Document::parse(&self.name, &self.text)?;
        document.folder.clone_from(&self.folder);
        Ok(document)
    }
}

/// Where scenarios are looked for by name before the built-in ones.
const SCENARIO_FOLDER: &str = "scenarios";

/// The names of the user's own scenarios, in their order.
pub(crate) fn own_scenarios() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(SCENARIO_FOLDER)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let file = entry.file_name().into_string().ok()?;
            let name = embedded::stem(&file);
            (name != file).then(|| name.to_owned())
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Reads a file by its path or name, or a built-in one by its name.
fn find(name: &str, folder: Option<&Path>, what: &str, built_in: &[(&str, &str)]) -> Result<Found> {
    let path = locate(name, folder);
    let named = |ending: &str| Path::new(SCENARIO_FOLDER).join(format!("{name}{ending}"));
    let mut places = vec![path.clone()];
    let mut own = Vec::new();
    if what == "scenario" {
        own = own_scenarios();
        places.extend(["", ".sh", ".yaml"].map(named));
    }
    if let Some(path) = places.iter().find(|path| path.is_file()) {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::usage(format!("cannot read `{name}`")).because(error))?;
        // An empty path joins as the current folder does.
        return Ok(Found { name, folder: path.parent().map(Path::to_owned), text });
    }
    let known = built_in.iter().find(|(file, _)| *file == name || embedded::stem(file) == name);
    if let Some((file, text)) = known {
        let name = (*file).to_owned();
        return Ok(Found { name, folder: None, text: (*text).to_owned() });
    }
    let names: Vec<&str> = built_in.iter().map(|(file, _)| embedded::stem(file)).collect();
    if path.is_dir() {
        return Err(Error::usage(format!("`{name}` is a folder and no {what} file")));
    }
    let mut error = Error::usage(format!("there is no {what} file `{name}`"));
    let known = own.iter().map(String::as_str).chain(names.iter().copied());
    let by_name = || crate::document::nearest(name, known).map(str::to_owned);
    if let Some(near) = near_file(&path).or_else(by_name) {
        error = error.hint(format!("did you mean `{near}`?"));
    }
    if !own.is_empty() {
        error = error.hint(format!("those in {SCENARIO_FOLDER}/ are {}", own.join(", ")));
    }
    Err(error.hint(format!("the built-in ones are {}", names.join(", "))))
}

/// A file in the same folder whose name is like the one that is missing.
pub(crate) fn near_file(path: &Path) -> Option<String> {
    near(path, Path::is_file)
}

/// A file or folder in the same folder whose name is like the one that is missing.
pub(crate) fn near_path(path: &Path) -> Option<String> {
    near(path, Path::exists)
}

fn near(path: &Path, fits: fn(&Path) -> bool) -> Option<String> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let wanted = path.file_name()?.to_string_lossy().into_owned();
    let names: Vec<String> = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter(|entry| fits(&entry.path()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| *name != wanted)
        .collect();
    let near = crate::document::nearest(&wanted, names.iter().map(String::as_str))?;
    Some(folder.join(near).display().to_string())
}

impl Experiment {
    /// Builds it from settings that were resolved. Problems are added to the list; values that
    /// cannot be used are replaced so that everything else can be checked as well.
    pub(crate) fn new(
        settings: &Settings,
        file: Option<&str>,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let path_of = |path: &str| {
            let folder = settings.folder(&settings::pointer(path));
            settings.text(path).map(|text| locate(text, folder))
        };
        let mut further_endpoints = addresses::endpoints(settings, problems);
        let endpoint = (!further_endpoints.is_empty()).then(|| further_endpoints.remove(0));
        // A server that stands has models of its own: a default would ask for the wrong one.
        let models = Model::list(settings.text("deploy.model").unwrap_or_default());
        if models.is_empty() || endpoint.is_some() && !settings.is_set("deploy.model") {
            let mut problem =
                Problem::new("`deploy.model` is missing: which model shall be asked?")
                    .hint("give it with --model NAME, or as `deploy: {model: NAME}`");
            if let Some(file) = file {
                problem = problem.at(settings.place("/deploy").unwrap_or_else(|| file.to_owned()));
            }
            problems.push(problem);
        }
        let methods = items(settings.text("deploy.method").unwrap_or_default());
        if methods.is_empty() && endpoint.is_none() {
            let message = "`deploy.method` names no method: what shall stand the stack up?";
            problems.push(at(settings, "deploy.method", message));
        }
        for path in ["target.tokenizer", "target.ca_file"] {
            if let Some(found) = path_of(path).filter(|found| !found.exists()) {
                problems.push(at(
                    settings,
                    path,
                    &format!("`{path}`: there is no file `{}`", found.display()),
                ));
            }
        }
        for url in texts(settings.get("target.metrics")) {
            if let Some(wrong) = addresses::wrong_page(&url) {
                problems.push(at(settings, "target.metrics", &wrong));
            }
        }
        let duration = |path: &str| {
            settings.text(path).and_then(|text| unit::duration(text).ok()).map_or(0, unit::nanos)
        };
        let no_thread = "without a thread nothing can be sent; leave it out for one for each core";
        let crowd = "more than 1,024 threads would wait for one another and not for the server; one for each core is enough";
        let no_time = "every request would fail at once; it must be more than 0";
        for (path, is_wrong, why) in [
            ("load.threads", settings.get("load.threads") == 0, no_thread),
            ("load.threads", settings.get("load.threads").as_u64() > Some(1024), crowd),
            ("target.timeout", duration("target.timeout") == 0, no_time),
        ] {
            if is_wrong {
                problems.push(at(settings, path, &format!("`{path}`: {why}")));
            }
        }
        let text = |path: &str| settings.text(path).unwrap_or_default().to_owned();
        let wanted = settings.get("load.shards").as_u64().unwrap_or(1);
        let shards = u32::try_from(wanted).ok().filter(|shards| (1..=1000).contains(shards));
        let shards = shards.unwrap_or_else(|| {
            let message = format!("`load.shards`: {wanted} agents cannot share a load");
            problems.push(at(settings, "load.shards", &message).hint("1 to 1000 can"));
            1
        });
        Self {
            name: text("name"),
            scenario: settings.text("scenario").map(str::to_owned),
            deploy: Deploy {
                models,
                methods,
                platform: platform(settings).to_owned(),
                endpoint,
                further_endpoints,
                settings: settings.get("deploy.settings").clone(),
                folder: settings
                    .folder("/deploy/settings")
                    .or_else(|| settings.folder("/deploy/settings_by_method"))
                    .map(Path::to_owned),
            },
            target: TargetSettings {
                api: text("target.api"),
                header_names: header_map(settings).keys().cloned().collect(),
                has_api_key: settings.text("target.api_key").is_some()
                    || settings.text("target.api_key_env").is_some(),
                extra_body: settings
                    .get("target.extra_body")
                    .as_object()
                    .cloned()
                    .unwrap_or_default(),
                timeout_ns: duration("target.timeout"),
                exact_output: match settings.text("target.exact_output") {
                    Some("true") => Some(true),
                    Some("false") => Some(false),
                    _ => None,
                },
                tokenizer: path_of("target.tokenizer"),
                ca_file: path_of("target.ca_file"),
                insecure: settings.get("target.insecure").as_bool().unwrap_or(false),
                metrics: texts(settings.get("target.metrics")),
            },
            harness: harness(settings).to_owned(),
            harness_settings: settings.get("harness.settings").clone(),
            workload_settings: settings.get("workload.settings").clone(),
            load: LoadSettings {
                threads: settings
                    .get("load.threads")
                    .as_u64()
                    .and_then(|n| usize::try_from(n).ok()),
                max_error_rate: settings.get("load.max_error_rate").as_f64(),
                give_up_after_ns: duration("load.give_up_after"),
                from: settings.text("load.from").unwrap_or_default().to_owned(),
                shards,
            },
            cache: match settings.text("cache") {
                Some("cold") => CacheWish::Cold,
                Some("warm") => CacheWish::Warm,
                _ => CacheWish::AsIs,
            },
            slo: objectives(settings),
            seed: settings.get("seed").as_u64().unwrap_or(1),
        }
    }

    /// The API that is spoken.
    pub(crate) fn api(&self) -> load::Api {
        if self.target.api == "completions" { load::Api::Completions } else { load::Api::Chat }
    }

    /// How long an answer may take.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_nanos(self.target.timeout_ns)
    }

    /// How TLS certificates are checked.
    pub(crate) fn tls(&self) -> load::Tls {
        load::Tls { ca_file: self.target.ca_file.clone(), insecure: self.target.insecure }
    }
}

/// The service-level objectives in milliseconds, by metric.
pub(crate) fn objectives(settings: &Settings) -> BTreeMap<String, f64> {
    let limits = settings.get("analyze.slo").as_object();
    let limit = |(name, value): (&String, &Value)| {
        let limit = unit::duration(value.as_str()?).ok()?;
        Some((name.clone(), limit.as_secs_f64() * 1e3))
    };
    limits.into_iter().flatten().filter_map(limit).collect()
}

impl Deploy {
    /// The base URLs of a stack that stands already. None: it is to be stood up.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.endpoint.iter().chain(&self.further_endpoints).map(String::as_str)
    }

    /// The first of the models.
    pub(crate) fn model(&self) -> Model {
        self.models.first().cloned().unwrap_or_else(|| Model::named(""))
    }
}

/// What the cluster is: "openshift" or "kubernetes".
pub(crate) fn platform(settings: &Settings) -> &str {
    match settings.text("deploy.platform") {
        Some("auto") | None => {
            let scenario = Path::new(settings.text("scenario").unwrap_or_default()).file_name();
            let is_ocp = scenario.is_some_and(|name| name.to_string_lossy().starts_with("ocp_"));
            if is_ocp { "openshift" } else { "kubernetes" }
        }
        Some(platform) => platform,
    }
}

/// The harness plugin that reads the original's profiles.
pub(crate) const FMPERF: &str = "fmperf-compat";

/// The harness plugin: the one that is named, or the one that reads the profile that is.
fn harness(settings: &Settings) -> &str {
    let named = settings.text("harness.plugin").unwrap_or_default();
    if settings.is_set("harness.plugin") {
        // The name of later versions of the original.
        return if named == "fmperf" { FMPERF } else { named };
    }
    let profile = settings.source("fmperf.experiment_profile");
    let stages = settings.source_of("/harness/settings/stages");
    if stages.is_some_and(|stages| stages < profile) {
        // Stages that were typed stand above a profile that lies in the environment.
        "stages"
    } else if profile != Source::Default {
        FMPERF
    } else {
        named
    }
}

/// A path that the user wrote: relative ones start at the folder of the file that holds them, or
/// else at the current one.
pub(crate) fn locate(text: &str, folder: Option<&Path>) -> PathBuf {
    let path = Path::new(text);
    match folder.map(|folder| folder.join(path)) {
        Some(beside) if path.is_relative() && beside.exists() => beside,
        _ => path.to_owned(),
    }
}

/// Reads the user's secrets: from the settings, and from the variable that `api_key_env` names.
pub(crate) fn secrets(settings: &Settings) -> Result<Secrets> {
    let mut secrets = Secrets::default();
    if let Some(key) = settings.text("target.api_key") {
        secrets.api_key = Some(SecretString::from(key.to_owned()));
    }
    if let Some(name) = settings.text("target.api_key_env") {
        let key = std::env::var(name).ok().filter(|key| !key.is_empty()).ok_or_else(|| {
            Error::problems(vec![at(
                settings,
                "target.api_key_env",
                &format!(
                    "the environment variable `{name}`, which shall hold the API key, is not set"
                ),
            )])
        })?;
        secrets.api_key = Some(SecretString::from(key));
    }
    for (name, value) in header_map(settings) {
        secrets.headers.push((name, SecretString::from(value)));
    }
    secrets.cluster_token = settings.text("cluster.token").map(|token| token.to_owned().into());
    for setting in SETTINGS.iter().filter(|s| s.path.starts_with("secrets.")) {
        if let Some(value) = settings.text(setting.path) {
            let name = setting.path.trim_start_matches("secrets.").to_owned();
            secrets.by_name.insert(name, SecretString::from(value.to_owned()));
        }
    }
    Ok(secrets)
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(|text| Some(text.as_str()?.to_owned()))
        .collect()
}

fn header_map(settings: &Settings) -> BTreeMap<String, String> {
    let Some(map) = settings.get("target.headers").as_object() else { return BTreeMap::new() };
    map.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

fn at(settings: &Settings, path: &str, message: &str) -> Problem {
    let problem = Problem::new(message);
    match settings.place(&crate::settings::pointer(path)) {
        Some(place) => problem.at(place),
        None => problem,
    }
}

#[cfg(test)]
#[path = "experiment_tests.rs"]
mod tests;
