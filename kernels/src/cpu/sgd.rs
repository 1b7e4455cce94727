//! The optimizer's update, one pass over parameters, gradients and velocities. Schedules, and what
//! becomes of which parameter's gradient, are the caller's.

use super::CpuDevice;
use super::simd::{Kernel, Simd};
use super::tasks::Cost;
use crate::ops::{Sgd, SgdSegment};

impl CpuDevice {
    pub(crate) fn sgd(
        &self,
        rule: &Sgd,
        segments: &[SgdSegment],
        params: &mut [f32],
        grads: &[f32],
        velocity: &mut [f32],
    ) {
        let vectors = self.vectors();
        let cost = Cost::elements(3 * params.len());
        let task = |index: usize, params: &mut [f32], velocity: &mut [f32]| {
            let first = index * CHUNK;
            let end = first + params.len();
            for segment in segments {
                let from = segment.span.start.max(first);
                let to = segment.span.end().min(end);
                if from < to {
                    vectors.run(Update {
                        rule,
                        segment,
                        params: &mut params[from - first..to - first],
                        grads: &grads[from..to],
                        velocity: &mut velocity[from - first..to - first],
                    });
                }
            }
        };
        self.chunk_pairs(cost, (params, CHUNK), (velocity, CHUNK), task);
    }
}

struct Update<'a> {
    rule: &'a Sgd,
    segment: &'a SgdSegment,
    params: &'a mut [f32],
    grads: &'a [f32],
    velocity: &'a mut [f32],
}

impl Kernel for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let Sgd { learning_rate, momentum, nesterov } = *self.rule;
        let SgdSegment { gradient_scale, weight_decay, .. } = *self.segment;
        let operands = self.params.iter_mut().zip(self.grads).zip(self.velocity);
        for ((p, g), v) in operands {
            let gradient = weight_decay.mul_add(*p, gradient_scale * *g);
            *v = momentum.mul_add(*v, gradient);
            let step = if nesterov { momentum.mul_add(*v, gradient) } else { *v };
            *p = (-learning_rate).mul_add(step, *p);
        }
    }
}

/// Elements of a task: 64 KiB per operand.
const CHUNK: usize = 16 * 1024;
