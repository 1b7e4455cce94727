//! Where the rows of a convolution's matrix product lie in its images: what the kernels are told instead of a direction, a
//! stride and a pad. Knows no kernel.
//!
//! The forward pass has a row for each output pixel, and its taps step through the input. The input gradient is the same
//! product the other way round: a row for each input pixel, whose taps step backwards through the output. With stride `s`
//! an input pixel meets only every `s`-th tap, beginning with one that depends on its remainder by `s`: so each of the
//! `s * s` classes of remainders is a product of its own, and no multiplication is wasted on taps that meet nothing.

use crate::shape::ConvShape;

/// `Axis` of `cuda/conv.cuh`, whose comments tell what each number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    pub(super) rows: usize,
    pub(super) source: usize,
    pub(super) step: usize,
    pub(super) origin: isize,
    pub(super) direction: isize,
    pub(super) taps: usize,
    pub(super) weight_origin: usize,
    pub(super) weight_step: usize,
    pub(super) target: usize,
    pub(super) target_step: usize,
    pub(super) target_origin: usize,
}

/// `Walk` of `cuda/conv.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walk {
    pub(super) high: Axis,
    pub(super) wide: Axis,
    pub(super) samples: usize,
    pub(super) source_channels: usize,
    pub(super) target_channels: usize,
    pub(super) kernel: usize,
}

impl Walk {
    /// From the input to the output, for `shape.batch` samples.
    pub(super) fn forward(shape: &ConvShape) -> Walk {
        Walk {
            high: Axis::forward(shape.height, shape.out_height(), shape),
            wide: Axis::forward(shape.width, shape.out_width(), shape),
            samples: shape.batch,
            source_channels: shape.in_channels,
            target_channels: shape.out_channels,
            kernel: shape.kernel,
        }
    }

    /// From the output's gradient to the input's: one walk for each class of remainders.
    pub(super) fn input_grad(shape: &ConvShape) -> impl Iterator<Item = Walk> {
        let shape = *shape;
        let ConvShape { stride, .. } = shape;
        (0..stride * stride).map(move |class| Walk {
            high: Axis::back(shape.height, shape.out_height(), &shape, class / stride),
            wide: Axis::back(shape.width, shape.out_width(), &shape, class % stride),
            samples: shape.batch,
            source_channels: shape.out_channels,
            target_channels: shape.in_channels,
            kernel: shape.kernel,
        })
    }

    /// Of the product.
    pub(super) fn rows(&self) -> usize {
        self.samples * self.high.rows * self.wide.rows
    }

    /// Products of a row for each channel.
    pub(super) fn taps(&self) -> usize {
        self.high.taps * self.wide.taps
    }

    /// As the kernels declare it.
    pub(super) fn words(&self) -> [i32; 26] {
        let Walk { high, wide, samples, source_channels, target_channels, kernel } = *self;
        let mut words = [0; 26];
        words[..11].copy_from_slice(&high.words());
        words[11..22].copy_from_slice(&wide.words());
        words[22..]
            .copy_from_slice(&[samples, source_channels, target_channels, kernel].map(number));
        words
    }
}

impl Axis {
    fn forward(input: usize, output: usize, shape: &ConvShape) -> Axis {
        Axis {
            rows: output,
            source: input,
            step: shape.stride,
            origin: -(shape.pad as isize),
            direction: 1,
            taps: shape.kernel,
            weight_origin: 0,
            weight_step: 1,
            target: output,
            target_step: 1,
            target_origin: 0,
        }
    }

    /// Input pixels `remainder`, `remainder + stride`, ... Tap `t` of row `r` is output pixel
    /// `(remainder + stride * r + pad - first - stride * t) / stride`, `first` the first tap for which that is whole.
    fn back(input: usize, output: usize, shape: &ConvShape, remainder: usize) -> Axis {
        let ConvShape { kernel, stride, pad, .. } = *shape;
        let first = (remainder + pad) % stride;
        Axis {
            rows: input.saturating_sub(remainder).div_ceil(stride),
            source: output,
            step: 1,
            origin: ((remainder + pad - first) / stride) as isize,
            direction: -1,
            taps: kernel.saturating_sub(first).div_ceil(stride),
            weight_origin: first,
            weight_step: stride,
            target: input,
            target_step: stride,
            target_origin: remainder,
        }
    }

    fn words(&self) -> [i32; 11] {
        // A row outside is marked by a place that no tap brings back inside.
        assert!(self.source.max(self.target) < FARTHEST, "images have fewer than {FARTHEST} rows");
        [
            number(self.rows),
            number(self.source),
            number(self.step),
            self.origin as i32,
            self.direction as i32,
            number(self.taps),
            number(self.weight_origin),
            number(self.weight_step),
            number(self.target),
            number(self.target_step),
            number(self.target_origin),
        ]
    }
}

/// Counts of pixels, and numbers below them.
pub(super) fn number(value: usize) -> i32 {
    i32::try_from(value).expect("a batch has fewer than 2^31 pixels")
}

/// Half of the distance at which `reach_of` of `cuda/conv.cuh` and `conv_simt_weight_grad.cu` put what is outside.
const FARTHEST: usize = 1 << 13;

#[cfg(test)]
mod tests {
    use super::*;

    /// Every (source, target, tap) of a walk along one axis.
    fn meetings(axis: &Axis) -> Vec<(usize, usize, usize)> {
        let mut found = Vec::new();
        for (row, tap) in (0..axis.rows).flat_map(|row| (0..axis.taps).map(move |tap| (row, tap))) {
            let source = (row * axis.step) as isize + axis.origin + tap as isize * axis.direction;
            if let Some(source) = usize::try_from(source).ok().filter(|&at| at < axis.source) {
                let target = row * axis.target_step + axis.target_origin;
                assert!(target < axis.target);
                found.push((source, target, axis.weight_origin + tap * axis.weight_step));
            }
        }
        found
    }

    #[test]
    fn walks_back_meet_what_the_walk_forward_meets() {
        for (size, kernel, stride, pad) in
            [(7, 3, 1, 1), (8, 3, 2, 1), (9, 1, 2, 0), (9, 7, 2, 3), (11, 3, 3, 2), (5, 1, 3, 0)]
        {
            let shape = ConvShape {
                slices: 1,
                batch: 1,
                height: size,
                width: size,
                in_channels: 1,
                out_channels: 1,
                kernel,
                stride,
                pad,
            };
            let mut forward = meetings(&Walk::forward(&shape).high);
            let classes = Walk::input_grad(&shape).take(stride);
            let mut back: Vec<_> = classes
                .flat_map(|walk| meetings(&walk.wide))
                .map(|(output, input, tap)| (input, output, tap))
                .collect();
            forward.sort_unstable();
            back.sort_unstable();
            assert_eq!(forward, back, "{shape:?}");
            let rows: usize = Walk::input_grad(&shape).map(|walk| walk.rows()).sum();
            assert_eq!(rows, size * size, "every input pixel is in one class");
        }
    }
}
