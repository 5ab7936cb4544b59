//! From bytes to a plugin: what is looked at, in which order, and what each refusal says.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use semver::Version;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use wasmparser::{Validator, WasmFeatures};
use wasmtime::component::{Component, InstancePre};

use crate::capability::Capabilities;
use crate::engine::{Host, Source};
use crate::error::{Error, Fault};
use crate::grant::Grant;
use crate::instance::{self, State};
use crate::kind::Kind;
use crate::plugin::{Inner, Plugin};
use crate::settings;
use crate::wit::{analyzer, backend, dialogue, harness, importer, manifest, steering, workload};

/// Largest component, in bytes.
const MAX_SIZE: u64 = 64 << 20;
/// Namespace and name of the contract's package.
const PACKAGE: &str = "llmdbench:plugin/";
/// The version of the contract in `wit/`. A test compares them.
pub(crate) const CONTRACT: Version = Version::new(0, 1, 0);
/// Interfaces of the contract that a plugin may import.
const IMPORTS: [&str; 10] = [
    "types",
    "stages",
    "requests",
    "commands",
    "results",
    "log",
    "env",
    "inputs",
    "tokenizer",
    "http",
];
const SDK_HINT: &str = "build it as a component, for example with `cargo xtask plugin DIR OUT.wasm`; see examples/plugins";

const DESCRIBE_MEMORY: usize = 64 << 20;
const DESCRIBE_TIME: Duration = Duration::from_secs(1);
const MAX_SCHEMA: usize = 1 << 20;
const MAX_PERMISSIONS: usize = 1_000;

/// Loads a plugin.
pub(crate) fn load(host: &Host, source: Source) -> Result<Plugin, Error> {
    let called = match &source {
        Source::Embedded(embedded) => embedded.name.to_owned(),
        Source::File(path) => path.display().to_string(),
    };
    let bytes = match &source {
        Source::Embedded(embedded) => Cow::Borrowed(embedded.bytes),
        Source::File(path) => Cow::Owned(read(path, &called)?),
    };
    let refuse = |message: String| Error::new(&called, Fault::NotUsable, message);
    check_bytes(&bytes).map_err(|message| refuse(message).hint(SDK_HINT))?;
    let component = Component::new(&host.engine, &bytes)
        .map_err(|error| refuse(format!("cannot be compiled: {error:#}")))?;

    let ty = component.component_type();
    let mut imports: Vec<String> =
        ty.imports(&host.engine).map(|(name, _)| name.to_owned()).collect();
    let mut exports: Vec<String> =
        ty.exports(&host.engine).map(|(name, _)| name.to_owned()).collect();
    imports.sort();
    exports.sort();
    check_version(&called, imports.iter().chain(&exports))?;
    check_imports(&called, &imports)?;
    let offers = |name: &str| exports.iter().any(|export| interface(export) == Some(name));
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| offers(kind.as_str())).collect();
    if kinds.is_empty() || !offers("manifest") {
        let kinds = Kind::ALL.map(Kind::as_str).join(", ");
        let message = format!(
            "is a component, but no plugin: it must export manifest and at least one of {kinds}"
        );
        return Err(refuse(message).hint(SDK_HINT));
    }
    let abilities =
        ["steering", "importer", "dialogue"].into_iter().filter(|name| offers(name)).collect();

    let pre = host
        .linker
        .instantiate_pre(&component)
        .map_err(|error| refuse(format!("does not fit this llmdbench: {error:#}")))?;
    let info = introduce(host, &called, &pre)?;
    let schema = schema_of(&info, &kinds)
        .map_err(|message| about(&called, &info, Fault::NotUsable, message))?;
    let memory =
        info.memory_mib.unwrap_or(host.options.default_memory_mib).min(host.options.max_memory_mib);
    Ok(Plugin {
        inner: Arc::new(Inner {
            source,
            digest: hex(&bytes),
            size: bytes.len(),
            kinds,
            abilities,
            imports,
            exports,
            permissions: info.permissions.iter().map(Grant::from).collect(),
            info,
            schema,
            pre,
            memory: usize::try_from(u64::from(memory) << 20).unwrap_or(usize::MAX),
            call_timeout: host.options.call_timeout,
        }),
    })
}

fn read(path: &std::path::Path, called: &str) -> Result<Vec<u8>, Error> {
    let failed =
        |error: std::io::Error| Error::new(called, Fault::File, format!("cannot be read: {error}"));
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_SIZE {
        let message = format!("is larger than {} MiB, which no plugin may be", MAX_SIZE >> 20);
        return Err(Error::new(called, Fault::NotUsable, message));
    }
    Ok(bytes)
}

