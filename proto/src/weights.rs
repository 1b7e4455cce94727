//! A file of weights that a job starts from (`model.init`): what its safetensors header says, and whether that fits the
//! job's model. Knows names, types and shapes, and no value of a tensor.
//!
//! Names and layouts are those of torchvision's `ResNet.state_dict()`, which timm shares. As PyTorch writes them, files may
//! also hold BatchNorm's `num_batches_tracked`, which nothing here needs, and the prefix `module.` of a model that was saved
//! out of `DataParallel` or `DistributedDataParallel`.

use std::collections::BTreeMap;
use std::io::{self, Read};

use safetensors::Dtype;
use safetensors::tensor::Metadata;

use crate::job::{Block, Model, Stem};
use crate::wire::CHECKPOINT_BYTES_MAX;

/// A tensor's name and its shape in PyTorch's layout.
pub type NamedShape = (String, Vec<usize>);

/// Types and shapes of a file's tensors, by the model's names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WeightsHeader {
    tensors: BTreeMap<String, (Dtype, Vec<usize>)>,
}

/// How much of a file a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Every tensor.
    Whole,
    /// All but the last layer: it was made for another number of classes.
    OtherClasses { classes: usize },
}

#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(
        "it is no whole safetensors file: {0}; copy it again, or write it with \
         `safetensors.torch.save_file(model.state_dict(), \"weights.safetensors\")`"
    )]
    Damaged(String),
    #[error("it has {len} bytes, at most {CHECKPOINT_BYTES_MAX} are taken; name another file")]
    TooLarge { len: u64 },
    #[error(
        "it does not fit the model: {differences}; give `[model]` the values that the file was made with, or name another \
         file"
    )]
    OtherModel { differences: String },
}

impl WeightsHeader {
    /// Reads the header, and nothing behind it, of a file of `len` bytes.
    pub fn read(file: &mut dyn Read, len: u64) -> Result<WeightsHeader, WeightsError> {
        if len > CHECKPOINT_BYTES_MAX {
            return Err(WeightsError::TooLarge { len });
        }
        let mut prefix = [0; PREFIX_BYTES as usize];
        file.read_exact(&mut prefix).map_err(truncated)?;
        let header_len = u64::from_le_bytes(prefix);
        // Before anything is allocated.
        if header_len > HEADER_BYTES_MAX.min(len.saturating_sub(PREFIX_BYTES)) {
            return Err(damaged("its first eight bytes are not the length of a header"));
        }
        let mut header = vec![0; header_len as usize];
        file.read_exact(&mut header).map_err(truncated)?;
        // Taking a header apart proves that the tensors' places follow one another without gaps.
        let metadata: Metadata = serde_json::from_slice(&header).map_err(damaged)?;
        // Of places that go up to the last number there is, too.
        let expected = (PREFIX_BYTES + header_len).saturating_add(metadata.data_len() as u64);
        if expected != len {
            let problem = format!("it has {len} bytes, its header describes {expected}");
            return Err(damaged(problem));
        }
        let mut tensors = BTreeMap::new();
        for (written, info) in metadata.tensors() {
            let Some(name) = name_in_model(&written) else { continue };
            if tensors.insert(name.to_owned(), (info.dtype, info.shape.clone())).is_some() {
                return Err(damaged(format!("it holds {name} with and without `module.`")));
            }
        }
        Ok(WeightsHeader { tensors })
    }

    /// Whether a model that needs exactly the `wanted` tensors can start from the file.
    pub fn fit(&self, wanted: &[NamedShape]) -> Result<Fit, WeightsError> {
        let classes = self.other_classes(wanted);
        let of_head = |name: &str| HEAD.contains(&name);
        let mut differences = Vec::new();
        for (name, shape) in wanted {
            match self.tensors.get(name) {
                None => differences.push(format!("{name} is missing, the model needs {shape:?}")),
                Some((dtype, _)) if !is_read(*dtype) => {
                    differences.push(format!("{name} is {dtype:?}, not F32, F16, BF16 or F64"));
                }
                Some(_) if classes.is_some() && of_head(name) => {}
                Some((_, found)) if found != shape => {
                    differences.push(format!("{name} is {found:?}, the model needs {shape:?}"));
                }
                Some(_) => {}
            }
        }
        let known = |name: &String| wanted.iter().any(|(wanted, _)| wanted == name);
        let unknown = self.tensors.keys().filter(|name| !known(name));
        differences.extend(unknown.map(|name| format!("{name} is not in the model")));
        if differences.is_empty() {
            return Ok(classes.map_or(Fit::Whole, |classes| Fit::OtherClasses { classes }));
        }
        let more = differences.len().saturating_sub(DIFFERENCES_SHOWN);
        differences.truncate(DIFFERENCES_SHOWN);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        Err(WeightsError::OtherModel { differences: differences.join(", ") + &more })
    }

