//! The traits of the plugin kinds and of their further abilities. Settings arrive validated against
//! the schema and with its defaults filled in.

use serde::de::DeserializeOwned;

use crate::analyzer::{Needs, Report};
use crate::backend::Step;
use crate::harness::Execution;
use crate::importer::Rows;
use crate::requests::{Outcome, Session, Turn};
use crate::results::{Columns, Metric, Series, StageFacts, TokenTimes};
use crate::steering::{Directive, Snapshot};
use crate::types::Target;
use crate::workload::Size;
use crate::{Context, Error};

/// How a system under test is set up, found and removed.
pub trait Backend: Sized + 'static {
    /// The settings.
    type Settings: DeserializeOwned;

    /// Takes the settings.
    ///
    /// # Errors
    /// When the settings make no sense, though they fit the schema.
    fn configure(settings: Self::Settings, context: Context) -> Result<Self, Error>;

    /// All steps of the standup, in order.
    ///
    /// # Errors
    /// When they cannot be told.
    fn plan(&mut self) -> Result<Vec<Step>, Error>;

    /// Finds the endpoints once the steps are done, from what the host observed (JSON texts).
    ///
    /// # Errors
    /// When what was observed is not enough.
    fn locate(&mut self, observed: Vec<String>) -> Result<Target, Error>;

    /// What the host cannot undo by itself.
    ///
    /// # Errors
    /// When it cannot be told.
    fn teardown(&mut self, deep: bool) -> Result<Vec<Step>, Error> {
        let _ = deep;
        Ok(Vec::new())
    }
}

/// How load is made.
pub trait Harness: Sized + 'static {
    /// The settings.
    type Settings: DeserializeOwned;

    /// Takes the settings.
    ///
    /// # Errors
    /// When the settings make no sense, though they fit the schema.
    fn configure(settings: Self::Settings, context: Context) -> Result<Self, Error>;

    /// What is to be done.
    ///
    /// # Errors
    /// When there is nothing to be done.
    fn plan(&mut self) -> Result<Execution, Error>;
}

/// A harness that decides while load runs.
pub trait Steering: Harness {
    /// Called after each stage. Empty: go on with the plan.
    ///
    /// # Errors
    /// When the run cannot go on.
    fn stage_done(&mut self, stage: Snapshot) -> Result<Vec<Directive>, Error>;

    /// Called every `load-plan.tick-every`. Empty: go on.
    ///
    /// # Errors
    /// When the run cannot go on.
    fn tick(&mut self, stage: Snapshot, window: Snapshot) -> Result<Vec<Directive>, Error>;
}

/// Reads the output of an external load generator.
pub trait Importer: Sized + 'static {
    /// The settings of the harness.
    type Settings: DeserializeOwned;

    /// Takes the settings and the names of the collected files.
    ///
    /// # Errors
    /// When the files are not what the tool should have left.
    fn configure(
        settings: Self::Settings,
        context: Context,
        files: Vec<String>,
    ) -> Result<Self, Error>;

    /// The stages found in the files.
    fn stages(&self) -> Vec<StageFacts>;

    /// The next requests, at most `max`. Empty: no more.
    ///
    /// # Errors
    /// When a file cannot be understood.
    fn next_rows(&mut self, max: u32) -> Result<Rows, Error>;

    /// The numbers that the tool itself reports.
    ///
    /// # Errors
    /// When a file cannot be understood.
    fn summary(&mut self) -> Result<Vec<Metric>, Error>;
}

/// What is asked.
pub trait Workload: Sized + 'static {
    /// The settings.
    type Settings: DeserializeOwned;

    /// Takes the settings.
    ///
    /// # Errors
    /// When the settings make no sense, though they fit the schema, or the data cannot be read.
    fn configure(settings: Self::Settings, context: Context) -> Result<Self, Error>;

    /// How much there is, as far as it is known beforehand.
    fn size(&self) -> Size {
        Size::default()
    }

    /// The next sessions for a stage, at most `max`. Fewer only at the end; empty: none are left.
    ///
    /// # Errors
    /// When the data cannot be read.
    fn next_batch(&mut self, stage: u32, max: u32) -> Result<Vec<Session>, Error>;
}

/// A workload whose sessions go on depending on the answers.
pub trait Dialogue: Workload {
    /// The next turns: one list for each outcome, in the same order. Empty: the session ends.
    ///
    /// # Errors
    /// When an answer cannot be understood.
    fn next_turns(&mut self, done: Vec<Outcome>) -> Result<Vec<Vec<Turn>>, Error>;
}

/// What the measurements mean.
pub trait Analyzer: Sized + 'static {
    /// The settings.
    type Settings: DeserializeOwned;

    /// Takes the settings and the stages that were carried out.
    ///
    /// # Errors
    /// When the settings make no sense, though they fit the schema.
    fn configure(
        settings: Self::Settings,
        context: Context,
        stages: Vec<StageFacts>,
    ) -> Result<Self, Error>;

    /// What it wants to be fed.
    fn needs(&self) -> Needs {
        Needs { warm_up: false, token_times: false, series: Vec::new() }
    }

    /// Some thousand requests. Called as often as needed.
    ///
    /// # Errors
    /// When they cannot be understood.
    fn feed(&mut self, rows: Columns, tokens: Option<TokenTimes>) -> Result<(), Error>;

    /// Part of a series that was asked for.
    ///
    /// # Errors
    /// When it cannot be understood.
    fn feed_series(&mut self, series: Series) -> Result<(), Error> {
        let _ = series;
        Ok(())
    }

    /// All that was found. Called once, at the end.
    ///
    /// # Errors
    /// When nothing can be said.
    fn finish(&mut self) -> Result<Report, Error>;
}