/// Looks at all bytes before they reach the compiler. Says what they are, where they are no component.
fn check_bytes(bytes: &[u8]) -> Result<(), String> {
    const COMPONENT: [u8; 8] = [0x00, b'a', b's', b'm', 0x0d, 0x00, 0x01, 0x00];
    const MODULE: [u8; 8] = [0x00, b'a', b's', b'm', 0x01, 0x00, 0x00, 0x00];
    if bytes.is_empty() {
        return Err("is empty".to_owned());
    }
    if bytes.starts_with(&MODULE) {
        return Err("is a core WebAssembly module, not a component".to_owned());
    }
    if !bytes.starts_with(&COMPONENT) {
        let start = &bytes[..bytes.len().min(512)];
        // A cut through the last character of the sample does not make it binary.
        let is_text = std::str::from_utf8(start)
            .map_or_else(|error| error.error_len().is_none(), |_| true)
            && !start.contains(&0);
        let what = if is_text { "is a text file" } else { "is no WebAssembly file" };
        return Err(format!("{what}, not a component"));
    }
    let is_cut =
        |message: &str| message.contains("unexpected end") || message.contains("end-of-file");
    match Validator::new_with_features(WasmFeatures::default()).validate_all(bytes) {
        Ok(_) => Ok(()),
        Err(error) if is_cut(error.message()) => Err(format!(
            "is cut off: {} at byte {} of {}",
            error.message(),
            error.offset(),
            bytes.len()
        )),
        Err(error) => Err(format!("is damaged: {} at byte {}", error.message(), error.offset())),
    }
}

/// Name of an interface of the contract: "workload" for "llmdbench:plugin/workload@0.1.0".
fn interface(name: &str) -> Option<&str> {
    Some(name.strip_prefix(PACKAGE)?.split_once('@')?.0)
}

fn version(name: &str) -> Option<Version> {
    Version::parse(name.strip_prefix(PACKAGE)?.split_once('@')?.1).ok()
}

/// Versions of the contract are compatible within one 0.y, from 1.0 within one major version.
fn track(version: &Version) -> (u64, u64) {
    if version.major == 0 { (0, version.minor) } else { (version.major, 0) }
}

fn check_version<'a>(called: &str, names: impl Iterator<Item = &'a String>) -> Result<(), Error> {
    for name in names {
        let Some(spoken) = version(name) else { continue };
        let (theirs, ours) = (track(&spoken), track(&CONTRACT));
        if theirs != ours {
            let what = interface(name).unwrap_or(name);
            let message = format!(
                "speaks version {}.{} of the contract ({what}); this llmdbench speaks {}.{}",
                spoken.major, spoken.minor, CONTRACT.major, CONTRACT.minor,
            );
            let build = format!("use a build of it for {}.{}", CONTRACT.major, CONTRACT.minor);
            let hint = if theirs > ours { format!("update llmdbench, or {build}") } else { build };
            return Err(Error::new(called, Fault::Version, message).hint(hint));
        }
    }
    Ok(())
}

fn check_imports(called: &str, imports: &[String]) -> Result<(), Error> {
    for name in imports {
        if interface(name).is_some_and(|name| IMPORTS.contains(&name)) {
            continue;
        }
        let error = Error::new(
            called,
            Fault::NotUsable,
            format!("imports {name}, which llmdbench does not have"),
        );
        return Err(if name.starts_with("wasi:") {
            error.hint(
                "plugins have no WASI; build it for wasm32-unknown-unknown, or with the stubs of your tool \
                 (componentize-py --stub-wasi), and use the imports of llmdbench:plugin instead",
            )
        } else {
            error.hint("see wit/imports.wit for what there is")
        });
    }
    Ok(())
}

