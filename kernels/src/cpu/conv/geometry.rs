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
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    pub(super) every: usize,
    pub(super) first: usize,
    pub(super) step: usize,
    taps: usize,
    kernel_index: (usize, usize), // of the first tap, and from one to the next
    shift: (isize, isize),        // likewise
    size: usize,                  // of the source
    count: usize,                 // of positions
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
        self.rows.taps * self.columns.taps
    }

    /// Each tap's row and column, in the order of the packed weights.
    pub(super) fn tap_pairs(&self) -> impl Iterator<Item = (Tap, Tap)> + use<> {
        let (rows, columns) = (self.rows, self.columns);
        let pair = move |i: usize| (rows.tap(i / columns.taps), columns.tap(i % columns.taps));
        (0..self.taps()).map(pair)
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
        let shift = (-(shape.pad as isize), 1);
        let (taps, step) = (shape.kernel, shape.stride);
        Axis { every: 1, first: 0, step, taps, kernel_index: (0, 1), shift, size, count }
    }

    /// The single tap of kernel rows that are read whole: the source holds its own padding.
    pub(super) fn merged(shape: &ConvShape, count: usize) -> Axis {
        let (step, size) = (shape.stride, count * shape.stride);
        Axis { every: 1, first: 0, step, taps: 1, kernel_index: (0, 1), shift: (0, 1), size, count }
    }

    /// Of the `count` input positions, those equal to `first` modulo the stride, which read the
    /// `size` output positions whose windows cover them: `i = o * stride + k - pad`, solved for `o`.
    pub(super) fn backward(shape: &ConvShape, size: usize, count: usize, first: usize) -> Axis {
        let count = count.saturating_sub(first).div_ceil(shape.stride);
        // Every stride-th of the kernel's rows (or columns) meets an output.
        let (reach, stride) = (first + shape.pad, shape.stride);
        let nearest = reach % stride;
        Axis {
            every: stride,
            first,
            step: 1,
            taps: shape.kernel.saturating_sub(nearest).div_ceil(stride),
            kernel_index: (nearest, stride),
            shift: ((reach / stride) as isize, -1),
            size,
            count,
        }
    }

    fn tap(&self, index: usize) -> Tap {
        let shift = self.shift.0 + index as isize * self.shift.1;
        let kernel_index = self.kernel_index.0 + index * self.kernel_index.1;
        Tap { shift, inside: inside(shift, self.step, self.size, self.count), kernel_index }
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
