//! Small generated CIFAR sets in the real file layout, whole and damaged.

use super::CIFAR10;
use super::CIFAR100;
use super::PLANE;
use super::Variant;
use crate::Dataset;
use crate::DatasetError;
use crate::Draws;
use crate::Format;
use crate::ImageShape;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

#[test]
fn every_pixel_of_cifar10_lands_channel_last() {
    check_pixels(Format::Cifar10, &CIFAR10);
}

#[test]
fn every_pixel_of_cifar100_lands_channel_last() {
    check_pixels(Format::Cifar100, &CIFAR100);
}

/// Compares against the layout of the CIFAR page: red plane, green plane, blue plane, row-major.
fn check_pixels(format: Format, variant: &Variant) {
    let folder = write_set(variant, 3);
    let dataset = Dataset::open(format, folder.path()).unwrap();
    assert_eq!(dataset.shape, ImageShape { height: 32, width: 32, channels: 3 });
    assert_eq!(dataset.train.len(), 3 * variant.train.len());
    assert_eq!(dataset.test.len(), 3);
    assert_eq!(dataset.classes.len(), variant.classes as usize);
    for (split, files) in [(&dataset.train, variant.train), (&dataset.test, variant.test)] {
        let raw: Vec<u8> =
            files.iter().flat_map(|file| fs::read(folder.path().join(file)).unwrap()).collect();
        let records = raw.chunks_exact(variant.label_bytes + 3072);
        assert_eq!(records.len(), split.len());
        for (i, record) in records.enumerate() {
            let planes = &record[variant.label_bytes..];
            assert_eq!(split.label(i), u32::from(record[variant.label_bytes - 1]));
            for row in 0..32 {
                for column in 0..32 {
                    for channel in 0..3 {
                        assert_eq!(
                            split.pixels(i).unwrap()[(row * 32 + column) * 3 + channel],
                            planes[channel * PLANE + row * 32 + column]
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn the_coarse_label_of_cifar100_is_ignored() {
    let folder = write_set(&CIFAR100, 1);
    damage(&folder, "train.bin", |bytes| (bytes[0], bytes[1]) = (255, 41));
    let dataset = Dataset::open(Format::Cifar100, folder.path()).unwrap();
    assert_eq!(dataset.train.label(0), 41);
}

#[test]
fn class_names_are_read_when_their_file_is_there() {
    let folder = write_set(&CIFAR10, 1);
    let plain = Dataset::open(Format::Cifar10, folder.path()).unwrap();
    assert_eq!(plain.classes[9], "9");
    let names = "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n";
    fs::write(folder.path().join("batches.meta.txt"), names).unwrap();
    let named = Dataset::open(Format::Cifar10, folder.path()).unwrap();
    assert_eq!((named.classes[0].as_str(), named.classes[9].as_str()), ("airplane", "truck"));
    assert_ne!(named.fingerprint, plain.fingerprint);
}

#[test]
fn damaged_class_names_are_refused() {
    let long = "name\n".repeat(20_000);
    let control = "a\nb\nc\nd\ne\nf\ng\nh\n\u{1b}[2J\nj\n";
    for (content, problem) in [
        (b"cat\ndog\n".as_slice(), "has 2 names"),
        (&[0xff, 0xfe], "is not UTF-8 text"),
        (control.as_bytes(), "has a control character in name 8"),
        (long.as_bytes(), "has more than 65536 bytes"),
    ] {
        let folder = write_set(&CIFAR10, 1);
        fs::write(folder.path().join("batches.meta.txt"), content).unwrap();
        let error = message(Format::Cifar10, &folder);
        assert!(error.contains(&format!("batches.meta.txt {problem}; expected 10")), "{error}");
    }
}

#[test]
fn each_missing_file_is_named_with_its_origin() {
    for file in CIFAR10.train.iter().chain(CIFAR10.test) {
        let folder = write_set(&CIFAR10, 1);
        fs::remove_file(folder.path().join(file)).unwrap();
        let error = message(Format::Cifar10, &folder);
        assert!(error.contains(&format!("has no file {file}; unpack")), "{error}");
        assert!(error.contains("cifar-10-binary.tar.gz"), "{error}");
    }
    let folder = write_set(&CIFAR100, 1);
    fs::remove_file(folder.path().join("test.bin")).unwrap();
    let error = message(Format::Cifar100, &folder);
    assert!(error.contains("test.bin") && error.contains("cifar-100-binary.tar.gz"), "{error}");
}

#[test]
fn the_python_version_is_recognised() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("data_batch_1"), b"pickle").unwrap();
    let error = message(Format::Cifar10, &folder);
    assert!(error.contains("data_batch_1 belongs to the Python version; unpack"), "{error}");
}

#[test]
fn a_truncated_file_and_trailing_bytes_are_refused_with_the_record_size() {
    let folder = write_set(&CIFAR10, 2);
    damage(&folder, "data_batch_3.bin", |bytes| bytes.truncate(6145));
    let error = message(Format::Cifar10, &folder);
    let expected = "data_batch_3.bin has 6145 bytes, expected a multiple of 3073";
    assert!(error.contains(expected), "{error}");

    let folder = write_set(&CIFAR100, 2);
    damage(&folder, "test.bin", |bytes| bytes.push(0));
    let error = message(Format::Cifar100, &folder);
    assert!(error.contains("has 6149 bytes, expected a multiple of 3074"), "{error}");
}

#[test]
fn a_label_out_of_range_is_named_with_its_record() {
    let folder = write_set(&CIFAR10, 3);
    damage(&folder, "data_batch_2.bin", |bytes| bytes[2 * 3073] = 10);
    let error = message(Format::Cifar10, &folder);
    assert!(error.contains("label 10 of record 2 in"), "{error}");
    assert!(error.contains("data_batch_2.bin is out of range, expected 0 to 9"), "{error}");

    let folder = write_set(&CIFAR100, 2);
    damage(&folder, "test.bin", |bytes| bytes[1] = 100);
    let error = message(Format::Cifar100, &folder);
    assert!(error.contains("label 100 of record 0 in"), "{error}");
    assert!(error.contains("expected 0 to 99"), "{error}");
}

#[test]
fn a_file_without_images_is_refused() {
    for (format, variant) in [(Format::Cifar10, &CIFAR10), (Format::Cifar100, &CIFAR100)] {
        for file in variant.train.iter().chain(variant.test) {
            let folder = write_set(variant, 1);
            damage(&folder, file, Vec::clear);
            let error = open(format, folder.path()).unwrap_err();
            assert!(matches!(error, DatasetError::NoImages { .. }), "{error}");
            assert!(error.to_string().contains(file), "{error}");
        }
    }
}

/// A set in the real layout, with `records` random images per file.
fn write_set(variant: &Variant, records: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut draws = Draws::new(1, 1);
    for file in variant.train.iter().chain(variant.test) {
        let mut bytes = Vec::new();
        for _ in 0..records {
            bytes.extend(
                (0..variant.label_bytes).map(|_| draws.below(variant.classes.into()) as u8),
            );
            bytes.extend((0..3 * PLANE).map(|_| draws.below(256) as u8));
        }
        fs::write(folder.path().join(file), bytes).unwrap();
    }
    folder
}

fn damage(folder: &TempDir, file: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let path = folder.path().join(file);
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn open(format: Format, folder: &Path) -> Result<Dataset, DatasetError> {
    Dataset::open(format, folder)
}

/// The error text, checked against the house form.
fn message(format: Format, folder: &TempDir) -> String {
    let text = open(format, folder.path()).unwrap_err().to_string();
    assert!(!text.ends_with('.') && !text.contains('\n'), "{text}");
    text
}
