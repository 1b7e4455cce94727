//! Runs that start from a file of weights: what they make of it, what they refuse, and that they never need it again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cluster_tests::{ControlPlane, Ended, JobFile, Running, Train, digits_folder, worker};
use proto::identity::hex;
use proto::manifest::Manifest;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::bits::model_sha256;
use crate::operators::follow;
use crate::refusals::{LIMIT, STATE, USAGE, copy_folder, damage, job_on, only_error, refused};

/// `weights.safetensors`, exported from a run on the digits, in a folder of its own.
fn folder_with_weights() -> TempDir {
    static WEIGHTS: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = WEIGHTS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let job = JobFile::digits().with("epochs = 3", "epochs = 12").write(folder.path());
        let state = folder.path().join("state");
        assert_eq!(Train::new(&job, &state).spawn().finish(LIMIT).code, Some(0));
        let checkpoint = state.join("jobs/digits-1/checkpoints/step-00000270");
        let out = folder.path().join("weights.safetensors");
        let paths = [&checkpoint, &out].map(|path| path.to_str().unwrap());
        let ended = Running::spawn(worker(&["export", paths[0], paths[1]])).finish(LIMIT);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        fs::read(out).unwrap()
    });
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(WEIGHTS_FILE), bytes).unwrap();
    folder
}

/// Hardly learns anything: what it knows afterwards it knew before.
fn tuned(job: JobFile) -> JobFile {
    job.with("stem = \"cifar\"", "stem = \"cifar\"\ninit = \"weights.safetensors\"")
        .with("learning_rate = 0.1", "learning_rate = 1e-5")
        .with("epochs = 3", "epochs = 1")
}

fn train(job: &Path, state: PathBuf, workers: usize) -> Ended {
    Train { workers, ..Train::new(job, &state) }.spawn().finish(LIMIT)
}

