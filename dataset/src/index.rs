//! A dataset: two splits of labelled images, the shape of a sample, class names and a fingerprint.
//! Knows no file layout (that is `idx`, `cifar` and `image_folder`), no pixel (`split`) and no order
//! of visits (`order`).

use crate::cifar;
use crate::error::DatasetError;
use crate::folder::Folder;
use crate::idx;
use crate::image_folder;
use crate::split::Split;
use std::fmt;
use std::path::Path;

/// File layouts that [`Dataset::open`] reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// MNIST and its relatives: four IDX files, grey images.
    Idx,
    /// CIFAR-10, binary version.
    Cifar10,
    /// CIFAR-100, binary version, fine labels.
    Cifar100,
    /// A folder per class with JPEG and PNG files of any size, of which samples of `size` x `size`
    /// pixels are made.
    ImageFolder { size: usize },
}

/// Size of every sample of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageShape {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

/// A labelled image dataset: `u8` samples, `[N, H, W, C]`.
#[derive(Debug, Clone)]
pub struct Dataset {
    pub train: Split,
    pub test: Split,
    /// Of a sample, as [`Split::image`] makes it.
    pub shape: ImageShape,
    /// Class names; the label is the index.
    pub classes: Vec<String>,
    pub fingerprint: Fingerprint,
}

/// SHA-256 over (name, length, content) of every file that was read, in a fixed order. Workers with
/// equal fingerprints see equal samples. Of a folder of images, which may hold a million, it takes
/// every name and length, but the content of a fixed choice of files only.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Dataset {
    /// Reads and checks all files of the dataset; nothing is read lazily later. Image files are the
    /// exception: they are listed now, and each is decoded when its sample is wanted.
    pub fn open(format: Format, folder: &Path) -> Result<Dataset, DatasetError> {
        let mut folder = Folder::open(folder)?;
        let contents = match format {
            Format::Idx => idx::read(&mut folder)?,
            Format::Cifar10 => cifar::read(&mut folder, &cifar::CIFAR10)?,
            Format::Cifar100 => cifar::read(&mut folder, &cifar::CIFAR100)?,
            Format::ImageFolder { size } => image_folder::read(&mut folder, size)?,
        };
        let Contents { train, test, shape, classes } = contents;
        Ok(Dataset { train, test, shape, classes, fingerprint: folder.fingerprint() })
    }
}

impl Fingerprint {
    pub(crate) fn from_digest(digest: [u8; 32]) -> Fingerprint {
        Fingerprint(digest)
    }

    /// Reads back what [`Fingerprint::as_bytes`] gave; `None` unless there are exactly 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Fingerprint> {
        bytes.try_into().ok().map(Fingerprint)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl ImageShape {
    /// Bytes (and values) per image.
    #[expect(clippy::len_without_is_empty, reason = "an image is never empty")]
    pub fn len(&self) -> usize {
        self.height * self.width * self.channels
    }
}

impl Format {
    /// The name in job files and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Idx => "idx",
            Format::Cifar10 => "cifar10",
            Format::Cifar100 => "cifar100",
            Format::ImageFolder { .. } => "imagefolder",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for ImageShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.height, self.width, self.channels)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// What a format's reader returns; the fingerprint is added by [`Dataset::open`].
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) train: Split,
    pub(crate) test: Split,
    pub(crate) shape: ImageShape,
    pub(crate) classes: Vec<String>,
}

/// Class names where a format has none: the labels themselves.
pub(crate) fn numbered_classes(count: usize) -> Vec<String> {
    (0..count).map(|label| label.to_string()).collect()
}

#[cfg(test)]
mod tests;
