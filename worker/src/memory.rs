//! Whether a job, or a model that only predicts, fits this machine's memory, asked before anything is allocated.

use std::ops::Range;

use proto::job::{Job, Model};

use crate::collective::SlicePlan;
use crate::model::{Geometry, ResNet};

#[derive(Debug, thiserror::Error)]
#[error(
    "fit the {what}: it needs {need_mib} MiB on this machine, {available_mib} MiB are free; {advice}"
)]
pub struct MemoryError {
    what: &'static str,
    need_mib: u64,
    available_mib: u64,
    advice: String,
}

/// Bytes that training takes on this worker; an error when they are not free.
pub(crate) fn require_for_training(
    job: &Job,
    geometry: Geometry,
    slices: &Range<u32>,
) -> Result<u64, MemoryError> {
    let need = |slice_len: usize| need(job, Geometry { batch: slice_len, ..geometry }, slices);
    let total = need(geometry.batch);
    // A system that does not tell is not asked twice: an allocation that fails says so itself.
    let Some(available) = available_bytes().filter(|&available| available < total) else {
        return Ok(total);
    };
    let fits = |&slice_len: &usize| need(slice_len) <= available;
    let largest =
        (1..).map(|halvings| geometry.batch >> halvings).take_while(|&len| len > 0).find(fits);
    let advice = match largest {
        Some(slice_len) => format!("set train.batch to {} or less", slice_len * job.train.slices),
        None => "choose a smaller model".to_owned(),
    };
    Err(MemoryError { what: "job", need_mib: total >> 20, available_mib: available >> 20, advice })
}

/// An error when the buffers of a model for inference are not free.
pub(crate) fn require_for_inference(model: &Model, geometry: Geometry) -> Result<(), MemoryError> {
    let need = 4 * ResNet::inference_elements(model, geometry).total as u64;
    match available_bytes() {
        Some(available) if available < need => Err(MemoryError {
            what: "model",
            need_mib: need >> 20,
            available_mib: available >> 20,
            advice: "end other programs, or use a larger machine".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Sizes of training images besides the dataset's, `[height, width]`.
pub(crate) fn train_sizes(job: &Job) -> Vec<[usize; 2]> {
    job.data.sizes.iter().map(|from| [from.size; 2]).collect()
}

/// Model, momentum, gradient slots and their sum, and the average, which is as long as a gradient vector.
fn need(job: &Job, geometry: Geometry, slices: &Range<u32>) -> u64 {
    let model = ResNet::elements(&job.model, geometry, &train_sizes(job));
    let vectors = SlicePlan::new(slices.clone()).slots() + 1 + usize::from(job.ema.is_some());
    let elements = model.total + model.parameters + vectors * model.gradient;
    4 * elements as u64
}

/// What the kernel could give without swapping, in bytes (Linux; see proc(5) on MemAvailable).
fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_is_planned_for() {
        let text = "name='x'\n[data]\nformat='idx'\npath='.'\n[model]\narch='resnet18'\n\
                    [train]\nepochs=1\nbatch=8\n[optimizer]\nlearning_rate=1.0\n";
        let geometry = Geometry { batch: 1, height: 8, width: 8, channels: 1, classes: 10 };
        let plain = Job::parse(text).unwrap();
        let averaging = Job::parse(&format!("{text}[ema]\n")).unwrap();
        let model = ResNet::elements(&plain.model, geometry, &[]);
        let more = need(&averaging, geometry, &(0..8)) - need(&plain, geometry, &(0..8));
        assert_eq!(more, 4 * model.gradient as u64);
    }
}
