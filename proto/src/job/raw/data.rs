//! `[data]` as written: which files, how they become samples, and how those are changed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::super::*;
use super::augment::RawAugment;
use super::{require, short, wrong};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawData {
    format: RawFormat,
    path: PathBuf,
    size: Option<usize>,
    sizes: Option<Vec<[usize; 2]>>,
    resize: Option<usize>,
    scale: Option<[f64; 2]>,
    ratio: Option<[f64; 2]>,
    max_bad_fraction: Option<f64>,
    mean: Option<Vec<f64>>,
    std: Option<Vec<f64>>,
    #[serde(default)]
    augment: RawAugment,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawFormat {
    Idx,
    Cifar10,
    Cifar100,
    ImageFolder,
}

impl RawData {
    pub(super) fn resolve(self) -> Result<Data, JobError> {
        if self.format != RawFormat::ImageFolder {
            self.refuse_image_folder_keys()?;
        }
        let format = match self.format {
            RawFormat::Idx => DataFormat::Idx,
            RawFormat::Cifar10 => DataFormat::Cifar10,
            RawFormat::Cifar100 => DataFormat::Cifar100,
            RawFormat::ImageFolder => DataFormat::ImageFolder(self.resolve_image_folder()?),
        };
        let normalisation = match (self.mean, self.std) {
            (None, None) => default_normalisation(format),
            (Some(mean), Some(std)) => given_normalisation(mean, std)?,
            _ => return Err(wrong("data.mean", "and data.std go together: give both or neither")),
        };
        let augment = self.augment.resolve(format)?;
        let sizes = train_sizes(&self.sizes.unwrap_or_default())?;
        Ok(Data { format, path: self.path, normalisation, augment, sizes })
    }

    fn resolve_image_folder(&self) -> Result<ImageFolder, JobError> {
        let size = self.size.unwrap_or(224);
        require((1..=SIZE_MAX).contains(&size), "data.size", format!("must be 1 to {SIZE_MAX}"))?;
        let usual = ImageFolder::usual(size);
        let resize = self.resize.unwrap_or(usual.resize);
        require(
            (size..=RESIZE_MAX).contains(&resize),
            "data.resize",
            format!("must be data.size, which is {size}, to {RESIZE_MAX}"),
        )?;
        let scale = self.scale.unwrap_or(usual.scale);
        let ordered = |[least, largest]: [f64; 2]| 0.0 < least && least <= largest;
        require(
            ordered(scale) && scale[1] <= 1.0,
            "data.scale",
            "must be two rising shares of the image above 0 and up to 1, such as [0.08, 1.0]",
        )?;
        let ratio = self.ratio.unwrap_or(usual.ratio);
        require(
            ordered(ratio) && ratio[1] <= RATIO_MAX,
            "data.ratio",
            format!(
                "must be two rising values above 0 and up to {RATIO_MAX}, such as [0.75, 1.3333]"
            ),
        )?;
        let max_bad_fraction = self.max_bad_fraction.unwrap_or(usual.max_bad_fraction);
        require(
            (0.0..=1.0).contains(&max_bad_fraction),
            "data.max_bad_fraction",
            "must be 0 to 1",
        )?;
        Ok(ImageFolder { size, resize, scale, ratio, max_bad_fraction })
    }

    /// A key without effect is a misunderstanding, and better told than passed over.
    fn refuse_image_folder_keys(&self) -> Result<(), JobError> {
        for (given, key) in [
            (self.size.is_some(), "data.size"),
            (self.sizes.is_some(), "data.sizes"),
            (self.resize.is_some(), "data.resize"),
            (self.scale.is_some(), "data.scale"),
            (self.ratio.is_some(), "data.ratio"),
            (self.max_bad_fraction.is_some(), "data.max_bad_fraction"),
        ] {
            require(!given, key, "is for format = \"imagefolder\" only: take it out")?;
        }
        Ok(())
    }
}

impl From<&Data> for RawData {
    fn from(data: &Data) -> RawData {
        let (mean, std) = match &data.normalisation {
            Normalisation::Measured => (None, None),
            Normalisation::Given { mean, std } => (Some(widen(mean)), Some(widen(std))),
        };
        let (format, images) = match data.format {
            DataFormat::Idx => (RawFormat::Idx, None),
            DataFormat::Cifar10 => (RawFormat::Cifar10, None),
            DataFormat::Cifar100 => (RawFormat::Cifar100, None),
            DataFormat::ImageFolder(images) => (RawFormat::ImageFolder, Some(images)),
        };
        RawData {
            format,
            path: data.path.clone(),
            size: images.map(|images| images.size),
            sizes: (!data.sizes.is_empty()).then(|| data.sizes.iter().map(written).collect()),
            resize: images.map(|images| images.resize),
            scale: images.map(|images| images.scale),
            ratio: images.map(|images| images.ratio),
            max_bad_fraction: images.map(|images| images.max_bad_fraction),
            mean,
            std,
            augment: RawAugment::from(data.augment),
        }
    }
}

/// Pairs of an epoch and a side.
fn train_sizes(pairs: &[[usize; 2]]) -> Result<Vec<TrainSize>, JobError> {
    let rising = pairs.windows(2).all(|pair| pair[0][0] < pair[1][0]);
    let whole = pairs.first().is_none_or(|&[epoch, _]| epoch == 0);
    let usable = rising && whole && pairs.iter().all(|&[epoch, _]| u32::try_from(epoch).is_ok());
    require(
        usable,
        "data.sizes",
        "must be pairs of a rising epoch, the first 0, and a side, such as [[0, 128], [6, 160]]",
    )?;
    let sides = pairs.iter().all(|[_, size]| (1..=SIZE_MAX).contains(size));
    require(sides, "data.sizes", format!("has a side outside 1 to {SIZE_MAX}"))?;
    Ok(pairs.iter().map(|&[epoch, size]| TrainSize { epoch: epoch as u32, size }).collect())
}

fn written(from: &TrainSize) -> [usize; 2] {
    [from.epoch as usize, from.size]
}

/// A size of an epoch that never comes is a misunderstanding.
pub(super) fn require_epochs(data: &Data, train: &Train) -> Result<(), JobError> {
    let reached = data.sizes.last().is_none_or(|last| last.epoch < train.epochs);
    let epochs = train.epochs;
    require(reached, "data.sizes", format!("has an epoch that is not below train.epochs, {epochs}"))
}

fn given_normalisation(mean: Vec<f64>, std: Vec<f64>) -> Result<Normalisation, JobError> {
    require(mean.len() == std.len(), "data.std", "needs as many values as data.mean")?;
    let (mean, std) = (narrow(mean), narrow(std));
    require(mean.iter().all(|m| m.is_finite()), "data.mean", "must be finite")?;
    let usable = std.iter().all(|&s| s >= f32::MIN_POSITIVE && s.is_finite());
    require(usable, "data.std", "must be positive")?;
    Ok(Normalisation::Given { mean, std })
}

/// What is in memory is measured. Of image files nobody decodes a million to find two numbers:
/// ImageNet's are the custom, and those that published weights were trained with.
fn default_normalisation(format: DataFormat) -> Normalisation {
    match format {
        DataFormat::ImageFolder(_) => {
            Normalisation::Given { mean: IMAGENET_MEAN.to_vec(), std: IMAGENET_STD.to_vec() }
        }
        DataFormat::Idx | DataFormat::Cifar10 | DataFormat::Cifar100 => Normalisation::Measured,
    }
}

fn narrow(values: Vec<f64>) -> Vec<f32> {
    values.into_iter().map(|value| value as f32).collect()
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| short(value)).collect()
}

const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];
/// Limits far beyond any training in use, so that a slip of the finger is an error and not a memory failure.
const SIZE_MAX: usize = 4096;
const RESIZE_MAX: usize = 16_384;
const RATIO_MAX: f64 = 100.0;
