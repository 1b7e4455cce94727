//! Shapes of the ops. Several slices can be computed at once: they lie one after another, each has statistics of its own, and
//! sums over samples are made for each slice and then added over the binary tree of slices, so that the bits are those
//! of one slice at a time. The CPU takes one at a time. Every length that a caller must provide is computed here and asserted by the
//! op. Nothing here knows a device, except that packed weights are padded to whole panels.

use crate::device::Family;

/// A square-kernel 2-D convolution over a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvShape {
    /// Slices that are computed at once.
    pub slices: usize,
    /// Samples of all slices, `N`.
    pub batch: usize,
    /// Input rows, `H`.
    pub height: usize,
    /// Input columns, `W`.
    pub width: usize,
    /// `C_in`.
    pub in_channels: usize,
    /// `C_out`.
    pub out_channels: usize,
    /// Rows and columns of the kernel.
    pub kernel: usize,
    /// Step between windows, both ways.
    pub stride: usize,
    /// Virtual zeros on each side, less than `kernel`.
    pub pad: usize,
}

/// Elements that `conv_pack` writes for each pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedLen {
    /// The operand of the forward pass.
    pub forward: usize,
    /// The operand of the input gradient.
    pub input_grad: usize,
}

/// BatchNorm over `rows = N * H * W` rows of `channels`, each slice by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NormShape {
    /// Slices that are computed at once.
    pub slices: usize,
    /// `N * H * W` of all slices.
    pub rows: usize,
    /// `C`.
    pub channels: usize,
}

/// Max pooling, NHWC; padding counts as minus infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPoolShape {
    /// Samples, `N`.
    pub batch: usize,
    /// Input rows, `H`.
    pub height: usize,
    /// Input columns, `W`.
    pub width: usize,
    /// `C`.
    pub channels: usize,
    /// Rows and columns of a window.
    pub kernel: usize,
    /// Step between windows, both ways.
    pub stride: usize,
    /// Virtual border on each side, less than `kernel`.
    pub pad: usize,
}

/// Global average pooling: `[N, pixels, C] -> [N, C]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolShape {
    /// Samples, `N`.
    pub batch: usize,
    /// `H * W`.
    pub pixels: usize,
    /// `C`.
    pub channels: usize,
}

/// `[N, inputs] x [inputs, outputs] + [outputs]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearShape {
    /// Slices that are computed at once.
    pub slices: usize,
    /// Samples of all slices, `N`.
    pub batch: usize,
    /// Input features.
    pub inputs: usize,
    /// Output features.
    pub outputs: usize,
}

/// `u8 [N, height, width, C]` cropped to `f32 [N, out_height, out_width, C]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AugmentShape {
    /// Samples, `N`.
    pub batch: usize,
    /// Source rows.
    pub height: usize,
    /// Source columns.
    pub width: usize,
    /// `C`.
    pub channels: usize,
    /// Rows of the window.
    pub out_height: usize,
    /// Columns of the window.
    pub out_width: usize,
}

/// Images `[N, height, width, C]`, all of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImagesShape {
    /// Samples, `N`.
    pub batch: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `C`.
    pub channels: usize,
}

impl ConvShape {
    /// Output rows, `OH`.
    pub fn out_height(&self) -> usize {
        windows(self.height, self.kernel, self.stride, self.pad)
    }

    /// Output columns, `OW`.
    pub fn out_width(&self) -> usize {
        windows(self.width, self.kernel, self.stride, self.pad)
    }

    /// `N * OH * OW`.
    pub fn out_pixels(&self) -> usize {
        self.batch * self.out_height() * self.out_width()
    }

    /// Elements of the input `[N, H, W, C_in]`.
    pub fn input_len(&self) -> usize {
        self.batch * self.height * self.width * self.in_channels
    }

    /// Elements of the output `[N, OH, OW, C_out]`.
    pub fn output_len(&self) -> usize {
        self.out_pixels() * self.out_channels
    }

    /// Elements of the weight `[kh, kw, C_in, C_out]`.
    pub fn weight_len(&self) -> usize {
        self.kernel * self.kernel * self.in_channels * self.out_channels
    }

    /// Floating-point operations of the forward pass, two per multiply-add, padding included.
    pub fn flops(&self) -> usize {
        2 * self.out_pixels() * self.kernel * self.kernel * self.in_channels * self.out_channels
    }

    /// Elements of the packed weights. On the CPU, channels rounded up to whole panels; for some shapes, which the image's
    /// size decides too, weights as they are multiplied in Winograd's algorithm. On GPUs, `[C_out, kh, kw, C_in]` and
    /// `[C_in, kh, kw, C_out]` with the last axis rounded up to whole vectors of 8.
    pub fn packed_len(&self, family: Family) -> PackedLen {
        let taps = self.kernel * self.kernel;
        if family == Family::Cuda {
            return PackedLen {
                forward: self.out_channels * taps * self.in_channels.next_multiple_of(VECTOR),
                input_grad: self.in_channels * taps * self.out_channels.next_multiple_of(VECTOR),
            };
        }
        if self.is_winograd() {
            let (inputs, outputs) = (
                self.in_channels.next_multiple_of(PANEL),
                self.out_channels.next_multiple_of(PANEL),
            );
            return PackedLen {
                forward: outputs * WINOGRAD_POINTS * (inputs + 1),
                input_grad: inputs * WINOGRAD_POINTS * (outputs + 1),
            };
        }
        PackedLen {
            forward: self.out_channels.next_multiple_of(PANEL) * taps * self.in_channels,
            input_grad: self.in_channels.next_multiple_of(PANEL) * taps * self.out_channels,
        }
    }

