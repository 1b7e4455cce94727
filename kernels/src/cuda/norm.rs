//! BatchNorm, forward, and how a GPU's threads share `[slices, rows, C]`, in its backward, too. The statistics of a batch
//! come from the convolution; nothing here computes them.

use super::launch::{Arg, Grid, Kernel, TypedKernel};
use super::memory::Element;
use super::vectors::{is_wide, vectors};
use super::{CudaDevice, CudaView, CudaViewMut};
use crate::ops::{Activation, Residual};
use crate::shape::NormShape;

impl CudaDevice {
    pub(crate) fn norm_affine(
        &self,
        stats: CudaView<'_>,
        gamma: CudaView<'_>,
        beta: CudaView<'_>,
        epsilon: f32,
        affine: CudaViewMut<'_>,
    ) {
        let (channels, pairs) = (gamma.len() as i32, stats.len() / 2);
        let slices = (pairs / gamma.len()) as i32;
        let [stats, gamma, beta] = [stats, gamma, beta].map(|view| view.address(Element::F32));
        let affine = affine.address(Element::F32);
        let args = [
            Arg::of(&stats),
            Arg::of(&gamma),
            Arg::of(&beta),
            Arg::of(&affine),
            Arg::of(&slices),
            Arg::of(&channels),
            Arg::of(&epsilon),
        ];
        self.launch(AFFINE, Grid::cover(pairs, THREADS), args);
    }

    #[expect(clippy::too_many_arguments, reason = "an op names each of its operands")]
    pub(crate) fn norm_apply(
        &self,
        shape: &NormShape,
        z: CudaView<'_>,
        affine: CudaView<'_>,
        residual: Residual<'_>,
        activation: Activation,
        y: CudaViewMut<'_>,
    ) {
        // Activations, or a bias, which is fp32.
        let element = y.element();
        let (kernel, other, other_affine) = match residual {
            Residual::None => (APPLY, z, affine),
            Residual::Plain(other) => (APPLY_PLAIN, other.cuda(), affine),
            Residual::Normalised { z, affine } => (APPLY_NORMALISED, z.cuda(), affine.cuda()),
        };
        let [z, other, y] = [z, other, y.as_view()].map(|view| view.address(element));
        let [affine, other_affine] = [affine, other_affine].map(|view| view.address(Element::F32));
        let rows = RowGrid::new(shape, element);
        let block_rows = rows.block_rows(APPLY_THREAD_ROWS);
        let relu = i32::from(activation == Activation::Relu);
        let wide = rows.is_wide([z, other, y]);
        let args = [
            Arg::of(&z),
            Arg::of(&affine),
            Arg::of(&other),
            Arg::of(&other_affine),
            Arg::of(&y),
            Arg::of(&rows.slice_rows),
            Arg::of(&rows.channels),
            Arg::of(&block_rows),
            Arg::of(&relu),
            Arg::of(&wide),
        ];
        self.launch(kernel.of(element), rows.grid(block_rows), args);
    }

    pub(crate) fn norm_update_running(
        &self,
        running: CudaViewMut<'_>,
        slice_sums: CudaView<'_>,
        slices: usize,
        rows: usize,
        momentum: f32,
    ) {
        let (numbers, channels) = (running.len(), (running.len() / 2) as i32);
        let [running, sums] =
            [running.as_view(), slice_sums].map(|view| view.address(Element::F32));
        let slices = slices as f32;
        let unbiased = if rows > 1 { rows as f32 / (rows - 1) as f32 } else { 1.0 };
        let args = [
            Arg::of(&running),
            Arg::of(&sums),
            Arg::of(&channels),
            Arg::of(&slices),
            Arg::of(&unbiased),
            Arg::of(&momentum),
        ];
        self.launch(UPDATE_RUNNING, Grid::cover(numbers, THREADS), args);
    }
}

/// The host's side of `kernels/cuda/rows.cuh`. How rows are cut into blocks depends on one slice's shape alone.
#[derive(Debug)]
pub(super) struct RowGrid {
    /// Rows of one slice.
    pub(super) slice_rows: i32,
    pub(super) channels: i32,
    slices: u32,
    element: Element,
    /// Of a block: vectors of channels, rows at a time.
    threads: [u32; 2],
    /// Blocks side by side.
    groups: u32,
}

impl RowGrid {
    pub(super) fn new(shape: &NormShape, element: Element) -> RowGrid {
        let vectors = (vectors(shape.channels, element) as u32).max(1);
        let width = vectors.min(ROW_VECTORS);
        RowGrid {
            slice_rows: (shape.rows / shape.slices) as i32,
            channels: shape.channels as i32,
            slices: shape.slices as u32,
            element,
            threads: [width, ROW_THREADS / width],
            groups: vectors.div_ceil(ROW_VECTORS),
        }
    }

    /// Rows of a block whose threads have this many each.
    pub(super) fn block_rows(&self, thread_rows: u32) -> i32 {
        (self.threads[1] * thread_rows) as i32
    }

    /// Blocks of so many rows in a slice.
    pub(super) fn blocks(&self, block_rows: i32) -> u32 {
        (self.slice_rows as u32).div_ceil(block_rows as u32)
    }

    pub(super) fn grid(&self, block_rows: i32) -> Grid {
        let blocks = [self.blocks(block_rows), self.groups, self.slices];
        Grid { blocks, threads: [self.threads[0], self.threads[1], 1], shared: 0 }
    }

    /// 1 when all of these activations are read and written a vector at a time.
    pub(super) fn is_wide(&self, activations: [u64; 3]) -> i32 {
        is_wide(self.channels as usize, self.element, &activations)
    }

    /// Rows of a thread in a pass that adds them up: a slice has about `REDUCE_BLOCKS` blocks, which are enough for the
    /// largest GPU's processors even when it is the only slice, and few enough to be added by one block.
    pub(super) fn reduce_thread_rows(&self) -> u32 {
        let blocks = (REDUCE_BLOCKS / self.groups).max(1);
        (self.slice_rows as u32).div_ceil(self.threads[1] * blocks).clamp(4, 64)
    }
}

/// Rows of a thread in a pass that sums nothing.
pub(super) const APPLY_THREAD_ROWS: u32 = 8;

const ROW_THREADS: u32 = 256;
const ROW_VECTORS: u32 = 32;
const REDUCE_BLOCKS: u32 = 128;
const THREADS: u32 = 256;

const FILE: &str = "norm.cu";
const AFFINE: Kernel = Kernel::new(FILE, "norm_affine");
const UPDATE_RUNNING: Kernel = Kernel::new(FILE, "norm_update_running");
const APPLY: TypedKernel = TypedKernel::new(FILE, ["norm_apply_f32", "norm_apply_bf16"]);
const APPLY_PLAIN: TypedKernel =
    TypedKernel::new(FILE, ["norm_apply_plain_f32", "norm_apply_plain_bf16"]);
const APPLY_NORMALISED: TypedKernel =
    TypedKernel::new(FILE, ["norm_apply_normalised_f32", "norm_apply_normalised_bf16"]);
