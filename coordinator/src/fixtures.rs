//! Values that tests of several modules start from.

use std::sync::LazyLock;

use proto::Job;
use proto::manifest::{Evaluation, Input};

use crate::core::{CheckpointEntry, DatasetFacts, JobSpec};

/// A job of 20 steps (5 epochs of 4 steps) with 8 slices that keeps 2 checkpoints.
pub(crate) const JOB: &str = r#"
name = "digits"
[data]
format = "idx"
path = "/data/digits"
[model]
arch = "resnet18"
[train]
epochs = 5
batch = 16
slices = 8
[optimizer]
learning_rate = 0.1
[checkpoint]
keep = 2
"#;
pub(crate) const TOTAL_STEPS: u64 = 20;
pub(crate) const TEST_LEN: u64 = 40;

pub(crate) fn spec() -> JobSpec {
    static SPEC: LazyLock<JobSpec> = LazyLock::new(|| spec_of(JOB));
    SPEC.clone()
}

pub(crate) fn spec_of(toml: &str) -> JobSpec {
    let job = Job::parse(toml).unwrap();
    let dataset = DatasetFacts {
        fingerprint: "ab".repeat(32),
        train_len: 64,
        test_len: TEST_LEN,
        classes: vec!["zero".to_owned(), "one".to_owned()],
        input: Input { channels: 1, height: 8, width: 8, mean: vec![0.3], std: vec![0.4] },
    };
    JobSpec { toml: job.to_toml(), job, dataset, weights: None }
}

/// The entry of a sealed checkpoint; `correct` of `TEST_LEN`, `None` when it was not evaluated.
pub(crate) fn entry(step: u64, correct: Option<u64>) -> CheckpointEntry {
    let evaluation =
        |correct| Evaluation { samples: TEST_LEN, correct, correct_top5: correct, loss: 0.5 };
    CheckpointEntry {
        step,
        bytes: 100,
        digest: format!("{step:032x}"),
        model_sha256: format!("{step:064x}"),
        evaluation: correct.map(evaluation),
    }
}
