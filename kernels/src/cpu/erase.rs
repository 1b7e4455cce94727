//! Zeros in a window of each image. Where the windows lie is the caller's choice.

use super::CpuDevice;
use crate::ops::Window;
use crate::shape::ImagesShape;

impl CpuDevice {
    pub(crate) fn erase(&self, shape: &ImagesShape, windows: &[Window], x: &mut [f32]) {
        // A few rows of a few images: less than waking a thread costs.
        for (sample, &window) in windows.iter().enumerate() {
            for range in rows(shape, window) {
                x[sample * shape.image_len()..][range].fill(0.0);
            }
        }
    }
}

/// Where an image holds the rows of a window.
pub(super) fn rows(
    shape: &ImagesShape,
    window: Window,
) -> impl Iterator<Item = std::ops::Range<usize>> {
    let ImagesShape { width, channels, .. } = *shape;
    (window.top..window.top + window.height).map(move |row| {
        let start = (row * width + window.left) * channels;
        start..start + window.width * channels
    })
}
