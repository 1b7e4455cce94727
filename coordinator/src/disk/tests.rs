//! The model of a disk says what file systems do: otherwise the sweeps that stand on it prove nothing.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::crash::{Recording, Step, Tree};
use super::recorder::{Fault, FaultKind, Recorder};
use super::sweep::folder;
use super::*;

/// What a file may hold after all of it: `None` when it is not there.
fn contents(steps: &[Step], name: &str) -> BTreeSet<Option<String>> {
    let recording = Recording { base: Tree::default(), steps: steps.to_vec() };
    let mut found = BTreeSet::new();
    let mut look = |crash: super::crash::Crash| {
        let bytes = crash.tree.0.get(Path::new(name)).cloned().flatten();
        found.insert(bytes.map(|bytes| String::from_utf8(bytes).unwrap()));
        Ok(())
    };
    recording.crashes(steps.len(), &mut look).unwrap();
    found
}

fn some(texts: &[&str]) -> BTreeSet<Option<String>> {
    texts.iter().map(|&text| Some(text.to_owned())).collect()
}

fn create(name: &str) -> Step {
    Step::Create(PathBuf::from(name))
}

fn write(name: &str, bytes: &str) -> Step {
    Step::Write { path: PathBuf::from(name), at: 0, bytes: bytes.as_bytes().to_vec() }
}

fn sync(name: &str) -> Step {
    Step::Sync(PathBuf::from(name))
}

#[test]
fn nothing_is_durable_without_both_syncs() {
    let mut steps = vec![create("a"), write("a", "xyz")];
    let torn = some(&["", "x", "xy", "xyz", "\0yz", "\0\0z", "\0\0\0"]);
    let mut with_nothing = torn.clone();
    with_nothing.insert(None);
    assert_eq!(contents(&steps, "a"), with_nothing);
    steps.push(sync(""));
    assert_eq!(contents(&steps, "a"), torn, "its name is there");
    steps.remove(2);
    steps.push(sync("a"));
    assert_eq!(contents(&steps, "a"), BTreeSet::from([None, Some("xyz".to_owned())]));
    steps.push(sync(""));
    assert_eq!(contents(&steps, "a"), some(&["xyz"]));
}

#[test]
fn a_name_may_come_before_the_bytes() {
    let new = Step::Rename { from: PathBuf::from("new"), to: PathBuf::from("a") };
    let old = [create("a"), write("a", "old"), sync("a"), sync(""), create("new")];
    let careless = [&old[..], &[write("new", "N"), new.clone()]].concat();
    assert_eq!(contents(&careless, "a"), some(&["", "N", "\0", "old"]));
    let careful = [&old[..], &[write("new", "N"), sync("new"), new, sync("")]].concat();
    assert_eq!(contents(&careful, "a"), some(&["N"]));
}

#[test]
fn what_a_failed_sync_was_about_is_not_covered_by_the_next_one() {
    let failed = Step::FailedSync(PathBuf::from("a"));
    let steps = [create("a"), sync(""), write("a", "x"), failed, sync("a")];
    assert_eq!(contents(&steps, "a"), some(&["", "x", "\0"]));
    let again = [&steps[..], &[write("a", "x"), sync("a")]].concat();
    assert_eq!(contents(&again, "a"), some(&["x"]), "written again, it is");
}

#[test]
fn operations_are_recorded_and_fail_where_they_should() {
    let place = folder();
    let recorder = Recorder::watch(place.path());
    let path = recorder.root().join("a");
    let file = DiskFile::create(&path).unwrap();
    recorder.fail(Fault { at: 1, kind: FaultKind::Io, file: "a" });
    file.write_all_at(b"x", 0).unwrap();
    assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(5));
    assert!(recorder.heal() && !recorder.heal());
    file.sync().unwrap();
    let failed = Step::FailedSync(PathBuf::from("a"));
    let expected = [create("a"), write("a", "x"), failed, sync("a")];
    assert_eq!(recorder.recording().steps, expected);
}
