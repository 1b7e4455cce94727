//! The optimizer's update, bit for bit.

use kernels::ops::{Sgd, SgdSegment, sgd};
use kernels::{Device, Precision, Span};

use crate::numbers::Numbers;
use crate::support::{assert_same_bits_each_time, bits, cpu, device, fp32, read};

#[test]
fn three_steps_have_the_bits_of_a_scalar_reference_and_of_the_cpu() {
    let Some(gpu) = device(Precision::Fp32) else { return };
    for rule in RULES {
        let expected = bits(&reference(&rule));
        assert_same_bits_each_time(&format!("{rule:?}"), || {
            let found = run(&gpu, &rule).to_vec();
            assert_eq!(bits(&found), expected, "{rule:?}");
            found
        });
        assert_eq!(bits(&run(&cpu(), &rule)), expected, "the CPU under {rule:?}");
    }
}

#[test]
#[should_panic(expected = "overlap")]
fn segments_that_share_an_element_are_a_mistake_of_the_program() {
    let Some(gpu) = device(Precision::Fp32) else { panic!("skipped, so that nothing can overlap") };
    let segments = [segment(0, 5, 1.0, 0.0), segment(4, 2, 1.0, 0.0)];
    step(&gpu, &RULES[0], &segments, &mut [vec![0.0; 6], vec![0.0; 6]], &[0.0; 6]);
}

const LEN: usize = 7001;
const RULES: [Sgd; 3] = [
    Sgd { learning_rate: 0.1, momentum: 0.0, nesterov: false },
    Sgd { learning_rate: 0.1, momentum: 0.9, nesterov: false },
    Sgd { learning_rate: 0.05, momentum: 0.9, nesterov: true },
];

/// Out of order, of several blocks, at any alignment, one empty, and with a gap that nobody may touch.
fn segments() -> [SgdSegment; 4] {
    [
        segment(2048, LEN - 2048, 1.0, 5e-4),
        segment(0, 7, 0.3, 0.0),
        segment(7, 0, 0.3, 0.0),
        segment(7, 2000, 0.01, 1e-2),
    ]
}

fn segment(start: usize, len: usize, gradient_scale: f32, weight_decay: f32) -> SgdSegment {
    SgdSegment { span: Span::new(start, len), gradient_scale, weight_decay }
}

fn start() -> [Vec<f32>; 4] {
    let mut numbers = Numbers::new(3);
    [(); 4].map(|()| numbers.vec(LEN))
}

/// `params`, `velocity`.
fn run(device: &Device, rule: &Sgd) -> [Vec<f32>; 2] {
    let [params, gradients @ ..] = start();
    let mut state = [params, vec![0.0; LEN]];
    for gradient in &gradients {
        step(device, rule, &segments(), &mut state, gradient);
    }
    state
}

fn step(
    device: &Device,
    rule: &Sgd,
    segments: &[SgdSegment],
    state: &mut [Vec<f32>; 2],
    gradient: &[f32],
) {
    let [mut params, mut velocity] = state.each_ref().map(|values| fp32(device, values));
    let gradient = fp32(device, gradient);
    let (p, v) = (params.span(), velocity.span());
    let (p, v) = (params.view_mut(p), velocity.view_mut(v));
    sgd(device, rule, segments, p, gradient.view(gradient.span()), v);
    *state = [read(&params), read(&velocity)];
}

fn reference(rule: &Sgd) -> [Vec<f32>; 2] {
    let [mut params, gradients @ ..] = start();
    let mut velocity = vec![0.0f32; LEN];
    for gradient in &gradients {
        for SgdSegment { span, gradient_scale, weight_decay } in segments() {
            for i in span.start..span.end() {
                let g = weight_decay.mul_add(params[i], gradient_scale * gradient[i]);
                velocity[i] = rule.momentum.mul_add(velocity[i], g);
                let ahead = rule.momentum.mul_add(velocity[i], g);
                let step = if rule.nesterov { ahead } else { velocity[i] };
                params[i] = (-rule.learning_rate).mul_add(step, params[i]);
            }
        }
    }
    [params, velocity]
}
