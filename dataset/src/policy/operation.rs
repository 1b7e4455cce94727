//! One change of a whole image, by kind and magnitude. Knows no chance.

use super::colour;
use super::geometry;
use super::histogram;
use crate::index::ImageShape;

/// The operations of torchvision's `RandAugment`, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Identity,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    Brightness,
    Color,
    Contrast,
    Sharpness,
    Posterize,
    Solarize,
    AutoContrast,
    Equalize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Operation {
    pub(super) kind: Kind,
    /// Shear: pixels for each pixel of the other axis. Translation: pixels, cut to whole ones.
    /// Rotation: degrees. Brightness, colour, contrast and sharpness: the factor less 1. Posterize: bits
    /// that stay. Solarize: the share of the full value from which on values are inverted.
    pub(super) magnitude: f64,
}

impl Kind {
    pub(super) const ALL: [Kind; 14] = [
        Kind::Identity,
        Kind::ShearX,
        Kind::ShearY,
        Kind::TranslateX,
        Kind::TranslateY,
        Kind::Rotate,
        Kind::Brightness,
        Kind::Color,
        Kind::Contrast,
        Kind::Sharpness,
        Kind::Posterize,
        Kind::Solarize,
        Kind::AutoContrast,
        Kind::Equalize,
    ];

    /// Whether a magnitude below 0 means something.
    pub(super) fn is_signed(self) -> bool {
        match self {
            Kind::ShearX | Kind::ShearY | Kind::TranslateX | Kind::TranslateY | Kind::Rotate => {
                true
            }
            Kind::Brightness | Kind::Color | Kind::Contrast | Kind::Sharpness => true,
            Kind::Identity | Kind::Posterize | Kind::Solarize => false,
            Kind::AutoContrast | Kind::Equalize => false,
        }
    }
}

impl Operation {
    /// Changes an image, `[H, W, C]` with 1 or 3 channels.
    pub(super) fn apply(self, shape: ImageShape, pixels: &mut [u8]) {
        let Operation { kind, magnitude } = self;
        match kind {
            Kind::Identity => {}
            Kind::ShearX => geometry::shear_x(shape, pixels, magnitude),
            Kind::ShearY => geometry::shear_y(shape, pixels, magnitude),
            Kind::TranslateX => geometry::translate(shape, pixels, [magnitude as isize, 0]),
            Kind::TranslateY => geometry::translate(shape, pixels, [0, magnitude as isize]),
            Kind::Rotate => geometry::rotate(shape, pixels, magnitude),
            Kind::Brightness => colour::brightness(pixels, 1.0 + magnitude),
            Kind::Color => colour::saturation(shape, pixels, 1.0 + magnitude),
            Kind::Contrast => colour::contrast(shape, pixels, 1.0 + magnitude),
            Kind::Sharpness => colour::sharpness(shape, pixels, 1.0 + magnitude),
            Kind::Posterize => colour::posterize(pixels, magnitude as u32),
            Kind::Solarize => colour::solarize(pixels, 255.0 * magnitude),
            Kind::AutoContrast => histogram::autocontrast(shape, pixels),
            Kind::Equalize => histogram::equalize(shape, pixels),
        }
    }
}
