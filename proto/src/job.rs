//! The job file: one training run as a person writes it (TOML), and as the programs use it.
//!
//! Parse, then resolve: `raw` mirrors the text and leaves out what the person left out; `Job` has every value filled in
//! and checked, and an `Option` only for what can be off. `Job::to_toml` writes the resolved form, which parses back to the
//! same `Job`: it is what is logged, sent to workers and stored in checkpoints.

mod arch;
mod augment;
mod raw;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::identity::Name;

pub use arch::Arch;
pub use augment::{Augment, MAGNITUDE_MAX, Policy};

/// One training run.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Prefix of the job's id.
    pub name: Name,
    /// Source of all chance: initial weights, sample order, augmentation.
    pub seed: u64,
    pub data: Data,
    pub model: Model,
    pub init: Init,
    pub train: Train,
    pub optimizer: Optimizer,
    /// `None`: no average is kept.
    pub ema: Option<Ema>,
    pub schedule: Schedule,
    pub checkpoint: Checkpoint,
    pub exchange: Exchange,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Data {
    pub format: DataFormat,
    /// Folder; relative to the job file as written, absolute once submitted.
    pub path: PathBuf,
    pub normalisation: Normalisation,
    pub augment: Augment,
    /// Sides that training images have for a while, from epoch 0 on; none where they have that of evaluation all along.
    pub sizes: Vec<TrainSize>,
}

/// From this epoch on, training images have this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainSize {
    pub epoch: u32,
    /// In pixels.
    pub size: usize,
}

/// How the files of the dataset are laid out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DataFormat {
    /// The MNIST family.
    Idx,
    /// CIFAR-10, binary version.
    Cifar10,
    /// CIFAR-100, binary version.
    Cifar100,
    /// A folder of JPEG and PNG files for each class.
    ImageFolder(ImageFolder),
}

/// How image files of any size become samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageFolder {
    /// Side of a sample, in pixels; in training `Data::sizes` may say another.
    pub size: usize,
    /// For evaluation: the shorter side of the resized image, whose middle is the sample.
    pub resize: usize,
    /// For training: least and largest share of the image that a random crop takes.
    pub scale: [f64; 2],
    /// For training: least and largest width / height of a random crop.
    pub ratio: [f64; 2],
    /// The job fails when more than this share of the images can't be decoded.
    pub max_bad_fraction: f64,
}

impl ImageFolder {
    /// What is usual for samples of this size: 256 for 224 in evaluation, and in proportion for other sizes; the crops of
    /// Szegedy et al., "Going deeper with convolutions", 2014, for training.
    pub fn usual(size: usize) -> ImageFolder {
        ImageFolder {
            size,
            resize: (size * 256 + 112) / 224,
            scale: [0.08, 1.0],
            ratio: [3.0 / 4.0, 4.0 / 3.0],
            max_bad_fraction: 0.001,
        }
    }
}

/// `(pixel/255 - mean) / std`, per channel.
#[derive(Clone, Debug, PartialEq)]
pub enum Normalisation {
    /// Mean and standard deviation of the training set itself.
    Measured,
    Given {
        mean: Vec<f32>,
        std: Vec<f32>,
    },
}

/// Where the first weights come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Init {
    /// The job's seed.
    Seed,
    /// A safetensors file with torchvision's names; relative to the job file as written, absolute once submitted. A last
    /// layer of another number of classes is left as the seed makes it.
    File(PathBuf),
}

/// A ResNet: a stem, then one stage for each entry of `blocks` and `widths`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    pub block: Block,
    /// Blocks of each stage.
    pub blocks: Vec<usize>,
    /// Channels of each stage's 3x3 convolutions; a bottleneck block puts out four times as many.
    pub widths: Vec<usize>,
    pub stem: Stem,
    /// Whether the first convolution adds a bias. The BatchNorm behind it takes the bias out again, so no output depends on
    /// it: for weights and descriptions that have one.
    pub stem_bias: bool,
    /// Whether the scale of each residual block's last BatchNorm starts at 0, so that every block starts as its shortcut
    /// (Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 5.1; torchvision's option of this name).
    pub zero_init_residual: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1, 3x3 (which carries the stride), 1x1.
    Bottleneck,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// 7x7 convolution of stride 2, then 3x3 max pooling of stride 2.
    Imagenet,
    /// 3x3 convolution of stride 1.
    Cifar,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Train {
    pub epochs: u32,
    /// Samples of one optimizer step, over all workers.
    pub batch: usize,
    /// Parts of a batch: the unit of work. BatchNorm statistics are per slice, so the result depends on this number, but
    /// not on which worker computes which slice.
    pub slices: usize,
    pub label_smoothing: f32,
    pub precision: Precision,
}

/// What activations and the operands of products are kept in. Weights, sums and statistics are fp32 always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 on GPUs, fp32 on CPUs.
    Auto,
    Fp32,
    /// Only GPUs have it.
    Bf16,
}

impl Train {
    /// Samples of one slice.
    pub fn slice_len(&self) -> usize {
        self.batch / self.slices
    }
}

/// SGD with momentum, in PyTorch's form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Optimizer {
    /// Peak learning rate, for the whole batch.
    pub learning_rate: f32,
    pub momentum: f32,
    pub nesterov: bool,
    /// Not applied to BatchNorm parameters and biases.
    pub weight_decay: f32,
    pub rule: Rule,
    /// Largest L2 norm of the gradient of all parameters together; a longer one is shortened to it. `None`: never.
    pub clip_norm: Option<f32>,
}

/// Where a tensor's learning rate comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// The schedule's, for all.
    Sgd,
    /// Layer-wise adaptive rate scaling: the schedule's, times a ratio that each tensor that decays has of its own.
    Lars { trust_coefficient: f32 },
}

/// The exponential moving average of parameters and running statistics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ema {
    /// Share of the old average that an update keeps, once the average has warmed up.
    pub decay: f64,
    /// Steps from one update to the next.
    pub every: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// The learning rate rises linearly from 0 over these epochs.
    pub warmup_epochs: f64,
    pub decay: Decay,
}

/// What follows the warm-up.
#[derive(Clone, Debug, PartialEq)]
pub enum Decay {
    Constant,
    /// Half a cosine from the peak to 0 at the job's end.
    Cosine,
    /// Multiplied by `gamma` at each of these epochs.
    Step {
        milestones: Vec<f64>,
        gamma: f32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub every_epochs: u32,
    /// Newest checkpoints kept, besides the best one.
    pub keep: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Largest bucket, in MiB.
    pub bucket_mib: u32,
    /// A peer that makes no progress in a step for this long is given up.
    pub timeout_s: u32,
}

/// Why a job file was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    #[error("job file: {0}")]
    Syntax(String),
    #[error("job file: line {line}: unknown key `{key}`{hint}")]
    UnknownKey { key: String, line: usize, hint: String },
    #[error("job file: `{key}` {problem}")]
    Value { key: &'static str, problem: String },
}

impl Job {
    /// Parses and resolves a job file.
    pub fn parse(text: &str) -> Result<Job, JobError> {
        raw::RawJob::parse(text)?.resolve()
    }

    /// The resolved form, every key written out.
    pub fn to_toml(&self) -> String {
        raw::RawJob::from(self).write()
    }
}

#[cfg(test)]
mod tests;
