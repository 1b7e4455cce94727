//! Which kernel computes a convolution, with which tile, in how many pieces: a pure function of one slice's shape, since it decides
//! the bits of a result. It looks at no GPU: the same choice serves all that have been thought of, compute capability 8.0 to 9.0.
//!
//! How many blocks a multiprocessor holds, by their shared memory on an H200 (227 KiB) and by the registers that
//! `cuda/limits.toml` allows:
//!
//! | kernel | shared memory | blocks |
//! |---|---|---|
//! | `conv_mma_128x128`, `_128x64`, `_64x64` | 96, 72, 48 KiB | 2, 3, 4 |
//! | `conv_mma_weight_grad_128x128`, `_128x64`, `_64x64` | 64, 48, 32 KiB | 2, 3, 4 |
//! | `conv_stem_even`, `conv_stem_odd` | 35 KiB for 7x7 of 3 channels | 3 |
//! | `conv_stem_weight_grad` | 21 KiB for 7x7 of 3 channels | 2 |
//! | `conv_simt`, `conv_simt_weight_grad` | 9 KiB | 4 |

use cudarc::driver::sys::CUdeviceptr;

use super::super::launch::{Grid, TypedKernel};
use super::super::memory::Element;
use super::walk::{Walk, number};
use crate::shape::ConvShape;

/// A kernel for the forward pass and the input gradient, and how it cuts the matrix of results.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    pub(super) kernel: TypedKernel,
    cut: Cut,
    columns: usize, // of a tile
    threads: u32,
    shared: usize, // bytes
}

/// What one tile holds of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// So many, one after another.
    Rows(usize),
    /// `STEM_TILE` of one image. A block computes `STEM_RUN` of them.
    Images,
}

/// A kernel for the weight gradient, `[taps * C_in, C_out]`, and how it cuts this matrix and the sums.
#[derive(Clone, Copy, Debug)]
pub(super) struct WeightGrad {
    pub(super) kernel: TypedKernel,
    rows: usize,    // of a tile
    columns: usize, // of a tile
    threads: u32,
    shared: usize, // bytes
    unit: Unit,
}

/// What a weight gradient's sums are cut by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// Output pixels, 32 at a time.
    Pixels,
    /// `STEM_TILE` of one image.
    Images,
}

/// The pieces of one slice's weight gradient: each adds over pixels of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    pub(super) count: usize,
    /// Units of a piece; the last may have fewer.
    pub(super) len: usize,
}

impl Product {
    /// The walk is that of one slice.
    pub(super) fn of(walk: &Walk, element: Element) -> Product {
        if element == Element::F32 {
            return SIMT;
        }
        if !walk.source_channels.is_multiple_of(VECTOR) {
            return if is_stem(walk) { Product::stem(walk) } else { SIMT };
        }
        let (rows, columns) = (walk.rows(), walk.target_channels);
        if columns <= 64 {
            if rows >= MANY_ROWS { MMA_128X64 } else { MMA_64X64 }
        } else if rows * columns >= MANY_RESULTS {
            MMA_128X128
        } else {
            MMA_64X64
        }
    }

    fn stem(walk: &Walk) -> Product {
        let is_even = (walk.wide.step * walk.source_channels).is_multiple_of(2);
        let name = if is_even { "conv_stem_even" } else { "conv_stem_odd" };
        let (columns, [_, row_len]) = (64, stem_rows(walk));
        let weights = 2 * columns * (walk.kernel * row_len + 8);
        // Two sums for each column of each of two rows of warps.
        let sums = 4 * 2 * 2 * columns;
        Product {
            kernel: TypedKernel::new("conv_stem.cu", ["", name]),
            cut: Cut::Images,
            columns,
            threads: 128,
            shared: weights + stem_patch_bytes(walk) + sums,
        }
    }

    /// Tiles of one slice's rows: as many sets of statistics.
    pub(super) fn row_tiles(&self, walk: &Walk) -> usize {
        match self.cut {
            Cut::Rows(rows) => walk.rows().div_ceil(rows),
            Cut::Images => stem_tiles(walk),
        }
    }

