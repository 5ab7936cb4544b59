//! `completions`: a completion script for a shell.

use crate::cli::Cli;
use crate::error::{Exit, Result};
use crate::printer::Printer;
use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

/// Options of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(args: &CompletionsArgs, printer: &Printer) -> Result<Exit> {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "llmdbench", &mut script);
    printer.text(&String::from_utf8_lossy(&script));
    Ok(Exit::Ok)
}
