//! Tensors under torchvision's names and in its layouts, as checkpoints hold them, in fp64. Knows no model.

use std::collections::BTreeMap;
use std::sync::Arc;

use kernels::Buffer;
use safetensors::SafeTensors;
use worker::checkpoint::Snapshot;
use worker::layout::Layout;

use crate::training::Training;

pub(crate) type Tensors = BTreeMap<String, Tensor>;

/// `[out, in, k, k]`, `[out, in]` or `[channels]`.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f64>,
}

impl Tensor {
    /// Largest magnitude.
    pub(crate) fn largest(&self) -> f64 {
        largest(&self.values)
    }

    /// Euclidean length.
    pub(crate) fn norm(&self) -> f64 {
        self.values.iter().map(|value| value * value).sum::<f64>().sqrt()
    }
}

/// A copy of everything that a checkpoint keeps.
pub(crate) fn snapshot(training: &Training, step: u64) -> Snapshot {
    let Training { model, optimizer, .. } = training;
    let copy = |buffer: &Buffer| buffer.host().unwrap().to_vec();
    Snapshot {
        step,
        layout: Arc::new(model.layout().clone()),
        params: copy(model.params()),
        running: copy(model.running()),
        velocity: copy(optimizer.velocity()),
        average: None,
    }
}

/// Weights and running statistics.
pub(crate) fn of_model(training: &Training) -> Tensors {
    parse(&snapshot(training, 0).encode_model())
}

/// Gradients under the names of their parameters; `vector` is a gradient vector.
pub(crate) fn of_gradients(layout: &Layout, vector: &Buffer) -> Tensors {
    let velocity = vector.host().unwrap()[..layout.parameters_len()].to_vec();
    let layout = Arc::new(layout.clone());
    let (params, running, average) = (Vec::new(), Vec::new(), None);
    parse(&Snapshot { step: 0, layout, params, running, velocity, average }.encode_optimizer())
}

/// Reads a safetensors file of fp32 tensors.
pub(crate) fn parse(bytes: &[u8]) -> Tensors {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let widen = |bytes: &[u8]| f64::from(f32::from_le_bytes(bytes.try_into().unwrap()));
    let tensor = |view: safetensors::tensor::TensorView<'_>| Tensor {
        shape: view.shape().to_vec(),
        values: view.data().chunks_exact(4).map(widen).collect(),
    };
    file.tensors().into_iter().map(|(name, view)| (name, tensor(view))).collect()
}

/// Largest difference.
pub(crate) fn difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    worst(a.iter().zip(b).map(|(a, b)| (a - b).abs()))
}

/// Largest magnitude.
pub(crate) fn largest(values: &[f64]) -> f64 {
    worst(values.iter().map(|value| value.abs()))
}

/// The largest of some errors. Unlike with `f64::max`, a NaN is never lost.
pub(crate) fn worst(errors: impl Iterator<Item = f64>) -> f64 {
    errors.fold(0.0, |worst, error| if error > worst || error.is_nan() { error } else { worst })
}