    pub(super) fn grid(&self, walk: &Walk, slices: usize) -> Grid {
        let (rows, columns) = (self.row_tiles(walk), walk.target_channels.div_ceil(self.columns));
        let blocks = match self.cut {
            Cut::Rows(_) => [rows * columns, slices, 1],
            Cut::Images => [rows.div_ceil(STEM_RUN), slices, columns],
        };
        grid(blocks, self.threads, self.shared)
    }

    /// Operands that are read and written 16 bytes at a time begin at multiples of them, by the caller's plan.
    #[track_caller]
    pub(super) fn assert_aligned(&self, operands: &[CUdeviceptr]) {
        assert_aligned(self.shared, operands);
    }
}

impl WeightGrad {
    pub(super) fn of(slice: &ConvShape, element: Element) -> WeightGrad {
        let is_vector = |channels: usize| channels.is_multiple_of(VECTOR);
        if element == Element::F32 || !is_vector(slice.out_channels) {
            return SIMT_WEIGHT_GRAD;
        }
        let walk = Walk::forward(slice);
        if !is_vector(slice.in_channels) {
            let fits = is_stem(&walk) && slice.kernel <= 8 && stem_rows(&walk)[1] <= 32;
            return if fits { WeightGrad::stem(&walk) } else { SIMT_WEIGHT_GRAD };
        }
        match (weight_rows(slice) > 64, slice.out_channels > 64) {
            (true, true) => MMA_WEIGHT_GRAD_128X128,
            (true, false) => MMA_WEIGHT_GRAD_128X64,
            (false, _) => MMA_WEIGHT_GRAD_64X64,
        }
    }

    fn stem(walk: &Walk) -> WeightGrad {
        let columns = 64;
        WeightGrad {
            kernel: TypedKernel::new("conv_stem_weight_grad.cu", ["", "conv_stem_weight_grad"]),
            rows: walk.kernel * stem_rows(walk)[0],
            columns,
            threads: 32 * walk.kernel as u32,
            shared: 2 * columns * STEM_TILE[0] * STEM_TILE[1] + stem_patch_bytes(walk),
            unit: Unit::Images,
        }
    }

    /// Enough blocks for one slice to fill a GPU, pieces long enough to be worth their sum, and short enough for fp32.
    pub(super) fn split(&self, slice: &ConvShape) -> Split {
        let (units, unit_pixels, step) = match self.unit {
            Unit::Pixels => (slice.out_pixels(), 1, 32),
            Unit::Images => (stem_tiles(&Walk::forward(slice)), STEM_TILE[0] * STEM_TILE[1], 1),
        };
        let pixels = units * unit_pixels;
        let wanted = BLOCKS.div_ceil(self.tiles(slice)).min(pixels.div_ceil(PIXELS_MIN));
        let count = wanted.max(pixels.div_ceil(PIXELS_MAX)).max(1);
        let len = units.div_ceil(count).next_multiple_of(step);
        Split { count: units.div_ceil(len), len }
    }

    pub(super) fn grid(&self, slice: &ConvShape, split: Split, slices: usize) -> Grid {
        grid([self.tiles(slice), split.count, slices], self.threads, self.shared)
    }

    /// As `Product::assert_aligned`.
    #[track_caller]
    pub(super) fn assert_aligned(&self, operands: &[CUdeviceptr]) {
        assert_aligned(self.shared, operands);
    }

    fn tiles(&self, slice: &ConvShape) -> usize {
        weight_rows(slice).div_ceil(self.rows) * slice.out_channels.div_ceil(self.columns)
    }
}

fn weight_rows(shape: &ConvShape) -> usize {
    shape.kernel * shape.kernel * shape.in_channels
}

fn grid(blocks: [usize; 3], threads: u32, shared: usize) -> Grid {
    let blocks = blocks.map(|blocks| number(blocks) as u32);
    Grid { blocks, threads: [threads, 1, 1], shared: shared as u32 }
}

/// The engines with shared memory of their own move 16 bytes at a time.
#[track_caller]
fn assert_aligned(shared: usize, operands: &[CUdeviceptr]) {
    let aligned = operands.iter().all(|address| address.is_multiple_of(16));
    assert!(shared == 0 || aligned, "a convolution's operand begins between multiples of 16 bytes");
}

