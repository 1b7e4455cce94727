//! The same job gives the same weights, whoever computes what and whatever is killed in between.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cluster_tests::{Ended, JobFile, Train, digits_folder};
use sha2::{Digest, Sha256};

use crate::quarantine::{image_folder, job_of_images, spoil};

/// The digest that a finished run prints.
pub(crate) fn model_sha256(ended: &Ended) -> String {
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.stderr);
    let line = ended.stdout.lines().find(|line| line.contains("model sha256"));
    let line = line.unwrap_or_else(|| panic!("no digest in:\n{}", ended.stdout));
    line.split_whitespace().last().expect("the line has words").to_owned()
}

fn train(job: &Path, state: &Path, workers: usize, threads: usize) -> String {
    let train = Train { workers, threads, ..Train::new(job, state) };
    model_sha256(&train.spawn().finish(LIMIT))
}

#[test]
fn final_weights_do_not_depend_on_workers_or_threads() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobFile::digits().write(folder.path());
    let state = |name: &str| folder.path().join(name);
    let alone = train(&job, &state("w1"), 1, 1);
    for (workers, threads) in [(1, 2), (2, 1), (2, 2), (3, 1), (5, 1)] {
        let name = format!("w{workers}t{threads}");
        assert_eq!(train(&job, &state(&name), workers, threads), alone, "{name}");
    }
}

#[test]
fn a_run_killed_at_a_random_step_and_resumed_ends_with_the_same_bits_and_no_step_twice() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobFile::digits().with("epochs = 3", "epochs = 16").write(folder.path());
    let state = |name: &str| folder.path().join(name);
    let undisturbed = train(&job, &state("whole"), 2, 1);
    // Before the first checkpoint can be there, and after an epoch that chance picks; the step within it is the
    // scheduler's choice.
    let picked = 2 + SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_micros() % 8;
    for (epoch, workers) in [(1, 2), (picked, 3)] {
        let name = format!("killed in epoch {epoch}");
        let killed = Train { workers, ..Train::new(&job, &state(&name)) };
        let mut running = killed.spawn();
        running.wait_for(&[&format!("epoch {epoch} of 16")], LIMIT);
        running.kill_all();
        assert_eq!(running.finish(LIMIT).code, None, "{name}: by a signal");
        // Another number of workers takes over.
        let resumed = Train { workers: 2, ..killed }.spawn().finish(LIMIT);
        assert_eq!(model_sha256(&resumed), undisturbed, "{name}");
        let went_on = resumed.stderr.contains("goes on from its checkpoint of step");
        assert!(went_on || epoch == 1, "{name}: {}", resumed.stderr);
        assert_eq!(steps_in_metrics(&state(&name)), (1..=360).collect::<Vec<u64>>(), "{name}");
    }
}

#[test]
fn augmented_images_of_growing_size_give_the_same_bits_for_any_workers_and_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let data = image_folder(folder.path());
    // What stands in for an image that is none is erased and mixed like any other.
    spoil(&data);
    let changes = "size = 24\nsizes = [[0, 16], [7, 20], [16, 28]]\naugment = { flip = true, \
                   policy = 'trivialaugment', erase = 0.5, mixup = 0.4, cutmix = 1 }";
    let job = job_of_images(&data, 0.1)
        .with("epochs = 3", "epochs = 24")
        .with("size = 16", changes)
        // Averaged weights are looked at in images of one size, trained ones go on in those of another.
        .with("[exchange]", "[ema]\ndecay = 0.9\nevery = 2\n[exchange]")
        .write(folder.path());
    let state = |name: &str| folder.path().join(name);
    let undisturbed = train(&job, &state("w1"), 1, 2);
    assert_eq!(train(&job, &state("w2"), 2, 1), undisturbed);
    let killed = Train { workers: 3, ..Train::new(&job, &state("killed")) };
    let mut running = killed.spawn();
    running.wait_for(&["epoch 9 of 24"], LIMIT);
    running.kill_all();
    assert_eq!(running.finish(LIMIT).code, None, "by a signal");
    let resumed = Train { workers: 2, ..killed }.spawn().finish(LIMIT);
    assert!(resumed.stderr.contains("goes on from its checkpoint of step"), "{}", resumed.stderr);
    assert_eq!(model_sha256(&resumed), undisturbed);
}

#[test]
fn augmented_images_in_memory_give_the_same_bits_for_any_workers() {
    let folder = tempfile::tempdir().unwrap();
    let augment =
        "pad = 1, flip = true, policy = 'randaugment', erase = 0.25, mixup = 0.2, cutmix = 1";
    let job = JobFile::digits().with("pad = 1, flip = false", augment).write(folder.path());
    let state = |name: &str| folder.path().join(name);
    let alone = train(&job, &state("w1"), 1, 1);
    assert_eq!(train(&job, &state("w3"), 3, 1), alone);
}

/// Steps with a training loss in the metrics of the first job, in file order.
pub(crate) fn steps_in_metrics(state: &Path) -> Vec<u64> {
    let metrics = std::fs::read_to_string(state.join("jobs/digits-1/metrics.jsonl")).unwrap();
    let rows = metrics.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let steps = rows.filter(|row| row.get("loss").is_some());
    steps.map(|row| row["step"].as_u64().unwrap()).collect()
}

#[test]
fn the_example_reaches_its_accuracy_and_prints_the_digest_of_the_file_it_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let job = digits_folder().join("job.toml");
    let ended = Train::new(&job, folder.path()).spawn().finish(LIMIT);
    let digest = model_sha256(&ended);
    let checkpoints = folder.path().join("jobs/digits-1/checkpoints");
    let model = checkpoints.join("step-00000450/model.safetensors");
    let bytes = std::fs::read(&model).unwrap();
    assert_eq!(proto::identity::hex(&Sha256::digest(&bytes)), digest);

    let manifest = std::fs::read(checkpoints.join("step-00000450/manifest.json")).unwrap();
    let manifest: proto::manifest::Manifest = serde_json::from_slice(&manifest).unwrap();
    let evaluation = manifest.evaluation.unwrap();
    assert_eq!(evaluation.samples, 360);
    assert!(evaluation.correct * 1000 >= 985 * evaluation.samples, "{evaluation:?}");

    assert_eq!(steps_in_metrics(folder.path()), (1..=450).collect::<Vec<u64>>());
}

#[test]
fn a_finished_run_says_so_and_fresh_starts_over() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobFile::digits().with("epochs = 3", "epochs = 1").write(folder.path());
    let state = folder.path().join("state");
    let first = Train::new(&job, &state).spawn().finish(LIMIT);
    let again = Train::new(&job, &state).spawn().finish(LIMIT);
    assert_eq!(model_sha256(&again), model_sha256(&first));
    let said = again.stdout + &again.stderr;
    assert!(said.contains("already") && said.contains("--fresh"), "{said}");
    let fresh = Train { fresh: true, ..Train::new(&job, &state) }.spawn().finish(LIMIT);
    assert_eq!(model_sha256(&fresh), model_sha256(&first));
    assert!(state.join("jobs/digits-1").is_dir() && state.join("jobs/digits-2").is_dir());
}

/// A run of these jobs takes a second or two; a machine under load gets far more.
const LIMIT: Duration = Duration::from_secs(120);
