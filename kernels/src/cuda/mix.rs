//! Images take from their neighbours, in place. How much is the caller's choice.

use super::erase::words;
use super::launch::{Arg, Grid, TypedKernel};
use super::{CudaDevice, CudaViewMut};
use crate::ops::{Mix, Window};
use crate::shape::ImagesShape;

impl CudaDevice {
    pub(crate) fn mix(&self, shape: &ImagesShape, how: &[Mix], x: CudaViewMut<'_>) {
        if x.len() == 0 {
            return;
        }
        let samples = (shape.batch / how.len()) as i32;
        let [image_len, width, channels] =
            [shape.image_len(), shape.width, shape.channels].map(|size| size as i32);
        let rules: Vec<[u32; 6]> = how.iter().map(rule).collect();
        let rules = self.stage(bytemuck::cast_slice(&rules));
        let element = self.activations();
        let x = x.address(element);
        let args = [
            Arg::of(&rules),
            Arg::of(&x),
            Arg::of(&samples),
            Arg::of(&image_len),
            Arg::of(&width),
            Arg::of(&channels),
        ];
        let pieces = shape.image_len().div_ceil(16 / element.size());
        let mut grid = Grid::cover(pieces, THREADS);
        grid.blocks[1] = how.len() as u32;
        self.launch(MIX.of(element), grid, args);
    }
}

/// As the kernel declares it: whether the window is taken over, the weight, the window.
fn rule(how: &Mix) -> [u32; 6] {
    let (paste, lambda, window) = match how {
        Mix::Blend { lambda } => (0, *lambda, Window::default()),
        Mix::Paste { window } => (1, 1.0, *window),
    };
    let [top, left, height, width] = words(&window).map(i32::cast_unsigned);
    [paste, lambda.to_bits(), top, left, height, width]
}

const MIX: TypedKernel = TypedKernel::new("mix.cu", ["mix_f32", "mix_bf16"]);
const THREADS: u32 = 256;
