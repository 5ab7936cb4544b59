//! The plugins of this call of the program: those built in, those given with `--plugin`, and what
//! each is granted.

use crate::document::{escape, nearest};
use crate::error::{Error, Problem, Result};
use crate::experiment;
use crate::grants::{self, Granted};
use crate::printer::Printer;
use crate::settings::{SETTINGS, Setting, Settings, Source};
use plugin_host::{Embedded, Fault, Grant, Host, HostOptions, Kind, Plugin};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a plugin may take for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The plugins of this call of the program.
#[derive(Debug)]
pub(crate) struct Plugins {
    host: Host,
    given: Vec<Plugin>,
    /// Granted to every plugin, on the command line.
    grants: Vec<Grant>,
    /// Granted to single plugins, by file.
    by_name: Granted,
}

impl Plugins {
    /// Loads the plugins that were given.
    pub(crate) fn load(
        files: &[PathBuf],
        grants: &[String],
        cache_dir: Option<&str>,
        note: &dyn Fn(&str),
    ) -> Result<Self> {
        let cache_dir = cache_dir.map(PathBuf::from).or_else(default_cache_dir);
        let options =
            HostOptions { cache_dir, call_timeout: CALL_TIMEOUT, ..HostOptions::default() };
        let host = Host::new(options).map_err(|error| plugin_error(&error))?;
        let grants = grants
            .iter()
            .map(|text| {
                Grant::parse(text).map_err(|error| Error::usage(format!("--grant {text}: {error}")))
            })
            .collect::<Result<Vec<_>>>()?;
        let mut plugins = Self { host, given: Vec::new(), grants, by_name: grants::read()? };
        for file in files {
            let plugin = plugins.load_file(file)?;
            note(&format!("plugin {} {} from {}", plugin.name(), plugin.version(), file.display()));
            plugins.given.push(plugin);
        }
        Ok(plugins)
    }

