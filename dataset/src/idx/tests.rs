//! Real IDX files, whole and damaged, in a temporary folder; and the digits that we ship.

use super::IMAGES_MAGIC;
use super::LABELS_MAGIC;
use crate::Dataset;
use crate::DatasetError;
use crate::Format;
use crate::ImageShape;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

#[test]
fn the_digits_load() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits");
    let dataset = Dataset::open(Format::Idx, &folder).unwrap();
    assert_eq!((dataset.train.len(), dataset.test.len()), (1437, 360));
    assert_eq!(dataset.shape, ImageShape { height: 8, width: 8, channels: 1 });
    assert_eq!(dataset.classes, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    let raw = fs::read(folder.join("train-images-idx3-ubyte")).unwrap();
    let labels = fs::read(folder.join("train-labels-idx1-ubyte")).unwrap();
    for i in 0..1437 {
        assert_eq!(dataset.train.pixels(i).unwrap(), &raw[16 + 64 * i..][..64]);
        assert_eq!(dataset.train.label(i), u32::from(labels[8 + i]));
    }
    let statistics = dataset.train.channel_statistics().unwrap();
    assert!((statistics.mean[0] - 0.305).abs() < 0.01, "{statistics:?}");
    assert!((statistics.std[0] - 0.376).abs() < 0.01, "{statistics:?}");
}

#[test]
fn images_need_not_be_square() {
    let folder = Files::good().write();
    let dataset = open(&folder).unwrap();
    assert_eq!(dataset.shape, ImageShape { height: 2, width: 3, channels: 1 });
    assert_eq!(dataset.train.pixels(1).unwrap(), [6, 7, 8, 9, 10, 11]);
    assert_eq!(dataset.test.pixels(0).unwrap(), [0, 1, 2, 3, 4, 5]);
    assert_eq!((dataset.train.label(2), dataset.test.label(1)), (2, 1));
}

#[test]
fn a_label_that_training_never_uses_still_counts_as_class() {
    let mut files = Files::good();
    files.train_labels = label_file(&[0, 7, 0]);
    let dataset = open(&files.write()).unwrap();
    assert_eq!(dataset.classes.len(), 8);
}

#[test]
fn a_missing_file_is_named_with_its_spellings_and_origin() {
    for (file, spelling) in [
        ("train-images-idx3-ubyte", "train-images.idx3-ubyte"),
        ("train-labels-idx1-ubyte", "train-labels.idx1-ubyte"),
        ("t10k-images-idx3-ubyte", "test-images.idx3-ubyte"),
        ("t10k-labels-idx1-ubyte", "test-labels-idx1-ubyte"),
    ] {
        let folder = Files::good().write();
        fs::remove_file(folder.path().join(file)).unwrap();
        let error = message(&folder);
        assert!(error.contains(&folder.path().display().to_string()), "{error}");
        assert!(error.contains(&format!("has no file {file} or ")), "{error}");
        assert!(error.contains(spelling) && error.contains("MNIST"), "{error}");
    }
}

#[test]
fn a_file_that_is_still_packed_is_recognised() {
    let folder = Files::good().write();
    let path = folder.path().join("train-images-idx3-ubyte");
    fs::rename(&path, path.with_extension("gz")).unwrap();
    let error = message(&folder);
    assert!(error.contains("there as train-images-idx3-ubyte.gz: unpack it"), "{error}");

    // Under the unpacked name, the content gives it away.
    fs::write(&path, [0x1f, 0x8b, 8, 0].repeat(9)).unwrap();
    let error = message(&folder);
    assert!(error.contains("starts with 0x1f8b0800") && error.contains("gunzip"), "{error}");
}

#[test]
fn swapped_files_are_refused_by_their_magic() {
    let mut files = Files::good();
    std::mem::swap(&mut files.train_images, &mut files.train_labels);
    let error = message(&files.write());
    let expected = "train-images-idx3-ubyte starts with 0x00000801, expected 0x00000803";
    assert!(error.contains(expected) && error.contains("swapped"), "{error}");
}

#[test]
fn every_truncation_of_a_file_is_refused() {
    let whole = Files::good().train_images;
    for length in 0..whole.len() {
        let mut files = Files::good();
        files.train_images.truncate(length);
        let error = open(&files.write()).unwrap_err();
        assert!(matches!(error, DatasetError::Truncated { .. }), "{length}: {error}");
    }
    let whole = Files::good().test_labels;
    for length in 0..whole.len() {
        let mut files = Files::good();
        files.test_labels.truncate(length);
        let error = open(&files.write()).unwrap_err();
        assert!(matches!(error, DatasetError::Truncated { .. }), "{length}: {error}");
    }
}

