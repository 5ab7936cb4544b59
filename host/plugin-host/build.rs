//! Writes the table of embedded plugins from the components in `target/plugins`, which
//! `cargo xtask plugins` builds. Builds nothing itself; without that folder nothing is embedded.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-env-changed=LLMDBENCH_PLUGINS_DIR");
    // Asked at run time: a tree that was moved has a build script from before.
    let own = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let folder = std::env::var_os("LLMDBENCH_PLUGINS_DIR")
        .map_or_else(|| Path::new(&own).join("../../target/plugins"), PathBuf::from);
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut files = Vec::new();
    if let Ok(entries) = std::fs::read_dir(&folder) {
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "wasm") {
                files.push(path.canonicalize()?);
            }
        }
    }
    files.sort();
    let mut table = String::from("&[\n");
    for file in &files {
        println!("cargo::rerun-if-changed={}", file.display());
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let digest = Sha256::digest(std::fs::read(file)?);
        let digest = digest.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        let path = file.display().to_string();
        let _ = writeln!(
            table,
            "    Embedded {{ name: {name:?}, bytes: include_bytes!({path:?}), sha256: {digest:?} }},"
        );
    }
    table.push_str("]\n");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    std::fs::write(out.join("embedded.rs"), table)
}
