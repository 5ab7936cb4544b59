//! How a command ended: everything that went wrong, and the one exit code that follows.

use crate::error::{Error, Exit, Problem};
use crate::printer::Printer;

/// Everything that went wrong on the way.
#[derive(Debug, Default)]
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

    /// The exit code: of several the documented first one.
    pub(crate) fn exit(&self) -> Exit {
        self.ends.iter().fold(Exit::Ok, |worst, (exit, _)| worst.worst(*exit))
    }

    /// Tells everything that went wrong.
    pub(crate) fn tell(self, printer: &Printer) -> Exit {
        let exit = self.exit();
        if !self.ends.is_empty() {
            let problems = self.ends.into_iter().map(|(_, problem)| problem).collect();
            printer.error(&Error { exit, problems });
        }
        exit
    }
}
