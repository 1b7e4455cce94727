//! Bytes to normalised activations: crop, flip, scale. Where a crop starts is the caller's choice.

use super::launch::{Arg, Grid, TypedKernel};
use super::{CudaDevice, CudaViewMut};
use crate::ops::Crop;
use crate::shape::AugmentShape;

impl CudaDevice {
    #[expect(clippy::too_many_arguments, reason = "an op names each of its operands")]
    pub(crate) fn augment(
        &self,
        shape: &AugmentShape,
        pixels: &[u8],
        crops: &[Crop],
        mean: &[f32],
        std: &[f32],
        out: CudaViewMut<'_>,
    ) {
        let AugmentShape { height, width, channels, out_height, out_width, .. } = *shape;
        let sizes = [height, width, channels, out_height, out_width].map(|size| size as i32);
        let element = self.activations();
        let sample_len = out_height * out_width * channels;
        let block_len = THREADS as usize * ROUNDS * (16 / element.size());
        let blocks = sample_len.div_ceil(block_len);
        let grid = Grid::blocks(shape.batch * blocks, THREADS);
        let blocks = blocks as i32;
        // Through scratch: large pieces of pinned memory would be many times as large as a batch.
        let source = self.scratch(pixels.len());
        self.upload(source, pixels);
        let crops: Vec<[i32; 3]> = crops.iter().map(words).collect();
        let crops = self.stage(bytemuck::cast_slice(&crops));
        let mean_std = self.stage(bytemuck::cast_slice(&[mean, std].concat()));
        let out = out.address(element);
        let args = [
            Arg::of(&sizes),
            Arg::of(&source),
            Arg::of(&crops),
            Arg::of(&mean_std),
            Arg::of(&out),
            Arg::of(&blocks),
        ];
        let shared = (channels * 256 * size_of::<f32>()) as u32;
        self.launch(AUGMENT.of(element), Grid { shared, ..grid }, args);
    }
}

fn words(crop: &Crop) -> [i32; 3] {
    [crop.top as i32, crop.left as i32, i32::from(crop.flip)]
}

const AUGMENT: TypedKernel = TypedKernel::new("augment.cu", ["augment_f32", "augment_bf16"]);
const THREADS: u32 = 256;
/// Sixteen bytes a thread takes in each, as in the kernel.
const ROUNDS: usize = 8;
