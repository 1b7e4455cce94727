//! Sums over slices, averages, fills, and the search for what is no number: plain passes over memory.

use super::launch::{Arg, Grid, Kernel, TypedKernel};
use super::memory::Element;
use super::{CudaDevice, CudaError, CudaView, CudaViewMut};

impl CudaDevice {
    pub(crate) fn add(&self, into: CudaViewMut<'_>, from: CudaView<'_>) {
        let element = into.element();
        let (grid, len) = (cover(into.len(), element), into.len() as i64);
        let (into, from) = (into.address(element), from.address(element));
        self.launch(ADD.of(element), grid, [Arg::of(&into), Arg::of(&from), Arg::of(&len)]);
    }

    pub(crate) fn fill(&self, into: CudaViewMut<'_>, value: f32) {
        let element = into.element();
        let (grid, len) = (cover(into.len(), element), into.len() as i64);
        let into = into.address(element);
        self.launch(FILL.of(element), grid, [Arg::of(&into), Arg::of(&value), Arg::of(&len)]);
    }

    pub(crate) fn lerp(&self, into: CudaViewMut<'_>, toward: CudaView<'_>, weight: f32) {
        let (grid, len) = (cover(into.len(), Element::F32), into.len() as i64);
        let (into, toward) = (into.address(Element::F32), toward.address(Element::F32));
        let args = [Arg::of(&into), Arg::of(&toward), Arg::of(&weight), Arg::of(&len)];
        self.launch(LERP, grid, args);
    }

    pub(crate) fn sum_slices(&self, slices: usize, from: CudaView<'_>, into: CudaViewMut<'_>) {
        let (grid, len) = (cover(into.len(), Element::F32), into.len() as i64);
        let (from, into) = (from.address(Element::F32), into.address(Element::F32));
        let slices = slices as i32;
        let args = [Arg::of(&from), Arg::of(&into), Arg::of(&slices), Arg::of(&len)];
        self.launch(SUM_SLICES, grid, args);
    }

    pub(crate) fn first_non_finite(
        &self,
        values: CudaView<'_>,
    ) -> Result<Option<usize>, CudaError> {
        let (grid, len) = (cover(values.len(), Element::F32), values.len() as i64);
        let grid = self.fill_gpu(grid);
        let values = values.address(Element::F32);
        let blocks = grid.blocks[0];
        let firsts = self.scratch((blocks as usize + 1) * size_of::<u64>());
        let result = firsts.wrapping_add(u64::from(blocks) * size_of::<u64>() as u64);
        let args = [Arg::of(&values), Arg::of(&len), Arg::of(&firsts)];
        self.launch(FIRST_NON_FINITE_BLOCKS, grid, args);
        let args = [Arg::of(&firsts), Arg::of(&blocks), Arg::of(&result)];
        self.launch(FIRST_NON_FINITE_ALL, Grid::cover(1, THREADS), args);
        let mut first = [0u64];
        self.download(result, bytemuck::cast_slice_mut(&mut first))?;
        Ok((first[0] != NONE).then_some(first[0] as usize))
    }

    /// At most as many blocks as run at once: each then takes its turns. For kernels whose results have no order.
    pub(super) fn fill_gpu(&self, grid: Grid) -> Grid {
        let at_once = self.gpu().multiprocessors * BLOCKS_OF_A_PROCESSOR;
        Grid { blocks: [grid.blocks[0].min(at_once), 1, 1], ..grid }
    }
}

/// A thread for each sixteen bytes.
pub(super) fn cover(len: usize, element: Element) -> Grid {
    Grid::cover(len.div_ceil(16 / element.size()), THREADS)
}

const ADD: TypedKernel = TypedKernel::new("elementwise.cu", ["add_f32", "add_bf16"]);
const FILL: TypedKernel = TypedKernel::new("elementwise.cu", ["fill_f32", "fill_bf16"]);
const LERP: Kernel = Kernel::new("elementwise.cu", "lerp_f32");
const SUM_SLICES: Kernel = Kernel::new("elementwise.cu", "sum_slices_f32");
const FIRST_NON_FINITE_BLOCKS: Kernel = Kernel::new("elementwise.cu", "first_non_finite_blocks");
const FIRST_NON_FINITE_ALL: Kernel = Kernel::new("elementwise.cu", "first_non_finite_all");
/// In place of an index, as in the kernels.
const NONE: u64 = u64::MAX;
const THREADS: u32 = 256;
/// With 64 registers to a thread, which has four loads on their way.
const BLOCKS_OF_A_PROCESSOR: u32 = 4;
