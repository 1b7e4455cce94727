//! Whether a job, or a model that only predicts, fits this machine's memory, asked before anything is allocated.

mod room;

use std::ops::Range;

use kernels::ops::SLICES_MAX;
use kernels::{Device, Family};
use proto::job::{Job, Model};

use crate::collective::SlicePlan;
use crate::model::{Geometry, ResNet};

#[derive(Debug, thiserror::Error)]
#[error(
    "fit the {what}: it needs {need_mib} MiB more on this machine, {available_mib} MiB are free; {advice}"
)]
pub struct MemoryError {
    what: &'static str,
    need_mib: u64,
    available_mib: u64,
    advice: String,
}

/// What the need of training depends on.
#[derive(Clone, Debug)]
pub(crate) struct Setting<'a> {
    pub(crate) job: &'a Job,
    /// Whether the model lies in main memory, too.
    pub(crate) family: Family,
    /// Of a slice.
    pub(crate) geometry: Geometry,
    /// This worker's.
    pub(crate) slices: Range<u32>,
    /// Members of the generation.
    pub(crate) workers: usize,
    pub(crate) decode_threads: usize,
    /// What the dataset itself takes.
    pub(crate) dataset_bytes: u64,
}

/// The most bytes that training takes on this worker; an error when there is no room for them. What the process has already,
/// such as the dataset and the state of an earlier generation, is part of them, and need not be free.
pub(crate) fn require_for_training(setting: &Setting<'_>) -> Result<u64, MemoryError> {
    let Setting { job, geometry, .. } = *setting;
    let with =
        |batch: usize| Setting { geometry: Geometry { batch, ..geometry }, ..setting.clone() };
    let need = |slice_len: usize| need(&with(slice_len));
    let total = need(geometry.batch);
    let held = room::held();
    let missing = |need: u64| need.saturating_sub(held);
    // A system that does not tell is not asked twice: an allocation that fails says so itself.
    let Some(available) = room::available().filter(|&available| available < missing(total)) else {
        return Ok(total);
    };
    let fits = |&slice_len: &usize| missing(need(slice_len)) <= available;
    let largest =
        (1..).map(|halvings| geometry.batch >> halvings).take_while(|&len| len > 0).find(fits);
    let advice = match largest {
        Some(slice_len) => format!("set train.batch to {} or less", slice_len * job.train.slices),
        None => "choose a smaller model".to_owned(),
    };
    Err(MemoryError {
        what: "job",
        need_mib: missing(total) >> 20,
        available_mib: available >> 20,
        advice,
    })
}

