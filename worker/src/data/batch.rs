//! From positions of the sample stream to the bytes, labels and crops of one slice.

use std::ops::Range;
use std::sync::Arc;

use dataset::{Dataset, Draws, SampleOrder, Split};
use kernels::ops::Crop;
use proto::job::{Job, Normalisation};

/// The samples of one slice.
#[derive(Debug)]
pub struct Batch {
    pub pixels: Vec<u8>, // [N, H, W, C]
    pub labels: Vec<u32>,
    pub crops: Vec<Crop>,
}

/// The training stream and the test set of a job.
#[derive(Clone, Debug)]
pub struct Source {
    dataset: Arc<Dataset>,
    order: SampleOrder,
    seed: u64,
    pad: usize,
    flip: bool,
    mean: Vec<f32>,
    std: Vec<f32>,
}

impl Source {
    pub fn new(dataset: Arc<Dataset>, job: &Job) -> Source {
        let (mean, std) = match &job.data.normalisation {
            Normalisation::Given { mean, std } => (mean.clone(), std.clone()),
            Normalisation::Measured => {
                let measured = dataset.train.channel_statistics();
                (measured.mean, measured.std)
            }
        };
        let order = SampleOrder::new(job.seed, dataset.train.len() as u64);
        let augment = job.data.augment;
        Source { dataset, order, seed: job.seed, pad: augment.pad, flip: augment.flip, mean, std }
    }

    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Per channel, of `pixel / 255`.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// Per channel, of `pixel / 255`.
    pub fn std(&self) -> &[f32] {
        &self.std
    }

    /// Training samples at these positions of the stream, each with its own chance.
    pub fn train(&self, positions: Range<u64>) -> Batch {
        let samples = positions.clone().map(|position| self.order.sample(position) as usize);
        let crops = positions.clone().map(|position| self.crop(position)).collect();
        gather(&self.dataset.train, samples, crops)
    }

    /// `len` test images from `first` on, unchanged; beyond the end of the set the last image fills up.
    pub fn test(&self, first: usize, len: usize) -> Batch {
        let split = &self.dataset.test;
        let samples = (first..first + len).map(|sample| sample.min(split.len() - 1));
        let crops = vec![Crop { top: 0, left: 0, flip: false }; len];
        gather(split, samples, crops)
    }

    fn crop(&self, position: u64) -> Crop {
        let mut draws = Draws::new(self.seed, position);
        let mut offset = || draws.below(2 * self.pad as u64 + 1) as isize - self.pad as isize;
        let (top, left) = (offset(), offset());
        Crop { top, left, flip: self.flip && draws.coin() }
    }
}

fn gather(split: &Split, samples: impl Iterator<Item = usize>, crops: Vec<Crop>) -> Batch {
    let (mut pixels, mut labels) = (Vec::new(), Vec::with_capacity(crops.len()));
    for sample in samples {
        pixels.extend_from_slice(split.pixels(sample));
        labels.push(split.label(sample));
    }
    Batch { pixels, labels, crops }
}
