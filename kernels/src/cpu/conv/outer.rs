//! The engine of the weight gradient: a tile of some source channels by up to 64 result channels
//! stays in registers while the pixels of a block are summed, one chain of multiply-adds for each
//! element. How pixels are cut into blocks, and blocks added up, is the caller's.

use std::ops::Range;

use super::geometry::{Grid, Source, Windows};
use crate::cpu::simd::{Kernel, LANES, Simd, add_lanes};
use crate::shape::ConvShape;

/// The pixels of a block at which a tap meets the source: where `x` starts, where `dy` does.
#[derive(Debug, Default)]
pub(in crate::cpu) struct Pairs {
    x: Vec<u32>,
    dy: Vec<u32>,
}

impl Pairs {
    pub(super) fn fill(
        &mut self,
        windows: &Windows,
        source: &Source<'_>,
        shape: &ConvShape,
        tap: usize,
        pixels: Range<usize>,
    ) {
        self.x.clear();
        self.dy.clear();
        let phase = &windows.phase;
        let Some((row, column)) = phase.tap_pairs().nth(tap) else { return };
        let grid = Grid { height: shape.out_height(), width: shape.out_width() };
        let x_step = phase.columns.step * source.channels;
        for segment in phase.segments(grid, pixels) {
            let columns = column.clip(&segment.columns);
            if !row.inside.contains(&segment.row) || columns.is_empty() {
                continue;
            }
            let source_row = phase.rows.source(segment.row, &row);
            let source_column = phase.columns.source(columns.start, &column);
            let x = source.offset(segment.image, source_row, source_column);
            let pixel = segment.pixel + columns.start - segment.columns.start;
            let dy = pixel * shape.out_channels;
            self.x.extend((0..columns.len()).map(|i| (x + i * x_step) as u32));
            self.dy.extend((0..columns.len()).map(|i| (dy + i * shape.out_channels) as u32));
        }
    }
}

/// `sums += x^T * dy` over the pairs, for some rows and all columns of a tap's `dw`.
pub(super) struct OuterSum<'a> {
    pub(super) x: &'a [f32],
    pub(super) dy: &'a [f32],
    pub(super) pairs: &'a Pairs,
    pub(super) first_row: usize,    // of the tap's elements of `x`
    pub(super) channels: usize,     // of `dy`
    pub(super) copy: &'a mut [f32], // [COPY_LEN], for columns of `dy`
    pub(super) rows: &'a mut [f32], // [rows_len], for wide rows of `x`
    pub(super) sums: &'a mut [f32], // [rows, channels]
}

impl Kernel for OuterSum<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let OuterSum { x, dy, pairs, first_row, channels, copy, rows: rows_copy, sums } = self;
        // Narrow rows of `dy` are read where they are. Wide ones lie far apart and would meet in
        // few sets of the cache; ragged ones have no room for whole vectors.
        let copies = channels > COPY_WIDTH || !channels.is_multiple_of(LANES);
        let rows = sums.len() / channels;
        let panels = channels.div_ceil(LANES);
        if !rows_copy.is_empty() {
            copy_rows(x, &pairs.x, first_row, rows, rows_copy);
        }
        let mut panel = 0;
        while panel < panels {
            let group = (panels - panel).min(S::PANELS);
            let first = panel * LANES;
            let (mut dy, mut dy_at) = (&dy[first..], &pairs.dy[..]);
            if copies {
                copy_columns(dy, dy_at, (group * LANES).min(channels - first), copy);
                (dy, dy_at) = (&*copy, &COPY_AT[..pairs.x.len()]);
            }
            if !rows_copy.is_empty() {
                let mut row = 0;
                for x in rows_copy.chunks_exact(BLOCK_PIXELS * LANES) {
                    let height = LANES.min(rows - row);
                    let sums = &mut sums[row * channels..(row + height) * channels];
                    let x_at = &ROWS_AT[..pairs.x.len()];
                    let operands = Operands::new((x, x_at, height), (dy, dy_at, group * LANES));
                    one_group(simd, &operands, Tile { sums, channels, first_row: 0, first }, group);
                    row += height;
                }
                panel += group;
                continue;
            }
            let x_len = first_row + rows;
            let operands = Operands::new((x, &pairs.x, x_len), (dy, dy_at, group * LANES));
            let result = Tile { sums, channels, first_row, first };
            one_group(simd, &operands, result, group);
            panel += group;
        }
    }
}

