//! Max pooling and global average pooling, one image per task. What feeds them is not known here.

use std::ops::Range;

use super::CpuDevice;
use super::simd::{Kernel, Simd};
use super::tasks::Cost;
use crate::shape::{MaxPoolShape, PoolShape};

impl CpuDevice {
    pub(crate) fn max_pool_forward(&self, shape: &MaxPoolShape, x: &[f32], y: &mut [f32]) {
        let vectors = self.vectors();
        let (x_len, y_len) = image_lens(shape);
        let cost = Cost::elements(y.len() * shape.kernel * shape.kernel);
        self.chunks(cost, y, y_len.max(1), |image, y| {
            vectors.run(MaxForward { shape, x: &x[image * x_len..][..x_len], y });
        });
    }

    pub(crate) fn max_pool_backward(
        &self,
        shape: &MaxPoolShape,
        x: &[f32],
        y: &[f32],
        dy: &[f32],
        dx: &mut [f32],
    ) {
        let vectors = self.vectors();
        let (x_len, y_len) = image_lens(shape);
        let cost = Cost::elements(y.len() * shape.kernel * shape.kernel);
        self.chunks(cost, dx, x_len.max(1), |image, dx| {
            vectors.run(MaxBackward {
                shape,
                x: &x[image * x_len..][..x_len],
                y: &y[image * y_len..][..y_len],
                dy: &dy[image * y_len..][..y_len],
                dx,
            });
        });
    }

    pub(crate) fn average_pool_forward(&self, shape: &PoolShape, x: &[f32], y: &mut [f32]) {
        let vectors = self.vectors();
        let x_len = shape.pixels * shape.channels;
        self.chunks(Cost::elements(x.len()), y, shape.channels.max(1), |image, y| {
            vectors.run(Average { x: &x[image * x_len..][..x_len], y });
        });
    }

    pub(crate) fn average_pool_backward(&self, shape: &PoolShape, dy: &[f32], dx: &mut [f32]) {
        let dx_len = shape.pixels * shape.channels;
        let divisor = shape.pixels as f32;
        self.chunks(Cost::elements(dx.len()), dx, dx_len.max(1), |image, dx| {
            let dy = &dy[image * shape.channels..][..shape.channels];
            let (first, rest) = dx.split_at_mut(shape.channels);
            for (dx, dy) in first.iter_mut().zip(dy) {
                *dx = dy / divisor;
            }
            rest.chunks_exact_mut(shape.channels).for_each(|row| row.copy_from_slice(first));
        });
    }
}

struct MaxForward<'a> {
    shape: &'a MaxPoolShape,
    x: &'a [f32],     // [H, W, C]
    y: &'a mut [f32], // [OH, OW, C]
}

impl Kernel for MaxForward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let MaxForward { shape, x, y } = self;
        for (position, y) in y.chunks_exact_mut(shape.channels).enumerate() {
            y.fill(f32::NEG_INFINITY);
            for pixel in window(shape, position) {
                let x = &x[pixel * shape.channels..][..shape.channels];
                for (y, &x) in y.iter_mut().zip(x) {
                    // NaN wins, so that a diverged run is seen.
                    *y = if x > *y || x.is_nan() { x } else { *y };
                }
            }
        }
    }
}

struct MaxBackward<'a> {
    shape: &'a MaxPoolShape,
    x: &'a [f32],      // [H, W, C]
    y: &'a [f32],      // [OH, OW, C]
    dy: &'a [f32],     // [OH, OW, C]
    dx: &'a mut [f32], // [H, W, C]
}

impl Kernel for MaxBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let MaxBackward { shape, x, y, dy, dx } = self;
        let channels = shape.channels;
        dx.fill(0.0);
        let outputs = y.chunks_exact(channels).zip(dy.chunks_exact(channels));
        for (position, (y, dy)) in outputs.enumerate() {
            for first in (0..channels).step_by(GROUP) {
                let group = first..(first + GROUP).min(channels);
                let (y, dy) = (&y[group.clone()], &dy[group.clone()]);
                // What of `dy` is still to be given away: all of it until the maximum is met.
                let mut left = [0.0; GROUP];
                left[..dy.len()].copy_from_slice(dy);
                for pixel in window(shape, position) {
                    let at = pixel * channels + first;
                    let x = &x[at..at + y.len()];
                    let dx = &mut dx[at..at + y.len()];
                    for (((dx, x), y), left) in dx.iter_mut().zip(x).zip(y).zip(&mut left) {
                        let hit = x == y;
                        *dx += if hit { *left } else { 0.0 };
                        *left = if hit { 0.0 } else { *left };
                    }
                }
            }
        }
    }
}

struct Average<'a> {
    x: &'a [f32],     // [pixels, C]
    y: &'a mut [f32], // [C]
}

impl Kernel for Average<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let pixels = self.x.len() / self.y.len();
        self.y.fill(0.0);
        for row in self.x.chunks_exact(self.y.len()) {
            for (y, x) in self.y.iter_mut().zip(row) {
                *y += x;
            }
        }
        for y in self.y {
            *y /= pixels as f32;
        }
    }
}

/// Elements of one input and one output image.
fn image_lens(shape: &MaxPoolShape) -> (usize, usize) {
    let x = shape.height * shape.width * shape.channels;
    (x, shape.out_height() * shape.out_width() * shape.channels)
}

/// The input pixels of one output pixel's window, in row order.
#[inline(always)]
fn window(shape: &MaxPoolShape, position: usize) -> impl Iterator<Item = usize> {
    let width = shape.width;
    let out_width = shape.out_width();
    let rows = clipped(position / out_width, shape, shape.height);
    let columns = clipped(position % out_width, shape, shape.width);
    rows.flat_map(move |row| columns.clone().map(move |column| row * width + column))
}

#[inline(always)]
fn clipped(window: usize, shape: &MaxPoolShape, size: usize) -> Range<usize> {
    let start = window * shape.stride;
    start.saturating_sub(shape.pad)..(start + shape.kernel - shape.pad).min(size)
}

/// Channels whose search for the maximum goes on side by side.
const GROUP: usize = 64;
