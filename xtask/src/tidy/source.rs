//! Rules about single Rust files: they say what they are, stay small, are named by content, carry no
//! left-over, and write to disk where crash tests see it.

use super::Finding;
use super::SourceFile;
use super::Tree;
use super::scan;

pub(crate) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    for file in tree.with_extension("rs") {
        check_module_doc(file, findings);
        check_length(file, findings);
        check_names(file, findings);
        check_markers(file, findings);
        check_functions(file, findings);
        check_disk(file, findings);
    }
    check_roots(tree, findings);
}

fn check_module_doc(file: &SourceFile, findings: &mut Vec<Finding>) {
    let doc = file.text.lines().next().and_then(|line| line.strip_prefix("//!"));
    if doc.is_none_or(|doc| doc.split_whitespace().count() < DOC_WORDS_MIN) {
        findings.push(Finding {
            path: file.path.clone(),
            line: 1,
            what: "does not open with a module doc".to_owned(),
            fix: "start with `//!`: what it is, and what it deliberately does not know".to_owned(),
        });
    }
}

fn check_length(file: &SourceFile, findings: &mut Vec<Finding>) {
    let count = file.text.lines().count();
    if count > FILE_LINES_MAX {
        findings.push(Finding {
            path: file.path.clone(),
            line: FILE_LINES_MAX + 1,
            what: format!("has {count} lines, the limit is {FILE_LINES_MAX}"),
            fix: "split it by concern".to_owned(),
        });
    }
}

fn check_names(file: &SourceFile, findings: &mut Vec<Finding>) {
    let stem = file.path.trim_end_matches(".rs");
    for part in stem.split('/').filter(|part| DRAWERS.contains(part)) {
        findings.push(drawer(file, 1, part));
    }
    let words: Vec<_> = scan::words(&file.code).collect();
    for pair in words.windows(2) {
        let ((at, keyword), (_, name)) = (pair[0], pair[1]);
        if keyword == "mod" && DRAWERS.contains(&name) {
            findings.push(drawer(file, scan::line_of(&file.code, at), name));
        }
    }
}

fn drawer(file: &SourceFile, line: usize, name: &str) -> Finding {
    Finding {
        path: file.path.clone(),
        line,
        what: format!("\"{name}\" is a name for anything"),
        fix: "name it by what it holds".to_owned(),
    }
}

fn check_markers(file: &SourceFile, findings: &mut Vec<Finding>) {
    let notes = scan::words(&file.text).filter(|(_, word)| NOTES.contains(word));
    let macros = scan::words(&file.code).filter(|(at, word)| {
        MACROS.contains(word) && file.code[at + word.len()..].starts_with('!')
    });
    for (at, word) in notes.chain(macros) {
        findings.push(Finding {
            path: file.path.clone(),
            line: scan::line_of(&file.text, at),
            what: format!("left-over {word}"),
            fix: "do it, or describe the limit and why it is one".to_owned(),
        });
    }
}

fn check_functions(file: &SourceFile, findings: &mut Vec<Finding>) {
    let lines: Vec<_> = file.text.lines().collect();
    for function in scan::functions(&file.code) {
        let length = function.lines.len();
        if length > FUNCTION_LINES_MAX && !is_excused(&lines[..function.lines.start]) {
            findings.push(Finding {
                path: file.path.clone(),
                line: function.lines.start + 1,
                what: format!(
                    "function {} has {length} lines, the limit is {FUNCTION_LINES_MAX}",
                    function.name
                ),
                fix: "split it, or put `// long: <reason>` above it".to_owned(),
            });
        }
    }
}

/// Whether the comments and attributes right above a function hold `long:` and a reason.
fn is_excused(above: &[&str]) -> bool {
    above
        .iter()
        .rev()
        .map(|line| line.trim())
        .take_while(|line| line.starts_with("//") || line.starts_with("#["))
        .filter_map(|line| line.strip_prefix("//")?.split_once("long:"))
        .any(|(_, reason)| !reason.trim().is_empty())
}

/// What the coordinator changes on disk is swept by crash tests, which see what goes through its `disk` alone.
fn check_disk(file: &SourceFile, findings: &mut Vec<Finding>) {
    let path = file.path.as_str();
    let of_tests =
        path.contains("/tests") || path.contains("/src/disk/") || path.ends_with("/crashes.rs");
    if !path.starts_with("coordinator/src/") || of_tests || OWN_WRITERS.contains(&path) {
        return;
    }
    for call in DISK_CALLS {
        let own = |at: &usize| !file.code[..*at].ends_with(|c: char| c.is_alphanumeric());
        for (at, _) in file.code.match_indices(call).filter(|(at, _)| own(at)) {
            findings.push(Finding {
                path: file.path.clone(),
                line: scan::line_of(&file.code, at),
                what: format!("calls {call} past coordinator/src/disk.rs"),
                fix: "use the operation of that module, so that crash tests see it".to_owned(),
            });
        }
    }
}

fn check_roots(tree: &Tree, findings: &mut Vec<Finding>) {
    for file in tree.with_extension("rs") {
        let Some((member, inside)) = file.path.split_once("/src/") else { continue };
        let is_root = matches!(inside, "lib.rs" | "main.rs") || inside.starts_with("bin/");
        if !is_root || !SAFE_CRATES.contains(&member) {
            continue;
        }
        let code: String = file.code.split_whitespace().collect();
        if !code.contains("#![forbid(unsafe_code)]") {
            findings.push(Finding {
                path: file.path.clone(),
                line: 1,
                what: format!("crate {member} does not forbid unsafe code"),
                fix: "add `#![forbid(unsafe_code)]` below the module doc".to_owned(),
            });
        }
    }
}

const DISK_CALLS: [&str; 7] = [
    "fs::write(",
    "fs::rename(",
    "fs::remove_",
    "fs::create_dir",
    "fs::copy(",
    "File::create",
    "OpenOptions::new",
];
/// The module itself, the lock, which holds nothing, and what worker processes write of themselves.
const OWN_WRITERS: [&str; 4] = [
    "coordinator/src/disk.rs",
    "coordinator/src/state.rs",
    "coordinator/src/local/crew.rs",
    "coordinator/src/chaos/cast.rs",
];
const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
/// Fewer words cannot say what a file is.
const DOC_WORDS_MIN: usize = 3;
const DRAWERS: [&str; 7] = ["utils", "util", "common", "base", "helpers", "helper", "misc"];
/// Cut in two, because this file is checked too.
const NOTES: [&str; 4] =
    [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];
const MACROS: [&str; 3] = ["todo", "dbg", "unimplemented"];
const SAFE_CRATES: [&str; 3] = ["coordinator", "dataset", "proto"];
