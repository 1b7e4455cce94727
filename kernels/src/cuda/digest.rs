//! A digest of buffers where they lie, without a copy to the host. What it is compared with is the caller's.

use super::elementwise::cover;
use super::launch::{Arg, Grid, Kernel};
use super::memory::Element;
use super::{CudaDevice, CudaError, CudaView};

impl CudaDevice {
    /// 128 bits of fp32 buffers, one after another: another number anywhere, another order or another length of one of
    /// them, and they differ. A change of one number is always seen; several hide each other only when they cancel in two
    /// sums of 64 bits, by accident. Nothing against those who want to deceive.
    ///
    /// # Errors
    /// As those of `Buffer::read`.
    pub fn digest(&self, buffers: &[CudaView<'_>]) -> Result<[u8; 16], CudaError> {
        let grids: Vec<Grid> =
            buffers.iter().map(|buffer| self.fill_gpu(cover(buffer.len(), Element::F32))).collect();
        let blocks: u32 = grids.iter().map(|grid| grid.blocks[0]).sum();
        let partials = self.scratch((blocks as usize + 1) * SUMS_BYTES);
        let (mut at, mut position) = (partials, 1u64);
        for (buffer, grid) in buffers.iter().zip(grids) {
            let (values, len) = (buffer.address(Element::F32), buffer.len() as i64);
            let args = [Arg::of(&values), Arg::of(&len), Arg::of(&position), Arg::of(&at)];
            self.launch(DIGEST_BLOCKS, grid, args);
            at = at.wrapping_add(u64::from(grid.blocks[0]) * SUMS_BYTES as u64);
            position += buffer.len().div_ceil(2) as u64;
        }
        let args = [Arg::of(&partials), Arg::of(&blocks), Arg::of(&at)];
        self.launch(DIGEST_ALL, Grid::cover(1, THREADS), args);
        let mut sums = [0u64; 2];
        self.download(at, bytemuck::cast_slice_mut(&mut sums))?;
        let lengths = buffers.iter().map(|buffer| buffer.len() as u64);
        Ok(bytemuck::cast(with_lengths(sums, lengths).map(u64::to_le)))
    }
}

/// Where one buffer ends and the next begins is part of the digest, too.
fn with_lengths(sums: [u64; 2], lengths: impl Iterator<Item = u64>) -> [u64; 2] {
    lengths.fold(sums, |[first, second], len| {
        let step = |sum: u64| (sum ^ len).wrapping_mul(FACTOR).rotate_left(29);
        [step(first), step(second)]
    })
}

const DIGEST_BLOCKS: Kernel = Kernel::new("digest.cu", "digest_blocks");
const DIGEST_ALL: Kernel = Kernel::new("digest.cu", "digest_all");
const THREADS: u32 = 256;
/// Of the two sums of a block.
const SUMS_BYTES: usize = 2 * size_of::<u64>();
/// Odd, so that nothing is lost; otherwise without a meaning.
const FACTOR: u64 = 0xD6E8_FEB8_6659_FD93;
