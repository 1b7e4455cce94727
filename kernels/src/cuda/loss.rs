//! Softmax cross-entropy. Labels are host data; they go along with the launch.

use super::launch::{Arg, Grid, Kernel};
use super::memory::Element;
use super::{CudaDevice, CudaView, CudaViewMut};
use crate::ops::{Labels, LossRule};

impl CudaDevice {
    pub(crate) fn softmax_cross_entropy(
        &self,
        rule: &LossRule,
        logits: CudaView<'_>,
        labels: Labels<'_>,
        d_logits: CudaViewMut<'_>,
        sums: CudaViewMut<'_>,
    ) {
        let (batch, slices) = (labels.own.len(), labels.lambda.len());
        let [logits, d_logits, sums] =
            [logits, d_logits.as_view(), sums.as_view()].map(|view| view.address(Element::F32));
        let weights = labels.lambda.iter().map(|lambda| lambda.to_bits());
        let words: Vec<u32> =
            labels.own.iter().chain(labels.other).copied().chain(weights).collect();
        let own = self.stage(bytemuck::cast_slice(&words));
        let other = own + size_of_val(labels.own) as u64;
        let lambda = other + size_of_val(labels.other) as u64;
        // Of each sample: its loss, then whether it was hit.
        let losses = self.scratch(batch * (size_of::<f64>() + size_of::<f32>()));
        let hits = losses + (batch * size_of::<f64>()) as u64;
        let (classes, slice_batch) = (rule.classes as i32, (batch / slices) as i32);
        let args = [
            Arg::of(&logits),
            Arg::of(&own),
            Arg::of(&other),
            Arg::of(&lambda),
            Arg::of(&d_logits),
            Arg::of(&losses),
            Arg::of(&hits),
            Arg::of(&classes),
            Arg::of(&slice_batch),
            Arg::of(&rule.label_smoothing),
            Arg::of(&rule.grad_scale),
        ];
        let grid = Grid { blocks: [batch as u32, 1, 1], threads: [ROW_THREADS, 1, 1], shared: 0 };
        self.launch(ROWS, grid, args);
        let args = [Arg::of(&losses), Arg::of(&hits), Arg::of(&sums), Arg::of(&slice_batch)];
        let grid = Grid { blocks: [1, 1, 1], threads: [SUM_LANES, slices as u32, 1], shared: 0 };
        self.launch(SUM, grid, args);
    }
}

const ROW_THREADS: u32 = 256;
const SUM_LANES: u32 = 32;

const FILE: &str = "loss.cu";
const ROWS: Kernel = Kernel::new(FILE, "softmax_cross_entropy");
const SUM: Kernel = Kernel::new(FILE, "softmax_cross_entropy_sum");
