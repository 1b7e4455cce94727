//! BatchNorm, backward, in two passes over `[slices, rows, C]`: the sums that every row of a slice needs, then the rows.

use super::launch::{Arg, Grid, Kernel, TypedKernel};
use super::memory::Element;
use super::norm::{APPLY_THREAD_ROWS, RowGrid};
use super::{CudaDevice, CudaView, CudaViewMut};
use crate::shape::NormShape;

impl CudaDevice {
    #[expect(clippy::too_many_arguments, reason = "an op names each of its operands")]
    pub(crate) fn norm_backward_reduce(
        &self,
        shape: &NormShape,
        dy: CudaViewMut<'_>,
        y: Option<CudaView<'_>>,
        z: CudaView<'_>,
        stats: CudaView<'_>,
        epsilon: f32,
        sums: CudaViewMut<'_>,
    ) {
        let element = self.activations();
        let rows = RowGrid::new(shape, element);
        let block_rows = rows.block_rows(rows.reduce_thread_rows());
        let blocks = rows.blocks(block_rows) as i32;
        let partials = self.scratch(blocks as usize * shape.pairs_len() * size_of::<f32>());
        let [dy, z] = [dy.as_view(), z].map(|view| view.address(element));
        let y = y.map_or(NOT_MASKED, |y| y.address(element));
        let [stats, sums] = [stats, sums.as_view()].map(|view| view.address(Element::F32));
        let wide = rows.is_wide([dy, y, z]);
        let args = [
            Arg::of(&dy),
            Arg::of(&y),
            Arg::of(&z),
            Arg::of(&stats),
            Arg::of(&partials),
            Arg::of(&rows.slice_rows),
            Arg::of(&rows.channels),
            Arg::of(&block_rows),
            Arg::of(&wide),
        ];
        self.launch(REDUCE.of(element), rows.grid(block_rows), args);
        let args = [
            Arg::of(&partials),
            Arg::of(&stats),
            Arg::of(&sums),
            Arg::of(&blocks),
            Arg::of(&rows.channels),
            Arg::of(&epsilon),
        ];
        let columns = shape.channels.div_ceil(SUM_THREADS[0] as usize) as u32;
        let grid =
            Grid { blocks: [columns, shape.slices as u32, 1], threads: SUM_THREADS, shared: 0 };
        self.launch(SUM, grid, args);
    }

    #[expect(clippy::too_many_arguments, reason = "an op names each of its operands")]
    pub(crate) fn norm_backward_apply(
        &self,
        shape: &NormShape,
        dy: CudaView<'_>,
        z: CudaView<'_>,
        stats: CudaView<'_>,
        gamma: CudaView<'_>,
        sums: CudaView<'_>,
        epsilon: f32,
        dz: CudaViewMut<'_>,
    ) {
        let element = self.activations();
        let [dy, z, dz] = [dy, z, dz.as_view()].map(|view| view.address(element));
        let [stats, gamma, sums] = [stats, gamma, sums].map(|view| view.address(Element::F32));
        let rows = RowGrid::new(shape, element);
        let block_rows = rows.block_rows(APPLY_THREAD_ROWS);
        let wide = rows.is_wide([dy, z, dz]);
        let args = [
            Arg::of(&dy),
            Arg::of(&z),
            Arg::of(&stats),
            Arg::of(&gamma),
            Arg::of(&sums),
            Arg::of(&dz),
            Arg::of(&rows.slice_rows),
            Arg::of(&rows.channels),
            Arg::of(&block_rows),
            Arg::of(&epsilon),
            Arg::of(&wide),
        ];
        self.launch(APPLY.of(element), rows.grid(block_rows), args);
    }
}

/// In place of an address: no ReLU followed.
const NOT_MASKED: u64 = 0;
/// Channels, and groups of blocks whose sums are added side by side.
const SUM_THREADS: [u32; 3] = [32, 8, 1];

const FILE: &str = "norm_backward.cu";
const REDUCE: TypedKernel =
    TypedKernel::new(FILE, ["norm_backward_reduce_f32", "norm_backward_reduce_bf16"]);
const SUM: Kernel = Kernel::new(FILE, "norm_backward_sum");
const APPLY: TypedKernel =
    TypedKernel::new(FILE, ["norm_backward_apply_f32", "norm_backward_apply_bf16"]);
