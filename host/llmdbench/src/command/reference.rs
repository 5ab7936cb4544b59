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
        Page::Metrics => format!(
            "# Metrics\n\nEach metric has one definition, which every report uses.\n\n{}",
            analysis::metrics_markdown()
        ),
        Page::Health => format!("{HEALTH}{}", analysis::health_markdown()),
        Page::Plugins => plugins()?,
        Page::Commands => commands(),
    });
    Ok(Exit::Ok)
}

const HEALTH: &str = "\
# Client health

Every result carries a verdict on itself: valid, suspect or invalid. The worst rule decides; each that fires is told
with its value, its limit and its cure. A rule that touches certain metrics marks those with `?` (suspect) or `!`
(invalid) wherever they are shown and names itself in their `doubts` in `summary.json`; any other marks the run. Notes
take nothing away. An invalid run ends with exit code 7.

Differences of times are taken on one monotonic clock of one host, never on a wall clock. Lateness is judged only where
no limit in flight held requests back. Of a long stage (120 s and more, by its time, or by a number
of sessions at a steady rate) the first tenth, at least 30 s, is left out, unless a stage of the run is a warm-up. Where
a number of requests may end it nothing is, for how many of them make a session is the workload's. Whether that was enough, `warm_up`, `filling_up` and `not_steady` check afterwards. They are silent
where the load itself changes by design, and their silence proves little: look at the charts over time. How long answers
take is not known before: in an open loop the number under way grows for at least as long as one takes. A warm-up stage
ends before the next stage begins, and so takes nothing of that away. A shorter stage gets a note (`filling_up_short`).

## Loops

| loop | numbers |
| --- | --- |
| open | the schedule set the pace: latencies are those at a rate |
| open, capped | a limit in flight held some arrivals back, whose share is told; above 1 % latencies from the moment of sending are those of a closed loop, scheduled ones stay right |
| closed, C | the server set the pace: latencies are those at this concurrency and not comparable with those of an open loop; throughput is its headline |

## Calibration

`llmdbench calibrate` measures the load generator itself, once for each machine and after each change of hardware, kernel or
version (about two and a half minutes; nothing else should run meanwhile). It drives load into the simulated server on
the same machine, whose log says what really happened:

- **error**: half of the differences |measured - truth| of TTFT and ITL are at most e50, 99 % at most e99. Every later run
  keeps them in its results and shows e99 beside its numbers: smaller differences mean nothing.
- **headroom**: the rate is doubled from 50 requests per second, 32 tokens each, until a rule about the client fires
  twice or the simulated server cannot follow. Before a run, a plan beyond the headroom is warned of, one beyond half of it noted;
  and every plan, where one fired at 50 requests per second already. Not foreseen are closed loops, whose rate is the server's
  doing, and traces, whose times come with their sessions: these are set beside the headroom afterwards (`headroom`).
- **scatter**: standard deviations of the logarithms of results between equal runs of the same schedule, one after the
  other, each 0.3 times as long as the part about errors (6 s; the file says how long): the least by which single runs of
  that length differ here. Longer runs scatter less; runs on other days, or of a server started anew, more. Each call is a session;
  the ten newest are kept, and those whose runs are as long as the newest's count together; one on a busy machine counts only where
  there is no other. From the second on, a second column tells by how much sessions differ beyond what their runs explain
  (analysis of variance, 0 where they explain all of it). Of two sessions that is a guess, and often 0 where sessions do
  differ; five say more.

The file is `$XDG_DATA_HOME/llmdbench/calibration/HOST.json`, or lies below the setting `control.data_dir`. A calibration of
another kernel, processor, number of cores or version is not used.

## Rules

";

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
