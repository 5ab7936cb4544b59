//! The calls of each kind, and how much each may return.

use serde_json::Value;

use crate::error::{Error, Fault};
use crate::instance::{Instance, Setup};
use crate::kind::Kind;
use crate::plugin::Plugin;
use crate::wit::{analyzer, backend, harness, requests, results, types, workload};

const MOST_STEPS: usize = 1_000;
const MOST_ACTIONS: usize = 10_000;
const MOST_STAGES: usize = 10_000;
const MOST_ARRIVALS: usize = 10_000_000;
const MOST_TURNS: usize = 10_000;
const MOST_ENDPOINTS: usize = 10_000;
const MOST_METRICS: usize = 100_000;
const MOST_REPORT_ITEMS: usize = 1_000;

/// Makes an instance of a kind and its typed exports, not configured yet.
macro_rules! instantiate {
    ($module:ident, $kind:expr, $plugin:expr, $setup:expr) => {{
        let mut instance = Instance::new($plugin, $kind, $setup)?;
        let exports = $module::GuestIndices::new(&$plugin.inner.pre)
            .and_then(|indices| indices.load(&mut instance.store, &instance.component))
            // The types were checked when the plugin was loaded.
            .map_err(|error| $plugin.error(Fault::NotUsable, Some($kind), format!("{error:#}")))?;
        (instance, exports)
    }};
}

/// A configured backend.
#[derive(Debug)]
pub struct BackendInstance {
    instance: Instance,
    exports: Exports<backend::Guest>,
}

impl BackendInstance {
    pub(crate) fn new(plugin: &Plugin, setup: Setup) -> Result<Self, Error> {
        let (mut instance, exports) = instantiate!(backend, Kind::Backend, plugin, &setup);
        let settings = text(&setup.settings);
        instance
            .call("configure", |store| exports.call_configure(store, &settings, &setup.context))?;
        Ok(Self { instance, exports: Exports(exports) })
    }

    /// All steps of the standup, in order.
    ///
    /// # Errors
    /// When the plugin says so, crashes, or exceeds a limit.
    pub fn plan(&mut self) -> Result<Vec<backend::Step>, Error> {
        let steps = self.instance.call("plan", |store| self.exports.0.call_plan(store))?;
        self.checked(steps)
    }

    /// Finds the endpoints in what was observed: one JSON value for each observation.
    ///
    /// # Errors
    /// When the plugin says so, crashes, or exceeds a limit.
    pub fn locate(&mut self, observed: &[Value]) -> Result<types::Target, Error> {
        let observed: Vec<String> = observed.iter().map(text).collect();
        let target =
            self.instance.call("locate", |store| self.exports.0.call_locate(store, &observed))?;
        self.instance.cap("endpoints", target.endpoints.len(), MOST_ENDPOINTS)?;
        self.instance.cap("sources of metrics", target.metrics.len(), MOST_ENDPOINTS)?;
        self.instance.cap("facts", target.facts.len(), MOST_REPORT_ITEMS)?;
        Ok(target)
    }

    /// What the host cannot undo by itself; `deep`: also what later runs could use again.
    ///
    /// # Errors
    /// When the plugin says so, crashes, or exceeds a limit.
    pub fn teardown(&mut self, deep: bool) -> Result<Vec<backend::Step>, Error> {
        let steps =
            self.instance.call("teardown", |store| self.exports.0.call_teardown(store, deep))?;
        self.checked(steps)
    }

    fn checked(&mut self, steps: Vec<backend::Step>) -> Result<Vec<backend::Step>, Error> {
        self.instance.cap("steps", steps.len(), MOST_STEPS)?;
        self.instance.cap(
            "actions",
            steps.iter().map(|step| step.actions.len()).sum(),
            MOST_ACTIONS,
        )?;
        Ok(steps)
    }
}

/// A configured harness.
#[derive(Debug)]
pub struct HarnessInstance {
    instance: Instance,
    exports: Exports<harness::Guest>,
}

impl HarnessInstance {
    pub(crate) fn new(plugin: &Plugin, setup: Setup) -> Result<Self, Error> {
        let (mut instance, exports) = instantiate!(harness, Kind::Harness, plugin, &setup);
        let settings = text(&setup.settings);
        instance
            .call("configure", |store| exports.call_configure(store, &settings, &setup.context))?;
        Ok(Self { instance, exports: Exports(exports) })
    }

