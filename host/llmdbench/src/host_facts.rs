//! Facts of this machine that a reader needs to judge or repeat a run.

use serde_json::{Value, json};
use std::fs;

/// What this machine is, for `environment/host.json`.
pub(crate) fn collect() -> Value {
    let cpu = first_line_with("/proc/cpuinfo", "model name");
    let memory = first_line_with("/proc/meminfo", "MemTotal");
    json!({
        "llmdbench": env!("CARGO_PKG_VERSION"),
        "os": os_name(),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "cpu": cpu,
        "cores": std::thread::available_parallelism().map(usize::from).unwrap_or(0),
        "memory": memory,
        "load_average": read("/proc/loadavg"),
    })
}

fn os_name() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(line.trim_matches('"').to_owned())
}

fn first_line_with(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}
