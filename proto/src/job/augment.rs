//! How a job changes its training images at random.

/// Random changes to training images, in the order in which they are made. Off unless asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Augment {
    /// Zero pixels added on each side before a random crop of the original size.
    pub pad: usize,
    /// Mirror every second image, by chance.
    pub flip: bool,
    /// Probability that a rectangle of an image is erased: Zhong et al., "Random Erasing Data Augmentation", 2017.
    pub erase: f64,
    /// Alpha of mixup, 0 for none: Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2017.
    pub mixup: f64,
    /// Alpha of CutMix, 0 for none: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with
    /// Localizable Features", 2019. Where mixup is on too, each slice takes one of them, by chance.
    pub cutmix: f64,
}

impl Augment {
    /// Whether samples are mixed with other samples of their slice.
    pub fn mixes(&self) -> bool {
        self.mixup > 0.0 || self.cutmix > 0.0
    }
}
