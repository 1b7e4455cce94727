//! Writing files whole, and what is left on disk when that fails.

use super::*;

/// A file where every write fails as on a full disk.
fn on_full_disk() -> LineFile {
    let file = DiskFile::open(Path::new("/dev/full")).unwrap();
    LineFile { file, len: 0, waiting: Vec::new(), dropped: 0, failing: false }
}

#[test]
fn an_incomplete_last_line_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines");
    std::fs::write(&path, "one\ntwo\nthr").unwrap();
    let mut file = LineFile::open(&path).unwrap();
    file.push("three");
    file.flush().unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\nthree\n");
    assert_eq!(file.len(), 14);
}

#[test]
fn lines_that_can_not_be_written_wait_and_the_failure_is_told_once() {
    let mut file = on_full_disk();
    file.push("one");
    assert_eq!(file.flush().unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.push("two");
    assert!(file.flush().is_ok(), "told once");
    assert_eq!(file.waiting, b"one\ntwo\n");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines");
    file.file = DiskFile::create(&path).unwrap();
    file.flush().unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
}

#[test]
fn lines_waiting_in_memory_are_bounded() {
    let mut file = on_full_disk();
    let line = "x".repeat(1 << 20);
    for _ in 0..6 {
        file.push(&line);
    }
    assert!(file.waiting.len() <= WAITING_BYTES_MAX);
    assert_eq!((file.dropped, file.missing()), (3, 6));
}

#[test]
fn a_file_is_replaced_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.json");
    write_atomically(&path, b"old").unwrap();
    write_atomically(&path, b"new").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
}
