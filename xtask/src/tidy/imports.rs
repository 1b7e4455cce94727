//! Who may know whom: the crates by their manifests, the modules of worker by their paths.
//! The tables at the end are the architecture; a new edge starts with a change there.

use super::Finding;
use super::SourceFile;
use super::Tree;
use super::scan;
use toml::Table;
use toml::Value;

pub(crate) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    check_manifests(tree, findings);
    for file in tree.with_extension("rs").filter(|file| file.path.starts_with("worker/src/")) {
        check_siblings(file, findings);
        check_session(file, findings);
    }
}

fn check_manifests(tree: &Tree, findings: &mut Vec<Finding>) {
    let manifests: Vec<_> =
        tree.files.iter().filter(|file| file.path.ends_with("Cargo.toml")).collect();
    let mut packages = Vec::new();
    for file in manifests {
        match file.text.parse::<Table>() {
            Ok(manifest) => {
                if let Some(name) = package_name(&manifest) {
                    packages.push((file, name, manifest));
                }
            }
            Err(error) => findings.push(Finding {
                path: file.path.clone(),
                line: 1,
                what: format!("not valid TOML: {}", error.message()),
                fix: "repair the manifest".to_owned(),
            }),
        }
    }
    for (file, name, manifest) in &packages {
        if FREE.contains(&name.as_str()) {
            continue;
        }
        let Some((_, allowed)) = ALLOWED.iter().find(|(member, _)| member == name) else {
            findings.push(Finding {
                path: file.path.clone(),
                line: 1,
                what: format!("crate {name} is not in the import table"),
                fix: "make it a module of a crate, or add it to the table of xtask".to_owned(),
            });
            continue;
        };
        for (kind, dependency) in dependencies(manifest) {
            let ours = packages.iter().any(|(_, other, _)| *other == dependency);
            let for_tests = kind == "dev-dependencies" && FOR_TESTS.contains(&dependency.as_str());
            if ours && !for_tests && !allowed.contains(&dependency.as_str()) {
                findings.push(Finding {
                    path: file.path.clone(),
                    line: line_with(&file.text, &dependency),
                    what: format!("crate {name} depends on {dependency}"),
                    fix: format!("{name} may know {}", listed(allowed)),
                });
            }
        }
    }
}

fn package_name(manifest: &Table) -> Option<String> {
    manifest.get("package")?.get("name")?.as_str().map(str::to_owned)
}

/// All dependencies as (kind, package name): normal, development, build, and those for one target.
fn dependencies(manifest: &Table) -> Vec<(&'static str, String)> {
    let mut names = Vec::new();
    for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let tables = std::iter::once(manifest).chain(targets(manifest));
        for table in tables.filter_map(|table| table.get(kind)?.as_table()) {
            for (key, value) in table {
                let package = value.get("package").and_then(Value::as_str);
                names.push((kind, package.unwrap_or(key).to_owned()));
            }
        }
    }
    names
}

fn targets(manifest: &Table) -> impl Iterator<Item = &Table> {
    let targets = manifest.get("target").and_then(Value::as_table);
    targets.into_iter().flat_map(|targets| targets.values().filter_map(Value::as_table))
}

/// Worker's modules are composed by `step` and `trainer`; they do not know one another.
fn check_siblings(file: &SourceFile, findings: &mut Vec<Finding>) {
    let inside = file.path.strip_prefix("worker/src/").unwrap_or_default();
    let own = inside.split('/').next().unwrap_or_default().trim_end_matches(".rs");
    if !SIBLINGS.contains(&own) {
        return;
    }
    // In the module's first file `super` is the crate; in its other files one more is needed.
    let is_first = !inside.contains('/') || inside == format!("{own}/mod.rs");
    let to_crate = if is_first { "super::" } else { "super::super::" };
    for (at, segment) in root_segments(&file.code, to_crate) {
        if segment != own && SIBLINGS.contains(&segment) {
            findings.push(Finding {
                path: file.path.clone(),
                line: scan::line_of(&file.code, at),
                what: format!("module {own} of worker imports its sibling {segment}"),
                fix: "pass the value in from step.rs or trainer.rs".to_owned(),
            });
        }
    }
}

/// First path segments below the crate root: of `crate::a`, and of each entry of `crate::{a, b}`.
fn root_segments<'a>(code: &'a str, to_crate: &str) -> Vec<(usize, &'a str)> {
    let mut segments = Vec::new();
    for prefix in ["crate::", to_crate] {
        for (start, _) in code.match_indices(prefix) {
            let longer = code[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            let after = start + prefix.len();
            if longer {
                continue;
            }
            if code[after..].starts_with('{') {
                let group = scan::body(code, after).unwrap_or(after..code.len());
                segments.extend(group_heads(&code[group.clone()], group.start));
            } else if let Some((offset, word)) = scan::words(&code[after..]).next()
                && offset == 0
            {
                segments.push((after, word));
            }
        }
    }
    segments
}

/// The first word of each entry of `{a::x, b::{c, d}}`: a and b.
fn group_heads(group: &str, base: usize) -> Vec<(usize, &str)> {
    let mut heads = Vec::new();
    for (at, word) in scan::words(group) {
        let before = group[..at].trim_end();
        let depth = before.matches('{').count() - before.matches('}').count();
        if depth == 1 && before.ends_with(['{', ',']) {
            heads.push((base + at, word));
        }
    }
    heads
}

/// Only the session talks to the coordinator, so only it knows the wire library.
fn check_session(file: &SourceFile, findings: &mut Vec<Finding>) {
    let path = file.path.as_str();
    if path.starts_with("worker/src/session/") || SPEAKERS.contains(&path) {
        return;
    }
    let wire =
        scan::words(&file.code).find(|(_, word)| *word == "tonic" || word.starts_with("tonic_"));
    if let Some((at, word)) = wire {
        findings.push(Finding {
            path: path.to_owned(),
            line: scan::line_of(&file.code, at),
            what: format!("mentions {word}"),
            fix: "only worker/src/session knows tonic, move the call there".to_owned(),
        });
    }
}

fn line_with(text: &str, key: &str) -> usize {
    text.lines().position(|line| line.trim_start().starts_with(key)).map_or(1, |line| line + 1)
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() {
        "no crate of ours".to_owned()
    } else {
        format!("only {}", names.join(", "))
    }
}

/// Crate, and the crates of ours that it may know. Also holds for tests and build scripts.
const ALLOWED: [(&str, &[&str]); 7] = [
    ("coordinator", &["dataset", "proto"]),
    ("cuda-mock", &[]),
    ("worker", &["kernels", "dataset", "proto"]),
    ("dataset", &[]),
    ("kernels", &[]),
    ("proto", &[]),
    ("simulator", &["coordinator", "dataset", "proto", "worker"]),
];
/// Any crate's tests may use these, and nothing else of it.
const FOR_TESTS: [&str; 1] = ["cuda-mock"];
const FREE: [&str; 3] = ["cluster-fuzz", "cluster-tests", "xtask"];
const SIBLINGS: [&str; 5] = ["data", "model", "collective", "optim", "checkpoint"];
const SPEAKERS: [&str; 2] = ["worker/src/session.rs", "worker/src/main.rs"];
