//! A run of a few steps, from the job file to the checkpoint's folder, on one worker without a coordinator.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dataset::Dataset;
use kernels::{Buffer, Device, ops};
use proto::Job;
use proto::identity::hex;
use proto::manifest::{
    Evaluation, FORMAT, FileEntry, Input, MANIFEST_FILE, MODEL_FILE, Manifest, folder_name,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use worker::checkpoint::Snapshot;
use worker::collective::Abort;
use worker::data::{Source, format};
use worker::evaluate::evaluate;
use worker::model::{Geometry, ResNet, Targets};
use worker::optim::Sgd;

/// A checkpoint in a folder of its own, gone with this value.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) root: TempDir,
    pub(crate) folder: PathBuf,
    pub(crate) manifest: Manifest,
    pub(crate) data: PathBuf,
}

/// 1,437 real digits and a small model: seconds, and right more often than not.
pub(crate) fn digits() -> Made {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits");
    let job = "name='digits'\n[data]\nformat='idx'\npath='.'\n[model]\nblock='basic'\nblocks=[1,1]\nwidths=[8,16]\n\
               stem='cifar'\n[train]\nepochs=3\nbatch=64\nslices=2\n[optimizer]\nlearning_rate=0.1\nnesterov=true\n";
    train(job, &data, 40)
}

/// Trains for `steps` at the peak learning rate, evaluates, and writes what a coordinator would.
pub(crate) fn train(job: &str, data: &Path, steps: u64) -> Made {
    let job = Job::parse(job).unwrap();
    let source = Source::new(Arc::new(Dataset::open(format(&job), data).unwrap()), &job);
    let device = Device::cpu(NonZeroUsize::new(2).unwrap()).unwrap();
    let shape = source.dataset().shape;
    let geometry = Geometry {
        slices: 1,
        batch: job.train.slice_len(),
        height: shape.height,
        width: shape.width,
        channels: shape.channels,
        classes: source.dataset().classes.len(),
    };
    let mut model = ResNet::new(&device, &job.model, geometry);
    model.initialise(job.seed);
    let mut optimizer = Sgd::new(&device, model.layout(), &job.optimizer);
    let mut slots: Vec<Buffer> =
        (0..job.train.slices).map(|_| device.alloc(model.layout().gradient_len())).collect();
    for step in 1..=steps {
        gradients(&job, &source, &mut model, &mut slots, step);
        let (sum, others) = slots.split_first_mut().unwrap();
        for other in others {
            ops::add(&device, sum.view_mut(other.span()), other.view(other.span()));
        }
        let (params, _) = model.state_mut();
        optimizer.measure(sum).unwrap();
        optimizer.update(params, sum, job.optimizer.learning_rate).unwrap();
        model.update_running(sum, job.train.slices);
        model.pack();
    }
    let layout = Arc::new(model.layout().clone());
    let copy = |buffer: &Buffer| buffer.host().unwrap().to_vec();
    let (params, running, velocity) =
        (copy(model.params()), copy(model.running()), copy(optimizer.velocity()));
    let snapshot = Snapshot { step: steps, layout, params, running, velocity, average: None };
    let weights = snapshot.encode_model();
    let manifest = manifest(&job, &source, &mut model, steps, &weights);
    write(manifest, &weights, data)
}

fn gradients(job: &Job, source: &Source, model: &mut ResNet, slots: &mut [Buffer], step: u64) {
    let (batch, slice_len) = (job.train.batch as u64, job.train.slice_len() as u64);
    for (slice, slot) in (0..).zip(slots) {
        let first = (step - 1) * batch + slice * slice_len;
        let samples = source.train(first..first + slice_len);
        model.load(0, &samples.pixels, &samples.crops, source.mean(), source.std());
        model.forward();
        let targets = Targets {
            labels: samples.classes(),
            label_smoothing: job.train.label_smoothing,
            grad_scale: 1.0 / batch as f32,
        };
        model.loss(&targets, slot);
        model.backward(slot, &[], &mut |_, _| {});
    }
}

fn manifest(job: &Job, source: &Source, model: &mut ResNet, step: u64, weights: &[u8]) -> Manifest {
    let dataset = source.dataset();
    let shape = dataset.shape;
    let (counts, _) = evaluate(model, source, 0..dataset.test.len(), &Abort::new()).unwrap();
    let entry = FileEntry { len: weights.len() as u64, sha256: hex(&Sha256::digest(weights)) };
    Manifest {
        format: FORMAT,
        job_id: format!("{}-1", job.name),
        step,
        total_steps: step,
        epoch: step * job.train.batch as u64 / dataset.train.len() as u64,
        state_digest: "00".repeat(16),
        job: job.to_toml(),
        dataset_fingerprint: dataset.fingerprint.to_string(),
        init_sha256: None,
        classes: dataset.classes.clone(),
        input: Input {
            channels: shape.channels,
            height: shape.height,
            width: shape.width,
            mean: source.mean().to_vec(),
            std: source.std().to_vec(),
        },
        evaluation: Some(Evaluation {
            samples: counts.samples,
            correct: counts.correct,
            correct_top5: counts.correct_top5,
            loss: counts.mean_loss(),
        }),
        software_version: env!("CARGO_PKG_VERSION").to_owned(),
        device_kind: "cpu".to_owned(),
        files: BTreeMap::from([(MODEL_FILE.to_owned(), entry)]),
    }
}

fn write(manifest: Manifest, weights: &[u8], data: &Path) -> Made {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join(folder_name(manifest.step));
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join(MODEL_FILE), weights).unwrap();
    let made = Made { root, folder, manifest, data: data.to_owned() };
    made.rewrite_manifest(|_| {});
    made
}

impl Made {
    /// Writes the manifest again, changed.
    pub(crate) fn rewrite_manifest(&self, change: impl FnOnce(&mut Manifest)) {
        let mut manifest = self.manifest.clone();
        change(&mut manifest);
        let text = serde_json::to_string_pretty(&manifest).unwrap();
        std::fs::write(self.folder.join(MANIFEST_FILE), text).unwrap();
    }

    pub(crate) fn model_file(&self) -> PathBuf {
        self.folder.join(MODEL_FILE)
    }
}
