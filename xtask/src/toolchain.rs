//! Finds a Rust compiler that can make WebAssembly components.
//!
//! Components come out of plain `cargo rustc` when `wasm-component-ld` links; it ships with rustup's
//! toolchains. A standard library for `wasm32-unknown-unknown` is either installed (rustup target) or
//! built from its sources (rust-src, or Debian's `rust-web-src`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::packages;
use crate::shell::{output, say};

/// What plugins are compiled for: no operating system, so no WASI.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_SOURCES: &str = "/usr/lib/rustlib/src/rust/library/Cargo.lock";
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// A compiler for plugins.
#[derive(Debug)]
pub(crate) struct Toolchain {
    cargo: PathBuf,
    /// None: what `cargo` takes by itself.
    rustc: Option<PathBuf>,
    builds_std: bool,
    /// Put before PATH, so that `wasm-component-ld` and the `wasm-ld` it calls are found.
    linkers: Vec<PathBuf>,
}

impl Toolchain {
    /// The first that works of: the one given by `LLMDBENCH_WASM_CARGO` and `LLMDBENCH_WASM_RUSTC`,
    /// rustup's with its target, rustup's with its sources, Debian's, which is installed when missing.
    ///
    /// # Errors
    /// When there is none and none can be installed.
    pub(crate) fn find() -> Result<Self> {
        let sysroot =
            PathBuf::from(output(rustc(Path::new("rustc")).args(["--print", "sysroot"]))?);
        let linkers = linkers(&sysroot)?;
        let given = |name| std::env::var_os(name).map(PathBuf::from);
        if let (Some(cargo), Some(rustc)) =
            (given("LLMDBENCH_WASM_CARGO"), given("LLMDBENCH_WASM_RUSTC"))
        {
            let root = output(self::rustc(&rustc).args(["--print", "sysroot"]))?;
            let builds_std = !has_target(Path::new(&root));
            return Ok(Self { cargo, rustc: Some(rustc), builds_std, linkers });
        }
        if has_target(&sysroot) || sysroot.join("lib/rustlib/src/rust/library/Cargo.lock").exists()
        {
            let builds_std = !has_target(&sysroot);
            return Ok(Self { cargo: "cargo".into(), rustc: None, builds_std, linkers });
        }
        if !is_debian_ready() {
            packages::install(&DEBIAN_PACKAGES, "a Rust compiler for WebAssembly").with_context(|| {
                format!("the Rust target {TARGET} is missing; `rustup target add {TARGET}` gives it, too")
            })?;
        }
        if !is_debian_ready() {
            bail!("{DEBIAN_SOURCES} is missing; run `rustup target add {TARGET}` and try again");
        }
        let rustc = Some(DEBIAN_RUSTC.into());
        Ok(Self { cargo: DEBIAN_CARGO.into(), rustc, builds_std: true, linkers })
    }

    /// `cargo rustc` for one plugin crate; the package and the target folder are still to be added.
    pub(crate) fn cargo_rustc(&self) -> Result<Command> {
        let mut command = Command::new(&self.cargo);
        isolate(&mut command);
        let old = std::env::var_os("PATH").unwrap_or_default();
        let path =
            std::env::join_paths(self.linkers.iter().cloned().chain(std::env::split_paths(&old)))
                .context("failed to put the folder of the linkers into PATH")?;
        command.env("PATH", path);
        command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", "wasm-component-ld");
        if let Some(rustc) = &self.rustc {
            command.env("RUSTC", rustc);
        }
        command.args(["rustc", "--lib", "--crate-type", "cdylib", "--target", TARGET]);
        if self.builds_std {
            command.env("RUSTC_BOOTSTRAP", "1").arg("-Zbuild-std=std,panic_abort");
        }
        Ok(command)
    }

    /// One line for the person who waits.
    pub(crate) fn describe(&self) -> String {
        let rustc = self.rustc.as_deref().unwrap_or(Path::new("rustc")).display();
        if self.builds_std {
            format!(
                "{rustc}, which builds the standard library for WebAssembly the first time (about a minute)"
            )
        } else {
            format!("{rustc} with the target {TARGET}")
        }
    }
}

fn rustc(path: &Path) -> Command {
    let mut command = Command::new(path);
    isolate(&mut command);
    command
}

/// Takes away what the cargo that runs xtask hands down: it would choose another compiler, other
/// flags or another linker than the ones meant for plugins.
fn isolate(command: &mut Command) {
    for name in [
        "CARGO",
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "LD_LIBRARY_PATH",
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ] {
        command.env_remove(name);
    }
}

fn linkers(sysroot: &Path) -> Result<Vec<PathBuf>> {
    let about = output(rustc(Path::new("rustc")).arg("-vV"))?;
    let host = about
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("`rustc -vV` names no host")?;
    let folder = sysroot.join("lib/rustlib").join(host).join("bin");
    let linker = folder.join("wasm-component-ld");
    if !linker.exists() {
        say(&format!("xtask: {} is missing; hoping for one on PATH", linker.display()));
    }
    Ok(vec![folder.join("gcc-ld"), folder])
}

/// Whether the standard library for the target is there. Debian's rustc names a folder that does not
/// exist, so the files are what counts.
fn has_target(sysroot: &Path) -> bool {
    let folder = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    std::fs::read_dir(folder)
        .is_ok_and(|mut files| files.any(|file| file.is_ok_and(|file| is_core(&file.file_name()))))
}

fn is_core(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("libcore-") && name.ends_with(".rlib")
}

fn is_debian_ready() -> bool {
    [DEBIAN_RUSTC, DEBIAN_CARGO, DEBIAN_SOURCES].iter().all(|path| Path::new(path).exists())
}
