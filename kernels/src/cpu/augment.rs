//! Bytes to normalised activations: crop, flip, scale. Where a crop starts is the caller's choice;
//! no random number is drawn here.

use super::CpuDevice;
use super::tasks::Cost;
use crate::ops::Crop;
use crate::shape::AugmentShape;

impl CpuDevice {
    #[expect(clippy::too_many_arguments, reason = "an op names each of its operands")]
    pub(crate) fn augment(
        &self,
        shape: &AugmentShape,
        pixels: &[u8],
        crops: &[Crop],
        mean: &[f32],
        std: &[f32],
        out: &mut [f32],
    ) {
        let mut scratch = self.op_scratch();
        let tables = byte_tables(mean, std, scratch.sums.take(mean.len() * 256));
        let source_len = shape.height * shape.width * shape.channels;
        let sample_len = shape.out_height * shape.out_width * shape.channels;
        if sample_len == 0 {
            return;
        }
        self.chunks(Cost::elements(2 * out.len()), out, sample_len, |sample, out| {
            let source = &pixels[sample * source_len..][..source_len];
            augment_sample(shape, source, crops[sample], tables, out);
        });
    }
}

/// The activation of each byte value, per channel.
fn byte_tables<'a>(mean: &[f32], std: &[f32], memory: &'a mut [f32]) -> &'a [[f32; 256]] {
    let tables = memory.as_chunks_mut().0;
    for (table, (&mean, &std)) in tables.iter_mut().zip(mean.iter().zip(std)) {
        *table = std::array::from_fn(|byte| (byte as f32 / 255.0 - mean) / std);
    }
    tables
}

fn augment_sample(
    shape: &AugmentShape,
    source: &[u8],
    crop: Crop,
    tables: &[[f32; 256]],
    out: &mut [f32],
) {
    let row_len = shape.out_width * shape.channels;
    for (row, out) in out.chunks_exact_mut(row_len).enumerate() {
        let source_row = inside(crop.top + row as isize, shape.height).map(|row| {
            &source[row * shape.width * shape.channels..][..shape.width * shape.channels]
        });
        for (column, out) in out.chunks_exact_mut(shape.channels).enumerate() {
            let column = if crop.flip { shape.out_width - 1 - column } else { column };
            let column = inside(crop.left + column as isize, shape.width);
            let pixel = source_row
                .zip(column)
                .map(|(row, column)| &row[column * shape.channels..][..shape.channels]);
            for (channel, (out, table)) in out.iter_mut().zip(tables).enumerate() {
                *out = table[pixel.map_or(0, |pixel| usize::from(pixel[channel]))];
            }
        }
    }
}

fn inside(position: isize, size: usize) -> Option<usize> {
    usize::try_from(position).ok().filter(|&position| position < size)
}