/// Checks the types of all exports and calls `describe`, with every import refused.
fn introduce(host: &Host, called: &str, pre: &InstancePre<State>) -> Result<manifest::Info, Error> {
    let refuse = |message: String| Error::new(called, Fault::NotUsable, message);
    let state = State::new(Capabilities::none(called), DESCRIBE_MEMORY, DESCRIBE_TIME);
    let mut store = instance::store(&host.engine, state);
    store.data_mut().progress();
    let crashed = |function: &str, error: &wasmtime::Error, state: &State| {
        let (fault, message) = instance::reason(function, error, state);
        Error::new(called, fault, message)
    };
    let component = match pre.instantiate(&mut store) {
        Ok(component) => component,
        Err(error) => return Err(crashed("start", &error, store.data())),
    };
    macro_rules! check_types {
        ($($module:ident),+) => {$(
            // Absent ones are no error here: what must be there was looked for by name.
            if let Ok(indices) = $module::GuestIndices::new(pre) {
                indices.load(&mut store, &component).map_err(|error| {
                    refuse(format!("exports {} with other types than the contract's: {error:#}", stringify!($module)))
                })?;
            } else if pre.component().get_export_index(None, &format!("{PACKAGE}{}@{CONTRACT}", stringify!($module))).is_some() {
                return Err(refuse(format!("exports {} without all of its functions", stringify!($module))));
            }
        )+};
    }
    check_types!(backend, harness, steering, importer, workload, dialogue, analyzer);
    let manifest = manifest::GuestIndices::new(pre)
        .and_then(|indices| indices.load(&mut store, &component))
        .map_err(|error| {
            refuse(format!("exports manifest with other types than the contract's: {error:#}"))
        })?;
    match manifest.call_describe(&mut store) {
        Ok(info) => check_info(called, info),
        Err(error) => Err(crashed("describe", &error, store.data())),
    }
}

fn check_info(called: &str, info: manifest::Info) -> Result<manifest::Info, Error> {
    let is_name = !info.name.is_empty()
        && info.name.len() <= 64
        && info.name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    let complaint = if !is_name {
        format!(
            "calls itself `{}`; names are lower-case words with dashes",
            info.name.escape_debug()
        )
    } else if Version::parse(&info.version).is_err() {
        format!(
            "says its version is `{}`, which is no semantic version",
            info.version.escape_debug()
        )
    } else if info.settings_schema.len() > MAX_SCHEMA || info.permissions.len() > MAX_PERMISSIONS {
        "describes itself at too great a length".to_owned()
    } else {
        return Ok(info);
    };
    Err(Error::new(called, Fault::NotUsable, complaint))
}

fn schema_of(info: &manifest::Info, kinds: &[Kind]) -> Result<Value, String> {
    let schema: Value = serde_json::from_str(&info.settings_schema)
        .map_err(|error| format!("its settings schema is no JSON: {error}"))?;
    for kind in kinds {
        settings::validator(&schema, *kind)
            .map_err(|error| format!("its settings schema is no JSON Schema: {error}"))?;
    }
    Ok(schema)
}

fn about(called: &str, info: &manifest::Info, fault: Fault, message: String) -> Error {
    let mut error =
        Error::new(if info.name.is_empty() { called } else { &info.name }, fault, message);
    error.version = Some(info.version.clone());
    error
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_of_the_contract() {
        let types = include_str!("../../../wit/types.wit");
        assert!(types.contains(&format!("package llmdbench:plugin@{CONTRACT};")));
    }

    #[test]
    fn only_versions_of_the_same_track_are_spoken() {
        let check = |name: &str, wanted: Option<&str>| {
            let got = check_version("x.wasm", [name.to_owned()].iter()).err();
            assert_eq!(got.map(|error| format!("{error:#}")).as_deref(), wanted, "{name}");
        };
        check("llmdbench:plugin/workload@0.1.0", None);
        check("llmdbench:plugin/workload@0.1.7", None);
        check("somebody:else/workload@3.0.0", None);
        check(
            "llmdbench:plugin/workload@0.3.0",
            Some(
                "plugin x.wasm: speaks version 0.3 of the contract (workload); this llmdbench speaks 0.1\n\
                 hint: update llmdbench, or use a build of it for 0.1",
            ),
        );
        check(
            "llmdbench:plugin/log@0.0.1",
            Some(
                "plugin x.wasm: speaks version 0.0 of the contract (log); this llmdbench speaks 0.1\n\
                 hint: use a build of it for 0.1",
            ),
        );
    }

    #[test]
    fn files_that_are_no_component_are_called_by_what_they_are() {
        let check = |bytes: &[u8], wanted: &str| {
            assert_eq!(check_bytes(bytes).unwrap_err(), wanted);
        };
        check(b"", "is empty");
        check(b"apiVersion: v1\n", "is a text file, not a component");
        check(b"\x7fELF\x02\x01\x01\x00", "is no WebAssembly file, not a component");
        check(b"\0asm\x01\0\0\0", "is a core WebAssembly module, not a component");
        assert!(
            check_bytes(b"\0asm\x0d\0\x01\0\x01\xff\xff").unwrap_err().starts_with("is cut off: ")
        );
    }
}
