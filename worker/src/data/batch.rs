//! From positions of the sample stream to the bytes, labels and crops of one slice.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use dataset::{
    Dataset, Draws, Format, IGNORED, ImageShape, Preparation, Preparer, SampleOrder, Split,
    translate,
};
use kernels::ops::{Crop, Labels, Window};
use proto::Timeline;
use proto::job::{Augment, DataFormat, ImageFolder, Job, Normalisation, Policy, TrainSize};

use super::erasing::erased;
use super::lanes::Lanes;
use super::mixing::{Mixed, Mixing};

/// The samples of one slice.
#[derive(Debug, Default)]
pub struct Batch {
    pub pixels: Vec<u8>, // [N, H, W, C]
    /// `dataset::IGNORED` for a sample that is none; its pixels are 0.
    pub labels: Vec<u32>,
    pub crops: Vec<Crop>,
    /// What is erased of each; nothing of a test image.
    pub erased: Vec<Window>,
    /// How the samples mix; `None` where each stays what it is.
    pub mixed: Option<Mixed>,
    /// Images that can't be decoded, in the order of the samples.
    pub quarantined: Vec<Quarantined>,
    /// An image whose file is gone, or can't be read on this machine: others may well read it, so the batch is of no use.
    pub unreadable: Option<Quarantined>,
}

/// An image that gave no sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Its number in the split.
    pub index: usize,
    pub path: PathBuf,
    pub cause: String,
}

/// The training stream and the test set of a job.
#[derive(Clone, Debug)]
pub struct Source {
    dataset: Arc<Dataset>,
    order: SampleOrder,
    seed: u64,
    augment: Augment,
    timeline: Timeline,
    sizes: Vec<TrainSize>,
    train: Preparation,
    test: Preparation,
    decode_threads: NonZeroUsize,
    mean: Vec<f32>,
    std: Vec<f32>,
}

/// A sample besides its pixels.
#[derive(Debug)]
pub(super) struct Tag {
    label: u32,
    crop: Crop,
    erased: Window,
    fault: Option<Fault>,
}

/// Why an image gave no sample.
#[derive(Debug)]
enum Fault {
    /// Every copy of the file has it.
    Content(Quarantined),
    /// Of this machine.
    Place(Quarantined),
}

/// The dataset crate's name of a job's format.
pub fn format(job: &Job) -> Format {
    match job.data.format {
        DataFormat::Idx => Format::Idx,
        DataFormat::Cifar10 => Format::Cifar10,
        DataFormat::Cifar100 => Format::Cifar100,
        DataFormat::ImageFolder(ImageFolder { size, .. }) => Format::ImageFolder { size },
    }
}

impl Source {
    pub fn new(dataset: Arc<Dataset>, job: &Job) -> Source {
        let (mean, std) = match &job.data.normalisation {
            Normalisation::Given { mean, std } => (mean.clone(), std.clone()),
            Normalisation::Measured => {
                let measured = dataset.train.channel_statistics();
                let measured = measured.expect("a job gives images in files their normalisation");
                (measured.mean, measured.std)
            }
        };
        let order = SampleOrder::new(job.seed, dataset.train.len() as u64);
        let (train, test) = preparations(&dataset, job);
        Source {
            order,
            seed: job.seed,
            augment: job.data.augment,
            timeline: Timeline::new(job, dataset.train.len() as u64),
            sizes: job.data.sizes.clone(),
            train,
            test,
            decode_threads: NonZeroUsize::MIN,
            mean,
            std,
            dataset,
        }
    }

    /// Threads that decode image files ahead of their use; no other format needs one. They change
    /// nothing but the time.
    pub fn with_decode_threads(self, decode_threads: NonZeroUsize) -> Source {
        Source { decode_threads, ..self }
    }

    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Of all training samples of one step; test samples have the dataset's.
    pub fn train_shape(&self, step: u64) -> ImageShape {
        let shape = self.dataset.shape;
        let side = self.timeline.train_size(&self.sizes, step);
        side.map_or(shape, |side| ImageShape { height: side, width: side, ..shape })
    }

    /// Per channel, of `pixel / 255`.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// Per channel, of `pixel / 255`.
    pub fn std(&self) -> &[f32] {
        &self.std
    }

    /// The slice at these positions of the stream, each sample with its own chance; made here and now.
    pub fn train(&self, positions: Range<u64>) -> Batch {
        let (mut batch, mut preparer) = (Batch::default(), Preparer::new(self.train));
        let first = positions.start;
        for position in positions {
            let tag = self.train_sample(position, &mut preparer, &mut batch.pixels);
            batch.add(tag);
        }
        batch.replace_quarantined();
        self.mix(first, &mut batch);
        batch
    }

