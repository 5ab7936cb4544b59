//! `reference`: the pages of the reference that come from the tables. `cargo xtask docs` writes
//! them into `docs/reference`; a test compares.

use crate::cli::Cli;
use crate::error::{Exit, Result};
use crate::plugins::Plugins;
use crate::printer::Printer;
use clap::{Args, CommandFactory, ValueEnum};

/// Options of `reference`.
#[derive(Debug, Args)]
pub(crate) struct ReferenceArgs {
    /// The page
    #[arg(value_enum)]
    page: Page,
}

/// The pages.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Page {
    Metrics,
    Health,
    Plugins,
    Commands,
}

/// Prints a page.
pub(crate) fn run(args: &ReferenceArgs, printer: &Printer) -> Result<Exit> {
    printer.text(&match args.page {
        Page::Metrics => format!("# Metrics\n\nEach metric has one definition, which every report uses.\n\n{}", analysis::metrics_markdown()),
        Page::Health => format!("# Client health\n\nEvery result carries a verdict on the load generator itself: valid, suspect or invalid. The worst rule\ndecides; each that fires is told with its value, its limit and its cure. An invalid run ends with exit code 7.\n\n{}", analysis::health_markdown()),
        Page::Plugins => plugins()?,
        Page::Commands => commands(),
    });
    Ok(Exit::Ok)
}

fn plugins() -> Result<String> {
    let plugins = Plugins::load(&[], &[], None, &|_| {})?;
    let mut text = String::from(
        "# Built-in plugins\n\nMade from what the plugins say of themselves; `llmdbench plugin inspect NAME` says the same, and more.\n",
    );
    for name in Plugins::embedded() {
        let plugin = plugins.find(name)?;
        text.push_str(&format!(
            "\n## {} {}\n\n{}\n",
            plugin.name(),
            plugin.version(),
            plugin.info().description
        ));
        for kind in plugin.kinds() {
            if let Some(schema) = plugin.schema(*kind) {
                text.push_str(&format!("\nSettings as a {kind}:\n\n"));
                super::plugin::describe(schema, 0, "- ", &mut text);
            }
        }
    }
    Ok(text)
}

fn commands() -> String {
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut text = String::from("# Commands\n\nWhat `--help` says.\n");
    let mut stack: Vec<clap::Command> =
        command.get_subcommands().filter(|c| !c.is_hide_set()).cloned().collect();
    stack.reverse();
    while let Some(mut command) = stack.pop() {
        if command.get_name() == "help" {
            continue;
        }
        let name = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
        text.push_str(&format!(
            "\n## {name}\n\n```\n{}```\n",
            trimmed(&command.render_long_help().to_string())
        ));
        let mut inner: Vec<clap::Command> = command.get_subcommands().cloned().collect();
        inner.reverse();
        stack.extend(inner);
    }
    text
}

/// Without the blanks that wrapped help leaves at the ends of lines.
fn trimmed(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}
