//! Each rule catches a violation on a synthetic tree, at the right line, and leaves good code alone.

use super::Finding;
use super::Tree;
use super::check;
use super::check_tree;
use super::scan;
use std::fs;

const DOC: &str = "//! What this file is.\n";

#[test]
fn a_good_tree_has_no_findings() {
    let findings = findings(&[
        ("dataset/src/lib.rs", "//! Reads all the data.\n#![forbid(unsafe_code)]\npub fn a() {}\n"),
        ("dataset/Cargo.toml", "[package]\nname = \"dataset\"\n"),
        ("worker/Cargo.toml", "[package]\nname = \"worker\"\n[dependencies]\ndataset = {}\n"),
        ("worker/src/session.rs", "//! Talks to the coordinator.\nuse tonic::Status;\n"),
        (
            "worker/src/model/a.rs",
            "//! Layers of a model.\nuse crate::model::b;\nuse kernels::data;\n",
        ),
    ]);
    assert_eq!(findings, []);
}

#[test]
fn an_edge_outside_the_import_table_is_found_in_every_kind_of_dependency() {
    for (section, key) in [
        ("[dependencies]", "worker = { path = \"../worker\" }"),
        ("[dev-dependencies]", "worker.workspace = true"),
        ("[build-dependencies]", "worker = \"*\""),
        ("[target.'cfg(unix)'.dependencies]", "worker.workspace = true"),
        ("[dependencies]", "other = { path = \"../worker\", package = \"worker\" }"),
    ] {
        let manifest = format!("[package]\nname = \"coordinator\"\n{section}\n{key}\n");
        let findings = findings(&[
            ("coordinator/Cargo.toml", &manifest),
            ("worker/Cargo.toml", "[package]\nname = \"worker\"\n"),
        ]);
        assert_eq!(whats(&findings), ["crate coordinator depends on worker"], "{section} {key}");
        assert_eq!(findings[0].fix, "coordinator may know only dataset, proto");
    }
}

#[test]
fn a_write_past_the_coordinators_disk_module_is_found() {
    let text = "//! Writes a thing or two.\nfn a() {\n    std::fs::write(b, c);\n    DiskFile::create(b);\n}\n";
    let found = findings(&[
        ("coordinator/src/thing.rs", text),
        ("coordinator/src/disk.rs", text),
        ("coordinator/src/thing/tests.rs", text),
        ("worker/src/thing.rs", text),
    ]);
    assert_eq!(whats(&found), ["calls fs::write( past coordinator/src/disk.rs"]);
    assert_eq!((found[0].path.as_str(), found[0].line), ("coordinator/src/thing.rs", 3));
}

#[test]
fn the_edge_is_reported_at_its_line_and_libraries_are_free() {
    let findings = findings(&[
        (
            "kernels/Cargo.toml",
            "[package]\nname = \"kernels\"\n[dependencies]\nrayon = \"1\"\nproto = {}\n",
        ),
        ("proto/Cargo.toml", "[package]\nname = \"proto\"\n"),
        ("tests/Cargo.toml", "[package]\nname = \"cluster-tests\"\n[dependencies]\nproto = {}\n"),
    ]);
    assert_eq!(places(&findings), ["kernels/Cargo.toml:5"]);
    assert_eq!(findings[0].fix, "kernels may know no crate of ours");
}

#[test]
fn the_mock_gpu_is_for_tests_alone() {
    let with = |kind: &str| {
        let kernels = format!("[package]\nname = \"kernels\"\n[{kind}]\ncuda-mock = {{}}\n");
        let mock = "[package]\nname = \"cuda-mock\"\n";
        places(&findings(&[("kernels/Cargo.toml", &kernels), ("cuda-mock/Cargo.toml", mock)]))
    };
    assert!(with("dev-dependencies").is_empty());
    assert_eq!(with("dependencies"), ["kernels/Cargo.toml:4"]);
    assert_eq!(with("build-dependencies"), ["kernels/Cargo.toml:4"]);
}

#[test]
fn a_crate_outside_the_table_and_a_broken_manifest_are_found() {
    let findings = findings(&[
        ("engine/Cargo.toml", "[package]\nname = \"engine\"\n"),
        ("proto/Cargo.toml", "[package\n"),
    ]);
    assert_eq!(findings[0].what, "crate engine is not in the import table");
    assert!(findings[1].what.starts_with("not valid TOML"), "{}", findings[1].what);
}

