//! The fully connected layer, in fp32 whatever the device keeps activations in.

use super::launch::{Arg, Grid, Kernel};
use super::memory::Element;
use super::{CudaDevice, CudaView, CudaViewMut};
use crate::ops::SLICES_MAX;
use crate::shape::LinearShape;

impl CudaDevice {
    pub(crate) fn linear_forward(
        &self,
        shape: &LinearShape,
        x: CudaView<'_>,
        weight: CudaView<'_>,
        bias: CudaView<'_>,
        y: CudaViewMut<'_>,
    ) {
        let [x, weight, bias, y] =
            [x, weight, bias, y.as_view()].map(|view| view.address(Element::F32));
        let [batch, inputs, outputs] = sizes(shape);
        let args = [
            Arg::of(&x),
            Arg::of(&weight),
            Arg::of(&bias),
            Arg::of(&y),
            Arg::of(&batch),
            Arg::of(&inputs),
            Arg::of(&outputs),
        ];
        self.launch(FORWARD, tiles(shape.batch, shape.outputs), args);
    }

    #[expect(clippy::too_many_arguments, reason = "an op names each of its operands")]
    pub(crate) fn linear_backward(
        &self,
        shape: &LinearShape,
        x: CudaView<'_>,
        weight: CudaView<'_>,
        dy: CudaView<'_>,
        dx: CudaViewMut<'_>,
        d_weight: CudaViewMut<'_>,
        d_bias: CudaViewMut<'_>,
    ) {
        let [x, weight, dy] = [x, weight, dy].map(|view| view.address(Element::F32));
        let [dx, d_weight, d_bias] = [dx, d_weight, d_bias].map(|view| view.address(Element::F32));
        let [batch, inputs, outputs] = sizes(shape);
        let (slices, slice_batch) = (shape.slices as i32, batch / shape.slices as i32);
        let args = [
            Arg::of(&dy),
            Arg::of(&weight),
            Arg::of(&dx),
            Arg::of(&batch),
            Arg::of(&inputs),
            Arg::of(&outputs),
        ];
        self.launch(INPUT_GRAD, tiles(shape.batch, shape.inputs), args);
        let args = [
            Arg::of(&x),
            Arg::of(&dy),
            Arg::of(&d_weight),
            Arg::of(&slices),
            Arg::of(&slice_batch),
            Arg::of(&inputs),
            Arg::of(&outputs),
        ];
        self.launch(WEIGHT_GRAD, tiles(shape.inputs, shape.outputs), args);
        let args = [Arg::of(&dy), Arg::of(&d_bias), Arg::of(&slice_batch), Arg::of(&outputs)];
        let blocks = [shape.outputs.div_ceil(BIAS_OUTPUTS as usize) as u32, 1, 1];
        let threads = [BIAS_OUTPUTS, shape.slices as u32, 1];
        self.launch(BIAS_GRAD, Grid { blocks, threads, shared: 0 }, args);
    }
}

fn sizes(shape: &LinearShape) -> [i32; 3] {
    [shape.batch, shape.inputs, shape.outputs].map(|size| size as i32)
}

/// A block for each tile of a result of so many rows and columns.
fn tiles(rows: usize, columns: usize) -> Grid {
    let [down, across] = [rows, columns].map(|size| size.div_ceil(TILE) as u32);
    Grid { blocks: [across, down, 1], threads: [THREADS, 1, 1], shared: 0 }
}

/// Sums of subtrees of slices are kept in registers, those of a bias in one block.
const _: () = assert!(SLICES_MAX <= 32, "linear.cu has five levels of subtrees");

const TILE: usize = 64;
const THREADS: u32 = 256;
const BIAS_OUTPUTS: u32 = 32;

const FILE: &str = "linear.cu";
const FORWARD: Kernel = Kernel::new(FILE, "linear_forward");
const INPUT_GRAD: Kernel = Kernel::new(FILE, "linear_input_grad");
const WEIGHT_GRAD: Kernel = Kernel::new(FILE, "linear_weight_grad");
const BIAS_GRAD: Kernel = Kernel::new(FILE, "linear_bias_grad");