/// What a tile multiplies: for each pair, `x_len` elements of `x` from `x_at` on and `dy_len` of `dy`
/// from `dy_at` on.
struct Operands<'a> {
    x: &'a [f32],
    x_at: &'a [u32],
    x_len: usize,
    dy: &'a [f32],
    dy_at: &'a [u32],
    dy_len: usize,
}

impl<'a> Operands<'a> {
    /// Panics unless every pair lies inside. Checked here, once for all tiles: a branch to a panic
    /// in the tile's loop would cost it half its speed, since sums then leave their registers.
    #[inline(always)]
    fn new(
        (x, x_at, x_len): (&'a [f32], &'a [u32], usize),
        (dy, dy_at, dy_len): (&'a [f32], &'a [u32], usize),
    ) -> Operands<'a> {
        let largest = |at: &[u32]| at.iter().fold(0, |largest, &at| at.max(largest)) as usize;
        assert_eq!(x_at.len(), dy_at.len());
        assert!(x_at.is_empty() || largest(x_at) + x_len <= x.len());
        assert!(dy_at.is_empty() || largest(dy_at) + dy_len <= dy.len());
        Operands { x, x_at, x_len, dy, dy_at, dy_len }
    }
}

/// Where a tile goes.
struct Tile<'a> {
    sums: &'a mut [f32], // [rows, channels]
    channels: usize,
    first_row: usize, // element of `x` that row 0 stands for
    first: usize,     // channel that the tile starts at
}

/// `group` panels of the result, in tiles that fill the registers.
#[inline(always)]
fn one_group<S: Simd>(simd: S, operands: &Operands<'_>, result: Tile<'_>, group: usize) {
    match (S::PANELS, group) {
        (4, 4) => all_rows::<S, 6, 4>(simd, operands, result),
        (4, 3) => all_rows::<S, 8, 3>(simd, operands, result),
        (4, 2) => all_rows::<S, 8, 2>(simd, operands, result),
        (4, _) => all_rows::<S, 16, 1>(simd, operands, result),
        _ => all_rows::<S, 6, 1>(simd, operands, result),
    }
}

/// All rows of the result, `MR` at a time, the rest in ever smaller tiles.
#[inline(always)]
fn all_rows<S: Simd, const MR: usize, const NV: usize>(
    simd: S,
    operands: &Operands<'_>,
    mut result: Tile<'_>,
) {
    let rows = result.sums.len() / result.channels;
    let mut row = 0;
    while row < rows {
        row += match rows - row {
            left if left >= MR => tile::<S, MR, NV>(simd, operands, &mut result, row),
            4.. => tile::<S, 4, NV>(simd, operands, &mut result, row),
            2.. => tile::<S, 2, NV>(simd, operands, &mut result, row),
            _ => tile::<S, 1, NV>(simd, operands, &mut result, row),
        };
    }
}