#[test]
fn a_sibling_import_inside_worker_is_found_in_each_spelling() {
    for (path, import) in [
        ("worker/src/data.rs", "use crate::model::Resnet;"),
        ("worker/src/data/loader.rs", "use crate::{args::Args, model};"),
        (
            "worker/src/data/loader.rs",
            "use crate::{\n    args::{Args, Mode},\n    model::Resnet,\n};",
        ),
        ("worker/src/data.rs", "use super::model::Resnet;"),
        ("worker/src/data/loader.rs", "use super::super::model;"),
        ("worker/src/data/loader.rs", "fn f() {\n    crate::model::go()\n}"),
    ] {
        let findings = findings(&[(path, &format!("{DOC}{import}\n"))]);
        assert_eq!(
            whats(&findings),
            ["module data of worker imports its sibling model"],
            "{import}"
        );
    }
}

#[test]
fn imports_that_are_no_siblings_are_left_alone() {
    for import in [
        "use crate::data::Batch;",
        "use super::model_data;",
        "use crate::{args::{model, optim}};",
        "use dataset::data::model;",
        "// use crate::model;",
        "const A: &str = \"crate::model\";",
        "use crate::modelling;",
    ] {
        assert_eq!(findings(&[("worker/src/data/a.rs", &format!("{DOC}{import}\n"))]), []);
    }
    // The composing files may know all of them.
    let step = format!("{DOC}use crate::data;\nuse crate::model;\n");
    assert_eq!(findings(&[("worker/src/step.rs", &step)]), []);
}

#[test]
fn the_wire_library_outside_the_session_is_found() {
    let text = format!("{DOC}// tonic\nuse tonic::Status;\n");
    for found in ["worker/src/trainer.rs", "worker/src/session_clock.rs"] {
        assert_eq!(places(&findings(&[(found, &text)])), [format!("{found}:3")]);
    }
    for allowed in ["worker/src/session/plan.rs", "worker/src/main.rs", "tests/src/peer.rs"] {
        assert_eq!(findings(&[(allowed, &text)]), []);
    }
}

#[test]
fn a_file_without_module_doc_is_found() {
    for text in ["", "use a;\n", "// What this file is.\n", "//! .\n", "\n//! What this file is.\n"]
    {
        let findings = findings(&[("kernels/src/a.rs", text)]);
        assert_eq!(whats(&findings), ["does not open with a module doc"], "{text:?}");
    }
}

#[test]
fn a_root_that_does_not_forbid_unsafe_code_is_found() {
    for path in ["proto/src/lib.rs", "dataset/src/lib.rs", "coordinator/src/main.rs"] {
        let commented = format!("{DOC}// #![forbid(unsafe_code)]\n");
        assert_eq!(findings(&[(path, &commented)]).len(), 1, "{path}");
    }
    assert_eq!(findings(&[("kernels/src/lib.rs", DOC), ("proto/src/job.rs", DOC)]), []);
}

#[test]
fn a_long_file_is_found() {
    let lines = |count: usize| format!("{DOC}{}", "// x\n".repeat(count - 1));
    assert_eq!(findings(&[("kernels/src/a.rs", &lines(600))]), []);
    let findings = findings(&[("kernels/src/a.rs", &lines(601))]);
    assert_eq!(whats(&findings), ["has 601 lines, the limit is 600"]);
}

#[test]
fn names_for_anything_are_found_in_paths_and_modules() {
    for name in ["utils", "common", "base", "helpers", "misc"] {
        for path in [format!("proto/src/{name}.rs"), format!("tests/{name}/mod.rs")] {
            assert_eq!(findings(&[(&path, DOC)]).len(), 1, "{path}");
        }
        let module = format!("{DOC}mod a;\npub mod {name};\n");
        assert_eq!(places(&findings(&[("proto/src/a.rs", &module)])), ["proto/src/a.rs:3"]);
    }
    assert_eq!(findings(&[("proto/src/a.rs", &format!("{DOC}fn f(base: u32) {{}}\n"))]), []);
}

