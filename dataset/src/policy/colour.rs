//! Values of pixels that are changed by a rule which is the same for the whole image. Blends are
//! computed in fp32, cut to whole values, as torchvision does it; everything else in integers.

use crate::index::ImageShape;

/// Every value times `factor`.
pub(super) fn brightness(pixels: &mut [u8], factor: f64) {
    change(pixels, |value| blend(value, 0.0, factor));
}

/// Away from the grey image of the same brightness (above 1), or towards it. A grey image has no
/// colour to change.
pub(super) fn saturation(shape: ImageShape, pixels: &mut [u8], factor: f64) {
    if shape.channels == 1 {
        return;
    }
    for pixel in pixels.chunks_exact_mut(shape.channels) {
        let grey = f32::from(grey(pixel));
        change(pixel, |value| blend(value, grey, factor));
    }
}

/// Away from the mean brightness (above 1), or towards it.
pub(super) fn contrast(shape: ImageShape, pixels: &mut [u8], factor: f64) {
    let sum: u64 = pixels.chunks_exact(shape.channels).map(|pixel| u64::from(grey(pixel))).sum();
    let mean = (sum as f64 / (shape.height * shape.width) as f64) as f32;
    change(pixels, |value| blend(value, mean, factor));
}

/// Away from the blurred image (above 1), or towards it. Pixels on the edge, which have no neighbours
/// to blur with, stay as they are.
pub(super) fn sharpness(shape: ImageShape, pixels: &mut [u8], factor: f64) {
    let ImageShape { height, width, channels } = shape;
    let original = pixels.to_vec();
    let at = |row: usize, column: usize| (row * width + column) * channels;
    for row in 1..height.saturating_sub(1) {
        for column in 1..width.saturating_sub(1) {
            for channel in 0..channels {
                let value = |row, column| u32::from(original[at(row, column) + channel]);
                let rows = row - 1..=row + 1;
                let around = rows.flat_map(|row| (column - 1..=column + 1).map(move |c| (row, c)));
                let sum: u32 = around.map(|(row, column)| value(row, column)).sum();
                // The middle counts five times of thirteen; an odd divisor leaves no tie to round.
                let blurred = (2 * (sum + 4 * value(row, column)) + 13) / 26;
                let pixel = &mut pixels[at(row, column) + channel];
                *pixel = blend(*pixel, blurred as f32, factor);
            }
        }
    }
}

/// Only the upper `bits` of each value stay.
pub(super) fn posterize(pixels: &mut [u8], bits: u32) {
    let mask = u8::MAX.checked_shl(u8::BITS - bits.min(u8::BITS)).unwrap_or(0);
    change(pixels, |value| value & mask);
}

/// Values from `threshold` on are inverted.
pub(super) fn solarize(pixels: &mut [u8], threshold: f64) {
    change(pixels, |value| if f64::from(value) >= threshold { u8::MAX - value } else { value });
}

fn change(pixels: &mut [u8], rule: impl Fn(u8) -> u8) {
    pixels.iter_mut().for_each(|value| *value = rule(*value));
}

/// Brightness by the weights of ITU-R 601 with four digits, as torchvision has them.
fn grey(pixel: &[u8]) -> u8 {
    match *pixel {
        [red, green, blue] => {
            let [red, green, blue] = [red, green, blue].map(u32::from);
            ((2989 * red + 5870 * green + 1140 * blue) / 10_000) as u8
        }
        [grey] => grey,
        _ => unreachable!("an image has 1 or 3 channels"),
    }
}

/// `ratio` of the value and the rest of the other, as far as a value reaches.
fn blend(value: u8, other: f32, ratio: f64) -> u8 {
    let mixed = f32::from(value) * ratio as f32 + other * (1.0 - ratio) as f32;
    mixed.clamp(0.0, 255.0) as u8
}