    /// The file's number of classes, if its last layer differs from the model's in nothing else.
    fn other_classes(&self, wanted: &[NamedShape]) -> Option<usize> {
        let [weight, bias] = HEAD.map(|name| self.tensors.get(name).map(|(_, shape)| &shape[..]));
        let (_, needed) = wanted.iter().find(|(name, _)| name == HEAD[0])?;
        match (weight?, bias?, &needed[..]) {
            (&[theirs, inputs], &[biases], &[ours, needed])
                if inputs == needed && theirs == biases && theirs != ours =>
            {
                Some(theirs)
            }
            _ => None,
        }
    }
}

/// The model's name of a file's tensor; `None` for one that no model needs.
pub fn name_in_model(written: &str) -> Option<&str> {
    let name = written.strip_prefix("module.").unwrap_or(written);
    (!name.ends_with(".num_batches_tracked")).then_some(name)
}

/// All tensors of a model, from the input on.
pub fn tensors(model: &Model, channels: usize, classes: usize) -> Vec<NamedShape> {
    let mut tensors = Vec::new();
    let kernel = if model.stem == Stem::Imagenet { 7 } else { 3 };
    let width = model.widths[0];
    tensors.push(("conv1.weight".to_owned(), vec![width, channels, kernel, kernel]));
    if model.stem_bias {
        tensors.push(("conv1.bias".to_owned(), vec![width]));
    }
    norm(&mut tensors, "bn1", width);
    let mut inputs = width;
    for (stage, (&blocks, &width)) in model.blocks.iter().zip(&model.widths).enumerate() {
        for index in 0..blocks {
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            let name = format!("layer{}.{index}", stage + 1);
            inputs = block(&mut tensors, &name, model.block, [inputs, width, stride]);
        }
    }
    tensors.push((HEAD[0].to_owned(), vec![classes, inputs]));
    tensors.push((HEAD[1].to_owned(), vec![classes]));
    tensors
}

/// Returns the channels that the block puts out.
fn block(
    tensors: &mut Vec<NamedShape>,
    name: &str,
    kind: Block,
    [inputs, width, stride]: [usize; 3],
) -> usize {
    let (outputs, chain) = match kind {
        Block::Basic => (width, vec![(inputs, width, 3), (width, width, 3)]),
        Block::Bottleneck => {
            let outputs = EXPANSION * width;
            (outputs, vec![(inputs, width, 1), (width, width, 3), (width, outputs, 1)])
        }
    };
    for (number, (from, to, kernel)) in (1..).zip(chain) {
        tensors.push((format!("{name}.conv{number}.weight"), vec![to, from, kernel, kernel]));
        norm(tensors, &format!("{name}.bn{number}"), to);
    }
    if stride > 1 || inputs != outputs {
        tensors.push((format!("{name}.downsample.0.weight"), vec![outputs, inputs, 1, 1]));
        norm(tensors, &format!("{name}.downsample.1"), outputs);
    }
    outputs
}

fn norm(tensors: &mut Vec<NamedShape>, name: &str, channels: usize) {
    for tensor in ["weight", "bias", "running_mean", "running_var"] {
        tensors.push((format!("{name}.{tensor}"), vec![channels]));
    }
}

fn is_read(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64)
}

fn truncated(error: io::Error) -> WeightsError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it ends within its header"),
        _ => error.into(),
    }
}

fn damaged(problem: impl std::fmt::Display) -> WeightsError {
    WeightsError::Damaged(problem.to_string())
}

/// Weight and bias of the last layer.
pub const HEAD: [&str; 2] = ["fc.weight", "fc.bias"];
/// A bottleneck block puts out this many times its inner width.
const EXPANSION: usize = 4;
/// The header's length, in front of it.
const PREFIX_BYTES: u64 = 8;
/// Far above any ResNet's header (ResNet-152: 0.1 MiB); keeps a damaged length from asking for memory.
const HEADER_BYTES_MAX: u64 = 16 << 20;
/// Differences named in an error; the rest is counted.
const DIFFERENCES_SHOWN: usize = 3;

#[cfg(test)]
mod tests;