    /// Says how the samples of the slice that starts at this position mix.
    pub(super) fn mix(&self, first_position: u64, slice: &mut Batch) {
        let shape = self.train_shape(self.timeline.step_of(first_position));
        let sides = [shape.height, shape.width];
        let mixing = Mixing::new(self.seed, &self.augment);
        slice.mixed = mixing.of_slice(first_position, sides, &slice.labels);
    }

    /// `len` test images from `first` on, unchanged; beyond the end of the set come blank ones.
    pub fn test(&self, first: usize, len: usize) -> Batch {
        let (mut batch, mut preparer) = (Batch::default(), Preparer::new(self.test));
        for index in first..(first + len).min(self.dataset.test.len()) {
            let tag = self.test_sample(index, &mut preparer, &mut batch.pixels);
            batch.add(tag);
        }
        batch.fill_up(len, self.dataset.shape.len());
        batch
    }

    /// The training stream from one position on, as `positions` maps 0, 1, 2, ... to it.
    pub(super) fn train_lanes(
        self,
        positions: impl Fn(u64) -> u64 + Clone + Send + 'static,
    ) -> std::io::Result<Lanes> {
        let (preparation, threads) = (self.train, self.lane_threads());
        Lanes::start(preparation, threads, move |number, preparer, pixels| {
            Some(self.train_sample(positions(number), preparer, pixels))
        })
    }

    /// These test images, once each.
    pub fn test_lanes(&self, samples: Range<usize>) -> std::io::Result<Lanes> {
        let source = self.clone();
        Lanes::start(self.test, self.lane_threads(), move |number, preparer, pixels| {
            let index = samples.start + number as usize;
            samples.contains(&index).then(|| source.test_sample(index, preparer, pixels))
        })
    }

    /// Images in memory are copied faster than they are handed from thread to thread.
    fn lane_threads(&self) -> usize {
        if self.train == Preparation::AsStored { 0 } else { self.decode_threads.get() }
    }

    fn train_sample(&self, position: u64, preparer: &mut Preparer, pixels: &mut Vec<u8>) -> Tag {
        let mut draws = Draws::new(self.seed, position);
        let Augment { pad, flip, policy, erase, .. } = self.augment;
        let mut offset = || draws.below(2 * pad as u64 + 1) as isize - pad as isize;
        let (top, left) = (offset(), offset());
        let crop = Crop { top, left, flip: flip && draws.coin() };
        let index = self.order.sample(position) as usize;
        let shape = self.train_shape(self.timeline.step_of(position));
        if self.train != Preparation::AsStored {
            preparer.resize_crops_to(shape.height);
        }
        let sample = Sample { split: &self.dataset.train, index, shape, crop };
        let start = pixels.len();
        let mut tag = self.append(sample, preparer, &mut draws, pixels);
        if let Some(policy) = of_dataset(policy)
            && tag.fault.is_none()
        {
            // Behind the crop, as in torchvision's recipes, so the crop is not left to the device. Mirroring is: operations
            // that have a side are as likely to either one.
            let pixels = &mut pixels[start..];
            if pad > 0 {
                translate(shape, pixels, [-left, -top]);
            }
            policy.apply(shape, &mut draws, pixels);
            tag.crop = Crop { top: 0, left: 0, ..crop };
        }
        let sides = [shape.height, shape.width];
        Tag { erased: erased(erase, sides, &mut draws), ..tag }
    }

    fn test_sample(&self, index: usize, preparer: &mut Preparer, pixels: &mut Vec<u8>) -> Tag {
        let crop = Crop { top: 0, left: 0, flip: false };
        let sample = Sample { split: &self.dataset.test, index, shape: self.dataset.shape, crop };
        // Nothing is left to chance in a test image.
        self.append(sample, preparer, &mut Draws::new(self.seed, 0), pixels)
    }

    fn append(
        &self,
        sample: Sample<'_>,
        preparer: &mut Preparer,
        draws: &mut Draws,
        pixels: &mut Vec<u8>,
    ) -> Tag {
        let Sample { split, index, shape, crop } = sample;
        let erased = Window::default();
        let start = pixels.len();
        pixels.resize(start + shape.len(), 0);
        match split.image(index, preparer, draws, &mut pixels[start..]) {
            Ok(()) => Tag { label: split.label(index), crop, erased, fault: None },
            Err(error) => {
                pixels[start..].fill(0);
                let cause = error.fault.to_string();
                let image = Quarantined { index, path: error.path, cause };
                let in_content = error.fault.is_in_content();
                let fault = if in_content { Fault::Content(image) } else { Fault::Place(image) };
                Tag { label: IGNORED, crop, erased, fault: Some(fault) }
            }
        }
    }
}

