//! The dataset in memory: two splits of labelled images, their shape, class names and fingerprint.
//! Knows no file layout (that is `idx` and `cifar`) and no order of visits (that is `order`).

use crate::cifar;
use crate::error::DatasetError;
use crate::folder::Folder;
use crate::idx;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// File layouts that [`Dataset::open`] reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// MNIST and its relatives: four IDX files, grey images.
    Idx,
    /// CIFAR-10, binary version.
    Cifar10,
    /// CIFAR-100, binary version, fine labels.
    Cifar100,
}

/// Size of every image of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageShape {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

/// A labelled image dataset in memory: `u8`, `[N, H, W, C]`.
#[derive(Debug, Clone)]
pub struct Dataset {
    pub train: Split,
    pub test: Split,
    pub shape: ImageShape,
    /// Class names; the label is the index.
    pub classes: Vec<String>,
    pub fingerprint: Fingerprint,
}

/// Images and labels of one split. Never empty, and every label is below the class count.
#[derive(Clone)]
pub struct Split {
    pixels: Vec<u8>,  // [N, H, W, C]
    labels: Vec<u32>, // [N]
    shape: ImageShape,
}

/// Mean and standard deviation of `pixel / 255` per channel, over all images of a split.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelStatistics {
    pub mean: Vec<f32>,
    /// Population standard deviation; 1 for a constant channel, so that dividing by it is safe.
    pub std: Vec<f32>,
}

/// SHA-256 over (name, length, content) of every file that was read, in a fixed order. Workers with
/// equal fingerprints see equal samples.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Dataset {
    /// Reads and checks all files of the dataset; nothing is read lazily later.
    pub fn open(format: Format, folder: &Path) -> Result<Dataset, DatasetError> {
        let mut folder = Folder::open(folder)?;
        let contents = match format {
            Format::Idx => idx::read(&mut folder)?,
            Format::Cifar10 => cifar::read(&mut folder, &cifar::CIFAR10)?,
            Format::Cifar100 => cifar::read(&mut folder, &cifar::CIFAR100)?,
        };
        let Contents { train, test, shape, classes } = contents;
        Ok(Dataset { train, test, shape, classes, fingerprint: folder.fingerprint() })
    }
}

impl Split {
    /// # Panics
    /// If the buffers do not fit together: parsers check sizes before they come here.
    pub(crate) fn new(shape: ImageShape, pixels: Vec<u8>, labels: Vec<u32>) -> Split {
        assert!(!labels.is_empty(), "a split holds at least one image");
        assert_eq!(pixels.len(), labels.len() * shape.len(), "one image per label");
        Split { pixels, labels, shape }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Always false for an opened dataset: a split without images is an error there.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Class of image `i`.
    pub fn label(&self, i: usize) -> u32 {
        self.labels[i]
    }

    /// Pixels of image `i`: `[H, W, C]`.
    pub fn pixels(&self, i: usize) -> &[u8] {
        &self.pixels[i * self.shape.len()..][..self.shape.len()]
    }

    /// From exact integer sums, so every machine gets the same bits.
    pub fn channel_statistics(&self) -> ChannelStatistics {
        let mut sums = vec![(0u64, 0u64); self.shape.channels];
        for pixel in self.pixels.chunks_exact(self.shape.channels) {
            for ((sum, squares), &value) in sums.iter_mut().zip(pixel) {
                *sum += u64::from(value);
                *squares += u64::from(value) * u64::from(value);
            }
        }
        let count = (self.pixels.len() / self.shape.channels) as u64;
        let moments = sums.iter().map(|&(sum, squares)| moments(count, sum, squares));
        let (mean, std) = moments.unzip();
        ChannelStatistics { mean, std }
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
    /// The name in job files and messages; [`Format::from_str`] reads it back.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Idx => "idx",
            Format::Cifar10 => "cifar10",
            Format::Cifar100 => "cifar100",
        }
    }
}

impl FromStr for Format {
    type Err = DatasetError;

    fn from_str(name: &str) -> Result<Format, DatasetError> {
        [Format::Idx, Format::Cifar10, Format::Cifar100]
            .into_iter()
            .find(|format| format.as_str() == name)
            .ok_or_else(|| DatasetError::UnknownFormat { found: name.to_owned() })
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

/// Sizes only: a split may hold gigabytes.
impl fmt::Debug for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Split").field("len", &self.len()).field("shape", &self.shape).finish()
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

/// Mean and deviation of `value / 255`. `n * squares - sum^2` is exact in integers (and >= 0, by
/// Cauchy-Schwarz), where the difference of two rounded means would cancel.
fn moments(count: u64, sum: u64, squares: u64) -> (f32, f32) {
    let scale = count as f64 * 255.0;
    let (sum_wide, count_wide) = (u128::from(sum), u128::from(count));
    let spread = count_wide * u128::from(squares) - sum_wide * sum_wide;
    let std = if spread == 0 { 1.0 } else { (spread as f64).sqrt() / scale };
    ((sum as f64 / scale) as f32, std as f32)
}

#[cfg(test)]
mod tests;
