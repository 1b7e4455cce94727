//! Workers that come and go while a job runs change nothing in its result.

use std::time::{Duration, Instant};

use cluster_tests::{ControlPlane, JobFile, Running, Signal, Train, send, verified};

use crate::bits::{model_sha256, steps_in_metrics};
use crate::operators::follow;

/// Starts a job of 30 epochs on one worker and waits until it trains.
fn begin(plane: &mut ControlPlane, folder: &std::path::Path) -> (Running, std::path::PathBuf) {
    let job = JobFile::digits().with("epochs = 3", "epochs = 30").write(folder);
    let first = plane.worker("w1");
    plane.submit(&job, 1);
    plane.running.wait_for(&["epoch 1 of 30"], LIMIT);
    (first, job)
}

/// The bits of an undisturbed run; and, while the coordinator runs, a proof that names who came and went.
fn expect_bits_of(
    job: &std::path::Path,
    folder: &std::path::Path,
    plane: &ControlPlane,
    comings: &str,
) {
    let followed = follow(plane, "digits-1");
    let expected = model_sha256(&Train::new(job, &folder.join("whole")).spawn().finish(LIMIT));
    let finished = followed.stdout.lines().last().unwrap();
    assert!(finished.ends_with(&format!("model sha256 {expected}")), "{finished}");
    let proof = verified(&plane.state, "digits-1");
    let end = format!("each once; {comings}; final weights sha256 {expected}\n");
    assert!(proof.ends_with(&end), "{end:?} is not the end of:\n{proof}");
}

#[test]
fn workers_that_join_in_the_middle_take_part() {
    let folder = tempfile::tempdir().unwrap();
    let mut plane = ControlPlane::start(&folder.path().join("state"));
    let (_first, job) = begin(&mut plane, folder.path());
    let _second = plane.worker("w2");
    let (line, _) = plane.running.wait_for(&["takes in"], LIMIT);
    assert!(line.contains("takes in w2"), "{line}");
    plane.running.wait_for(&["trains with 2 workers"], LIMIT);
    let _others = [plane.worker("w3"), plane.worker("w4")];
    plane.running.wait_for(&["trains with 4 workers"], LIMIT);
    expect_bits_of(&job, folder.path(), &plane, "0 losses, 3 joins");
}

#[test]
fn a_worker_that_is_asked_to_end_leaves_in_good_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut plane = ControlPlane::start(&folder.path().join("state"));
    let (first, job) = begin(&mut plane, folder.path());
    let _second = plane.worker("w2");
    plane.running.wait_for(&["trains with 2 workers"], LIMIT);
    let asked = Instant::now();
    first.signal(Signal::TERM);
    let ended = first.finish(LIMIT);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    let (line, _) = plane.running.wait_for(&["worker w1 leaves"], LIMIT);
    assert!(line.contains("continuing with 1 worker"), "{line}");
    expect_bits_of(&job, folder.path(), &plane, "0 losses, 1 leave, 1 join");
}

#[test]
fn a_job_that_waits_for_a_worker_keeps_its_state_in_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobFile::digits().with("epochs = 3", "epochs = 30").write(folder.path());
    let mut plane = ControlPlane::start(&folder.path().join("state"));
    let first = plane.worker("w1");
    let _second = plane.worker("w2");
    let path = job.to_str().unwrap();
    plane.says(&["submit", path, "--workers", "2", "--on-loss", "wait"]);
    plane.running.wait_for(&["epoch 2 of 30"], LIMIT);
    send(first.id(), Signal::KILL);
    plane.running.wait_for(&["worker w1 lost", "waiting for 1 more worker"], LIMIT);
    let (line, _) = plane.running.wait_for(&["hold the state of step"], LIMIT);
    assert!(line.contains("w2 hold"), "{line}");
    let status = plane.says(&["status"]);
    assert!(status.contains("waiting for 1 more worker"), "{status}");
    let _third = plane.worker("w3");
    plane.running.wait_for(&["on w2", "w3"], LIMIT);
    expect_bits_of(&job, folder.path(), &plane, "1 loss, 1 join");
}

#[test]
fn when_nobody_is_left_the_newest_checkpoint_is_gone_on_from() {
    let folder = tempfile::tempdir().unwrap();
    let mut plane = ControlPlane::start(&folder.path().join("state"));
    let (first, job) = begin(&mut plane, folder.path());
    plane.running.wait_for(&["checkpoint of step 45 is on disk"], LIMIT);
    send(first.id(), Signal::KILL);
    plane.running.wait_for(&["no worker holds the state any more"], LIMIT);
    let _second = plane.worker("w2");
    plane.running.wait_for(&["goes on from its checkpoint of step"], LIMIT);
    expect_bits_of(&job, folder.path(), &plane, "1 loss, 0 joins");
}

#[test]
fn workers_train_on_while_the_coordinator_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let mut plane = ControlPlane::start(&state);
    let address = plane.address.clone();
    let job = JobFile::digits().with("epochs = 3", "epochs = 60").write(folder.path());
    let _workers = [plane.worker("w1"), plane.worker("w2")];
    plane.submit(&job, 2);
    plane.running.wait_for(&["epoch 3 of 60"], LIMIT);
    send(plane.running.id(), Signal::KILL);
    drop(plane);
    // A while in which training goes on.
    std::thread::sleep(Duration::from_millis(700));
    let mut plane = ControlPlane::start_at(&address, &state);
    plane.running.wait_for(&["worker w1 is back"], LIMIT);
    plane.running.wait_for(&["worker w2 is back"], LIMIT);
    let followed = follow(&plane, "digits-1");
    let generations = followed.stdout.matches("generation ").count();
    assert_eq!(generations, 2, "formed once, remembered once:\n{}", followed.stdout);
    let expected =
        model_sha256(&Train::new(&job, &folder.path().join("whole")).spawn().finish(LIMIT));
    let finished = followed.stdout.lines().last().unwrap();
    assert!(finished.ends_with(&format!("model sha256 {expected}")), "{finished}");
    assert_eq!(steps_in_metrics(&state), (1..=1348).collect::<Vec<u64>>());
    assert!(verified(&state, "digits-1").contains("0 losses, 0 joins; final weights"));
}

/// A run of these jobs takes seconds; a machine under load gets far more.
const LIMIT: Duration = Duration::from_secs(120);