#[test]
fn left_over_markers_are_found() {
    for marker in [
        concat!("// TO", "DO: later"),
        concat!("/* FIX", "ME */"),
        concat!("// XX", "X"),
        concat!("const A: &str = \"HA", "CK\";"),
        concat!("to", "do!();"),
        concat!("db", "g!(x);"),
        concat!("unimple", "mented!();"),
    ] {
        let findings = findings(&[("kernels/src/a.rs", &format!("{DOC}{marker}\n"))]);
        assert_eq!(places(&findings), ["kernels/src/a.rs:2"], "{marker}");
    }
    for fine in ["// XXXXXX", "fn todo_list() {}", "// not a dbg! call"] {
        assert_eq!(findings(&[("kernels/src/a.rs", &format!("{DOC}{fine}\n"))]), []);
    }
}

#[test]
fn a_long_function_is_found_unless_it_gives_a_reason() {
    let body = "    x();\n".repeat(69);
    let long = format!("pub fn long<T: Fn()>(a: [u8; 3]) -> Vec<T> {{\n{body}}}\n");
    let found = findings(&[("kernels/src/a.rs", &format!("{DOC}{long}"))]);
    assert_eq!(places(&found), ["kernels/src/a.rs:2"]);
    assert_eq!(found[0].what, "function long has 71 lines, the limit is 70");

    let with = |above: &str| findings(&[("kernels/src/a.rs", &format!("{DOC}{above}\n{long}"))]);
    assert_eq!(with("// long: a flat match over all ops"), []);
    assert_eq!(with("// long: a flat match\n#[inline]\n/// Doc."), []);
    assert_eq!(with("// long:").len(), 1);
    assert_eq!(with("// long: a reason for another item\nconst A: u32 = 1;\n").len(), 1);
    assert_eq!(
        findings(&[("kernels/src/a.rs", &format!("{DOC}{}", long.replacen("    x();\n", "", 1)))]),
        []
    );
}

#[test]
fn braces_in_literals_and_comments_do_not_end_a_function() {
    let code = scan::blank(
        "fn a<'a>(c: &'a str) {\n  '{'; '\\''; '\\u{7b}'; b'}'; \"}\\\"}\"; r#\"}\"}\"#; br\"}\"; /* } /* } */ */ // }\n}\n\
         fn b();\nfn r#type() {}\nlet f: fn(u32) = g;\nfn é() { 'é'; '}' }\n",
    );
    let functions: Vec<_> = scan::functions(&code).into_iter().map(|f| (f.name, f.lines)).collect();
    let expected = [("a", 0..3), ("r", 4..5), ("é", 6..7)];
    assert_eq!(functions, expected.map(|(name, lines)| (name.to_owned(), lines)));
}

#[test]
fn blanking_keeps_every_line_and_column() {
    let text = "a \"x\ny\" b // c\n/* d\n */ e 'f' g r\"h\" \"";
    let blanked = scan::blank(text);
    assert_eq!(blanked, "a   \n   b     \n    \n    e     g       ");
    assert_eq!(blanked.len(), text.len());
}

const PROTO: &str = "\
// The cluster's words.
service Workers {
  // Joins a cluster.
  rpc Join(stream Report) returns (stream Plan);
}
// What a worker says.
message Report {
  // Since the start.
  uint64 step = 1;
  oneof kind {
    Plan plan = 2; // An answer.
  }
  reserved 3, 4;
}
message Plan {} // What is asked.
/* How it
   stands. */
enum RunState {
  RUN_STATE_UNSPECIFIED = 0;
}
";
const USES: &str =
    "//! Uses all of it.\nfn f() { Report; Plan; RunState; c.join(r) }\nfn join() {}\n";

#[test]
fn a_protocol_that_is_used_and_commented_has_no_findings() {
    assert_eq!(with_proto(PROTO, USES), []);
}

#[test]
fn a_declaration_without_comment_is_found() {
    for (comment, what, line) in [
        ("  // Joins a cluster.\n", "rpc Join has no comment", 3),
        ("// What a worker says.\n", "message Report has no comment", 6),
        ("  // Since the start.\n", "field step has no comment", 8),
        (" // An answer.", "field plan has no comment", 11),
        (" // What is asked.", "message Plan has no comment", 15),
        ("/* How it\n   stands. */\n", "enum RunState has no comment", 16),
    ] {
        let findings = with_proto(&PROTO.replace(comment, ""), USES);
        assert_eq!(whats(&findings), [what]);
        assert_eq!(findings[0].line, line, "{what}");
    }
}