/// Whether few channels are read forward, by windows that fit into shared memory.
fn is_stem(walk: &Walk) -> bool {
    let [_, row_len] = stem_rows(walk);
    walk.high.direction > 0
        && walk.source_channels < VECTOR
        && walk.kernel * row_len <= 512
        && stem_patch_bytes(walk) <= 32 << 10
}

/// Numbers of one row of a window, as they are and as they are multiplied.
fn stem_rows(walk: &Walk) -> [usize; 2] {
    let row = walk.kernel * walk.source_channels;
    [row, row.next_multiple_of(16)]
}

/// What a tile sees of an image: `Stem` of `conv_stem.cuh`.
fn stem_patch_bytes(walk: &Walk) -> usize {
    let [high, wide] = STEM_TILE;
    let lines = (high - 1) * walk.high.step + walk.kernel;
    let line = (wide - 1) * walk.wide.step * walk.source_channels + stem_rows(walk)[1];
    2 * lines * line.next_multiple_of(8)
}

fn stem_tiles(walk: &Walk) -> usize {
    let [high, wide] = STEM_TILE;
    walk.samples * walk.high.rows.div_ceil(high) * walk.wide.rows.div_ceil(wide)
}

const SIMT: Product = Product {
    kernel: TypedKernel::new("conv_simt.cu", ["conv_simt_f32", "conv_simt_bf16"]),
    cut: Cut::Rows(64),
    columns: 64,
    threads: 128,
    shared: 0,
};

const MMA_128X128: Product = mma("conv_mma_128x128", [128, 128], 256);
const MMA_128X64: Product = mma("conv_mma_128x64", [128, 64], 128);
const MMA_64X64: Product = mma("conv_mma_64x64", [64, 64], 128);

/// Three stages of 64 bf16 numbers of each row and column.
const fn mma(name: &'static str, [rows, columns]: [usize; 2], threads: u32) -> Product {
    let kernel = TypedKernel::new("conv_mma.cu", ["", name]);
    let shared = 3 * 64 * 2 * (rows + columns);
    Product { kernel, cut: Cut::Rows(rows), columns, threads, shared }
}

const SIMT_WEIGHT_GRAD: WeightGrad = WeightGrad {
    kernel: TypedKernel::new(
        "conv_simt_weight_grad.cu",
        ["conv_simt_weight_grad_f32", "conv_simt_weight_grad_bf16"],
    ),
    rows: 64,
    columns: 64,
    threads: 128,
    shared: 0,
    unit: Unit::Pixels,
};

const MMA_WEIGHT_GRAD_128X128: WeightGrad =
    mma_weight_grad("conv_mma_weight_grad_128x128", [128, 128], 256);
const MMA_WEIGHT_GRAD_128X64: WeightGrad =
    mma_weight_grad("conv_mma_weight_grad_128x64", [128, 64], 128);
const MMA_WEIGHT_GRAD_64X64: WeightGrad =
    mma_weight_grad("conv_mma_weight_grad_64x64", [64, 64], 128);

/// Four stages of 32 bf16 numbers of each row and column.
const fn mma_weight_grad(
    name: &'static str,
    [rows, columns]: [usize; 2],
    threads: u32,
) -> WeightGrad {
    let kernel = TypedKernel::new("conv_mma_weight_grad.cu", ["", name]);
    let shared = 4 * 32 * 2 * (rows + columns);
    WeightGrad { kernel, rows, columns, threads, shared, unit: Unit::Pixels }
}

/// Channels that a thread copies at once: 16 bytes of bf16.
const VECTOR: usize = 8;
/// Fewer rows, and large tiles would leave multiprocessors without one.
const MANY_ROWS: usize = 4096;
/// As many are 64 tiles of 128 x 128.
const MANY_RESULTS: usize = 1 << 20;

/// Output pixels, down and across: also in `conv_stem.cuh`.
const STEM_TILE: [usize; 2] = [8, 16];
/// Tiles that share one copy of the weights: also in `conv_stem.cu`.
const STEM_RUN: usize = 8;

/// Multiprocessors of the largest GPUs: about as many blocks keep one busy.
const BLOCKS: usize = 128;
/// Fewer pixels take less time than writing and adding up what came of them.
const PIXELS_MIN: usize = 256;
/// The error of a sum in fp32 grows with its length; this many keep it below 1e-5.
const PIXELS_MAX: usize = 8192;

#[cfg(test)]
mod tests;
