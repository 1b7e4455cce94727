//! Format names, folder errors, statistics and fingerprints; the readers are tested beside them.

use super::Dataset;
use super::Fingerprint;
use super::Format;
use super::ImageShape;
use super::Split;
use std::fs;
use std::path::Path;

#[test]
fn a_missing_folder_is_named_with_where_a_relative_path_starts() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("nowhere");
    let here = std::env::current_dir().unwrap().display().to_string();
    let error = Dataset::open(Format::Idx, &folder).unwrap_err().to_string();
    assert!(error.contains(&format!("{} does not exist", folder.display())), "{error}");
    assert!(!error.contains(&here), "{error}");
    let error = Dataset::open(Format::Idx, Path::new("nowhere")).unwrap_err().to_string();
    assert!(error.contains(&format!("it is resolved from {here}")), "{error}");
}

#[test]
fn a_file_in_place_of_the_folder_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Dataset::open(Format::Cifar10, file.path()).unwrap_err().to_string();
    assert!(error.contains("is not a folder"), "{error}");
}

#[test]
fn a_folder_in_place_of_a_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("train-images-idx3-ubyte")).unwrap();
    let error = Dataset::open(Format::Idx, folder.path()).unwrap_err().to_string();
    assert!(error.contains("is not a regular file"), "{error}");
}

#[test]
fn statistics_are_those_of_the_definition() {
    let shape = ImageShape { height: 1, width: 2, channels: 3 };
    let pixels = vec![0, 10, 7, 255, 20, 7, 255, 30, 7, 0, 40, 7];
    let statistics = Split::new(shape, pixels, vec![0, 1]).channel_statistics().unwrap();
    assert_eq!(statistics.mean, [0.5, (25.0 / 255.0) as f32, (7.0 / 255.0) as f32]);
    // A constant channel reports 1: dividing by it is safe.
    assert_eq!(statistics.std, [0.5, (125f64.sqrt() / 255.0) as f32, 1.0]);
}

#[test]
fn fingerprints_are_read_back_and_print_as_hex() {
    let bytes: Vec<u8> = (0..32).collect();
    let fingerprint = Fingerprint::from_bytes(&bytes).unwrap();
    assert_eq!(fingerprint.as_bytes(), bytes);
    let hex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    assert_eq!(fingerprint.to_string(), hex);
    assert_eq!(format!("{fingerprint:?}"), format!("Fingerprint({hex})"));
    assert_eq!(Fingerprint::from_bytes(&bytes[1..]), None);
    assert_eq!(Fingerprint::from_bytes(&[0; 33]), None);
}

#[test]
fn one_changed_bit_changes_the_fingerprint_and_another_spelling_does_not() {
    let digits = digits_folder();
    let original = Dataset::open(Format::Idx, &digits).unwrap().fingerprint;
    let copy = tempfile::tempdir().unwrap();
    for file in DIGIT_FILES {
        let spelling = file.replace("test-", "t10k-").replace("-idx", ".idx");
        fs::copy(digits.join(file), copy.path().join(spelling)).unwrap();
    }
    assert_eq!(Dataset::open(Format::Idx, copy.path()).unwrap().fingerprint, original);

    let path = copy.path().join("t10k-images.idx3-ubyte");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_ne!(Dataset::open(Format::Idx, copy.path()).unwrap().fingerprint, original);
}

/// Computed independently, with `hashlib` over the same lengths, names and contents.
#[test]
fn the_fingerprint_of_the_digits_is_pinned() {
    let dataset = Dataset::open(Format::Idx, &digits_folder()).unwrap();
    assert_eq!(dataset.fingerprint.to_string(), DIGITS_FINGERPRINT);
}

#[test]
fn debug_output_of_a_dataset_holds_no_pixels() {
    let dataset = Dataset::open(Format::Idx, &digits_folder()).unwrap();
    assert!(format!("{dataset:?}").len() < 1000);
}

fn digits_folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits")
}

const DIGIT_FILES: [&str; 4] = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "test-images-idx3-ubyte",
    "test-labels-idx1-ubyte",
];
const DIGITS_FINGERPRINT: &str = "499966778259df082c79af6ce2784fa2a17688395d93f93c207d8209fcc72cd8";
