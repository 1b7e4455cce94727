//! The IDX files of MNIST and its relatives: a big-endian header, then `u8` data.
//! Knows grey images (`[N, H, W]`) and byte labels only; other IDX types are refused by their magic.

use crate::error::DatasetError;
use crate::folder::Folder;
use crate::folder::Loaded;
use crate::folder::Spellings;
use crate::index::Contents;
use crate::index::ImageShape;
use crate::index::numbered_classes;
use crate::split::Split;
use std::path::PathBuf;

/// Reads both splits. The class count is the largest training label + 1: IDX carries no names.
pub(crate) fn read(folder: &mut Folder) -> Result<Contents, DatasetError> {
    let train = read_part(folder, TRAIN_IMAGES, TRAIN_LABELS)?;
    let test = read_part(folder, TEST_IMAGES, TEST_LABELS)?;
    if train.shape != test.shape {
        return Err(DatasetError::ShapeMismatch {
            train_path: train.images_path,
            train: train.shape,
            test_path: test.images_path,
            test: test.shape,
        });
    }
    let largest = train.labels.iter().copied().max().unwrap_or(0);
    if let Some(record) = test.labels.iter().position(|&label| label > largest) {
        return Err(DatasetError::LabelOutOfRange {
            path: test.labels_path,
            record: record as u64,
            largest,
            found: test.labels[record],
            reason: "the largest label of the training split",
        });
    }
    Ok(Contents {
        shape: train.shape,
        classes: numbered_classes(largest as usize + 1),
        train: train.into_split(),
        test: test.into_split(),
    })
}

/// One split before it is checked against the other.
struct Part {
    images_path: PathBuf,
    labels_path: PathBuf,
    shape: ImageShape,
    pixels: Vec<u8>,
    labels: Vec<u32>,
}

impl Part {
    fn into_split(self) -> Split {
        Split::new(self.shape, self.pixels, self.labels)
    }
}

fn read_part(
    folder: &mut Folder,
    images: Spellings<'_>,
    labels: Spellings<'_>,
) -> Result<Part, DatasetError> {
    let images = folder.read(images, ORIGIN)?;
    let labels = folder.read(labels, ORIGIN)?;
    let shape = check_images(&images)?;
    check_labels(&labels)?;
    let image_count = ((images.bytes.len() - IMAGES_HEADER) / shape.len()) as u64;
    let label_count = (labels.bytes.len() - LABELS_HEADER) as u64;
    if image_count != label_count {
        return Err(DatasetError::CountMismatch {
            images_path: images.path,
            images: image_count,
            labels_path: labels.path,
            labels: label_count,
        });
    }
    let mut pixels = images.bytes;
    pixels.drain(..IMAGES_HEADER);
    Ok(Part {
        images_path: images.path,
        labels_path: labels.path,
        shape,
        pixels,
        labels: labels.bytes[LABELS_HEADER..].iter().map(|&label| u32::from(label)).collect(),
    })
}

/// After this the file is exactly its header and one image or more of the returned shape.
fn check_images(file: &Loaded) -> Result<ImageShape, DatasetError> {
    check_magic(file, "IDX images, u8", IMAGES_MAGIC)?;
    let [_, count, height, width] = words(file, "the image header alone")?;
    check_dimension(file, "height", height)?;
    check_dimension(file, "width", width)?;
    // At most 2^32 * 2^14 * 2^14: no overflow.
    let expected = IMAGES_HEADER as u64 + u64::from(count) * u64::from(height) * u64::from(width);
    check_length(file, expected, || format!("header says {count} images of {height}x{width}"))?;
    check_count(file, count)?;
    Ok(ImageShape { height: height as usize, width: width as usize, channels: 1 })
}

/// After this the file is exactly its header and one label or more.
fn check_labels(file: &Loaded) -> Result<(), DatasetError> {
    check_magic(file, "IDX labels, u8", LABELS_MAGIC)?;
    let [_, count] = words(file, "the label header alone")?;
    let expected = LABELS_HEADER as u64 + u64::from(count);
    check_length(file, expected, || format!("header says {count} labels"))?;
    check_count(file, count)
}

/// Goes before the rest of the header: a swapped or packed file may be shorter than that.
fn check_magic(file: &Loaded, content: &'static str, expected: u32) -> Result<(), DatasetError> {
    let [found] = words(file, "the magic number alone")?;
    if found == expected {
        return Ok(());
    }
    Err(DatasetError::WrongMagic { path: file.path.clone(), content, expected, found })
}

/// The first `COUNT` big-endian words of the file.
fn words<const COUNT: usize>(file: &Loaded, content: &str) -> Result<[u32; COUNT], DatasetError> {
    let (chunks, _) = file.bytes.as_chunks::<4>();
    match chunks.first_chunk::<COUNT>() {
        Some(words) => Ok(words.map(u32::from_be_bytes)),
        None => Err(DatasetError::Truncated {
            path: file.path.clone(),
            content: content.to_owned(),
            expected: 4 * COUNT as u64,
            found: file.bytes.len() as u64,
        }),
    }
}

fn check_dimension(file: &Loaded, axis: &'static str, found: u32) -> Result<(), DatasetError> {
    if (1..=DIMENSION_MAX).contains(&found) {
        return Ok(());
    }
    Err(DatasetError::Dimension { path: file.path.clone(), axis, limit: DIMENSION_MAX, found })
}

fn check_length(
    file: &Loaded,
    expected: u64,
    content: impl Fn() -> String,
) -> Result<(), DatasetError> {
    let found = file.bytes.len() as u64;
    let path = || file.path.clone();
    if found < expected {
        return Err(DatasetError::Truncated { path: path(), content: content(), expected, found });
    }
    if found > expected {
        let content = content();
        return Err(DatasetError::TrailingBytes { path: path(), content, expected, found });
    }
    Ok(())
}

fn check_count(file: &Loaded, count: u32) -> Result<(), DatasetError> {
    if count > 0 { Ok(()) } else { Err(DatasetError::NoImages { path: file.path.clone() }) }
}

const TRAIN_IMAGES: Spellings<'static> = &["train-images-idx3-ubyte", "train-images.idx3-ubyte"];
const TRAIN_LABELS: Spellings<'static> = &["train-labels-idx1-ubyte", "train-labels.idx1-ubyte"];
const TEST_IMAGES: Spellings<'static> = &[
    "t10k-images-idx3-ubyte",
    "t10k-images.idx3-ubyte",
    "test-images-idx3-ubyte",
    "test-images.idx3-ubyte",
];
const TEST_LABELS: Spellings<'static> = &[
    "t10k-labels-idx1-ubyte",
    "t10k-labels.idx1-ubyte",
    "test-labels-idx1-ubyte",
    "test-labels.idx1-ubyte",
];
const ORIGIN: &str = "IDX files come from the MNIST, Fashion-MNIST, KMNIST and EMNIST pages (unpack the .gz); \
     examples/digits is a small set";
/// 0, 0, type 8 (u8), 3 dimensions.
const IMAGES_MAGIC: u32 = 0x0000_0803;
/// 0, 0, type 8 (u8), 1 dimension.
const LABELS_MAGIC: u32 = 0x0000_0801;
/// Magic, count, height, width.
const IMAGES_HEADER: usize = 16;
/// Magic, count.
const LABELS_HEADER: usize = 8;
/// Larger than any image that a classifier takes; keeps the size product far from overflow.
const DIMENSION_MAX: u32 = 16_384;

#[cfg(test)]
mod tests;
