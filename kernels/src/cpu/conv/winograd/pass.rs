//! Forward pass and input gradient: blocks of whole strips are transformed, multiplied point by point,
//! and transformed back. Narrow layers have one task a block, whose numbers stay in its core's cache;
//! wide ones share each block among all threads, since every block reads all weights.

use super::pack::part_rows;
use super::product::Product;
use super::tiles::{Gather, Images, Spread, Tiling, Window, group_len, part_len, product_len};
use super::{GROUP, POINTS, WIDTH};
use crate::cpu::CpuDevice;
use crate::cpu::simd::LANES;
use crate::cpu::tasks::Cost;
use crate::ops::Accumulate;
use crate::shape::ConvShape;

/// One of the two passes, as a convolution of stride 1.
#[derive(Clone, Copy, Debug)]
pub(in crate::cpu::conv) struct Pass<'a> {
    images: Images<'a>,
    tiling: Tiling,
    weights: &'a [[f32; LANES]],
    channels: usize, // of the result
    strips: usize,   // of the whole batch
}

impl<'a> Pass<'a> {
    pub(in crate::cpu::conv) fn forward(
        shape: &ConvShape,
        x: &'a [f32],
        packed: &'a [f32],
    ) -> Pass<'a> {
        let ConvShape { height, width, in_channels, pad, .. } = *shape;
        let images = Images { x, height, width, channels: in_channels, pad };
        let tiling = Tiling { height: shape.out_height(), width: shape.out_width() };
        let strips = shape.batch * tiling.strips();
        let weights = packed.as_chunks().0;
        Pass { images, tiling, weights, channels: shape.out_channels, strips }
    }

    pub(in crate::cpu::conv) fn input_grad(
        shape: &ConvShape,
        dy: &'a [f32],
        packed: &'a [f32],
    ) -> Pass<'a> {
        let (height, width) = (shape.out_height(), shape.out_width());
        // A window of the result reaches as far back as the kernel did not reach out.
        let pad = shape.kernel - 1 - shape.pad;
        let images = Images { x: dy, height, width, channels: shape.out_channels, pad };
        let tiling = Tiling { height: shape.height, width: shape.width };
        let strips = shape.batch * tiling.strips();
        let weights = packed.as_chunks().0;
        Pass { images, tiling, weights, channels: shape.in_channels, strips }
    }

    /// Pixels of every block but the last: a run of whole strips.
    pub(in crate::cpu::conv) fn block_pixels(&self) -> usize {
        self.pixels(self.block_strips())
    }

    /// Pixels of `strips` strips that start an image or divide one evenly.
    fn pixels(&self, strips: usize) -> usize {
        let Tiling { height, width } = self.tiling;
        match self.tiling.height.is_multiple_of(4) {
            true => strips * 4 * width,
            false => strips / self.tiling.strips() * height * width,
        }
    }

    /// Strips that can be cut off evenly: one, or those of an image whose last strip is lower.
    fn unit_strips(&self) -> usize {
        if self.tiling.height.is_multiple_of(4) { 1 } else { self.tiling.strips() }
    }

    fn block_strips(&self) -> usize {
        let unit = self.unit_strips();
        let tiles = BLOCK_ELEMENTS / self.images.channels.max(self.channels);
        let units = tiles.clamp(2 * GROUP, BLOCK_TILES) / (unit * self.tiling.per_strip());
        units.max(1) * unit
    }

    pub(in crate::cpu::conv) fn is_wide(&self) -> bool {
        self.images.channels * self.channels >= WIDE
    }
}

impl CpuDevice {
    /// Computes a whole pass; `epilogue(block, rows, moments)` sees each block of a narrow layer while
    /// it is in cache.
    pub(in crate::cpu::conv) fn winograd(
        &self,
        pass: &Pass<'_>,
        out: &mut [f32],
        accumulate: Accumulate,
        cost: Cost,
    ) {
        let block_len = pass.block_pixels() * pass.channels;
        if pass.is_wide() {
            for (index, out) in out.chunks_mut(block_len).enumerate() {
                self.winograd_wide(pass, index, out, accumulate);
            }
        } else {
            self.chunks(cost, out, block_len, |index, out| {
                self.winograd_block(pass, index, out, accumulate);
            });
        }
    }

    /// One block by the calling thread.
    pub(in crate::cpu::conv) fn winograd_block(
        &self,
        pass: &Pass<'_>,
        index: usize,
        out: &mut [f32],
        accumulate: Accumulate,
    ) {
        let block = Block::new(pass, index);
        let mut scratch = self.scratch();
        let scratch = &mut *scratch;
        let groups = scratch.values.take(block.groups() * group_len(pass.images.channels));
        let zeros = scratch.zeros.zeros(pass.images.channels);
        for (index, group) in groups.chunks_exact_mut(group_len(pass.images.channels)).enumerate() {
            self.vectors().run(block.gather(index, zeros, group));
        }
        let part = product_len(block.tiles);
        let products = scratch.products.take(block.columns() * POINTS * part);
        for (index, products) in products.chunks_exact_mut(part).enumerate() {
            block.multiply(self, index, groups, products);
        }
        self.vectors().run(block.spread(
            products,
            block.first..block.first + block.tiles,
            accumulate,
            out,
        ));
    }

