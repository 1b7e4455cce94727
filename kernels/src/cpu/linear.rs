//! The fully connected layer: a 1x1 convolution over images of one pixel, plus a bias. It is a
//! small part of any ResNet, so it owns no kernel of its own.

use super::CpuDevice;
use super::scratch::Grown;
use crate::device::Family;
use crate::ops::Accumulate;
use crate::shape::{ConvShape, LinearShape};

impl CpuDevice {
    pub(crate) fn linear_forward(
        &self,
        shape: &LinearShape,
        x: &[f32],
        weight: &[f32],
        bias: &[f32],
        y: &mut [f32],
    ) {
        let conv = as_conv(shape);
        let mut scratch = self.op_scratch();
        let [forward, _] = self.packed(&conv, weight, &mut scratch.weights);
        self.conv_forward(&conv, x, forward, y, None);
        for row in y.chunks_exact_mut(shape.outputs.max(1)) {
            for (y, bias) in row.iter_mut().zip(bias) {
                *y += bias;
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "an op names each of its operands")]
    pub(crate) fn linear_backward(
        &self,
        shape: &LinearShape,
        x: &[f32],
        weight: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        d_weight: &mut [f32],
        d_bias: &mut [f32],
    ) {
        let conv = as_conv(shape);
        let mut scratch = self.op_scratch();
        let [_, input_grad] = self.packed(&conv, weight, &mut scratch.weights);
        self.conv_input_grad(&conv, dy, input_grad, dx, Accumulate::Overwrite);
        self.conv_weight_grad(&conv, x, dy, d_weight);
        d_bias.fill(0.0);
        for row in dy.chunks_exact(shape.outputs.max(1)) {
            for (d_bias, dy) in d_bias.iter_mut().zip(row) {
                *d_bias += dy;
            }
        }
    }

    /// The operands of both passes, in `memory`.
    fn packed<'a>(
        &self,
        conv: &ConvShape,
        weight: &[f32],
        [forward, input_grad]: &'a mut [Grown; 2],
    ) -> [&'a [f32]; 2] {
        let len = conv.packed_len(Family::Cpu);
        let (forward, input_grad) = (forward.take(len.forward), input_grad.take(len.input_grad));
        self.conv_pack(conv, weight, forward, input_grad);
        [forward, input_grad]
    }
}

fn as_conv(shape: &LinearShape) -> ConvShape {
    ConvShape {
        slices: shape.slices,
        batch: shape.batch,
        height: 1,
        width: 1,
        in_channels: shape.inputs,
        out_channels: shape.outputs,
        kernel: 1,
        stride: 1,
        pad: 0,
    }
}
