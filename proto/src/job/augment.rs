//! How a job changes its training images at random.

/// Random changes to training images, in the order in which they are made. Off unless asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Augment {
    /// Zero pixels added on each side before a random crop of the original size.
    pub pad: usize,
    /// Mirror every second image, by chance.
    pub flip: bool,
    /// Operations on the whole image.
    pub policy: Policy,
    /// Probability that a rectangle of an image is erased: Zhong et al., "Random Erasing Data Augmentation", 2017.
    pub erase: f64,
    /// Alpha of mixup, 0 for none: Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2017.
    pub mixup: f64,
    /// Alpha of CutMix, 0 for none: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with
    /// Localizable Features", 2019. Where mixup is on too, each slice takes one of them, by chance.
    pub cutmix: f64,
}

/// How the operations of automatic augmentation are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    #[default]
    None,
    /// One operation of any strength: Mueller and Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data
    /// Augmentation", 2021 (the wide ranges).
    TrivialAugment,
    /// Several operations of one strength: Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced
    /// search space", 2019.
    RandAugment {
        operations: usize,
        /// 0 to [`MAGNITUDE_MAX`].
        magnitude: usize,
    },
}

impl Augment {
    /// Whether samples are mixed with other samples of their slice.
    pub fn mixes(&self) -> bool {
        self.mixup > 0.0 || self.cutmix > 0.0
    }
}

/// The strongest magnitude, as torchvision counts them: 31 bins.
pub const MAGNITUDE_MAX: usize = 30;