    /// One block by all threads.
    fn winograd_wide(
        &self,
        pass: &Pass<'_>,
        index: usize,
        out: &mut [f32],
        accumulate: Accumulate,
    ) {
        let block = Block::new(pass, index);
        let mut scratch = self.op_scratch();
        let scratch = &mut *scratch;
        let group_len = group_len(pass.images.channels);
        let groups = scratch.values.take(block.groups() * group_len);
        let zeros = scratch.zeros.zeros(pass.images.channels);
        self.chunks(Cost::elements(2 * groups.len()), groups, group_len, |index, group| {
            self.vectors().run(block.gather(index, zeros, group));
        });
        let part = product_len(block.tiles);
        let products = scratch.products.take(block.columns() * POINTS * part);
        let flops = 2 * POINTS * block.tiles * pass.images.channels * pass.channels;
        self.chunks(Cost::flops(flops), products, part, |index, products| {
            block.multiply(self, index, groups, products);
        });
        let strips = pass.unit_strips();
        let (tiles, len) = (strips * pass.tiling.per_strip(), pass.pixels(strips) * pass.channels);
        self.chunks(Cost::elements(3 * products.len()), out, len, |index, out| {
            let first = block.first + index * tiles;
            self.vectors().run(block.spread(products, first..first + tiles, accumulate, out));
        });
    }
}

/// A run of whole strips.
#[derive(Clone, Copy, Debug)]
struct Block<'a> {
    pass: Pass<'a>,
    first: usize, // tile
    tiles: usize,
}

impl<'a> Block<'a> {
    fn new(pass: &Pass<'a>, index: usize) -> Block<'a> {
        let first = index * pass.block_strips();
        let strips = pass.block_strips().min(pass.strips - first);
        let per_strip = pass.tiling.per_strip();
        Block { pass: *pass, first: first * per_strip, tiles: strips * per_strip }
    }

    fn groups(&self) -> usize {
        self.tiles.div_ceil(GROUP)
    }

    /// Runs of 64 result channels.
    fn columns(&self) -> usize {
        self.pass.channels.div_ceil(WIDTH)
    }

    fn gather<'b>(&self, index: usize, zeros: &'b [f32], group: &'b mut [f32]) -> Gather<'b>
    where
        'a: 'b,
    {
        let tiles = GROUP.min(self.tiles - index * GROUP);
        let first = self.first + index * GROUP;
        let Pass { images, tiling, .. } = self.pass;
        Gather { images, tiling, window: Window::Input, first, tiles, zeros, group }
    }

    /// All tiles at one point, times 64 columns of the weights.
    fn multiply(&self, cpu: &CpuDevice, index: usize, groups: &[f32], products: &mut [f32]) {
        let (column, point) = (index / POINTS, index % POINTS);
        let source = self.pass.images.channels;
        let panels = self.pass.channels.div_ceil(LANES);
        let first = column * (WIDTH / LANES);
        let rows = part_rows(source);
        let products = &mut products[..self.tiles * WIDTH];
        let groups = groups.chunks_exact(group_len(source));
        for (index, (group, out)) in groups.zip(products.chunks_mut(GROUP * WIDTH)).enumerate() {
            // A wide layer's weights come from far away: while one point is multiplied, those of the
            // next are on their way.
            let fetches = self.pass.is_wide() && index == 1.min(self.groups() - 1);
            cpu.vectors().run(Product {
                values: &group[point * part_len(source)..][..part_len(source)],
                weights: &self.pass.weights[(first * POINTS + point) * rows..],
                panel_rows: POINTS * rows,
                panels: source.div_ceil(LANES),
                columns: (panels - first).min(WIDTH / LANES),
                ahead: if fetches { rows } else { 0 },
                out,
            });
        }
    }

    fn spread<'b>(
        &self,
        products: &'b [f32],
        tiles: std::ops::Range<usize>,
        accumulate: Accumulate,
        out: &'b mut [f32],
    ) -> Spread<'b> {
        Spread {
            products,
            capacity: self.tiles,
            block_first: self.first,
            tiling: self.pass.tiling,
            tiles,
            channels: self.pass.channels,
            accumulate,
            out,
        }
    }
}

/// Tiles times channels of a narrow layer's block: 36 times that, twice, in half a second-level cache.
const BLOCK_ELEMENTS: usize = 3 * 1024;

/// Most tiles of a block.
const BLOCK_TILES: usize = 128;

/// Products of channels from which on a layer is wide.
const WIDE: usize = 192 * 192;
