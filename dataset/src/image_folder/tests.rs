//! Layout, order, refusals and fingerprints, on real folders of tiny files. Listing decodes nothing,
//! so most of the files are no images.

use super::SAMPLED_FILES;
use crate::Dataset;
use crate::DatasetError;
use crate::Draws;
use crate::Fingerprint;
use crate::Format;
use crate::ImageShape;
use crate::Preparation;
use crate::Preparer;
use crate::decode::tests::fixtures;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const FILES: [&str; 9] = [
    "train/dog/b.JPG",
    "train/dog/a.png",
    "train/dog/.hidden.jpg",
    "train/dog/notes.txt",
    "train/cat/2.jpeg",
    "train/cat/10.jpg",
    "train/.thumbnails/1.jpg",
    "train/list.txt",
    "val/dog/x.jpg",
];

#[test]
fn classes_and_files_are_sorted_and_other_entries_passed_over() {
    let folder = folder(&FILES);
    let dataset = open(folder.path()).unwrap();
    assert_eq!(dataset.classes, ["cat", "dog"]);
    assert_eq!(dataset.shape, ImageShape { height: 16, width: 16, channels: 3 });
    let files: Vec<_> = (0..dataset.train.len())
        .map(|i| (dataset.train.label(i), dataset.train.path(i).unwrap()))
        .collect();
    let path = |name: &str| folder.path().join("train").join(name);
    let expected = [(0, "cat/10.jpg"), (0, "cat/2.jpeg"), (1, "dog/a.png"), (1, "dog/b.JPG")];
    assert_eq!(files, expected.map(|(label, name)| (label, path(name))));
    // A class may be missing from the test images; labels are those of the training classes.
    assert_eq!((dataset.test.len(), dataset.test.label(0)), (1, 1));
    assert_eq!(dataset.train.pixels(0), None);
    assert_eq!(dataset.train.channel_statistics(), None);
}

#[test]
fn a_folder_named_test_does_as_well_as_val() {
    let folder = folder(&["train/a/1.jpg", "test/a/1.jpg"]);
    let dataset = open(folder.path()).unwrap();
    assert_eq!(dataset.test.path(0).unwrap(), folder.path().join("test/a/1.jpg"));
    write(folder.path(), "val/a/2.jpg");
    let dataset = open(folder.path()).unwrap();
    assert_eq!(dataset.test.path(0).unwrap(), folder.path().join("val/a/2.jpg"));
}

#[test]
fn layouts_that_cannot_work_are_refused_with_what_to_do() {
    let refused = |files: &[&str], expected: &str| {
        let folder = folder(files);
        let message = open(folder.path()).unwrap_err().to_string();
        let message = message.replace(&folder.path().display().to_string(), "DATA");
        assert_eq!(message, expected);
    };
    refused(
        &["cat/1.jpg"],
        "dataset folder DATA has no folder train; images lie in train/CLASS/ and val/CLASS/ below it",
    );
    refused(
        &["train/cat/1.jpg"],
        "dataset folder DATA has no folder val (or test); images lie in train/CLASS/ and val/CLASS/ below it",
    );
    refused(
        &["train/1.jpg", "val/1.jpg"],
        "DATA/train holds no class folder; put the images of each class in a folder of its name",
    );
    refused(
        &["train/a/1.jpg", "train/b/1.gif", "train/c/.1.jpg", "val/a/1.jpg"],
        "class folders without a .jpg, .jpeg or .png file in DATA/train: b, c; remove them or add images",
    );
    refused(
        &["train/a/1.jpg", "val/a/none.txt"],
        "class folders without a .jpg, .jpeg or .png file in DATA/val: a; remove them or add images",
    );
    refused(
        &["train/a/1.jpg", "val/a/1.jpg", "val/b/1.jpg"],
        "classes of DATA/val that DATA/train does not have: b; both need the same class names",
    );
    refused(
        &["train/a/images/1.jpg", "val/a/1.jpg"],
        "DATA/train/a/images is a folder inside a class folder; move its images up, into the class folder",
    );
    refused(
        &["train/a\nb/1.jpg", "val/a/1.jpg"],
        "the name of class folder DATA/train/a\nb has a control character or is not UTF-8; rename it",
    );
}

#[test]
fn of_many_bad_classes_a_few_are_named() {
    let mut files: Vec<_> = (10..30).map(|class| format!("train/{class}/none.txt")).collect();
    files.extend(["train/a/1.jpg".to_owned(), "val/a/1.jpg".to_owned()]);
    let files: Vec<_> = files.iter().map(String::as_str).collect();
    let message = open(folder(&files).path()).unwrap_err().to_string();
    assert!(message.contains(": 10, 11, 12, 13, 14, 15, 16, 17 and 12 more; "), "{message}");
}

