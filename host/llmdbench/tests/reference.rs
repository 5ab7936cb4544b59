//! The pages of `docs/reference` are those that the program prints.

use std::path::Path;
use std::process::Command;

#[test]
fn the_committed_pages_are_those_that_the_tables_give() {
    let pages: [(&str, &[&str]); 5] = [
        ("settings.md", &["env", "--markdown"]),
        ("metrics.md", &["reference", "metrics"]),
        ("health.md", &["reference", "health"]),
        ("plugins.md", &["reference", "plugins"]),
        ("commands.md", &["reference", "commands"]),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
    for (page, arguments) in pages {
        let output =
            Command::new(env!("CARGO_BIN_EXE_llmdbench")).args(arguments).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let committed = std::fs::read_to_string(folder.join(page)).unwrap();
        assert!(printed.trim() == committed.trim(), "{page} is old: run `cargo xtask docs`");
    }
    let committed = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(committed, pages.len(), "a page in {} that nothing makes", folder.display());
}
