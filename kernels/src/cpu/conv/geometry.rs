//! Which source pixel each kernel tap of each result pixel reads, for all passes. No arithmetic on
//! activations happens here, and no memory is touched but the padded copy of a narrow source.

use std::ops::Range;

use crate::cpu::CpuDevice;
use crate::cpu::scratch::Grown;
use crate::cpu::tasks::Cost;
use crate::shape::ConvShape;

/// A tap that reads padding.
pub(super) const OUTSIDE: u32 = u32::MAX;

/// The image that the taps read, and how many of its elements each tap takes at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) x: &'a [f32],    // [N, height, width, channels]
    pub(super) height: usize,   // rows of an image
    pub(super) width: usize,    // pixels of a row
    pub(super) channels: usize, // elements of a pixel
    pub(super) run: usize,      // elements of a tap: `channels`, or those of a whole kernel row
}

/// The result that the taps are summed into.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub(super) height: usize,
    pub(super) width: usize,
}

/// Result pixels whose taps have the same form: all of them in a forward pass, one of `stride^2`
/// parities in an input gradient.
#[derive(Debug)]
pub(super) struct Phase {
    pub(super) rows: Axis,
    pub(super) columns: Axis,
    /// Taps of the phases before this one: where its weights start.
    pub(super) first_tap: usize,
}

/// One direction of a phase. Its position `i` is the result's row (or column) `i * every + first`,
/// and tap `t` reads the source's row (or column) `i * step + taps[t].shift`.
#[derive(Debug)]
pub(super) struct Axis {
    pub(super) every: usize,
    pub(super) first: usize,
    pub(super) step: usize,
    pub(super) taps: Vec<Tap>,
}

#[derive(Clone, Debug)]
pub(super) struct Tap {
    pub(super) shift: isize,
    /// Positions at which the tap meets the source instead of the padding.
    pub(super) inside: Range<usize>,
    /// The kernel row (or column) that it stands for.
    pub(super) kernel_index: usize,
}

/// Neighbouring positions of one result row.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) image: usize,
    pub(super) row: usize,            // position on the row axis
    pub(super) columns: Range<usize>, // positions on the column axis
    pub(super) pixel: usize,          // flat result pixel of the first of them
}

impl Phase {
    pub(super) fn taps(&self) -> usize {
        self.rows.taps.len() * self.columns.taps.len()
    }

    /// Each tap's row and column, in the order of the packed weights.
    pub(super) fn tap_pairs(&self) -> impl Iterator<Item = (&Tap, &Tap)> {
        self.rows.taps.iter().flat_map(|row| self.columns.taps.iter().map(move |tap| (row, tap)))
    }

    /// The phase's part of the flat result pixels `pixels`, row by row.
    pub(super) fn segments(
        &self,
        grid: Grid,
        pixels: Range<usize>,
    ) -> impl Iterator<Item = Segment> + '_ {
        let rows = pixels.start / grid.width..pixels.end.div_ceil(grid.width);
        rows.filter_map(move |flat_row| {
            let (image, row) = (flat_row / grid.height, flat_row % grid.height);
            if row % self.rows.every != self.rows.first {
                return None;
            }
            let row_start = flat_row * grid.width;
            let from = pixels.start.saturating_sub(row_start);
            let to = (pixels.end - row_start).min(grid.width);
            let columns = self.columns.positions_before(from)..self.columns.positions_before(to);
            let pixel = row_start + columns.start * self.columns.every + self.columns.first;
            let row = row / self.rows.every;
            (!columns.is_empty()).then_some(Segment { image, row, columns, pixel })
        })
    }
}

impl Axis {
    /// Windows of a forward pass over `size` source positions.
    pub(super) fn forward(shape: &ConvShape, size: usize, count: usize) -> Axis {
        let tap = |kernel_index: usize| {
            let shift = kernel_index as isize - shape.pad as isize;
            Tap { shift, inside: inside(shift, shape.stride, size, count), kernel_index }
        };
        let taps = (0..shape.kernel).map(tap).collect();
        Axis { every: 1, first: 0, step: shape.stride, taps }
    }

    /// The single tap of kernel rows that are read whole: the source holds its own padding.
    pub(super) fn merged(shape: &ConvShape, count: usize) -> Axis {
        let tap = Tap { shift: 0, inside: 0..count, kernel_index: 0 };
        Axis { every: 1, first: 0, step: shape.stride, taps: vec![tap] }
    }

