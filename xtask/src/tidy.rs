//! The rules of the house that no compiler checks, each as a function from the tree to findings.
//! Knows the repository's layout; formatting and lints belong to rustfmt and clippy.
//!
//! * `imports`: which crate, and which module of worker, may know which.
//! * `source`: module docs, sizes, names, left-over markers, `forbid(unsafe_code)`.
//! * `protocol`: every message has a use, every field has a comment.
//! * `budget`: product lines per crate.

use anyhow::Context;
use anyhow::Result;
use std::fmt;
use std::fs;
use std::path::Path;

mod budget;
mod imports;
mod protocol;
mod scan;
mod source;

/// Reads the tree below `root` and applies every rule.
pub(crate) fn check(root: &Path) -> Result<Report> {
    let mut tree = Tree::default();
    tree.load(root, "")?;
    Ok(check_tree(&tree))
}

pub(crate) fn check_tree(tree: &Tree) -> Report {
    let mut findings = Vec::new();
    imports::check(tree, &mut findings);
    source::check(tree, &mut findings);
    protocol::check(tree, &mut findings);
    findings.sort();
    Report { findings, budget: budget::table(tree) }
}

/// What `cargo xtask tidy` prints.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) findings: Vec<Finding>,
    pub(crate) budget: String,
}

/// One broken rule at one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) path: String,
    /// Counted from 1.
    pub(crate) line: usize,
    pub(crate) what: String,
    pub(crate) fix: String,
}

/// The files that the rules look at.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) files: Vec<SourceFile>,
}

/// A text file; paths are relative to the root, with `/`.
#[derive(Debug)]
pub(crate) struct SourceFile {
    pub(crate) path: String,
    pub(crate) text: String,
    /// For Rust: the text with comments and literals blanked out, lines and columns kept.
    pub(crate) code: String,
}

impl Tree {
    pub(crate) fn add(&mut self, path: &str, text: &str) {
        let code = if path.ends_with(".rs") { scan::blank(text) } else { String::new() };
        self.files.push(SourceFile { path: path.to_owned(), text: text.to_owned(), code });
    }

    pub(crate) fn with_extension(&self, extension: &str) -> impl Iterator<Item = &SourceFile> {
        self.files.iter().filter(move |file| {
            file.path.rsplit_once('.').is_some_and(|(_, ending)| ending == extension)
        })
    }

    /// Hidden folders hold no product, `target` and `runs` are outputs. Links are not followed.
    fn load(&mut self, folder: &Path, prefix: &str) -> Result<()> {
        let listing = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
        let mut entries = listing.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            let kind = entry.file_type()?;
            if kind.is_dir() && !name.starts_with('.') && !OUTPUTS.contains(&name.as_str()) {
                self.load(&entry.path(), &format!("{path}/"))?;
            } else if kind.is_file() && READ.iter().any(|ending| name.ends_with(ending)) {
                let text =
                    fs::read_to_string(entry.path()).with_context(|| format!("read {path}"))?;
                self.add(&path, &text);
            }
        }
        Ok(())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}; fix: {}", self.path, self.line, self.what, self.fix)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.budget)?;
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        match self.findings.len() {
            0 => writeln!(f, "tidy: nothing to fix"),
            count => writeln!(f, "tidy: {count} to fix"),
        }
    }
}

const OUTPUTS: [&str; 2] = ["target", "runs"];
const READ: [&str; 5] = [".rs", ".proto", ".cu", ".cuh", "Cargo.toml"];

#[cfg(test)]
mod tests;
