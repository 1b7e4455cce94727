//! The weight gradient: blocks of tiles are transformed, multiplied point by point and added up; the
//! sums are transformed back at the end.

use super::outer::Outer;
use super::tiles::{Gather, Images, Tiling, Window, group_len, part_len};
use super::{GROUP, POINTS, SKEW, WIDTH, points};
use crate::cpu::CpuDevice;
use crate::cpu::simd::{Kernel, LANES, Simd, lanes, store_lanes};
use crate::cpu::tasks::Cost;
use crate::shape::ConvShape;

impl CpuDevice {
    pub(in crate::cpu::conv) fn winograd_weight_grad(
        &self,
        shape: &ConvShape,
        x: &[f32],
        dy: &[f32],
        dw: &mut [f32],
    ) {
        let (inputs, outputs) = (shape.in_channels, shape.out_channels);
        let (height, width) = (shape.out_height(), shape.out_width());
        let tiling = Tiling { height, width };
        let source = Images {
            x,
            height: shape.height,
            width: shape.width,
            channels: inputs,
            pad: shape.pad,
        };
        let grads = Images { x: dy, height, width, channels: outputs, pad: 0 };
        let tiles = shape.batch * tiling.per_image();
        let block_tiles = block_tiles(tiles, inputs * outputs);

        let mut scratch = self.op_scratch();
        let scratch = &mut *scratch;
        let part = inputs.next_multiple_of(LANES) * WIDTH + SKEW;
        let sums = scratch.sums.take(outputs.div_ceil(WIDTH) * POINTS * part);
        let zeros = scratch.zeros.zeros(inputs.max(outputs));
        let groups = block_tiles.div_ceil(GROUP);
        let values = scratch.values.take(groups * group_len(inputs));
        let gradients = scratch.products.take(groups * group_len(outputs));
        for first in (0..tiles).step_by(block_tiles) {
            let block =
                Block { source, grads, tiling, first, tiles: block_tiles.min(tiles - first) };
            block.transform(self, zeros, values, gradients);
            block.multiply(self, values, gradients, part, sums);
        }
        self.winograd_collect(shape, sums, part, dw);
    }

    /// `dw` from the sums at all points.
    fn winograd_collect(&self, shape: &ConvShape, sums: &[f32], part: usize, dw: &mut [f32]) {
        let outputs = shape.out_channels;
        let tap_len = shape.in_channels * outputs;
        let rows = ROWS.min(shape.in_channels);
        self.nine_chunks(
            Cost::elements(2 * sums.len()),
            dw,
            tap_len,
            rows * outputs,
            |index, taps| {
                self.vectors().run(Collect { sums, part, outputs, first_row: index * rows, taps });
            },
        );
    }
}

/// Tiles that are transformed and multiplied together.
struct Block<'a> {
    source: Images<'a>,
    grads: Images<'a>,
    tiling: Tiling,
    first: usize, // tile
    tiles: usize,
}

impl Block<'_> {
    fn groups(&self) -> usize {
        self.tiles.div_ceil(GROUP)
    }

    fn transform(&self, cpu: &CpuDevice, zeros: &[f32], values: &mut [f32], grads: &mut [f32]) {
        let lens = [self.source.channels, self.grads.channels].map(group_len);
        let values = &mut values[..self.groups() * lens[0]];
        let grads = &mut grads[..self.groups() * lens[1]];
        let cost = Cost::elements(2 * (values.len() + grads.len()));
        cpu.chunk_pairs(cost, (values, lens[0]), (grads, lens[1]), |index, values, grads| {
            let tiles = GROUP.min(self.tiles - index * GROUP);
            let first = self.first + index * GROUP;
            let tiling = self.tiling;
            let gather = |images: Images<'_>, window, group: &mut [f32]| {
                let zeros = &zeros[..images.channels];
                cpu.vectors().run(Gather { images, tiling, window, first, tiles, zeros, group });
            };
            gather(self.source, Window::Input, values);
            gather(self.grads, Window::OutputGrad, grads);
        });
    }

    /// Adds the block's products to the sums, whose points' parts have `part` elements.
    fn multiply(
        &self,
        cpu: &CpuDevice,
        values: &[f32],
        grads: &[f32],
        part: usize,
        sums: &mut [f32],
    ) {
        let (inputs, outputs) = (self.source.channels, self.grads.channels);
        let flops = 2 * POINTS * self.tiles * inputs * outputs;
        cpu.chunks(Cost::flops(flops), sums, part, |index, sums| {
            let (column, point) = (index / POINTS, index % POINTS);
            let first_panel = column * (WIDTH / LANES);
            let grads_at = point * part_len(outputs) + first_panel * GROUP * LANES;
            cpu.vectors().run(Outer {
                values: &values[point * part_len(inputs)..],
                values_step: group_len(inputs),
                grads: &grads[grads_at..],
                grads_step: group_len(outputs),
                groups: self.groups(),
                panels: inputs.div_ceil(LANES),
                columns: (outputs.div_ceil(LANES) - first_panel).min(WIDTH / LANES),
                first: self.first == 0,
                sums,
            });
        });
    }
}

/// Transforms the sums of some source channels back to weight gradients.
struct Collect<'a, 'b> {
    sums: &'a [f32], // [columns of 64][36][rows][64]
    part: usize,     // elements between two points
    outputs: usize,
    first_row: usize,
    taps: [&'b mut [f32]; 9], // [rows, outputs] each
}

impl Kernel for Collect<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Collect { sums, part, outputs, first_row, mut taps } = self;
        for row in 0..taps[0].len() / outputs {
            for first in (0..outputs).step_by(LANES) {
                let at = first / WIDTH * POINTS * part + (first_row + row) * WIDTH + first % WIDTH;
                let mut tile = [[simd.splat(0.0); 6]; 6];
                for point in 0..POINTS {
                    tile[point / 6][point % 6] = lanes(simd, &sums[at + point * part..], LANES);
                }
                let kernel = points::both_ways::<points::WeightGrad, S, 6, 3>(simd, &tile);
                let width = LANES.min(outputs - first);
                for (tap, dw) in taps.iter_mut().enumerate() {
                    let to = &mut dw[row * outputs + first..][..width];
                    store_lanes(simd, kernel[tap / 3][tap % 3], to);
                }
            }
        }
    }
}

/// Tiles of every block but the last. Each block reads and writes all sums once: the more of them,
/// the larger the blocks.
fn block_tiles(tiles: usize, weights: usize) -> usize {
    let most = if weights >= WIDE { 22 * GROUP } else { 10 * GROUP };
    tiles.div_ceil(tiles.div_ceil(most)).next_multiple_of(GROUP)
}

/// Products of channels from which on the sums are larger than the transforms.
const WIDE: usize = 192 * 192;

/// Source channels of a task that collects.
const ROWS: usize = 16;
