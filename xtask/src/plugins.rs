//! Builds plugin crates to WebAssembly components.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::shell::{root, run, say};
use crate::toolchain::{TARGET, Toolchain};

/// First bytes of a component; a core module differs in the fifth.
const COMPONENT: [u8; 8] = [0x00, 0x61, 0x73, 0x6d, 0x0d, 0x00, 0x01, 0x00];

/// The profile `plugin` of the workspace, for crates outside it.
const PROFILE: [&str; 6] = [
    "profile.plugin.inherits='release'",
    "profile.plugin.opt-level='s'",
    "profile.plugin.lto=true",
    "profile.plugin.codegen-units=1",
    "profile.plugin.panic='abort'",
    "profile.plugin.strip='debuginfo'",
];

/// Builds every plugin of `plugins/` to `target/plugins`. Files of plugins that
/// are gone are removed, so that no old one is embedded.
///
/// # Errors
/// When there is no toolchain or a plugin does not compile.
pub(crate) fn build_all() -> Result<()> {
    let crates: Vec<PathBuf> = crates_in(&root().join("plugins"))?
        .into_iter()
        .filter(|dir| !dir.ends_with("sdk"))
        .collect();
    build_into(&crates, &root().join("target/plugins"))
}

/// Builds the plugin crates of other folders: templates and test guests.
///
/// # Errors
/// As [`build_all`].
pub(crate) fn build_outside() -> Result<()> {
    let build =
        |from: &str, to: &str| build_into(&crates_in(&root().join(from))?, &root().join(to));
    build("examples/plugins", "target/example-plugins")?;
    build("tests/guests", "target/guests")
}

/// Builds the plugin crate in the folder `dir` to the file `out`.
///
/// # Errors
/// When there is no toolchain or the plugin does not compile.
pub(crate) fn build_one(dir: &Path, out: &Path) -> Result<()> {
    let toolchain = Toolchain::find()?;
    compile(&toolchain, dir, out)
}

fn build_into(crates: &[PathBuf], folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("failed to make {}", folder.display()))?;
    let files: Vec<PathBuf> =
        crates.iter().map(|dir| folder.join(name_of(dir)).with_extension("wasm")).collect();
    for old in std::fs::read_dir(folder)? {
        let old = old?.path();
        if !files.contains(&old) {
            std::fs::remove_file(&old)
                .with_context(|| format!("failed to remove {}", old.display()))?;
        }
    }
    if !crates.is_empty() {
        let toolchain = Toolchain::find()?;
        say(&format!("xtask: building {} plugins with {}", crates.len(), toolchain.describe()));
        for (dir, file) in crates.iter().zip(&files) {
            compile(&toolchain, dir, file)?;
        }
    }
    Ok(())
}

fn compile(toolchain: &Toolchain, dir: &Path, out: &Path) -> Result<()> {
    let manifest = dir.join("Cargo.toml");
    let package = package_name(&manifest)?;
    // One folder for all, or each plugin builds the standard library again.
    let target = root().join("target/wasm");
    let mut command = toolchain.cargo_rustc()?;
    command.arg("--manifest-path").arg(&manifest).args([
        "--package",
        &package,
        "--profile",
        "plugin",
        "--quiet",
    ]);
    command.arg("--target-dir").arg(&target);
    for line in PROFILE {
        command.args(["--config", line]);
    }
    run(&mut command)?;
    let built =
        target.join(TARGET).join("plugin").join(package.replace('-', "_")).with_extension("wasm");
    let bytes =
        std::fs::read(&built).with_context(|| format!("failed to read {}", built.display()))?;
    if !bytes.starts_with(&COMPONENT) {
        bail!("{} is no component; is wasm-component-ld the linker?", built.display());
    }
    // A file that keeps its time does not make the host build again.
    let is_new = std::fs::read(out).map_or(true, |old| old != bytes);
    if is_new {
        std::fs::write(out, &bytes)
            .with_context(|| format!("failed to write {}", out.display()))?;
    }
    let state = if is_new { "built" } else { "unchanged" };
    say(&format!("xtask: {} {state}, {} KiB", out.display(), bytes.len() / 1024));
    Ok(())
}

/// Folders below `folder` with a Cargo.toml, sorted by name.
fn crates_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut crates = Vec::new();
    if folder.is_dir() {
        for entry in std::fs::read_dir(folder)? {
            let dir = entry?.path();
            if dir.join("Cargo.toml").exists() {
                crates.push(dir);
            }
        }
    }
    crates.sort();
    Ok(crates)
}

fn name_of(dir: &Path) -> &Path {
    Path::new(dir.file_name().expect("a folder that was listed has a name"))
}

/// The first `name = "..."` of a manifest is its package's.
fn package_name(manifest: &Path) -> Result<String> {
    let text = std::fs::read_to_string(manifest)
        .with_context(|| format!("failed to read {}", manifest.display()))?;
    let name = text.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    Ok(name
        .with_context(|| format!("{} has no line `name = \"...\"`", manifest.display()))?
        .to_owned())
}