    /// The names of the built-in plugins.
    pub(crate) fn embedded() -> impl Iterator<Item = &'static str> {
        Host::embedded().iter().map(|embedded| embedded.name)
    }

    /// What is said of settings for a backend that there is not.
    pub(crate) fn check_methods(&self, settings: &Settings, problems: &mut Vec<Problem>) {
        for name in settings.get(BY_METHOD).as_object().into_iter().flat_map(|map| map.keys()) {
            let mut names: Vec<&str> = Self::embedded().collect();
            names.extend(self.given.iter().map(Plugin::name));
            if is_path(name) || names.contains(&name.as_str()) {
                continue;
            }
            let problem = Problem::new(format!("`{BY_METHOD}`: there is no plugin `{name}`"));
            let problem = match nearest(name, names) {
                Some(near) => problem.hint(format!("the nearest name is `{near}`")),
                None => problem,
            };
            let pointer = format!("{}/{}", crate::settings::pointer(BY_METHOD), escape(name));
            problems.push(match settings.place(&pointer) {
                Some(place) => problem.at(place),
                None => problem,
            });
        }
    }

    /// Those given with `--plugin`.
    pub(crate) fn given(&self) -> &[Plugin] {
        &self.given
    }

    /// What a plugin may do: what it asks for and the user granted, by option, by file, or when
    /// asked on a terminal.
    pub(crate) fn granted(&self, plugin: &Plugin, printer: &Printer) -> Result<Vec<Grant>> {
        let mut grants = self.grants.clone();
        if let Some(entry) = self.by_name.get(plugin.name()) {
            if entry.digest.as_ref().is_some_and(|digest| digest != plugin.digest()) {
                return Err(Error::usage(format!(
                    "the plugin `{}` is not the build that {} grants: its digest is sha256:{}",
                    plugin.name(),
                    grants::FILE,
                    plugin.digest()
                ))
                .hint("look at what changed, then write the new digest into the file"));
            }
            grants.extend(entry.grants.iter().cloned());
        }
        plugin.grants(&grants).or_else(|error| {
            let wanted: Vec<String> =
                plugin.permissions().iter().map(|grant| format!("`{grant}`")).collect();
            let question = format!(
                "The plugin {} {} asks for {}. Grant it for this run?",
                plugin.name(),
                plugin.version(),
                wanted.join(", ")
            );
            if error.fault == Fault::Denied && printer.ask(&question) {
                return Ok(plugin.permissions().to_vec());
            }
            Err(plugin_error(&error))
        })
    }

    /// Finds a plugin by its name, or by the path of its file.
    pub(crate) fn find(&self, name: &str) -> Result<Plugin> {
        if let Some(plugin) = self.given.iter().find(|plugin| plugin.name() == name) {
            return Ok(plugin.clone());
        }
        if is_path(name) {
            return self.load_file(Path::new(name));
        }
        let embedded: Option<&'static Embedded> =
            Host::embedded().iter().find(|embedded| embedded.name == name);
        match embedded {
            Some(embedded) => self
                .host
                .load(plugin_host::Source::Embedded(embedded))
                .map_err(|error| plugin_error(&error)),
            None => Err(self.unknown(name)),
        }
    }

    /// The plugin for a kind: the one that the setting at `path` names, or the one given with
    /// `--plugin`, or the default.
    pub(crate) fn choose(
        &self,
        kind: Kind,
        path: &str,
        named: Option<&str>,
        settings: &Settings,
        problems: &mut Vec<Problem>,
    ) -> Option<Plugin> {
        let named = named.map(|name| {
            let folder = settings.folder(&crate::settings::pointer(path));
            let file = is_path(name).then(|| crate::experiment::locate(name, folder));
            file.map_or_else(|| name.to_owned(), |file| file.display().to_string())
        });
        let named = named.as_deref();
        let chosen = if settings.source(path) == Source::Default && kind != Kind::Analyzer {
            let mut given = self.given.iter().filter(|plugin| plugin.kinds().contains(&kind));
            match (given.next(), given.next()) {
                (Some(first), Some(second)) => {
                    problems.push(
                        Problem::new(format!(
                            "the plugins `{}` and `{}` are both {}",
                            first.name(),
                            second.name(),
                            kind.with_article()
                        ))
                        .hint(format!("say which one to use with `{path}`")),
                    );
                    return None;
                }
                (Some(only), None) => Ok(only.clone()),
                _ => self.find(named?),
            }
        } else {
            self.find(named?)
        };
        match chosen {
            Ok(plugin) if plugin.kinds().contains(&kind) => Some(plugin),
            Ok(plugin) => {
                let kinds: Vec<&str> =
                    plugin.kinds().iter().map(|kind| kind.with_article()).collect();
                problems.push(placed(
                    settings,
                    path,
                    Problem::new(format!(
                        "the plugin `{}` is no {}: it is {}",
                        plugin.name(),
                        kind.as_str(),
                        kinds.join(", ")
                    ))
                    .hint(format!("`llmdbench plugin list` shows every {}", kind.as_str())),
                ));
                None
            }
            Err(error) => {
                problems.extend(error.problems.into_iter().map(|p| placed(settings, path, p)));
                None
            }
        }
    }

    fn load_file(&self, file: &Path) -> Result<Plugin> {
        if !file.is_file() {
            return Err(Error::usage(format!("there is no plugin file `{}`", file.display())));
        }
        self.host
            .load(plugin_host::Source::File(file.to_owned()))
            .map_err(|error| plugin_error(&error))
    }

    fn unknown(&self, name: &str) -> Error {
        let mut names: Vec<&str> = Self::embedded().collect();
        names.extend(self.given.iter().map(Plugin::name));
        let mut error = Error::usage(format!("there is no plugin `{name}`"));
        if names.is_empty() {
            return error.hint(
                "this llmdbench was built without plugins: run `cargo xtask plugins`, then build it again",
            );
        }
        if let Some(near) = nearest(name, names.iter().copied()) {
            error = error.hint(format!("the nearest name is `{near}`"));
        }
        error.hint(format!(
            "known are {}; others are given with --plugin FILE.wasm",
            names.join(", ")
        ))
    }
}

/// An error of a plugin as an error of the program. Where a setting is to blame, it is named.
pub(crate) fn plugin_error(error: &plugin_host::Error) -> Error {
    let section = match error.kind {
        Some(Kind::Backend) => "/deploy/settings",
        Some(Kind::Harness) => "/harness/settings",
        Some(Kind::Analyzer) => "/analyze/plugins",
        _ => "/workload/settings",
    };
    let pointer = error.at.as_ref().map(|at| format!("{section}{at}"));
    let mut problem = match &pointer {
        Some(pointer) => Problem::new(format!(
            "`{}`: {} (plugin {} {})",
            crate::document::path(pointer),
            error.message,
            error.plugin,
            error.version.as_deref().unwrap_or_default()
        )),
        None => Problem::new(error.to_string()),
    };
    problem.pointer = pointer;
    problem.hints.extend(error.hint.clone());
    problem
        .causes
        .extend(error.backtrace.as_ref().map(|trace| format!("the plugin was in\n{trace}")));
    Error::problems(vec![problem])
}

