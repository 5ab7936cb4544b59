//! Several models or methods in one command: a run of its own for each, one after the other, in folders beside each
//! other.

use crate::error::{Exit, Result};
use crate::experiment::Deploy;
use crate::printer::Printer;
use crate::translate::steps::file_part;
use serde_json::{Map, Value};
use std::path::Path;

/// One of the stacks that an experiment names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stack {
    /// None: the endpoint that is given.
    pub(crate) method: Option<String>,
    /// As the user named it.
    pub(crate) model: String,
}

impl Stack {
    /// "standalone-llama-8b": its folder.
    fn name(&self) -> String {
        let parts = self.method.iter().chain([&self.model]);
        file_part(&parts.map(String::as_str).collect::<Vec<_>>().join("-"))
    }
}

/// All stacks of an experiment: each model by each method.
pub(crate) fn stacks(deploy: &Deploy) -> Vec<Stack> {
    let methods: Vec<Option<&String>> = match deploy.endpoint {
        Some(_) => vec![None],
        None => deploy.methods.iter().map(Some).collect(),
    };
    let of_model = |model: &str| {
        let stack =
            |method: &Option<&String>| Stack { method: method.cloned(), model: model.to_owned() };
        methods.iter().map(stack).collect::<Vec<_>>()
    };
    deploy.models.iter().flat_map(|model| of_model(&model.alias)).collect()
}

/// Makes a run of each stack in a folder of its own below `root`. One that fails does not keep the others from theirs;
/// the user does. Gives the worst end; programs get one document with the result of each run by its folder's name, null
/// where it has none.
///
/// # Errors
/// None of its own: those of the runs are told when they come.
pub(crate) fn each(
    stacks: &[Stack],
    root: &Path,
    printer: &Printer,
    bench: &mut dyn FnMut(&Stack, &Path) -> Result<Exit>,
) -> Result<Exit> {
    let mut worst = Exit::Ok;
    let mut results = Map::new();
    for (index, stack) in stacks.iter().enumerate() {
        printer.step(&format!("stack {} of {}: {}", index + 1, stacks.len(), stack.name()));
        let (ended, mut parts) = printer.set_apart(|| bench(stack, &root.join(stack.name())));
        results.insert(stack.name(), parts.pop().unwrap_or_default());
        let exit = ended.unwrap_or_else(|error| {
            printer.error(&error);
            error.exit
        });
        worst = worst.worst(exit);
        if exit == Exit::Interrupted {
            break;
        }
    }
    printer.facts(|| Value::Object(results));
    printer.step(&format!("all runs: {}", root.display()));
    Ok(worst)
}
