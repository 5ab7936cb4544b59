//! Installs Debian packages that a build needs and that are missing. A C compiler and linker are not among
//! them: without those cargo could not have built xtask.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::{is_installed, run, say};

/// Installs packages; `what` says what they are for.
///
/// # Errors
/// When there is no apt, no right to use it, or it fails. The message names the packages.
pub(crate) fn install(packages: &[&str], what: &str) -> Result<()> {
    let names = packages.join(" ");
    if !is_installed("apt-get") {
        bail!(
            "{what} is missing, and so is apt-get; install the equivalent of the Debian packages {names}"
        );
    }
    say(&format!("xtask: installing {names}: {what} is missing"));
    let fix =
        || format!("failed to install {what}; run `apt-get install {names}` as root and try again");
    // Package lists on a fresh image are empty, and old ones are no reason to stop.
    if run(apt().args(["-qq", "update"])).is_err() {
        say("xtask: `apt-get update` failed; trying the package lists that are there");
    }
    let mut command = apt();
    command.args(["-qq", "install", "--yes", "--no-install-recommends"]).args(packages);
    run(&mut command).with_context(fix)
}

fn apt() -> Command {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| owner(&own) == 0);
    let mut command = if is_root || !Path::new("/usr/bin/sudo").exists() {
        Command::new("apt-get")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("apt-get");
        sudo
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    // Standard output belongs to the programs that a task runs.
    command.stdout(std::process::Stdio::null());
    command
}

fn owner(metadata: &std::fs::Metadata) -> u32 {
    std::os::unix::fs::MetadataExt::uid(metadata)
}
