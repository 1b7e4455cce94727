//! The optimizer's update of all tensors in one launch. Schedules, and what becomes of which parameter's gradient, are the
//! caller's.

use super::launch::{Arg, Grid, Kernel};
use super::memory::Element;
use super::spans::cut;
use super::{CudaDevice, CudaView, CudaViewMut};
use crate::ops::{Sgd, SgdSegment};

impl CudaDevice {
    pub(crate) fn sgd(
        &self,
        rule: &Sgd,
        segments: &[SgdSegment],
        params: CudaViewMut<'_>,
        grads: CudaView<'_>,
        velocity: CudaViewMut<'_>,
    ) {
        assert_disjoint(segments);
        let (table, blocks) = cut(segments.iter().map(|segment| segment.span), BLOCK);
        let factors: Vec<[f32; 2]> =
            segments.iter().map(|segment| [segment.gradient_scale, segment.weight_decay]).collect();
        let table = self.stage(bytemuck::cast_slice(&table));
        let factors = self.stage(bytemuck::cast_slice(&factors));
        let (params, grads) = (params.address(Element::F32), grads.address(Element::F32));
        let velocity = velocity.address(Element::F32);
        let (count, nesterov) = (segments.len() as i32, i32::from(rule.nesterov));
        let args = [
            Arg::of(&rule.learning_rate),
            Arg::of(&rule.momentum),
            Arg::of(&nesterov),
            Arg::of(&table),
            Arg::of(&factors),
            Arg::of(&count),
            Arg::of(&params),
            Arg::of(&grads),
            Arg::of(&velocity),
        ];
        self.launch(SGD, Grid::blocks(blocks, THREADS), args);
    }
}

/// Two segments that share an element would update it at the same time.
fn assert_disjoint(segments: &[SgdSegment]) {
    let mut spans: Vec<_> = segments.iter().map(|segment| segment.span).collect();
    spans.retain(|span| span.len > 0);
    spans.sort_by_key(|span| span.start);
    for pair in spans.windows(2) {
        assert!(pair[0].end() <= pair[1].start, "segments {:?} and {:?} overlap", pair[0], pair[1]);
    }
}

const SGD: Kernel = Kernel::new("sgd.cu", "sgd_f32");
const THREADS: u32 = 256;
/// Elements of a block, as in the kernel.
const BLOCK: usize = 2048;
