//! `[data.augment]` as written: how training images are changed at random.

use serde::{Deserialize, Serialize};

use super::super::*;
use super::require;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAugment {
    pad: Option<usize>,
    flip: Option<bool>,
    policy: Option<RawPolicy>,
    operations: Option<usize>,
    magnitude: Option<usize>,
    erase: Option<f64>,
    mixup: Option<f64>,
    cutmix: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawPolicy {
    None,
    TrivialAugment,
    RandAugment,
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
            policy: self.policy()?,
            erase,
            mixup: alpha(self.mixup, "data.augment.mixup")?,
            cutmix: alpha(self.cutmix, "data.augment.cutmix")?,
        })
    }

    fn policy(&self) -> Result<Policy, JobError> {
        let policy = self.policy.unwrap_or(RawPolicy::None);
        if policy == RawPolicy::RandAugment {
            let (operations, magnitude) =
                (self.operations.unwrap_or(2), self.magnitude.unwrap_or(9));
            let fits = (1..=OPERATIONS_MAX).contains(&operations);
            require(fits, "data.augment.operations", format!("must be 1 to {OPERATIONS_MAX}"))?;
            let fits = magnitude <= MAGNITUDE_MAX;
            require(fits, "data.augment.magnitude", format!("must be 0 to {MAGNITUDE_MAX}"))?;
            return Ok(Policy::RandAugment { operations, magnitude });
        }
        // A key without effect is a misunderstanding, and better told than passed over.
        let problem = "is for policy = \"randaugment\" only: take it out";
        require(self.operations.is_none(), "data.augment.operations", problem)?;
        require(self.magnitude.is_none(), "data.augment.magnitude", problem)?;
        Ok(match policy {
            RawPolicy::TrivialAugment => Policy::TrivialAugment,
            RawPolicy::None | RawPolicy::RandAugment => Policy::None,
        })
    }
}

impl From<Augment> for RawAugment {
    fn from(augment: Augment) -> RawAugment {
        let Augment { pad, flip, policy, erase, mixup, cutmix } = augment;
        let (policy, operations, magnitude) = match policy {
            Policy::None => (RawPolicy::None, None, None),
            Policy::TrivialAugment => (RawPolicy::TrivialAugment, None, None),
            Policy::RandAugment { operations, magnitude } => {
                (RawPolicy::RandAugment, Some(operations), Some(magnitude))
            }
        };
        RawAugment {
            pad: Some(pad),
            flip: Some(flip),
            policy: Some(policy),
            operations,
            magnitude,
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
const OPERATIONS_MAX: usize = 14;
/// Below, nearly every weight is 0 or 1; above, nearly every one is a half.
const ALPHA_MIN: f64 = 0.001;
const ALPHA_MAX: f64 = 100.0;
