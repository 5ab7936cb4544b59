//! Scenario files of the original: lines `export NAME=value`, parsed and never executed.

use super::{Layer, Source};
use crate::error::{Error, Problem, Result};

/// The layer of a file of exports. What only a shell could do is an error with its place; unknown
/// and old names give a warning each.
pub(crate) fn exports(file: &str, text: &str, warnings: &mut Vec<String>) -> Result<Layer> {
    let mut layer = Layer::named(Source::Scenario);
    let mut problems = Vec::new();
    for (index, line) in text.lines().enumerate() {
        match assignments(line) {
            Ok(assignments) => {
                for Assignment { column, name, value } in assignments {
                    let place = format!("{file}:{}:{column}", index + 1);
                    if name.starts_with("LLMDBENCH_") {
                        layer.set_variable(&name, &value, &place, warnings);
                    } else {
                        warnings.push(format!(
                            "{place}: {name} is no variable of llmdbench and does nothing"
                        ));
                    }
                }
            }
            Err((column, what)) => {
                let place = format!("{file}:{}:{column}", index + 1);
                problems.push(
                    Problem::new(format!("{what}: scenario files are read, not executed"))
                        .at(place)
                        .hint("write lines `export NAME=value`, or a YAML file"),
                );
            }
        }
    }
    if problems.is_empty() { Ok(layer) } else { Err(Error::problems(problems)) }
}

/// `NAME=value`, and the column, from 1, in which it begins.
#[derive(Debug, PartialEq, Eq)]
struct Assignment {
    column: usize,
    name: String,
    value: String,
}

type Refused = (usize, String);

/// The assignments of a line. An error: what only a shell could do, and its column.
fn assignments(line: &str) -> std::result::Result<Vec<Assignment>, Refused> {
    let mut found = Vec::new();
    for (column, word) in words(line)? {
        if word.text == "export" && !word.is_quoted {
            continue;
        }
        let Some((name, value)) = word.text.split_once('=') else {
            return Err((column, format!("`{}` is no assignment", word.text)));
        };
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name {
            return Err((column, format!("`{name}` is no name of a variable")));
        }
        found.push(Assignment { column, name: name.to_owned(), value: value.to_owned() });
    }
    Ok(found)
}

#[derive(Debug, Default)]
struct Word {
    text: String,
    is_quoted: bool,
}

/// The words of a line as a shell splits them, quotes taken off, up to a comment.
fn words(line: &str) -> std::result::Result<Vec<(usize, Word)>, Refused> {
    let mut words: Vec<(usize, Word)> = Vec::new();
    let mut word: Option<(usize, Word)> = None;
    let mut quote: Option<(char, usize)> = None;
    let mut characters = line.chars().enumerate().map(|(i, c)| (i + 1, c));
    while let Some((column, c)) = characters.next() {
        let in_single = matches!(quote, Some(('\'', _)));
        match c {
            _ if quote.is_some_and(|(open, _)| open == c) => quote = None,
            _ if in_single => push(&mut word, column, c),
            '$' | '`' => {
                return Err((column, format!("`{c}` stands for what a shell would put in")));
            }
            '~' if quote.is_none() && starts_a_path(word.as_ref()) => {
                return Err((column, "`~` stands for a folder that a shell would put in".into()));
            }
            '\\' => match characters.next() {
                Some((_, next)) => {
                    // Between double quotes it stands for itself before most characters.
                    if quote.is_some() && !matches!(next, '$' | '`' | '"' | '\\') {
                        push(&mut word, column, c);
                    }
                    push(&mut word, column, next);
                }
                None => return Err((column, "a line that goes on in the next one".into())),
            },
            _ if quote.is_some() => push(&mut word, column, c),
            '\'' | '"' => {
                quote = Some((c, column));
                word.get_or_insert_with(|| (column, Word::default())).1.is_quoted = true;
            }
            '#' if word.is_none() => break,
            ' ' | '\t' | '\r' => words.extend(word.take()),
            ';' | '&' | '|' | '<' | '>' | '(' | ')' | '{' | '}' => {
                return Err((column, format!("`{c}` is an instruction for a shell")));
            }
            _ => push(&mut word, column, c),
        }
    }
    if let Some((open, column)) = quote {
        return Err((column, format!("the quote {open} is not closed")));
    }
    words.extend(word);
    Ok(words)
}

