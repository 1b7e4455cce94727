//! `manifest.json` of a checkpoint: everything needed to use its weights, and the hashes that tell whether they are whole.
//!
//! A checkpoint is a folder `step-00008123/` that holds `model.safetensors` (parameters and running statistics under
//! torchvision's names, in its layouts), `optimizer.safetensors` (momentum under the parameters' names) and this file; for
//! a job that averages also `ema.safetensors`, which has the form of the model's file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this file's form.
    pub format: u32,
    pub job_id: String,
    /// State after this step.
    pub step: u64,
    /// Steps of the whole job.
    pub total_steps: u64,
    /// Epochs completed.
    pub epoch: u64,
    /// Digest of the state, hex: what the members of the generation agreed on when they committed the step.
    pub state_digest: String,
    /// The resolved job file, TOML.
    pub job: String,
    /// SHA-256 fingerprint of the dataset, hex.
    pub dataset_fingerprint: String,
    /// SHA-256 of the file of weights that the run started from, hex; absent when its seed made them.
    pub init_sha256: Option<String>,
    /// Class names, by label.
    pub classes: Vec<String>,
    pub input: Input,
    /// Newest exact evaluation at this step, of the averaged weights if there are any; absent when the step was not
    /// evaluated.
    pub evaluation: Option<Evaluation>,
    /// Version of the programs that wrote it.
    pub software_version: String,
    /// Kind of device that computed it.
    pub device_kind: String,
    /// Every other file of the folder, by name.
    pub files: BTreeMap<String, FileEntry>,
}

/// What the model takes: `[channels, height, width]` images, `(pixel/255 - mean) / std` per channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub mean: Vec<f32>,
    pub std: Vec<f32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    pub samples: u64,
    pub correct: u64,
    pub correct_top5: u64,
    /// Mean loss.
    pub loss: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Bytes.
    pub len: u64,
    /// SHA-256 of the file, hex: what `sha256sum` prints.
    pub sha256: String,
}

/// Folder name of the checkpoint after `step`.
pub fn folder_name(step: u64) -> String {
    format!("step-{step:08}")
}

pub const FORMAT: u32 = 1;
pub const MANIFEST_FILE: &str = "manifest.json";
pub const MODEL_FILE: &str = "model.safetensors";
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";
pub const EMA_FILE: &str = "ema.safetensors";
/// A job's copy of the weights that it starts from, beside its checkpoints.
pub const INIT_FILE: &str = "init.safetensors";
