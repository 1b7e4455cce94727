//! The job that a simulated cluster runs, and the workers that run it.

use coordinator::core::{DatasetFacts, JobSpec, OnLoss, Policy};
use dataset::Draws;
use proto::Job;
use proto::manifest::Input;

use crate::time::Millis;
use crate::worker::Worker;
use crate::world::Plan;

/// It computes a slice in up to `pace` ms.
pub(crate) fn worker(number: usize, pace: Millis, draws: &mut Draws) -> Worker {
    let name = format!("w{number}").parse().expect("a valid name");
    Worker::new(name, 1 + draws.below(pace))
}

/// For a job that is started with `wanted` of `workers`.
pub(crate) fn policy(draws: &mut Draws, workers: u32, wanted: u32) -> Policy {
    let on_loss = match draws.below(3) {
        0 => OnLoss::Wait,
        1 => OnLoss::Spare,
        _ => OnLoss::Shrink,
    };
    let min_workers = 1 + draws.below(u64::from(workers.min(2))) as u32;
    let max_workers = match draws.below(3) {
        0 => wanted.max(min_workers),
        _ => u32::MAX,
    };
    Policy { on_loss, min_workers, max_workers }
}

pub(crate) fn spec(plan: &Plan) -> JobSpec {
    let Plan { epochs, slices, .. } = plan;
    let batch = 2 * slices;
    let toml = format!(
        "name = \"sim\"\n[data]\nformat = \"idx\"\npath = \"/data\"\n[model]\narch = \"resnet18\"\n\
         [train]\nepochs = {epochs}\nbatch = {batch}\nslices = {slices}\n[optimizer]\nlearning_rate = 0.1\n\
         [checkpoint]\nevery_epochs = 3\n"
    );
    let job = Job::parse(&toml).expect("the simulated job is right");
    let input = Input { channels: 1, height: 8, width: 8, mean: vec![0.3], std: vec![0.4] };
    let dataset = DatasetFacts {
        fingerprint: "ab".repeat(32),
        train_len: 4 * batch as u64,
        test_len: 40,
        classes: vec!["zero".to_owned(), "one".to_owned()],
        input,
    };
    JobSpec { toml: job.to_toml(), job, dataset, weights: None }
}

pub(crate) fn sha256(step: u64) -> String {
    format!("{step:064x}")
}
