//! From the traits of the kinds to the functions that the host calls: keeps the configured value
//! between calls, reads the settings, and makes panics readable.

use std::any::Any;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::Once;

use serde::de::DeserializeOwned;

use crate::analyzer::{Needs, Report};
use crate::backend::Step;
use crate::bindings::analyzer::exports::llmdbench::plugin::analyzer;
use crate::bindings::backend::exports::llmdbench::plugin::backend;
use crate::bindings::dialogue::exports::llmdbench::plugin::dialogue;
use crate::bindings::harness::exports::llmdbench::plugin::harness;
use crate::bindings::importer::exports::llmdbench::plugin::importer;
use crate::bindings::steering::exports::llmdbench::plugin::steering;
use crate::bindings::workload::exports::llmdbench::plugin::workload;
use crate::harness::Execution;
use crate::importer::Rows;
use crate::requests::{Outcome, Session, Turn};
use crate::results::{Columns, Metric, Series, StageFacts, TokenTimes};
use crate::steering::{Directive, Snapshot};
use crate::types::Target;
use crate::workload::Size;
use crate::{
    Analyzer, Backend, Context, Dialogue, Error, Harness, Importer, Steering, Workload, log,
};

/// Makes a plugin of the types that implement the traits of its kinds.
///
/// `manifest` is a function that gives the [`Info`](crate::Info). Then follow the kinds and abilities,
/// each at most once: `backend`, `harness`, `steering`, `importer`, `workload`, `dialogue`, `analyzer`.
/// An ability names the type of its kind again.
#[macro_export]
macro_rules! export {
    (manifest: $manifest:path, $($kind:ident: $plugin:ty),+ $(,)?) => {
        const _: () = {
            #[doc(hidden)]
            struct Manifest;
            impl $crate::bindings::manifest::exports::llmdbench::plugin::manifest::Guest for Manifest {
                fn describe() -> $crate::Info {
                    $manifest()
                }
            }
            $crate::bindings::manifest::export_manifest!(Manifest with_types_in $crate::bindings::manifest);
        };
        $($crate::__export_kind!($kind: $plugin);)+
    };
}

/// Exports one kind.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_kind {
    (backend: $plugin:ty) => {
        $crate::__export_kind!($plugin, backend, export_backend);
    };
    (harness: $plugin:ty) => {
        $crate::__export_kind!($plugin, harness, export_harness);
    };
    (steering: $plugin:ty) => {
        $crate::__export_kind!($plugin, steering, export_steering);
    };
    (importer: $plugin:ty) => {
        $crate::__export_kind!($plugin, importer, export_importer);
    };
    (workload: $plugin:ty) => {
        $crate::__export_kind!($plugin, workload, export_workload);
    };
    (dialogue: $plugin:ty) => {
        $crate::__export_kind!($plugin, dialogue, export_dialogue);
    };
    (analyzer: $plugin:ty) => {
        $crate::__export_kind!($plugin, analyzer, export_analyzer);
    };
    ($plugin:ty, $module:ident, $export:ident) => {
        const _: () = {
            type Plugin = $crate::Exported<$plugin>;
    $crate::bindings::$module::$export!(Plugin with_types_in $crate::bindings::$module);
        };
    };
}

/// The functions that the host calls, for a type that implements the trait of a kind.
#[derive(Debug)]
pub struct Exported<T>(PhantomData<T>);

thread_local! {
    /// The configured value. One instance serves one configuration of one kind, so one is enough.
    static CONFIGURED: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
}

/// Keeps what `make` makes of the settings, and asks it for the answer to `configure`.
fn configure<T: 'static, S: DeserializeOwned, A>(
    settings: &str,
    make: impl FnOnce(S) -> Result<T, Error>,
    answer: impl FnOnce(&T) -> A,
) -> Result<A, Error> {
    report_panics();
    let settings = serde_json::from_str(settings)
        .map_err(|error| Error::invalid_settings(format!("the settings do not fit: {error}")))?;
    let made = make(settings)?;
    let answer = answer(&made);
    CONFIGURED.set(Some(Box::new(made)));
    Ok(answer)
}

