//! The forward pass and the input gradient on a GPU: launches of one product of matrices, and of the statistics that come out of it.

use cudarc::driver::sys::CUdeviceptr;

use super::super::launch::{Arg, Grid, Kernel};
use super::super::memory::Element;
use super::super::{CudaDevice, CudaView, CudaViewMut};
use super::engine::Product;
use super::walk::{Walk, number};
use crate::ops::Accumulate;
use crate::shape::ConvShape;

/// Where the matrices of a product lie.
#[derive(Clone, Copy, Debug)]
struct Operands {
    source: CUdeviceptr,
    weights: CUdeviceptr,
    target: CUdeviceptr,
    accumulate: Accumulate,
    /// Statistics of tiles, `[slices, tiles, 3, C]`, or 0 for none.
    parts: CUdeviceptr,
}

impl CudaDevice {
    pub(crate) fn conv_forward(
        &self,
        shape: &ConvShape,
        x: CudaView<'_>,
        packed: CudaView<'_>,
        y: CudaViewMut<'_>,
        stats: Option<CudaViewMut<'_>>,
    ) {
        let element = self.activations();
        let walk = Walk::forward(&one_slice(shape));
        let engine = Product::of(&walk, element);
        let parts = PartsShape {
            slices: shape.slices,
            tiles: engine.row_tiles(&walk),
            channels: shape.out_channels,
        };
        let operands = Operands {
            source: x.address(element),
            weights: packed.address(element),
            target: y.address(element),
            accumulate: Accumulate::Overwrite,
            parts: if stats.is_some() { self.scratch(parts.bytes()) } else { 0 },
        };
        self.conv_product(&engine, &walk, shape.slices, operands);
        if let Some(stats) = stats {
            self.conv_statistics(&parts, operands.parts, stats);
        }
    }

    pub(crate) fn conv_input_grad(
        &self,
        shape: &ConvShape,
        dy: CudaView<'_>,
        packed: CudaView<'_>,
        dx: CudaViewMut<'_>,
        accumulate: Accumulate,
    ) {
        let element = self.activations();
        let (source, weights) = (dy.address(element), packed.address(element));
        let operands =
            Operands { source, weights, target: dx.address(element), accumulate, parts: 0 };
        let slice = one_slice(shape);
        for walk in Walk::input_grad(&slice) {
            // Pixels that no window covers: there is nothing to add.
            if accumulate == Accumulate::Add && walk.taps() == 0 {
                continue;
            }
            let engine = Product::of(&walk, element);
            self.conv_product(&engine, &walk, shape.slices, operands);
        }
    }

    fn conv_product(&self, engine: &Product, walk: &Walk, slices: usize, operands: Operands) {
        let Operands { source, weights, target, accumulate, parts } = operands;
        engine.assert_aligned(&[source, weights, target]);
        let add = i32::from(accumulate == Accumulate::Add);
        self.launch(
            engine.kernel.of(self.activations()),
            engine.grid(walk, slices),
            [
                Arg::of(&walk.words()),
                Arg::of(&source),
                Arg::of(&weights),
                Arg::of(&target),
                Arg::of(&add),
                Arg::of(&parts),
            ],
        );
    }

    fn conv_statistics(&self, shape: &PartsShape, parts: CUdeviceptr, stats: CudaViewMut<'_>) {
        let PartsShape { slices, tiles, channels } = *shape;
        let stats = stats.address(Element::F32);
        let grid = |groups: usize| Grid {
            blocks: [channels.div_ceil(32), slices, groups].map(|blocks| number(blocks) as u32),
            threads: [32, 8, 1],
            shared: 0,
        };
        let (groups, channels) = (shape.groups(), number(channels));
        let (mut parts, mut tiles) = (parts, number(tiles));
        if groups > 0 {
            let into = parts + (shape.parts_len() * size_of::<f32>()) as u64;
            let args = [Arg::of(&parts), Arg::of(&into), Arg::of(&tiles), Arg::of(&channels)];
            self.launch(GROUP_STATISTICS, grid(groups), args);
            (parts, tiles) = (into, number(groups));
        }
        let args = [Arg::of(&parts), Arg::of(&stats), Arg::of(&tiles), Arg::of(&channels)];
        self.launch(STATISTICS, grid(1), args);
    }
}

/// The statistics of tiles of rows, and of groups of tiles behind them.
#[derive(Clone, Copy, Debug)]
struct PartsShape {
    slices: usize,
    tiles: usize,
    channels: usize,
}

impl PartsShape {
    /// Elements of `[slices, tiles, 3, C]`.
    fn parts_len(&self) -> usize {
        self.slices * self.tiles * 3 * self.channels
    }

    /// Groups of tiles that are merged first; 0 where one block has little enough to do.
    fn groups(&self) -> usize {
        if self.tiles > 4 * GROUP { self.tiles.div_ceil(GROUP) } else { 0 }
    }

    fn bytes(&self) -> usize {
        (self.parts_len() + self.slices * self.groups() * 3 * self.channels) * size_of::<f32>()
    }
}

/// One of the slices that are computed at once: what all choices are made by.
pub(super) fn one_slice(shape: &ConvShape) -> ConvShape {
    ConvShape { slices: 1, batch: shape.batch / shape.slices, ..*shape }
}

const STATISTICS: Kernel = Kernel::new("conv_statistics.cu", "conv_statistics");
const GROUP_STATISTICS: Kernel = Kernel::new("conv_statistics.cu", "conv_statistics_group");
/// Also in `conv_statistics.cu`.
const GROUP: usize = 64;
