//! Ten updates of a few small tensors against PyTorch's in fp64: `tests/fixtures/pytorch/optimizer.py` says how they were
//! made, and by which formulas.

use std::num::NonZeroUsize;

use kernels::{Buffer, Device, Span};
use proto::job::{self, Optimizer, Rule};
use serde::Deserialize;

use super::*;
use crate::layout::{Layout, Role};

#[derive(Debug, Deserialize)]
struct Fixture {
    weight_decay: f32,
    ema: Average,
    cases: std::collections::BTreeMap<String, Case>,
}

#[derive(Debug, Deserialize)]
struct Average {
    decay: f64,
    every: u32,
}

#[derive(Debug, Deserialize)]
struct Case {
    rate: f32,
    momentum: f32,
    nesterov: bool,
    trust_coefficient: Option<f32>,
    clip_norm: Option<f32>,
    gradient_norms: Vec<f64>,
    parameters: Vec<f64>,
    averages: Vec<f64>,
}

#[test]
fn clipped_and_layer_wise_updates_and_their_average_are_those_of_pytorch() {
    let text = include_str!("../../../tests/fixtures/pytorch/optimizer.json");
    let fixture: Fixture = serde_json::from_str(text).unwrap();
    assert_eq!(fixture.cases.len(), 3);
    let layout = layout();
    let device = Device::cpu(NonZeroUsize::MIN).unwrap();
    for (name, case) in &fixture.cases {
        let rule = Optimizer {
            learning_rate: case.rate,
            momentum: case.momentum,
            nesterov: case.nesterov,
            weight_decay: fixture.weight_decay,
            rule: case
                .trust_coefficient
                .map_or(Rule::Sgd, |trust_coefficient| Rule::Lars { trust_coefficient }),
            clip_norm: case.clip_norm,
        };
        let ema = job::Ema { decay: fixture.ema.decay, every: fixture.ema.every };
        let Ended { params, averages, gradient_norms } = run(&device, &layout, &rule, ema);
        for (norm, exact) in gradient_norms.iter().zip(&case.gradient_norms) {
            assert!((norm / exact - 1.0).abs() < 1e-6, "{name}: {norm} for {exact}");
        }
        for tensor in &layout.parameters {
            let what = format!("{name}: {}", tensor.name);
            assert_near(&what, tensor.span, &params, &case.parameters);
            assert_near(&format!("{what}, averaged"), tensor.span, &averages, &case.averages);
        }
    }
}

#[test]
fn what_is_off_changes_no_bit() {
    let layout = layout();
    let device = Device::cpu(NonZeroUsize::MIN).unwrap();
    let plain = Optimizer {
        learning_rate: 0.1,
        momentum: 0.9,
        nesterov: true,
        weight_decay: 1e-3,
        rule: Rule::Sgd,
        clip_norm: None,
    };
    // No gradient is ever this long.
    let unclipped = Optimizer { clip_norm: Some(1e6), ..plain };
    let ema = job::Ema { decay: 0.0, every: 1 };
    let [a, b] = [plain, unclipped].map(|rule| run(&device, &layout, &rule, ema));
    assert!(bits(&a.params) == bits(&b.params));
    // An average that keeps nothing is the state itself, but for a rounding.
    let (params, averages) = (a.params.host().unwrap(), a.averages.host().unwrap());
    let differences = params.iter().zip(averages).map(|(a, b)| (a - b).abs());
    assert!(differences.fold(0.0, f32::max) < 1e-6);
}

/// What ten steps leave behind.
struct Ended {
    params: Buffer,
    averages: Buffer,
    gradient_norms: Vec<f64>,
}

fn run(device: &Device, layout: &Layout, rule: &Optimizer, ema: job::Ema) -> Ended {
    let mut params = filled(device, layout, |i| (i as f64).cos());
    let running = device.alloc(0);
    let mut optimizer = Sgd::new(device, layout, rule);
    let mut average = Ema::new(device, layout, ema);
    average.start(&params, &running);
    let mut gradient_norms = Vec::new();
    for step in 1..=10 {
        let size = 0.1 + 0.4 * (step % 4) as f64;
        let gradient =
            filled(device, layout, |i| (1.3 * step as f64 + 0.7 * i as f64).sin() * size);
        let rate = f64::from(rule.learning_rate) * (1.0 - step as f64 / 20.0);
        gradient_norms.push(optimizer.measure(&gradient).unwrap());
        optimizer.update(&mut params, &gradient, rate as f32).unwrap();
        average.update(step as u64, &params, &running);
    }
    let averages = std::mem::replace(average.state_mut().0, device.alloc(0));
    Ended { params, averages, gradient_norms }
}

fn layout() -> Layout {
    let mut layout = Layout::default();
    let conv = Role::ConvWeight { kernel: 3, inputs: 2, outputs: 3 };
    layout.parameter("conv.weight".to_owned(), conv, 54);
    layout.parameter("bn.weight".to_owned(), Role::NormScale, 3);
    layout.parameter("bn.bias".to_owned(), Role::NormShift, 3);
    let linear = Role::LinearWeight { inputs: 3, outputs: 4 };
    layout.parameter("fc.weight".to_owned(), linear, 12);
    layout.parameter("fc.bias".to_owned(), Role::LinearBias { inputs: 3 }, 4);
    layout
}

fn filled(device: &Device, layout: &Layout, value: impl Fn(usize) -> f64) -> Buffer {
    let mut buffer = device.alloc(layout.parameters_len());
    let values: Vec<f32> = (0..buffer.len()).map(|i| value(i) as f32).collect();
    buffer.write(buffer.span(), &values);
    buffer
}

/// To fp32's rounding in ten updates, measured by the largest value of the tensor.
fn assert_near(what: &str, span: Span, found: &Buffer, exact: &[f64]) {
    let found = &found.host().unwrap()[span.start..span.end()];
    let exact = &exact[span.start..span.end()];
    let largest = exact.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    for (found, exact) in found.iter().zip(exact) {
        let error = (f64::from(*found) - exact).abs() / largest;
        assert!(error < 2e-6, "{what}: {found} for {exact}, {error} of the largest");
    }
}

fn bits(buffer: &Buffer) -> Vec<u32> {
    buffer.host().unwrap().iter().map(|value| value.to_bits()).collect()
}
