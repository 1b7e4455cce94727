//! Faults that the program does to its own cluster change nothing in the result.

use std::time::Duration;

use cluster_tests::{JobFile, Running, Signal, Train, Watched, coordinator, verified};

use crate::bits::model_sha256;
use crate::refusals::{USAGE, only_error};

#[test]
fn a_storm_of_faults_ends_with_the_bits_of_an_undisturbed_run_and_a_proof() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobFile::digits().with("epochs = 3", "epochs = 90").write(folder.path());
    let undisturbed = Train::new(&job, &folder.path().join("whole")).spawn().finish(LIMIT);
    let state = folder.path().join("state");
    let storm = || {
        let mut command = coordinator(&["train"]);
        command.arg(&job).arg("--state").arg(&state).args(["--workers", "4", "--threads", "1"]);
        command.args(["--chaos", "kill 1s, pause 4s, leave 5s, coordinator 4s"]);
        command.args(["--chaos-seed", "5"]);
        Running::spawn(command)
    };
    // Interrupted, it goes on with the same command.
    let mut interrupted = storm();
    interrupted.wait_for(&["chaos after"], LIMIT);
    interrupted.signal(Signal::INT);
    assert_eq!(interrupted.finish(LIMIT).code, Some(130));
    let ended = storm().finish(LIMIT);
    assert_eq!(model_sha256(&ended), model_sha256(&undisturbed), "{}", ended.stderr);
    let hits = ended.stderr.lines().filter(|line| line.contains("chaos after ")).count();
    assert!(hits >= 3, "{}", ended.stderr);
    for words in [&format!("finished, {hits} faults"), "of kill: ", "goodput ", "each once; "] {
        assert!(ended.stdout.contains(words), "{words:?} is not in:\n{}", ended.stdout);
    }
    verified(&state, "digits-1");
    let report = std::fs::read(state.join("jobs/digits-1/chaos.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["faults"].as_array().unwrap().len(), hits);
}

#[test]
fn the_processes_of_a_killed_storm_end_with_it_even_one_that_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobFile::digits().with("epochs = 3", "epochs = 9000").write(folder.path());
    let mut command = coordinator(&["train"]);
    command.arg(&job).arg("--state").arg(folder.path().join("state"));
    command.args(["--workers", "2", "--threads", "1", "--chaos", "pause 500ms"]);
    let mut running = Running::spawn(command);
    running.wait_for(&["chaos after", "stopped, for"], LIMIT);
    let children = running.children();
    assert_eq!(children.len(), 3, "a coordinator and two workers");
    let cast: Vec<Watched> = children.iter().copied().map(Watched::new).collect();
    running.signal(Signal::KILL);
    assert_eq!(running.finish(LIMIT).code, None, "killed by a signal");
    for (process, child) in cast.iter().zip(children) {
        assert!(process.ends_within(LIMIT), "process {child} outlives the one that started it");
    }
}

#[test]
fn faults_that_do_not_exist_are_named_with_an_example() {
    let command = coordinator(&["train", "job.toml", "--chaos", "earthquake 5s"]);
    let ended = Running::spawn(command).finish(LIMIT);
    only_error(&ended, USAGE, &["\"earthquake\" is no fault", "kill 5s, pause 20s"]);
}

/// Such a run takes some ten seconds; a machine under load gets far more.
const LIMIT: Duration = Duration::from_secs(240);
