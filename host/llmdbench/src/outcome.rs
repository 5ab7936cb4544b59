//! How a command ended: everything that went wrong, and the one exit code that follows.

use crate::error::{Error, Exit, Problem};
use crate::printer::Printer;
use serde::{Deserialize, Serialize};

/// Everything that went wrong on the way.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    ends: Vec<(Exit, Problem)>,
}

impl Outcome {
    /// Adds something that went wrong.
    pub(crate) fn add(&mut self, exit: Exit, message: &str) {
        self.ends.push((exit, Problem::new(message)));
    }

    /// Adds an error.
    pub(crate) fn fail(&mut self, exit: Exit, error: &Error) {
        self.ends.extend(error.problems.iter().map(|problem| (exit, problem.clone())));
    }

    /// Adds everything of another.
    pub(crate) fn join(&mut self, other: Outcome) {
        self.ends.extend(other.ends);
    }

    /// Adds what another has and this one has not.
    pub(crate) fn join_new(&mut self, other: &Outcome) {
        let new = other.ends.iter().filter(|end| !self.ends.contains(end)).cloned();
        let new: Vec<_> = new.collect();
        self.ends.extend(new);
    }

    /// What went wrong as an error; `otherwise` where nothing did.
    pub(crate) fn into_error(self, otherwise: Error) -> Error {
        if self.ends.is_empty() {
            return otherwise;
        }
        let exit = self.exit();
        Error { exit, problems: self.ends.into_iter().map(|(_, problem)| problem).collect() }
    }

    /// The exit code: of several the documented first one.
    pub(crate) fn exit(&self) -> Exit {
        self.ends.iter().fold(Exit::Ok, |worst, (exit, _)| worst.worst(*exit))
    }

    /// Tells everything that went wrong.
    pub(crate) fn tell(self, printer: &Printer) -> Exit {
        self.show(printer);
        self.exit()
    }

    /// The same, of one that goes elsewhere as well.
    pub(crate) fn show(&self, printer: &Printer) {
        if !self.ends.is_empty() {
            let problems = self.ends.iter().map(|(_, problem)| problem.clone()).collect();
            printer.error(&Error { exit: self.exit(), problems });
        }
    }
}