impl Batch {
    /// The classes that the samples are to be taken for.
    pub fn classes(&self) -> Labels<'_> {
        match &self.mixed {
            None => Labels::of(&self.labels),
            Some(Mixed { lambda, others, .. }) => {
                Labels { own: &self.labels, other: others, lambda: std::slice::from_ref(lambda) }
            }
        }
    }

    /// No sample is left; the memory is.
    pub(super) fn clear(&mut self) {
        let Batch { pixels, labels, crops, erased, mixed, quarantined, unreadable } = self;
        pixels.clear();
        labels.clear();
        crops.clear();
        erased.clear();
        quarantined.clear();
        (*mixed, *unreadable) = (None, None);
    }

    /// Takes in what belongs to the pixels that were appended last.
    pub(super) fn add(&mut self, tag: Tag) {
        self.labels.push(tag.label);
        self.crops.push(tag.crop);
        self.erased.push(tag.erased);
        match tag.fault {
            Some(Fault::Content(image)) => self.quarantined.push(image),
            Some(Fault::Place(image)) => self.unreadable = Some(image),
            None => {}
        }
    }

    /// Puts another sample in the place of each that is none: the next one of the slice, and after the last comes the first.
    /// So a step has as many samples as its batch, by which loss and gradients are divided, BatchNorm sees images only, and
    /// who computes the slice changes nothing. A slice without any image at all stays blank and counts for nothing.
    pub(super) fn replace_quarantined(&mut self) {
        let len = self.labels.len();
        if self.quarantined.is_empty() {
            return;
        }
        let is_blank: Vec<bool> = self.labels.iter().map(|&label| label == IGNORED).collect();
        for blank in (0..len).filter(|&index| is_blank[index]) {
            let mut others = (1..len).map(|ahead| (blank + ahead) % len);
            let Some(from) = others.find(|&other| !is_blank[other]) else { return };
            let sample_len = self.pixels.len() / len;
            self.pixels.copy_within(from * sample_len..(from + 1) * sample_len, blank * sample_len);
            (self.labels[blank], self.crops[blank]) = (self.labels[from], self.crops[from]);
            self.erased[blank] = self.erased[from];
        }
    }

    /// Appends blank samples up to `len`, which count for nothing.
    pub fn fill_up(&mut self, len: usize, sample_len: usize) {
        self.pixels.resize(len * sample_len, 0);
        self.labels.resize(len, IGNORED);
        self.crops.resize(len, Crop { top: 0, left: 0, flip: false });
        self.erased.resize(len, Window::default());
    }
}

/// What a sample is made of, apart from its chance.
struct Sample<'a> {
    split: &'a Split,
    index: usize,
    shape: ImageShape,
    crop: Crop,
}

/// The dataset crate's name of a job's policy.
fn of_dataset(policy: Policy) -> Option<dataset::Policy> {
    match policy {
        Policy::None => None,
        Policy::TrivialAugment => Some(dataset::Policy::TrivialAugment),
        Policy::RandAugment { operations, magnitude } => {
            Some(dataset::Policy::RandAugment { operations, magnitude })
        }
    }
}

/// Of training and test images. A dataset of another format than the job's, which evaluation may
/// have, is prepared as is usual for it.
fn preparations(dataset: &Dataset, job: &Job) -> (Preparation, Preparation) {
    if dataset.train.path(0).is_none() {
        return (Preparation::AsStored, Preparation::AsStored);
    }
    let size = dataset.shape.height;
    let images = match job.data.format {
        DataFormat::ImageFolder(images) if images.size == size => images,
        _ => ImageFolder::usual(size),
    };
    let ImageFolder { resize, scale, ratio, .. } = images;
    (
        Preparation::RandomResizedCrop { size, scale, ratio },
        Preparation::ResizeCentreCrop { resize, size },
    )
}

// What the data path marks is what the loss passes over.
const _: () = assert!(IGNORED == kernels::ops::IGNORED_LABEL);
// What a job file may ask for is what the policy knows.
const _: () = assert!(dataset::Policy::MAGNITUDE_MAX == proto::job::MAGNITUDE_MAX);
