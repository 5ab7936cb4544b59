//! Statistics and pictures of LMBenchmark's CSV files, as llm-d-benchmark made them: beside our own
//! analysis where a run left such files, or of a folder that holds nothing else.

use crate::error::{Error, Result};
use crate::interrupt;
use crate::printer::Printer;
use crate::run_dir;
use analysis::lmbench::{self, File, LeftOut};
use std::path::{Path, PathBuf};

/// How deep below a folder files are looked for.
const DEPTH: usize = 8;

/// The CSV files in a folder and below it, sorted by path.
///
/// # Errors
/// When the user asked for an end.
pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    collect(folder, DEPTH, &mut found)?;
    found.sort();
    Ok(found)
}

fn collect(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        interrupt::check()?;
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        // Links are not followed: `workdir/latest` is one.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth > 0 {
                collect(&path, depth - 1, found)?;
            }
        } else if path.is_file() && lmbench::is_name(&name) {
            found.push(path);
        }
    }
    Ok(())
}

/// Where the analysis of a folder of CSV files goes: as the original had it, beside a folder
/// `results`, else in it.
fn analysis_folder(folder: &Path) -> PathBuf {
    let is_results = |path: &Path| path.file_name().is_some_and(|name| name == "results");
    match folder.parent() {
        Some(parent) if is_results(folder) => parent.join("analysis"),
        // `.` has no name of its own.
        _ if folder.file_name().is_none()
            && folder.canonicalize().is_ok_and(|p| is_results(&p)) =>
        {
            folder.join("../analysis")
        }
        _ => folder.join("analysis"),
    }
}

/// Writes `data/stats.txt` and the two pictures into the analysis folder; gives the statistics and
/// what `plots/README.md` shall say. None: none of the files can be used.
pub(crate) fn write(
    files: &[PathBuf],
    analysis: &Path,
    heeded: usize,
    printer: &Printer,
) -> Result<Option<(String, String)>> {
    let mut read = Vec::new();
    for path in files {
        interrupt::check_beyond(heeded)?;
        match parse(path) {
            Ok(file) => {
                for LeftOut { line, column, cell } in &file.left_out {
                    printer.warning(&format!(
                        "{}:{line}: the row is left out: `{cell}` in the column `{column}` is no time and no count",
                        path.display()
                    ));
                }
                read.push(file);
            }
            Err(why) => printer.warning(&format!("{} is left out: {why}", path.display())),
        }
    }
    if read.iter().all(|file| file.rows.is_empty()) {
        return Ok(None);
    }
    let rates = lmbench::rates(&read);
    let stats = lmbench::stats(&rates);
    run_dir::write(&analysis.join("data/stats.txt"), stats.as_bytes())?;
    for plot in [lmbench::LATENCY, lmbench::THROUGHPUT] {
        interrupt::check_beyond(heeded)?;
        run_dir::write(&analysis.join("plots").join(plot.file), &plot.png(&rates))?;
    }
    Ok(Some((stats, lmbench::readme())))
}

fn parse(path: &Path) -> std::result::Result<File, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    File::parse(&name, &text).map_err(|error| error.to_string())
}

/// Analyses a folder that holds CSV files and no records.
pub(crate) fn foreign(folder: &Path, files: &[PathBuf], printer: &Printer) -> Result<()> {
    let analysis = analysis_folder(folder);
    let (stats, readme) = write(files, &analysis, 0, printer)?.ok_or_else(|| {
        Error::usage(format!("no file in `{}` holds a request", folder.display()))
            .hint("the warnings above say what is wrong with each")
    })?;
    let readme = format!("# Plots\n\n{readme}");
    run_dir::write(&analysis.join("plots/README.md"), readme.as_bytes())?;
    printer.result(
        || stats.clone(),
        || serde_json::json!({"analysis": analysis.display().to_string(), "stats": stats}),
    );
    printer.step(&format!("analysis: {}", analysis.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_analysis_lies_beside_results_and_in_any_other_folder() {
        let folder = tempfile::tempdir().unwrap();
        let results = folder.path().join("w/results/deep");
        std::fs::create_dir_all(results).unwrap();
        let check = |path: &str, expected: &str| {
            let found = analysis_folder(&folder.path().join(path));
            assert_eq!(found, folder.path().join(expected), "{path}");
        };
        check("w/results", "w/analysis");
        check("w/results/", "w/analysis");
        check("w", "w/analysis");
        check("w/results/deep", "w/results/deep/analysis");
        check("w/results/deep/..", "w/results/deep/../../analysis");
        check("w/results/..", "w/results/../analysis");
    }
}
