//! The binary version of CIFAR-10 and CIFAR-100: fixed-size records, planar RGB, no header.
//! Knows neither the Python version (pickles are never read) nor coarse labels beyond their byte.

use crate::error::DatasetError;
use crate::folder::Folder;
use crate::folder::Loaded;
use crate::folder::Spellings;
use crate::index::Contents;
use crate::index::ImageShape;
use crate::index::numbered_classes;
use crate::split::Split;

/// What differs between the two datasets.
#[derive(Debug)]
pub(crate) struct Variant {
    train: &'static [&'static str],
    test: &'static [&'static str],
    names: &'static str,
    classes: u32,
    /// Label bytes before the pixels; the last one is the label that is used.
    label_bytes: usize,
    record: &'static str,
    origin: &'static str,
}

pub(crate) const CIFAR10: Variant = Variant {
    train: &[
        "data_batch_1.bin",
        "data_batch_2.bin",
        "data_batch_3.bin",
        "data_batch_4.bin",
        "data_batch_5.bin",
    ],
    test: &["test_batch.bin"],
    names: "batches.meta.txt",
    classes: 10,
    label_bytes: 1,
    record: "1 label byte and 3072 pixel bytes per image",
    origin: "unpack cifar-10-binary.tar.gz of the CIFAR page and give its folder cifar-10-batches-bin",
};

pub(crate) const CIFAR100: Variant = Variant {
    train: &["train.bin"],
    test: &["test.bin"],
    names: "fine_label_names.txt",
    classes: 100,
    label_bytes: 2,
    record: "coarse label, fine label and 3072 pixel bytes per image",
    origin: "unpack cifar-100-binary.tar.gz of the CIFAR page and give its folder cifar-100-binary",
};

/// Reads both splits, and the class names if their file is there.
pub(crate) fn read(folder: &mut Folder, variant: &Variant) -> Result<Contents, DatasetError> {
    let train = read_split(folder, variant, variant.train)?;
    let test = read_split(folder, variant, variant.test)?;
    let classes = read_names(folder, variant)?;
    Ok(Contents { train, test, shape: SHAPE, classes })
}

fn read_split(
    folder: &mut Folder,
    variant: &Variant,
    files: Spellings<'_>,
) -> Result<Split, DatasetError> {
    let mut pixels = Vec::new();
    let mut labels = Vec::new();
    for name in files {
        let file = folder.read(&[name], variant.origin)?;
        append_records(&file, variant, &mut pixels, &mut labels)?;
    }
    Ok(Split::new(SHAPE, pixels, labels))
}

fn append_records(
    file: &Loaded,
    variant: &Variant,
    pixels: &mut Vec<u8>,
    labels: &mut Vec<u32>,
) -> Result<(), DatasetError> {
    let record_bytes = variant.label_bytes + 3 * PLANE;
    let found = file.bytes.len() as u64;
    if found == 0 {
        return Err(DatasetError::NoImages { path: file.path.clone() });
    }
    if !found.is_multiple_of(record_bytes as u64) {
        return Err(DatasetError::PartialRecord {
            path: file.path.clone(),
            content: variant.record,
            record: record_bytes as u64,
            found,
        });
    }
    pixels.reserve(file.bytes.len());
    for (record, bytes) in file.bytes.chunks_exact(record_bytes).enumerate() {
        let (head, planes) = bytes.split_at(variant.label_bytes);
        let label = u32::from(head[variant.label_bytes - 1]);
        if label >= variant.classes {
            return Err(DatasetError::LabelOutOfRange {
                path: file.path.clone(),
                record: record as u64,
                largest: variant.classes - 1,
                found: label,
                reason: "the classes of this dataset",
            });
        }
        labels.push(label);
        for i in 0..PLANE {
            pixels.extend([planes[i], planes[PLANE + i], planes[2 * PLANE + i]]);
        }
    }
    Ok(())
}

fn read_names(folder: &mut Folder, variant: &Variant) -> Result<Vec<String>, DatasetError> {
    let expected = variant.classes as usize;
    let Some(file) = folder.read_optional(&[variant.names])? else {
        return Ok(numbered_classes(expected));
    };
    let wrong =
        |problem: String| DatasetError::ClassNames { path: file.path.clone(), expected, problem };
    if file.bytes.len() > NAMES_BYTES_MAX {
        return Err(wrong(format!("has more than {NAMES_BYTES_MAX} bytes")));
    }
    let text = str::from_utf8(&file.bytes).map_err(|_| wrong("is not UTF-8 text".to_owned()))?;
    // The original file ends in an empty line.
    let names: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if names.len() != expected {
        return Err(wrong(format!("has {} names", names.len())));
    }
    // Names reach terminals and pages.
    if let Some(line) = names.iter().position(|name| name.contains(char::is_control)) {
        return Err(wrong(format!("has a control character in name {line}")));
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

const SIDE: usize = 32;
/// Bytes of one colour plane of one image.
const PLANE: usize = SIDE * SIDE;
const SHAPE: ImageShape = ImageShape { height: SIDE, width: SIDE, channels: 3 };
/// A hundred names take about one kilobyte.
const NAMES_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests;
