//! `[data.augment]` as written: how training images are changed at random.

use serde::{Deserialize, Serialize};

use super::super::*;
use super::require;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAugment {
    pad: Option<usize>,
    flip: Option<bool>,
    erase: Option<f64>,
    mixup: Option<f64>,
    cutmix: Option<f64>,
}

impl RawAugment {
    pub(super) fn resolve(self, format: DataFormat) -> Result<Augment, JobError> {
        let pad = self.pad.unwrap_or(0);
        require(pad <= PAD_MAX, "data.augment.pad", format!("must be at most {PAD_MAX}"))?;
        let cropped = matches!(format, DataFormat::ImageFolder(_));
        require(
            !cropped || pad == 0,
            "data.augment.pad",
            "is not for format = \"imagefolder\", whose crops are random already: see data.scale",
        )?;
        let erase = self.erase.unwrap_or(0.0);
        let probable = (0.0..=1.0).contains(&erase);
        require(probable, "data.augment.erase", "is a probability: must be 0 to 1")?;
        Ok(Augment {
            pad,
            flip: self.flip.unwrap_or(false),
            erase,
            mixup: alpha(self.mixup, "data.augment.mixup")?,
            cutmix: alpha(self.cutmix, "data.augment.cutmix")?,
        })
    }
}

impl From<Augment> for RawAugment {
    fn from(augment: Augment) -> RawAugment {
        let Augment { pad, flip, erase, mixup, cutmix } = augment;
        RawAugment {
            pad: Some(pad),
            flip: Some(flip),
            erase: Some(erase),
            mixup: Some(mixup),
            cutmix: Some(cutmix),
        }
    }
}

/// Samples are mixed with others of their slice.
pub(super) fn require_partners(augment: &Augment, train: &Train) -> Result<(), JobError> {
    let key = if augment.mixup > 0.0 { "data.augment.mixup" } else { "data.augment.cutmix" };
    let problem = "mixes the samples of a slice, of which train.batch / train.slices leaves one: use fewer slices";
    require(!augment.mixes() || train.slice_len() > 1, key, problem)
}

fn alpha(given: Option<f64>, key: &'static str) -> Result<f64, JobError> {
    let alpha = given.unwrap_or(0.0);
    let usable = alpha == 0.0 || (ALPHA_MIN..=ALPHA_MAX).contains(&alpha);
    require(usable, key, format!("must be 0, for none, or {ALPHA_MIN} to {ALPHA_MAX}"))?;
    Ok(alpha)
}

/// Limits far beyond any training in use, so that a slip of the finger is an error and not a memory failure.
const PAD_MAX: usize = 64;
/// Below, nearly every weight is 0 or 1; above, nearly every one is a half.
const ALPHA_MIN: f64 = 0.001;
const ALPHA_MAX: f64 = 100.0;
