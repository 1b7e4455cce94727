//! Whole jobs on GPUs: mock ones, which execute our kernels on the processor behind the real driver's interface.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cluster_tests::{ControlPlane, JobFile, Running, send, verified};
use rustix::process::Signal;

use crate::operators::follow;

/// One epoch: what executes the kernels is slow.
fn job(folder: &Path) -> std::path::PathBuf {
    let job = JobFile::digits().with("epochs = 3", "epochs = 1");
    job.with("batch = 64", "batch = 128").with("widths = [8, 16]", "widths = [8, 8]").write(folder)
}

/// `worker join` on a mock GPU; `None`, with the reason printed, where there is none.
fn join(plane: &ControlPlane, name: &str) -> Option<Command> {
    let libraries = match cuda_mock::library_folder() {
        Ok(folder) => folder,
        Err(missing) => {
            eprintln!("skipped: {missing}");
            return None;
        }
    };
    let mut command = plane.join(name);
    command.args(["--devices", "all"]).env("LD_LIBRARY_PATH", libraries);
    command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    Some(command)
}

/// The weights that a job on one GPU ends with.
fn alone(folder: &Path) -> Option<String> {
    let mut plane = ControlPlane::start(&folder.join("alone"));
    let _worker = Running::spawn(join(&plane, "w1")?);
    plane.wait_for_worker("w1");
    plane.submit(&job(folder), 1);
    Some(model_sha256(&plane))
}

fn model_sha256(plane: &ControlPlane) -> String {
    let followed = follow(plane, "digits-1");
    let last = followed.stdout.lines().last().unwrap();
    assert!(last.contains("model sha256"), "{}", followed.stdout);
    last.split_whitespace().last().unwrap().to_owned()
}

#[test]
fn two_gpus_end_with_the_bits_of_one_though_one_of_them_fails_and_another_dies() {
    let folder = tempfile::tempdir().unwrap();
    let Some(expected) = alone(folder.path()) else { return };
    let mut plane = ControlPlane::start(&folder.path().join("state"));
    // By then it is in the middle of a step.
    let mut faulty = join(&plane, "w1").unwrap();
    faulty.env("CUDA_MOCK_ILLEGAL_ADDRESS_AT", "400");
    let [faulty, _second] = [faulty, join(&plane, "w2").unwrap()].map(Running::spawn);
    for name in ["w1", "w2"] {
        plane.wait_for_worker(name);
    }
    plane.submit(&job(folder.path()), 2);
    let (line, _) = plane.running.wait_for(&["worker w1", "in step", "illegal"], LIMIT);
    assert!(line.contains("GPU 0 failed at or before"), "{line}");
    assert!(line.contains("continuing with 1 worker"), "{line}");
    let ended = faulty.finish(LIMIT);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("start the worker again"), "{}", ended.stderr);
    let third = Running::spawn(join(&plane, "w3").unwrap());
    plane.running.wait_for(&["on w2", "w3"], LIMIT);
    send(third.id(), Signal::KILL);
    assert_eq!(model_sha256(&plane), expected);
    let proof = verified(&plane.state, "digits-1");
    assert!(proof.contains("2 losses"), "{proof}");
}

/// A run of these jobs takes seconds; a machine under load gets far more.
const LIMIT: Duration = Duration::from_secs(180);
