//! The menu of what happens to images before the first layer: cropped, normalised, erased, mixed. No
//! random number is drawn here.

use super::{assert_len, assert_slices};
use crate::device::{Device, ViewMut};
use crate::profile::Work;
use crate::shape::{AugmentShape, ImagesShape};

/// Where a sample's output window starts in the (virtually zero-padded) source image, and whether
/// it is mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// Source row of the window's first row; negative in the padding.
    pub top: isize,
    /// Source column of the window's first column; negative in the padding.
    pub left: isize,
    /// Whether columns are taken from right to left.
    pub flip: bool,
}

/// `out = (pixel/255 - mean[c]) / std[c]`, cropped and flipped; outside the image the *pixel* is 0.
#[expect(clippy::too_many_arguments, reason = "an op names each of its operands")]
pub fn augment(
    device: &Device,
    shape: &AugmentShape,
    pixels: &[u8],
    crops: &[Crop],
    mean: &[f32],
    std: &[f32],
    out: ViewMut<'_>,
) {
    assert_len("pixels", pixels.len(), shape.input_len());
    assert_len("crops", crops.len(), shape.batch);
    assert_len("mean", mean.len(), shape.channels);
    assert_len("std", std.len(), shape.channels);
    assert_len("out", out.len(), shape.output_len());
    let _timer = device.timer("augment", Work::elements(out.len()));
    match device {
        Device::Cpu(cpu) => cpu.augment(shape, pixels, crops, mean, std, out.cpu()),
        Device::Cuda(cuda) => cuda.augment(shape, pixels, crops, mean, std, out.cuda()),
    }
}

/// A rectangle of pixels inside an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// Rows, 0 for no pixel at all.
    pub height: usize,
    /// Columns, 0 for no pixel at all.
    pub width: usize,
}

/// All channels of the pixels in each sample's window become 0, which is the mean colour of
/// normalised images: random erasing (Zhong et al., "Random Erasing Data Augmentation", 2017).
pub fn erase(device: &Device, shape: &ImagesShape, windows: &[Window], x: ViewMut<'_>) {
    assert_len("windows", windows.len(), shape.batch);
    assert_len("x", x.len(), shape.len());
    windows.iter().for_each(|window| window.assert_inside(shape));
    let _timer = device.timer("erase", Work::elements(x.len()));
    match device {
        Device::Cpu(cpu) => cpu.erase(shape, windows, x.cpu()),
        Device::Cuda(cuda) => cuda.erase(shape, windows, x.cuda()),
    }
}

/// What a sample takes from the one before it in its batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mix {
    /// `x = lambda * x + (1 - lambda) * other`: mixup (Zhang et al., "mixup: Beyond Empirical Risk
    /// Minimization", 2017).
    Blend {
        /// Weight of the sample's own pixels, 0 to 1.
        lambda: f32,
    },
    /// The pixels of a window: CutMix (Yun et al., "CutMix: Regularization Strategy to Train Strong
    /// Classifiers with Localizable Features", 2019).
    Paste {
        /// The same in both.
        window: Window,
    },
}

/// Each sample of a slice mixes with the one before it, the first with the slice's last, all as they were before the
/// call. `how`: one for each slice.
pub fn mix(device: &Device, shape: &ImagesShape, how: &[Mix], x: ViewMut<'_>) {
    assert_len("x", x.len(), shape.len());
    assert_slices(device, how.len(), shape.batch);
    for mix in how {
        if let Mix::Paste { window } = mix {
            window.assert_inside(shape);
        }
    }
    let _timer = device.timer("mix", Work::elements(3 * x.len()));
    match device {
        Device::Cpu(cpu) => cpu.mix(shape, how[0], x.cpu()),
        Device::Cuda(cuda) => cuda.mix(shape, how, x.cuda()),
    }
}

impl Window {
    fn assert_inside(self, shape: &ImagesShape) {
        let inside =
            self.top + self.height <= shape.height && self.left + self.width <= shape.width;
        assert!(inside, "{self:?} leaves an image of {}x{}", shape.height, shape.width);
    }
}
