//! A disk that runs full: training goes on without a checkpoint, says so, and what is missing is made up for once there is
//! room again.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use cluster_tests::{Ended, JobFile, Mounted, Train};

use crate::bits::model_sha256;
use crate::refusals::{LIMIT, STATE, only_error, refused};

/// Checkpoints of about 700 KiB, 3 of them.
fn job(folder: &Path) -> PathBuf {
    JobFile::digits().with("widths = [8, 16]", "widths = [32, 64]").write(folder)
}

/// It trained to the end and said what was not written, how much it is, and what is left.
fn trained_without_room(ended: &Ended, newest: &str) {
    let line =
        only_error(ended, STATE, &["checkpoint could not be written", "No space left", newest]);
    assert!(line.contains("bytes") && line.contains("go on with"), "{line}");
    let warning = ended.stderr.lines().find(|line| line.contains("given up"));
    let warning = warning.unwrap_or_else(|| panic!("{}", ended.stderr));
    for word in [" WARN ", "safetensors", "the checkpoint needs", "bytes", "training goes on"] {
        assert!(warning.contains(word), "{word:?} is not in: {warning}");
    }
    assert!(ended.stderr.contains("(step 68 of 68)"), "{}", ended.stderr);
    assert!(ended.stdout.contains("test accuracy"), "{}", ended.stdout);
    assert!(!ended.stdout.contains("model sha256"), "{}", ended.stdout);
}

#[test]
fn training_goes_on_when_no_checkpoint_fits_and_is_repeated_once_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let full = folder.path().join("full");
    fs::create_dir(&full).unwrap();
    let Some(mounted) = Mounted::on(&full, 800) else { return };
    let job = job(folder.path());
    let expected =
        model_sha256(&Train::new(&job, &folder.path().join("whole")).spawn().finish(LIMIT));
    let train = Train::new(&job, &full.join("state"));
    trained_without_room(&train.spawn().finish(LIMIT), "no checkpoint yet");
    mounted.resize(16 << 10).unwrap();
    assert_eq!(model_sha256(&train.spawn().finish(LIMIT)), expected);
}

#[test]
fn a_run_whose_disk_ran_full_goes_on_from_the_checkpoint_that_fitted() {
    let folder = tempfile::tempdir().unwrap();
    let full = folder.path().join("full");
    fs::create_dir(&full).unwrap();
    let Some(mounted) = Mounted::on(&full, 1500) else { return };
    let job = job(folder.path());
    let expected =
        model_sha256(&Train::new(&job, &folder.path().join("whole")).spawn().finish(LIMIT));
    let train = Train::new(&job, &full.join("state"));
    trained_without_room(&train.spawn().finish(LIMIT), "the newest checkpoint is step 23");
    mounted.resize(16 << 10).unwrap();
    let resumed = train.spawn().finish(LIMIT);
    assert!(
        resumed.stderr.contains("goes on from its checkpoint of step 23"),
        "{}",
        resumed.stderr
    );
    assert_eq!(model_sha256(&resumed), expected);
}

#[test]
fn a_disk_that_runs_full_in_the_middle_costs_no_metrics_once_the_run_was_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let full = folder.path().join("full");
    fs::create_dir(&full).unwrap();
    let Some(_mounted) = Mounted::on(&full, 8 << 10) else { return };
    let job = JobFile::digits().with("epochs = 3", "epochs = 12").write(folder.path());
    let expected =
        model_sha256(&Train::new(&job, &folder.path().join("whole")).spawn().finish(LIMIT));
    let train = Train::new(&job, &full.join("state"));
    let mut running = train.spawn();
    running.wait_for(&["checkpoint of step 23 is on disk"], LIMIT);
    let filler = full.join("filler");
    fill(&filler);
    let ended = running.finish(LIMIT);
    only_error(&ended, STATE, &["step 270 was reached", "No space left", "newest checkpoint"]);
    let warnings: Vec<&str> = ended.stderr.lines().filter(|line| line.contains(" WARN ")).collect();
    for word in ["metrics.jsonl", "log of job", "given up"] {
        let said =
            warnings.iter().any(|line| line.contains(word) && line.contains("No space left"));
        assert!(said, "{word:?}: {warnings:#?}");
    }
    fs::remove_file(&filler).unwrap();
    assert_eq!(model_sha256(&train.spawn().finish(LIMIT)), expected);
    let metrics = fs::read_to_string(full.join("state/jobs/digits-1/metrics.jsonl")).unwrap();
    let rows = metrics.lines().map(|line| serde_json::from_str(line).unwrap());
    let steps = rows.filter_map(|row: serde_json::Value| row.get("loss").and(row["step"].as_u64()));
    assert!(steps.eq(1..=270), "each step once, in order");
}

/// Writes until nothing more fits.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for bytes in [4096, 1] {
        while file.write(&vec![1; bytes]).is_ok() {}
    }
}

#[test]
fn a_disk_that_is_full_from_the_start_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let full = folder.path().join("full");
    fs::create_dir(&full).unwrap();
    let Some(_mounted) = Mounted::on(&full, 64) else { return };
    let ended = Train::new(&job(folder.path()), &full.join("state")).spawn().finish(LIMIT);
    refused(&ended, STATE, &["journal", full.to_str().unwrap(), "No space left", "--state"]);
}
