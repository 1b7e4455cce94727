//! A trained model as it lies on disk: a checkpoint folder whose bytes are verified before they are believed.
//!
//! Knows manifest, hash and weights; not what the model is used for. Of a run that averaged there are two models: unless
//! the other one is asked for, the average is taken, which the run itself evaluated. No other file is read.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use kernels::Device;
use proto::exit::ExitCode;
use proto::identity::hex;
use proto::job::{Job, JobError};
use proto::manifest::{EMA_FILE, FORMAT, MANIFEST_FILE, MODEL_FILE, Manifest};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::checkpoint::{CheckpointError, decode_ema, decode_model};
use crate::memory::{MemoryError, require_for_inference};
use crate::model::{Geometry, ResNet};

/// Which of a checkpoint's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// The average that the run kept: `ema.safetensors`.
    Ema,
    /// The weights as they were trained: `model.safetensors`.
    Model,
}

impl Weights {
    pub fn file(self) -> &'static str {
        match self {
            Weights::Ema => EMA_FILE,
            Weights::Model => MODEL_FILE,
        }
    }
}

/// A checkpoint whose weights are those that its manifest describes.
#[derive(Debug)]
pub struct Trained {
    pub folder: PathBuf,
    pub manifest: Manifest,
    /// The manifest's.
    pub job: Job,
    pub kind: Weights,
    /// Bytes of the file of this kind.
    pub weights: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum TrainedError {
    #[error(
        "open the checkpoint {}: it has no {MANIFEST_FILE}; name a folder such as step-00000460, \
         `coordinator checkpoints JOB` lists a run's",
        .folder.display()
    )]
    NoManifest { folder: PathBuf },
    #[error("read {}: {source}; check the checkpoint's folder", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("read {}: {problem}; copy the checkpoint again, or use another step", .path.display())]
    Damaged { path: PathBuf, problem: String },
    #[error("read {}: it has form {found}, this release reads {FORMAT}; use the release that wrote it", .path.display())]
    OtherForm { path: PathBuf, found: u32 },
    #[error("read the averaged weights of {}: its run kept none; leave out `--weights ema`", .folder.display())]
    NoAverage { folder: PathBuf },
    #[error("read the job in {}: {source}; use the release that wrote the checkpoint", .path.display())]
    Job { path: PathBuf, source: JobError },
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl TrainedError {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            TrainedError::Memory(_) => ExitCode::Failure,
            _ => ExitCode::State,
        }
    }
}

impl Trained {
    /// Reads and verifies a checkpoint folder. `wanted`: unless given, the average where there is one.
    pub fn open(folder: &Path, wanted: Option<Weights>) -> Result<Trained, TrainedError> {
        let manifest_path = folder.join(MANIFEST_FILE);
        let manifest = read_manifest(folder, &manifest_path)?;
        let job = Job::parse(&manifest.job)
            .map_err(|source| TrainedError::Job { path: manifest_path, source })?;
        let kind = wanted.unwrap_or(evaluated(&manifest));
        if !manifest.files.contains_key(kind.file()) {
            return Err(TrainedError::NoAverage { folder: folder.to_owned() });
        }
        let weights = read_weights(folder, kind.file(), &manifest)?;
        Ok(Trained { folder: folder.to_owned(), manifest, job, kind, weights })
    }

    /// What the model was trained for, but for the batch.
    pub fn geometry(&self, batch: usize) -> Geometry {
        let input = &self.manifest.input;
        Geometry {
            slices: 1,
            batch,
            height: input.height,
            width: input.width,
            channels: input.channels,
            classes: self.manifest.classes.len(),
        }
    }

    /// The model, ready to predict batches of this many images, and for nothing else.
    pub fn model(&self, device: &Device, batch: usize) -> Result<ResNet, TrainedError> {
        let geometry = self.geometry(batch);
        require_for_inference(&self.job.model, geometry)?;
        let mut model = ResNet::for_inference(device, &self.job.model, geometry);
        let layout = model.layout().clone();
        let (params, running) = model.state_mut();
        let on_host = "the CPU device's memory is host memory";
        let (params, running) =
            (params.host_mut().expect(on_host), running.host_mut().expect(on_host));
        let decode = match self.kind {
            Weights::Ema => decode_ema,
            Weights::Model => decode_model,
        };
        decode(&layout, &self.weights, params, running).map_err(|error| {
            let problem = match error {
                CheckpointError::Damaged { problem, .. } => problem,
                CheckpointError::OtherModel { difference, .. } => {
                    format!("it does not fit the manifest's job: {difference}")
                }
            };
            TrainedError::Damaged { path: self.folder.join(self.kind.file()), problem }
        })?;
        model.pack();
        Ok(model)
    }

