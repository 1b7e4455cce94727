//! How an image is cut into tiles, and the transforms between images and groups of tiles. What the
//! points are multiplied with is not known here.
//!
//! A group's transform is `[36][panels][GROUP][16]`, its 36 parts `SKEW` elements further apart than
//! they need to be; a block's products are `[columns of 64][36][tiles][64]`.

use super::points::{self, Transform};
use super::{GROUP, POINTS, SKEW, WIDTH};
use crate::cpu::simd::{Kernel, LANES, Simd, add_lanes, lanes, store_lanes};
use crate::ops::Accumulate;

/// Images `[N, height, width, channels]` whose windows are gathered: 6x6 of each tile start `pad`
/// above and left of its 4x4 outputs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Images<'a> {
    pub(super) x: &'a [f32],
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    pub(super) pad: usize,
}

/// The tiles of the results: strips of 4 rows, image by image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiling {
    pub(super) height: usize, // of the result
    pub(super) width: usize,
}

impl Tiling {
    pub(super) fn strips(&self) -> usize {
        self.height.div_ceil(4)
    }

    pub(super) fn per_strip(&self) -> usize {
        self.width.div_ceil(4)
    }

    pub(super) fn per_image(&self) -> usize {
        self.strips() * self.per_strip()
    }

    /// Image, first row and first column of a tile.
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let (strip, column) = (tile / self.per_strip(), tile % self.per_strip());
        (strip / self.strips(), strip % self.strips() * 4, column * 4)
    }
}

/// Elements between two points of a group of `channels` channels.
pub(super) fn part_len(channels: usize) -> usize {
    channels.div_ceil(LANES) * GROUP * LANES + SKEW
}

/// Elements of a transformed group.
pub(super) fn group_len(channels: usize) -> usize {
    POINTS * part_len(channels)
}

/// Elements between two points of the products of `tiles` tiles.
pub(super) fn product_len(tiles: usize) -> usize {
    tiles * WIDTH + SKEW
}

/// Which transform a group takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Window {
    /// 6x6 inputs of each tile.
    Input,
    /// 4x4 output gradients of each tile.
    OutputGrad,
}

/// Transforms some tiles; missing tiles of the group become zeros.
pub(super) struct Gather<'a> {
    pub(super) images: Images<'a>,
    pub(super) tiling: Tiling,
    pub(super) window: Window,
    pub(super) first: usize,         // tile
    pub(super) tiles: usize,         // of the group
    pub(super) zeros: &'a [f32],     // [channels], what padding holds
    pub(super) group: &'a mut [f32], // [group_len]
}

impl Kernel for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        assert_eq!(self.group.len(), group_len(self.images.channels));
        assert!(self.tiles <= GROUP && self.zeros.len() == self.images.channels);
        match self.window {
            Window::Input => self.all::<points::Input, S, 6>(simd),
            Window::OutputGrad => self.all::<points::OutputGrad, S, 4>(simd),
        }
    }
}

impl Gather<'_> {
    #[inline(always)]
    fn all<T: Transform<N, 6>, S: Simd, const N: usize>(self, simd: S) {
        let Gather { images, tiling, first, tiles, zeros, group, .. } = self;
        let (panels, part) = (images.channels.div_ceil(LANES), part_len(images.channels));
        for index in 0..tiles {
            let pixels: [[&[f32]; N]; N] = pixels(images, tiling.place(first + index), zeros);
            for panel in 0..panels {
                let start = panel * LANES;
                let width = LANES.min(images.channels - start);
                let mut tile = [[simd.splat(0.0); N]; N];
                for row in 0..N {
                    for column in 0..N {
                        // SAFETY: each pixel has `channels` elements, and `start + width` is at
                        // most that.
                        let from =
                            unsafe { pixels[row][column].get_unchecked(start..start + width) };
                        tile[row][column] = lanes(simd, from, width);
                    }
                }
                let points = points::both_ways::<T, S, N, 6>(simd, &tile);
                let at = (panel * GROUP + index) * LANES;
                for row in 0..6 {
                    for column in 0..6 {
                        let at = (row * 6 + column) * part + at;
                        // SAFETY: `at` lies in the part of this point, whose first
                        // `panels * GROUP * 16` elements are panels, and `run` saw all 36 parts.
                        let to = unsafe { group.get_unchecked_mut(at..at + LANES) };
                        store_lanes(simd, points[row][column], to);
                    }
                }
            }
        }
        for point in group.chunks_exact_mut(part) {
            for panel in point.chunks_exact_mut(GROUP * LANES) {
                panel[tiles * LANES..].fill(0.0);
            }
        }
    }
}