#[test]
fn a_truncated_file_is_reported_with_both_lengths() {
    let mut files = Files::good();
    files.train_images.pop();
    let error = message(&files.write());
    assert!(
        error.contains(
            "train-images-idx3-ubyte is truncated: \
             expected 34 bytes (header says 3 images of 2x3), found 33"
        ),
        "{error}"
    );
}

#[test]
fn trailing_bytes_are_refused() {
    let mut files = Files::good();
    files.train_images.push(0);
    let error = message(&files.write());
    assert!(error.contains("has trailing bytes: expected 34 bytes"), "{error}");

    let mut files = Files::good();
    files.train_labels.push(0);
    let error = message(&files.write());
    assert!(error.contains("expected 11 bytes (header says 3 labels), found 12"), "{error}");
}

#[test]
fn image_and_label_counts_must_agree() {
    let mut files = Files::good();
    files.train_labels = label_file(&[0, 1]);
    let error = message(&files.write());
    assert!(error.contains("train-images-idx3-ubyte holds 3 images but"), "{error}");
    assert!(error.contains("train-labels-idx1-ubyte holds 2 labels"), "{error}");
}

#[test]
fn a_test_label_beyond_the_training_labels_is_refused() {
    let mut files = Files::good();
    files.test_labels = label_file(&[2, 3]);
    let error = message(&files.write());
    assert!(error.contains("label 3 of record 1 in"), "{error}");
    assert!(error.contains("t10k-labels-idx1-ubyte is out of range, expected 0 to 2"), "{error}");
}

#[test]
fn both_splits_need_one_image_size() {
    let mut files = Files::good();
    files.test_images = image_file([2, 3, 2], &[0; 12]);
    let error = message(&files.write());
    assert!(error.contains("are 3x2x1 but those of") && error.contains("are 2x3x1"), "{error}");
}

#[test]
fn zero_images_are_refused_in_either_split() {
    let mut files = Files::good();
    files.train_images = image_file([0, 2, 3], &[]);
    files.train_labels = label_file(&[]);
    assert!(message(&files.write()).contains("train-images-idx3-ubyte holds no image"));

    let mut files = Files::good();
    files.test_images = image_file([0, 2, 3], &[]);
    files.test_labels = label_file(&[]);
    assert!(message(&files.write()).contains("t10k-images-idx3-ubyte holds no image"));
}

#[test]
fn absurd_headers_are_refused_before_anything_is_allocated() {
    for (dimensions, place) in [
        ([3, 0, 3], "image height 0"),
        ([3, 2, 0], "image width 0"),
        ([3, u32::MAX, 3], "image height 4294967295"),
        ([3, 2, 16_385], "image width 16385"),
    ] {
        let mut files = Files::good();
        files.train_images = image_file(dimensions, &[0; 18]);
        let error = message(&files.write());
        assert!(error.contains(place) && error.contains("expected 1 to 16384"), "{error}");
    }
    let mut files = Files::good();
    files.train_images = image_file([u32::MAX, 16_384, 16_384], &[0; 18]);
    let error = message(&files.write());
    assert!(error.contains("expected 1152921504338411536 bytes"), "{error}");
}

/// The content of the four files: 3 training and 2 test images of 2x3 pixels.
struct Files {
    train_images: Vec<u8>,
    train_labels: Vec<u8>,
    test_images: Vec<u8>,
    test_labels: Vec<u8>,
}

impl Files {
    fn good() -> Files {
        let pixels: Vec<u8> = (0..18).collect();
        Files {
            train_images: image_file([3, 2, 3], &pixels),
            train_labels: label_file(&[0, 1, 2]),
            test_images: image_file([2, 2, 3], &pixels[..12]),
            test_labels: label_file(&[2, 1]),
        }
    }

    fn write(&self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in [
            ("train-images-idx3-ubyte", &self.train_images),
            ("train-labels-idx1-ubyte", &self.train_labels),
            ("t10k-images-idx3-ubyte", &self.test_images),
            ("t10k-labels-idx1-ubyte", &self.test_labels),
        ] {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        folder
    }
}

fn image_file(dimensions: [u32; 3], pixels: &[u8]) -> Vec<u8> {
    let [count, height, width] = dimensions;
    let header = [IMAGES_MAGIC, count, height, width].map(u32::to_be_bytes);
    [header.as_flattened(), pixels].concat()
}

fn label_file(labels: &[u8]) -> Vec<u8> {
    let header = [LABELS_MAGIC, labels.len() as u32].map(u32::to_be_bytes);
    [header.as_flattened(), labels].concat()
}

fn open(folder: &TempDir) -> Result<Dataset, DatasetError> {
    Dataset::open(Format::Idx, folder.path())
}

/// The error text, checked against the house form.
fn message(folder: &TempDir) -> String {
    let text = open(folder).unwrap_err().to_string();
    assert!(!text.ends_with('.') && !text.contains('\n'), "{text}");
    text
}
