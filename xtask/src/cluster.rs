//! The one-node Kubernetes of the tests: `tests/cluster/cluster` does it, here is what it needs of the machine.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::packages;
use crate::shell::{is_installed, root};

/// Debian packages, and the program of each by which one sees that it is there.
const PACKAGES: &[(&str, &str)] = &[
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("iproute2", "ip"),
    ("openssl", "openssl"),
    ("curl", "curl"),
    ("procps", "pgrep"),
];

/// The plugins for networks of pods, which lie in a folder of their own.
const NETWORK_PLUGINS: (&str, &str) = ("containernetworking-plugins", "/usr/lib/cni/bridge");

/// `cargo xtask cluster WORDS`. Gives the script's exit code.
///
/// # Errors
/// When what it needs is missing and cannot be installed, or it does not start.
pub(crate) fn run(words: &[&str]) -> Result<ExitCode> {
    if matches!(words.first(), Some(&("build" | "up"))) {
        let mut missing: Vec<&str> = PACKAGES
            .iter()
            .filter(|(_, program)| !is_installed(program))
            .map(|(package, _)| *package)
            .collect();
        if !Path::new(NETWORK_PLUGINS.1).exists() {
            missing.push(NETWORK_PLUGINS.0);
        }
        if !missing.is_empty() {
            packages::install(&missing, "what runs the test cluster")?;
        }
    }
    let script = root().join("tests/cluster/cluster");
    let status = Command::new(&script)
        .args(words)
        .status()
        .with_context(|| format!("failed to start {}", script.display()))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}