/// Calls the configured value.
fn with<T: 'static, A>(call: impl FnOnce(&mut T) -> Result<A, Error>) -> Result<A, Error> {
    report_panics();
    CONFIGURED.with_borrow_mut(|slot| match slot.as_mut().and_then(|value| value.downcast_mut()) {
        Some(configured) => call(configured),
        None => Err(Error::internal("called before `configure`")),
    })
}

/// Without an operating system a panic has no text; the log carries it to the host.
fn report_panics() {
    static INSTALLED: Once = Once::new();
    if cfg!(target_arch = "wasm32") {
        INSTALLED
            .call_once(|| std::panic::set_hook(Box::new(|panic| log::error(panic.to_string()))));
    }
}

impl<T: Backend> backend::Guest for Exported<T> {
    fn configure(settings: String, context: Context) -> Result<(), Error> {
        configure(&settings, |settings| T::configure(settings, context), |_| ())
    }

    fn plan() -> Result<Vec<Step>, Error> {
        with(T::plan)
    }

    fn locate(observed: Vec<String>) -> Result<Target, Error> {
        with(|backend: &mut T| backend.locate(observed))
    }

    fn teardown(deep: bool) -> Result<Vec<Step>, Error> {
        with(|backend: &mut T| backend.teardown(deep))
    }
}

impl<T: Harness> harness::Guest for Exported<T> {
    fn configure(settings: String, context: Context) -> Result<(), Error> {
        configure(&settings, |settings| T::configure(settings, context), |_| ())
    }

    fn plan() -> Result<Execution, Error> {
        with(T::plan)
    }
}

impl<T: Steering> steering::Guest for Exported<T> {
    fn stage_done(stage: Snapshot) -> Result<Vec<Directive>, Error> {
        with(|harness: &mut T| harness.stage_done(stage))
    }

    fn tick(stage: Snapshot, window: Snapshot) -> Result<Vec<Directive>, Error> {
        with(|harness: &mut T| harness.tick(stage, window))
    }
}

impl<T: Importer> importer::Guest for Exported<T> {
    fn configure(
        settings: String,
        context: Context,
        files: Vec<String>,
    ) -> Result<Vec<StageFacts>, Error> {
        configure(&settings, |settings| T::configure(settings, context, files), T::stages)
    }

    fn next_rows(max: u32) -> Result<Rows, Error> {
        with(|importer: &mut T| importer.next_rows(max))
    }

    fn summary() -> Result<Vec<Metric>, Error> {
        with(T::summary)
    }
}

impl<T: Workload> workload::Guest for Exported<T> {
    fn configure(settings: String, context: Context) -> Result<Size, Error> {
        configure(&settings, |settings| T::configure(settings, context), T::size)
    }

    fn next_batch(stage: u32, max: u32) -> Result<Vec<Session>, Error> {
        with(|workload: &mut T| workload.next_batch(stage, max))
    }
}

impl<T: Dialogue> dialogue::Guest for Exported<T> {
    fn next_turns(done: Vec<Outcome>) -> Result<Vec<Vec<Turn>>, Error> {
        with(|workload: &mut T| workload.next_turns(done))
    }
}

impl<T: Analyzer> analyzer::Guest for Exported<T> {
    fn configure(
        settings: String,
        context: Context,
        stages: Vec<StageFacts>,
    ) -> Result<Needs, Error> {
        configure(&settings, |settings| T::configure(settings, context, stages), T::needs)
    }

    fn feed(rows: Columns, tokens: Option<TokenTimes>) -> Result<(), Error> {
        with(|analyzer: &mut T| analyzer.feed(rows, tokens))
    }

    fn feed_series(series: Series) -> Result<(), Error> {
        with(|analyzer: &mut T| analyzer.feed_series(series))
    }

    fn finish() -> Result<Report, Error> {
        with(T::finish)
    }
}
