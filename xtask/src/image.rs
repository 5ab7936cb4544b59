//! The program as a container image: an OCI archive, written without a container engine.
//!
//! It holds the program with the libraries that the dynamic linker names, a small shell, and `vllm`, which is the
//! simulated server: whatever deploys vLLM can be tried with it.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::shell::{output, root, say, target};
use crate::{packages, tasks};

/// By this name nodes of a cluster know the image.
pub(crate) const NAME: &str = concat!("localhost/llmdbench:", env!("CARGO_PKG_VERSION"));

/// A static program that is all of these.
const BUSYBOX: &str = "/bin/busybox";
const APPLETS: &[&str] = &[
    "cat", "cp", "date", "echo", "env", "false", "grep", "head", "id", "kill", "ls", "mkdir", "nc",
    "nslookup", "printf", "ps", "rm", "sh", "sleep", "tail", "tar", "test", "touch", "true",
    "wget",
];

/// The user, for whom nothing in the image is writable but /tmp.
const USER: &str = "65532";

/// Certificates of authorities; an image without them speaks HTTPS to nobody.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// `cargo xtask image [PROGRAM]`: writes `target/image/llmdbench.tar` and gives its path. Without a program it builds
/// one with optimisation.
///
/// # Errors
/// When the program does not build or something that belongs into the image cannot be read.
pub(crate) fn write(program: Option<&Path>) -> Result<PathBuf> {
    let program = match program {
        Some(program) => program.to_owned(),
        None => {
            tasks::build()?;
            target().join("release/llmdbench")
        }
    };
    if !Path::new(BUSYBOX).exists() {
        packages::install(&["busybox-static"], "the shell of the image")?;
    }
    let layer = layer(&program)?;
    let file = target().join("image/llmdbench.tar");
    let image = archive(&layer)?;
    let folder = target().join("image");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("failed to make {}", folder.display()))?;
    std::fs::write(&file, &image).with_context(|| format!("failed to write {}", file.display()))?;
    let size = image.len() as f64 / f64::from(1 << 20);
    say(&format!("xtask: {}, {size:.1} MiB, the image {NAME}", file.display()));
    Ok(file)
}

/// The files of the image.
fn layer(program: &Path) -> Result<Vec<u8>> {
    let mut files = Files::default();
    files.copy(program, "usr/local/bin/llmdbench")?;
    files.copy(&root().join("xtask/image/vllm"), "usr/local/bin/vllm")?;
    for library in libraries(program)? {
        files.copy(&library, &library.to_string_lossy())?;
    }
    files.copy(Path::new(BUSYBOX), "bin/busybox")?;
    for applet in APPLETS {
        files.link(&format!("bin/{applet}"), "busybox")?;
    }
    files.text("etc/passwd", &format!("llmdbench:x:{USER}:{USER}::/tmp:/bin/sh\n"))?;
    files.text("etc/group", &format!("llmdbench:x:{USER}:\n"))?;
    files.text("etc/nsswitch.conf", "hosts: files dns\n")?;
    if Path::new(CERTIFICATES).exists() {
        files.copy(Path::new(CERTIFICATES), CERTIFICATES)?;
    }
    files.folder("tmp", 0o1777)?;
    files.end()
}

/// The libraries that a program needs, the dynamic linker among them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = output(Command::new("ldd").arg(program))?;
    if let Some(missing) = listed.lines().find(|line| line.contains("not found")) {
        bail!("`{}` does not run here: {}", program.display(), missing.trim());
    }
    Ok(named_libraries(&listed).into_iter().map(PathBuf::from).collect())
}

/// The paths in what `ldd` prints: `libc.so.6 => /lib/libc.so.6 (0x..)`, `/lib64/ld.so (0x..)`.
fn named_libraries(listed: &str) -> Vec<&str> {
    listed
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .collect()
}

/// Files of a layer as they go into its archive. Equal files make equal bytes.
struct Files(tar::Builder<Vec<u8>>);

impl Default for Files {
    fn default() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }
}

