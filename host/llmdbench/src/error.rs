//! The program's error: what failed, why, what to do next, and the exit code that follows.

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The program's result.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// What to do where the operating system gives no more files.
pub(crate) const MORE_FILES: &str =
    "raise the limit of open files (`ulimit -n`; the hard one, `ulimit -Hn`, takes root)";

/// How the program ends. The numbers are part of its interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Exit {
    /// Everything went well.
    Ok = 0,
    /// A fault of the program or of the machine.
    Unexpected = 1,
    /// The command line, a file or a plugin is not usable.
    Usage = 2,
    /// The stack could not be stood up.
    Standup = 3,
    /// The load run failed.
    Run = 4,
    /// Objectives or a comparison failed.
    Objective = 5,
    /// Something could not be removed.
    Teardown = 6,
    /// The numbers are not to be believed, most often since the load generator was the limit.
    Invalid = 7,
    /// The user stopped it.
    Interrupted = 130,
}

impl Exit {
    /// All codes with their meaning, for the help and the reference.
    pub(crate) const ALL: [(Exit, &'static str); 9] = [
        (Exit::Ok, "everything went well"),
        (Exit::Unexpected, "unexpected: a fault of llmdbench or of the machine"),
        (Exit::Usage, "the command line, the experiment or a plugin is not usable"),
        (Exit::Standup, "standup failed"),
        (Exit::Run, "the run failed: it was aborted, no request succeeded, or an analyzer failed"),
        (Exit::Objective, "an objective or a comparison failed"),
        (Exit::Teardown, "teardown is incomplete"),
        (
            Exit::Invalid,
            "the run is invalid: its reasons say why, most often that the load generator was the limit",
        ),
        (Exit::Interrupted, "interrupted"),
    ];

    /// Of several ways to end, the one whose code is given.
    pub(crate) fn worst(self, other: Exit) -> Exit {
        const ORDER: [Exit; 9] = [
            Exit::Interrupted,
            Exit::Standup,
            Exit::Run,
            Exit::Invalid,
            Exit::Objective,
            Exit::Teardown,
            Exit::Usage,
            Exit::Unexpected,
            Exit::Ok,
        ];
        ORDER.into_iter().find(|exit| *exit == self || *exit == other).unwrap_or(self)
    }
}

/// What failed. One error can name several problems: everything wrong with a file at once.
#[derive(Debug)]
pub(crate) struct Error {
    /// The exit code that follows.
    pub(crate) exit: Exit,
    /// At least one.
    pub(crate) problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Problem {
    /// "FILE:LINE:COLUMN", where there is such a place.
    pub(crate) place: Option<String>,
    /// JSON pointer to the setting that is to blame, as long as its place is not known.
    pub(crate) pointer: Option<String>,
    /// One sentence without a full stop.
    pub(crate) message: String,
    /// Why, from the outside in.
    pub(crate) causes: Vec<String>,
    /// What to do next.
    pub(crate) hints: Vec<String>,
}

impl Problem {
    /// A problem without a place.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            place: None,
            pointer: None,
            message: message.into(),
            causes: Vec::new(),
            hints: Vec::new(),
        }
    }

    /// Says where it is.
    pub(crate) fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }

    /// Says what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl Error {
    /// An error of one problem.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, problems: vec![Problem::new(message)] }
    }

    /// The command line or a file is not usable.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// The machine refused something.
    pub(crate) fn unexpected(message: impl Into<String>) -> Self {
        Self::new(Exit::Unexpected, message)
    }

    /// Several problems with what the user wrote.
    pub(crate) fn problems(problems: Vec<Problem>) -> Self {
        Self { exit: Exit::Usage, problems }
    }

    /// Says where it is.
    pub(crate) fn at(mut self, place: String) -> Self {
        if let Some(problem) = self.problems.last_mut() {
            problem.place.get_or_insert(place);
        }
        self
    }

    /// Adds why, with the causes behind it.
    pub(crate) fn because(mut self, cause: impl std::error::Error + 'static) -> Self {
        if let Some(problem) = self.problems.last_mut() {
            let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&cause);
            while let Some(error) = next {
                let errno = error.downcast_ref().and_then(std::io::Error::raw_os_error);
                if errno == Some(Errno::EMFILE as i32) {
                    problem.hints.insert(0, MORE_FILES.to_owned());
                }
                let text = error.to_string();
                // Many libraries repeat their source in their own message.
                if !problem.causes.last().is_some_and(|last| last.contains(&text)) {
                    problem.causes.push(text);
                }
                next = error.source();
            }
        }
        self
    }

    /// Adds why, in words.
    pub(crate) fn cause(mut self, cause: impl Into<String>) -> Self {
        if let Some(problem) = self.problems.last_mut() {
            problem.causes.push(cause.into());
        }
        self
    }

    /// Adds what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Some(problem) = self.problems.last_mut() {
            problem.hints.push(hint.into());
        }
        self
    }

    /// Changes the exit code; what the user interrupted stays interrupted.
    pub(crate) fn exit(mut self, exit: Exit) -> Self {
        if self.exit != Exit::Interrupted {
            self.exit = exit;
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "error: ")?;
            if let Some(place) = &problem.place {
                write!(f, "{place}: ")?;
            }
            write!(f, "{}", problem.message)?;
            for cause in &problem.causes {
                write!(f, "\n  because: {}", indented(cause))?;
            }
            for hint in &problem.hints {
                write!(f, "\n  hint: {}", indented(hint))?;
            }
        }
        Ok(())
    }
}

fn indented(text: &str) -> String {
    text.trim_end().replace('\n', "\n    ")
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_ends_the_documented_one_is_given() {
        assert_eq!(Exit::Teardown.worst(Exit::Run), Exit::Run);
        assert_eq!(Exit::Invalid.worst(Exit::Teardown), Exit::Invalid);
        assert_eq!(Exit::Ok.worst(Exit::Interrupted), Exit::Interrupted);
        assert_eq!(Exit::Ok.worst(Exit::Ok), Exit::Ok);
    }

    #[test]
    fn a_cause_that_repeats_its_source_stands_once() {
        let inner = std::io::Error::other("no such thing");
        let error = Error::usage("cannot do it").because(inner).hint("try\nagain");
        assert_eq!(
            error.to_string(),
            "error: cannot do it\n  because: no such thing\n  hint: try\n    again"
        );
    }
}
