//! A wrong dataset, job file or state directory is refused at once: one line that says what was tried, what is wrong and
//! what to do next, the exit code of the README, and nothing is begun.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster_tests::{Ended, JobFile, Mounted, Running, Train, coordinator, digits_folder};

/// Checks that the program ended with this code and said why in one line on stderr and nothing else; gives the line.
pub(crate) fn refused(ended: &Ended, code: i32, words: &[&str]) -> String {
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "one line: {}", ended.stderr);
    assert_eq!(ended.stdout, "");
    only_error(ended, code, words)
}

/// The same, where the program may have logged what went before.
pub(crate) fn only_error(ended: &Ended, code: i32, words: &[&str]) -> String {
    assert_eq!(ended.code, Some(code), "{}", ended.stderr);
    // The worker's errors are log lines; those of the coordinator's log are not its last word.
    let last_words = |line: &&str| line.starts_with("error: ");
    let errors: Vec<&str> = ended.stderr.lines().filter(last_words).collect();
    let [line] = errors[..] else { panic!("one error: {}", ended.stderr) };
    for word in words {
        assert!(line.contains(word), "{word:?} is not in: {line}");
    }
    line.to_owned()
}

/// A copy of a folder with its folders.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let place = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &place);
        } else {
            fs::copy(entry.path(), place).unwrap();
        }
    }
}

/// Changes a file's bytes in place.
pub(crate) fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// The digits' job on the dataset in another folder.
pub(crate) fn job_on(dataset: &Path) -> JobFile {
    let digits = digits_folder();
    JobFile::digits().with(digits.to_str().unwrap(), dataset.to_str().unwrap())
}

type Spoil = fn(&Path);

#[test]
fn a_missing_or_damaged_dataset_is_named_before_anything_is_begun() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&str, Spoil, &[&str]); 7] = [
        (
            "no-file",
            |data| fs::remove_file(data.join("train-labels-idx1-ubyte")).unwrap(),
            &["has no file train-labels-idx1-ubyte", "IDX files come from"],
        ),
        (
            "truncated",
            |data| damage(&data.join("train-images-idx3-ubyte"), |b| b.truncate(b.len() - 100)),
            &["train-images-idx3-ubyte is truncated", "91984", "91884", "download it again"],
        ),
        (
            "no-header",
            |data| damage(&data.join("train-images-idx3-ubyte"), |b| b.truncate(7)),
            &["train-images-idx3-ubyte is truncated", "found 7"],
        ),
        (
            "magic",
            |data| damage(&data.join("train-images-idx3-ubyte"), |b| b[3] = 1),
            &["starts with 0x00000801, expected 0x00000803", "images and labels are swapped"],
        ),
        (
            "packed",
            |data| damage(&data.join("train-images-idx3-ubyte"), |b| (b[0], b[1]) = (0x1f, 0x8b)),
            &["starts with 0x1f8b", "gunzip"],
        ),
        (
            "label",
            |data| damage(&data.join("test-labels-idx1-ubyte"), |b| b[20] = 10),
            &["label 10 of record 12", "test-labels-idx1-ubyte", "expected 0 to 9", "damaged"],
        ),
        (
            "no-folder",
            |data| fs::remove_dir_all(data).unwrap(),
            &["does not exist", "check the path"],
        ),
    ];
    for (name, spoil, words) in cases {
        let data = folder.path().join(name);
        copy_folder(&digits_folder(), &data);
        spoil(&data);
        let job = job_on(&data).write(folder.path());
        let state = folder.path().join(format!("state-{name}"));
        let ended = Train::new(&job, &state).spawn().finish(LIMIT);
        let line = refused(&ended, DATA, words);
        assert!(line.contains(data.to_str().unwrap()), "{line}");
        assert!(!state.exists(), "{name}: nothing is begun");
    }
}

#[test]
fn a_wrong_job_file_is_refused_with_the_key_and_a_value_that_works() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let cases: [(&str, &str, &[&str]); 6] = [
        (
            "slices = 8",
            "slicse = 8",
            &["line 15", "unknown key `slicse`", "did you mean `slices`?"],
        ),
        ("batch = 64", "batch = 65", &["`train.batch` is 65", "8 slices", "try 64"]),
        ("slices = 8", "slices = 6", &["`train.slices` is 6", "power of two", "try 8"]),
        ("slices = 8", "slices = 0", &["`train.slices` is 0", "try 1"]),
        ("epochs = 3", "epochs = 0", &["`train.epochs`", "must be"]),
        ("[data]", "[data", &["job file: line 3"]),
    ];
    for (from, to, words) in cases {
        let job = JobFile::digits().with(from, to).write(folder.path());
        refused(&Train::new(&job, &state).spawn().finish(LIMIT), USAGE, words);
    }
    let missing = folder.path().join("nothing.toml");
    let ended = Train::new(&missing, &state).spawn().finish(LIMIT);
    refused(&ended, USAGE, &["reading the job file", "nothing.toml", "check the path"]);
    assert!(!state.exists());
}

#[test]
fn more_workers_than_slices_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobFile::digits().write(folder.path());
    let train = Train { workers: 9, ..Train::new(&job, &folder.path().join("state")) };
    let ended = train.spawn().finish(LIMIT);
    refused(&ended, USAGE, &["9 workers", "8 slices", "at most 8", "train.slices"]);
    // The same command with a number that fits is not held up by the refusal.
    assert_eq!(Train { workers: 8, ..train }.spawn().finish(LIMIT).code, Some(0));
}

#[test]
fn a_state_directory_that_cannot_be_written_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobFile::digits().write(folder.path());
    let file = folder.path().join("file");
    fs::write(&file, "precious").unwrap();
    let cases: [(PathBuf, &[&str]); 3] = [
        (file.clone(), &["is a file", "--state"]),
        (file.join("below"), &["creating", "--state"]),
        // Nobody may create folders here, not even root.
        ("/sys/kernel/state".into(), &["creating /sys/kernel/state", "writable folder", "--state"]),
    ];
    for (state, words) in cases {
        refused(&Train::new(&job, &state).spawn().finish(LIMIT), STATE, words);
        let mut start = coordinator(&["start", "--listen", "127.0.0.1:0", "--state"]);
        start.arg(&state);
        refused(&Running::spawn(start).finish(LIMIT), STATE, words);
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn a_state_directory_that_became_read_only_is_refused_and_still_readable() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mounted) = Mounted::on(folder.path(), 16 << 10) else { return };
    let job = JobFile::digits().with("epochs = 3", "epochs = 1").write(folder.path());
    let state = folder.path().join("state");
    let train = Train::new(&job, &state);
    assert_eq!(train.spawn().finish(LIMIT).code, Some(0));
    mounted.make_read_only().unwrap();
    refused(&train.spawn().finish(LIMIT), STATE, &["Read-only file system", "--state"]);
    let mut listing = coordinator(&["checkpoints", "digits-1", "--state"]);
    listing.arg(&state);
    let listed = Running::spawn(listing).finish(LIMIT);
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    assert!(listed.stdout.contains("step-00000023"), "{}", listed.stdout);
}

/// Exit codes of the README.
pub(crate) const USAGE: i32 = 2;
pub(crate) const DATA: i32 = 3;
pub(crate) const STATE: i32 = 5;
pub(crate) const NETWORK: i32 = 6;
pub(crate) const VERSION: i32 = 7;
pub(crate) const TOKEN: i32 = 77;
pub(crate) const LIMIT: Duration = Duration::from_secs(120);