/// An error when the buffers of a model for inference are not free.
pub(crate) fn require_for_inference(model: &Model, geometry: Geometry) -> Result<(), MemoryError> {
    let need = 4 * ResNet::inference_elements(Family::Cpu, model, geometry).total as u64;
    match room::available() {
        Some(available) if available < need => Err(MemoryError {
            what: "model",
            need_mib: need >> 20,
            available_mib: available >> 20,
            advice: "end other programs, or use a larger machine".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// How many slices of a job a device computes at once, given the geometry of one: as many as there is memory for. The CPU has
/// enough to do with one.
pub(crate) fn slices_at_once(device: &Device, job: &Job, slice: Geometry) -> usize {
    let Device::Cuda(cuda) = device else { return 1 };
    let sizes = train_sizes(job);
    let fits = |&slices: &usize| {
        let geometry = Geometry { slices, ..slice };
        let need = ResNet::elements(Family::Cuda, &job.model, geometry, &sizes);
        // Slices at once spare slots; the sum, the velocity and the averages come to them.
        let slots = SlicePlan::at_once(0..job.train.slices as u32, slices as u32).slots();
        let rest = need.total - need.activations + (slots + 2) * need.gradient + need.parameters;
        let bytes = 4 * rest + cuda.activation_bytes() * need.activations;
        // Some is left to the working memory of ops.
        bytes <= cuda.free_memory() / 10 * 9
    };
    let largest = job.train.slices.min(SLICES_MAX).ilog2();
    (0..=largest).rev().map(|level| 1 << level).find(fits).unwrap_or(1)
}

/// Sizes of training images besides the dataset's, `[height, width]`.
pub(crate) fn train_sizes(job: &Job) -> Vec<[usize; 2]> {
    job.data.sizes.iter().map(|from| [from.size; 2]).collect()
}

fn need(setting: &Setting<'_>) -> u64 {
    let Setting { job, family, geometry, slices, workers, decode_threads, dataset_bytes } = setting;
    let sizes = train_sizes(job);
    let model = ResNet::elements(Family::Cpu, &job.model, *geometry, &sizes);
    let plan = SlicePlan::new(slices.clone());
    // And their sum.
    let gradients = (plan.slots() + 1) * model.gradient;
    // Momentum lives as long as the model; a checkpoint on its way is a copy of both, the encoded files, and the tensors
    // of the file that is being encoded.
    let copies = (1 + 2 + 2 + 1) * model.parameters;
    // The average, its copy, and its file; it is about as long as a gradient vector.
    let averages = if job.ema.is_some() { 3 * model.gradient } else { 0 };
    let exchange = exchange(model.gradient, *workers);
    let model_here = match family {
        Family::Cpu => model.total + model.working,
        Family::Cuda => 0,
    };
    let elements = model_here + gradients + copies + averages + exchange;
    let own_size = [geometry.height, geometry.width];
    let pixels = sizes.iter().chain([&own_size]).map(|[height, width]| height * width).max();
    let sample = pixels.unwrap_or_default() * geometry.channels;
    let samples = SLICES_READY * geometry.batch + SAMPLES_READY * decode_threads;
    4 * elements as u64 + (samples * sample) as u64 + dataset_bytes + PROCESS_BYTES
}

/// Elements that the exchange reads: peers' partials of the chunk that this worker adds up, and the sums of the others' chunks,
/// in memory that it has mapped as well. By TCP, about as much lies in queues.
fn exchange(gradient: usize, workers: usize) -> usize {
    let own = gradient / workers;
    (workers - 1) * own + (gradient - own)
}

/// Slices that are ready, being made and being computed.
const SLICES_READY: usize = 6;
/// Decoded samples that wait, of each decode thread.
const SAMPLES_READY: usize = 10;
/// Code, stacks and connections of a worker that does nothing yet.
const PROCESS_BYTES: u64 = 13 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: &str = "name='x'\n[data]\nformat='imagefolder'\npath='.'\nsize=64\nsizes=[[0, 32]]\n\
                       [model]\narch='resnet18'\n[train]\nepochs=1\nbatch=8\n\
                       [optimizer]\nlearning_rate=1.0\n";
    const GEOMETRY: Geometry =
        Geometry { slices: 1, batch: 1, height: 64, width: 64, channels: 3, classes: 10 };

    fn setting(job: &Job) -> Setting<'_> {
        let (slices, workers, decode_threads) = (0..8, 1, 2);
        let family = Family::Cpu;
        Setting {
            job,
            family,
            geometry: GEOMETRY,
            slices,
            workers,
            decode_threads,
            dataset_bytes: 0,
        }
    }

    #[test]
    fn an_average_is_planned_for() {
        let plain = Job::parse(JOB).unwrap();
        let averaging = Job::parse(&format!("{JOB}[ema]\n")).unwrap();
        let model = ResNet::elements(Family::Cpu, &plain.model, GEOMETRY, &train_sizes(&plain));
        let more = need(&setting(&averaging)) - need(&setting(&plain));
        assert_eq!(more, 3 * 4 * model.gradient as u64);
    }

    #[test]
    fn the_dataset_is_planned_for() {
        let job = Job::parse(JOB).unwrap();
        let larger = Setting { dataset_bytes: 50 << 20, ..setting(&job) };
        assert_eq!(need(&larger) - need(&setting(&job)), 50 << 20);
    }

    #[test]
    fn samples_that_wait_are_of_the_largest_size() {
        let smaller = Job::parse(JOB).unwrap();
        let larger = Job::parse(&JOB.replace("32", "96")).unwrap();
        let elements = |job: &Job| {
            let model = ResNet::elements(Family::Cpu, &job.model, GEOMETRY, &train_sizes(job));
            4 * (model.total + model.working) as u64
        };
        let samples = |job| need(&setting(job)) - elements(job);
        let waiting = (SLICES_READY + 2 * SAMPLES_READY) as u64;
        let pixels = 96 * 96 - 64 * 64;
        assert_eq!(samples(&larger) - samples(&smaller), waiting * pixels * 3);
    }
}
