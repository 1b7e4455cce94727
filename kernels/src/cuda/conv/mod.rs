//! Convolution on a GPU, NHWC, as products of matrices whose operands are gathered from images. In reading order: `walk`
//! (which pixel meets which), `engine` (which kernel computes a shape), `product` (forward pass with statistics, input
//! gradient), `weight_grad`; here, the packing of weights.

mod walk;
mod engine;
mod product;
mod weight_grad;

use self::walk::number;
use super::launch::{Arg, Grid, TypedKernel};
use super::memory::Element;
use super::{CudaDevice, CudaView, CudaViewMut};
use crate::shape::ConvShape;

impl CudaDevice {
    pub(crate) fn conv_pack(
        &self,
        shape: &ConvShape,
        weight: CudaView<'_>,
        forward: CudaViewMut<'_>,
        input_grad: CudaViewMut<'_>,
    ) {
        let element = self.activations();
        let (weight, forward) = (weight.address(Element::F32), forward.address(element));
        let input_grad = input_grad.address(element);
        let squares = |channels: usize| channels.next_multiple_of(8).div_ceil(SQUARE);
        let taps = number(shape.kernel * shape.kernel);
        let (inputs, outputs) = (number(shape.in_channels), number(shape.out_channels));
        let across = squares(shape.in_channels) * squares(shape.out_channels);
        let grid = Grid {
            blocks: [number(across) as u32, taps as u32, 1],
            threads: [SQUARE as u32, 8, 1],
            shared: 0,
        };
        self.launch(
            PACK.of(element),
            grid,
            [
                Arg::of(&weight),
                Arg::of(&forward),
                Arg::of(&input_grad),
                Arg::of(&taps),
                Arg::of(&inputs),
                Arg::of(&outputs),
            ],
        );
    }
}

const PACK: TypedKernel = TypedKernel::new("conv_pack.cu", ["conv_pack_f32", "conv_pack_bf16"]);
/// Also in `conv_pack.cu`.
const SQUARE: usize = 32;
