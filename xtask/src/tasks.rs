//! The tasks that are made of several steps.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::plugins;
use crate::shell::{cargo, root, run, say, target};

/// `cargo xtask build`: one file that runs without the repository.
///
/// # Errors
/// When a step fails.
pub(crate) fn build() -> Result<()> {
    plugins::build_all()?;
    say("xtask: building the program with optimisation (some minutes the first time)");
    run(cargo().args(["build", "--release", "--package", "llmdbench"]))?;
    let file = target().join("release/llmdbench");
    let size = std::fs::metadata(&file)
        .with_context(|| format!("failed to find {}", file.display()))?
        .len();
    say(&format!("xtask: {}, {:.1} MiB", file.display(), size as f64 / f64::from(1 << 20)));
    Ok(())
}

/// `cargo xtask test`: everything that must pass. Further arguments go to `cargo test`.
///
/// # Errors
/// When a step or a test fails.
pub(crate) fn test(arguments: &[&str]) -> Result<()> {
    plugins::build_all()?;
    plugins::build_outside()?;
    let setup = root().join("tests/llama/setup");
    if setup.exists() {
        say("xtask: preparing the llama.cpp server (downloads once)");
        run(Command::new(setup).current_dir(root()))?;
    }
    say("xtask: testing the workspace (some minutes the first time)");
    run(cargo().args(["test", "--workspace"]).args(arguments))?;
    for manifest in BESIDE {
        run(cargo()
            .args(["check", "--locked", "--no-default-features", "--manifest-path", manifest])
            .arg("--target-dir")
            .arg(target().join("beside")))?;
    }
    Ok(())
}

/// Crates outside of the workspace that no test builds: each must still fit what it uses of it.
const BESIDE: &[&str] = &["host/load/fuzz/Cargo.toml", "benches/floor/Cargo.toml"];

/// `cargo xtask demo`: the quickstart experiment, from nothing. Gives the program's exit code.
///
/// # Errors
/// When a step before the program fails.
pub(crate) fn demo() -> Result<ExitCode> {
    plugins::build_all()?;
    say("xtask: building the program (some minutes the first time)");
    run(cargo().args(DEBUG_BUILD))?;
    let program = target().join("debug/llmdbench");
    say("xtask: llmdbench bench examples/experiments/quickstart.yaml");
    let status = Command::new(&program)
        .current_dir(root())
        .args(["bench", "examples/experiments/quickstart.yaml"])
        .status()
        .with_context(|| format!("failed to start {}", program.display()))?;
    // A program killed by a signal has no code of its own.
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}

/// `cargo xtask docs`: the pages that the program's tables give.
///
/// # Errors
/// When the program does not build or a page cannot be written.
pub(crate) fn docs() -> Result<()> {
    run(cargo().args(DEBUG_BUILD))?;
    let folder = root().join("docs/reference");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("failed to make {}", folder.display()))?;
    for (page, arguments) in PAGES {
        let text =
            crate::shell::output(Command::new(target().join("debug/llmdbench")).args(*arguments))?;
        let file = folder.join(page);
        std::fs::write(&file, text + "\n")
            .with_context(|| format!("failed to write {}", file.display()))?;
        say(&format!("xtask: {}", file.display()));
    }
    Ok(())
}

/// By itself the program would get other features of its dependencies than with the tests, and all
/// would be built twice.
const DEBUG_BUILD: [&str; 4] = ["build", "--workspace", "--bin", "llmdbench"];

/// Generated pages and the command that prints each.
const PAGES: &[(&str, &[&str])] = &[
    ("settings.md", &["env", "--markdown"]),
    ("metrics.md", &["reference", "metrics"]),
    ("health.md", &["reference", "health"]),
    ("plugins.md", &["reference", "plugins"]),
    ("commands.md", &["reference", "commands"]),
];