    /// Of the `count` input positions, those equal to `first` modulo the stride, which read the
    /// `size` output positions whose windows cover them: `i = o * stride + k - pad`, solved for `o`.
    pub(super) fn backward(shape: &ConvShape, size: usize, count: usize, first: usize) -> Axis {
        let count = count.saturating_sub(first).div_ceil(shape.stride);
        let tap = |kernel_index: usize| {
            let shift = (first + shape.pad) as isize - kernel_index as isize;
            let stride = shape.stride as isize;
            (shift % stride == 0).then(|| {
                let shift = shift / stride;
                Tap { shift, inside: inside(shift, 1, size, count), kernel_index }
            })
        };
        let taps = (0..shape.kernel).filter_map(tap).collect();
        Axis { every: shape.stride, first, step: 1, taps }
    }

    /// The source's row (or column) that `tap` reads at `position`, which lies inside.
    pub(super) fn source(&self, position: usize, tap: &Tap) -> usize {
        (position * self.step).wrapping_add_signed(tap.shift)
    }

    /// How many positions lie before the result's row (or column) `end`.
    fn positions_before(&self, end: usize) -> usize {
        end.saturating_sub(self.first).div_ceil(self.every)
    }
}

impl Tap {
    /// Those of `positions` at which the tap meets the source.
    pub(super) fn clip(&self, positions: &Range<usize>) -> Range<usize> {
        self.inside.start.max(positions.start)..self.inside.end.min(positions.end)
    }
}

impl Source<'_> {
    /// Where the pixel at (`row`, `column`) of `image` starts; both inside.
    pub(super) fn offset(&self, image: usize, row: usize, column: usize) -> usize {
        ((image * self.height + row) * self.width + column) * self.channels
    }
}

/// The windows of a forward pass, for the forward pass itself and for the weight gradient.
#[derive(Debug)]
pub(super) struct Windows {
    pub(super) phase: Phase,
    /// Whether a tap is a whole kernel row.
    pub(super) merged: bool,
}

impl Windows {
    pub(super) fn new(shape: &ConvShape) -> Windows {
        let (height, width) = (shape.out_height(), shape.out_width());
        // A run of a few elements leaves the tile waiting for its pointers; the elements of one
        // kernel row are neighbours in memory as soon as the source holds its own padding.
        let merged = shape.kernel > 1 && shape.in_channels < MERGE_BELOW;
        let (rows, columns) = if merged {
            let rows = Axis::forward(
                &ConvShape { pad: 0, ..*shape },
                shape.height + 2 * shape.pad,
                height,
            );
            (rows, Axis::merged(shape, width))
        } else {
            let rows = Axis::forward(shape, shape.height, height);
            (rows, Axis::forward(shape, shape.width, width))
        };
        Windows { phase: Phase { rows, columns, first_tap: 0 }, merged }
    }

    /// The source that these windows read: `x` itself, or its padded copy in `memory`.
    pub(super) fn source<'a>(
        &self,
        cpu: &CpuDevice,
        shape: &ConvShape,
        x: &'a [f32],
        memory: &'a mut Grown,
    ) -> Source<'a> {
        let channels = shape.in_channels;
        let run = if self.merged { shape.kernel * channels } else { channels };
        let (height, width) = (shape.height, shape.width);
        if !self.merged || shape.pad == 0 {
            return Source { x, height, width, channels, run };
        }
        let (height, width) = (height + 2 * shape.pad, width + 2 * shape.pad);
        let memory = memory.take(shape.batch * height * width * channels);
        let row_len = shape.width * channels;
        let border = shape.pad * channels;
        let cost = Cost::elements(2 * memory.len());
        cpu.chunks(cost, memory, height * width * channels, |image, padded| {
            for (row, padded) in padded.chunks_exact_mut(width * channels).enumerate() {
                if row < shape.pad || row >= shape.pad + shape.height {
                    padded.fill(0.0);
                    continue;
                }
                let flat_row = image * shape.height + row - shape.pad;
                padded[..border].fill(0.0);
                padded[border..border + row_len]
                    .copy_from_slice(&x[flat_row * row_len..][..row_len]);
                padded[border + row_len..].fill(0.0);
            }
        });
        Source { x: memory, height, width, channels, run }
    }
}

/// Positions `i < count` with `0 <= i * step + shift < size`.
fn inside(shift: isize, step: usize, size: usize, count: usize) -> Range<usize> {
    let before = shift.min(0).unsigned_abs().div_ceil(step);
    let within = (size as isize - shift).max(0).unsigned_abs().div_ceil(step);
    let end = within.min(count);
    before.min(end)..end
}

/// Source channels below which kernel rows are read whole.
const MERGE_BELOW: usize = 16;
