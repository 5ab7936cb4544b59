//! The one-node Kubernetes of the tests: `tests/cluster/cluster` does it, here is what it needs of the machine.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::shell::{cargo, is_installed, output, root, run as carry_out, say, target};
use crate::{image, packages};

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
        install()?;
    }
    let mut command = script();
    command.args(words);
    let status = command.status().context("failed to start the script of the cluster")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}

/// The variable that tells the tests the image of the program, as the nodes know it. Without it they leave clusters
/// alone, whatever KUBECONFIG says.
const IMAGE: &str = "LLMDBENCH_TEST_IMAGE";
/// The variable that tells the tests where pods reach a stand-in of the model hub, and where the cluster of this
/// repository has it. Without it they download nothing.
const HUB: (&str, &str) = ("LLMDBENCH_TEST_HUB", "http://10.231.0.2:5000");

/// `cargo xtask test --cluster`: the tests that need a cluster, on the one of KUBECONFIG, or on one that is started for
/// them and stopped afterwards.
///
/// # Errors
/// When the cluster does not come up or a test fails.
pub(crate) fn test(arguments: &[&str]) -> Result<()> {
    let image = std::env::var(IMAGE).unwrap_or_else(|_| image::NAME.to_owned());
    if std::env::var_os("KUBECONFIG").is_some() {
        say(&format!(
            "xtask: testing on the cluster of KUBECONFIG with the image {image}, which {IMAGE} names, helm of PATH, and the stand-in of the model hub that {} names, if any",
            HUB.0
        ));
        return carry_out(tests(TESTS, arguments).env(IMAGE, image));
    }
    // As `cargo xtask test` builds, so that neither builds again what the other has built.
    carry_out(cargo().args(["test", "--workspace", "--no-run"]))?;
    let file = image::write(Some(&target().join("debug/llmdbench")))?;
    install()?;
    let stays = output(script().arg("status"))? != "down";
    let tested = on_own(TESTS, &file, arguments).and_then(|()| {
        carry_out(script().arg("down"))?;
        on_own(LAST, &file, arguments)
    });
    if !stays {
        carry_out(script().arg("down"))?;
    }
    tested
}

/// Tests on the cluster of this repository, which has the image then.
fn on_own(names: &[&str], image: &Path, arguments: &[&str]) -> Result<()> {
    let line = output(script().arg("up"))?;
    let kubeconfig = line.rsplit('=').next().unwrap_or_default();
    let name = image::NAME.trim_start_matches("localhost/");
    carry_out(script().arg("push").arg(image).arg(name))?;
    // Helm is built beside the cluster.
    let run = Path::new(kubeconfig).parent().unwrap_or(Path::new(""));
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", run.with_file_name("bin").display());
    let mut tests = tests(names, arguments);
    tests.env("KUBECONFIG", kubeconfig).env(IMAGE, image::NAME).env(HUB.0, HUB.1);
    carry_out(tests.env("PATH", path))
}

/// What can be tried on any cluster.
const TESTS: &[&str] = &["account", "broken", "charts", "inside", "kubernetes", "real"];
/// What needs a cluster whose parts it can stop, and leaves it slow for minutes.
const LAST: &[&str] = &["outage"];

fn tests(names: &[&str], arguments: &[&str]) -> Command {
    let mut command = cargo();
    command.args(["test", "--workspace"]);
    for name in names {
        command.args(["--test", name]);
    }
    command.args(arguments);
    command
}

fn script() -> Command {
    Command::new(root().join("tests/cluster/cluster"))
}

fn install() -> Result<()> {
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
    Ok(())
}