/// Checks settings against a plugin's schema. What is wrong gets its place in the user's file.
pub(crate) fn check_settings(
    plugin: &Plugin,
    kind: Kind,
    path: &str,
    settings: &Settings,
    problems: &mut Vec<Problem>,
) -> serde_json::Value {
    let mut given = settings.get(path).clone();
    let of_method = &settings.get(BY_METHOD)[plugin.name()];
    if kind == Kind::Backend && of_method.is_object() {
        given = plugin_host::merge(&given, of_method);
    }
    let linked = link(plugin, kind, path, settings, &mut given);
    match plugin.check_settings(kind, &given) {
        Ok(complete) => complete,
        Err(errors) => {
            for error in errors {
                let pointer = pointer_of(plugin, kind, path, &error.pointer, settings);
                let mut problem = Problem::new(format!(
                    "`{}`: {}",
                    crate::document::path(&pointer),
                    error.message
                ));
                if let Some(near) = error.near {
                    problem = problem.hint(format!("the nearest name is `{near}`"));
                }
                let from = linked.iter().find(|(name, _)| error.pointer == format!("/{name}"));
                if let Some(place) = from
                    .and_then(|(_, setting)| {
                        settings.place(&crate::settings::pointer(setting.path))
                    })
                    .or_else(|| settings.place(&pointer))
                    .or_else(|| settings.place(&crate::settings::pointer(path)))
                {
                    problem = problem.at(place);
                }
                if kind == Kind::Harness && !settings.is_set(path) {
                    problem = problem.hint(
                        "say how load is made: `--rate 5 --duration 60s`, `--concurrency 8 --requests 100`, or the harness's settings in an experiment file",
                    );
                }
                problems.push(problem);
            }
            given
        }
    }
}

/// Settings of single backends.
pub(crate) const BY_METHOD: &str = "deploy.settings_by_method";

/// Where the setting of a plugin stands among all settings.
pub(crate) fn pointer_of(
    plugin: &Plugin,
    kind: Kind,
    path: &str,
    inner: &str,
    settings: &Settings,
) -> String {
    let of_method = crate::settings::pointer(BY_METHOD);
    let of_method = format!("{of_method}/{}{inner}", escape(plugin.name()));
    if kind == Kind::Backend && settings.place(&of_method).is_some() {
        return of_method;
    }
    format!("{}{inner}", crate::settings::pointer(path))
}

/// Fills in the settings of a plugin that follow one of the host's (`x-setting`), unless the user
/// set the plugin's own by a source at least as strong. Gives which were filled in.
fn link(
    plugin: &Plugin,
    kind: Kind,
    path: &str,
    settings: &Settings,
    given: &mut serde_json::Value,
) -> Vec<(String, &'static Setting)> {
    let mut filled = Vec::new();
    for (name, variable) in plugin.linked_settings(kind) {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.variable == variable) else {
            continue;
        };
        let inner = format!("/{}", escape(&name));
        let own = pointer_of(plugin, kind, path, &inner, settings);
        let is_own =
            settings.source_of(&own).is_some_and(|own| own <= settings.source(setting.path));
        let value = match setting.path {
            "deploy.platform" => experiment::platform(settings).into(),
            path => settings.get(path).clone(),
        };
        if is_own || value.is_null() || value == "" {
            continue;
        }
        if !given.is_object() {
            *given = serde_json::json!({});
        }
        given[&name] = value;
        filled.push((name, setting));
    }
    filled
}

/// Whether a plugin is meant by its file rather than by its name.
fn is_path(plugin: &str) -> bool {
    plugin.ends_with(".wasm") || plugin.contains('/')
}

fn placed(settings: &Settings, path: &str, problem: Problem) -> Problem {
    match (&problem.place, settings.place(&crate::settings::pointer(path))) {
        (None, Some(place)) => problem.at(place),
        _ => problem,
    }
}

/// `$XDG_CACHE_HOME/llmdbench`, or `~/.cache/llmdbench`.
fn default_cache_dir() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    Some(base.join("llmdbench"))
}
