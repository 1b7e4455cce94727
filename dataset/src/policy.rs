//! Automatic augmentation: which operations change an image, and how strongly, drawn by chance.
//!
//! RandAugment (Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search
//! space", 2019) and TrivialAugment Wide (Mueller and Hutter, "TrivialAugment: Tuning-free Yet
//! State-of-the-Art Data Augmentation", 2021), with the operations and ranges of torchvision's classes
//! of these names. Knows no pixel: that is `operation` and the files beside it.

mod operation;
mod geometry;
mod colour;
mod histogram;

use crate::index::ImageShape;
use crate::order::Draws;
pub use geometry::translate;
use operation::Kind;
use operation::Operation;

/// A way to choose operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// One operation of any strength.
    TrivialAugment,
    /// Several operations of one strength.
    RandAugment {
        operations: usize,
        /// 0 to [`Policy::MAGNITUDE_MAX`].
        magnitude: usize,
    },
}

/// What the strongest magnitude of each kind of operation is.
struct Ranges {
    /// Pixels for each pixel of the other axis.
    shear: f64,
    /// Pixels, along x and y.
    translate: [f64; 2],
    /// Degrees.
    rotate: f64,
    /// What factors differ from 1.
    colour: f64,
    /// Bits that are lost.
    posterize: f64,
}

impl Policy {
    /// The strongest magnitude: torchvision's default of 31 bins.
    pub const MAGNITUDE_MAX: usize = 30;

    /// Changes an image, `[H, W, C]` with 1 or 3 channels, in place. The same draws give the same
    /// pixels, on every machine.
    ///
    /// # Panics
    /// If `pixels` do not have this shape.
    pub fn apply(self, shape: ImageShape, draws: &mut Draws, pixels: &mut [u8]) {
        assert_eq!(pixels.len(), shape.len(), "an image of this shape");
        let operations = match self {
            Policy::TrivialAugment => 1,
            Policy::RandAugment { operations, .. } => operations,
        };
        let ranges = self.ranges(shape);
        for _ in 0..operations {
            let kind = Kind::ALL[draws.below(Kind::ALL.len() as u64) as usize];
            let level = match self {
                Policy::TrivialAugment => draws.below(Policy::MAGNITUDE_MAX as u64 + 1) as usize,
                Policy::RandAugment { magnitude, .. } => magnitude,
            };
            let sign = if kind.is_signed() && draws.coin() { -1.0 } else { 1.0 };
            let magnitude = sign * ranges.magnitude(kind, level);
            Operation { kind, magnitude }.apply(shape, pixels);
        }
    }

    fn ranges(self, shape: ImageShape) -> Ranges {
        match self {
            Policy::TrivialAugment => Ranges {
                shear: 0.99,
                translate: [32.0; 2],
                rotate: 135.0,
                colour: 0.99,
                posterize: 6.0,
            },
            Policy::RandAugment { .. } => Ranges {
                shear: 0.3,
                // As many pixels of an image of 331 as the paper's.
                translate: [shape.width, shape.height].map(|side| 150.0 / 331.0 * side as f64),
                rotate: 30.0,
                colour: 0.9,
                posterize: 4.0,
            },
        }
    }
}

impl Ranges {
    /// Of an operation, in its own unit: see [`Operation`].
    fn magnitude(&self, kind: Kind, level: usize) -> f64 {
        let part = |most: f64| most * level as f64 / Policy::MAGNITUDE_MAX as f64;
        match kind {
            Kind::Identity | Kind::AutoContrast | Kind::Equalize => 0.0,
            Kind::ShearX | Kind::ShearY => part(self.shear),
            Kind::TranslateX => part(self.translate[0]),
            Kind::TranslateY => part(self.translate[1]),
            Kind::Rotate => part(self.rotate),
            Kind::Brightness | Kind::Color | Kind::Contrast | Kind::Sharpness => part(self.colour),
            Kind::Posterize => (8.0 - part(self.posterize)).round_ties_even(),
            Kind::Solarize => 1.0 - part(1.0),
        }
    }
}

#[cfg(test)]
mod tests;
