//! Weights as the engine reads them: panels of 16 result channels, `[panels][taps][run][16]`, padded
//! with zeros. Lanes of padding are computed and thrown away; no result depends on them.

use super::geometry::{Axis, Phase};
use crate::cpu::CpuDevice;
use crate::cpu::tasks::Cost;
use crate::shape::{ConvShape, PANEL};

impl CpuDevice {
    pub(crate) fn conv_pack(
        &self,
        shape: &ConvShape,
        weight: &[f32],
        forward: &mut [f32],
        input_grad: &mut [f32],
    ) {
        if shape.is_winograd() {
            self.winograd_pack(shape, weight, forward, input_grad);
            return;
        }
        let taps = shape.kernel * shape.kernel;
        let cost = Cost::elements(2 * weight.len());
        let rows = taps * shape.in_channels;
        self.chunks(cost, forward, (rows * PANEL).max(1), |panel, packed| {
            pack_columns(weight, shape.out_channels, panel * PANEL, packed);
        });

        let rows = taps * shape.out_channels;
        self.chunks(cost, input_grad, (rows * PANEL).max(1), |panel, packed| {
            let taps = packed.chunks_exact_mut(shape.out_channels * PANEL);
            for (tap, packed) in tap_order(shape).zip(taps) {
                let tap_len = shape.in_channels * shape.out_channels;
                let weight = &weight[tap * tap_len..][..tap_len];
                pack_rows(weight, shape.out_channels, panel * PANEL, packed);
            }
        });
    }
}

/// The phases of an input gradient, in the order in which their taps are packed.
pub(super) fn phases(shape: &ConvShape) -> impl Iterator<Item = Phase> + use<> {
    let shape = *shape;
    let mut first_tap = 0;
    (0..shape.stride * shape.stride).map(move |index| {
        let (row, column) = (index / shape.stride, index % shape.stride);
        let rows = Axis::backward(&shape, shape.out_height(), shape.height, row);
        let columns = Axis::backward(&shape, shape.out_width(), shape.width, column);
        let phase = Phase { rows, columns, first_tap };
        first_tap += phase.taps();
        phase
    })
}

/// The flat kernel index of each tap of the input gradient, phase by phase.
fn tap_order(shape: &ConvShape) -> impl Iterator<Item = usize> + use<> {
    let kernel = shape.kernel;
    // Which taps belong to a phase does not depend on the image: packing knows no image size.
    let phases = phases(&ConvShape { height: kernel, width: kernel, ..*shape });
    phases.flat_map(move |phase| {
        phase.tap_pairs().map(move |(row, column)| row.kernel_index * kernel + column.kernel_index)
    })
}

/// Columns `first..first + 16` of a matrix with `columns` columns.
fn pack_columns(matrix: &[f32], columns: usize, first: usize, packed: &mut [f32]) {
    let width = PANEL.min(columns - first);
    for (row, packed) in matrix.chunks_exact(columns).zip(packed.as_chunks_mut::<PANEL>().0) {
        let row = &row[first..first + width];
        match row.first_chunk::<PANEL>() {
            Some(row) => *packed = *row,
            None => {
                packed[..width].copy_from_slice(row);
                packed[width..].fill(0.0);
            }
        }
    }
}

/// Rows `first..first + 16` of a matrix with `columns` columns, transposed.
fn pack_rows(matrix: &[f32], columns: usize, first: usize, packed: &mut [f32]) {
    let rows = &matrix[first * columns..];
    let width = PANEL.min(rows.len() / columns);
    let packed = packed.as_chunks_mut::<PANEL>().0;
    if width < PANEL {
        packed.fill([0.0; PANEL]);
    }
    // Blocks of 16 by 16 touch each cache line of either side once.
    for (block, packed) in packed.chunks_mut(PANEL).enumerate() {
        for lane in 0..width {
            let row = &rows[lane * columns + block * PANEL..][..packed.len()];
            for (packed, &weight) in packed.iter_mut().zip(row) {
                packed[lane] = weight;
            }
        }
    }
}
