//! The protocol is a document without dead entries: every message, enum and call is used, and each
//! of them and every field carries a comment. Reads the `.proto` text line by line, one declaration
//! per line; protox checks the syntax.

use super::Finding;
use super::SourceFile;
use super::Tree;
use super::scan;
use std::collections::HashSet;

pub(crate) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    let uses = Uses::collect(tree);
    for file in tree.with_extension("proto").filter(|file| file.path.starts_with(PROTO_FOLDER)) {
        for declaration in declarations(&file.text) {
            check_declaration(file, &declaration, &uses, findings);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Message,
    Enum,
    Rpc,
    Field,
}

#[derive(Debug)]
struct Declaration<'a> {
    kind: Kind,
    name: &'a str,
    line: usize,
    has_comment: bool,
}

/// What hand-written Rust code mentions.
struct Uses<'a> {
    words: HashSet<&'a str>,
    /// `f` of `fn f`: a service that answers.
    defined: HashSet<&'a str>,
    /// `f` of `.f(`: a client that asks.
    called: HashSet<&'a str>,
}

impl Uses<'_> {
    fn collect(tree: &Tree) -> Uses<'_> {
        let mut uses =
            Uses { words: HashSet::new(), defined: HashSet::new(), called: HashSet::new() };
        for file in tree.with_extension("rs").filter(|file| !file.path.contains("/generated/")) {
            let mut previous = "";
            for (at, word) in scan::words(&file.code) {
                uses.words.insert(word);
                if previous == "fn" {
                    uses.defined.insert(word);
                }
                let (before, after) = (&file.code[..at], &file.code[at + word.len()..]);
                if before.ends_with('.') && after.starts_with('(') {
                    uses.called.insert(word);
                }
                previous = word;
            }
        }
        uses
    }
}

fn check_declaration(
    file: &SourceFile,
    declaration: &Declaration<'_>,
    uses: &Uses<'_>,
    findings: &mut Vec<Finding>,
) {
    let Declaration { kind, name, line, has_comment } = *declaration;
    let word = match kind {
        Kind::Message => "message",
        Kind::Enum => "enum",
        Kind::Rpc => "rpc",
        Kind::Field => "field",
    };
    let mut report = |what: String, fix: &str| {
        findings.push(Finding { path: file.path.clone(), line, what, fix: fix.to_owned() });
    };
    if !has_comment {
        report(format!("{word} {name} has no comment"), "say what it means and in which unit");
    }
    match kind {
        Kind::Message | Kind::Enum if !uses.words.contains(camel_case(name).as_str()) => {
            report(format!("{word} {name} is used nowhere in Rust"), "use it or remove it");
        }
        Kind::Rpc if !uses.defined.contains(snake_case(name).as_str()) => {
            report(format!("rpc {name} is answered nowhere"), "implement it or remove it");
        }
        Kind::Rpc if !uses.called.contains(snake_case(name).as_str()) => {
            report(format!("rpc {name} is called nowhere"), "call it or remove it");
        }
        _ => {}
    }
}

fn declarations(text: &str) -> Vec<Declaration<'_>> {
    let mut found = Vec::new();
    let mut blocks: Vec<&str> = Vec::new();
    let mut comment_above = false;
    let mut inside_comment = false;
    for (index, full) in text.lines().enumerate() {
        let (code, has_own) = split_comment(full, &mut inside_comment);
        let mut parts = code.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        let mut parts = parts.by_ref().filter(|part| !part.is_empty());
        let (head, second) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let kind = match (head, blocks.last()) {
            ("message", _) => Some((Kind::Message, second)),
            ("enum", _) => Some((Kind::Enum, second)),
            ("rpc", Some(&"service")) => Some((Kind::Rpc, second)),
            ("option" | "reserved" | "extensions", _) => None,
            (_, Some(&("message" | "oneof"))) => field_name(code).map(|name| (Kind::Field, name)),
            _ => None,
        };
        if let Some((kind, name)) = kind {
            let has_comment = has_own || comment_above;
            found.push(Declaration { kind, name, line: index + 1, has_comment });
        }
        for character in code.chars() {
            match character {
                '{' => blocks.push(head),
                '}' => drop(blocks.pop()),
                _ => {}
            }
        }
        comment_above = has_own && code.trim().is_empty();
    }
    found
}

/// The code of a line, and whether it holds a comment with text.
fn split_comment<'a>(line: &'a str, inside_block: &mut bool) -> (&'a str, bool) {
    if *inside_block {
        *inside_block = !line.contains("*/");
        return ("", true);
    }
    let Some(start) = line.find("//").into_iter().chain(line.find("/*")).min() else {
        return (line, false);
    };
    let comment = &line[start..];
    *inside_block = comment.starts_with("/*") && !comment.contains("*/");
    (&line[..start], comment.contains(char::is_alphanumeric) || *inside_block)
}

/// `name` of `type name = 1;`, also with options behind the number.
fn field_name(code: &str) -> Option<&str> {
    let (before, number) = code.split_once('=')?;
    let is_number = number.trim_start().starts_with(|c: char| c.is_ascii_digit());
    before.split_whitespace().last().filter(|_| is_number)
}

/// prost's spelling: `TLSConfig` is `TlsConfig` in Rust.
fn camel_case(name: &str) -> String {
    let parts = snake_case(name);
    let capitalise = |part: &str| {
        let (first, rest) = part.split_at(part.len().min(1));
        first.to_uppercase() + rest
    };
    parts.split('_').map(capitalise).collect()
}

/// A word begins at a capital after a small letter or digit, or before a small letter.
fn snake_case(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut snake = String::new();
    for (i, letter) in letters.iter().enumerate() {
        let after_small = i > 0 && !letters[i - 1].is_uppercase() && letters[i - 1] != '_';
        let after_capital = i > 0 && letters[i - 1].is_uppercase();
        let before_small = letters.get(i + 1).is_some_and(|next| next.is_lowercase());
        if letter.is_uppercase() && (after_small || after_capital && before_small) {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

const PROTO_FOLDER: &str = "proto/cluster/";
