//! The input gradient: the forward engine over `dy` with transposed weights. With a stride, the
//! pixels of each parity see their own subset of the kernel, so no zero is ever multiplied in.

use super::forward::block_pixels;
use super::geometry::{Grid, Source};
use super::pack::phases;
use super::tile::Block;
use super::winograd::Pass;
use crate::cpu::CpuDevice;
use crate::cpu::tasks::Cost;
use crate::ops::Accumulate;
use crate::shape::ConvShape;

impl CpuDevice {
    pub(crate) fn conv_input_grad(
        &self,
        shape: &ConvShape,
        dy: &[f32],
        packed: &[f32],
        dx: &mut [f32],
        accumulate: Accumulate,
    ) {
        if dx.is_empty() {
            return;
        }
        if shape.is_winograd() {
            let pass = Pass::input_grad(shape, dy, packed);
            self.winograd(&pass, dx, accumulate, Cost::flops(shape.flops()));
            return;
        }
        let channels = shape.in_channels;
        let source = Source {
            x: dy,
            height: shape.out_height(),
            width: shape.out_width(),
            channels: shape.out_channels,
            run: shape.out_channels,
        };
        let grid = Grid { height: shape.height, width: shape.width };
        let mut scratch = self.op_scratch();
        let zeros = scratch.zeros.zeros(source.run);
        let weights = packed.as_chunks().0;
        let panel_rows = shape.kernel * shape.kernel * shape.out_channels;
        let block_pixels = block_pixels(shape.out_pixels()) * shape.stride * shape.stride;
        self.chunks(Cost::flops(shape.flops()), dx, block_pixels * channels, |index, dx| {
            let first = index * block_pixels;
            let pixels = first..first + dx.len() / channels;
            let mut scratch = self.scratch();
            for phase in phases(shape) {
                if phase.taps() == 0 && accumulate == Accumulate::Add {
                    continue;
                }
                scratch.table.fill(&source, &phase, (grid, channels), pixels.clone());
                self.vectors().run(Block {
                    source,
                    zeros,
                    table: &scratch.table,
                    taps: phase.taps(),
                    weights: &weights[phase.first_tap * shape.out_channels..],
                    panel_rows,
                    channels,
                    accumulate,
                    out: dx,
                });
            }
        });
    }
}
