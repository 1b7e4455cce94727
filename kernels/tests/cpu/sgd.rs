//! The optimizer's update.

use kernels::ops::{Sgd, SgdSegment, sgd};
use kernels::{Device, Span, View, ViewMut};

use crate::support::{Numbers, assert_close, assert_same_bits_everywhere, device, to_f64};

#[test]
fn three_steps_equal_the_f64_reference() {
    for rule in RULES {
        let [params, velocity] = run(&device(2), &rule);
        let [expected_params, expected_velocity] = reference(&rule);
        assert_close(&format!("params under {rule:?}"), &params, &expected_params);
        assert_close(&format!("velocity under {rule:?}"), &velocity, &expected_velocity);
    }
}

#[test]
fn bits_do_not_depend_on_threads_or_instruction_set() {
    for rule in RULES {
        assert_same_bits_everywhere(&format!("{rule:?}"), |device| run(device, &rule).to_vec());
    }
}

const LEN: usize = 70_001;
const RULES: [Sgd; 3] = [
    Sgd { learning_rate: 0.1, momentum: 0.0, nesterov: false },
    Sgd { learning_rate: 0.1, momentum: 0.9, nesterov: false },
    Sgd { learning_rate: 0.05, momentum: 0.9, nesterov: true },
];

/// Out of order, across the tasks' borders, and with a gap that nobody may touch.
fn segments() -> [SgdSegment; 3] {
    [
        segment(20_000, LEN - 20_000, 1.0, 5e-4),
        segment(0, 7, 0.3, 0.0),
        segment(7, 19_000, 0.01, 1e-2),
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
    let [mut params, ..] = start();
    let [_, gradients @ ..] = start();
    let mut velocity = vec![0.0; LEN];
    for gradient in &gradients {
        let (p, v) = (ViewMut::Cpu(&mut params), ViewMut::Cpu(&mut velocity));
        sgd(device, rule, &segments(), p, View::Cpu(gradient), v);
    }
    [params, velocity]
}

fn reference(rule: &Sgd) -> [Vec<f64>; 2] {
    let [params, gradients @ ..] = start();
    let mut params = to_f64(&params);
    let mut velocity = vec![0.0; LEN];
    let (momentum, rate) = (f64::from(rule.momentum), f64::from(rule.learning_rate));
    for gradient in &gradients {
        for segment in segments() {
            for i in segment.span.start..segment.span.end() {
                let scaled = f64::from(segment.gradient_scale) * f64::from(gradient[i]);
                let g = scaled + f64::from(segment.weight_decay) * params[i];
                velocity[i] = momentum * velocity[i] + g;
                let step = if rule.nesterov { g + momentum * velocity[i] } else { velocity[i] };
                params[i] -= rate * step;
            }
        }
    }
    [params, velocity]
}