fn manifest(state: &Path) -> Manifest {
    let file = state.join("jobs/digits-1/checkpoints/step-00000023/manifest.json");
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

/// Changes the digits so that there is no 9 among them.
fn nine_classes(folder: &Path) -> PathBuf {
    let data = folder.join("data");
    copy_folder(&digits_folder(), &data);
    for labels in ["train-labels-idx1-ubyte", "test-labels-idx1-ubyte"] {
        let eight = |byte: &mut u8| *byte = (*byte).min(8);
        damage(&data.join(labels), |bytes| bytes[8..].iter_mut().for_each(eight));
    }
    data
}

#[test]
fn a_run_starts_from_an_exported_file_with_the_same_bits_for_any_number_of_workers() {
    let folder = folder_with_weights();
    let weights = folder.path().join(WEIGHTS_FILE);
    let job = tuned(JobFile::digits()).write(folder.path());
    let alone = train(&job, folder.path().join("1"), 1);
    for workers in [2, 3] {
        let state = folder.path().join(workers.to_string());
        assert_eq!(model_sha256(&train(&job, state, workers)), model_sha256(&alone));
    }
    let sha256 = hex(&Sha256::digest(fs::read(&weights).unwrap()));
    let said = format!("starts from the weights {} (SHA-256 {sha256})\n", weights.display());
    assert!(alone.stderr.contains(&said), "{}", alone.stderr);
    let manifest = manifest(&folder.path().join("1"));
    assert_eq!(manifest.init_sha256, Some(sha256));
    let evaluation = manifest.evaluation.unwrap();
    assert!(evaluation.correct * 10 > evaluation.samples * 8, "it was trained: {evaluation:?}");
}

#[test]
fn a_last_layer_of_another_number_of_classes_is_made_anew_and_the_log_says_so() {
    let folder = folder_with_weights();
    let data = nine_classes(folder.path());
    let tuned = tuned(job_on(&data)).with("learning_rate = 1e-5", "learning_rate = 0.1");
    let job = tuned.write(folder.path());
    let alone = train(&job, folder.path().join("1"), 1);
    let said = "its last layer has 10 classes, not 9: the seed makes another one";
    assert!(alone.stderr.contains(said), "{}", alone.stderr);
    assert_eq!(model_sha256(&train(&job, folder.path().join("2"), 2)), model_sha256(&alone));
    let found = manifest(&folder.path().join("1"));
    assert_eq!(found.classes.len(), 9);
    let evaluation = found.evaluation.unwrap();
    let from_seed = tuned.with("init = \"weights.safetensors\"\n", "").write(folder.path());
    model_sha256(&train(&from_seed, folder.path().join("seed"), 1));
    let other = manifest(&folder.path().join("seed"));
    assert_eq!(other.init_sha256, None);
    let from_seed = other.evaluation.unwrap().correct;
    assert!(evaluation.correct > from_seed + 36, "{evaluation:?} against {from_seed}");
}

#[test]
fn a_run_that_was_cut_off_goes_on_without_the_file_and_a_changed_file_is_another_job() {
    let folder = folder_with_weights();
    let weights = folder.path().join(WEIGHTS_FILE);
    let job = tuned(JobFile::digits()).with("epochs = 1", "epochs = 8").write(folder.path());
    let expected = model_sha256(&train(&job, folder.path().join("whole"), 2));
    // Before the first checkpoint can be there, and after the second.
    for (name, line) in [("early", "trains with 2 workers"), ("late", "checkpoint of step 45 is")] {
        let bytes = fs::read(&weights).unwrap();
        let train = Train::new(&job, &folder.path().join(name));
        let mut running = train.spawn();
        running.wait_for(&[line], LIMIT);
        running.kill_all();
        assert_eq!(running.finish(LIMIT).code, None, "killed by a signal");

        damage(&weights, |bytes| *bytes.last_mut().unwrap() ^= 1);
        let changed = train.spawn().finish(LIMIT);
        let words = ["digits-1 started from other weights", WEIGHTS_FILE, "--fresh"];
        only_error(&changed, USAGE, &words);
        fs::remove_file(&weights).unwrap();
        let fresh = Train { fresh: true, ..train.clone() }.spawn().finish(LIMIT);
        only_error(&fresh, USAGE, &[weights.to_str().unwrap(), "no such file", "model.init"]);

        assert_eq!(model_sha256(&train.spawn().finish(LIMIT)), expected, "{name}");
        let again = train.spawn().finish(LIMIT);
        assert!(again.stderr.contains("finished already"), "{}", again.stderr);
        fs::write(&weights, bytes).unwrap();
    }
}

#[test]
fn a_file_that_does_not_fit_is_refused_before_anything_is_begun() {
    let folder = folder_with_weights();
    let place = folder.path().to_str().unwrap().to_owned();
    let state = folder.path().join("state");
    let refuse = |job: JobFile, words: &[&str]| {
        let ended = Train::new(&job.write(folder.path()), &state).spawn().finish(LIMIT);
        let line = refused(&ended, USAGE, words);
        assert!(!state.exists(), "{line}");
    };
    let job = || tuned(JobFile::digits());
    let wider = job().with("widths = [8, 16]", "widths = [8, 24]");
    refuse(wider, &[&place, "does not fit the model", ", and ", "name another file"]);
    let deeper = job().with("blocks = [1, 1]", "blocks = [1, 2]");
    refuse(deeper, &["layer2.1.conv1.weight is missing, the model needs [16, 16, 3, 3]"]);
    let pth = job().with("weights.safetensors", "weights.pth");
    refuse(pth, &["`model.init` must be a .safetensors file", "save_file"]);
    damage(&folder.path().join(WEIGHTS_FILE), |bytes| bytes.truncate(bytes.len() / 2));
    refuse(job(), &[&place, "no whole safetensors file", "its header describes"]);
    fs::remove_file(folder.path().join(WEIGHTS_FILE)).unwrap();
    let fifo = folder.path().join(WEIGHTS_FILE);
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    refuse(job(), &[&place, "it is no file"]); // without waiting for somebody who writes to it
}

#[test]
fn values_that_are_not_finite_are_refused_by_the_workers() {
    let folder = folder_with_weights();
    damage(&folder.path().join(WEIGHTS_FILE), |bytes| {
        let len = bytes.len();
        bytes[len - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let job = tuned(JobFile::digits()).write(folder.path());
    let ended = train(&job, folder.path().join("state"), 1);
    only_error(&ended, STATE, &["holds a value that is not finite", "model.init", "--fresh"]);
}

#[test]
fn workers_that_joined_a_coordinator_fetch_the_weights_from_it() {
    let folder = folder_with_weights();
    let job = tuned(JobFile::digits()).write(folder.path());
    let expected = model_sha256(&train(&job, folder.path().join("train"), 2));
    let mut plane = ControlPlane::start(&folder.path().join("state"));
    let _crew = [plane.worker("w1"), plane.worker("w2")];
    assert!(plane.submit(&job, 2).contains("digits-1 submitted"));
    let finished = follow(&plane, "digits-1").stdout;
    assert!(finished.lines().last().unwrap().ends_with(&expected), "{finished}");
}

const WEIGHTS_FILE: &str = "weights.safetensors";