#[test]
fn a_declaration_without_use_is_found() {
    for (usage, what) in [
        ("Report;", "message Report is used nowhere in Rust"),
        ("Plan;", "message Plan is used nowhere in Rust"),
        ("RunState;", "enum RunState is used nowhere in Rust"),
        ("c.join(r)", "rpc Join is called nowhere"),
        ("fn join() {}", "rpc Join is answered nowhere"),
    ] {
        assert_eq!(whats(&with_proto(PROTO, &USES.replace(usage, ""))), [what]);
        // Neither a comment nor generated code is a use.
        let commented = USES.replace(usage, &format!("/* {usage} */"));
        assert_eq!(whats(&with_proto(PROTO, &commented)), [what]);
    }
    let generated = findings(&[
        ("proto/cluster/v1/a.proto", "// Unused words.\nmessage Lost {}\n"),
        ("proto/src/generated/a.rs", "//! Written by a program.\nstruct Lost {}\n"),
    ]);
    assert_eq!(places(&generated), ["proto/cluster/v1/a.proto:2"]);
}

#[test]
fn names_are_looked_up_in_the_spelling_of_the_generated_code() {
    let proto = "// Keys of a server.\nmessage TLSConfig {}\n";
    assert_eq!(with_proto(proto, "//! Keys of servers.\nfn f(c: TlsConfig) {}\n"), []);
    assert_eq!(with_proto(proto, "//! Keys of servers.\nfn f(c: TLSConfig) {}\n").len(), 1);
}

#[test]
fn the_budget_counts_product_lines_apart_from_tests() {
    let tree = tree(&[
        ("kernels/src/a.rs", "//! a\nfn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\n"),
        ("kernels/src/b.rs", "//! b\n#[cfg(test)]\nmod tests;\n"),
        ("kernels/src/b/tests.rs", "//! t\nfn g() {}\n"),
        ("kernels/tests/parity.rs", "//! p\n"),
        ("kernels/cuda/a.cu", "1\n2\n3\n"),
        ("proto/cluster/v1/a.proto", "1\n2\n"),
        ("tests/src/lib.rs", "//! x\n"),
    ]);
    let counts = super::budget::count(&tree);
    let of = |member: &str| (counts[member].product, counts[member].tests);
    assert_eq!(of("kernels"), (2 + 3 + 3, 4 + 2 + 1));
    assert_eq!((of("proto"), of("tests")), ((2, 0), (0, 1)));
    assert!(super::budget::table(&tree).contains("total                10        8"));
}

#[test]
fn findings_print_one_per_line_in_order_of_place() {
    let report = check_tree(&tree(&[("b/src/x.rs", "a"), ("a/src/x.rs", "a")]));
    let text = report.to_string();
    let lines: Vec<_> = text.lines().skip_while(|line| !line.contains("fix:")).collect();
    assert_eq!(
        lines[0],
        "a/src/x.rs:1: does not open with a module doc; \
         fix: start with `//!`: what it is, and what it deliberately does not know"
    );
    assert!(lines[1].starts_with("b/src/x.rs:1: "));
    assert_eq!(lines[2..], ["tidy: 2 to fix"]);
}

#[test]
fn a_folder_is_read_without_outputs_and_hidden_folders() {
    let root = tempfile::tempdir().unwrap();
    for folder in ["a/src", "a/target", ".git", "runs"] {
        fs::create_dir_all(root.path().join(folder)).unwrap();
        fs::write(root.path().join(folder).join("x.rs"), "fn f() {}\n").unwrap();
    }
    fs::write(root.path().join("a/picture.bin"), [0xff, 0xfe]).unwrap();
    let report = check(root.path()).unwrap();
    assert_eq!(places(&report.findings), ["a/src/x.rs:1"]);
}

#[test]
fn this_crate_is_tidy() {
    let mut tree = Tree::default();
    tree.load(std::path::Path::new(env!("CARGO_MANIFEST_DIR")), "xtask/").unwrap();
    assert!(tree.files.len() > 6);
    assert_eq!(check_tree(&tree).findings, []);
}

fn tree(files: &[(&str, &str)]) -> Tree {
    let mut tree = Tree::default();
    files.iter().for_each(|(path, text)| tree.add(path, text));
    tree
}

fn findings(files: &[(&str, &str)]) -> Vec<Finding> {
    check_tree(&tree(files)).findings
}

fn with_proto(proto: &str, rust: &str) -> Vec<Finding> {
    findings(&[("proto/cluster/v1/a.proto", proto), ("tests/src/a.rs", rust)])
}

fn whats(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.what.as_str()).collect()
}

fn places(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(|finding| format!("{}:{}", finding.path, finding.line)).collect()
}
