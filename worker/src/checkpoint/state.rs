//! Encoding and decoding of the files.

use std::collections::BTreeMap;
use std::sync::Arc;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::permute::{from_torch, to_torch, torch_shape};
use crate::layout::{Layout, Tensor};

/// A copy of the state after a step, taken so that training can go on while it is encoded and sent.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub step: u64,
    pub layout: Arc<Layout>,
    pub params: Vec<f32>,
    pub running: Vec<f32>,
    pub velocity: Vec<f32>,
    /// Of a job that averages.
    pub average: Option<Average>,
}

/// The averages of parameters and running statistics.
#[derive(Clone, Debug)]
pub struct Average {
    pub params: Vec<f32>,
    pub running: Vec<f32>,
}

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("read {file}: {problem}; remove this checkpoint, so that the one before it is used")]
    Damaged { file: &'static str, problem: String },
    #[error("read {file}: it belongs to another model: {difference}; start over with --fresh")]
    OtherModel { file: &'static str, difference: String },
}

impl Snapshot {
    /// Bytes of `model.safetensors`: parameters and running statistics.
    pub fn encode_model(&self) -> Vec<u8> {
        encode_weights(&self.layout, &self.params, &self.running)
    }

    /// Bytes of `ema.safetensors`: the averages, in the form of the model's file.
    pub fn encode_ema(&self) -> Option<Vec<u8>> {
        let average = self.average.as_ref()?;
        Some(encode_weights(&self.layout, &average.params, &average.running))
    }

    /// Bytes of `optimizer.safetensors`: momentum under the parameters' names.
    pub fn encode_optimizer(&self) -> Vec<u8> {
        encode(self.layout.parameters.iter().map(|tensor| (tensor, &self.velocity[..])))
    }
}

/// Fills parameters and running statistics from the bytes of `model.safetensors`.
pub fn decode_model(
    layout: &Layout,
    bytes: &[u8],
    params: &mut [f32],
    running: &mut [f32],
) -> Result<(), CheckpointError> {
    decode_weights(proto::manifest::MODEL_FILE, layout, bytes, (params, running))
}

/// Fills averaged parameters and running statistics from the bytes of `ema.safetensors`.
pub fn decode_ema(
    layout: &Layout,
    bytes: &[u8],
    params: &mut [f32],
    running: &mut [f32],
) -> Result<(), CheckpointError> {
    decode_weights(proto::manifest::EMA_FILE, layout, bytes, (params, running))
}

fn decode_weights(
    file: &'static str,
    layout: &Layout,
    bytes: &[u8],
    (params, running): (&mut [f32], &mut [f32]),
) -> Result<(), CheckpointError> {
    let tensors: Vec<&Tensor> = layout.parameters.iter().chain(&layout.statistics).collect();
    let file = open(file, bytes, &tensors)?;
    for tensor in &layout.parameters {
        copy(&file, tensor, params)?;
    }
    for tensor in &layout.statistics {
        copy(&file, tensor, running)?;
    }
    Ok(())
}

/// Fills the momentum from the bytes of `optimizer.safetensors`.
pub fn decode_optimizer(
    layout: &Layout,
    bytes: &[u8],
    velocity: &mut [f32],
) -> Result<(), CheckpointError> {
    let tensors: Vec<&Tensor> = layout.parameters.iter().collect();
    let file = open(proto::manifest::OPTIMIZER_FILE, bytes, &tensors)?;
    for tensor in &layout.parameters {
        copy(&file, tensor, velocity)?;
    }
    Ok(())
}

fn encode_weights(layout: &Layout, params: &[f32], running: &[f32]) -> Vec<u8> {
    let parameters = layout.parameters.iter().map(|tensor| (tensor, params));
    let statistics = layout.statistics.iter().map(|tensor| (tensor, running));
    encode(parameters.chain(statistics))
}

fn encode<'a>(tensors: impl Iterator<Item = (&'a Tensor, &'a [f32])>) -> Vec<u8> {
    let owned: Vec<(&str, Vec<usize>, Vec<f32>)> = tensors
        .map(|(tensor, buffer)| {
            let ours = &buffer[tensor.span.start..tensor.span.start + tensor.span.len];
            let shape = torch_shape(tensor.role, tensor.span.len);
            (tensor.name.as_str(), shape, to_torch(tensor.role, ours))
        })
        .collect();
    let views = owned.iter().map(|(name, shape, values)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values));
        (*name, view.expect("a tensor's shape has the length of its values"))
    });
    safetensors::serialize(views, None).expect("names are unique and lengths are right")
}

/// A file whose names, types and shapes are those of the model.
struct File<'a> {
    name: &'static str,
    tensors: SafeTensors<'a>,
}

/// Parses the header and compares it with what the model needs, before anything is copied.
fn open<'a>(
    file: &'static str,
    bytes: &'a [u8],
    tensors: &[&Tensor],
) -> Result<File<'a>, CheckpointError> {
    let damaged = |problem: String| CheckpointError::Damaged { file, problem };
    let header_len = bytes.first_chunk().map(|&len| u64::from_le_bytes(len));
    if header_len.is_some_and(|len| len > HEADER_BYTES_MAX) {
        return Err(damaged(format!("its header claims more than {HEADER_BYTES_MAX} bytes")));
    }
    let found = SafeTensors::deserialize(bytes).map_err(|error| damaged(error.to_string()))?;
    let wanted: BTreeMap<&str, Vec<usize>> = tensors
        .iter()
        .map(|tensor| (tensor.name.as_str(), torch_shape(tensor.role, tensor.span.len)))
        .collect();
    let mut differences = Vec::new();
    for (name, shape) in &wanted {
        match found.tensor(name) {
            Err(_) => differences.push(format!("{name} is missing")),
            Ok(view) if view.dtype() != Dtype::F32 => {
                differences.push(format!("{name} is {:?}, not F32", view.dtype()));
            }
            Ok(view) if view.shape() != shape => {
                differences
                    .push(format!("{name} is {:?}, the model needs {shape:?}", view.shape()));
            }
            Ok(_) => {}
        }
    }
    let unknown = found.names().into_iter().filter(|name| !wanted.contains_key(name));
    differences.extend(unknown.map(|name| format!("{name} is not in the model")));
    if differences.is_empty() {
        return Ok(File { name: file, tensors: found });
    }
    differences.sort();
    let more = differences.len().saturating_sub(DIFFERENCES_SHOWN);
    differences.truncate(DIFFERENCES_SHOWN);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    Err(CheckpointError::OtherModel { file, difference: differences.join(", ") + &more })
}

fn copy(file: &File<'_>, tensor: &Tensor, into: &mut [f32]) -> Result<(), CheckpointError> {
    let view = file.tensors.tensor(&tensor.name).expect("names were compared");
    // The bytes may lie at any address, so they are collected and not cast.
    let values: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
    if !values.iter().all(|value| value.is_finite()) {
        let problem = format!("{} holds a value that is not finite", tensor.name);
        return Err(CheckpointError::Damaged { file: file.name, problem });
    }
    let ours = from_torch(tensor.role, &values);
    into[tensor.span.start..tensor.span.end()].copy_from_slice(&ours);
    Ok(())
}

/// Far above any ResNet's header (ResNet-152: 0.1 MiB); keeps a damaged length from asking for memory.
const HEADER_BYTES_MAX: u64 = 16 << 20;
/// Differences named in an error; the rest is counted.
const DIFFERENCES_SHOWN: usize = 5;

#[cfg(test)]
mod tests;
