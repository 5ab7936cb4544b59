//! Which workload reads a data set: told by the file's name and its first line.

use serde_json::Value;
use std::io::{BufRead, Read};
use std::path::Path;

/// As much of a file as is looked at.
const LOOK: u64 = 1 << 20;

/// The workload plugin that understands a file: a trace has times, anything else is taken for
/// conversations, whose plugin says best what is wrong with it.
pub(crate) fn workload_of(path: &Path) -> &'static str {
    if is_trace(path) { "trace" } else { "sharegpt" }
}

fn is_trace(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let name = name.trim_end_matches(".gz").trim_end_matches(".zst");
    if name.ends_with(".csv") {
        return true;
    }
    let first = plugin_host::contents(path).ok().and_then(|file| {
        let lines = file.take(LOOK).lines();
        lines.map_while(Result::ok).find(|line| !line.trim().is_empty())
    });
    let first: Option<Value> = first.and_then(|line| serde_json::from_str(&line).ok());
    first.is_some_and(|first| first.get("timestamp").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_with_times_are_traces_and_all_others_conversations() {
        let folder = tempfile::tempdir().unwrap();
        let check = |name: &str, text: &str, expected: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            assert_eq!(workload_of(&path), expected, "{name}");
        };
        check("a.jsonl", "\n{\"timestamp\": 0, \"input_length\": 5}\n", "trace");
        check("a.csv", "Timestamp,Model\n", "trace");
        check("a.csv.gz", "\u{1f}", "trace");
        check("a.json", "[\n{\"conversations\": []}]", "sharegpt");
        check("b.jsonl", "{\"conversations\": []}\n", "sharegpt");
        check("c.json", "[{\"timestamp\": 1}]", "sharegpt");
        assert_eq!(workload_of(Path::new("nowhere.json")), "sharegpt");
        // {"timestamp":0}, compressed.
        let packed: &[u8] = &[
            31, 139, 8, 0, 0, 0, 0, 0, 2, 3, 171, 86, 42, 201, 204, 77, 45, 46, 73, 204, 45, 80,
            178, 50, 168, 5, 0, 161, 112, 49, 19, 15, 0, 0, 0,
        ];
        let path = folder.path().join("d.jsonl.gz");
        std::fs::write(&path, packed).unwrap();
        assert_eq!(workload_of(&path), "trace");
    }
}
