//! Everything that can be wrong with a dataset, each with the place, what was expected, what was
//! found, and what to do. Knows the words of every format, and reads no file itself.

use crate::index::ImageShape;
use std::io;
use std::path::Path;
use std::path::PathBuf;

/// Why a dataset could not be opened. The text is meant for the person who typed the path.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    #[error("dataset folder {} {problem}; check the path{}", folder.display(), resolved_from(folder))]
    Folder { folder: PathBuf, problem: String },

    #[error("dataset folder {} has no file {accepted}; {advice}", folder.display())]
    MissingFile { folder: PathBuf, accepted: String, advice: String },

    #[error("cannot read {}: {cause}", path.display())]
    Unreadable { path: PathBuf, cause: io::Error },

    #[error("{} is not a regular file; a dataset is read from plain files only", path.display())]
    NotAFile { path: PathBuf },

    #[error(
        "{} has {found} bytes, more than the limit of {limit} for one file; split the dataset or use a smaller one",
        path.display()
    )]
    FileTooLarge { path: PathBuf, limit: u64, found: u64 },

    #[error(
        "{} starts with {found:#010x}, expected {expected:#010x} ({content}); {}",
        path.display(),
        magic_advice(*found)
    )]
    WrongMagic { path: PathBuf, content: &'static str, expected: u32, found: u32 },

    #[error(
        "the header of {} gives image {axis} {found}, expected 1 to {limit}; the file is damaged or not an image file",
        path.display()
    )]
    Dimension { path: PathBuf, axis: &'static str, limit: u32, found: u32 },

    #[error(
        "{} is truncated: expected {expected} bytes ({content}), found {found}; copy or download it again",
        path.display()
    )]
    Truncated { path: PathBuf, content: String, expected: u64, found: u64 },

    #[error(
        "{} has trailing bytes: expected {expected} bytes ({content}), found {found}; header and content disagree, \
         copy or download it again",
        path.display()
    )]
    TrailingBytes { path: PathBuf, content: String, expected: u64, found: u64 },

    #[error(
        "{} has {found} bytes, expected a multiple of {record} ({content}); \
         it is truncated or not from the binary version of the dataset",
        path.display()
    )]
    PartialRecord { path: PathBuf, content: &'static str, record: u64, found: u64 },

    #[error("{} holds no image, expected at least one", path.display())]
    NoImages { path: PathBuf },

    #[error(
        "{} holds {images} images but {} holds {labels} labels; the two files do not belong together",
        images_path.display(),
        labels_path.display()
    )]
    CountMismatch { images_path: PathBuf, images: u64, labels_path: PathBuf, labels: u64 },

    #[error(
        "label {found} of record {record} in {} is out of range, expected 0 to {largest} ({reason}); \
         the file is damaged or of another dataset",
        path.display()
    )]
    LabelOutOfRange { path: PathBuf, record: u64, largest: u32, found: u32, reason: &'static str },

    #[error(
        "images of {} are {test} but those of {} are {train}; both splits need one size",
        test_path.display(),
        train_path.display()
    )]
    ShapeMismatch { train_path: PathBuf, train: ImageShape, test_path: PathBuf, test: ImageShape },

    #[error("{} {problem}; expected {expected} class names, one per line, or no such file", path.display())]
    ClassNames { path: PathBuf, expected: usize, problem: String },

    #[error(
        "dataset folder {} has no folder {missing}; images lie in train/CLASS/ and val/CLASS/ below it",
        folder.display()
    )]
    MissingSplit { folder: PathBuf, missing: &'static str },

    #[error("{} holds no class folder; put the images of each class in a folder of its name", folder.display())]
    NoClasses { folder: PathBuf },

    #[error(
        "class folders without a .jpg, .jpeg or .png file in {}: {}; remove them or add images",
        folder.display(),
        listed(classes)
    )]
    EmptyClasses { folder: PathBuf, classes: Vec<String> },

    #[error(
        "classes of {} that {} does not have: {}; both need the same class names",
        folder.display(),
        train.display(),
        listed(classes)
    )]
    UnknownClasses { folder: PathBuf, train: PathBuf, classes: Vec<String> },

    #[error("{} is a folder inside a class folder; move its images up, into the class folder", path.display())]
    Nested { path: PathBuf },

    #[error("the name of class folder {} has a control character or is not UTF-8; rename it", path.display())]
    ClassFolderName { path: PathBuf },

    #[error("{} has more than {limit} {what}; use a smaller dataset", folder.display())]
    TooMany { folder: PathBuf, what: &'static str, limit: usize },
}

/// The first few names, and how many more there are.
fn listed(names: &[String]) -> String {
    let shown = names.len().min(NAMES_SHOWN);
    let more = names.len() - shown;
    let shown = names[..shown].join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

/// The working directory, which decides what a relative dataset path means.
fn resolved_from(folder: &Path) -> String {
    if folder.is_absolute() {
        return String::new();
    }
    let here = std::env::current_dir()
        .map_or_else(|_| "the working directory".to_owned(), |path| path.display().to_string());
    format!(", it is resolved from {here}")
}

fn magic_advice(found: u32) -> &'static str {
    if found >> 16 == GZIP_MAGIC {
        "the file is still compressed, unpack it with gunzip"
    } else {
        "the file is damaged, or images and labels are swapped"
    }
}

const NAMES_SHOWN: usize = 8;
/// First two bytes of a gzip file; MNIST is distributed as `.gz`.
const GZIP_MAGIC: u32 = 0x1f8b;
