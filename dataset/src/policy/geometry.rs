//! Images that are sheared, moved and turned: each pixel is the nearest one of where it comes from, or
//! black. Places are computed in fp64, with libm's functions, so that all machines agree.

use crate::index::ImageShape;

/// Rows move along x, the further the lower they lie: the upper left corner stays.
pub(super) fn shear_x(shape: ImageShape, pixels: &mut [u8], shear: f64) {
    resample(shape, pixels, |row, column| [row, column + shear * (row + 0.5)]);
}

/// Columns move along y, the further the more to the right they lie: the upper left corner stays.
pub(super) fn shear_y(shape: ImageShape, pixels: &mut [u8], shear: f64) {
    resample(shape, pixels, |row, column| [row + shear * (column + 0.5), column]);
}

/// Moves an image to the right and down by whole pixels; what comes in is black.
pub fn translate(shape: ImageShape, pixels: &mut [u8], [right, down]: [isize; 2]) {
    resample(shape, pixels, |row, column| [row - down as f64, column - right as f64]);
}

/// Turns an image around its middle, counter-clockwise.
pub(super) fn rotate(shape: ImageShape, pixels: &mut [u8], degrees: f64) {
    let angle = degrees * (std::f64::consts::PI / 180.0);
    let (sin, cos) = (libm::sin(angle), libm::cos(angle));
    let [middle_y, middle_x] = [shape.height, shape.width].map(|side| (side as f64 - 1.0) / 2.0);
    resample(shape, pixels, |row, column| {
        let (y, x) = (row - middle_y, column - middle_x);
        [sin * x + cos * y + middle_y, cos * x - sin * y + middle_x]
    });
}

/// Each pixel becomes the one nearest to `source(row, column)`, itself a row and a column.
fn resample(shape: ImageShape, pixels: &mut [u8], source: impl Fn(f64, f64) -> [f64; 2]) {
    let ImageShape { height, width, channels } = shape;
    let original = pixels.to_vec();
    for (index, pixel) in pixels.chunks_exact_mut(channels).enumerate() {
        let [row, column] = source((index / width) as f64, (index % width) as f64);
        match nearest(row, height).zip(nearest(column, width)) {
            Some((row, column)) => {
                pixel.copy_from_slice(&original[(row * width + column) * channels..][..channels]);
            }
            None => pixel.fill(0),
        }
    }
}

fn nearest(place: f64, side: usize) -> Option<usize> {
    let place = place.round_ties_even();
    (0.0 <= place && place < side as f64).then_some(place as usize)
}
