//! How large the product is: lines per crate, tests apart. Knows no limit; the table is for people.

use super::SourceFile;
use super::Tree;
use super::scan;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Lines of one crate.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lines {
    pub(crate) product: usize,
    pub(crate) tests: usize,
}

/// Rust, CUDA and proto lines by top folder; blank lines and comments count.
pub(crate) fn table(tree: &Tree) -> String {
    let mut text = format!("{:<14}{:>9}{:>9}\n", "lines", "product", "tests");
    let mut total = Lines::default();
    let mut row = |name: &str, lines: Lines| {
        writeln!(text, "{name:<14}{:>9}{:>9}", lines.product, lines.tests)
            .expect("a string takes any text");
    };
    for (member, lines) in count(tree) {
        row(&member, lines);
        total.product += lines.product;
        total.tests += lines.tests;
    }
    row("total", total);
    text
}

pub(crate) fn count(tree: &Tree) -> BTreeMap<String, Lines> {
    let mut members = BTreeMap::<String, Lines>::new();
    for extension in ["rs", "proto", "cu", "cuh"] {
        for file in tree.with_extension(extension) {
            let Some((member, inside)) = file.path.split_once('/') else { continue };
            let all = file.text.lines().count();
            let tests = if member == "tests" || is_test_file(inside) { all } else { inline(file) };
            let lines = members.entry(member.to_owned()).or_default();
            lines.product += all - tests;
            lines.tests += tests;
        }
    }
    members
}

fn is_test_file(inside: &str) -> bool {
    inside.trim_end_matches(".rs").split('/').any(|part| matches!(part, "tests" | "benches"))
}

/// Lines of `#[cfg(test)] mod name { ... }` blocks.
fn inline(file: &SourceFile) -> usize {
    let starts = file.code.match_indices("#[cfg(test)]");
    let blocks = starts.filter_map(|(start, attribute)| {
        let item = start + attribute.len();
        let is_module =
            scan::words(&file.code[item..]).next().is_some_and(|(_, word)| word == "mod");
        let body = scan::body(&file.code, item).filter(|_| is_module)?;
        Some(scan::line_of(&file.code, body.end - 1) + 1 - scan::line_of(&file.code, start))
    });
    blocks.sum()
}