    /// What is to be done.
    ///
    /// # Errors
    /// When the plugin says so, crashes, or exceeds a limit.
    pub fn plan(&mut self) -> Result<harness::Execution, Error> {
        let execution = self.instance.call("plan", |store| self.exports.0.call_plan(store))?;
        match &execution {
            harness::Execution::Load(plan) => {
                self.instance.cap("stages", plan.stages.len(), MOST_STAGES)?;
                let arrivals = plan.stages.iter().map(|stage| match &stage.arrival {
                    crate::wit::stages::Arrival::Schedule(times) => times.len(),
                    _ => 0,
                });
                self.instance.cap("times of arrival", arrivals.sum(), MOST_ARRIVALS)?;
            }
            harness::Execution::Command(plan) => {
                self.instance.cap("commands", plan.commands.len(), MOST_STEPS)?;
            }
        }
        Ok(execution)
    }
}

/// A configured workload. It may be moved to a thread of its own.
#[derive(Debug)]
pub struct WorkloadInstance {
    instance: Instance,
    exports: Exports<workload::Guest>,
}

impl WorkloadInstance {
    pub(crate) fn new(plugin: &Plugin, setup: Setup) -> Result<(Self, workload::Size), Error> {
        let (mut instance, exports) = instantiate!(workload, Kind::Workload, plugin, &setup);
        let settings = text(&setup.settings);
        let size = instance
            .call("configure", |store| exports.call_configure(store, &settings, &setup.context))?;
        instance.cap("reasons for skipping", size.skipped.len(), MOST_REPORT_ITEMS)?;
        Ok((Self { instance, exports: Exports(exports) }, size))
    }

    /// The next sessions for the stage of this index, at most `max`. Empty: none are left.
    ///
    /// # Errors
    /// When the plugin says so, crashes, or returns more than `max` sessions.
    pub fn next_batch(&mut self, stage: u32, max: u32) -> Result<Vec<requests::Session>, Error> {
        let sessions = self
            .instance
            .call("next-batch", |store| self.exports.0.call_next_batch(store, stage, max))?;
        self.instance.cap(
            "sessions",
            sessions.len(),
            usize::try_from(max).unwrap_or(usize::MAX),
        )?;
        let turns = sessions.iter().map(|session| session.turns.len()).max();
        self.instance.cap("turns of one session", turns.unwrap_or(0), MOST_TURNS)?;
        Ok(sessions)
    }
}

/// A configured analyzer.
#[derive(Debug)]
pub struct AnalyzerInstance {
    instance: Instance,
    exports: Exports<analyzer::Guest>,
}

impl AnalyzerInstance {
    pub(crate) fn new(
        plugin: &Plugin,
        setup: Setup,
        stages: &[results::StageFacts],
    ) -> Result<(Self, analyzer::Needs), Error> {
        let (mut instance, exports) = instantiate!(analyzer, Kind::Analyzer, plugin, &setup);
        let settings = text(&setup.settings);
        let needs = instance.call("configure", |store| {
            exports.call_configure(store, &settings, &setup.context, stages)
        })?;
        instance.cap("series wanted", needs.series.len(), MOST_REPORT_ITEMS)?;
        Ok((Self { instance, exports: Exports(exports) }, needs))
    }

    /// Gives it some thousand requests, with their token times where it wanted them.
    ///
    /// # Errors
    /// When the plugin says so, or crashes.
    pub fn feed(
        &mut self,
        rows: &results::Columns,
        tokens: Option<&results::TokenTimes>,
    ) -> Result<(), Error> {
        self.instance.call("feed", |store| self.exports.0.call_feed(store, rows, tokens))
    }

    /// Gives it part of a series.
    ///
    /// # Errors
    /// When the plugin says so, or crashes.
    pub fn feed_series(&mut self, series: &results::Series) -> Result<(), Error> {
        self.instance.call("feed-series", |store| self.exports.0.call_feed_series(store, series))
    }

    /// All that it found. To be called once.
    ///
    /// # Errors
    /// When the plugin says so, crashes, or exceeds a limit.
    pub fn finish(&mut self) -> Result<analyzer::Report, Error> {
        let report = self.instance.call("finish", |store| self.exports.0.call_finish(store))?;
        self.instance.cap("metrics", report.metrics.len(), MOST_METRICS)?;
        for (what, count) in [
            ("findings", report.findings.len()),
            ("tables", report.tables.len()),
            ("charts", report.charts.len()),
            ("files", report.files.len()),
        ] {
            self.instance.cap(what, count, MOST_REPORT_ITEMS)?;
        }
        Ok(report)
    }
}

/// The bindings' exports have nothing to show.
struct Exports<T>(T);

impl<T> std::fmt::Debug for Exports<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exports")
    }
}

/// JSON as text: null stands for no settings.
fn text(value: &Value) -> String {
    if value.is_null() { "{}".to_owned() } else { value.to_string() }
}
