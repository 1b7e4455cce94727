//! Sums of squares, in fp64. What the sums are for is not known here.

use super::launch::{Arg, Grid, Kernel};
use super::memory::Element;
use super::spans::cut;
use super::{CudaDevice, CudaError, CudaView};
use crate::device::Span;

impl CudaDevice {
    pub(crate) fn sums_of_squares(
        &self,
        values: CudaView<'_>,
        spans: &[Span],
        sums: &mut [f64],
    ) -> Result<(), CudaError> {
        let (table, blocks) = cut(spans.iter().copied(), BLOCK);
        let partials = self.scratch((blocks + spans.len()) * size_of::<f64>());
        let results = partials.wrapping_add((blocks * size_of::<f64>()) as u64);
        let values = values.address(Element::F32);
        let table = self.stage(bytemuck::cast_slice(&table));
        let count = spans.len() as i32;
        let args = [Arg::of(&values), Arg::of(&table), Arg::of(&count), Arg::of(&partials)];
        self.launch(SUMS_OF_SQUARES_BLOCKS, Grid::blocks(blocks, THREADS), args);
        let args = [Arg::of(&partials), Arg::of(&table), Arg::of(&results)];
        self.launch(SUMS_OF_SQUARES_SPANS, Grid::blocks(spans.len(), THREADS), args);
        self.download(results, bytemuck::cast_slice_mut(sums))
    }
}

const SUMS_OF_SQUARES_BLOCKS: Kernel = Kernel::new("sums_of_squares.cu", "sums_of_squares_blocks");
const SUMS_OF_SQUARES_SPANS: Kernel = Kernel::new("sums_of_squares.cu", "sums_of_squares_spans");
const THREADS: u32 = 256;
/// Elements of a block, as in the kernel.
const BLOCK: usize = 8192;
