//! Runs other programs, says what it does, and knows where the workspace is.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Tells the person at the terminal. Everything goes to standard error: standard output belongs to
/// the programs that are run.
#[expect(clippy::print_stderr, reason = "the one place where xtask prints")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    // Given by cargo at run time, so that a moved or copied tree works without a rebuild.
    let own = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    own.parent().map_or(own.clone(), Path::to_path_buf)
}

/// The folder of the host builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that runs xtask, without what it tells xtask of xtask: build scripts of dependencies watch these
/// variables, and would run again whenever people build with and without xtask by turns.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    names
        .filter(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        .for_each(|name| {
            command.env_remove(name);
        });
    command.current_dir(root());
    command
}

/// Runs a program to its end.
///
/// # Errors
/// When it cannot be started, or ends with another exit code than 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let name = line(command);
    let status = command.status().with_context(|| format!("failed to start `{name}`"))?;
    if !status.success() {
        bail!("`{name}` ended with {status}");
    }
    Ok(())
}

/// Runs a program to its end and gives what it printed, without the line end.
///
/// # Errors
/// When it cannot be started, or ends with another exit code than 0.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let name = line(command);
    let output = command.output().with_context(|| format!("failed to start `{name}`"))?;
    if !output.status.success() {
        bail!("`{name}` ended with {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// Whether a program of this name is on PATH.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}
