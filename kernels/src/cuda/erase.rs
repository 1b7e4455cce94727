//! Zeros in a window of each image. Where the windows lie is the caller's choice.

use super::launch::{Arg, Grid, TypedKernel};
use super::{CudaDevice, CudaViewMut};
use crate::ops::Window;
use crate::shape::ImagesShape;

impl CudaDevice {
    pub(crate) fn erase(&self, shape: &ImagesShape, windows: &[Window], x: CudaViewMut<'_>) {
        let ImagesShape { batch, height, width, channels } = *shape;
        let [height, width, channels] = [height, width, channels].map(|size| size as i32);
        let windows: Vec<[i32; 4]> = windows.iter().map(words).collect();
        let windows = self.stage(bytemuck::cast_slice(&windows));
        let element = self.activations();
        let x = x.address(element);
        let args =
            [Arg::of(&windows), Arg::of(&x), Arg::of(&height), Arg::of(&width), Arg::of(&channels)];
        self.launch(ERASE.of(element), Grid::blocks(batch * BLOCKS, THREADS), args);
    }
}

/// As the kernels declare a window.
pub(super) fn words(window: &Window) -> [i32; 4] {
    let Window { top, left, height, width } = *window;
    [top, left, height, width].map(|size| size as i32)
}

const ERASE: TypedKernel = TypedKernel::new("erase.cu", ["erase_f32", "erase_bf16"]);
const THREADS: u32 = 256;
/// For each image, as in the kernel.
const BLOCKS: usize = 8;