#[cfg(unix)]
#[test]
fn links_are_followed() {
    use std::os::unix::fs::symlink;
    let folder = folder(&["train/a/1.jpg", "val/a/1.jpg", "elsewhere/b/2.jpg"]);
    let root = folder.path();
    symlink(root.join("elsewhere/b/2.jpg"), root.join("train/a/2.jpg")).unwrap();
    symlink(root.join("elsewhere/b"), root.join("train/b")).unwrap();
    let dataset = open(root).unwrap();
    assert_eq!(dataset.classes, ["a", "b"]);
    assert_eq!(dataset.train.len(), 3);
    symlink(root.join("nowhere.jpg"), root.join("train/a/3.jpg")).unwrap();
    let error = open(root).unwrap_err();
    assert!(matches!(&error, DatasetError::Unreadable { path, .. } if path.ends_with("a/3.jpg")));
}

#[test]
fn the_fingerprint_sees_names_lengths_and_sampled_content() {
    let folder = folder(&FILES);
    let root = folder.path();
    let original = fingerprint(root);
    let copy = self::folder(&FILES);
    assert_eq!(fingerprint(copy.path()), original, "the place does not matter");
    write(root, "train/dog/another.txt");
    assert_eq!(fingerprint(root), original, "nor do other files");

    fs::write(root.join("train/cat/10.jpg"), "content of train/cat/10.jpG").unwrap();
    assert_ne!(fingerprint(root), original, "another content");
    write(root, "train/cat/10.jpg");
    assert_eq!(fingerprint(root), original);
    fs::rename(root.join("val/dog/x.jpg"), root.join("val/dog/y.jpg")).unwrap();
    assert_ne!(fingerprint(root), original, "another name");
    fs::rename(root.join("val/dog/y.jpg"), root.join("val/dog/x.jpg")).unwrap();
    write(root, "train/cat/3.jpg");
    assert_ne!(fingerprint(root), original, "one more");
    fs::remove_file(root.join("train/cat/3.jpg")).unwrap();
    fs::rename(root.join("train/cat"), root.join("train/elk")).unwrap();
    assert_ne!(fingerprint(root), original, "another class");
}

#[test]
fn of_a_large_folder_the_fingerprint_reads_a_fixed_choice() {
    let names: Vec<_> = (0..3 * SAMPLED_FILES).map(|i| format!("train/a/{i:04}.jpg")).collect();
    let mut files: Vec<_> = names.iter().map(String::as_str).collect();
    files.push("val/a/1.jpg");
    let folder = folder(&files);
    let original = fingerprint(folder.path());
    let with = |i: usize, content: String| {
        let path = folder.path().join(&names[i]);
        let before = fs::read(&path).unwrap();
        fs::write(&path, content).unwrap();
        let found = fingerprint(folder.path());
        fs::write(&path, before).unwrap();
        found
    };
    let changed = |i: usize| with(i, format!("Content of {}", names[i]));
    assert_ne!(changed(0), original);
    assert_ne!(changed(3), original);
    assert_eq!(changed(1), original, "not in the choice, and of the same length");
    assert_ne!(with(1, "another length".to_owned()), original);
    assert_eq!(fingerprint(folder.path()), original);
}

#[test]
fn images_become_samples_and_bad_ones_errors() {
    let folder = folder(&["train/a/bad.jpg", "train/b/none.txt", "val/a/bad.jpg"]);
    let put = |from: &str, to: &str| {
        fs::copy(fixtures().join(from), folder.path().join(to)).unwrap();
    };
    put("baseline_420.jpg", "train/a/good.jpg");
    put("rgb8.png", "train/b/png_named.jpg");
    put("grey.jpg", "train/b/jpeg_named.png");
    let dataset = open(folder.path()).unwrap();
    let crop = Preparation::RandomResizedCrop { size: 16, scale: [0.2, 1.0], ratio: [0.75, 1.33] };
    let mut preparer = Preparer::new(crop);
    let mut sample = vec![0; dataset.shape.len()];
    let mut image =
        |i: usize| dataset.train.image(i, &mut preparer, &mut Draws::new(1, i as u64), &mut sample);
    let error = image(0).unwrap_err();
    assert_eq!(error.path, folder.path().join("train/a/bad.jpg"));
    for i in 1..4 {
        image(i).unwrap();
    }
}

fn open(folder: &Path) -> Result<Dataset, DatasetError> {
    Dataset::open(Format::ImageFolder { size: 16 }, folder)
}

fn fingerprint(folder: &Path) -> Fingerprint {
    open(folder).unwrap().fingerprint
}

fn folder(files: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    files.iter().for_each(|file| write(folder.path(), file));
    folder
}

fn write(folder: &Path, file: &str) {
    let path = folder.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("content of {file}")).unwrap();
}