    /// Whether the CPU computes this layer by Winograd's algorithm: where it needs far fewer products
    /// and has enough channels to pay for its transforms. A sample's result may not depend on its
    /// batch, so neither may this choice.
    pub(crate) fn is_winograd(&self) -> bool {
        let tiles = |height: usize, width: usize| height.div_ceil(4) * width.div_ceil(4);
        let pays = |height: usize, width: usize| {
            // 36 products instead of 9 for each pixel.
            10 * WINOGRAD_POINTS * tiles(height, width) <= 6 * 9 * height * width
        };
        self.kernel == 3
            && self.stride == 1
            && self.in_channels.min(self.out_channels) >= WINOGRAD_CHANNELS
            && pays(self.out_height(), self.out_width())
            && pays(self.height, self.width)
    }
}

impl NormShape {
    /// Elements of the activation `[rows, C]`.
    pub fn len(&self) -> usize {
        self.rows * self.channels
    }

    /// Elements of a pair of numbers for each channel of each slice, `[slices, 2, C]`: statistics, scale and shift, sums of
    /// backward.
    pub fn pairs_len(&self) -> usize {
        self.slices * 2 * self.channels
    }

    /// Whether there is no element at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl MaxPoolShape {
    /// Output rows, `OH`.
    pub fn out_height(&self) -> usize {
        windows(self.height, self.kernel, self.stride, self.pad)
    }

    /// Output columns, `OW`.
    pub fn out_width(&self) -> usize {
        windows(self.width, self.kernel, self.stride, self.pad)
    }

    /// Elements of the input `[N, H, W, C]`.
    pub fn input_len(&self) -> usize {
        self.batch * self.height * self.width * self.channels
    }

    /// Elements of the output `[N, OH, OW, C]`.
    pub fn output_len(&self) -> usize {
        self.batch * self.out_height() * self.out_width() * self.channels
    }
}

impl PoolShape {
    /// Elements of the input `[N, pixels, C]`.
    pub fn input_len(&self) -> usize {
        self.batch * self.pixels * self.channels
    }

    /// Elements of the output `[N, C]`.
    pub fn output_len(&self) -> usize {
        self.batch * self.channels
    }
}

impl LinearShape {
    /// Elements of the input `[N, inputs]`.
    pub fn input_len(&self) -> usize {
        self.batch * self.inputs
    }

    /// Elements of the output `[N, outputs]`.
    pub fn output_len(&self) -> usize {
        self.batch * self.outputs
    }

    /// Elements of the weight `[inputs, outputs]`.
    pub fn weight_len(&self) -> usize {
        self.inputs * self.outputs
    }
}

impl AugmentShape {
    /// Bytes of the source `[N, height, width, C]`.
    pub fn input_len(&self) -> usize {
        self.batch * self.height * self.width * self.channels
    }

    /// Elements of the result `[N, out_height, out_width, C]`.
    pub fn output_len(&self) -> usize {
        self.batch * self.out_height * self.out_width * self.channels
    }
}

impl ImagesShape {
    /// Elements of all images.
    pub fn len(&self) -> usize {
        self.batch * self.image_len()
    }

    /// Whether there is no element at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements of one image.
    pub fn image_len(&self) -> usize {
        self.height * self.width * self.channels
    }
}

/// Windows of `kernel` that fit into `size` elements with `pad` more on each side.
fn windows(size: usize, kernel: usize, stride: usize, pad: usize) -> usize {
    assert!(kernel > 0 && stride > 0, "a window needs a kernel and a stride above zero");
    assert!(pad < kernel, "a pad of {pad} leaves windows of {kernel} wholly outside");
    assert!(
        size + 2 * pad >= kernel,
        "no window of {kernel} fits into {size} elements padded by {pad}"
    );
    (size + 2 * pad - kernel) / stride + 1
}

/// Channels that a GPU's thread loads at once: 16 bytes of bf16.
const VECTOR: usize = 8;

/// Result channels of one panel of packed weights: one cache line, one AVX-512 register.
pub(crate) const PANEL: usize = 16;

/// Products of a tile of 4x4 outputs.
const WINOGRAD_POINTS: usize = 36;

/// Fewest channels, on either side, of a layer that Winograd's algorithm computes: with fewer the
/// transforms cost most of what the products save, and direct sums are closer to exact ones.
const WINOGRAD_CHANNELS: usize = 64;