/// The `N` by `N` pixels of a tile's window; those outside of the image are `zeros`.
#[inline(always)]
fn pixels<'a, const N: usize>(
    images: Images<'a>,
    (image, row, column): (usize, usize, usize),
    zeros: &'a [f32],
) -> [[&'a [f32]; N]; N] {
    let Images { x, height, width, channels, pad } = images;
    let mut pixels = [[zeros; N]; N];
    for (i, pixels) in pixels.iter_mut().enumerate() {
        // Below zero wraps round to far outside.
        let row = (row + i).wrapping_sub(pad);
        for (j, pixel) in pixels.iter_mut().enumerate() {
            let column = (column + j).wrapping_sub(pad);
            if row < height && column < width {
                *pixel = &x[((image * height + row) * width + column) * channels..][..channels];
            }
        }
    }
    pixels
}

/// Transforms products back to results.
pub(super) struct Spread<'a> {
    pub(super) products: &'a [f32], // of the block, `[columns of 64][36][tiles][64]`
    pub(super) capacity: usize,     // tiles that the products have room for
    pub(super) block_first: usize,  // tile that the products start with
    pub(super) tiling: Tiling,
    pub(super) tiles: std::ops::Range<usize>, // to write, whole strips
    pub(super) channels: usize,
    pub(super) accumulate: Accumulate,
    pub(super) out: &'a mut [f32], // the pixels of those strips
}

impl Kernel for Spread<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Spread { products, capacity, block_first, tiling, tiles, channels, .. } = self;
        let part = product_len(capacity);
        assert!(products.len() >= channels.div_ceil(WIDTH) * POINTS * part);
        assert!(tiles.start >= block_first && tiles.end <= block_first + capacity);
        let (image, row, _) = tiling.place(tiles.start);
        let first_row = image * tiling.height + row;
        for tile in tiles {
            let (image, row, column) = tiling.place(tile);
            let (rows, columns) = (4.min(tiling.height - row), 4.min(tiling.width - column));
            let corner = (image * tiling.height + row - first_row) * tiling.width + column;
            for start in (0..channels).step_by(LANES) {
                let base = start / WIDTH * POINTS * part;
                let at = base + (tile - block_first) * WIDTH + start % WIDTH;
                let mut sums = [[simd.splat(0.0); 6]; 6];
                for row in 0..6 {
                    for column in 0..6 {
                        let at = at + (row * 6 + column) * part;
                        // SAFETY: `at` lies in this point's part of the tile's columns, which the
                        // assertions above saw.
                        let from = unsafe { products.get_unchecked(at..at + LANES) };
                        sums[row][column] = lanes(simd, from, LANES);
                    }
                }
                let results = points::both_ways::<points::Output, S, 6, 4>(simd, &sums);
                let width = LANES.min(channels - start);
                for row in 0..rows {
                    for column in 0..columns {
                        let pixel = corner + row * tiling.width + column;
                        let to = &mut self.out[pixel * channels + start..][..width];
                        match self.accumulate {
                            Accumulate::Overwrite => store_lanes(simd, results[row][column], to),
                            Accumulate::Add => add_lanes(simd, results[row][column], to),
                        }
                    }
                }
            }
        }
    }
}
