//! Bootstrap and build; the only place that knows the wasm toolchain.
//!
//! It depends on no other crate of the workspace, so it builds in seconds on a fresh machine.

mod cluster;
mod image;
mod packages;
mod plugins;
mod shell;
mod tasks;
mod toolchain;

use std::path::Path;
use std::process::ExitCode;

use shell::say;

const USAGE: &str = "\
usage: cargo xtask TASK

  plugins          build every plugin of plugins/ to target/plugins/NAME.wasm, and the plugins of
                   examples/plugins and tests/guests to target/example-plugins and target/guests
  plugin DIR OUT   build the plugin crate in the folder DIR, inside or outside the workspace, to the file OUT
  build            plugins, then target/release/llmdbench with the plugins inside
  test             plugins, example plugins and test guests, then every test of the workspace;
                   checks that the fuzz target and the floor client still build
  test --cluster   the tests that need a cluster: on that of KUBECONFIG, or on one that is started for them
  demo             plugins, then run examples/experiments/quickstart.yaml
  docs             write the reference pages that the program generates
  image [PROGRAM]  write the program as a container image to target/image/llmdbench.tar; without PROGRAM it is
                   built with optimisation
  cluster WORDS    the one-node Kubernetes of the tests: up, down, status, stop PART, start PART, ...
                   (without words: all of them)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["plugins"] => plugins::build_all().and_then(|()| plugins::build_outside()),
        ["plugin", dir, out] => plugins::build_one(Path::new(dir), Path::new(out)),
        ["build"] => tasks::build(),
        ["test", "--cluster", rest @ ..] => cluster::test(rest),
        ["test", rest @ ..] => tasks::test(rest),
        ["demo"] => return tasks::demo().unwrap_or_else(report),
        ["docs"] => tasks::docs(),
        ["image"] => image::write(None).map(drop),
        ["image", program] => image::write(Some(Path::new(program))).map(drop),
        ["cluster", words @ ..] => return cluster::run(words).unwrap_or_else(report),
        _ => {
            say(USAGE);
            return ExitCode::from(2);
        }
    };
    outcome.map_or_else(report, |()| ExitCode::SUCCESS)
}

fn report(error: anyhow::Error) -> ExitCode {
    say(&format!("error: {error:#}"));
    ExitCode::FAILURE
}
