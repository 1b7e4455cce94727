//! Values of pixels that are spread by what each channel of the image holds. In integers.

use crate::index::ImageShape;

/// The smallest value of a channel becomes 0, the largest 255, linearly between; a channel of one value
/// stays as it is.
pub(super) fn autocontrast(shape: ImageShape, pixels: &mut [u8]) {
    by_channel(shape, pixels, |counts| {
        let held = || (0..256).filter(|&value| counts[value] > 0);
        let (least, largest) = (held().min().unwrap_or(0), held().max().unwrap_or(0));
        std::array::from_fn(|value| match largest - least {
            0 => value as u8,
            range => (value.saturating_sub(least) * 255 / range).min(255) as u8,
        })
    });
}

/// Values become as evenly frequent as whole steps allow, by Pillow's rule; a channel with fewer than
/// 255 pixels below its largest value stays as it is.
pub(super) fn equalize(shape: ImageShape, pixels: &mut [u8]) {
    by_channel(shape, pixels, |counts| {
        let largest = counts.iter().rposition(|&count| count > 0).unwrap_or(0);
        let step = counts[..largest].iter().sum::<usize>() / 255;
        let mut below = 0;
        std::array::from_fn(|value| {
            let level = (below + step / 2).checked_div(step).unwrap_or(value);
            below += counts[value];
            level.min(255) as u8
        })
    });
}

/// Replaces the values of each channel by a table made of how often each occurs.
fn by_channel(shape: ImageShape, pixels: &mut [u8], table: impl Fn(&[usize; 256]) -> [u8; 256]) {
    for channel in 0..shape.channels {
        let mut counts = [0; 256];
        let values = pixels.iter().skip(channel).step_by(shape.channels);
        values.for_each(|&value| counts[usize::from(value)] += 1);
        let table = table(&counts);
        let values = pixels.iter_mut().skip(channel).step_by(shape.channels);
        values.for_each(|value| *value = table[usize::from(*value)]);
    }
}