/// Whether a shell would take a `~` that comes next for the home folder.
fn starts_a_path(word: Option<&(usize, Word)>) -> bool {
    word.is_none_or(|(_, word)| word.text.ends_with(['=', ':']))
}

fn push(word: &mut Option<(usize, Word)>, column: usize, c: char) {
    word.get_or_insert_with(|| (column, Word::default())).1.text.push(c);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_read_in_every_spelling() {
        let check = |line: &str, expected: &[(usize, &str, &str)]| {
            let found = assignments(line).unwrap();
            let found: Vec<_> =
                found.iter().map(|a| (a.column, a.name.as_str(), a.value.as_str())).collect();
            assert_eq!(found, expected, "{line}");
        };
        check("export A=1", &[(8, "A", "1")]);
        check(
            "A=1 B='x y'\tC=\"z # $\" # end".replace(" $", "").as_str(),
            &[(1, "A", "1"), (5, "B", "x y"), (13, "C", "z #")],
        );
        check("  # a comment", &[]);
        check("", &[]);
        check(
            "export A=nvidia.com/gpu.product:X-3g.40gb # c",
            &[(8, "A", "nvidia.com/gpu.product:X-3g.40gb")],
        );
        check("export A=", &[(8, "A", "")]);
        check("export A='$HOME'", &[(8, "A", "$HOME")]);
        check("export A=a\\ b\r", &[(8, "A", "a b")]);
        check(r#"export A="a\nb \"q\" \$c""#, &[(8, "A", r#"a\nb "q" $c"#)]);
        check("export A=x~1 B='~/x'", &[(8, "A", "x~1"), (14, "B", "~/x")]);
    }

    #[test]
    fn what_only_a_shell_could_do_is_refused_with_its_place() {
        let check = |text: &str, expected: &str| {
            let error = exports("s.sh", text, &mut Vec::new()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("\nexport A=$(date)", "s.sh:2:10: `$` stands for");
        check("export A=\"${B}\"", "s.sh:1:11: `$` stands for");
        check("export A=~/x", "s.sh:1:10: `~` stands for a folder");
        check("export A=/x:~/y", "s.sh:1:13: `~` stands for a folder");
        check("if true; then", "s.sh:1:8: `;` is an instruction");
        check("echo hi", "s.sh:1:1: `echo` is no assignment");
        check("export A='x", "s.sh:1:10: the quote ' is not closed");
        check("A-B=1", "`A-B` is no name");
    }

    #[test]
    fn values_have_their_places_and_old_names_give_notices() {
        let mut warnings = Vec::new();
        let text = "export LLMDBENCH_VLLM_COMMON_REPLICAS=2\nexport LLMDBENCH_EPP_LOAD_AWARE_SCORER_WEIGHT=1.0\nexport LLMDBENCH_VLLM_COMON_GPU_NR=2\nexport OTHER=1";
        let layer = exports("s.sh", text, &mut warnings).unwrap();
        assert_eq!(layer.get("/vllm/common/replicas"), Some(&serde_json::json!(2)));
        assert_eq!(layer.place("/vllm/common/replicas"), "s.sh:1:8");
        let weight = layer.get("/vllm/deployer/epp_load_aware_scorer_weight");
        assert_eq!(weight, Some(&serde_json::json!("1.0")));
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(warnings[0].starts_with("s.sh:2:8: LLMDBENCH_EPP_LOAD"), "{warnings:?}");
        assert!(warnings[1].contains("the nearest name is LLMDBENCH_VLLM_COMMON_GPU_NR"));
        assert!(warnings[2].contains("OTHER is no variable"));
    }
}
