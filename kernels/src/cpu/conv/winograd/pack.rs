//! Transformed weights as `product` reads them: `[panels of the result][36][rows][16]`, rows being the
//! source's channels rounded up to whole panels, and one row of room behind each point. Rows and
//! lanes of padding are zeros.

use super::{POINTS, SKEW, points};
use crate::cpu::CpuDevice;
use crate::cpu::simd::{Kernel, LANES, Simd};
use crate::cpu::tasks::Cost;
use crate::shape::ConvShape;

/// Rows of 16 between two points.
pub(super) fn part_rows(channels: usize) -> usize {
    channels.next_multiple_of(LANES) + SKEW / LANES
}

impl CpuDevice {
    pub(in crate::cpu::conv) fn winograd_pack(
        &self,
        shape: &ConvShape,
        weight: &[f32],
        forward: &mut [f32],
        input_grad: &mut [f32],
    ) {
        let (inputs, outputs) = (shape.in_channels, shape.out_channels);
        let at =
            |tap: usize, input: usize, output: usize| (tap * inputs + input) * outputs + output;
        let pack = |packed: &mut [f32], rows: usize, lanes: usize, place: &Place<'_>| {
            let panel_len = POINTS * part_rows(rows) * LANES;
            self.chunks(Cost::elements(2 * packed.len()), packed, panel_len, |panel, packed| {
                let width = LANES.min(lanes - panel * LANES);
                for first in (0..rows).step_by(LANES) {
                    let height = LANES.min(rows - first);
                    let mut block = [[[0.0; LANES]; LANES]; 9];
                    for (tap, block) in block.iter_mut().enumerate() {
                        place(weight, (tap, first, panel * LANES), (height, width), block);
                    }
                    self.vectors().run(Weights {
                        block: &block,
                        rows: part_rows(rows),
                        first,
                        packed,
                    });
                }
                for point in packed.chunks_exact_mut(part_rows(rows) * LANES) {
                    point[rows.next_multiple_of(LANES) * LANES..].fill(0.0);
                }
            });
        };
        pack(forward, inputs, outputs, &|weight, (tap, row, lane), (height, width), block| {
            for (i, block) in block.iter_mut().take(height).enumerate() {
                block[..width].copy_from_slice(&weight[at(tap, row + i, lane)..][..width]);
            }
        });
        // The input gradient's kernel is turned half round and its channels change places.
        pack(input_grad, outputs, inputs, &|weight, (tap, row, lane), (height, width), block| {
            for i in 0..width {
                let from = &weight[at(8 - tap, lane + i, row)..][..height];
                for (block, &weight) in block.iter_mut().zip(from) {
                    block[i] = weight;
                }
            }
        });
    }
}

/// Copies 16 rows by 16 lanes of a tap, or fewer, from the weights: (tap, row, lane), (rows, lanes).
type Place<'a> =
    dyn Fn(&[f32], (usize, usize, usize), (usize, usize), &mut [[f32; LANES]; LANES]) + Sync + 'a;

/// Transforms 16 rows of a panel.
struct Weights<'a> {
    block: &'a [[[f32; LANES]; LANES]; 9], // [taps][rows][lanes]
    rows: usize,                           // of a point
    first: usize,                          // row
    packed: &'a mut [f32],                 // the panel, [36][rows][16]
}

impl Kernel for Weights<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let packed = self.packed.as_chunks_mut::<LANES>().0;
        for row in 0..LANES {
            let mut kernel = [[simd.splat(0.0); 3]; 3];
            for tap in 0..9 {
                kernel[tap / 3][tap % 3] = simd.load(&self.block[tap][row]);
            }
            let points = points::both_ways::<points::Weight, S, 3, 6>(simd, &kernel);
            for point in 0..POINTS {
                let to = &mut packed[point * self.rows + self.first + row];
                simd.store(points[point / 6][point % 6], to);
            }
        }
    }
}
