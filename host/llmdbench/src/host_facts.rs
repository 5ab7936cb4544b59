//! Facts of this machine that a reader needs to judge or repeat a run.

use analysis::Machine;
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

/// What a calibration of this machine holds for.
pub(crate) fn machine() -> Machine {
    let unknown = || "unknown".to_owned();
    let cores = std::thread::available_parallelism().map(usize::from).unwrap_or(0);
    Machine {
        host: read("/proc/sys/kernel/hostname").unwrap_or_else(unknown),
        kernel: read("/proc/sys/kernel/osrelease").unwrap_or_else(unknown),
        cpu: first_line_with("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        llmdbench: env!("CARGO_PKG_VERSION").to_owned(),
    }
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
