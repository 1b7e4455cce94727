//! The weight gradient on a GPU: each slice in pieces, and the pieces added up.

use super::super::launch::{Arg, Grid, Kernel};
use super::super::memory::Element;
use super::super::{CudaDevice, CudaView, CudaViewMut};
use super::engine::WeightGrad;
use super::product::one_slice;
use super::walk::{Walk, number};
use crate::shape::ConvShape;

impl CudaDevice {
    pub(crate) fn conv_weight_grad(
        &self,
        shape: &ConvShape,
        x: CudaView<'_>,
        dy: CudaView<'_>,
        dw: CudaViewMut<'_>,
    ) {
        let element = self.activations();
        let slice = one_slice(shape);
        let engine = WeightGrad::of(&slice, element);
        let split = engine.split(&slice);
        let pieces = shape.slices * split.count;
        let (x, dy, dw) = (x.address(element), dy.address(element), dw.address(Element::F32));
        engine.assert_aligned(&[x, dy]);
        // Kernels write two numbers at once; a gradient among others may begin anywhere.
        let is_direct = pieces == 1 && dw.is_multiple_of(8);
        let parts_bytes = pieces * shape.weight_len() * size_of::<f32>();
        let parts = if is_direct { dw } else { self.scratch(parts_bytes) };
        let (walk, len) = (Walk::forward(&slice).words(), number(split.len));
        self.launch(
            engine.kernel.of(element),
            engine.grid(&slice, split, shape.slices),
            [Arg::of(&walk), Arg::of(&x), Arg::of(&dy), Arg::of(&parts), Arg::of(&len)],
        );
        if !is_direct {
            let (slices, splits) = (number(shape.slices), number(split.count));
            let len = shape.weight_len() as i64;
            let grid = Grid::cover(shape.weight_len(), 256);
            let args =
                [Arg::of(&parts), Arg::of(&dw), Arg::of(&slices), Arg::of(&splits), Arg::of(&len)];
            self.launch(SUM, grid, args);
        }
    }
}

const SUM: Kernel = Kernel::new("conv_sum.cu", "conv_sum");
