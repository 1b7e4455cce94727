//! Weights that a job starts from: a file of PyTorch's, of timm's or of our own, into the flat layout.
//!
//! Whether the file fits is `proto::weights`' matter, which the coordinator asked when the job was submitted.

use std::collections::BTreeMap;

use proto::weights::{Fit, HEAD, WeightsError, WeightsHeader, name_in_model};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::permute::{from_torch, torch_shape};
use crate::layout::{Layout, Tensor};

#[derive(Debug, thiserror::Error)]
pub enum InitialError {
    #[error("start from the weights of model.init: {0}")]
    Weights(#[from] WeightsError),
    #[error(
        "start from the weights of model.init: {name} holds a value that is not finite in fp32; name another file, and give \
         the job another name, or start over with --fresh"
    )]
    NotFinite { name: String },
}

/// Fills parameters and running statistics, which hold the seed's values, from the bytes of a file. Of a last layer of
/// another number of classes nothing is taken.
pub fn decode_initial(
    layout: &Layout,
    bytes: &[u8],
    params: &mut [f32],
    running: &mut [f32],
) -> Result<Fit, InitialError> {
    let header = WeightsHeader::read(&mut &bytes[..], bytes.len() as u64)?;
    let shape = |tensor: &Tensor| (tensor.name.clone(), torch_shape(tensor.role, tensor.span.len));
    let tensors = layout.parameters.iter().chain(&layout.statistics);
    let fit = header.fit(&tensors.map(shape).collect::<Vec<_>>())?;
    let file = SafeTensors::deserialize(bytes)
        .map_err(|error| WeightsError::Damaged(error.to_string()))?;
    let named: BTreeMap<&str, TensorView<'_>> =
        file.iter().filter_map(|(name, view)| Some((name_in_model(name)?, view))).collect();
    let taken = |tensor: &&Tensor| fit == Fit::Whole || !HEAD.contains(&tensor.name.as_str());
    for tensor in layout.parameters.iter().filter(taken) {
        copy(&named, tensor, params)?;
    }
    for tensor in &layout.statistics {
        copy(&named, tensor, running)?;
    }
    Ok(fit)
}

fn copy(
    named: &BTreeMap<&str, TensorView<'_>>,
    tensor: &Tensor,
    into: &mut [f32],
) -> Result<(), InitialError> {
    let values = values(&named[tensor.name.as_str()]);
    if !values.iter().all(|value| value.is_finite()) {
        return Err(InitialError::NotFinite { name: tensor.name.clone() });
    }
    let ours = from_torch(tensor.role, &values);
    into[tensor.span.start..tensor.span.end()].copy_from_slice(&ours);
    Ok(())
}

/// As fp32. Every step is exact but the narrowing of F64, which IEEE 754 rounds to nearest everywhere.
fn values(view: &TensorView<'_>) -> Vec<f32> {
    let bytes = view.data();
    match view.dtype() {
        Dtype::F32 => elements(bytes).map(f32::from_le_bytes).collect(),
        Dtype::F64 => elements(bytes).map(|bytes| f64::from_le_bytes(bytes) as f32).collect(),
        Dtype::F16 => elements(bytes).map(|bytes| half(u16::from_le_bytes(bytes))).collect(),
        // The upper half of an fp32.
        Dtype::BF16 => elements(bytes)
            .map(|bytes| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16))
            .collect(),
        other => unreachable!("a file that fits has no {other:?}"),
    }
}

fn elements<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.chunks_exact(N).map(|element| element.try_into().expect("a chunk has N bytes"))
}

/// The value of an IEEE 754 binary16: sign, five bits of exponent, ten of fraction.
fn half(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let (exponent, fraction) = (u32::from(bits >> 10 & 0x1f), u32::from(bits & 0x3ff));
    match exponent {
        // Subnormal, or zero: exact, for fp32 has the range.
        0 => f32::from_bits(sign | (fraction as f32 * SMALLEST_HALF).to_bits()),
        0x1f => f32::from_bits(sign | 0x7f80_0000 | fraction << 13),
        _ => f32::from_bits(sign | (exponent + 127 - 15) << 23 | fraction << 13),
    }
}

/// 2^-24, the smallest binary16 above 0.
const SMALLEST_HALF: f32 = 1.0 / (1 << 24) as f32;

#[cfg(test)]
mod tests;
