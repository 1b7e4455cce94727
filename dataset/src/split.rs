//! One split of a dataset: its labels, and its images in memory or in files. Makes samples of one
//! size out of either. Knows how images are stored, and leaves what is in a file to `decode` and how
//! it becomes a sample to `prepare`.

use crate::decode::ImageError;
use crate::index::ImageShape;
use crate::order::Draws;
use crate::prepare::Preparation;
use crate::prepare::Preparer;
use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Images and labels of one split. Never empty, and every label is below the class count.
#[derive(Clone)]
pub struct Split {
    images: Images,
    labels: Vec<u32>, // [N]
}

#[derive(Clone)]
enum Images {
    Memory { pixels: Vec<u8>, shape: ImageShape }, // [N, H, W, C]
    Files(Files),
}

/// Image files, as `folder/class/name`; the class is the one of the label.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) folder: PathBuf,
    pub(crate) classes: Arc<[String]>,
    pub(crate) names: Vec<Box<OsStr>>, // [N]
}

/// Mean and standard deviation of `pixel / 255` per channel, over all images of a split.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelStatistics {
    pub mean: Vec<f32>,
    /// Population standard deviation; 1 for a constant channel, so that dividing by it is safe.
    pub std: Vec<f32>,
}

/// The label of a sample that has none worth learning, such as an image that can't be decoded. No
/// dataset has a class of this number.
pub const IGNORED: u32 = u32::MAX;

impl Split {
    /// # Panics
    /// If the buffers do not fit together: parsers check sizes before they come here.
    pub(crate) fn new(shape: ImageShape, pixels: Vec<u8>, labels: Vec<u32>) -> Split {
        assert!(!labels.is_empty(), "a split holds at least one image");
        assert_eq!(pixels.len(), labels.len() * shape.len(), "one image per label");
        Split { images: Images::Memory { pixels, shape }, labels }
    }

    /// # Panics
    /// If there are not as many files as labels, or none.
    pub(crate) fn of_files(files: Files, labels: Vec<u32>) -> Split {
        assert!(!labels.is_empty(), "a split holds at least one image");
        assert_eq!(files.names.len(), labels.len(), "one file per label");
        Split { images: Images::Files(files), labels }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Always false for an opened dataset: a split without images is an error there.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// What the split takes of this process's memory: pixels, unless they are in files, labels and names.
    pub fn bytes(&self) -> u64 {
        let images = match &self.images {
            Images::Memory { pixels, .. } => pixels.len(),
            Images::Files(Files { names, .. }) => {
                size_of_val(&names[..]) + names.iter().map(|name| name.len()).sum::<usize>()
            }
        };
        (images + size_of_val(&self.labels[..])) as u64
    }

    /// Class of image `i`.
    pub fn label(&self, i: usize) -> u32 {
        self.labels[i]
    }

    /// Writes image `i` as a sample, `[H, W, C]`. What the preparation leaves to chance it takes from
    /// `draws`: the same draws give the same pixels, on every machine.
    ///
    /// # Panics
    /// If `into` does not have the size of a sample, or the preparation is not one for the place of
    /// the images: [`Preparation::AsStored`] belongs to images in memory, all others to files.
    pub fn image(
        &self,
        i: usize,
        preparer: &mut Preparer,
        draws: &mut Draws,
        into: &mut [u8],
    ) -> Result<(), ImageError> {
        match &self.images {
            Images::Memory { pixels, shape } => {
                assert_eq!(preparer.preparation(), Preparation::AsStored, "images in memory");
                into.copy_from_slice(&pixels[i * shape.len()..][..shape.len()]);
                Ok(())
            }
            Images::Files(files) => preparer.sample(&files.path(i, self.labels[i]), draws, into),
        }
    }

    /// Stored pixels of image `i`: `[H, W, C]`; `None` when they are in a file, and not of one size.
    pub fn pixels(&self, i: usize) -> Option<&[u8]> {
        match &self.images {
            Images::Memory { pixels, shape } => Some(&pixels[i * shape.len()..][..shape.len()]),
            Images::Files(_) => None,
        }
    }

    /// File of image `i`; `None` when it has none of its own.
    pub fn path(&self, i: usize) -> Option<PathBuf> {
        match &self.images {
            Images::Memory { .. } => None,
            Images::Files(files) => Some(files.path(i, self.labels[i])),
        }
    }

    /// From exact integer sums, so every machine gets the same bits. `None` for images in files:
    /// nobody decodes a million of them to find two numbers.
    pub fn channel_statistics(&self) -> Option<ChannelStatistics> {
        let Images::Memory { pixels, shape } = &self.images else { return None };
        let mut sums = vec![(0u64, 0u64); shape.channels];
        for pixel in pixels.chunks_exact(shape.channels) {
            for ((sum, squares), &value) in sums.iter_mut().zip(pixel) {
                *sum += u64::from(value);
                *squares += u64::from(value) * u64::from(value);
            }
        }
        let count = (pixels.len() / shape.channels) as u64;
        let moments = sums.iter().map(|&(sum, squares)| moments(count, sum, squares));
        let (mean, std) = moments.unzip();
        Some(ChannelStatistics { mean, std })
    }
}

impl Files {
    fn path(&self, i: usize, label: u32) -> PathBuf {
        self.folder.join(&self.classes[label as usize]).join(&*self.names[i])
    }
}

/// Sizes only: a split may hold gigabytes.
impl fmt::Debug for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut output = f.debug_struct("Split");
        output.field("len", &self.len());
        match &self.images {
            Images::Memory { shape, .. } => output.field("shape", shape),
            Images::Files(files) => output.field("folder", &files.folder),
        };
        output.finish()
    }
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
