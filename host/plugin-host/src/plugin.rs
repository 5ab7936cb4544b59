//! A plugin that was loaded: what it says about itself, and the instances it makes.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use wasmtime::component::InstancePre;

use crate::call::{AnalyzerInstance, BackendInstance, HarnessInstance, WorkloadInstance};
use crate::engine::Source;
use crate::error::{Error, Fault};
use crate::grant::Grant;
use crate::instance::{Setup, State};
use crate::kind::Kind;
use crate::settings::{self, InputSetting, SettingError};
use crate::wit::{manifest, results, workload};

/// A component that can be used as a plugin. Cheap to clone.
#[derive(Clone)]
pub struct Plugin {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) source: Source,
    pub(crate) digest: String,
    pub(crate) size: usize,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) abilities: Vec<&'static str>,
    pub(crate) imports: Vec<String>,
    pub(crate) exports: Vec<String>,
    pub(crate) info: manifest::Info,
    pub(crate) permissions: Vec<Grant>,
    pub(crate) schema: Value,
    pub(crate) pre: InstancePre<State>,
    pub(crate) memory: usize,
    pub(crate) call_timeout: Duration,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.name())
            .field("version", &self.version())
            .field("kinds", &self.inner.kinds)
            .finish_non_exhaustive()
    }
}

impl Plugin {
    /// The plugin's own name.
    pub fn name(&self) -> &str {
        &self.inner.info.name
    }

    /// The plugin's own version.
    pub fn version(&self) -> &str {
        &self.inner.info.version
    }

    /// SHA-256 of the component, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.inner.digest
    }

    /// Length of the component in bytes.
    pub fn size(&self) -> usize {
        self.inner.size
    }

    /// Where it comes from.
    pub fn source(&self) -> &Source {
        &self.inner.source
    }

    /// What it is; at least one.
    pub fn kinds(&self) -> &[Kind] {
        &self.inner.kinds
    }

    /// All that it says about itself.
    pub fn info(&self) -> &manifest::Info {
        &self.inner.info
    }

    /// Names of the interfaces that it imports, sorted.
    pub fn imports(&self) -> &[String] {
        &self.inner.imports
    }

    /// Names of the interfaces that it exports, sorted.
    pub fn exports(&self) -> &[String] {
        &self.inner.exports
    }

    /// What it asks for.
    pub fn permissions(&self) -> &[Grant] {
        &self.inner.permissions
    }

    /// What it gets: all that it asks for when it is embedded, else what it asks for and the user
    /// granted.
    ///
    /// # Errors
    /// When something that it asks for was not granted at all; the hint is what to write.
    pub fn grants(&self, granted: &[Grant]) -> Result<Vec<Grant>, Error> {
        if matches!(self.inner.source, Source::Embedded(_)) {
            return Ok(self.inner.permissions.clone());
        }
        let (mut effective, mut missing) = (Vec::new(), Vec::new());
        for wanted in &self.inner.permissions {
            let before = effective.len();
            effective.extend(granted.iter().filter_map(|granted| wanted.meet(granted)));
            if effective.len() == before {
                missing.push(wanted);
            }
        }
        if missing.is_empty() {
            return Ok(effective);
        }
        let names: Vec<String> = missing.iter().map(|grant| format!("`{grant}`")).collect();
        let options: Vec<String> =
            missing.iter().map(|grant| format!("--grant '{grant}'")).collect();
        let lines: Vec<String> =
            Grant::to_yaml(&missing).into_iter().map(|line| format!("      {line}")).collect();
        Err(self
            .error(
                Fault::Denied,
                None,
                format!("asks for {}, which is not granted", names.join(", ")),
            )
            .hint(format!(
                "{}, or in llmdbench.plugins.yaml:\nplugins:\n  {}:\n    grant:\n{}",
                options.join(" "),
                self.name(),
                lines.join("\n"),
            )))
    }

    /// Interfaces that it exports and that this host does not use yet.
    pub fn unsupported(&self) -> &[&'static str] {
        &self.inner.abilities
    }

    /// JSON Schema of the settings of a kind. None: it is not of this kind.
    pub fn schema(&self, kind: Kind) -> Option<&Value> {
        self.inner.kinds.contains(&kind).then(|| settings::of_kind(&self.inner.schema, kind))
    }

    /// Checks settings against the schema of a kind and gives them with the defaults filled in. Null
    /// stands for no settings.
    ///
    /// # Errors
    /// Each setting that does not fit, with the nearest right name where a name is wrong.
    pub fn check_settings(&self, kind: Kind, settings: &Value) -> Result<Value, Vec<SettingError>> {
        settings::check(&self.inner.schema, kind, settings)
    }

    /// The settings of `"format": "input"`. The host attaches each file and puts the input's name in
    /// its place.
    pub fn inputs_of(&self, kind: Kind, settings: &Value) -> Vec<InputSetting> {
        settings::inputs(&self.inner.schema, kind, settings)
    }

    /// The settings that follow one of the host's (`"x-setting"`): name, and the host's variable.
    pub fn linked_settings(&self, kind: Kind) -> Vec<(String, String)> {
        settings::linked(&self.inner.schema, kind)
    }

    /// Makes an instance and configures it.
    ///
    /// # Errors
    /// When it is no backend, or says that the settings make no sense, or crashes.
    pub fn backend(&self, setup: Setup) -> Result<BackendInstance, Error> {
        BackendInstance::new(self, setup)
    }

    /// Makes an instance and configures it.
    ///
    /// # Errors
    /// When it is no harness, or says that the settings make no sense, or crashes.
    pub fn harness(&self, setup: Setup) -> Result<HarnessInstance, Error> {
        HarnessInstance::new(self, setup)
    }

    /// Makes an instance, configures it, and says how much there is.
    ///
    /// # Errors
    /// When it is no workload, or says that the settings make no sense, or crashes.
    pub fn workload(&self, setup: Setup) -> Result<(WorkloadInstance, workload::Size), Error> {
        WorkloadInstance::new(self, setup)
    }

    /// Makes an instance, configures it, and says what it wants to be fed.
    ///
    /// # Errors
    /// When it is no analyzer, or says that the settings make no sense, or crashes.
    pub fn analyzer(
        &self,
        setup: Setup,
        stages: &[results::StageFacts],
    ) -> Result<(AnalyzerInstance, crate::wit::analyzer::Needs), Error> {
        AnalyzerInstance::new(self, setup, stages)
    }

    pub(crate) fn error(
        &self,
        fault: Fault,
        kind: Option<Kind>,
        message: impl Into<String>,
    ) -> Error {
        let mut error = Error::new(self.name(), fault, message);
        error.version = Some(self.version().to_owned());
        error.kind = kind;
        error
    }
}
