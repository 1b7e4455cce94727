//! Max pooling and global average pooling.

use super::launch::{Arg, Grid, TypedKernel};
use super::memory::Element;
use super::vectors::{is_wide, vectors};
use super::{CudaDevice, CudaView, CudaViewMut};
use crate::shape::{MaxPoolShape, PoolShape};

impl CudaDevice {
    pub(crate) fn max_pool_forward(
        &self,
        shape: &MaxPoolShape,
        x: CudaView<'_>,
        y: CudaViewMut<'_>,
    ) {
        let element = self.activations();
        let [x, y] = [x, y.as_view()].map(|view| view.address(element));
        let geometry = geometry(shape);
        let wide = is_wide(shape.channels, element, &[x, y]);
        let grid = per_pixel(shape, shape.out_height() * shape.out_width(), element);
        let args = [Arg::of(&x), Arg::of(&y), Arg::of(&geometry), Arg::of(&wide)];
        self.launch(MAX_FORWARD.of(element), grid, args);
    }

    pub(crate) fn max_pool_backward(
        &self,
        shape: &MaxPoolShape,
        x: CudaView<'_>,
        y: CudaView<'_>,
        dy: CudaView<'_>,
        dx: CudaViewMut<'_>,
    ) {
        let element = self.activations();
        let [x, y, dy, dx] = [x, y, dy, dx.as_view()].map(|view| view.address(element));
        let geometry = geometry(shape);
        let wide = is_wide(shape.channels, element, &[x, y, dy, dx]);
        let grid = per_pixel(shape, shape.height * shape.width, element);
        let args = [
            Arg::of(&x),
            Arg::of(&y),
            Arg::of(&dy),
            Arg::of(&dx),
            Arg::of(&geometry),
            Arg::of(&wide),
        ];
        self.launch(MAX_BACKWARD.of(element), grid, args);
    }

    pub(crate) fn average_pool_forward(
        &self,
        shape: &PoolShape,
        x: CudaView<'_>,
        y: CudaViewMut<'_>,
    ) {
        let element = self.activations();
        let (x, y) = (x.address(element), y.address(Element::F32));
        let (pixels, channels) = (shape.pixels as i32, shape.channels as i32);
        let wide = is_wide(shape.channels, element, &[x]);
        let grid = images(shape.batch, vectors(shape.channels, element), [VECTORS, 1]);
        let args = [Arg::of(&x), Arg::of(&y), Arg::of(&pixels), Arg::of(&channels), Arg::of(&wide)];
        self.launch(AVERAGE_FORWARD.of(element), grid, args);
    }

    pub(crate) fn average_pool_backward(
        &self,
        shape: &PoolShape,
        dy: CudaView<'_>,
        dx: CudaViewMut<'_>,
    ) {
        let element = self.activations();
        let (dy, dx) = (dy.address(Element::F32), dx.address(element));
        let (pixels, channels) = (shape.pixels as i32, shape.channels as i32);
        let wide = is_wide(shape.channels, element, &[dx]);
        let grid = images(shape.batch, vectors(shape.channels, element), [VECTORS, PIXELS]);
        let args =
            [Arg::of(&dy), Arg::of(&dx), Arg::of(&pixels), Arg::of(&channels), Arg::of(&wide)];
        self.launch(AVERAGE_BACKWARD.of(element), grid, args);
    }
}

/// `MaxPool` of `kernels/cuda/pool.cu`.
fn geometry(shape: &MaxPoolShape) -> [i32; 8] {
    let MaxPoolShape { height, width, channels, kernel, stride, pad, .. } = *shape;
    let fits = |height: usize, width: usize| i32::try_from(height * width * channels).is_ok();
    let (out_height, out_width) = (shape.out_height(), shape.out_width());
    assert!(fits(height, width) && fits(out_height, out_width), "an image of 2^31 elements");
    [height, width, channels, kernel, stride, pad, out_height, out_width].map(|size| size as i32)
}

/// A thread for each vector of channels of each of an image's pixels.
fn per_pixel(shape: &MaxPoolShape, pixels: usize, element: Element) -> Grid {
    images(shape.batch, pixels * vectors(shape.channels, element), [THREADS, 1])
}

/// Blocks of `threads` that cover, across, the `items` of each image.
fn images(batch: usize, items: usize, threads: [u32; 2]) -> Grid {
    let [across, down] = threads;
    let blocks = [items.div_ceil(across as usize) as u32, batch as u32, 1];
    Grid { blocks, threads: [across, down, 1], shared: 0 }
}

const THREADS: u32 = 256;
/// Of one image, in average pooling: enough blocks for all processors come of small ones.
const VECTORS: u32 = 64;
const PIXELS: u32 = 4;

const FILE: &str = "pool.cu";
const MAX_FORWARD: TypedKernel =
    TypedKernel::new(FILE, ["max_pool_forward_f32", "max_pool_forward_bf16"]);
const MAX_BACKWARD: TypedKernel =
    TypedKernel::new(FILE, ["max_pool_backward_f32", "max_pool_backward_bf16"]);
const AVERAGE_FORWARD: TypedKernel =
    TypedKernel::new(FILE, ["average_pool_forward_f32", "average_pool_forward_bf16"]);
const AVERAGE_BACKWARD: TypedKernel =
    TypedKernel::new(FILE, ["average_pool_backward_f32", "average_pool_backward_bf16"]);