impl Files {
    fn copy(&mut self, from: &Path, to: &str) -> Result<()> {
        let what = || format!("failed to read {}", from.display());
        let data = std::fs::read(from).with_context(what)?;
        let mode = std::fs::metadata(from).with_context(what)?.permissions().mode();
        self.file(to, &data, if mode & 0o111 == 0 { 0o644 } else { 0o755 })
    }

    fn text(&mut self, to: &str, text: &str) -> Result<()> {
        self.file(to, text.as_bytes(), 0o644)
    }

    fn file(&mut self, to: &str, data: &[u8], mode: u32) -> Result<()> {
        let mut header = header(tar::EntryType::Regular, mode);
        header.set_size(data.len() as u64);
        Ok(self.0.append_data(&mut header, to.trim_start_matches('/'), data)?)
    }

    fn link(&mut self, from: &str, to: &str) -> Result<()> {
        Ok(self.0.append_link(&mut header(tar::EntryType::Symlink, 0o777), from, to)?)
    }

    fn folder(&mut self, path: &str, mode: u32) -> Result<()> {
        Ok(self.0.append_data(&mut header(tar::EntryType::Directory, mode), path, &[][..])?)
    }

    fn end(self) -> Result<Vec<u8>> {
        Ok(self.0.into_inner()?)
    }
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(0);
    header
}

/// The image in the layout of the Open Container Initiative.
fn archive(layer: &[u8]) -> Result<Vec<u8>> {
    let config = json_bytes(&json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "User": format!("{USER}:{USER}"),
            "Env": ["PATH=/usr/local/bin:/bin", "HOME=/tmp"],
            "WorkingDir": "/tmp",
            "Entrypoint": ["/usr/local/bin/llmdbench"],
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
    }))?;
    let manifest = json_bytes(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    }))?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    let tag = NAME.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    entry["annotations"] = json!({
        "io.containerd.image.name": NAME,
        "org.opencontainers.image.ref.name": tag,
    });
    let index = json_bytes(&json!({"schemaVersion": 2, "manifests": [entry]}))?;
    let mut files = Files::default();
    files.text("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    files.file("index.json", &index, 0o644)?;
    for blob in [&manifest[..], &config, layer] {
        files.file(&format!("blobs/{}", digest(blob).replace(':', "/")), blob, 0o644)?;
    }
    files.end()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(blob), "size": blob.len()})
}

fn digest(blob: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(blob) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn json_bytes(value: &Value) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.write_all(b"\n")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::Read;

    fn contents(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        tar::Archive::new(archive)
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut data = Vec::new();
                entry.read_to_end(&mut data).unwrap();
                (entry.path().unwrap().to_string_lossy().into_owned(), data)
            })
            .collect()
    }

    #[test]
    fn libraries_are_the_paths_that_the_linker_names() {
        let listed = "\tlinux-vdso.so.1 (0x00007f71)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f71)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f71)\n";
        assert_eq!(named_libraries(listed), ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert!(named_libraries("\tstatically linked\n").is_empty());
    }

    #[test]
    fn every_blob_of_the_archive_is_where_its_digest_says() {
        let files = contents(&archive(b"a layer").unwrap());
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap().replace(':', "/");
            let blob = files[&format!("blobs/{digest}")].clone();
            assert_eq!(descriptor["size"], blob.len());
            blob
        };
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let index = json(&files["index.json"]);
        let manifest = json(&blob(&index["manifests"][0]));
        let config = json(&blob(&manifest["config"]));
        assert_eq!(blob(&manifest["layers"][0]), b"a layer");
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        assert_eq!(config["config"]["User"], "65532:65532");
    }

    #[test]
    fn equal_files_make_equal_layers() {
        let layer = || {
            let mut files = Files::default();
            files.copy(&root().join("xtask/Cargo.toml"), "a/b").unwrap();
            files.link("a/c", "b").unwrap();
            files.folder("tmp", 0o1777).unwrap();
            files.end().unwrap()
        };
        assert_eq!(layer(), layer());
        assert_eq!(contents(&layer()).keys().collect::<Vec<_>>(), ["a/b", "a/c", "tmp"]);
    }
}