    /// Images that are computed at once: the result does not depend on it, the memory does, so it is no more than the run
    /// itself had.
    pub fn batch(&self) -> usize {
        self.job.train.slice_len().min(BATCH_MAX)
    }

    /// "step 460 of digits-1", for people.
    pub fn title(&self) -> String {
        format!("step {} of {}", self.manifest.step, self.manifest.job_id)
    }

    /// SHA-256 of the file of the weights.
    pub fn sha256(&self) -> &str {
        &self.manifest.files[self.kind.file()].sha256
    }

    /// Whether the run's own evaluations looked at these weights.
    pub fn is_evaluated(&self) -> bool {
        self.kind == evaluated(&self.manifest)
    }
}

/// The weights that the run itself evaluated.
fn evaluated(manifest: &Manifest) -> Weights {
    if manifest.files.contains_key(EMA_FILE) { Weights::Ema } else { Weights::Model }
}

fn read_manifest(folder: &Path, path: &Path) -> Result<Manifest, TrainedError> {
    let unreadable = |source| TrainedError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            TrainedError::NoManifest { folder: folder.to_owned() }
        }
        _ => unreadable(source),
    })?;
    let mut text = Vec::new();
    file.take(MANIFEST_BYTES_MAX).read_to_end(&mut text).map_err(unreadable)?;
    let damaged = |problem: String| TrainedError::Damaged { path: path.to_owned(), problem };
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|error| damaged(format!("it is no checkpoint manifest: {error}")))?;
    if manifest.format != FORMAT {
        return Err(TrainedError::OtherForm { path: path.to_owned(), found: manifest.format });
    }
    match problem(&manifest) {
        Some(problem) => Err(damaged(problem.to_owned())),
        None => Ok(manifest),
    }
}

/// What no coordinator writes, and what buffers could not be planned from.
fn problem(manifest: &Manifest) -> Option<&'static str> {
    let input = &manifest.input;
    let sides = [input.height, input.width];
    let per_channel = [input.mean.len(), input.std.len()];
    if sides.iter().any(|side| !(1..=SIDE_MAX).contains(side)) {
        Some("its images have an impossible size")
    } else if per_channel.iter().any(|&len| len != input.channels || len == 0) {
        Some("its mean and std have not one value for each channel")
    } else if manifest.classes.is_empty() {
        Some("it names no class")
    } else if !manifest.files.contains_key(MODEL_FILE) {
        Some("it does not list model.safetensors")
    } else {
        None
    }
}

/// The whole file, if it is the one that was sealed.
fn read_weights(folder: &Path, name: &str, manifest: &Manifest) -> Result<Vec<u8>, TrainedError> {
    let path = &folder.join(name);
    let unreadable = |source| TrainedError::Unreadable { path: path.to_owned(), source };
    let damaged = |problem| TrainedError::Damaged { path: path.to_owned(), problem };
    let expected = &manifest.files[name];
    let file = File::open(path).map_err(unreadable)?;
    // Before anything is allocated: neither a manifest's nor a device file's length is trusted alone.
    let found = file.metadata().map_err(unreadable)?.len();
    if found != expected.len {
        let expected = expected.len;
        return Err(damaged(format!("it has {found} bytes, its manifest says {expected}")));
    }
    let mut bytes = Vec::new();
    file.take(found).read_to_end(&mut bytes).map_err(unreadable)?;
    let found = hex(&Sha256::digest(&bytes));
    if found != expected.sha256 {
        let expected = &expected.sha256;
        return Err(damaged(format!("it has SHA-256 {found}, its manifest says {expected}")));
    }
    Ok(bytes)
}

/// Enough for every core's share, and little memory.
const BATCH_MAX: usize = 32;
/// A manifest holds a job file, class names and a few hashes; beyond this it is another file.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;
const SIDE_MAX: usize = 1 << 14;
