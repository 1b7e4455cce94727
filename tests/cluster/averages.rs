//! Averaged weights with layer-wise rates, clipping and zero-initialised blocks: the same bits for any number of workers and
//! after a kill, and the average is what the run evaluates, names and hands over.

use std::path::{Path, PathBuf};

use cluster_tests::{JobFile, Running, Train, digits_folder, worker};
use proto::identity::hex;
use proto::manifest::{EMA_FILE, MODEL_FILE, Manifest};
use sha2::{Digest, Sha256};

use crate::bits::model_sha256;
use crate::refusals::LIMIT;

#[test]
fn averages_do_not_depend_on_workers_or_on_a_kill_in_between() {
    let folder = tempfile::tempdir().unwrap();
    let job = everything_on().write(folder.path());
    let train =
        |name: &str, workers| Train { workers, ..Train::new(&job, &folder.path().join(name)) };
    let alone = ended_with(&train("alone", 1));
    assert!(alone[0] != alone[1], "the average is not the trained model");
    assert_eq!(ended_with(&train("two", 2)), alone);
    let killed = train("killed", 3);
    let mut running = killed.spawn();
    running.wait_for(&["checkpoint of step 45 is on disk"], LIMIT);
    running.kill_all();
    assert_eq!(running.finish(LIMIT).code, None, "killed by a signal");
    let resumed = Train { workers: 2, ..killed }.spawn().finish(LIMIT);
    assert!(resumed.stderr.contains("goes on from its checkpoint of step"), "{}", resumed.stderr);
    assert_eq!([model_sha256(&resumed), ema_sha256(&resumed.stdout)], alone);
}

#[test]
fn the_average_is_what_a_run_evaluates_and_a_user_gets() {
    let folder = tempfile::tempdir().unwrap();
    let job = everything_on().write(folder.path());
    let train = Train::new(&job, &folder.path().join("state"));
    let [model, ema] = ended_with(&train);
    let checkpoint = last_checkpoint(&train.state);
    let hash = |file: &str| hex(&Sha256::digest(std::fs::read(checkpoint.join(file)).unwrap()));
    assert_eq!([hash(MODEL_FILE), hash(EMA_FILE)], [model, ema.clone()]);
    let manifest = std::fs::read(checkpoint.join("manifest.json")).unwrap();
    let own = serde_json::from_slice::<Manifest>(&manifest).unwrap().evaluation.unwrap();
    assert!(own.correct * 10 >= 8 * own.samples, "the recipe trains: {own:?}");

    let found = evaluated(&checkpoint, &[]);
    assert_eq!((&found["weights"], &found["weights_sha256"]), (&"ema".into(), &ema.into()));
    assert_eq!((&found["correct"], &found["as_in_training"]), (&own.correct.into(), &true.into()));
    let trained = evaluated(&checkpoint, &["--weights", "model"]);
    assert_eq!(trained["weights"], "model");
    assert_ne!(trained["loss"], found["loss"]);
}

/// A short run under a recipe that none of the other tests uses.
fn everything_on() -> JobFile {
    JobFile::digits()
        .with("stem = \"cifar\"", "stem = \"cifar\"\nzero_init_residual = true")
        .with(
            "learning_rate = 0.1",
            "learning_rate = 4\nrule = \"lars\"\ntrust_coefficient = 0.02\nclip_norm = 0.5",
        )
        .with("[exchange]", "[ema]\ndecay = 0.9\nevery = 2\n[exchange]")
        .with("epochs = 3", "epochs = 12")
}

/// The digests of the model and of its average that a finished run prints.
fn ended_with(train: &Train) -> [String; 2] {
    let ended = train.spawn().finish(LIMIT);
    assert!(ended.stdout.contains("test accuracy of the averaged weights"), "{}", ended.stdout);
    [model_sha256(&ended), ema_sha256(&ended.stdout)]
}

fn ema_sha256(stdout: &str) -> String {
    let line = stdout.lines().find(|line| line.contains("averaged weights sha256"));
    line.unwrap_or_else(|| panic!("{stdout}")).split_whitespace().last().unwrap().to_owned()
}

fn last_checkpoint(state: &Path) -> PathBuf {
    let entries = std::fs::read_dir(state.join("jobs/digits-1/checkpoints")).unwrap();
    let folders = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    folders.max().unwrap()
}

fn evaluated(checkpoint: &Path, options: &[&str]) -> serde_json::Value {
    let mut command = worker(&["evaluate"]);
    command.arg(checkpoint).arg(digits_folder()).arg("--json").args(options);
    let ended = Running::spawn(command).finish(LIMIT);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap()
}
