//! Benchmarks LLM inference: stands a stack up, drives load into it, collects and analyses what
//! happened, tears it down, and keeps what others need to repeat it.

mod action;
mod agent;
mod cache;
mod calibration;
mod chosen;
mod cli;
mod command;
mod dataset;
mod document;
mod embedded;
mod error;
mod experiment;
mod grants;
mod helm;
mod host_facts;
mod interrupt;
mod kubernetes;
mod model;
mod outcome;
mod permit;
mod phase;
mod plan;
mod plugins;
mod precedence;
mod prepare;
mod printer;
mod probe;
mod process;
mod profile;
mod question;
mod records_file;
mod run_dir;
mod secrets;
mod settings;
mod steps;
mod translate;
mod unit;
mod words;

use clap::Parser;
use error::{Error, Exit};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use printer::Printer;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse_from(cli::typed(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors, and clap words the others well.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Exit::Usage as u8 } else { 0 });
        }
    };
    let printer = Printer::new(cli.global.output == cli::Output::Json, cli.global.verbose);
    let ended = run(&cli, &printer).and_then(|exit| printer.check().map(|()| exit));
    let exit = match ended {
        Ok(exit) => exit,
        Err(error) => {
            printer.error(&error);
            error.exit
        }
    };
    ExitCode::from(exit as u8)
}

fn run(cli: &cli::Cli, printer: &Printer) -> error::Result<Exit> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| Error::unexpected("a TLS provider is installed already"))?;
    interrupt::watch()
        .map_err(|error| Error::unexpected("cannot watch for Ctrl-C").because(error))?;
    enough_files()?;
    command::run(cli, printer)
}

/// Without a few files nothing can be done, and libraries that get none panic.
fn enough_files() -> error::Result<()> {
    const FEWEST: u64 = 32;
    // Where the operating system does not tell, what needs a file says so.
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Ok(()) };
    if hard < FEWEST {
        let message =
            format!("at most {hard} files may be open at once, and at least {FEWEST} are needed");
        return Err(Error::unexpected(message).hint(error::MORE_FILES));
    }
    if soft < FEWEST {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(|error| {
            Error::unexpected("cannot raise the limit of open files").because(error)
        })?;
    }
    Ok(())
}
