//! Image files that can't be decoded: each is named once, counted, and replaced, and no bit depends on who met it.

use std::fs;
use std::path::{Path, PathBuf};

use cluster_tests::{Ended, JobFile, Running, Signal, Train, coordinator};

use crate::bits::model_sha256;
use crate::refusals::{DATA, LIMIT, damage, job_on, only_error};

/// Two classes of 24 training and 8 test images each, real files of a few kinds.
pub(crate) fn image_folder(folder: &Path) -> PathBuf {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dataset/tests/fixtures");
    let kinds = [
        "baseline_420.jpg",
        "palette8.png",
        "grey.jpg",
        "cmyk.jpg",
        "baseline_444.jpg",
        "grey8.png",
    ];
    for (split, count) in [("train", 24), ("val", 8)] {
        for (class, first) in [("a", 0), ("b", 3)] {
            let place = folder.join("data").join(split).join(class);
            fs::create_dir_all(&place).unwrap();
            for number in 0..count {
                let from = files.join(kinds[first + number % 3]);
                fs::copy(from, place.join(format!("{number:02}.jpg"))).unwrap();
            }
        }
    }
    folder.join("data")
}

pub(crate) fn job_of_images(data: &Path, allowed: f64) -> JobFile {
    job_on(data)
        .with("format = \"idx\"", "format = \"imagefolder\"\nsize = 16")
        .with("augment = { pad = 1, flip = false }", &format!("max_bad_fraction = {allowed}"))
        .with("batch = 64\nslices = 8", "batch = 16\nslices = 4")
}

/// Three training images and a test image are none.
const BAD: [&str; 4] = ["train/a/05.jpg", "train/b/00.jpg", "train/b/23.jpg", "val/a/02.jpg"];

pub(crate) fn spoil(data: &Path) {
    BAD.iter().for_each(|file| damage(&data.join(file), |bytes| bytes.fill(7)));
}

fn train(job: &Path, state: PathBuf, workers: usize) -> Ended {
    Train { workers, ..Train::new(job, &state) }.spawn().finish(LIMIT)
}

/// The log's lines about images, by file.
fn named(log: &str) -> Vec<&str> {
    let mut lines: Vec<&str> =
        log.lines().filter(|line| line.contains("can't be decoded: it")).collect();
    lines.sort_by_key(|line| line.split("/data/").nth(1).unwrap().to_owned());
    lines
}

#[test]
fn bad_images_are_named_once_and_counted_and_the_bits_stay_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let data = image_folder(folder.path());
    let place = |name: &str| folder.path().join(name);
    let whole = job_of_images(&data, 0.0).write(folder.path());
    let undamaged = model_sha256(&train(&whole, place("whole"), 2));
    spoil(&data);
    let job = job_of_images(&data, 0.0625).write(folder.path());
    let alone = train(&job, place("1"), 1);
    let expected = model_sha256(&alone);
    assert_ne!(expected, undamaged);
    for workers in [2, 4] {
        let ended = train(&job, place(&workers.to_string()), workers);
        assert_eq!(model_sha256(&ended), expected, "{workers} workers");
        let lines = named(&ended.stderr);
        assert_eq!(lines.len(), BAD.len(), "each once over all epochs and workers: {lines:?}");
        for (line, file) in lines.iter().zip(BAD) {
            assert!(line.contains(data.join(file).to_str().unwrap()), "{line}");
            assert!(line.contains("it is neither JPEG nor PNG"), "{line}");
        }
        assert!(lines[0].contains("another image of its slice takes its place ("), "{lines:?}");
        assert!(lines[3].ends_with("it counts as answered wrong (1 of 16)"), "{lines:?}");
    }
    let words = "3 of 48 training images and 1 of 16 test images can't be decoded";
    assert!(alone.stdout.contains(&format!("{words}; the log names them\n")), "{}", alone.stdout);
    let mut status = coordinator(&["status", "--state"]);
    status.arg(place("1"));
    let status = Running::spawn(status).finish(LIMIT).stdout;
    assert!(status.contains(words), "{status}");
}

#[test]
fn a_run_that_is_gone_on_with_names_them_once_and_ends_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let data = image_folder(folder.path());
    spoil(&data);
    let job = job_of_images(&data, 0.1).with("epochs = 3", "epochs = 40").write(folder.path());
    let expected = model_sha256(&train(&job, folder.path().join("whole"), 2));
    let state = folder.path().join("state");
    let cut = Train::new(&job, &state);
    let mut running = cut.spawn();
    running.wait_for(&["epoch 2 of 40"], LIMIT);
    running.signal(Signal::KILL);
    running.finish(LIMIT);
    let resumed = Train { workers: 3, ..cut }.spawn().finish(LIMIT);
    assert_eq!(model_sha256(&resumed), expected);
    assert!(resumed.stdout.contains("3 of 48 training images"), "{}", resumed.stdout);
    let log = fs::read_to_string(state.join("jobs/digits-1/log.jsonl")).unwrap();
    assert_eq!(named(&log).len(), BAD.len(), "{log}");
}

#[test]
fn too_many_bad_images_stop_the_run_and_a_file_that_is_gone_does_so_too() {
    let folder = tempfile::tempdir().unwrap();
    let data = image_folder(folder.path());
    spoil(&data);
    let few = job_of_images(&data, 0.05).write(folder.path());
    let state = folder.path().join("state");
    for _ in 0..2 {
        let ended = train(&few, state.clone(), 2);
        let words = ["3 of 48 training images", "data.max_bad_fraction = 0.05", "repair or remove"];
        only_error(&ended, DATA, &words);
        // The test image too, if a worker was through with the epoch before the other told of its last one.
        assert!(named(&ended.stderr).len() <= BAD.len(), "{}", ended.stderr);
    }
    // Gone after the dataset was listed: not the same as a file that is no image, for another worker may have it.
    let many = job_of_images(&data, 1.0).with("epochs = 3", "epochs = 4000").write(folder.path());
    let mut running = Train { fresh: true, ..Train::new(&many, &state) }.spawn();
    running.wait_for(&["epoch 1 of 4000"], LIMIT);
    fs::remove_file(data.join("train/a/07.jpg")).unwrap();
    let ended = running.finish(LIMIT);
    only_error(&ended, DATA, &["train/a/07.jpg", "cannot be read: No such file", "put it back"]);
}