/// Adds one tile to the result; returns its rows.
#[inline(always)]
fn tile<S: Simd, const MR: usize, const NV: usize>(
    simd: S,
    operands: &Operands<'_>,
    result: &mut Tile<'_>,
    row: usize,
) -> usize {
    let Operands { x, x_at, x_len, dy, dy_at, dy_len } = *operands;
    let x_row = result.first_row + row;
    assert!(x_row + MR <= x_len && NV * LANES <= dy_len);
    let mut sums = [[simd.splat(0.0); NV]; MR];
    for (&x_at, &dy_at) in x_at.iter().zip(dy_at) {
        let (x_at, dy_at) = (x_at as usize + x_row, dy_at as usize);
        // SAFETY: `Operands::new` saw `x_len` elements of `x` behind every `x_at` and `dy_len` of
        // `dy` behind every `dy_at`, and the assertion above keeps this tile within both.
        let (x, dy) = unsafe {
            (x.get_unchecked(x_at..x_at + MR), dy.get_unchecked(dy_at..dy_at + NV * LANES))
        };
        let dy = dy.as_chunks::<LANES>().0;
        let mut columns = [simd.splat(0.0); NV];
        for v in 0..NV {
            columns[v] = simd.load(&dy[v]);
        }
        for i in 0..MR {
            let x = simd.splat(x[i]);
            for v in 0..NV {
                sums[i][v] = simd.mul_add(x, columns[v], sums[i][v]);
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        let to = &mut result.sums[(row + i) * result.channels..][..result.channels];
        for (v, &sum) in sums.iter().enumerate() {
            let to = &mut to[result.first + v * LANES..];
            add_lanes(simd, sum, to);
        }
    }
    MR
}

/// Elements of the copy of a block's rows of `x`: 0 for narrow rows, which are read where they are.
/// Wide ones lie far apart, would meet in few sets of the cache, and are read once for each 64 columns.
pub(super) fn rows_len(rows: usize) -> usize {
    if rows < COPY_ROWS { 0 } else { rows.div_ceil(LANES) * BLOCK_PIXELS * LANES }
}

/// Copies `rows` elements of each pair's `x`, 16 by 16: `[panels][pairs][16]`.
#[inline(always)]
fn copy_rows(x: &[f32], x_at: &[u32], first_row: usize, rows: usize, copy: &mut [f32]) {
    for (pair, &x_at) in x_at.iter().enumerate() {
        let x = &x[x_at as usize + first_row..][..rows];
        let panels = copy.chunks_exact_mut(BLOCK_PIXELS * LANES);
        for (x, panel) in x.chunks(LANES).zip(panels) {
            panel[pair * LANES..][..x.len()].copy_from_slice(x);
        }
    }
}

/// Copies `width` columns of the pairs' rows of `dy` side by side. What stands beyond `width` in the
/// copy is finite or not, but its lanes are thrown away.
#[inline(always)]
fn copy_columns(dy: &[f32], dy_at: &[u32], width: usize, copy: &mut [f32]) {
    for (&dy_at, copy) in dy_at.iter().zip(copy.chunks_exact_mut(COPY_WIDTH)) {
        copy[..width].copy_from_slice(&dy[dy_at as usize..][..width]);
    }
}

/// Pixels of a block: 64 columns of them fill two thirds of a 48 KiB first-level cache.
pub(super) const BLOCK_PIXELS: usize = 128;

/// Elements that the copy of a block's columns needs.
pub(super) const COPY_LEN: usize = BLOCK_PIXELS * COPY_WIDTH;

/// Columns that a copy holds at most: four panels.
const COPY_WIDTH: usize = 64;

/// Where each row of a copy starts.
const COPY_AT: [u32; BLOCK_PIXELS] = {
    let mut at = [0; BLOCK_PIXELS];
    let mut pixel = 0;
    while pixel < BLOCK_PIXELS {
        at[pixel] = (pixel * COPY_WIDTH) as u32;
        pixel += 1;
    }
    at
};

/// Rows from which on they are copied.
const COPY_ROWS: usize = 128;

/// Where each pair of a copy of rows starts.
const ROWS_AT: [u32; BLOCK_PIXELS] = {
    let mut at = [0; BLOCK_PIXELS];
    let mut pair = 0;
    while pair < BLOCK_PIXELS {
        at[pair] = (pair * LANES) as u32;
        pair += 1;
    }
    at
};
