//! Numbers that look random and come from a formula, so that a fixture needs no file for them: `numbers`,
//! `formula_weights` and `formula_images` of `tests/fixtures/pytorch/make.py`.

use proto::job::Model;
use safetensors::tensor::{Dtype, TensorView};
use worker::model::Geometry;

use crate::training::Images;

/// First weights and running statistics, as a file of weights.
pub(crate) fn weights(model: &Model, geometry: Geometry) -> Vec<u8> {
    let mut shapes = proto::weights::tensors(model, geometry.channels, geometry.classes);
    shapes.sort();
    let values = |(tensor, (name, shape)): (u32, &(String, Vec<usize>))| -> Vec<u8> {
        let even = numbers(tensor, shape.iter().product()).into_iter().map(|u| 2.0 * u - 1.0);
        let (bound, middle) = match shape[..] {
            [outputs, _, kernel, _] => ((6.0 / (outputs * kernel * kernel) as f64).sqrt(), 0.0),
            [_, inputs] => ((3.0 / inputs as f64).sqrt(), 0.0),
            _ if name.ends_with(".weight") || name.ends_with(".running_var") => (0.1, 1.0),
            _ => (0.1, 0.0),
        };
        even.flat_map(|even| ((middle + bound * even) as f32).to_le_bytes()).collect()
    };
    let owned: Vec<Vec<u8>> = (1..).zip(&shapes).map(values).collect();
    let views = shapes.iter().zip(&owned).map(|((name, shape), bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

pub(crate) fn images(count: usize, geometry: Geometry) -> Images {
    let Geometry { height, width, channels, classes, .. } = geometry;
    let pixels = numbers(1000, count * height * width * channels);
    let labels = numbers(1001, count);
    Images {
        pixels: pixels.into_iter().map(|u| (u * 256.0) as u8).collect(),
        labels: labels.into_iter().map(|u| (u * classes as f64) as u32).collect(),
    }
}

/// In [0, 1), multiples of 2^-24.
fn numbers(tensor: u32, count: usize) -> Vec<f64> {
    let number = |index: u32| {
        let mut bits = index.wrapping_add(tensor.wrapping_mul(0x9e37_79b9));
        for factor in [0x7feb_352d, 0x846c_a68b] {
            bits = (bits ^ bits >> 16).wrapping_mul(factor);
        }
        f64::from((bits ^ bits >> 16) >> 8) / f64::from(1 << 24)
    };
    (0..count as u32).map(number).collect()
}
