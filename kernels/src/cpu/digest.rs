//! The digest of a buffer: XXH3 of each block, then XXH3 of those in their order. The blocks are cut from the start of the
//! buffer, so that neither threads nor instruction sets change anything. What the numbers mean is not known here.

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::CpuDevice;
use super::tasks::Cost;

impl CpuDevice {
    pub(crate) fn digest(&self, buffers: &mut dyn Iterator<Item = &[f32]>) -> [u8; 16] {
        let mut digest = Xxh3::new();
        for group in buffers.flat_map(|values| values.chunks(BLOCK * GROUP)) {
            let mut hashes = [0; GROUP];
            let blocks = &mut hashes[..group.len().div_ceil(BLOCK)];
            let cost = Cost::elements(group.len());
            self.map(cost, (group, BLOCK), blocks, |block| xxh3_128(bytemuck::cast_slice(block)));
            blocks.iter().for_each(|hash| digest.update(&hash.to_le_bytes()));
        }
        digest.digest128().to_le_bytes()
    }
}

/// Elements of a task: 64 KiB.
const BLOCK: usize = 16 * 1024;
/// Blocks whose hashes are kept at once, without asking for memory: 16 MiB, enough work for many threads.
const GROUP: usize = 256;
